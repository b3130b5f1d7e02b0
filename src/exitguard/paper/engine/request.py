"""The shape of an order request: fields, types and which of them go together. What the account allows is admission."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from exitguard.paper.engine.errors import invalid, unprocessable
from exitguard.paper.engine.fields import (
    body_of,
    choice_field,
    decimal_field,
    flag_field,
    mapping_field,
    positive_field,
    quantity_field,
    text_field,
)
from exitguard.paper.engine.model import COMPLEX

SIDES = ("buy", "sell")
TYPES = ("market", "limit", "stop", "stop_limit", "trailing_stop")
TIMES_IN_FORCE = ("day", "gtc", "opg", "cls", "ioc", "fok")
CLASSES = ("", "simple", "bracket", "oco", "oto", "mleg")
INTENTS = ("buy_to_open", "buy_to_close", "sell_to_open", "sell_to_close")


@dataclass(slots=True)
class LegDraft:
    """One leg of a multi-leg option order."""

    symbol: str
    ratio: int
    side: str
    intent: str | None


@dataclass(slots=True)
class Draft:
    """A well-formed order request. `target` is the take profit's limit, `stop_loss*` the stop loss's prices."""

    symbol: str
    side: str
    type: str
    time_in_force: str
    qty: Decimal | None = None
    notional: Decimal | None = None
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    trail_price: Decimal | None = None
    trail_percent: Decimal | None = None
    extended_hours: bool = False
    client_order_id: str | None = None
    order_class: str = ""
    intent: str | None = None
    target: Decimal | None = None
    stop_loss: Decimal | None = None
    stop_loss_limit: Decimal | None = None
    legs: list[LegDraft] = field(default_factory=list)
    # An order of the broker's own, which no block of the account stops.
    by_broker: bool = False

    @property
    def is_complex(self) -> bool:
        """Whether it is a bracket, OCO or OTO."""
        return self.order_class in COMPLEX

    @property
    def has_fraction(self) -> bool:
        """Whether it asks for a part of a share."""
        return self.notional is not None or (self.qty is not None and self.qty != self.qty.to_integral_value())


def read_order(raw: Any) -> Draft:
    """Read an order request. Raises ApiError 400 or 422 for what cannot be an order."""
    body = body_of(raw)
    order_class = choice_field(body, "order_class", CLASSES) or ""
    if order_class == "mleg":
        return _read_mleg(body)
    draft = _read_common(body, "" if order_class == "simple" else order_class)
    draft.symbol = _required(text_field(body, "symbol"), "symbol")
    draft.side = _required(choice_field(body, "side", SIDES), "side")
    if mapping_field(body, "advanced_instructions"):
        raise unprocessable("advanced instructions are not enabled for this account")
    draft.notional = positive_field(body, "notional")
    if (draft.qty is None) == (draft.notional is None):
        raise invalid("qty or notional is required" if draft.qty is None else "only one of qty or notional is accepted")
    if body.get("legs"):
        raise invalid("legs are only accepted for mleg orders")
    _read_exits(body, draft)
    _check_prices(draft)
    return draft


def _read_common(body: Mapping[str, Any], order_class: str) -> Draft:
    return Draft(
        symbol="",
        side="",
        type=_required(choice_field(body, "type", TYPES), "type"),
        time_in_force=_required(choice_field(body, "time_in_force", TIMES_IN_FORCE), "time_in_force"),
        qty=quantity_field(body, "qty"),
        limit_price=(decimal_field if order_class == "mleg" else positive_field)(body, "limit_price"),
        stop_price=positive_field(body, "stop_price"),
        trail_price=positive_field(body, "trail_price"),
        trail_percent=positive_field(body, "trail_percent"),
        extended_hours=flag_field(body, "extended_hours"),
        client_order_id=text_field(body, "client_order_id"),
        order_class=order_class,
        intent=choice_field(body, "position_intent", INTENTS),
    )


def _read_exits(body: Mapping[str, Any], draft: Draft) -> None:
    target = mapping_field(body, "take_profit")
    stop = mapping_field(body, "stop_loss")
    if not draft.is_complex:
        if target or stop:
            raise unprocessable("take_profit and stop_loss require order_class bracket, oco or oto")
        return
    if target is not None:
        draft.target = positive_field(target, "limit_price", "take_profit.limit_price")
    if stop is not None:
        draft.stop_loss = positive_field(stop, "stop_price", "stop_loss.stop_price")
        draft.stop_loss_limit = positive_field(stop, "limit_price", "stop_loss.limit_price")
    if draft.order_class == "oco":
        if draft.type != "limit":
            raise unprocessable("oco orders must be limit orders")
        draft.target = draft.target or draft.limit_price
        draft.limit_price = draft.target
    if draft.order_class == "oto":
        if (draft.target is None) == (draft.stop_loss is None):
            raise unprocessable("oto orders require either take_profit.limit_price or stop_loss.stop_price")
        return
    if draft.target is None:
        raise unprocessable(f"{draft.order_class} orders require take_profit.limit_price")
    if draft.stop_loss is None:
        raise unprocessable(f"{draft.order_class} orders require stop_loss.stop_price")


def _check_prices(draft: Draft) -> None:
    needs_limit = draft.type in ("limit", "stop_limit")
    needs_stop = draft.type in ("stop", "stop_limit")
    name = draft.type.replace("_", " ")
    if needs_limit and draft.limit_price is None:
        raise invalid(f"{name} orders require limit price")
    if needs_stop and draft.stop_price is None:
        raise invalid(f"{name} orders require stop price")
    if not needs_limit and draft.limit_price is not None:
        raise invalid(f"{name} orders must not have a limit price")
    if not needs_stop and draft.stop_price is not None:
        raise invalid(f"{name} orders must not have a stop price")
    is_trailing = draft.type == "trailing_stop"
    trails = (draft.trail_price is not None) + (draft.trail_percent is not None)
    if is_trailing and trails != 1:
        raise invalid("trailing stop orders require exactly one of trail_price and trail_percent")
    if not is_trailing and trails:
        raise invalid(f"{name} orders must not have a trail price or percent")
    if draft.trail_percent is not None and draft.trail_percent >= 100:
        raise invalid("trail_percent must be < 100")


def _read_mleg(body: Mapping[str, Any]) -> Draft:
    draft = _read_common(body, "mleg")
    if body.get("symbol"):
        raise unprocessable("symbol is not allowed for mleg orders")
    if draft.type not in ("market", "limit"):
        raise unprocessable("invalid order type for mleg orders")
    if draft.time_in_force not in ("day", "gtc"):
        raise unprocessable("invalid time_in_force for mleg orders")
    if draft.qty is None or draft.has_fraction:
        raise unprocessable("qty must be integer for options trading")
    if (draft.limit_price is not None) != (draft.type == "limit"):
        raise invalid(f"{draft.type} orders {'require' if draft.type == 'limit' else 'must not have a'} limit price")
    raw_legs = body.get("legs")
    if not isinstance(raw_legs, list) or not 2 <= len(raw_legs) <= 4:
        raise unprocessable("mleg orders require 2 to 4 legs")
    draft.legs = [_read_leg(body_of(leg)) for leg in raw_legs]
    return draft


def _read_leg(leg: Mapping[str, Any]) -> LegDraft:
    ratio = quantity_field(leg, "ratio_qty")
    if ratio is None or ratio != ratio.to_integral_value() or ratio > 100:
        raise unprocessable("leg ratio_qty must be a positive integer")
    intent = choice_field(leg, "position_intent", INTENTS)
    side = choice_field(leg, "side", SIDES) or (intent.partition("_")[0] if intent else None)
    return LegDraft(_required(text_field(leg, "symbol"), "leg symbol"), int(ratio), _required(side, "leg side"), intent)


def _required(value: str | None, name: str) -> str:
    if value is None:
        raise invalid(f"{name} is required")
    return value
