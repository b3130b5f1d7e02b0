"""A small brokerage account in memory that follows the contract of `broker.port.Broker`.

It matches against the newest quotes, holds quantities for resting orders, keeps used client order ids used, and can
be told to answer badly: an accepted order whose answer is lost, an order that never arrived, slow cancels, partial
fills, failing reads. Everything it was asked lies in `calls`.
"""

import asyncio
import uuid
from collections import deque
from collections.abc import Callable, Collection
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any

from exitguard.broker.port import (
    Accepted,
    Activity,
    BrokerError,
    BrokerRefused,
    CancelResult,
    Priority,
    Refused,
    SubmitResult,
    Unknown,
)
from exitguard.core.orders import (
    BrokerAccount,
    BrokerOrder,
    BrokerPosition,
    Fill,
    OrderClass,
    OrderRequest,
    OrderSide,
    OrderStatus,
    OrderType,
    PositionIntent,
    VenueTime,
)
from exitguard.core.quote import Quote
from exitguard.core.session import Session, SessionCalendar, table_calendar
from exitguard.sim.memory_book import ZERO, BookOrder, MemoryBook


class Wire(Enum):
    """What becomes of one submit: the default is an honest answer."""

    HONEST = "honest"
    ACCEPTED_ANSWER_LOST = "accepted, the answer is lost"
    NEVER_ARRIVED = "the request is lost"


