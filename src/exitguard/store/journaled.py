"""A store that goes on when the database is gone: commits land in a journal on disk and reach the database later.

While the journal holds anything, every commit goes to the journal, so that the order is kept. Reading what a decision
rests on (`load`, entries, signals) is refused until the journal has been written, because the tables are behind.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

import structlog

from exitguard.core.reconcile import KnownOrder
from exitguard.core.records import (
    Batch,
    CommandRecord,
    ExecutionRecord,
    Heartbeat,
    IntentRecord,
    LedgerState,
    Mark,
    PutIntent,
    RecommendationRecord,
)
from exitguard.store.encoding import InvalidRecord, decode_batch, encode_batch, encode_operations
from exitguard.store.journal import Journal, JournalError
from exitguard.store.port import AccountStore, Lease, LeaseLost, StoreError, StoreRejected, StoreUnavailable

log = structlog.get_logger()

COMMIT_SECONDS = 1.0
# How long a decision waits for a database that does not answer, to learn whether another process has the lease.
_LOOK_SECONDS = 0.25
_DRAIN_COMMIT_SECONDS = 10.0
_RETRY_FIRST = 0.1
_RETRY_LAST = 2.0


class EncodedStore(AccountStore, Protocol):
    """An account store that takes a batch with its operations already encoded, as the journal keeps them."""

    async def commit_encoded(self, batch: Batch, operations: bytes, *, journaled_epoch: int | None = None) -> None:
        """Apply a batch; `journaled_epoch` when a process that is gone journaled it under an older lease."""
        ...


@dataclass(slots=True)
class _Waiting:
    """One journaled batch."""

    batch: Batch
    operations: bytes


class JournaledStore:
    """`AccountStore` that keeps commits in a journal while the database is away.

    Args:
        inner: the store of the database.
        journal: the account's journal; this object closes it.
        commit_seconds: how long the database may take before a commit goes to the journal.
        on_refused: called with a batch that the database refused when the journal was written, and why.
    """

    def __init__(
        self,
        inner: EncodedStore,
        journal: Journal,
        *,
        commit_seconds: float = COMMIT_SECONDS,
        on_refused: Callable[[Batch, StoreError], None] | None = None,
    ) -> None:
        self._inner = inner
        self._journal = journal
        self._commit_seconds = commit_seconds
        self._on_refused = on_refused
        self._order = asyncio.Lock()
        self._drain: asyncio.Task[None] | None = None
        self._epoch: int | None = None
        self._lost: LeaseLost | None = None
        # Until when, on the loop's clock, nobody else can have taken the lease; None while none was taken here.
        self._sure_until: float | None = None
        # The lease as the database knows it, how long it was asked for, and when it ends there unless renewed.
        self._held: tuple[Lease, timedelta, float] | None = None
        self.refused: list[tuple[Batch, StoreError]] = []
        self._waiting = deque(_read(record) for record in journal.records())

    @property
    def account_name(self) -> str:
        """The account that every statement is scoped to."""
        return self._inner.account_name

    @property
    def degraded(self) -> bool:
        """Whether commits go to the journal because the database is away."""
        return bool(self._waiting)

    @property
    def pending(self) -> int:
        """Batches in the journal that the database does not have."""
        return len(self._waiting)

    # Writing -----------------------------------------------------------------------------------------------------

    async def commit(self, batch: Batch) -> None:
        """Make a batch durable: in the database, else in the journal.

        Raises StoreRejected and LeaseLost from the database, StoreUnavailable when neither could take it, or when the
        database is away and the lease may have passed to another process.
        """
        if batch.account_name != self.account_name:
            raise StoreRejected(f"a batch of account {batch.account_name} was offered to {self.account_name} (F25)")
        operations = encode_operations(batch)
        async with self._order:
            if self._lost is not None:
                raise self._lost
            if not self._waiting:
                try:
                    async with asyncio.timeout(self._commit_seconds):
                        await self._inner.commit_encoded(batch, operations)
                except (StoreUnavailable, TimeoutError) as error:
                    log.error(
                        "database is away, commits go to the journal",
                        account=self.account_name,
                        journal=str(self._journal.path),
                        reason=str(error) or "it did not answer in time",
                    )
                else:
                    return
            self._require_lease()
            await self._ask_for_successor()
            try:
                await self._append(_Waiting(batch, operations))
            except JournalError as error:
                raise StoreUnavailable(f"the database is away, and so is the journal: {error}") from error
        self._start_draining()

    def _require_lease(self) -> None:
        """Refuse the journal to a process that was stopped for so long that another may have taken over (I12).

        While the renewals go on and fail, nobody could take the lease: the database was away for everybody.
        """
        if self._sure_until is not None and asyncio.get_running_loop().time() > self._sure_until:
            raise StoreUnavailable(
                "the database is away, and this process stood still for longer than its lease: another may hold it, so"
                " nothing is decided until the database answers"
            )

    async def _ask_for_successor(self) -> None:
        """Once the lease has ended in the database, the first process that reaches it there may take it (I12).

        So whoever decides by its journal looks each time whether the database is back: another may have been quicker.
        Raises LeaseLost.
        """
        if self._held is None or asyncio.get_running_loop().time() <= self._held[2]:
            return
        lease, ttl, _ = self._held
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                await self._inner.renew_lease(lease, ttl)
        except (StoreUnavailable, TimeoutError):
            return
        except LeaseLost as error:
            self._lost = error
            raise

    async def _append(self, waiting: _Waiting) -> None:
        def work() -> None:
            self._journal.append(encode_batch(waiting.batch, waiting.operations))
            self._waiting.append(waiting)

        await _uninterrupted(work)

    def _start_draining(self) -> None:
        if self._drain is None or self._drain.done():
            self._drain = asyncio.create_task(self._drain_until_empty())

    async def _drain_until_empty(self) -> None:
        wait = _RETRY_FIRST
        while self._waiting:
            before = len(self._waiting)
            try:
                await self._write_journal()
            except LeaseLost as error:
                log.error("journal cannot be written: the lease is lost", account=self.account_name, reason=str(error))
                self._lost = error
                return
            except (StoreUnavailable, TimeoutError, JournalError):
                # A database that took some of it stumbles; one that took nothing is away.
                wait = _RETRY_FIRST if len(self._waiting) < before else wait
                await asyncio.sleep(wait)
                wait = min(wait * 2, _RETRY_LAST)

    async def _write_journal(self) -> None:
        """Write what waits, in order. Commits made meanwhile queue behind it in the journal."""
        if self._epoch is None:
            raise StoreUnavailable("the journal is written once this process holds the lease")
        written = 0
        while self._waiting:
            while self._waiting:
                await self._write_one(self._waiting[0])
                self._waiting.popleft()
                written += 1
            # A crash before this point repeats batches that the database knows by their ids.
            await self._clear_journal()
        log.info("journal written to the database", account=self.account_name, batches=written)

    async def _clear_journal(self) -> None:
        async with self._order:
            if not self._waiting:
                await _uninterrupted(self._journal.clear)

    async def _write_one(self, waiting: _Waiting) -> None:
        epoch = self._epoch
        assert epoch is not None
        batch, journaled = waiting.batch, None
        if batch.epoch != epoch:
            batch, journaled = replace(batch, epoch=epoch), waiting.batch.epoch
        try:
            async with asyncio.timeout(_DRAIN_COMMIT_SECONDS):
                await self._inner.commit_encoded(batch, waiting.operations, journaled_epoch=journaled)
        except StoreRejected as error:
            self._keep_refused(waiting, error)

    def _keep_refused(self, waiting: _Waiting, error: StoreError) -> None:
        """A batch that can never be written must not keep the later ones out, and must not vanish either."""
        path = self._journal.path.with_suffix(".refused.jsonl")
        with path.open("ab") as evidence:
            evidence.write(encode_batch(waiting.batch, waiting.operations) + b"\n")
        log.error(
            "the database refused a journaled batch",
            account=self.account_name,
            batch=str(waiting.batch.id),
            reason=str(error),
            kept_in=str(path),
        )
        self.refused.append((waiting.batch, error))
        if self._on_refused is not None:
            self._on_refused(waiting.batch, error)

    async def settle(self) -> None:
        """Write the journal now. Raises StoreUnavailable while the database is away."""
        if not self._waiting:
            return
        if self._lost is not None:
            raise self._lost
        if self._drain is not None and not self._drain.done():
            raise StoreUnavailable(f"{self.pending} batches in the journal wait for the database")
        try:
            await self._write_journal()
        except TimeoutError as error:
            raise StoreUnavailable("the database did not take the journal in time") from error

    async def write_marks(self, marks: Sequence[Mark], epoch: int) -> int:
        """Write the marks of a sweep. Raises StoreUnavailable while the journal waits: the rows may be behind."""
        self._require_settled()
        return await self._inner.write_marks(marks, epoch)

    async def beat(self, heartbeat: Heartbeat, epoch: int) -> None:
        """Record progress; the heartbeat says how much waits in the journal."""
        if self._waiting:
            heartbeat = replace(heartbeat, details={**heartbeat.details, "journal_pending": self.pending})
        await self._inner.beat(heartbeat, epoch)

    def _require_settled(self) -> None:
        if self._waiting:
            self._start_draining()
            raise StoreUnavailable(f"{self.pending} batches in the journal wait for the database")

    # Lease -------------------------------------------------------------------------------------------------------

    async def acquire_lease(self, holder: str, ttl: timedelta, component: str = "manager") -> Lease:
        """Become the one live process, then write what a process before left in the journal.

        A journal that is older than what another holder has written since is kept aside with its reason.
        """
        asked = asyncio.get_running_loop().time()
        lease = await self._inner.acquire_lease(holder, ttl, component)
        self._sure_until = asked + ttl.total_seconds()
        self._held = lease, ttl, self._sure_until
        self._epoch = lease.epoch
        self._lost = None
        await self._write_left_behind()
        return lease

    async def _write_left_behind(self) -> None:
        try:
            await self.settle()
        except LeaseLost as error:
            async with self._order:
                while self._waiting:
                    self._keep_refused(self._waiting.popleft(), error)
                await _uninterrupted(self._journal.clear)
        except StoreUnavailable:
            self._start_draining()

    async def renew_lease(self, lease: Lease, ttl: timedelta) -> Lease:
        """Extend the lease. Raises LeaseLost, and StoreUnavailable while the database is away."""
        asked = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(
                ttl.total_seconds() / 2
            ):  # the next renewal must come before the end of this one
                renewed = await self._inner.renew_lease(lease, ttl)
        except (StoreUnavailable, TimeoutError) as error:
            if self._sure_until is not None and asked <= self._sure_until:
                self._sure_until = asked + ttl.total_seconds()
            raise StoreUnavailable(str(error) or "the database did not renew the lease in time") from error
        self._sure_until = asked + ttl.total_seconds()
        self._held = renewed, ttl, self._sure_until
        return renewed

    def surely_leased(self) -> bool:
        """Whether nobody else can hold the lease now; False also while the journal waits for the database."""
        return not self._waiting and self._lost is None and self._inner.surely_leased()

    async def release_lease(self, lease: Lease) -> None:
        """Give the lease back; what is in the journal is written first if the database takes it."""
        with contextlib.suppress(StoreUnavailable):
            await self.settle()
        await self._inner.release_lease(lease)
        self._epoch = self._sure_until = self._held = None

    async def bind_account_number(self, number: str, tier: str, mode: str) -> None:
        """Bind the broker's account number. Raises AccountMismatch."""
        await self._inner.bind_account_number(number, tier, mode)

    # Reading -----------------------------------------------------------------------------------------------------

    async def load(self) -> LedgerState:
        """Read everything unfinished, after the journal was written. Raises StoreUnavailable."""
        await self.settle()
        return await self._inner.load()

    async def intent(self, client_order_id: str) -> IntentRecord | None:
        """Read one intent: the newest of journal and database."""
        for waiting in reversed(self._waiting):
            for operation in reversed(waiting.batch.operations):
                if isinstance(operation, PutIntent) and operation.row.client_order_id == client_order_id:
                    return operation.row
        return await self._inner.intent(client_order_id)

    async def unlinked_executions(self, limit: int = 500) -> list[ExecutionRecord]:
        """Entries without a position. Raises StoreUnavailable while the journal waits."""
        self._require_settled()
        return await self._inner.unlinked_executions(limit)

    async def open_executions(self) -> list[ExecutionRecord]:
        """Entries whose order is not terminal. Raises StoreUnavailable while the journal waits."""
        self._require_settled()
        return await self._inner.open_executions()

    async def own_orders(self, ids: Sequence[str]) -> list[KnownOrder]:
        """What the books know of these ids. Raises StoreUnavailable while the journal waits."""
        self._require_settled()
        return await self._inner.own_orders(ids)

    async def claim_recommendations(self, now: datetime, limit: int = 20) -> list[RecommendationRecord]:
        """Claim signals. Raises StoreUnavailable while the journal waits: no entries without a ledger."""
        self._require_settled()
        return await self._inner.claim_recommendations(now, limit)

    async def pending_commands(self) -> list[CommandRecord]:
        """Requests of people not answered yet. Raises StoreUnavailable while the journal waits."""
        self._require_settled()
        return await self._inner.pending_commands()

    def notifications(self) -> AsyncIterator[str]:
        """Yield the channel suffix whenever somebody inserted a command or a signal."""
        return self._inner.notifications()

    async def close(self) -> None:
        """Stop draining and release the database and the file; what is in the journal stays there."""
        if self._drain is not None:
            self._drain.cancel()
            await asyncio.gather(self._drain, return_exceptions=True)
        self._journal.close()
        await self._inner.close()


async def _uninterrupted(work: Callable[[], None]) -> None:
    """Run file work in a thread and see it through even when the caller is cancelled meanwhile."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


def _read(record: bytes) -> _Waiting:
    try:
        batch = decode_batch(record)
    except InvalidRecord as error:
        raise JournalError(
            f"the journal holds a record that this build cannot read ({error}): start the build that wrote it"
        ) from error
    return _Waiting(batch, encode_operations(batch))


def journaled(inner: EncodedStore, journal: Journal, **options: Any) -> AccountStore:
    """Wrap a store; exists so that the type checker proves that the wrapper is an `AccountStore`."""
    return JournaledStore(inner, journal, **options)
