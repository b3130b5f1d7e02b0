"""Following each entry order from its committed intent to a terminal state, once and never twice.

An unknown outcome is resolved by the client order id alone: found means adopted, absence has to be proven by several
lookups over some time, and only then is the very same id sent again (spec: closing, step 4; F33, F34, F43).
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Protocol

import structlog

from exitguard.broker.clock import Clock
from exitguard.broker.port import (
    Accepted,
    Broker,
    BrokerError,
    BrokerRateLimited,
    BrokerRefused,
    Priority,
    Refused,
    Unknown,
)
from exitguard.core.orders import BrokerOrder, OrderRequest, OrderStatus
from exitguard.core.records import (
    AppendEvent,
    ClearAlarm,
    EventType,
    ExecutionStatus,
    Operation,
    PutExecution,
    PutIntent,
    RaiseAlarm,
    RecommendationStatus,
    SetRecommendation,
)
from exitguard.dispatch.orders import Records, told_by_broker, with_status


class Commit(Protocol):
    """Applies operations in one transaction; returns when they are durable."""

    def __call__(self, *operations: Operation) -> Awaitable[None]:
        """Commit."""
        ...


LONGEST_REASON = 500
# The broker's clock and ours may differ a little when its list of orders is searched by time.
_LIST_MARGIN = timedelta(minutes=5)
_TERMINAL = (ExecutionStatus.FILLED, ExecutionStatus.CANCELED, ExecutionStatus.EXPIRED, ExecutionStatus.REJECTED)


@dataclass(frozen=True, slots=True)
class EntryTiming:
    """Patience with entry orders.

    `timeout` (venue time) is how long an order may stay unfilled, and how old an unsent one may get. Absence is proven
    by `absence_lookups` answers of 404 over at least `absence_seconds` of machine time: the broker may show an order
    late. `cancel_again` (venue time) is when a cancel without effect is asked for once more.
    """

    timeout: timedelta = timedelta(seconds=120)
    absence_lookups: int = 5
    absence_seconds: float = 3.0
    cancel_again: timedelta = timedelta(seconds=10)
    unsent_pause: float = 0.5


@dataclass(slots=True)
class Entry:
    """One entry order of ours. `cost` in dollars.

    `sent`: it may have been sent, by this process or one before. `exists`: the broker said that it has it.
    """

    records: Records
    request: OrderRequest
    cost: Decimal
    sent: bool
    exists: bool = False
    misses: int = 0
    unknown_since: float = 0.0
    not_before: float = 0.0
    cancel_asked: datetime | None = None

    @property
    def client_order_id(self) -> str:
        """The id by which everything about it is found."""
        return self.request.client_order_id

    @property
    def status(self) -> ExecutionStatus:
        """Its state, as recorded."""
        return self.records.execution.status

    @property
    def finished(self) -> bool:
        """Whether nothing more can happen to it."""
        return self.status in _TERMINAL

    @property
    def unresolved(self) -> bool:
        """Whether the broker has not shown it to us yet."""
        return self.status in (ExecutionStatus.INTENDED, ExecutionStatus.UNKNOWN)


class EntryDesk:
    """Sends and follows the entry orders of one account."""

    def __init__(
        self, broker: Broker, clock: Clock, commit: Commit, timing: EntryTiming, market_open: Callable[[], bool]
    ) -> None:
        self._broker = broker
        self._clock = clock
        self._commit = commit
        self._timing = timing
        self._market_open = market_open
        self._log = structlog.get_logger()

    def bind(self, **fields: object) -> None:
        """Add fields to every log line."""
        self._log = self._log.bind(**fields)

    async def advance(self, entry: Entry) -> None:
        """Take the next step, if one is due. Raises StoreError; trouble with the broker waits for the next call."""
        if entry.finished or time.monotonic() < entry.not_before:
            return
        if not entry.unresolved:
            await self._poll(entry)
        elif entry.sent:
            await self._look_up(entry)
        else:
            await self._send(entry)

    async def _send(self, entry: Entry) -> None:
        entry.sent = True
        entry.misses, entry.unknown_since = 0, time.monotonic()
        result = await self._broker.submit(entry.request, Priority.ENTRY)
        match result:
            case Accepted(order):
                await self._told(entry, order)
            case Unknown(reason=reason, sent=False):
                # Not one byte left: nothing to look up, the same id goes out with the next call.
                entry.sent = False
                entry.not_before = time.monotonic() + self._timing.unsent_pause
                self._log.warning("Entry not sent", client_order_id=entry.client_order_id, reason=reason)
                if self._too_late(entry):
                    await self._abandon(entry, f"never sent: {reason}")
            case Unknown(reason=reason):
                await self._unknown(entry, reason)
            case Refused(BrokerRefused() as error) if error.is_duplicate_client_order_id:
                entry.exists = True
                await self._unknown(entry, "the client order id is in use already: an order of ours exists")
            case Refused(BrokerRateLimited() as error):
                # Proven not to be there: the same id goes out again after the pause.
                entry.sent = False
                entry.not_before = time.monotonic() + (error.retry_after or 1.0)
                if self._too_late(entry):
                    await self._abandon(entry, "the broker's rate limit left no room in time")
            case Refused(error):
                await self._refused(entry, str(error))

    async def _unknown(self, entry: Entry, reason: str) -> None:
        reason = reason[:LONGEST_REASON]
        self._log.warning("Entry outcome unknown", client_order_id=entry.client_order_id, reason=reason)
        entry.records = with_status(entry.records, ExecutionStatus.UNKNOWN, reason)
        await self._commit(PutExecution(entry.records.execution), PutIntent(entry.records.intent))

    async def _look_up(self, entry: Entry) -> None:
        try:
            order = await self._broker.order_by_client_id(entry.client_order_id)
            if order is None:
                entry.misses += 1
                waited = time.monotonic() - entry.unknown_since
                if entry.misses < self._timing.absence_lookups or waited < self._timing.absence_seconds:
                    return
                # A second witness, before anything is concluded from what is not there.
                order = await self._listed(entry)
        except BrokerError as error:
            self._log.warning("Entry lookup failed", client_order_id=entry.client_order_id, error=str(error))
            return
        if order is not None:
            await self._told(entry, order)
            return
        if entry.exists:
            await self._vanished(entry)
            return
        if self._too_late(entry):
            await self._abandon(entry, "the broker proved that the order never arrived, too late to send it again")
            return
        self._log.warning("Entry proven absent, sending the same id again", client_order_id=entry.client_order_id)
        await self._send(entry)

    async def _listed(self, entry: Entry) -> BrokerOrder | None:
        """Search the broker's list of orders since a little before the intent."""
        after = entry.records.intent.created_at - _LIST_MARGIN
        orders = await self._broker.orders_since(after, [entry.request.symbol])
        return next((each for each in orders if each.client_order_id == entry.client_order_id), None)

    def _too_late(self, entry: Entry) -> bool:
        age = self._clock.now() - entry.records.intent.created_at
        return age >= self._timing.timeout or not self._market_open()

    async def _poll(self, entry: Entry) -> None:
        order_id = entry.records.execution.broker_order_id
        try:
            order = await self._broker.order(order_id) if order_id is not None else None
            if order is not None and order.status is OrderStatus.REPLACED and order.replaced_by is not None:
                order = await self._broker.order(order.replaced_by) or order
        except BrokerError as error:
            self._log.warning("Entry poll failed", client_order_id=entry.client_order_id, error=str(error))
            return
        if order is None:
            await self._vanished(entry)
            return
        await self._told(entry, order)
        if not entry.finished:
            await self._cancel_when_late(entry)

    async def _cancel_when_late(self, entry: Entry) -> None:
        now = self._clock.now()
        if now - entry.records.intent.created_at < self._timing.timeout:
            return
        if entry.cancel_asked is not None and now - entry.cancel_asked < self._timing.cancel_again:
            return
        entry.cancel_asked = now
        order_id = entry.records.execution.broker_order_id
        assert order_id is not None, "an order that was polled has an id"
        result = await self._broker.cancel(order_id, Priority.ENTRY)
        self._log.info("Entry order timed out, cancel asked", client_order_id=entry.client_order_id, known=result.known)

    async def _told(self, entry: Entry, order: BrokerOrder) -> None:
        if (order.symbol, order.side) != (entry.request.symbol, entry.request.side):
            await self._refused(entry, f"the broker knows this id as {order.side} {order.symbol}: not our order")
            return
        before = entry.records
        records = told_by_broker(before, order, self._clock.now())
        if records.execution.status is ExecutionStatus.CANCELED and entry.cancel_asked is not None:
            reason = f"cancelled after {self._timing.timeout.total_seconds():.0f} s, {order.filled_qty} filled"
            records = with_reason(records, reason)
        elif before.execution.status is ExecutionStatus.UNKNOWN:
            records = with_reason(records, None)
        if records == before:
            return
        entry.records = records
        operations: list[Operation] = [PutExecution(records.execution), PutIntent(records.intent)]
        moved = self._recommendation(entry, before)
        if moved is not None:
            operations.append(moved)
        if entry.finished:
            operations.append(ClearAlarm(_vanished_key(entry), self._clock.now()))
        if records.execution.status is ExecutionStatus.REJECTED:
            operations.append(self._refusal_event(entry, "rejected by the broker after it was accepted"))
        await self._commit(*operations)
        self._log.info(
            "Entry order",
            client_order_id=entry.client_order_id,
            symbol=entry.request.symbol,
            status=records.execution.status.value,
            filled_qty=str(records.execution.filled_qty),
        )

    def _recommendation(self, entry: Entry, before: Records) -> SetRecommendation | None:
        number = entry.records.execution.recommendation_id
        if number is None:
            return None
        status, now = entry.status, self._clock.now()
        if status is ExecutionStatus.REJECTED:
            return SetRecommendation(number, RecommendationStatus.REJECTED, "rejected by the broker", now)
        if entry.finished and entry.records.execution.filled_qty == 0:
            reason = entry.records.execution.reason or f"the entry order ended {status} without a fill"
            return SetRecommendation(number, RecommendationStatus.FAILED, reason, now)
        if before.execution.status in (ExecutionStatus.INTENDED, ExecutionStatus.UNKNOWN):
            return SetRecommendation(number, RecommendationStatus.EXECUTED, None, now)
        return None

    async def _refused(self, entry: Entry, reason: str) -> None:
        reason = reason[:LONGEST_REASON]
        self._log.warning("Entry refused", client_order_id=entry.client_order_id, reason=reason)
        entry.records = with_status(entry.records, ExecutionStatus.REJECTED, reason)
        await self._commit(
            *self._final(entry, RecommendationStatus.REJECTED, reason), self._refusal_event(entry, reason)
        )

    async def _abandon(self, entry: Entry, reason: str) -> None:
        self._log.warning("Entry abandoned", client_order_id=entry.client_order_id, reason=reason)
        entry.records = with_status(entry.records, ExecutionStatus.CANCELED, reason)
        await self._commit(*self._final(entry, RecommendationStatus.FAILED, reason))

    def _final(self, entry: Entry, status: RecommendationStatus, reason: str) -> list[Operation]:
        operations: list[Operation] = [PutExecution(entry.records.execution), PutIntent(entry.records.intent)]
        number = entry.records.execution.recommendation_id
        if number is not None:
            operations.append(SetRecommendation(number, status, reason, self._clock.now()))
        return operations

    def _refusal_event(self, entry: Entry, reason: str) -> AppendEvent:
        data = {
            "execution_id": entry.records.execution.execution_id,
            "recommendation_id": entry.records.execution.recommendation_id,
            "client_order_id": entry.client_order_id,
            "symbol": entry.request.symbol,
            "reason": reason,
        }
        return AppendEvent(EventType.ENTRY_REFUSED, self._clock.now(), data)

    async def _vanished(self, entry: Entry) -> None:
        """The broker does not show an order that it says it has: a person must look, and we keep asking."""
        entry.not_before = time.monotonic() + 5.0
        message = f"the broker has entry order {entry.client_order_id} and does not show it"
        self._log.error(message)
        now = self._clock.now()
        await self._commit(RaiseAlarm(_vanished_key(entry), "entry_vanished", now, message))


def with_reason(records: Records, reason: str | None) -> Records:
    """The same rows with another explanation."""
    return Records(replace(records.execution, reason=reason), replace(records.intent, detail=reason))


def _vanished_key(entry: Entry) -> str:
    return f"entry_vanished:{entry.client_order_id}"
