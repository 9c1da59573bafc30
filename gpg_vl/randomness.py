"""A seed for (run, purpose, index): randomness is addressed, never carried, so "where are we" needs no generator state."""

from hashlib import blake2b


def seed(*address: int | str) -> int:
    """A stable 63-bit seed for an address such as (run_seed, "rollout", draw, completion).

    The same on every machine and Python version; different purposes never share a stream.
    """
    words = "\x1f".join(f"str:{word}" if isinstance(word, str) else f"int:{int(word)}" for word in address)
    return int.from_bytes(blake2b(words.encode(), digest_size=8).digest(), "big") >> 1