class MemoryBroker(MemoryBook):
    """One account of a broker, in memory. Implements `broker.port.Broker`."""

    def __init__(
        self,
        now: Callable[[], datetime],
        *,
        account_number: str = "PA000FAKE01",
        cash: Decimal = Decimal(100_000),
        calendar: SessionCalendar | None = None,
    ) -> None:
        super().__init__(now, cash)
        self._calendar = calendar or table_calendar()
        self.account_number = account_number
        self.options_trading_level = 3
        self.shorting_enabled = True
        self.buying_power_factor = Decimal(4)
        self.slow_cancels = False
        self.ignored_cancels = False
        self.hidden_lookups = 0
        self._wire: deque[Wire | BrokerRefused] = deque()
        self._read_failures: dict[str, deque[BrokerError]] = {}
        self.all_activities: list[Activity] = []
        self.calls: list[tuple[str, Any]] = []
        self.submitted: list[OrderRequest] = []
        self.closed = False
        self.quote_sinks: list[Callable[[Quote], None]] = []

    # What a test says -------------------------------------------------------------------------------------------

    def next_submits(self, *outcomes: Wire | BrokerRefused) -> None:
        """Decide what becomes of the next submits, in order."""
        self._wire.extend(outcomes)

    def fail_reads(self, method: str, error: BrokerError, times: int = 1) -> None:
        """Make the next `times` calls of a reading method raise."""
        self._read_failures.setdefault(method, deque()).extend([error] * times)

    def set_quote(self, symbol: str, bid: str | Decimal, ask: str | Decimal, *, at: datetime | None = None) -> Quote:
        """Publish a quote and match the book against it."""
        quote = Quote(symbol, Decimal(bid), Decimal(ask), at or self._now(), 100, 100)
        self.quotes[symbol] = quote
        for sink in list(self.quote_sinks):
            sink(quote)
        self.match(symbol)
        return quote

    def hold(self, symbol: str, qty: str | Decimal, price: str | Decimal) -> None:
        """Put a position into the account without an order (a dashboard trade, or history from before)."""
        self.held[symbol] = (Decimal(qty), Decimal(price))

    def fill(self, order_id: str, qty: Decimal, price: Decimal) -> Fill:
        """Fill part of an order by hand, whatever the quotes say."""
        order = self._find(order_id)
        assert order is not None, f"no order {order_id}"
        return self._execute(order, qty, price)

    def external_order(self, symbol: str, side: OrderSide, qty: str | Decimal, price: str | Decimal) -> BookOrder:
        """A filled order that is not ours: somebody traded on the dashboard."""
        now = self._now()
        uid = str(uuid.uuid4())
        intent = PositionIntent.BUY_TO_OPEN if side is OrderSide.BUY else PositionIntent.SELL_TO_CLOSE
        order = BookOrder(
            str(uuid.uuid4()), uid, symbol, side, Decimal(qty), OrderType.MARKET, OrderClass.SIMPLE,
            None, None, intent, OrderStatus.NEW, now, now, uid,
        )  # fmt: skip
        self.orders[order.id] = order
        self._execute(order, Decimal(qty), Decimal(price))
        return order

    def finish_cancels(self) -> None:
        """Complete every cancel that hangs in `pending_cancel`."""
        for order in self._everything():
            if order.status is OrderStatus.PENDING_CANCEL:
                self._set_canceled(order)

    def expire(self, order_id: str) -> None:
        """Let an order end as a day order does at the close."""
        order = self._find(order_id)
        assert order is not None, f"no order {order_id}"
        order.status = OrderStatus.EXPIRED
        self._publish("expired", order)

    # broker.port.Broker -----------------------------------------------------------------------------------------

    async def account(self) -> BrokerAccount:
        """Describe the account."""
        await self._asked("account", None)
        equity = self.equity()
        return BrokerAccount(
            id=f"id-{self.account_number}",
            account_number=self.account_number,
            status="ACTIVE",
            equity=equity,
            last_equity=equity,
            cash=self.cash,
            buying_power=equity * self.buying_power_factor,
            options_buying_power=self.cash,
            options_trading_level=self.options_trading_level,
            shorting_enabled=self.shorting_enabled,
            trading_blocked=self.trading_blocked,
        )

    async def clock(self) -> VenueTime:
        """Tell the venue's time."""
        await self._asked("clock", None)
        now = self._now()
        return VenueTime(
            now, self._calendar.is_open(now), self._calendar.next_open(now), self._calendar.next_close(now)
        )

    async def calendar(self, start: date, end: date) -> list[Session]:
        """List sessions."""
        await self._asked("calendar", (start, end))
        return self._calendar.between(start, end)

    async def submit(self, request: OrderRequest, priority: Priority = Priority.EXIT) -> SubmitResult:
        """Take one order."""
        self.submitted.append(request)
        self.calls.append(("submit", request))
        await asyncio.sleep(0)
        outcome = self._wire.popleft() if self._wire else Wire.HONEST
        if outcome is Wire.NEVER_ARRIVED:
            return Unknown("connection reset before the request was read")
        if isinstance(outcome, BrokerRefused):
            return Refused(outcome)
        refusal = self._refusal(request)
        if refusal is not None:
            lost = outcome is Wire.ACCEPTED_ANSWER_LOST
            return Unknown("HTTP 504") if lost else Refused(refusal)
        order = self._book(request)
        answer = order.snapshot()
        self.match(order.symbol)
        return Unknown("HTTP 504") if outcome is Wire.ACCEPTED_ANSWER_LOST else Accepted(answer)

    async def cancel(self, order_id: str, priority: Priority = Priority.EXIT) -> CancelResult:
        """Ask for a cancellation."""
        await self._asked("cancel", order_id)
        order = self._find(order_id)
        if order is None:
            return CancelResult(known=True, not_found=True)
        if order.status.is_terminal:
            return CancelResult(known=True, already_terminal=True, detail=order.status.value)
        if self.ignored_cancels:
            return CancelResult(known=True)
        if self.slow_cancels:
            order.status = OrderStatus.PENDING_CANCEL
            self._publish("pending_cancel", order)
        else:
            self._set_canceled(order)
        return CancelResult(known=True)

    async def replace(
        self,
        order_id: str,
        *,
        client_order_id: str,
        qty: Decimal | None = None,
        limit_price: Decimal | None = None,
        stop_price: Decimal | None = None,
        priority: Priority = Priority.PROTECT,
    ) -> SubmitResult:
        """Replace an order by a new one with its own id."""
        await self._asked("replace", order_id)
        old = self._find(order_id)
        if old is None:
            return Refused(BrokerRefused(404, 40410000, "order not found"))
        if old.status.is_terminal:
            return Refused(BrokerRefused(422, 42210000, f'order is already in "{old.status}" state'))
        if self._used(client_order_id):
            return Refused(BrokerRefused(422, 40010001, "client_order_id must be unique"))
        now = self._now()
        new = BookOrder(
            id=str(uuid.uuid4()), client_order_id=client_order_id, symbol=old.symbol, side=old.side,
            qty=qty if qty is not None else old.qty, type=old.type, order_class=old.order_class,
            limit_price=limit_price if limit_price is not None else old.limit_price,
            stop_price=stop_price if stop_price is not None else old.stop_price,
            position_intent=old.position_intent, status=OrderStatus.NEW, submitted_at=now, updated_at=now,
            group=old.group, role=old.role, filled_qty=old.filled_qty, filled_value=old.filled_value,
            replaces=old.id, legs=old.legs,
        )  # fmt: skip
        old.status, old.replaced_by = OrderStatus.REPLACED, new.id
        parent = self._parent(old)
        if parent is None:
            self.orders[new.id] = new
        else:
            parent.legs[parent.legs.index(old)] = new
            self.orders[old.id] = old
        self._publish("replaced", old)
        answer = new.snapshot()
        self.match(new.symbol)
        return Accepted(answer)

    async def order(self, order_id: str) -> BrokerOrder | None:
        """Fetch one order."""
        await self._asked("order", order_id)
        found = self._find(order_id)
        return found.snapshot() if found else None

    async def order_by_client_id(self, client_order_id: str) -> BrokerOrder | None:
        """Fetch one order by our id; `hidden_lookups` answers of 404 come first."""
        await self._asked("order_by_client_id", client_order_id)
        if self.hidden_lookups > 0:
            self.hidden_lookups -= 1
            return None
        return next((o.snapshot() for o in self._everything() if o.client_order_id == client_order_id), None)

    async def open_orders(
        self, symbols: Collection[str] | None = None, priority: Priority = Priority.RECONCILE
    ) -> list[BrokerOrder]:
        """List open orders, nested; a filled parent with live legs shows the legs on top, as Alpaca does."""
        await self._asked("open_orders", symbols)
        found = []
        for order in self.orders.values():
            if symbols is not None and order.symbol not in symbols:
                continue
            if not order.status.is_terminal:
                found.append(order.snapshot())
            else:
                found += [leg.snapshot() for leg in order.legs if not leg.status.is_terminal]
        return found

    async def orders_since(self, after: datetime, symbols: Collection[str] | None = None) -> list[BrokerOrder]:
        """List orders submitted after a moment, oldest first."""
        await self._asked("orders_since", after)
        found = [
            o.snapshot()
            for o in self.orders.values()
            if o.submitted_at > after and (symbols is None or o.symbol in symbols)
        ]
        return sorted(found, key=lambda o: (o.submitted_at or after, o.id))

    async def positions(self) -> list[BrokerPosition]:
        """List positions."""
        await self._asked("positions", None)
        return [self._position(symbol) for symbol, (qty, _) in self.held.items() if qty]

    async def position(self, symbol: str, priority: Priority = Priority.EXIT) -> BrokerPosition | None:
        """Fetch one position."""
        await self._asked("position", symbol)
        return self._position(symbol) if self.held.get(symbol, (ZERO, ZERO))[0] else None

    async def fills(self, after: datetime | None = None, order_id: str | None = None) -> list[Fill]:
        """List fills, oldest first."""
        await self._asked("fills", (after, order_id))
        return [
            f
            for f in self.all_fills
            if (after is None or f.at > after) and (order_id is None or f.order_id == order_id)
        ]

    async def activities(self, after: date | None = None) -> list[Activity]:
        """List activities that are not trades."""
        await self._asked("activities", after)
        return [a for a in self.all_activities if after is None or a.date is None or a.date >= after]

    async def latest_quotes(self, symbols: Collection[str]) -> dict[str, Quote]:
        """Newest quotes."""
        await self._asked("latest_quotes", tuple(symbols))
        return {s: self.quotes[s] for s in symbols if s in self.quotes}

    async def close(self) -> None:
        """Nothing to release."""
        self.closed = True

    async def _asked(self, method: str, argument: Any) -> None:
        self.calls.append((method, argument))
        await asyncio.sleep(0)
        failures = self._read_failures.get(method)
        if failures:
            raise failures.popleft()
