"""From Alpaca's JSON to the value types of `core.orders` and `broker.port`.

Lenient where the vendor changes things (new enum values, new or dropped fields, numbers for strings), strict where a
wrong reading would cost money: what names the thing or counts it must be there and make sense, else the row is
unreadable as a whole (`Unreadable`) and its neighbours go on.
"""

import json
from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import Any

import orjson

from exitguard.broker.port import Activity, Asset, OptionContract
from exitguard.core.errors import InvalidInput
from exitguard.core.orders import (
    BrokerAccount,
    BrokerOrder,
    BrokerPosition,
    Fill,
    OrderSide,
    OrderStatus,
    OrderType,
    VenueTime,
)
from exitguard.core.quote import Quote
from exitguard.core.session import Session, make_session

# Longest text that is taken from outside into a field of our own; `raw` keeps the rest.
MAX_TEXT = 256
EXCERPT = 200

Row = Mapping[str, Any]

_SIDES = {
    "buy": OrderSide.BUY,
    "buy_to_cover": OrderSide.BUY,
    "sell": OrderSide.SELL,
    # FILL activities of opening shorts carry this one.
    "sell_short": OrderSide.SELL,
}


class Unreadable(InvalidInput):
    """A row that cannot be what it claims to be."""


def parse_json(body: bytes) -> Any:
    """Parse JSON; accepts the NaN and Infinity that Python servers emit. Raises ValueError."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        if b"NaN" not in body and b"Infinity" not in body:
            raise
    try:
        return json.loads(body)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def excerpt(raw: object) -> str:
    """The beginning of something from outside, on one line, for a log or an error."""
    text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)
    text = " ".join(text[: EXCERPT * 4].split())
    return text if len(text) <= EXCERPT else text[:EXCERPT] + "…"


def as_row(raw: object, what: str) -> dict[str, Any]:
    """Check that something is a JSON object."""
    if not isinstance(raw, dict):
        raise Unreadable(f"{what} must be a JSON object, was {type(raw).__name__}")
    return raw


def text(row: Row, key: str) -> str:
    """A field that must be a non-empty string."""
    value = row.get(key)
    if not isinstance(value, str) or not value or len(value) > MAX_TEXT:
        raise Unreadable(f"{key} must be a text of 1 to {MAX_TEXT} characters, was {excerpt(value)!r}")
    return value


def text_or(row: Row, key: str, default: str | None = None) -> str | None:
    """A string field that may be missing, null or empty."""
    value = row.get(key)
    return value[:MAX_TEXT] if isinstance(value, str) and value else default


def decimal(row: Row, key: str) -> Decimal:
    """A field that must be a finite number, as a string or a JSON number."""
    value = decimal_or_none(row, key)
    if value is None:
        raise Unreadable(f"{key} must be a number, was missing or null")
    return value


def decimal_or_none(row: Row, key: str) -> Decimal | None:
    """A number that may be missing, null or empty; never NaN or infinite."""
    value = row.get(key)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int, float, Decimal)):
        raise Unreadable(f"{key} must be a number, was {type(value).__name__}")
    try:
        # The shortest text of a float is what the sender wrote.
        number = Decimal(repr(value) if isinstance(value, float) else value)
    except InvalidOperation as error:
        raise Unreadable(f"{key} must be a number, was {excerpt(value)!r}") from error
    if not number.is_finite():
        raise Unreadable(f"{key} must be a finite number, was {number}")
    return number


def flag(row: Row, key: str, default: bool) -> bool:
    """A boolean; anything else gives `default`, which every caller chooses so that it permits nothing."""
    value = row.get(key)
    return value if isinstance(value, bool) else default


def moment(row: Row, key: str) -> datetime:
    """A timestamp that must be there; aware, UTC, cut to microseconds."""
    value = moment_or_none(row, key)
    if value is None:
        raise Unreadable(f"{key} must be a timestamp, was missing or null")
    return value


def moment_or_none(row: Row, key: str) -> datetime | None:
    """A timestamp that may be missing: RFC 3339 text, or what MessagePack made of one."""
    value = row.get(key)
    if value is None or value == "":
        return None
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as error:
            raise Unreadable(f"{key} must be an RFC 3339 timestamp, was {excerpt(value)!r}") from error
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise Unreadable(f"{key} must be a timestamp with a zone, was {excerpt(value)!r}")
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise Unreadable(f"{key} lies outside the calendar: {excerpt(value)!r}") from error


def day(row: Row, key: str) -> date:
    """A calendar day, `YYYY-MM-DD`."""
    value = row.get(key)
    try:
        return date.fromisoformat(value) if isinstance(value, str) else _no_day(key, value)
    except ValueError as error:
        raise Unreadable(f"{key} must be a day, was {excerpt(value)!r}") from error


def _no_day(key: str, value: object) -> date:
    raise Unreadable(f"{key} must be a day, was {excerpt(value)!r}")


def _side(row: Row) -> OrderSide:
    given = str(row.get("side") or "").lower()
    if given in _SIDES:
        return _SIDES[given]
    intent = str(row.get("position_intent") or "").lower()
    if intent.startswith("buy_"):
        return OrderSide.BUY
    if intent.startswith("sell_"):
        return OrderSide.SELL
    if row.get("order_class") == "mleg" and not given:
        # The parent of a spread has no side and no symbol; a positive limit is a debit. Its legs have both.
        limit = decimal_or_none(row, "limit_price")
        return OrderSide.SELL if limit is not None and limit < 0 else OrderSide.BUY
    raise Unreadable(f"side must be buy or sell, was {excerpt(row.get('side'))!r}")


def _status(row: Row) -> OrderStatus:
    try:
        return OrderStatus(text(row, "status").lower())
    except ValueError:
        return OrderStatus.UNRECOGNISED


def _order_type(row: Row) -> OrderType | None:
    given = text_or(row, "type") or text_or(row, "order_type")
    try:
        return OrderType(given.lower()) if given else None
    except ValueError:
        return None


def decode_order(raw: object) -> BrokerOrder:
    """Read an order with its legs; a leg that cannot be read makes the order unreadable.

    An order by notional value has no quantity until it fills: its `qty` is what has filled so far.
    """
    row = as_row(raw, "order")
    order_class = text_or(row, "order_class") or "simple"
    filled_qty = decimal_or_none(row, "filled_qty") or Decimal(0)
    qty = decimal_or_none(row, "qty")
    if filled_qty < 0 or (qty is not None and qty <= 0):
        raise Unreadable(f"qty must be positive and filled_qty not negative, were {qty} and {filled_qty}")
    average = decimal_or_none(row, "filled_avg_price")
    legs = row.get("legs") or ()
    if not isinstance(legs, (list, tuple)):
        raise Unreadable(f"legs must be a list, was {type(legs).__name__}")
    return BrokerOrder(
        id=text(row, "id"),
        client_order_id=text_or(row, "client_order_id") or "",
        symbol=(text_or(row, "symbol") or "") if order_class == "mleg" else text(row, "symbol"),
        side=_side(row),
        status=_status(row),
        qty=filled_qty if qty is None else qty,
        filled_qty=filled_qty,
        filled_avg_price=average if filled_qty else None,
        type=_order_type(row),
        order_class=order_class.lower(),
        limit_price=decimal_or_none(row, "limit_price"),
        stop_price=decimal_or_none(row, "stop_price"),
        submitted_at=moment_or_none(row, "submitted_at"),
        updated_at=moment_or_none(row, "updated_at"),
        filled_at=moment_or_none(row, "filled_at"),
        replaced_by=text_or(row, "replaced_by"),
        replaces=text_or(row, "replaces"),
        position_intent=text_or(row, "position_intent"),
        legs=tuple(_leg(leg, index) for index, leg in enumerate(legs, 1)),
        raw=row,
    )


def _leg(raw: object, index: int) -> BrokerOrder:
    try:
        return decode_order(raw)
    except Unreadable as error:
        raise Unreadable(f"leg {index}: {error}") from error


def decode_position(raw: object) -> BrokerPosition:
    """Read a position; the sign of `qty` and `qty_available` follows the side (F47)."""
    row = as_row(raw, "position")
    qty = decimal(row, "qty")
    side = str(row.get("side") or "").lower()
    if side == "short" and qty > 0:
        qty = -qty
    elif side == "long" and qty < 0:
        raise Unreadable(f"position is long with quantity {qty}")
    available = decimal_or_none(row, "qty_available")
    # Venues older than the field hold nothing back that we could know of; the broker refuses what is too much.
    free = abs(qty if available is None else available)
    return BrokerPosition(
        symbol=text(row, "symbol"),
        qty=qty,
        qty_available=-free if qty < 0 else free,
        avg_entry_price=decimal(row, "avg_entry_price"),
        current_price=decimal_or_none(row, "current_price"),
        market_value=decimal_or_none(row, "market_value"),
        asset_id=text_or(row, "asset_id") or "",
        raw=row,
    )


def decode_account(raw: object) -> BrokerAccount:
    """Read an account. A flag that is missing permits nothing; a missing account number is empty, and binds nothing."""
    row = as_row(raw, "account")
    level = decimal_or_none(row, "options_trading_level")
    blocked = (flag(row, "trading_blocked", True), flag(row, "account_blocked", False))
    return BrokerAccount(
        id=text(row, "id"),
        account_number=text_or(row, "account_number") or "",
        status=text_or(row, "status") or "",
        equity=decimal(row, "equity"),
        last_equity=decimal(row, "last_equity"),
        cash=decimal(row, "cash"),
        buying_power=decimal(row, "buying_power"),
        options_buying_power=decimal_or_none(row, "options_buying_power"),
        options_trading_level=int(level) if level is not None else 0,
        shorting_enabled=flag(row, "shorting_enabled", False),
        trading_blocked=any(blocked),
        raw=row,
    )


def execution_id_of(activity_id: str) -> str:
    """The part of `20261008111019061::uuid` that is unique by itself.

    Nobody documents whether the stream calls the same execution by this id: whoever folds fills of both sources
    together has to go by the order's cumulative quantity.
    """
    return activity_id.rpartition("::")[2] or activity_id


def decode_fill(raw: object) -> Fill:
    """Read a FILL activity."""
    row = as_row(raw, "fill")
    return make_fill(
        execution_id=execution_id_of(text(row, "id")),
        order_id=text(row, "order_id"),
        client_order_id=None,
        symbol=text(row, "symbol"),
        side=_side(row),
        qty=decimal(row, "qty"),
        price=decimal(row, "price"),
        at=moment(row, "transaction_time"),
    )


def make_fill(**fields: Any) -> Fill:
    """Build a fill whose quantity is positive and whose price is not negative. Raises Unreadable."""
    fill = Fill(**fields)
    if fill.qty <= 0 or fill.price < 0:
        raise Unreadable(f"fill must have qty > 0 and price >= 0, was {fill.qty} at {fill.price}")
    return fill


def decode_activity(raw: object) -> Activity:
    """Read an activity that is not a trade."""
    row = as_row(raw, "activity")
    given = row.get("date")
    return Activity(
        id=text(row, "id"),
        type=text(row, "activity_type"),
        symbol=text_or(row, "symbol"),
        qty=decimal_or_none(row, "qty"),
        price=decimal_or_none(row, "price"),
        net_amount=decimal_or_none(row, "net_amount"),
        date=day(row, "date") if given else None,
        raw=row,
    )


def decode_clock(raw: object) -> VenueTime:
    """Read the venue's clock."""
    row = as_row(raw, "clock")
    is_open = row.get("is_open")
    if not isinstance(is_open, bool):
        raise Unreadable(f"is_open must be true or false, was {excerpt(is_open)!r}")
    return VenueTime(moment(row, "timestamp"), is_open, moment(row, "next_open"), moment(row, "next_close"))


