"""The state that every part of the engine shares, and the bookkeeping that must never drift from it.

Indexes of open orders, held quantities and reserved dollars are changed here and nowhere else.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from exitguard.core.session import NEW_YORK, SessionCalendar
from exitguard.paper.engine.errors import not_found
from exitguard.paper.engine.faults import Fault, Faults
from exitguard.paper.engine.model import ZERO, Account, Asset, Execution, Order
from exitguard.paper.engine.sessions import Sessions
from exitguard.paper.engine.settings import ExchangeSettings
from exitguard.paper.engine.views import order_json
from exitguard.paper.engine.wire import Identifiers, microseconds, timestamp, timestamp_or_none

TradeUpdateListener = Callable[[Account, dict[str, Any]], None]


@dataclass(slots=True)
class Changes:
    """What has changed since a keeper last wrote it down; nobody collects this in a venue that is not kept."""

    orders: dict[str, Order] = field(default_factory=dict)
    accounts: dict[str, Account] = field(default_factory=dict)
    forgotten: list[tuple[str, str]] = field(default_factory=list)
    everything: bool = False

    def __bool__(self) -> bool:
        return bool(self.orders or self.accounts or self.forgotten or self.everything)


class Venue:
    """Everything there is: calendar, accounts, assets, listeners, clock."""

    def __init__(
        self,
        calendar: SessionCalendar,
        seed: int,
        now: Callable[[], datetime],
        schedule: Callable[[float, Callable[[], None]], None],
        settings: ExchangeSettings,
        on_event_fault: Callable[[Fault], None],
    ) -> None:
        self.seed = seed
        self.settings = settings
        self.schedule = schedule
        self.sessions = Sessions(calendar)
        self.identifiers = Identifiers(seed, "")
        self.faults = Faults(seed, lambda: timestamp(microseconds(self.moment())), on_event_fault)
        self.accounts: dict[str, Account] = {}
        self.assets: dict[str, Asset] = {}
        self.assets_by_id: dict[str, Asset] = {}
        self.listeners: list[TradeUpdateListener] = []
        self.executions: deque[Execution] = deque(maxlen=settings.executions_kept)
        self.queued: dict[str, Order] = {}
        self.at_close: dict[str, Order] = {}
        self.boundary: datetime | None = None
        self.changes: Changes | None = None
        self._now = now
        self._last_stamp = 0
        self._sequence = 0

    def moment(self) -> datetime:
        """The market's time; while a session boundary is worked off, the boundary's."""
        return self.boundary or self._now()

    def stamp(self) -> int:
        """The market's time in microseconds, strictly increasing: orders can be paged even while time stands still."""
        self._last_stamp = max(microseconds(self.moment()), self._last_stamp + 1)
        return self._last_stamp

    def today(self) -> str:
        """The New York date."""
        return self.moment().astimezone(NEW_YORK).date().isoformat()

    def note(self, order: Order) -> None:
        """An order, or the account that it belongs to, is no longer what a keeper wrote down."""
        changes = self.changes
        if changes is not None:
            changes.orders[order.id] = order
            changes.accounts[order.account.name] = order.account

    def note_account(self, account: Account) -> None:
        """An account is no longer what a keeper wrote down."""
        if self.changes is not None:
            self.changes.accounts[account.name] = account

    def note_everything(self) -> None:
        """Accounts, stocks and days may all have changed: a boundary was crossed or somebody intervened."""
        if self.changes is not None:
            self.changes.everything = True

    def counters(self) -> tuple[int, int]:
        """The newest stamp and the newest sequence number."""
        return self._last_stamp, self._sequence

    def go_on_from(self, stamp: int, sequence: int) -> None:
        """Never give out an earlier stamp or number than these."""
        self._last_stamp = max(self._last_stamp, stamp)
        self._sequence = max(self._sequence, sequence)

    def next_sequence(self) -> int:
        """A number that orders the venue's orders by arrival."""
        self._sequence += 1
        return self._sequence

    def asset(self, symbol_or_id: str) -> Asset | None:
        """An asset by symbol or id."""
        return self.assets.get(symbol_or_id) or self.assets_by_id.get(symbol_or_id)

    def order(self, account: Account, order_id: str) -> Order:
        """An order of this account. Raises ApiError 404."""
        order = account.orders.get(order_id)
        if order is None or order_id in account.unfindable:
            raise not_found(f"order not found for {order_id[:64]}")
        return order

    # Bookkeeping ----------------------------------------------------------------------------------------------------

    def register(self, order: Order) -> None:
        """Make an order known and open."""
        account = order.account
        account.orders[order.id] = order
        account.by_client_id[order.client_order_id] = order
        account.open[order.id] = order
        account.open_by_side.setdefault((order.symbol, order.side), {})[order.id] = order
        self.note(order)

    def retire(self, order: Order) -> None:
        """Take an ended order out of every index and give back what it tied up."""
        account = order.account
        account.open.pop(order.id, None)
        key = (order.symbol, order.side)
        same = account.open_by_side.get(key)
        if same is not None:
            same.pop(order.id, None)
            if not same:
                del account.open_by_side[key]
        self.queued.pop(order.id, None)
        self.at_close.pop(order.id, None)
        self.leave_book(order)
        self.hold(order, ZERO)
        self.reserve(order, ZERO)
        self.note(order)

    def hold(self, order: Order, qty: Decimal) -> None:
        """Tie up `qty` of the account's position for this order, instead of what it tied up before."""
        if qty == order.held:
            return
        holds = order.account.holds
        total = holds.get(order.symbol, ZERO) + qty - order.held
        order.held = qty
        self.note(order)
        if total:
            holds[order.symbol] = total
        else:
            holds.pop(order.symbol, None)

    def reserve(self, order: Order, dollars: Decimal) -> None:
        """Tie up `dollars` of buying power for this order, instead of what it tied up before."""
        change = dollars - order.reserved
        if not change:
            return
        order.reserved = dollars
        self.note(order)
        if order.asset is None or order.asset.is_option:
            order.account.option_reserve += change
        else:
            order.account.stock_reserve += change

    def enter_book(self, order: Order) -> None:
        """Let quotes reach this order."""
        if order.asset is None:
            return
        book = order.asset.own_book()
        self.note(order)
        if order.type == "trailing_stop" and not order.triggered:
            book.trailing[order.id] = order
        elif order.type in ("stop", "stop_limit") and not order.triggered:
            book.stops[order.id] = order
        elif order.limit_price is not None and order.time_in_force != "opg":
            book.limits[order.id] = order
        else:
            # An opening order takes the first quote or ends with it, whatever its limit.
            book.immediate[order.id] = order
        book.stale = True

    def leave_book(self, order: Order) -> None:
        """Let no quote reach this order any more."""
        if order.asset is None:
            return
        book = order.asset.book
        if book is None:
            return
        for shelf in (book.immediate, book.limits, book.stops, book.trailing):
            if shelf.pop(order.id, None) is not None:
                book.stale = True

    # Telling --------------------------------------------------------------------------------------------------------

    def emit(self, event: str, order: Order, **extra: Any) -> None:
        """Tell the listeners what happened to an order; `order` travels without its legs, as Alpaca sends it."""
        self.note(order)
        if not self.listeners:
            return
        view = order_json(order)
        view["cancel_requested_at"] = timestamp_or_none(order.cancel_requested)
        data = {"event": event, "timestamp": timestamp(order.updated), "order": view, **extra}
        for listener in self.listeners:
            listener(order.account, data)
