"""Questions about orders and activities: filters, nesting, paging."""

from collections.abc import Iterable, Mapping
from typing import Any

from exitguard.paper.engine.errors import invalid, not_found, unprocessable
from exitguard.paper.engine.fields import (
    choice_field,
    day_field,
    flag_field,
    list_field,
    moment_field,
    text_field,
    whole_field,
)
from exitguard.paper.engine.model import TERMINAL, Account, Order
from exitguard.paper.engine.request import SIDES
from exitguard.paper.engine.venue import Venue
from exitguard.paper.engine.views import Json, order_json
from exitguard.paper.engine.wire import new_york_date

_TRADE_ACTIVITIES = frozenset({"FILL"})
_TYPE_WORDS = (
    "FILL TRANS MISC ACATC ACATS CFEE CGD CSD CSW DIV DIVCGL DIVCGS DIVFEE DIVFT DIVNRA DIVROC DIVTW DIVTXEX FEE INT "
    "INTNRA INTTW JNL JNLC JNLS MA NC OPASN OPCA OPCSH OPEXC OPEXP OPTRD PTC PTR REO REORG SPIN SPLIT FOPT OCT"
)
ACTIVITY_TYPES = frozenset(_TYPE_WORDS.split())


def get_by_client_id(account: Account, client_order_id: str, nested: bool) -> Json:
    """The order with a client's id. Raises ApiError 404."""
    order = account.by_client_id.get(client_order_id)
    if order is None or order.id in account.unfindable:
        raise not_found(f"order not found for {client_order_id[:128]}")
    return order_json(order, nested)


def list_orders(venue: Venue, account: Account, params: Mapping[str, Any]) -> list[Json]:
    """GET /v2/orders.

    Un-nested, an open listing leaves out `held` legs, as Alpaca does. Nested, a parent is listed while it or one of its
    legs is in the asked state, and carries its legs.
    """
    status = choice_field(params, "status", ("open", "closed", "all")) or "open"
    limit = whole_field(params, "limit", 50, 1, venue.settings.maximum_orders_listed)
    ascending = (choice_field(params, "direction", ("asc", "desc")) or "desc") == "asc"
    nested = flag_field(params, "nested")
    keep = _order_filter(account, params)
    found: list[Json] = []
    for order in _candidates(account, status, nested, ascending):
        if keep(order):
            found.append(order_json(order, nested))
            if len(found) == limit:
                break
    return found


def _candidates(account: Account, status: str, nested: bool, ascending: bool) -> Iterable[Order]:
    if status == "open":
        if nested:
            roots = {(order.parent or order).id: (order.parent or order) for order in account.open.values()}
            orders = sorted(roots.values(), key=lambda order: order.sequence)
        else:
            orders = [order for order in account.open.values() if order.status != "held" and not _is_mleg_part(order)]
        return orders if ascending else reversed(orders)
    everything: Iterable[Order] = account.orders.values() if ascending else reversed(account.orders.values())
    everything = (order for order in everything if not (order.parent if nested else _is_mleg_part(order)))
    if status == "closed":
        return (order for order in everything if order.status in TERMINAL and not (nested and _has_open_leg(order)))
    return everything


def _is_mleg_part(order: Order) -> bool:
    return order.order_class == "mleg" and order.parent is not None


def _has_open_leg(order: Order) -> bool:
    return any(leg.is_open for leg in order.legs)


class _OrderFilter:
    """Whether an order is asked for."""

    def __init__(self, account: Account, params: Mapping[str, Any]) -> None:
        self.symbols = frozenset(list_field(params, "symbols"))
        self.classes = frozenset(list_field(params, "asset_class"))
        if "all" in self.classes:
            self.classes = frozenset()
        self.side = choice_field(params, "side", SIDES)
        self.after = moment_field(params, "after")
        self.until = moment_field(params, "until")
        self.before_sequence = _sequence_of(account, text_field(params, "before_order_id"))
        self.after_sequence = _sequence_of(account, text_field(params, "after_order_id"))
        cursors = (self.before_sequence is not None) + (self.after_sequence is not None)
        if cursors > 1 or (cursors and (self.after is not None or self.until is not None)):
            raise unprocessable("before_order_id, after_order_id and after/until are mutually exclusive")

    def __call__(self, order: Order) -> bool:
        if order.id in order.account.unfindable:
            return False
        if self.symbols and order.symbol not in self.symbols and not self.symbols & {leg.symbol for leg in order.legs}:
            return False
        if self.side is not None and order.side != self.side:
            return False
        if self.classes and (order.asset.asset_class if order.asset is not None else "us_option") not in self.classes:
            return False
        return (
            (self.after is None or order.submitted > self.after)
            and (self.until is None or order.submitted < self.until)
            and (self.before_sequence is None or order.sequence < self.before_sequence)
            and (self.after_sequence is None or order.sequence > self.after_sequence)
        )


def _order_filter(account: Account, params: Mapping[str, Any]) -> _OrderFilter:
    return _OrderFilter(account, params)


def _sequence_of(account: Account, order_id: str | None) -> int | None:
    if order_id is None:
        return None
    order = account.orders.get(order_id)
    if order is None:
        raise not_found(f"order not found for {order_id[:64]}")
    return order.sequence


def list_activities(account: Account, params: Mapping[str, Any], only: str | None = None) -> list[Json]:
    """GET /v2/account/activities: newest first unless asked otherwise; `page_token` is the last id seen.

    With `date` there is no limit to the page. `after` and `until` look at the time of an execution, and at the day on
    which a non-trade activity was created.
    """
    types = frozenset({only} if only is not None else list_field(params, "activity_types"))
    unknown = types - ACTIVITY_TYPES
    if unknown:
        raise invalid(f"invalid activity type: {sorted(unknown)[0][:32]}")
    category = choice_field(params, "category", ("trade_activity", "non_trade_activity"))
    if category is not None and types:
        raise unprocessable("only one of category and activity_types is accepted")
    day = day_field(params, "date")
    after = moment_field(params, "after")
    until = moment_field(params, "until")
    if day is not None and (after is not None or until is not None):
        raise unprocessable("date and after/until are mutually exclusive")
    size = whole_field(params, "page_size", 100, 1, 100)
    ascending = (choice_field(params, "direction", ("asc", "desc")) or "desc") == "asc"
    order_id = text_field(params, "order_id")
    found: list[Json] = []
    for stamp, activity in _from_token(account, text_field(params, "page_token"), ascending):
        kind = activity["activity_type"]
        if types and kind not in types:
            continue
        if category is not None and (kind in _TRADE_ACTIVITIES) != (category == "trade_activity"):
            continue
        if order_id is not None and activity.get("order_id") != order_id:
            continue
        if day is not None and new_york_date(stamp) != day.isoformat():
            continue
        if (after is not None and stamp <= after) or (until is not None and stamp >= until):
            continue
        found.append(activity)
        if day is None and len(found) == size:
            break
    return found


def _from_token(account: Account, token: str | None, ascending: bool) -> Iterable[tuple[int, Json]]:
    activities = account.activities
    start = 0 if ascending else len(activities) - 1
    if token is not None:
        position = account.activity_positions.get(token)
        if position is None:
            raise invalid("page_token is not the id of an activity of this account")
        start = position - account.activities_dropped + (1 if ascending else -1)
    indexes = range(max(start, 0), len(activities)) if ascending else range(start, -1, -1)
    return ((stamp, activity) for stamp, activity in (activities[index] for index in indexes))