def decode_session(raw: object) -> Session:
    """Read one day of the calendar: New York wall times, `09:30` or `0930`."""
    row = as_row(raw, "calendar day")
    regular = (_wall(row, "open"), _wall(row, "close"))
    extended = (
        _wall(row, "session_open") if row.get("session_open") else time(4),
        _wall(row, "session_close") if row.get("session_close") else time(20),
    )
    session = make_session(day(row, "date"), *regular, *extended)
    if not session.pre_open <= session.open < session.close <= session.post_close:
        raise Unreadable(f"session of {session.day} does not run forward: {excerpt(row)}")
    return session


def _wall(row: Row, key: str) -> time:
    digits = text(row, key).replace(":", "")
    try:
        return time(int(digits[:2]), int(digits[2:4]))
    except ValueError as error:
        raise Unreadable(f"{key} must be a wall time like 09:30, was {excerpt(row.get(key))!r}") from error


def decode_quote(symbol: str, raw: object) -> Quote:
    """Read a latest quote. A price that is no number becomes NaN, which the core counts as absent."""
    row = as_row(raw, "quote")
    return Quote(
        symbol,
        quote_price(row.get("bp")),
        quote_price(row.get("ap")),
        moment(row, "t"),
        quote_size(row.get("bs")),
        quote_size(row.get("as")),
    )


