"""The order book of the brokerage in memory: orders, legs, holds and fills, matched against the newest quotes."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from exitguard.broker.port import BrokerRefused
from exitguard.core.instrument import parse_instrument
from exitguard.core.orders import (
    BrokerOrder,
    BrokerPosition,
    Fill,
    OrderClass,
    OrderRequest,
    OrderSide,
    OrderStatus,
    OrderType,
    PositionIntent,
    TimeInForce,
    TradeUpdate,
)
from exitguard.core.quote import Quote

ZERO = Decimal(0)
_WORKING = (OrderStatus.NEW, OrderStatus.PENDING_NEW, OrderStatus.ACCEPTED, OrderStatus.PARTIALLY_FILLED)


@dataclass(slots=True)
class BookOrder:
    """One order of the book; `snapshot()` is what the outside sees."""

    id: str
    client_order_id: str
    symbol: str
    side: OrderSide
    qty: Decimal
    type: OrderType
    order_class: OrderClass
    limit_price: Decimal | None
    stop_price: Decimal | None
    position_intent: PositionIntent
    status: OrderStatus
    submitted_at: datetime
    updated_at: datetime
    group: str
    role: str = ""
    filled_qty: Decimal = ZERO
    filled_value: Decimal = ZERO
    filled_at: datetime | None = None
    replaced_by: str | None = None
    replaces: str | None = None
    legs: list["BookOrder"] = field(default_factory=list)
    time_in_force: TimeInForce = TimeInForce.DAY
    extended_hours: bool = False

    @property
    def left(self) -> Decimal:
        """Quantity not filled yet."""
        return self.qty - self.filled_qty

    def snapshot(self, nested: bool = True) -> BrokerOrder:
        """The order as the broker describes it."""
        return BrokerOrder(
            id=self.id,
            client_order_id=self.client_order_id,
            symbol=self.symbol,
            side=self.side,
            status=self.status,
            qty=self.qty,
            filled_qty=self.filled_qty,
            filled_avg_price=self.filled_value / self.filled_qty if self.filled_qty else None,
            type=self.type,
            order_class="" if self.order_class is OrderClass.SIMPLE else self.order_class.value,
            limit_price=self.limit_price,
            stop_price=self.stop_price,
            submitted_at=self.submitted_at,
            updated_at=self.updated_at,
            filled_at=self.filled_at,
            replaced_by=self.replaced_by,
            replaces=self.replaces,
            position_intent=self.position_intent.value,
            legs=tuple(leg.snapshot() for leg in self.legs) if nested else (),
            raw={"group_id": self.group, "group_role": self.role} if self.role else {},
        )


class MemoryBook:
    """Cash, positions and orders of one account."""

    def __init__(self, now: Callable[[], datetime], cash: Decimal) -> None:
        self._now = now
        self.cash = cash
        self.trading_blocked = False
        self.auto_fill = True
        self.largest_fill: Decimal | None = None
        self.orders: dict[str, BookOrder] = {}
        self.quotes: dict[str, Quote] = {}
        self.held: dict[str, tuple[Decimal, Decimal]] = {}
        self.all_fills: list[Fill] = []
        self.update_sinks: list[Callable[[TradeUpdate], None]] = []

    def equity(self) -> Decimal:
        """Cash and positions at the middle of their quotes, or at entry where there is none."""
        total = self.cash
        for symbol, (qty, average) in self.held.items():
            quote = self.quotes.get(symbol)
            usable = quote is not None and quote.bid.is_finite() and quote.ask.is_finite()
            price = quote.mid if quote is not None and usable else average
            total += parse_instrument(symbol).notional(qty, price)
        return total

    def match(self, symbol: str) -> None:
        """Fill what the newest quote of `symbol` fills."""
        quote = self.quotes.get(symbol)
        if not self.auto_fill or quote is None or not (quote.bid.is_finite() and quote.ask.is_finite()):
            return
        for order in list(self._everything()):
            if order.symbol != symbol or not self._triggers(order):
                continue
            price = self._marketable_at(order, quote)
            if price is not None:
                qty = order.left if self.largest_fill is None else min(order.left, self.largest_fill)
                self._execute(order, qty, price)

    def _triggers(self, order: BookOrder) -> bool:
        if order.status in _WORKING or order.status is OrderStatus.PENDING_CANCEL:
            return True
        # The stop of a live pair is reported `held` and still triggers.
        parent = self._parent(order)
        if order.status is not OrderStatus.HELD or parent is None or order.type is not OrderType.STOP:
            return False
        live_oco = parent.order_class is OrderClass.OCO and not parent.status.is_terminal
        return live_oco or parent.status is OrderStatus.FILLED

    @staticmethod
    def _marketable_at(order: BookOrder, quote: Quote) -> Decimal | None:
        buying = order.side is OrderSide.BUY
        far = quote.ask if buying else quote.bid
        if far <= 0:
            return None
        if order.type is OrderType.MARKET:
            return far
        if order.type is OrderType.LIMIT and order.limit_price is not None:
            reached = far <= order.limit_price if buying else far >= order.limit_price
            return far if reached else None
        if order.type is OrderType.STOP and order.stop_price is not None:
            reached = far >= order.stop_price if buying else far <= order.stop_price
            return far if reached else None
        return None

    def _execute(self, order: BookOrder, qty: Decimal, price: Decimal) -> Fill:
        now = self._now()
        order.filled_qty += qty
        order.filled_value += qty * price
        order.updated_at = now
        done = order.left <= 0
        order.status = OrderStatus.FILLED if done else OrderStatus.PARTIALLY_FILLED
        order.filled_at = now if done else None
        fill = Fill(
            f"{len(self.all_fills) + 1:06d}::{uuid.uuid4()}", order.id, order.client_order_id, order.symbol,
            order.side, qty, price, now,
        )  # fmt: skip
        self.all_fills.append(fill)
        self._book_fill(fill)
        if done:
            self._wake_or_cancel_group(order)
        self._publish("fill" if done else "partial_fill", order, fill)
        return fill

    def _book_fill(self, fill: Fill) -> None:
        signed = fill.qty if fill.side is OrderSide.BUY else -fill.qty
        qty, average = self.held.get(fill.symbol, (ZERO, ZERO))
        after = qty + signed
        if qty * signed >= 0:
            average = (abs(qty) * average + fill.qty * fill.price) / abs(after)
        elif after * qty < 0:
            average = fill.price
        self.held[fill.symbol] = (after, average)
        if after == 0:
            del self.held[fill.symbol]
        self.cash -= parse_instrument(fill.symbol).notional(signed, fill.price)

    def _wake_or_cancel_group(self, order: BookOrder) -> None:
        parent = self._parent(order)
        if parent is None and order.order_class is OrderClass.BRACKET:
            for leg in order.legs:
                if leg.type is OrderType.LIMIT and leg.status is OrderStatus.HELD:
                    leg.status = OrderStatus.NEW
                    self._publish("new", leg)
        for other in self._everything():
            if other is order or other.group != order.group or not order.role or order.role == "entry":
                continue
            if not other.status.is_terminal:
                self._set_canceled(other)

    def _set_canceled(self, order: BookOrder) -> None:
        order.status = OrderStatus.CANCELED
        order.updated_at = self._now()
        self._publish("canceled", order)
        if not order.role:
            return
        for other in self._everything():
            if other.group == order.group and not other.status.is_terminal:
                self._set_canceled(other)

    def _book(self, request: OrderRequest) -> BookOrder:
        group = str(uuid.uuid4())
        grouped = request.order_class is not OrderClass.SIMPLE
        role = {OrderClass.OCO: "take_profit", OrderClass.SIMPLE: ""}.get(request.order_class, "entry")
        limit = request.take_profit if request.order_class is OrderClass.OCO else request.limit_price
        order = self._new(request, request.client_order_id, request.side, request.type, limit, request.stop_price)
        order.group, order.role = group, role
        order.order_class = request.order_class
        side = request.side if request.order_class is OrderClass.OCO else request.side.opposite
        wanted: list[tuple[OrderType, Decimal | None, Decimal | None, str]] = []
        if request.take_profit is not None and request.order_class is not OrderClass.OCO:
            wanted.append((OrderType.LIMIT, request.take_profit, None, "take_profit"))
        if request.stop_loss is not None:
            wanted.append((OrderType.STOP, None, request.stop_loss, "stop_loss"))
        if grouped:
            closing = PositionIntent.SELL_TO_CLOSE if side is OrderSide.SELL else PositionIntent.BUY_TO_CLOSE
            for kind, leg_limit, leg_stop, leg_role in wanted:
                leg = self._new(request, str(uuid.uuid4()), side, kind, leg_limit, leg_stop)
                leg.group, leg.role, leg.status = group, leg_role, OrderStatus.HELD
                leg.order_class, leg.position_intent = request.order_class, closing
                order.legs.append(leg)
        self.orders[order.id] = order
        self._publish("new", order)
        return order

    def _new(
        self,
        request: OrderRequest,
        client_order_id: str,
        side: OrderSide,
        kind: OrderType,
        limit: Decimal | None,
        stop: Decimal | None,
    ) -> BookOrder:
        now = self._now()
        return BookOrder(
            str(uuid.uuid4()), client_order_id, request.symbol, side, request.qty, kind, OrderClass.SIMPLE, limit, stop,
            request.position_intent, OrderStatus.NEW, now, now, "", time_in_force=request.time_in_force,
            extended_hours=request.extended_hours,
        )  # fmt: skip

    def _refusal(self, request: OrderRequest) -> BrokerRefused | None:
        if self._used(request.client_order_id):
            return BrokerRefused(422, 40010001, "client_order_id must be unique")
        qty = self.held.get(request.symbol, (ZERO, ZERO))[0]
        closing = request.position_intent in (PositionIntent.SELL_TO_CLOSE, PositionIntent.BUY_TO_CLOSE)
        covered = qty > 0 if request.side is OrderSide.SELL else qty < 0
        if closing is not covered:
            return BrokerRefused(422, 42210000, f"position intent mismatch, specified: {request.position_intent}")
        if closing and request.qty > (free := abs(qty) - self._resting(request.symbol, request.side)):
            return BrokerRefused(
                403, 40310000,
                f"insufficient qty available for order (requested: {request.qty}, available: {free})",
                {"available": str(free), "existing_qty": str(abs(qty)), "held_for_orders": str(abs(qty) - free)},
            )  # fmt: skip
        if not closing and self.trading_blocked:
            return BrokerRefused(403, 40310000, "trading is blocked")
        if request.time_in_force is TimeInForce.OPG:
            return BrokerRefused(422, 42210000, "opg orders are not taken here")
        return None

    def _resting(self, symbol: str, side: OrderSide) -> Decimal:
        groups: dict[str, Decimal] = {}
        for order in self._everything():
            reduces = order.position_intent in (PositionIntent.SELL_TO_CLOSE, PositionIntent.BUY_TO_CLOSE)
            if order.symbol == symbol and order.side is side and reduces and not order.status.is_terminal:
                parent = self._parent(order)
                if order.status is OrderStatus.HELD and parent is not None and parent.status in _WORKING:
                    continue
                groups[order.group or order.id] = max(groups.get(order.group or order.id, ZERO), order.left)
        return sum(groups.values(), ZERO)

    def _position(self, symbol: str) -> BrokerPosition:
        qty, average = self.held[symbol]
        quote = self.quotes.get(symbol)
        price = quote.mid if quote is not None else None
        closing = OrderSide.SELL if qty > 0 else OrderSide.BUY
        free = abs(qty) - self._resting(symbol, closing)
        value = parse_instrument(symbol).notional(qty, price) if price is not None else None
        return BrokerPosition(symbol, qty, free if qty > 0 else -free, average, price, value, f"asset-{symbol}")

    def _everything(self) -> list[BookOrder]:
        found = list(self.orders.values())
        for order in self.orders.values():
            found += [leg for leg in order.legs if leg.id not in self.orders]
        return found

    def _find(self, order_id: str) -> BookOrder | None:
        return next((o for o in self._everything() if o.id == order_id), None)

    def _parent(self, order: BookOrder) -> BookOrder | None:
        return next((o for o in self.orders.values() if order in o.legs), None)

    def _used(self, client_order_id: str) -> bool:
        return any(o.client_order_id == client_order_id for o in self._everything())

    def _publish(self, event: str, order: BookOrder, fill: Fill | None = None) -> None:
        qty = self.held.get(order.symbol, (ZERO, ZERO))[0]
        update = TradeUpdate(event, order.snapshot(nested=False), self._now(), fill, qty if fill else None)
        for sink in list(self.update_sinks):
            sink(update)
