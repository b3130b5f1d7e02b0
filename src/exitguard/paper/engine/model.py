"""State of the venue: assets, accounts, orders, groups, positions. Plain data; the rules live in the other modules.

Statuses, types, sides and the like are the wire's own strings: every one of them is looked at far more often on its
way out than in here.
"""

from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any

from exitguard.core.quote import Quote
from exitguard.paper.engine.equity import EquityCurve
from exitguard.paper.engine.wire import Identifiers

ZERO = Decimal(0)
ONE = Decimal(1)
TERMINAL = frozenset({"filled", "canceled", "expired", "rejected", "replaced"})
COMPLEX = frozenset({"bracket", "oco", "oto"})
NO_ASSET_ID = "00000000-0000-0000-0000-000000000000"


@dataclass(slots=True, eq=False)
class Asset:
    """A listed stock or option contract with its newest market; `expiry`, `strike`, `right` are an option's."""

    id: str
    symbol: str
    name: str
    exchange: str
    is_option: bool = False
    multiplier: Decimal = ONE
    status: str = "active"
    tradable: bool = True
    marginable: bool = True
    shortable: bool = True
    easy_to_borrow: bool = True
    fractionable: bool = True
    attributes: list[str] = field(default_factory=list)
    underlying: "Asset | None" = None
    root: str = ""
    expiry: date | None = None
    last_session: date | None = None
    strike: Decimal = ZERO
    right: str = ""
    open_interest: int = 0
    halted: bool = False
    quote: Quote | None = None
    good: Quote | None = None
    print_price: Decimal | None = None
    lastday_price: Decimal = ZERO
    lastday: date | None = None
    # Made with the first order: nobody trades most of the thousands of contracts.
    book: "Book | None" = None

    def own_book(self) -> "Book":
        """Its book, made when there is none yet."""
        if self.book is None:
            self.book = Book()
        return self.book

    @property
    def asset_class(self) -> str:
        """Alpaca's asset class."""
        return "us_option" if self.is_option else "us_equity"

    @property
    def price(self) -> Decimal:
        """What one share or contract's share is worth now: the newest print, else the middle of the last sane quote."""
        if self.print_price is not None:
            return self.print_price
        good = self.good
        if good is None:
            return self.lastday_price
        return good.last if good.last is not None and good.last > 0 else good.mid


@dataclass(slots=True, eq=False)
class Book:
    """The working orders of one asset, by what wakes them.

    The four levels are a quiet band: a quote that stays inside it can neither fill a limit nor trigger a stop, and
    costs four comparisons whatever the number of orders. They are recomputed when the orders have changed.
    """

    immediate: dict[str, "Order"] = field(default_factory=dict)
    limits: dict[str, "Order"] = field(default_factory=dict)
    stops: dict[str, "Order"] = field(default_factory=dict)
    trailing: dict[str, "Order"] = field(default_factory=dict)
    stale: bool = False
    highest_buy_limit: Decimal | None = None
    lowest_sell_limit: Decimal | None = None
    lowest_buy_stop: Decimal | None = None
    highest_sell_stop: Decimal | None = None
    taken_bid: int = 0
    taken_ask: int = 0

    @property
    def has_orders(self) -> bool:
        """Whether any quote may be waited for."""
        return bool(self.immediate or self.limits or self.stops or self.trailing)


@dataclass(slots=True, eq=False)
class Group:
    """Orders that belong together: an entry with its exits, or two exits of which one cancels the other."""

    id: str
    kind: str
    entry: "Order | None" = None
    take_profit: "Order | None" = None
    stop_loss: "Order | None" = None
    active: bool = False

    def members(self) -> list["Order"]:
        """Entry, take profit, stop loss, as far as they exist."""
        return [order for order in (self.entry, self.take_profit, self.stop_loss) if order is not None]


