"""Orders, fills and the broker's answers, in the broker's own words.

Value types shared by the broker port, the manager, the dispatcher and the simulator. Unknown enum
values from outside are kept as text, never fatal.
"""

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any


class OrderSide(StrEnum):
    """Direction of an order or a fill."""

    BUY = "buy"
    SELL = "sell"

    @property
    def opposite(self) -> "OrderSide":
        """The other direction."""
        return OrderSide.SELL if self is OrderSide.BUY else OrderSide.BUY


class OrderType(StrEnum):
    """Order types."""

    MARKET = "market"
    LIMIT = "limit"
    STOP = "stop"
    STOP_LIMIT = "stop_limit"
    TRAILING_STOP = "trailing_stop"


class OrderClass(StrEnum):
    """Order classes; SIMPLE goes over the wire as an absent field."""

    SIMPLE = "simple"
    BRACKET = "bracket"
    OCO = "oco"
    OTO = "oto"
    MLEG = "mleg"


class TimeInForce(StrEnum):
    """Times in force."""

    DAY = "day"
    GTC = "gtc"
    OPG = "opg"
    CLS = "cls"
    IOC = "ioc"
    FOK = "fok"


class PositionIntent(StrEnum):
    """What an order does to the position; the broker refuses a mismatch, which guards against flips."""

    BUY_TO_OPEN = "buy_to_open"
    BUY_TO_CLOSE = "buy_to_close"
    SELL_TO_OPEN = "sell_to_open"
    SELL_TO_CLOSE = "sell_to_close"


class OrderStatus(StrEnum):
    """Order states that Alpaca documents, and UNRECOGNISED for one that it does not."""

    NEW = "new"
    PARTIALLY_FILLED = "partially_filled"
    FILLED = "filled"
    DONE_FOR_DAY = "done_for_day"
    CANCELED = "canceled"
    EXPIRED = "expired"
    REPLACED = "replaced"
    PENDING_CANCEL = "pending_cancel"
    PENDING_REPLACE = "pending_replace"
    PENDING_REVIEW = "pending_review"
    ACCEPTED = "accepted"
    PENDING_NEW = "pending_new"
    ACCEPTED_FOR_BIDDING = "accepted_for_bidding"
    STOPPED = "stopped"
    REJECTED = "rejected"
    SUSPENDED = "suspended"
    CALCULATED = "calculated"
    HELD = "held"
    UNRECOGNISED = "unrecognised"

    @property
    def is_terminal(self) -> bool:
        """Whether no further fill can come. DONE_FOR_DAY is not terminal: a GTC order wakes again."""
        return self in _TERMINAL


_TERMINAL = frozenset(
    {OrderStatus.FILLED, OrderStatus.CANCELED, OrderStatus.EXPIRED, OrderStatus.REPLACED, OrderStatus.REJECTED}
)


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """One order to send. Prices in dollars a share, `qty` in shares or contracts, always positive.

    For BRACKET and OCO `take_profit` and `stop_loss` are the legs' prices; for OTO exactly one of them.
    `client_order_id` is never optional: it is the key by which an unknown outcome is resolved.
    """

    client_order_id: str
    symbol: str
    side: OrderSide
    qty: Decimal
    type: OrderType
    time_in_force: TimeInForce
    position_intent: PositionIntent
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    order_class: OrderClass = OrderClass.SIMPLE
    take_profit: Decimal | None = None
    stop_loss: Decimal | None = None
    extended_hours: bool = False


@dataclass(frozen=True, slots=True)
class BrokerOrder:
    """An order as the broker last described it.

    `raw` is the decoded JSON, kept for evidence. `legs` are the nested children of a bracket, OCO or OTO.
    """

    id: str
    client_order_id: str
    symbol: str
    side: OrderSide
    status: OrderStatus
    qty: Decimal
    filled_qty: Decimal
    filled_avg_price: Decimal | None
    type: OrderType | None
    order_class: str
    limit_price: Decimal | None
    stop_price: Decimal | None
    submitted_at: datetime | None
    updated_at: datetime | None
    filled_at: datetime | None = None
    replaced_by: str | None = None
    replaces: str | None = None
    position_intent: str | None = None
    legs: tuple["BrokerOrder", ...] = ()
    raw: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def is_open(self) -> bool:
        """Whether it may still fill."""
        return not self.status.is_terminal

    def family(self) -> tuple["BrokerOrder", ...]:
        """The order itself and all its legs."""
        return (self, *self.legs)


@dataclass(frozen=True, slots=True)
class Fill:
    """One execution. `execution_id` is unique within an account; `qty` positive; `price` dollars a share."""

    execution_id: str
    order_id: str
    client_order_id: str | None
    symbol: str
    side: OrderSide
    qty: Decimal
    price: Decimal
    at: datetime


@dataclass(frozen=True, slots=True)
class BrokerPosition:
    """A position as the broker reports it; `qty` is signed (negative when short)."""

    symbol: str
    qty: Decimal
    qty_available: Decimal
    avg_entry_price: Decimal
    current_price: Decimal | None
    market_value: Decimal | None
    asset_id: str
    raw: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class BrokerAccount:
    """The account behind a credential; dollars."""

    id: str
    account_number: str
    status: str
    equity: Decimal
    last_equity: Decimal
    cash: Decimal
    buying_power: Decimal
    options_buying_power: Decimal | None
    options_trading_level: int
    shorting_enabled: bool
    trading_blocked: bool
    raw: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class VenueTime:
    """The venue's answer to GET /v2/clock."""

    now: datetime
    is_open: bool
    next_open: datetime
    next_close: datetime


@dataclass(frozen=True, slots=True)
class TradeUpdate:
    """One message of the trade stream. `event` is kept as text: unknown ones must not be lost.

    `fill` is set on fill and partial_fill. `position_qty` is the signed position after it.
    """

    event: str
    order: BrokerOrder
    at: datetime
    fill: Fill | None = None
    position_qty: Decimal | None = None
