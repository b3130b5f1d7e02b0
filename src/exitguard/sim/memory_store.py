"""A ledger in memory that follows the contract of `store.port.AccountStore`.

Batches are applied whole or not at all, once for each batch id, and only for a lease epoch that is current. One live
position for each (account, contract, side). Several accounts and several processes share one `MemoryLedger`; a crash
is a `MemoryStore` that is thrown away while the ledger stays.
"""

import asyncio
import copy
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from exitguard.core.orders import Fill
from exitguard.core.reconcile import KnownOrder
from exitguard.core.records import (
    AppendEvent,
    Batch,
    ClearAlarm,
    CommandRecord,
    CommandVerb,
    ExecutionRecord,
    ExecutionStatus,
    FinishCommand,
    Heartbeat,
    HistoryRecord,
    IntentPurpose,
    IntentRecord,
    IntentStatus,
    LedgerState,
    Mark,
    Operation,
    PositionRecord,
    PositionStatus,
    PutExecution,
    PutFill,
    PutHistory,
    PutIntent,
    PutPosition,
    RaiseAlarm,
    RecommendationRecord,
    RecommendationStatus,
    SetAside,
    SetRecommendation,
)
from exitguard.store.port import (
    SURE_SHARE,
    AccountMismatch,
    Lease,
    LeaseHeld,
    LeaseLost,
    StoreError,
    StoreRejected,
)

_OPEN_EXECUTIONS = (
    ExecutionStatus.INTENDED,
    ExecutionStatus.UNKNOWN,
    ExecutionStatus.ACCEPTED,
    ExecutionStatus.PARTIALLY_FILLED,
)
_MAY_HAVE_FILLS = (*_OPEN_EXECUTIONS, ExecutionStatus.FILLED)


@dataclass(slots=True)
class StoredRecommendation:
    """A signal with its state."""

    row: RecommendationRecord
    status: RecommendationStatus = RecommendationStatus.PENDING
    reason: str | None = None
    claimed_epoch: int = 0


@dataclass(slots=True)
class StoredCommand:
    """A person's request with its answer."""

    row: CommandRecord
    ok: bool | None = None
    result: str | None = None
    answer: dict[str, Any] | None = None


@dataclass(slots=True)
class AccountLedger:
    """Everything of one account."""

    number: str | None = None
    epoch: int = 0
    leases: dict[str, Lease] = field(default_factory=dict)
    positions: dict[int, PositionRecord] = field(default_factory=dict)
    fills: dict[str, tuple[int, Fill, str]] = field(default_factory=dict)
    intents: dict[str, IntentRecord] = field(default_factory=dict)
    executions: dict[UUID, ExecutionRecord] = field(default_factory=dict)
    history: dict[int, HistoryRecord] = field(default_factory=dict)
    events: list[AppendEvent] = field(default_factory=list)
    alarms: dict[str, RaiseAlarm] = field(default_factory=dict)
    recommendations: dict[int, StoredRecommendation] = field(default_factory=dict)
    commands: dict[int, StoredCommand] = field(default_factory=dict)
    set_aside: list[SetAside] = field(default_factory=list)
    heartbeats: dict[str, Heartbeat] = field(default_factory=dict)
    # Batch id to the epoch and the component that it was written under.
    applied: dict[UUID, tuple[int, str]] = field(default_factory=dict)
    marks_written: int = 0