@dataclass(slots=True, eq=False)
class Order:
    """One order. Stamps are microseconds since 1970; `qty` is None for a notional order."""

    id: str
    client_order_id: str
    account: "Account"
    asset: Asset | None
    symbol: str
    side: str
    type: str
    time_in_force: str
    qty: Decimal | None
    sequence: int
    created: int
    submitted: int
    updated: int
    status: str = "pending_new"
    notional: Decimal | None = None
    order_class: str = ""
    intent: str = ""
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    trail_price: Decimal | None = None
    trail_percent: Decimal | None = None
    high_water_mark: Decimal | None = None
    extended_hours: bool = False
    filled_qty: Decimal = ZERO
    filled_value: Decimal = ZERO
    filled: int | None = None
    expired: int | None = None
    expires: int | None = None
    canceled: int | None = None
    failed: int | None = None
    replaced: int | None = None
    cancel_requested: int | None = None
    replaced_by: str | None = None
    replaces: str | None = None
    legs: list["Order"] = field(default_factory=list)
    parent: "Order | None" = None
    group: Group | None = None
    group_role: str | None = None
    ratio: int | None = None
    triggered: bool = False
    withheld: bool = False
    prior_status: str = "new"
    held: Decimal = ZERO
    unit_cost: Decimal = ZERO
    reserved: Decimal = ZERO

    @property
    def is_open(self) -> bool:
        """Whether it may still fill."""
        return self.status not in TERMINAL

    @property
    def remaining(self) -> Decimal:
        """Quantity not yet filled; zero for a notional order, whose quantity is known only when it fills."""
        return ZERO if self.qty is None else self.qty - self.filled_qty

    @property
    def is_closing(self) -> bool:
        """Whether it reduces a position."""
        return self.intent.endswith("_to_close")

    @property
    def average_price(self) -> Decimal | None:
        """Volume-weighted average of its executions."""
        return self.filled_value / self.filled_qty if self.filled_qty else None


@dataclass(slots=True, eq=False)
class Position:
    """A holding; `qty` is signed, `average` dollars a share, `opened` the New York day on which it began."""

    asset: Asset
    qty: Decimal
    average: Decimal
    opened: date

    @property
    def market_value(self) -> Decimal:
        """Signed dollars at the newest price, an option's multiplier included."""
        return self.qty * self.asset.price * self.asset.multiplier

    @property
    def cost_basis(self) -> Decimal:
        """Signed dollars paid."""
        return self.qty * self.average * self.asset.multiplier


@dataclass(slots=True, eq=False)
class Execution:
    """One fill, as the venue remembers it for its operator."""

    account: str
    order_id: str
    client_order_id: str
    execution_id: str
    symbol: str
    side: str
    qty: Decimal
    price: Decimal
    at: int


@dataclass(slots=True, eq=False)
class Account:
    """One brokerage account; its credentials follow from the venue's seed and its name.

    `holds` is the quantity that open closing orders tie up, by symbol; `stock_reserve` and `option_reserve` are the
    dollars that open opening orders tie up. `equity` has only the closes of days before `equity_thinned`.
    """

    name: str
    id: str
    account_number: str
    key: str
    secret: str
    cash: Decimal
    created: int
    identifiers: Identifiers
    configurations: dict[str, Any]
    last_equity: Decimal = ZERO
    last_maintenance_margin: Decimal = ZERO
    balance_date: str = ""
    orders: dict[str, Order] = field(default_factory=dict)
    by_client_id: dict[str, Order | None] = field(default_factory=dict)
    open: dict[str, Order] = field(default_factory=dict)
    open_by_side: dict[tuple[str, str], dict[str, Order]] = field(default_factory=dict)
    holds: dict[str, Decimal] = field(default_factory=dict)
    stock_reserve: Decimal = ZERO
    option_reserve: Decimal = ZERO
    positions: dict[str, Position] = field(default_factory=dict)
    activities: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    activity_positions: dict[str, int] = field(default_factory=dict)
    activities_dropped: int = 0
    pending_activities: list[dict[str, Any]] = field(default_factory=list)
    do_not_exercise: set[str] = field(default_factory=set)
    lagging: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    unfindable: set[str] = field(default_factory=set)
    watchlists: dict[str, dict[str, Any]] = field(default_factory=dict)
    equity: EquityCurve = field(default_factory=EquityCurve)
    equity_thinned: int = 0
    trading_blocked: bool = False

    def add_activity(self, stamp: int, activity: dict[str, Any]) -> None:
        """Append an activity; its id becomes a paging cursor."""
        self.activity_positions[activity["id"]] = self.activities_dropped + len(self.activities)
        self.activities.append((stamp, activity))

    def position_qty(self, symbol: str) -> Decimal:
        """Signed quantity held, zero when flat."""
        position = self.positions.get(symbol)
        return ZERO if position is None else position.qty

    def opposite_open(self, symbol: str, side: str) -> list[Order]:
        """Open orders of the other side in the same symbol."""
        other = "sell" if side == "buy" else "buy"
        return list(self.open_by_side.get((symbol, other), {}).values())
