"""The dispatcher's writer: one batch at a time, repeated under the same id until its fate is known."""

import asyncio
from uuid import uuid4

import structlog

from exitguard.broker.clock import Clock
from exitguard.core.records import Batch, Operation
from exitguard.store.port import AccountStore, StoreUnavailable

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 2.0


class DispatchLedger:
    """Commits operations under the dispatcher's lease.

    While the database is away nothing else may go on: no order is sent without its committed intent (I3), and what the
    broker said is written before the next step. Gives up only when `stop` is set; a restart then resolves the rest.
    """

    def __init__(self, store: AccountStore, clock: Clock, stop: asyncio.Event) -> None:
        self._store = store
        self._clock = clock
        self._stop = stop
        self._log = structlog.get_logger().bind(account=store.account_name)
        self.epoch = 0

    async def commit(self, *operations: Operation) -> None:
        """Apply operations in one transaction. Raises StoreRejected, LeaseLost, and StoreUnavailable once stopped."""
        batch = Batch(uuid4(), self._store.account_name, self.epoch, self._clock.now(), operations)
        pause = _FIRST_PAUSE
        while True:
            try:
                await self._store.commit(batch)
                return
            except StoreUnavailable as error:
                if self._stop.is_set():
                    raise
                self._log.warning("Database unavailable, the dispatcher waits", error=str(error), pause=pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
