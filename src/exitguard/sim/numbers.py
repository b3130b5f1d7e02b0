"""Random numbers that only the seed and a purpose decide."""

from random import Random


def numbers(seed: int, purpose: str) -> Random:
    """A generator of its own for each purpose, so that leaving one part out does not change the others."""
    return Random(f"{seed}:{purpose}")  # noqa: S311 - the point is that it can be repeated
