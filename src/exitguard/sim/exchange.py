"""A brokerage account in virtual time: orders fill a moment later, in sessions only, and not always as one would wish.

Everything that goes wrong at the venue itself goes wrong here; what goes wrong on the way to it is in `wire`.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Protocol

from exitguard.broker.port import Accepted, BrokerRateLimited, BrokerRefused, CancelResult, Refused, SubmitResult
from exitguard.core.orders import BrokerPosition, Fill, OrderRequest, OrderSide, OrderStatus, OrderType, TimeInForce
from exitguard.core.session import SessionCalendar
from exitguard.sim.faults import Faults
from exitguard.sim.memory_book import ZERO, BookOrder
from exitguard.sim.memory_broker import MemoryBroker
from exitguard.sim.timeline import Timeline


class Surroundings(Protocol):
    """What an exchange needs of the simulated world."""

    faults: Faults
    timeline: Timeline
    calendar: SessionCalendar
    # Symbols in which nothing trades before a moment.
    halted_until: dict[str, datetime]

    def now(self) -> datetime:
        """The venue's time."""
        ...

    def later(self, seconds: float, work: Callable[..., object], *args: Any) -> None:
        """Do something after virtual seconds, on nobody's behalf."""
        ...


class SimExchange(MemoryBroker):
    """The broker's truth about one account. Everything that processes see of it goes through a `Wire` of theirs."""

    def __init__(self, world: Surroundings, account: str) -> None:
        super().__init__(world.now, account_number=f"PA-{account}", calendar=world.calendar)
        self.world = world
        self.account_name = account
        self.auto_fill = False
        # Moments since which an order may fill (again), and the changes of the holdings with their times.
        self._ready_at: dict[str, datetime] = {}
        self._doomed: dict[str, OrderStatus] = {}
        self.holdings: list[tuple[datetime, dict[str, Decimal]]] = [(world.now(), {})]
        # Splits: when, of which stock, and the new shares for each old one.
        self.splits: list[tuple[datetime, str, Decimal]] = []
        # Shares that came or went for contracts: when, of which stock, how many.
        self.deliveries: list[tuple[datetime, str, Decimal]] = []
        self.fill_watchers: list[Callable[[BookOrder, Fill, Decimal], None]] = []
        self.accept_watchers: list[Callable[[BookOrder], None]] = []

    def _note(self, text: str) -> None:
        self.world.timeline.note("broker", text, self.account_name)

    # Orders -----------------------------------------------------------------------------------------------------

    def take(self, request: OrderRequest) -> SubmitResult:
        """An order arrives."""
        faults = self.world.faults
        self.submitted.append(request)
        if faults.hit("submit_refused"):
            busy = faults.rng("submit_refused").random() < 0.5
            self._note(f"refuses {request.client_order_id}: {'busy' if busy else 'internal error'}")
            if busy:
                return Refused(BrokerRateLimited("too many requests", 1.0))
            return Refused(BrokerRefused(422, 42210000, "the order cannot be taken now"))
        refusal = self._refusal(request)
        if refusal is not None:
            self._note(f"refuses {request.client_order_id} {request.side} {request.qty}: {refusal.reason}")
            return Refused(refusal)
        order = self._book(request)
        kind = f"{request.order_class} {order.type}"
        self._note(f"accepts {order.client_order_id} {order.side} {order.qty} {order.symbol} {kind}")
        for watch in self.accept_watchers:
            watch(order)
        answer = Accepted(order.snapshot())
        self._plan(order)
        return answer

    def _plan(self, order: BookOrder) -> None:
        """Decide what becomes of an accepted order, and when it can fill for the first time."""
        world, faults = self.world, self.world.faults
        if faults.hit("reject_after_accept"):
            world.later(faults.rng("reject_after_accept").uniform(0.05, 2.0), self._end, order, OrderStatus.REJECTED)
        elif faults.hit("venue_cancel"):
            rng = faults.rng("venue_cancel")
            if order.qty > 1 and rng.random() < 0.6:
                self._doomed[order.id] = OrderStatus.CANCELED  # after its first part
            else:
                status = OrderStatus.CANCELED if rng.random() < 0.7 else OrderStatus.EXPIRED
                world.later(rng.uniform(0.05, 3.0), self._end, order, status)
        elif faults.hit("done_for_day"):
            world.later(faults.rng("done_for_day").uniform(0.05, 2.0), self._done_for_day, order)
        elif faults.hit("replaced_order"):
            world.later(faults.rng("replaced_order").uniform(0.05, 2.0), self._replace_behind, order)
        self._wake(order, 0.02 if not faults.strength else faults.rng("fill time").uniform(0.02, 1.0))

    def _wake(self, order: BookOrder, seconds: float) -> None:
        self._ready_at[order.id] = self.world.now() + timedelta(seconds=seconds)
        self.world.later(seconds, self.work, order.symbol)

    def _end(self, order: BookOrder, status: OrderStatus) -> None:
        """The venue ends an order and what hangs on it."""
        if order.status.is_terminal:
            return
        if status is OrderStatus.CANCELED or order.filled_qty:
            self._set_canceled(order)
        else:
            order.status, order.updated_at = status, self.world.now()
            self._publish(status.value, order)
            for leg in order.legs:
                if not leg.status.is_terminal:
                    self._set_canceled(leg)
        self._note(f"{order.status} {order.client_order_id} after {order.filled_qty} of {order.qty}")

    def _done_for_day(self, order: BookOrder) -> None:
        """The venue does no more with the order today; it ends with the session, or when somebody cancels it."""
        if order.status.is_terminal or order.role:
            return
        order.status, order.updated_at = OrderStatus.DONE_FOR_DAY, self.world.now()
        self._note(f"{order.client_order_id} is done for the day after {order.filled_qty} of {order.qty}")
        self._publish("done_for_day", order)

    def _replace_behind(self, order: BookOrder) -> None:
        """Somebody replaces an order by hand; its successor has another id of both kinds."""
        if order.status.is_terminal or order.legs or order.filled_qty:
            return
        now = self.world.now()
        name = f"by-hand-{len(self.orders)}"
        successor = replace(
            order, id=f"{order.id}-r", client_order_id=name, status=OrderStatus.NEW, submitted_at=now, updated_at=now,
            replaces=order.id, legs=[],
        )  # fmt: skip
        order.status, order.replaced_by, order.updated_at = OrderStatus.REPLACED, successor.id, now
        self.orders[successor.id] = successor
        self._note(f"{order.client_order_id} is replaced by {name}")
        self._publish("replaced", order)
        self._wake(successor, 1.0)

    def ask_cancel(self, order_id: str) -> CancelResult:
        """A cancellation arrives."""
        faults, order = self.world.faults, self._find(order_id)
        if order is None:
            return CancelResult(known=True, not_found=True)
        if order.status.is_terminal:
            return CancelResult(known=True, already_terminal=True, detail=order.status.value)
        if faults.hit("cancel_filled") and self._fill_at_last(order):
            return CancelResult(known=True)
        if faults.hit("cancel_slow"):
            order.status, order.updated_at = OrderStatus.PENDING_CANCEL, self.world.now()
            self._publish("pending_cancel", order)
            self.world.later(faults.rng("cancel_slow").uniform(0.5, 12.0), self._end, order, OrderStatus.CANCELED)
        else:
            self._end(order, OrderStatus.CANCELED)
        return CancelResult(known=True)

    def _fill_at_last(self, order: BookOrder) -> bool:
        """The order fills in the moment of its cancellation, wholly or in part."""
        quote = self.quotes.get(order.symbol)
        if quote is None or not self.is_open() or not self._triggers(order):
            return False
        price = order.limit_price or order.stop_price or quote.mid
        half = (order.left / 2).to_integral_value()
        paired = order.role in ("take_profit", "stop_loss")
        part = half if half > 0 and not paired and self.world.faults.rng("cancel_filled").random() < 0.4 else order.left
        self._execute(order, part, price)
        if not order.status.is_terminal:
            self._end(order, OrderStatus.CANCELED)
        return True

    # Matching ---------------------------------------------------------------------------------------------------

    def is_open(self) -> bool:
        """Whether regular hours are on."""
        return self.world.calendar.is_open(self.world.now())

    def work(self, symbol: str) -> None:
        """Fill what the newest quote fills."""
        quote, now = self.quotes.get(symbol), self.world.now()
        if quote is None:
            return
        if now < self.world.halted_until.get(symbol, now):
            return
        is_open = self.is_open()
        for order in list(self._everything()):
            if order.symbol != symbol or order.status.is_terminal or not (is_open or order.extended_hours):
                continue
            if not self._triggers(order) or self._ready_at.get(order.id, now) > now:
                continue
            price = self._marketable_at(order, quote)
            if price is not None:
                self._fill_some(order, price)

    def _fill_some(self, order: BookOrder, price: Decimal) -> None:
        faults, part = self.world.faults, order.left
        doomed = self._doomed.pop(order.id, None)
        # A pair of legs shares one quantity: it fills at once here, and what is left of it is never in doubt.
        paired = order.role in ("take_profit", "stop_loss")
        if order.left > 1 and not paired and (doomed is not None or faults.hit("partial_fill")):
            rng = faults.rng("partial_fill")
            part = Decimal(rng.randint(1, int(order.left) - 1)) if order.left >= 2 else order.left
        elif not paired and faults.hit("overfill"):
            part = order.left + faults.rng("overfill").randint(1, 3)
        self._execute(order, part, price)
        if order.status.is_terminal:
            return
        if doomed is not None:
            self._end(order, doomed)
        else:
            self._wake(order, faults.rng("partial_fill").uniform(0.2, 8.0))

    def _execute(self, order: BookOrder, qty: Decimal, price: Decimal) -> Fill:
        before = self.held.get(order.symbol, (ZERO, ZERO))[0]
        pending = order.status is OrderStatus.PENDING_CANCEL
        fill = super()._execute(order, qty, price)
        if pending and not order.status.is_terminal:
            order.status = OrderStatus.PENDING_CANCEL
        self._note(f"fills {order.client_order_id} {order.side} {qty} of {order.qty} {order.symbol} at {price}")
        for watch in self.fill_watchers:
            watch(order, fill, before)
        return fill

    def _book_fill(self, fill: Fill) -> None:
        super()._book_fill(fill)
        self._note_holdings()

    def _note_holdings(self) -> None:
        self.holdings.append((self.world.now(), {symbol: qty for symbol, (qty, _) in self.held.items()}))

    def end_session(self) -> None:
        """Day orders expire."""
        for order in list(self._everything()):
            if order.time_in_force is TimeInForce.DAY and not order.status.is_terminal:
                self._end(order, OrderStatus.EXPIRED)

    # What is seen of it -----------------------------------------------------------------------------------------

    def positions_at(self, moment: datetime) -> list[BrokerPosition]:
        """The positions as they stood at a moment: what a lagging answer shows."""
        held = next((held for at, held in reversed(self.holdings) if at <= moment), {})
        found = []
        for symbol, qty in held.items():
            now_held, average = self.held.get(symbol, (ZERO, ZERO))
            if now_held == qty:
                found.append(self._position(symbol))
                continue
            closing = OrderSide.SELL if qty > 0 else OrderSide.BUY
            free = max(abs(qty) - self._resting(symbol, closing), ZERO)
            quote = self.quotes.get(symbol)
            average = average or (quote.mid if quote is not None else Decimal(1))
            found.append(
                BrokerPosition(symbol, qty, free if qty > 0 else -free, average, None, None, f"asset-{symbol}")
            )
        return found

    def attempts(self, uid: str) -> list[BookOrder]:
        """The closing orders of ours of one position that may still fill."""
        prefixes = (f"xg-{self.account_name}-{uid}-c", f"xg-{self.account_name}-{uid}-r")
        return [o for o in self._everything() if o.client_order_id.startswith(prefixes) and not o.status.is_terminal]

    def protected(self, symbol: str) -> tuple[Decimal, Decimal]:
        """Quantities under live stops and under live targets of a contract."""
        stops = targets = ZERO
        for order in self._everything():
            if order.symbol != symbol or order.status.is_terminal or not order.role or order.role == "entry":
                continue
            if order.type is OrderType.STOP:
                stops += order.left
            else:
                targets += order.left
        return stops, targets

    # People -----------------------------------------------------------------------------------------------------

    def trade_by_hand(self, symbol: str, signed_qty: Decimal) -> None:
        """Somebody trades on the dashboard: resting orders of the contract go first when he reduces."""
        held = self.held.get(symbol, (ZERO, ZERO))[0]
        quote = self.quotes.get(symbol)
        if quote is None or signed_qty == 0 or not self.is_open():
            return
        if self.world.now() < self.world.halted_until.get(symbol, self.world.now()):
            return
        if held * signed_qty < 0:
            self.cancel_resting(symbol)
            held = self.held.get(symbol, (ZERO, ZERO))[0]
        side = OrderSide.BUY if signed_qty > 0 else OrderSide.SELL
        self._note(f"by hand: {side} {abs(signed_qty)} {symbol}")
        self.external_order(symbol, side, abs(signed_qty), quote.ask if side is OrderSide.BUY else quote.bid)

    def cancel_resting(self, symbol: str) -> None:
        """End every open order of a contract."""
        for order in list(self._everything()):
            if order.symbol == symbol and not order.status.is_terminal:
                self._end(order, OrderStatus.CANCELED)

    def change_without_order(self, symbol: str, signed_qty: Decimal, price: Decimal) -> None:
        """Change a position as the broker does by itself: no order, no fill, no message."""
        held, average = self.held.get(symbol, (ZERO, ZERO))
        after = held + signed_qty
        if after == 0:
            del self.held[symbol]
        elif held * signed_qty >= 0:
            self.held[symbol] = (after, (abs(held) * average + abs(signed_qty) * price) / abs(after))
        else:
            self.held[symbol] = (after, price if after * held < 0 else average)
        self._note_holdings()
