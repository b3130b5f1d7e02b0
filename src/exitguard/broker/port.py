"""The Broker port: what the manager and the dispatcher may ask of a brokerage account.

Every call has a timeout. Reads raise a `BrokerError`; a failed or empty answer is never "no positions" (I11).
`submit` and `cancel` never raise for what happened on the wire: an unknown outcome is a result of its own.
"""

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import IntEnum
from typing import Any, Protocol

from exitguard.core.errors import ExitguardError
from exitguard.core.orders import (
    BrokerAccount,
    BrokerOrder,
    BrokerPosition,
    Fill,
    OrderRequest,
    TradeUpdate,
    VenueTime,
)
from exitguard.core.quote import Quote
from exitguard.core.session import Session

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Priority(IntEnum):
    """Who goes first when the request budget is short; lower is sooner. Exits come before everything."""

    EXIT = 0
    PROTECT = 1
    RECONCILE = 2
    ENTRY = 3
    INFO = 4


class BrokerError(ExitguardError):
    """A question to the broker that got no usable answer."""


class BrokerUnavailable(BrokerError):
    """Timeout, lost connection, 5xx, HTML where JSON was due: nothing is known."""


class BrokerRateLimited(BrokerError):
    """429; `retry_after` in seconds where the broker said it."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BrokerUnauthorised(BrokerError):
    """401, or 403 "forbidden.": the credentials are wrong for this host."""


class BrokerRefused(BrokerError):
    """A definite 4xx refusal, with the broker's code and all its extra fields."""

    def __init__(self, status: int, code: int | None, message: str, extras: dict[str, Any] | None = None) -> None:
        super().__init__(f"broker refused with HTTP {status}, code {code}: {message}")
        self.status = status
        self.code = code
        self.reason = message
        self.extras = extras or {}

    @property
    def is_duplicate_client_order_id(self) -> bool:
        """The id was used before: the order exists, fetch it."""
        return self.code == 40010001 or "client_order_id must be unique" in self.reason

    @property
    def is_insufficient_quantity(self) -> bool:
        """Less is free than was asked for: reconcile, do not retry."""
        return "insufficient qty" in self.reason or "held_for_orders" in self.extras

    @property
    def is_intent_mismatch(self) -> bool:
        """The broker sees no such position to close: reconcile, do not retry."""
        return "intent mismatch" in self.reason


@dataclass(frozen=True, slots=True)
class UnreadableRow:
    """One row of an answer that could not be read: what it should have been, why not, and its beginning."""

    what: str
    reason: str
    excerpt: str


class BrokerIncomplete(BrokerError):
    """A list that arrived, but not whole: `rows` could be read, `unreadable` could not.

    Whoever catches it may act on what is in `rows`, and must conclude nothing from what is missing there (I11).
    """

    def __init__(self, rows: list[Any], unreadable: Sequence[UnreadableRow]) -> None:
        first = unreadable[0]
        super().__init__(
            f"{len(unreadable)} part(s) of the broker's answer could not be read; first: {first.what}: {first.reason}"
        )
        self.rows = rows
        self.unreadable = tuple(unreadable)


@dataclass(frozen=True, slots=True)
class Accepted:
    """The broker has the order."""

    order: BrokerOrder


@dataclass(frozen=True, slots=True)
class Refused:
    """The broker proved that it does not have the order."""

    error: BrokerRefused | BrokerUnauthorised | BrokerRateLimited


@dataclass(frozen=True, slots=True)
class Unknown:
    """The request may or may not have arrived: look the client order id up.

    `sent` is False when it is proven that not one byte left (no connection): the same id may be sent again at once.
    """

    reason: str
    sent: bool = True


SubmitResult = Accepted | Refused | Unknown


@dataclass(frozen=True, slots=True)
class CancelResult:
    """Outcome of a cancel request; the cancellation itself is asynchronous.

    `known` is False when the request's fate is unknown, or when the broker did not act on it: then `error` says why
    (rate limit, credentials). `already_terminal`: too late. `not_found`: no such order.
    """

    known: bool
    already_terminal: bool = False
    not_found: bool = False
    detail: str = ""
    error: BrokerError | None = None


@dataclass(frozen=True, slots=True)
class Activity:
    """One account activity that is not a fill: expiry, exercise, assignment, split and the like. `raw` is all of it."""

    id: str
    type: str
    symbol: str | None
    qty: Decimal | None
    price: Decimal | None
    net_amount: Decimal | None
    date: date | None
    raw: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Asset:
    """A stock or other asset as the broker lists it."""

    id: str
    symbol: str
    asset_class: str
    status: str
    tradable: bool
    shortable: bool
    easy_to_borrow: bool
    fractionable: bool
    attributes: tuple[str, ...] = ()
    raw: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class OptionContract:
    """An option contract as the broker lists it; `strike` and `close_price` in dollars a share."""

    id: str
    symbol: str
    underlying: str
    root: str
    type: str
    expiry: date
    strike: Decimal
    status: str
    tradable: bool
    multiplier: Decimal
    open_interest: Decimal | None
    close_price: Decimal | None
    raw: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)


class ReferenceData(Protocol):
    """What can be traded: assets and option contracts."""

    async def asset(self, symbol: str) -> Asset | None:
        """Fetch one asset; None when the broker says that it does not exist."""
        ...

    async def assets(self, *, status: str = "active", asset_class: str = "us_equity") -> list[Asset]:
        """List assets."""
        ...

    async def option_contract(self, symbol: str) -> OptionContract | None:
        """Fetch one contract; None when the broker says that it does not exist."""
        ...

    async def option_contracts(
        self,
        underlyings: Collection[str],
        *,
        expiry_from: date,
        expiry_to: date,
        type: str | None = None,
        strike_from: Decimal | None = None,
        strike_to: Decimal | None = None,
    ) -> list[OptionContract]:
        """List active contracts between two expiries, both included, all pages."""
        ...


