"""Waiting for conditions: tests never sleep a fixed time."""

import asyncio
import time
from collections.abc import Callable

# For whatever normally takes a moment: a machine that does much else must not make a test fail.
PATIENCE = 60.0


async def eventually(condition: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    """Return as soon as `condition` holds; fail with `what` when it does not within real `seconds`."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise AssertionError(f"not within {seconds} s: {what}")
        await asyncio.sleep(0.002)
