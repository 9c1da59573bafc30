"""Addressed randomness: stable for ever, different for every address, and spread evenly."""

from collections import Counter

import pytest

from gpg_vl.randomness import seed


@pytest.mark.parametrize(
    ("address", "value"),
    [
        ((), 8238016292129134938),
        ((0, "data", 1), 7918487648875116769),
        ((0, "rollout", 3, 7), 5719095123378175011),
    ],
)
def test_known_addresses_keep_their_seeds(address, value):
    # another value here would change every run that was ever recorded
    assert seed(*address) == value


def test_every_part_of_an_address_matters():
    addresses = [
        (0, "rollout", 3, 7),
        (1, "rollout", 3, 7),
        (0, "data", 3, 7),
        (0, "rollout", 4, 7),
        (0, "rollout", 3, 8),
        (0, "rollout", 3),
    ]
    assert len({seed(*address) for address in addresses}) == len(addresses)


def test_order_borders_and_kinds_matter():
    addresses = [
        (1, 2),
        (2, 1),
        (12,),
        ("12",),
        ("1", "2"),
        ("1", 2),
        (1, 2, ""),
        ("", 1, 2),
        (-1, 2),
    ]
    assert len({seed(*address) for address in addresses}) == len(addresses)


def test_many_addresses_never_meet():
    assert (
        len(
            {
                seed(run, purpose, index)
                for run in range(5)
                for purpose in ("rollout", "data")
                for index in range(2000)
            }
        )
        == 20_000
    )


def test_seeds_have_63_bits_and_spread_evenly():
    seeds = [seed(0, "spread", index) for index in range(16_000)]
    assert all(0 <= value < 2**63 for value in seeds)
    # the lowest and the highest four bits: 16 values, 1000 of each, within 5 standard deviations
    for shift in (0, 59):
        counts = Counter(value >> shift & 15 for value in seeds)
        assert len(counts) == 16
        assert all(850 < count < 1150 for count in counts.values())


def test_neighbours_are_not_alike():
    differing = [
        (seed(0, "x", index) ^ seed(0, "x", index + 1)).bit_count() for index in range(1000)
    ]
    assert 31 < sum(differing) / len(differing) < 32