class MemoryLedger:
    """The database: it outlives the stores that talk to it."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self.now = now
        self.accounts: dict[str, AccountLedger] = {}
        self.subscribers: dict[str, list[asyncio.Queue[str]]] = {}
        # Told of every batch when it has become true.
        self.observers: list[Callable[[Batch], None]] = []

    def disconnect(self, account_name: str, holder: str) -> None:
        """Free the leases of a process whose connection was seen to end, as a server's advisory locks do."""
        leases = self.account(account_name).leases
        for component, lease in list(leases.items()):
            if lease.holder == holder:
                del leases[component]

    def account(self, name: str) -> AccountLedger:
        """The account's rows."""
        return self.accounts.setdefault(name, AccountLedger())

    def recommend(self, account_name: str, *, ticker: str, action: str, **fields: Any) -> int:
        """Insert a signal, as a person or a signal engine does; returns its id."""
        ledger = self.account(account_name)
        number = len(ledger.recommendations) + 1
        row = RecommendationRecord(
            account_name=account_name,
            id=number,
            ticker=ticker,
            option_symbol=fields.pop("option_symbol", None),
            action=action,
            strategy_type=fields.pop("strategy_type", "day_trade"),
            qty=fields.pop("qty", None),
            stop_loss=fields.pop("stop_loss", None),
            take_profit=fields.pop("take_profit", None),
            max_hold_minutes=fields.pop("max_hold_minutes", None),
            confidence=fields.pop("confidence", None),
            features=fields.pop("features", {}),
            created_at=fields.pop("created_at", self.now()),
            expires_at=fields.pop("expires_at", None),
        )
        assert not fields, f"no such columns: {sorted(fields)}"
        ledger.recommendations[number] = StoredRecommendation(row)
        self._notify(account_name, "recommendations")
        return number

    def command(
        self,
        account_name: str,
        verb: CommandVerb,
        *,
        position_id: int | None = None,
        symbol: str | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> int:
        """Insert a person's request; returns its id."""
        ledger = self.account(account_name)
        number = len(ledger.commands) + 1
        row = CommandRecord(account_name, number, verb, position_id, symbol, "tester", self.now(), arguments or {})
        ledger.commands[number] = StoredCommand(row)
        self._notify(account_name, "commands")
        return number

    def _notify(self, account_name: str, channel: str) -> None:
        for queue in self.subscribers.get(account_name, []):
            queue.put_nowait(channel)


class MemoryStore:
    """One process's view of one account. Implements `store.port.AccountStore`."""

    def __init__(self, ledger: MemoryLedger, account_name: str) -> None:
        self._ledger = ledger
        self._name = account_name
        self._epoch = 0
        # By epoch: until when, on the loop's clock, this process may be sure of that lease without asking.
        self._sure_until: dict[int, float] = {}
        self.closed = False
        # Scripted trouble: the next commits fail before, or after, they have been applied.
        self.failures_before: deque[StoreError] = deque()
        self.failures_after: deque[StoreError] = deque()
        # Called with each batch before it is applied; a test may raise to crash the process there.
        self.on_commit: Callable[[Batch], None] | None = None
        self.batches: list[Batch] = []

    @property
    def account_name(self) -> str:
        """The account of this store."""
        return self._name

    @property
    def rows(self) -> AccountLedger:
        """The account's rows, for assertions."""
        return self._ledger.account(self._name)

    async def acquire_lease(self, holder: str, ttl: timedelta, component: str = "manager") -> Lease:
        """Become the one live process of this component."""
        asked = asyncio.get_running_loop().time()
        await asyncio.sleep(0)
        held = self.rows.leases.get(component)
        if held is not None and held.holder != holder and held.expires_at > self._ledger.now():
            raise LeaseHeld(f"account {self._name}: {component} is run by {held.holder} until {held.expires_at}")
        self.rows.epoch += 1
        lease = Lease(self._name, holder, self.rows.epoch, self._ledger.now() + ttl)
        self.rows.leases[component] = lease
        self._epoch = lease.epoch
        self._sure_until[lease.epoch] = asked + ttl.total_seconds() * SURE_SHARE
        return lease

    async def renew_lease(self, lease: Lease, ttl: timedelta) -> Lease:
        """Extend the lease."""
        asked = asyncio.get_running_loop().time()
        await asyncio.sleep(0)
        component = self._component(lease.epoch)
        renewed = replace(lease, expires_at=self._ledger.now() + ttl)
        self.rows.leases[component] = renewed
        self._sure_until[lease.epoch] = asked + ttl.total_seconds() * SURE_SHARE
        return renewed

    def surely_leased(self) -> bool:
        """Whether nobody else can hold the lease: from what this process was told, not from the rows of others."""
        return bool(self._sure_until) and asyncio.get_running_loop().time() < min(self._sure_until.values())

    async def release_lease(self, lease: Lease) -> None:
        """Give the lease back."""
        self._sure_until.pop(lease.epoch, None)
        await asyncio.sleep(0)
        for component, held in list(self.rows.leases.items()):
            if held.epoch == lease.epoch:
                del self.rows.leases[component]

    async def bind_account_number(self, number: str, tier: str, mode: str) -> None:
        """Bind or compare the broker's account number."""
        await asyncio.sleep(0)
        if self.rows.number is None:
            self.rows.number = number
        elif self.rows.number != number:
            raise AccountMismatch(f"account {self._name} is bound to {self.rows.number}, the keys belong to {number}")

    async def load(self) -> LedgerState:
        """Everything unfinished."""
        await asyncio.sleep(0)
        rows = self.rows
        positions = tuple(p for p in rows.positions.values() if p.status is not PositionStatus.CLOSED)
        fills = {p.id: tuple(f for i, f, _ in rows.fills.values() if i == p.id) for p in positions}
        intents = tuple(i for i in rows.intents.values() if i.status.is_live or i.status is IntentStatus.ARMED)
        booked: dict[str, tuple[Decimal, Decimal]] = {}
        for _, fill, _ in rows.fills.values():
            qty, value = booked.get(fill.order_id, (Decimal(0), Decimal(0)))
            booked[fill.order_id] = (qty + fill.qty, value + fill.qty * fill.price)
        next_id = max(rows.positions, default=0) + 1
        return LedgerState(positions, fills, intents, frozenset(rows.alarms), next_id, booked)

    async def commit(self, batch: Batch) -> None:
        """Apply a batch, once, whole or not at all."""
        await self.commit_encoded(batch, b"")

    async def commit_encoded(self, batch: Batch, operations: bytes, *, journaled_epoch: int | None = None) -> None:
        """Apply a batch whose operations are encoded already; `journaled_epoch` when a journal kept it for so long."""
        await asyncio.sleep(0)
        if batch.account_name != self._name:
            raise StoreRejected(f"batch of account {batch.account_name} offered to the store of {self._name}")
        if self.on_commit is not None:
            self.on_commit(batch)
        if self.failures_before:
            raise self.failures_before.popleft()
        component = self._component(batch.epoch)
        if batch.id not in self.rows.applied:
            self._fence_journal(component, batch.epoch, journaled_epoch)
            self._ledger.accounts[self._name] = self._changed(batch, component, journaled_epoch)
            self.batches.append(batch)
            for observe in self._ledger.observers:
                observe(batch)
        if self.failures_after:
            raise self.failures_after.popleft()

    def _fence_journal(self, component: str, epoch: int, journaled_epoch: int | None) -> None:
        """A journal is too old once a later holder of the lease has written."""
        if journaled_epoch is None or journaled_epoch == epoch:
            return
        if any(e > journaled_epoch and c == component for e, c in self.rows.applied.values()):
            raise LeaseLost(
                f"a batch was journaled under epoch {journaled_epoch}, and a later holder has written since"
            )

    def _changed(self, batch: Batch, component: str, journaled_epoch: int | None) -> AccountLedger:
        """The account's rows after a batch; the rows before it stay as they are."""
        working = copy.copy(self.rows)
        for name in AccountLedger.__dataclass_fields__:
            value = getattr(self.rows, name)
            if isinstance(value, dict | list | set):
                setattr(working, name, copy.copy(value))
        touched = {type(operation) for operation in batch.operations}
        if SetRecommendation in touched:
            working.recommendations = {k: copy.copy(v) for k, v in self.rows.recommendations.items()}
        if FinishCommand in touched:
            working.commands = {k: copy.copy(v) for k, v in self.rows.commands.items()}
        for operation in batch.operations:
            self._apply(working, operation)
        self._check_references(working, batch)
        epoch = batch.epoch if journaled_epoch is None else journaled_epoch
        working.applied[batch.id] = (epoch, component)
        return working

    @staticmethod
    def _check_references(rows: AccountLedger, batch: Batch) -> None:
        """Whatever names a position must find it once the whole batch is true."""
        for operation in batch.operations:
            number = None
            if isinstance(operation, PutFill):
                number = operation.position_id
            elif isinstance(operation, PutIntent | PutHistory):
                number = operation.row.position_id
            if number is not None and number not in rows.positions:
                raise StoreRejected(f"{type(operation).__name__} names position {number}, which does not exist")

    async def write_marks(self, marks: Sequence[Mark], epoch: int) -> int:
        """Write a sweep's marks."""
        await asyncio.sleep(0)
        self._component(epoch)
        changed = 0
        for mark in marks:
            row = self.rows.positions.get(mark.position_id)
            if row is None or row.status is PositionStatus.CLOSED:
                continue
            # A batch may have been faster, with a later look: an extreme never falls back (F55).
            late = row.last_checked_at is not None and mark.checked_at < row.last_checked_at
            self.rows.positions[mark.position_id] = replace(
                row,
                current_price=mark.price if mark.price is not None else row.current_price,
                current_pnl_dollars=mark.pnl_dollars if mark.pnl_dollars is not None else row.current_pnl_dollars,
                current_pnl_percent=mark.pnl_percent if mark.pnl_percent is not None else row.current_pnl_percent,
                best_price=row.best_price if late else mark.best_price,
                worst_price=row.worst_price if late else mark.worst_price,
                marked_at=mark.marked_at or row.marked_at,
                last_checked_at=mark.checked_at,
                protection=mark.protection,
                protection_since=mark.protection_since,
            )
            changed += 1
        self.rows.marks_written += changed
        return changed

    async def beat(self, heartbeat: Heartbeat, epoch: int) -> None:
        """Record progress."""
        await asyncio.sleep(0)
        self._component(epoch)
        self.rows.heartbeats[heartbeat.component] = heartbeat

    async def unlinked_executions(self, limit: int = 500) -> list[ExecutionRecord]:
        """Entries without a position."""
        await asyncio.sleep(0)
        linked = {p.execution_id for p in self.rows.positions.values()}
        booked = {fill.order_id for _, fill, _ in self.rows.fills.values()}
        found = [
            e
            for e in self.rows.executions.values()
            if e.execution_id not in linked
            and e.broker_order_id not in booked
            and (e.status in _MAY_HAVE_FILLS or e.filled_qty > 0)
        ]
        return found[:limit]

    async def open_executions(self) -> list[ExecutionRecord]:
        """Entries whose order is not terminal."""
        await asyncio.sleep(0)
        return [e for e in self.rows.executions.values() if e.status in _OPEN_EXECUTIONS]

    async def own_orders(self, ids: Sequence[str]) -> list[KnownOrder]:
        """What the books know of these ids."""
        await asyncio.sleep(0)
        asked, rows = set(ids), self.rows
        known = [
            KnownOrder(i.broker_order_id, i.client_order_id, i.status.is_live)
            for i in rows.intents.values()
            if asked & {i.client_order_id, i.broker_order_id}
        ]
        known += [
            KnownOrder(order_id, e.client_order_id, e.status in _OPEN_EXECUTIONS)
            for e in rows.executions.values()
            for order_id in (e.broker_order_id, e.stop_order_id, e.target_order_id)
            if asked & {e.client_order_id, order_id}
        ]
        legs = (leg for p in rows.positions.values() for leg in (p.stop_order_id, p.target_order_id))
        return known + [KnownOrder(leg, None, False) for leg in legs if leg in asked]

    async def intent(self, client_order_id: str) -> IntentRecord | None:
        """Read one intent."""
        await asyncio.sleep(0)
        return self.rows.intents.get(client_order_id)

    async def claim_recommendations(self, now: datetime, limit: int = 20) -> list[RecommendationRecord]:
        """Claim pending signals, and those of a holder that is gone, newest first; expire old ones."""
        await asyncio.sleep(0)
        rows = self.rows.recommendations.values()
        for stored in rows:
            due = stored.row.expires_at is not None and stored.row.expires_at <= now
            if due and stored.status is RecommendationStatus.PENDING:
                stored.status, stored.reason = RecommendationStatus.EXPIRED, "expired before it was claimed"
        answered = {e.recommendation_id for e in self.rows.executions.values()}
        fresh = [
            r
            for r in rows
            if r.status is RecommendationStatus.PENDING
            or (r.status is RecommendationStatus.CLAIMED and r.claimed_epoch < self._epoch and r.row.id not in answered)
        ]
        fresh.sort(key=lambda r: (r.row.created_at, r.row.id), reverse=True)
        for stored in fresh[:limit]:
            stored.status, stored.claimed_epoch = RecommendationStatus.CLAIMED, self._epoch
        return [stored.row for stored in fresh[:limit]]

    async def pending_commands(self) -> list[CommandRecord]:
        """Requests without an answer."""
        await asyncio.sleep(0)
        return [c.row for c in self.rows.commands.values() if c.ok is None]

    async def notifications(self) -> AsyncIterator[str]:
        """Yield channel suffixes."""
        queue: asyncio.Queue[str] = asyncio.Queue()
        subscribers = self._ledger.subscribers.setdefault(self._name, [])
        subscribers.append(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            subscribers.remove(queue)

    async def close(self) -> None:
        """Nothing to release."""
        self.closed = True

    def _component(self, epoch: int) -> str:
        for component, lease in self.rows.leases.items():
            if lease.epoch == epoch:
                return component
        raise LeaseLost(f"account {self._name}: epoch {epoch} is not current: another process owns the account")

    def _apply(self, rows: AccountLedger, operation: Operation) -> None:
        match operation:
            case PutPosition(row):
                self._own(row.account_name)
                self._put_position(rows, row)
            case PutFill(position_id, fill, source):
                rows.fills.setdefault(fill.execution_id, (position_id, fill, source))
            case AppendEvent():
                rows.events.append(operation)
            case PutIntent(row):
                self._own(row.account_name)
                self._put_intent(rows, row)
            case PutHistory(row):
                self._own(row.account_name)
                if row.position_id in rows.history:
                    raise StoreRejected(f"position {row.position_id} has a history row already")
                rows.history[row.position_id] = row
            case PutExecution(row):
                self._own(row.account_name)
                same = [e for e in rows.executions.values() if e.client_order_id == row.client_order_id]
                if any(e.execution_id != row.execution_id for e in same):
                    raise StoreRejected(f"client order id {row.client_order_id} belongs to another execution")
                rows.executions[row.execution_id] = row
            case SetRecommendation(id=number, status=status, reason=reason):
                if number not in rows.recommendations:
                    raise StoreRejected(f"recommendation {number} does not exist in account {self._name}")
                rows.recommendations[number].status = status
                rows.recommendations[number].reason = reason
            case RaiseAlarm(key=key):
                rows.alarms[key] = operation
            case ClearAlarm(key=key):
                rows.alarms.pop(key, None)
            case FinishCommand(id=number, ok=ok, result=result, answer=answer):
                if number not in rows.commands:
                    raise StoreRejected(f"command {number} does not exist in account {self._name}")
                if rows.commands[number].ok is None:  # the first answer stands
                    rows.commands[number] = StoredCommand(rows.commands[number].row, ok, result, answer)
            case SetAside():
                rows.set_aside.append(operation)

    def _own(self, account_name: str) -> None:
        if account_name != self._name:
            raise StoreRejected(f"row of account {account_name} in a batch of {self._name}")

    @staticmethod
    def _put_position(rows: AccountLedger, row: PositionRecord) -> None:
        live = [
            p
            for p in rows.positions.values()
            if p.status is not PositionStatus.CLOSED and (p.symbol, p.side) == (row.symbol, row.side) and p.id != row.id
        ]
        if live and row.status is not PositionStatus.CLOSED:
            raise StoreRejected(f"a live position of {row.symbol} {row.side} exists: {live[0].id}")
        known = rows.positions.get(row.id)
        if known is not None and known.status is PositionStatus.CLOSED and row.status is not PositionStatus.CLOSED:
            raise StoreRejected(f"position {row.id} is closed for good")
        others = [p for p in rows.positions.values() if p.id != row.id]
        if any(p.uid == row.uid for p in others):
            raise StoreRejected(f"position {row.id} has the uid of another: {row.uid}")
        if row.execution_id is not None and any(p.execution_id == row.execution_id for p in others):
            raise StoreRejected(f"execution {row.execution_id} has a position already")
        if row.quantity < 0 or not row.realised_pnl.is_finite():
            raise StoreRejected(f"position {row.id} has impossible numbers")
        rows.positions[row.id] = row

    @staticmethod
    def _put_intent(rows: AccountLedger, row: IntentRecord) -> None:
        def closes(intent: IntentRecord) -> bool:
            return intent.purpose in (IntentPurpose.CLOSE, IntentPurpose.REDUCE) and intent.status.is_live

        if row.status is IntentStatus.ARMED:
            for other in rows.intents.values():
                same = other.position_id == row.position_id and other.client_order_id != row.client_order_id
                if same and other.status is IntentStatus.ARMED:
                    raise StoreRejected(f"position {row.position_id} is armed already: {other.client_order_id}")
        for other in rows.intents.values() if closes(row) and row.position_id is not None else ():
            same = other.position_id == row.position_id and other.client_order_id != row.client_order_id
            if same and closes(other):
                raise StoreRejected(
                    f"position {row.position_id} has a live close already: {other.client_order_id} (I2)"
                )
        rows.intents[row.client_order_id] = row
