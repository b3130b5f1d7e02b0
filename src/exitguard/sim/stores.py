"""One process's database connection and its journal on disk: slow, away, or gone in the middle of a commit."""

import asyncio
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import PurePosixPath
from random import Random
from typing import Protocol

from exitguard.core.reconcile import KnownOrder
from exitguard.core.records import (
    Batch,
    CommandRecord,
    ExecutionRecord,
    Heartbeat,
    IntentRecord,
    LedgerState,
    Mark,
)
from exitguard.sim.exchange import Surroundings
from exitguard.sim.loop import Killed, Process
from exitguard.sim.memory_store import MemoryLedger, MemoryStore
from exitguard.store.journal import Journal, JournalError
from exitguard.store.port import Lease, StoreUnavailable


class StoreSurroundings(Surroundings, Protocol):
    """What a database connection needs of the simulated world."""

    store_down_until: datetime


class SimStore(MemoryStore):
    """The account's ledger through one process's connection."""

    def __init__(
        self, world: StoreSurroundings, ledger: MemoryLedger, account: str, process: Process, rng: Random
    ) -> None:
        super().__init__(ledger, account)
        self._world = world
        self._process = process
        self._rng = rng

    async def _reach(self) -> None:
        """The way to the database."""
        self._process.require_alive()
        faults = self._world.faults
        seconds = self._rng.uniform(0.0005, 0.01)
        if faults.hit("store_slow"):
            seconds = faults.rng("store_slow").uniform(0.2, 6.0)
        await asyncio.sleep(seconds)
        self._process.require_alive()
        if self._world.now() < self._world.store_down_until:
            raise StoreUnavailable("the database does not answer")

    def _crash(self, moment: str) -> None:
        if self._world.faults.hit("crash_at_commit", 0.5):
            self._world.timeline.note(self._process.name, f"kill -9 {moment} a commit", self.account_name)
            self._process.kill()
            raise Killed(self._process.name)

    async def commit_encoded(self, batch: Batch, operations: bytes, *, journaled_epoch: int | None = None) -> None:
        """Apply a batch; before and after it, everything may happen."""
        await self._reach()
        self._crash("before")
        faults = self._world.faults
        if faults.hit("store_before"):
            raise StoreUnavailable("the connection broke before the commit")
        await super().commit_encoded(batch, operations, journaled_epoch=journaled_epoch)
        self._crash("after")
        if faults.hit("store_after"):
            raise StoreUnavailable("the connection broke after the commit")
        self._process.require_alive()

    async def acquire_lease(self, holder: str, ttl: timedelta, component: str = "manager") -> Lease:
        """Become the one live process."""
        await self._reach()
        return await super().acquire_lease(holder, ttl, component)

    async def renew_lease(self, lease: Lease, ttl: timedelta) -> Lease:
        """Extend the lease."""
        await self._reach()
        return await super().renew_lease(lease, ttl)

    async def release_lease(self, lease: Lease) -> None:
        """Give the lease back."""
        await self._reach()
        await super().release_lease(lease)

    async def bind_account_number(self, number: str, tier: str, mode: str) -> None:
        """Bind or compare the account number."""
        await self._reach()
        await super().bind_account_number(number, tier, mode)

    async def load(self) -> LedgerState:
        """Everything unfinished."""
        await self._reach()
        return await super().load()

    async def write_marks(self, marks: Sequence[Mark], epoch: int) -> int:
        """Write a sweep's marks."""
        await self._reach()
        return await super().write_marks(marks, epoch)

    async def beat(self, heartbeat: Heartbeat, epoch: int) -> None:
        """Record progress."""
        await self._reach()
        await super().beat(heartbeat, epoch)

    async def unlinked_executions(self, limit: int = 500) -> list[ExecutionRecord]:
        """Entries without a position."""
        await self._reach()
        return await super().unlinked_executions(limit)

    async def open_executions(self) -> list[ExecutionRecord]:
        """Entries whose order is not terminal."""
        await self._reach()
        return await super().open_executions()

    async def own_orders(self, ids: Sequence[str]) -> list[KnownOrder]:
        """What the books know of these ids."""
        await self._reach()
        return await super().own_orders(ids)

    async def intent(self, client_order_id: str) -> IntentRecord | None:
        """Read one intent."""
        await self._reach()
        return await super().intent(client_order_id)

    async def pending_commands(self) -> list[CommandRecord]:
        """Requests without an answer."""
        await self._reach()
        return await super().pending_commands()


class Disk:
    """What one machine has on its disk for one account; it outlives the processes that write there."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.records: list[bytes] = []
        self.refused: list[bytes] = []
        self.full = False


class _RefusedFile(PurePosixPath):
    """The path of the file in which refused batches are kept; opening it reaches the simulated disk."""

    disk: Disk

    def with_suffix(self, suffix: str) -> "_RefusedFile":
        """The file beside the journal."""
        other = _RefusedFile(super().with_suffix(suffix))
        other.disk = self.disk
        return other

    @contextmanager
    def open(self, mode: str) -> Iterator[io.BytesIO]:
        """Append to what is kept."""
        written = io.BytesIO()
        yield written
        self.disk.refused.append(written.getvalue())


class MemoryJournal(Journal):
    """A journal whose disk is a list. A dead process writes nothing any more."""

    def __init__(self, disk: Disk, process: Process) -> None:
        self._disk = disk
        self._process = process
        path = _RefusedFile(f"/journal/{disk.name}.bin")
        path.disk = disk
        self.path = path  # type: ignore[assignment]  # the only file that anybody asks of it is simulated too

    @property
    def is_empty(self) -> bool:
        """Whether nothing is waiting."""
        return not self._disk.records

    def records(self) -> list[bytes]:
        """Everything that was appended since the journal was last emptied."""
        return list(self._disk.records)

    def append(self, payload: bytes) -> None:
        """Append one record."""
        self._process.require_alive()
        if self._disk.full:
            raise JournalError(f"{self.path} cannot be written: no space left on the device")
        self._disk.records.append(payload)

    def clear(self) -> None:
        """Forget all records."""
        self._process.require_alive()
        self._disk.records.clear()

    def close(self) -> None:
        """The disk stays."""
