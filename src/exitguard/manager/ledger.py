"""The one writer of an account: keeps changes in the order in which they happened and commits them in batches."""

import asyncio
from uuid import uuid4

import structlog

from exitguard.broker.clock import Clock
from exitguard.core.records import Batch, Operation, PutPosition
from exitguard.store.port import AccountStore, StoreRejected, StoreUnavailable

log = structlog.get_logger()

# How long a posted change may wait for others to share its batch.
FLUSH_SECONDS = 0.02
RETRY_SECONDS = 0.5
# Changes waiting for the flusher. Past this the database is far behind: the next caller waits instead of growing.
MAX_WAITING = 10_000


class Ledger:
    """Writes batches through the account's store under one lock.

    `post` notes changes that may be written a moment later; `commit` returns when its own changes, and everything
    posted before them, are durable. Errors of the store (StoreUnavailable, LeaseLost) reach the caller of `commit` or
    `run`; a batch whose fate is unknown is repeated under the same id before anything newer, so that it counts once.
    """

    def __init__(self, store: AccountStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._waiting: list[Operation] = []
        self._unsettled: Batch | None = None
        self._lock = asyncio.Lock()
        self._wake = asyncio.Event()
        self.epoch = 0
        self.refused = 0

    @property
    def store(self) -> AccountStore:
        """The store behind it, for reads."""
        return self._store

    def post(self, *operations: Operation) -> None:
        """Note changes to be written soon. Raises RuntimeError when far too many wait: the writer must be stuck."""
        if len(self._waiting) + len(operations) > MAX_WAITING:
            raise RuntimeError(f"{len(self._waiting)} changes wait for the database: the ledger's writer is stuck")
        self._waiting.extend(operations)
        self._wake.set()

    async def commit(self, *operations: Operation) -> None:
        """Make these changes durable, after all that were posted before.

        Raises StoreRejected when the database refuses one of `operations`; a refusal of something posted earlier is
        said and counted, but is not this caller's failure.
        """
        self._waiting.extend(operations)
        async with self._lock:
            refused = await self._write()
        for operation, error in refused:
            if any(operation is own for own in operations):
                raise error

    async def run(self) -> None:
        """Write posted changes until cancelled. A database that is away is waited for; a lost lease ends it."""
        while True:
            await self._wake.wait()
            # Not at once: what is posted and then committed in one go would otherwise travel twice, and an exit's
            # intent would wait behind the announcement of its own breach.
            await asyncio.sleep(FLUSH_SECONDS)
            self._wake.clear()
            try:
                async with self._lock:
                    await self._write()
            except StoreUnavailable as error:
                log.error(
                    "ledger cannot reach the database, changes wait", reason=str(error), waiting=len(self._waiting)
                )
                self._wake.set()
                await asyncio.sleep(RETRY_SECONDS)
            await asyncio.sleep(FLUSH_SECONDS)

    async def _write(self) -> list[tuple[Operation, StoreRejected]]:
        """Write what waits; returns the changes that the database refused, which no retry can make true."""
        refused: list[tuple[Operation, StoreRejected]] = []
        if self._unsettled is not None:
            refused += await self._apply(self._unsettled)
        if self._waiting:
            operations, self._waiting = tuple(self._waiting), []
            refused += await self._apply(self._batch(operations))
        self.refused += len(refused)
        return refused

    async def _apply(self, batch: Batch) -> list[tuple[Operation, StoreRejected]]:
        self._unsettled = batch
        try:
            await self._store.commit(batch)
        except StoreRejected as error:
            self._unsettled = None
            return await self._apply_singly(batch.operations, error)
        self._unsettled = None
        return []

    async def _apply_singly(
        self, operations: tuple[Operation, ...], cause: StoreRejected
    ) -> list[tuple[Operation, StoreRejected]]:
        """One refused change must not take its neighbours down (F60, F70)."""
        if len(operations) == 1:
            log.error("ledger refused a change", change=type(operations[0]).__name__, reason=str(cause))
            return [(operations[0], cause)]
        log.error("ledger refused a batch, writing its changes one by one", reason=str(cause), changes=len(operations))
        refused = []
        for position, operation in enumerate(operations):
            try:
                refused += await self._apply(self._batch((operation,)))
            except BaseException:
                self._waiting[:0] = operations[position + 1 :]
                raise
        return refused

    def _batch(self, operations: tuple[Operation, ...]) -> Batch:
        return Batch(uuid4(), self._store.account_name, self.epoch, self._clock.now(), _newest_rows(operations))


def _newest_rows(operations: tuple[Operation, ...]) -> tuple[Operation, ...]:
    """Leave out rows of a position that a later operation of the same batch replaces as a whole.

    The newest row takes the place of the first, before everything that may refer to it.
    """
    newest = {op.row.id: op for op in operations if isinstance(op, PutPosition)}
    if not newest:
        return operations
    kept: list[Operation] = []
    for operation in operations:
        if not isinstance(operation, PutPosition):
            kept.append(operation)
        elif operation.row.id in newest:
            kept.append(newest.pop(operation.row.id))
    return tuple(kept)