class Broker(Protocol):
    """REST side of one brokerage account."""

    async def account(self) -> BrokerAccount:
        """Describe the account behind the credential."""
        ...

    async def clock(self) -> VenueTime:
        """Tell the venue's time."""
        ...

    async def calendar(self, start: date, end: date) -> list[Session]:
        """List trading sessions, both ends included."""
        ...

    async def submit(self, request: OrderRequest, priority: Priority = Priority.EXIT) -> SubmitResult:
        """Send one order, once. Never retried here."""
        ...

    async def cancel(self, order_id: str, priority: Priority = Priority.EXIT) -> CancelResult:
        """Ask for an order's cancellation."""
        ...

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
        """Replace an order; the answer describes the new one, which has an id of its own."""
        ...

    async def order(self, order_id: str) -> BrokerOrder | None:
        """Fetch one order with its legs; None when the broker proves that it has none (404)."""
        ...

    async def order_by_client_id(self, client_order_id: str) -> BrokerOrder | None:
        """Fetch one order by our id; None on 404, which right after a send is not yet proof of absence."""
        ...

    async def open_orders(
        self, symbols: Collection[str] | None = None, priority: Priority = Priority.RECONCILE
    ) -> list[BrokerOrder]:
        """List all open orders, nested, all pages."""
        ...

    async def orders_since(self, after: datetime, symbols: Collection[str] | None = None) -> list[BrokerOrder]:
        """List orders of every state submitted after a moment, nested, all pages, oldest first."""
        ...

    async def positions(self) -> list[BrokerPosition]:
        """List all positions."""
        ...

    async def position(self, symbol: str, priority: Priority = Priority.EXIT) -> BrokerPosition | None:
        """Fetch one position; None when the broker says that it does not exist."""
        ...

    async def fills(self, after: datetime | None = None, order_id: str | None = None) -> list[Fill]:
        """List FILL activities, oldest first, all pages; `after` filters on the transaction time."""
        ...

    async def activities(self, after: date | None = None) -> list[Activity]:
        """List activities that are not trades, oldest first, all pages."""
        ...

    async def latest_quotes(self, symbols: Collection[str]) -> dict[str, Quote]:
        """Fetch the latest quotes over REST, stocks and options; symbols without one are missing."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...


@dataclass(frozen=True, slots=True)
class StreamUp:
    """A stream is authenticated and subscribed. Everything before it may have been missed: repair over REST.

    `stream` names it: "trade_updates", "stock" or "option".
    """

    at_monotonic: float
    stream: str = ""


@dataclass(frozen=True, slots=True)
class StreamDown:
    """A stream ended, or could not be opened; it reconnects by itself with back-off.

    `error` is set where the cause has a type that a person must act on: BrokerUnauthorised after a bounded number
    of failed authentications, BrokerRateLimited for a connection limit. `deaf`: we ended it, because it was connected
    and did not tell what REST told.
    """

    reason: str
    stream: str = ""
    error: BrokerError | None = None
    deaf: bool = False


@dataclass(frozen=True, slots=True)
class Unparsed:
    """A message that could not be read; kept, reported, never fatal."""

    raw: str
    reason: str


TradeStreamEvent = StreamUp | StreamDown | Unparsed | TradeUpdate


class TradeStream(Protocol):
    """The account's `trade_updates` socket."""

    def events(self) -> AsyncIterator[TradeStreamEvent]:
        """Yield events for ever, reconnecting with back-off; ends when the caller stops."""
        ...

    def reconnect(self, reason: str) -> None:
        """Give up the present connection, which is deaf; a StreamDown follows. Does nothing while there is none."""
        ...


@dataclass(slots=True)
class Tick:
    """A quote as the wire has it; made by the thousands, so plain floats and an integer time.

    Floats only ever answer "is this outside the quiet band?"; a decision is taken on the Decimal `quote()`.
    """

    symbol: str
    bid: float
    ask: float
    bid_size: int
    ask_size: int
    at_ns: int

    def quote(self) -> Quote:
        """The same as exact decimals: the shortest decimal that each float stands for."""
        return Quote(
            self.symbol,
            Decimal(repr(self.bid)),
            Decimal(repr(self.ask)),
            _EPOCH + timedelta(microseconds=self.at_ns // 1000),
            self.bid_size,
            self.ask_size,
        )


TickSink = Callable[[Sequence[Tick]], None]


# A connection that has told no quote for so long is worth comparing with REST.
QUIET_SECONDS = 10.0


class MarketData(Protocol):
    """Quote streams for a changing set of symbols, stocks and options."""

    def watch(self, symbols: Collection[str]) -> None:
        """Set the symbols to receive; takes effect at once when connected and again after every reconnect."""
        ...

    async def run(self, on_ticks: TickSink, on_status: Callable[[StreamUp | StreamDown], None]) -> None:
        """Deliver ticks until cancelled; reconnects with back-off."""
        ...

    def unheard(self) -> frozenset[str]:
        """Symbols subscribed on connections that are up and silent for `QUIET_SECONDS`: worth asking REST about."""
        ...

    def missed(self, symbols: Collection[str]) -> None:
        """REST tells newer quotes of these: a connection that goes on telling nothing is deaf, and is opened anew."""
        ...
