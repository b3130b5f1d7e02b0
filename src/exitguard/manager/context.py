"""What the parts of one account's manager share."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import structlog

from exitguard.broker.clock import Clock
from exitguard.broker.port import Broker
from exitguard.core.evaluate import venue_takes_orders
from exitguard.core.instrument import Instrument
from exitguard.core.orders import BrokerOrder, OrderStatus
from exitguard.core.policy import Policy
from exitguard.core.position import PositionSide
from exitguard.core.records import IntentRecord, IntentStatus, PutIntent
from exitguard.core.session import Session, SessionCalendar
from exitguard.manager.alarms import Alarms
from exitguard.manager.book import MarkBook
from exitguard.manager.ear import StreamEar
from exitguard.manager.ledger import Ledger
from exitguard.manager.options import ManagerOptions
from exitguard.manager.orders import intent_status
from exitguard.manager.tracked import Tracked
from exitguard.manager.vitals import Progress

# Terminal orders are remembered for attribution (bracket leg or stranger?); the oldest are forgotten past this.
MAX_KNOWN_ORDERS = 20_000
# The broker's positions lag fills by up to ten seconds (Alpaca-API#276): venue time until they count as evidence.
SETTLING = timedelta(seconds=15)


@dataclass(slots=True)
class Tally:
    """How much of one order is booked: quantity and value, so that a repeated or late report adds nothing (F45)."""

    qty: Decimal = Decimal(0)
    value: Decimal = Decimal(0)

    def add(self, qty: Decimal, price: Decimal) -> None:
        """Count in a quantity at a price; a negative one takes it out again."""
        self.qty += qty
        self.value += qty * price


@dataclass(frozen=True, slots=True)
class Counted:
    """A part of an order that an adoption counted in without booking it: it belongs to what was held before."""

    order_id: str
    symbol: str
    at: datetime
    qty: Decimal
    value: Decimal


@dataclass(slots=True)
class AccountContext:
    """One account: its ports, its books, its live positions."""

    options: ManagerOptions
    broker: Broker
    clock: Clock
    ledger: Ledger
    alarms: Alarms
    calendar: SessionCalendar
    marks: MarkBook = field(default_factory=MarkBook)
    positions: dict[int, Tracked] = field(default_factory=dict)
    tallies: dict[str, Tally] = field(default_factory=dict)
    counted: list[Counted] = field(default_factory=list)
    orders: dict[str, BrokerOrder] = field(default_factory=dict)
    # Orders of ours without a proven end, by client order id.
    intents: dict[str, IntentRecord] = field(default_factory=dict)
    next_position_id: int = 1
    account_number: str = ""
    orders_seen_at: datetime | None = None
    # When a fill of a contract was booked last; entries older than SETTLING are swept out.
    filled_at: dict[str, datetime] = field(default_factory=dict)
    # Positions whose armed intent is not what they hold, by id.
    unarmed: dict[int, Tracked] = field(default_factory=dict)
    unarmed_news: asyncio.Event = field(default_factory=asyncio.Event)
    stream_ready: asyncio.Event = field(default_factory=asyncio.Event)
    # The trade stream has said for the first time how it is, good or bad.
    stream_told: asyncio.Event = field(default_factory=asyncio.Event)
    ear: StreamEar = field(default_factory=StreamEar)
    progress: Progress = field(default_factory=Progress)
    tasks: asyncio.TaskGroup | None = None
    log: Any = field(default_factory=structlog.get_logger)
    # Open orders by contract: an exit must not search everything that was ever ordered.
    _open_orders: dict[str, dict[str, BrokerOrder]] = field(default_factory=dict)
    _session: tuple[SessionCalendar, Session] | None = None

    @property
    def name(self) -> str:
        """The account's name."""
        return self.options.account_name

    @property
    def stream_up(self) -> bool:
        """Whether the trade stream is authenticated and listens, as far as REST does not contradict it."""
        return self.stream_ready.is_set()

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run work under the account's task group: an exception that it does not handle stops the account, loudly."""
        if self.tasks is None:
            raise AssertionError("the account's task group is not running")
        return self.tasks.create_task(work, name=name)

    def session(self, now: datetime) -> Session | None:
        """The session of the New York day of `now`."""
        if self._session is not None:
            calendar, known = self._session
            if calendar is self.calendar and known.contains_extended(now):
                return known
        found = self.calendar.current(now)
        self._session = None if found is None else (self.calendar, found)
        return found

    def can_trade(self, instrument: Instrument, now: datetime, policy: Policy) -> bool:
        """Whether an order sent now would act now."""
        return venue_takes_orders(instrument, now, self.session(now), policy)

    def on_symbol(self, symbol: str, side: PositionSide | None = None) -> Tracked | None:
        """The live position of a contract, if any."""
        marks = self.marks.get(symbol)
        if marks is None:
            return None
        return next((p for p in marks.positions if side is None or p.record.side is side), None)

    def held(self, symbol: str) -> Decimal:
        """What we hold of a contract, negative when short."""
        marks = self.marks.get(symbol)
        return sum((tracked.signed_qty for tracked in marks.positions), Decimal(0)) if marks is not None else Decimal(0)

    def add(self, tracked: Tracked) -> None:
        """Take a position under management."""
        self.positions[tracked.record.id] = tracked
        self.changed(tracked)

    def changed(self, tracked: Tracked) -> None:
        """What is held is another quantity now, or may be closed again: band and armed intent are made anew."""
        self.marks.attach(tracked)
        self.unarmed[tracked.record.id] = tracked
        self.unarmed_news.set()

    def remove(self, tracked: Tracked) -> None:
        """Let a closed position go."""
        self.positions.pop(tracked.record.id, None)
        self.marks.detach(tracked)

    def note_fill(self, symbol: str, now: datetime) -> None:
        """Remember that the broker's position of this contract is moving."""
        self.filled_at = {s: at for s, at in self.filled_at.items() if now - at <= SETTLING}
        self.filled_at[symbol] = now

    def is_settling(self, symbol: str, now: datetime) -> bool:
        """Whether the broker's position of this contract may still show what was before the last fill."""
        at = self.filled_at.get(symbol)
        return at is not None and now - at <= SETTLING

    def tally(self, order_id: str) -> Tally:
        """The tally of one order, made on first sight."""
        return self.tallies.setdefault(order_id, Tally())

    def count_in(self, part: Counted) -> None:
        """Let a part of an order count as booked, because what is held now stands for it."""
        if part.qty > 0:
            tally = self.tally(part.order_id)
            tally.qty, tally.value = tally.qty + part.qty, tally.value + part.value
            self.counted.append(part)

    def count_out(self, symbol: str, since: datetime) -> None:
        """Let what was counted in of a contract be booked after all, as far as it was traded since a moment.

        To be called while nothing of it is held: an entry of ours from then has a history of its own, and what ended it
        is among these parts.
        """
        for part in [each for each in self.counted if each.symbol == symbol and each.at >= since]:
            tally = self.tally(part.order_id)
            tally.qty, tally.value = tally.qty - part.qty, tally.value - part.value
            self.counted.remove(part)

    def put_intent(self, intent: IntentRecord) -> PutIntent:
        """Remember an intent while the broker may still act on it; returns the operation that records it."""
        if intent.status.is_live:
            self.intents[intent.client_order_id] = intent
        else:
            self.intents.pop(intent.client_order_id, None)
        return PutIntent(intent)

    def withdraw(self, intent: IntentRecord) -> str:
        """Record that an intent was not acted on: the position shrank while it was written. Returns the reason."""
        detail = "not sent: less is held than a moment ago"
        self.ledger.post(self.put_intent(replace(intent, status=IntentStatus.REJECTED, detail=detail)))
        return detail

    def carry_into_intent(self, order: BrokerOrder) -> None:
        """Record the broker's newest word on an order of ours when it says something new; a late one says nothing."""
        order = self.orders.get(order.id, order)
        intent = self.intents.get(order.client_order_id)
        if intent is None or order.status is OrderStatus.UNRECOGNISED:
            return
        status = intent_status(order.status)
        if (status, order.id) != (intent.status, intent.broker_order_id):
            self.ledger.post(self.put_intent(replace(intent, status=status, broker_order_id=order.id)))

    def know_order(self, order: BrokerOrder) -> None:
        """Remember the newest description of an order and its legs; an older one never replaces a newer one."""
        for member in order.family():
            known = self.orders.get(member.id)
            if known is not None and _is_newer(known, member):
                continue
            self.forget_order(member.id)
            self.orders[member.id] = member
            if member.is_open:
                self._open_orders.setdefault(member.symbol, {})[member.id] = member
        while len(self.orders) > MAX_KNOWN_ORDERS:
            self.forget_order(next(iter(self.orders)))

    def forget_order(self, order_id: str) -> None:
        """Forget an order; one that is not known changes nothing."""
        known = self.orders.pop(order_id, None)
        same_contract = self._open_orders.get(known.symbol) if known is not None else None
        if known is None or same_contract is None:
            return
        same_contract.pop(order_id, None)
        if not same_contract:
            del self._open_orders[known.symbol]

    def open_orders_on(self, symbol: str) -> list[BrokerOrder]:
        """Orders of a contract that may still fill, as far as we know."""
        return list(self._open_orders.get(symbol, {}).values())

    def open_orders(self) -> list[BrokerOrder]:
        """All orders that may still fill, as far as we know."""
        return [order for same_contract in self._open_orders.values() for order in same_contract.values()]

    def expiry_moment(self, instrument: Instrument) -> datetime | None:
        """Close of the last session in which an option trades; None for a stock."""
        if instrument.expiry is None:
            return None
        return self.calendar.session_on_or_before(instrument.expiry).close


def _is_newer(known: BrokerOrder, other: BrokerOrder) -> bool:
    if known.filled_qty != other.filled_qty:
        return known.filled_qty > other.filled_qty
    if known.status.is_terminal != other.status.is_terminal:
        return known.status.is_terminal
    return known.updated_at is not None and other.updated_at is not None and known.updated_at > other.updated_at
