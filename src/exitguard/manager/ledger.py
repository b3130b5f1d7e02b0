"""The one writer of an account: keeps changes in the order in which they happened and commits them in batches."""

import asyncio
from dataclasses import dataclass
from uuid import uuid4

import structlog

from exitguard.broker.clock import Clock
from exitguard.core.records import AppendEvent, Batch, Operation, PutPosition, SetAside
from exitguard.store.port import AccountStore, StoreRejected, StoreUnavailable

log = structlog.get_logger()

# They tell what happened; without them the rows are still true.
_REPORTS = (AppendEvent, SetAside)

# How long a posted change may wait for others to share its batch.
FLUSH_SECONDS = 0.02
RETRY_SECONDS = 0.5
# Changes waiting for the flusher. Past this the database is far behind: the next caller waits instead of growing.
MAX_WAITING = 10_000


@dataclass(slots=True, eq=False)
class _Group:
    """What was posted or committed together: it becomes true together, or not at all. `refusal`: why it did not."""

    operations: tuple[Operation, ...]
    refusal: StoreRejected | None = None
    facts_only: bool = False

    def due(self) -> tuple[Operation, ...]:
        if not self.facts_only:
            return self.operations
        return tuple(operation for operation in self.operations if not isinstance(operation, _REPORTS))


class Ledger:
    """Writes batches through the account's store under one lock.

    `post` notes changes that may be written a moment later; `commit` returns when its own changes, and everything
    posted before them, are durable. Errors of the store (StoreUnavailable, LeaseLost) reach the caller of `commit` or
    `run`; a batch whose fate is unknown is repeated under the same id before anything newer, so that it counts once.
    """

    def __init__(self, store: AccountStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._waiting: list[_Group] = []
        self._unsettled: tuple[Batch, tuple[_Group, ...]] | None = None
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
        if len(self._waiting) >= MAX_WAITING:
            raise RuntimeError(f"{len(self._waiting)} changes wait for the database: the ledger's writer is stuck")
        self._waiting.append(_Group(operations))
        self._wake.set()

    async def commit(self, *operations: Operation) -> None:
        """Make these changes durable, after all that were posted before.

        Raises StoreRejected when the database refuses `operations`: then none of them was written. A refusal of
        something posted earlier is said and counted, but is not this caller's failure. After StoreUnavailable they
        are kept, and written when the database is back.
        """
        group = _Group(operations)
        if operations:
            self._waiting.append(group)
        try:
            async with self._lock:
                await self._write()
        except StoreUnavailable:
            self._wake.set()
            raise
        # Another writer may have carried it, so the refusal is looked for where it was noted.
        if group.refusal is not None:
            raise group.refusal

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

    async def _write(self) -> None:
        """Write what waits. What the database refuses, no retry can make true: it is said, counted and noted."""
        if self._unsettled is not None:
            await self._apply(*self._unsettled)
        if self._waiting:
            groups, self._waiting = tuple(self._waiting), []
            await self._apply(self._batch(groups), groups)

    async def _apply(self, batch: Batch, groups: tuple[_Group, ...]) -> None:
        self._unsettled = batch, groups
        try:
            await self._store.commit(batch)
        except StoreRejected as error:
            self._unsettled = None
            await self._apply_singly(groups, error)
        else:
            self._unsettled = None

    async def _apply_singly(self, groups: tuple[_Group, ...], cause: StoreRejected) -> None:
        """One refused change must not take its neighbours down (F60, F70).

        What belongs together is written whole or not at all (F62), but no report may stop a fact (F18).
        """
        if len(groups) == 1:
            (group,) = groups
            changes = [type(operation).__name__ for operation in group.due()]
            log.error("ledger refused a change", changes=changes, reason=str(cause))
            self.refused += 1
            whole, group.facts_only = not group.facts_only, True
            if whole and 0 < len(group.due()) < len(group.operations):
                await self._apply(self._batch(groups), groups)
            else:
                group.refusal = cause
            return
        log.error("ledger refused a batch, writing its parts one by one", reason=str(cause), parts=len(groups))
        for position, group in enumerate(groups):
            try:
                await self._apply(self._batch((group,)), (group,))
            except BaseException:
                self._waiting[:0] = groups[position + 1 :]
                raise

    def _batch(self, groups: tuple[_Group, ...]) -> Batch:
        operations = tuple(operation for group in groups for operation in group.due())
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
