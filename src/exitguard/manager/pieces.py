"""Long work in pieces: a breach waits for one piece at most, not for all of it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

T = TypeVar("T")

# From a quote to its order the event loop turns a few times, and may do a piece at each turn.
PIECE = 10


async def in_pieces(items: Sequence[T], size: int = PIECE) -> AsyncIterator[Sequence[T]]:
    """Yield `items` in slices of at most `size`, and let everything else that is due run between two of them."""
    for start in range(0, len(items), size):
        if start:
            await asyncio.sleep(0)
        yield items[start : start + size]