def quote_price(value: object) -> Decimal:
    """A quoted price, exactly; NaN for anything that is no number."""
    if isinstance(value, float):
        return Decimal(repr(value))
    if isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            return Decimal(value)
        except InvalidOperation:
            return Decimal("NaN")
    return Decimal("NaN")


def quote_size(value: object) -> int:
    """A quoted size; 0 for anything that is no sensible number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e15:
        return 0
    return int(value)


def decode_asset(raw: object) -> Asset:
    """Read an asset; a flag that is missing permits nothing."""
    row = as_row(raw, "asset")
    borrow = text_or(row, "borrow_status")
    attributes = row.get("attributes")
    return Asset(
        id=text(row, "id"),
        symbol=text(row, "symbol"),
        asset_class=text_or(row, "class") or "",
        status=text_or(row, "status") or "",
        tradable=flag(row, "tradable", False),
        shortable=flag(row, "shortable", False),
        easy_to_borrow=borrow == "easy_to_borrow" if borrow else flag(row, "easy_to_borrow", False),
        fractionable=flag(row, "fractionable", False),
        attributes=tuple(str(a)[:MAX_TEXT] for a in attributes) if isinstance(attributes, list) else (),
        raw=row,
    )


def decode_contract(raw: object) -> OptionContract:
    """Read an option contract; `multiplier` (not `size`) counts shares."""
    row = as_row(raw, "option contract")
    underlying = text(row, "underlying_symbol")
    return OptionContract(
        id=text(row, "id"),
        symbol=text(row, "symbol"),
        underlying=underlying,
        root=text_or(row, "root_symbol") or underlying,
        type=text(row, "type"),
        expiry=day(row, "expiration_date"),
        strike=decimal(row, "strike_price"),
        status=text_or(row, "status") or "",
        tradable=flag(row, "tradable", False),
        multiplier=decimal_or_none(row, "multiplier") or decimal(row, "size"),
        open_interest=decimal_or_none(row, "open_interest"),
        close_price=decimal_or_none(row, "close_price"),
        raw=row,
    )
