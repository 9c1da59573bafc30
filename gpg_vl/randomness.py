"""Compute a seed from an address (run, purpose, index).

Randomness is addressed and has no state: a run that continues needs no saved generator, and a
sample does not depend on what was sampled before it.
"""

from hashlib import blake2b


def seed(*address: int | str) -> int:
    """Return a stable 63-bit seed for an address such as (run_seed, "rollout", draw, completion).

    It is the same on every machine and Python version; different addresses give independent
    streams.
    """
    words: list[str] = []
    for word in address:
        if isinstance(word, str):
            words.append(f"str:{word}")
        else:
            words.append(f"int:{int(word)}")  # int(): True and numpy integers
    # a control character separates the words: ("ab", "c") and ("a", "bc") are different addresses
    content = "\x1f".join(words).encode()
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "big") >> 1
