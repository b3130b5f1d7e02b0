"""The memory store behind a connection that a test can cut."""

from collections.abc import Sequence
from datetime import timedelta

from tests.support.memory_store import MemoryLedger, MemoryStore

from exitguard.core.reconcile import KnownOrder
from exitguard.core.records import (
    Batch,
    CommandRecord,
    ExecutionRecord,
    Heartbeat,
    LedgerState,
    Mark,
)
from exitguard.store.port import Lease, StoreUnavailable


class AwayStore(MemoryStore):
    """While `away`, nothing is answered. Takes batches of a `JournaledStore` too."""

    def __init__(self, ledger: MemoryLedger, account_name: str) -> None:
        super().__init__(ledger, account_name)
        self.away = False

    def _reach(self) -> None:
        if self.away:
            raise StoreUnavailable("the database is away")

    async def acquire_lease(self, holder: str, ttl: timedelta, component: str = "manager") -> Lease:
        """Become the one live process."""
        self._reach()
        return await super().acquire_lease(holder, ttl, component)

    async def renew_lease(self, lease: Lease, ttl: timedelta) -> Lease:
        """Extend the lease."""
        self._reach()
        return await super().renew_lease(lease, ttl)

    async def release_lease(self, lease: Lease) -> None:
        """Give the lease back."""
        self._reach()
        await super().release_lease(lease)

    async def load(self) -> LedgerState:
        """Everything unfinished."""
        self._reach()
        return await super().load()

    async def commit_encoded(self, batch: Batch, operations: bytes, *, journaled_epoch: int | None = None) -> None:
        """Apply a batch."""
        self._reach()
        await super().commit_encoded(batch, operations, journaled_epoch=journaled_epoch)

    async def write_marks(self, marks: Sequence[Mark], epoch: int) -> int:
        """Write a sweep's marks."""
        self._reach()
        return await super().write_marks(marks, epoch)

    async def beat(self, heartbeat: Heartbeat, epoch: int) -> None:
        """Record progress."""
        self._reach()
        await super().beat(heartbeat, epoch)

    async def unlinked_executions(self, limit: int = 500) -> list[ExecutionRecord]:
        """Entries without a position."""
        self._reach()
        return await super().unlinked_executions(limit)

    async def own_orders(self, ids: Sequence[str]) -> list[KnownOrder]:
        """What the books know of these ids."""
        self._reach()
        return await super().own_orders(ids)

    async def pending_commands(self) -> list[CommandRecord]:
        """Requests without an answer."""
        self._reach()
        return await super().pending_commands()
