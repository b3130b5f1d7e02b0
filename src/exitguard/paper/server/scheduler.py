"""The engine's "a moment later" on the event loop, and how a stepped market waits for it."""

import asyncio
from collections.abc import Callable

# What is due later than this does not hold a stepped market up: it is a delay on purpose (a fault, a slow cancel).
_SOON_SECONDS = 0.1


def _nothing() -> None:
    return


class LoopScheduler:
    """Runs engine callbacks after wall-time delays, and knows whether any is due soon."""

    def __init__(self) -> None:
        self._pending: set[asyncio.Handle] = set()
        self._soon = 0
        self._closed = False
        # Called after each function that was run.
        self.afterwards: Callable[[], None] = _nothing

    @property
    def busy(self) -> bool:
        """Whether something that the engine began is about to happen."""
        return self._soon > 0

    def schedule(self, delay: float, function: Callable[[], None]) -> None:
        """Run `function` after `delay` wall seconds. Ignored once closed: the venue is being torn down."""
        if self._closed:
            return
        soon = delay <= _SOON_SECONDS
        self._soon += soon
        handle: asyncio.Handle

        def run() -> None:
            self._pending.discard(handle)
            self._soon -= soon
            function()
            self.afterwards()

        loop = asyncio.get_running_loop()
        handle = loop.call_later(delay, run) if delay > 0 else loop.call_soon(run)
        self._pending.add(handle)

    def close(self) -> None:
        """Cancel everything that is still to come."""
        self._closed = True
        for handle in self._pending:
            handle.cancel()
        self._pending.clear()
        self._soon = 0
