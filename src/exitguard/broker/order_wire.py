"""Orders onto the wire, and what the venue's answers prove about them."""

import re
from decimal import Decimal
from http import HTTPStatus
from typing import Any

from exitguard.broker.decoding import Unreadable, decode_order, excerpt
from exitguard.broker.port import (
    Accepted,
    BrokerRefused,
    BrokerUnauthorised,
    BrokerUnavailable,
    CancelResult,
    Refused,
    SubmitResult,
    Unknown,
)
from exitguard.broker.transport import Response, judge, refusal
from exitguard.core.errors import InvalidInput
from exitguard.core.orders import OrderClass, OrderRequest, OrderStatus

MAX_CLIENT_ORDER_ID = 128

_ALREADY = re.compile(r'already in "?([a-z_]+)"? state')


def number(value: Decimal, name: str) -> str:
    """A price or quantity as plain digits, never as a binary float. Raises InvalidInput unless positive and finite."""
    if not isinstance(value, Decimal) or not value.is_finite() or value <= 0:
        raise InvalidInput(f"{name} must be a positive Decimal, was {value!r}")
    return format(value, "f")


def _client_order_id(given: str) -> str:
    if not 0 < len(given) <= MAX_CLIENT_ORDER_ID:
        raise InvalidInput(f"client_order_id must have 1 to {MAX_CLIENT_ORDER_ID} characters, had {len(given)}")
    return given


def encode_order(request: OrderRequest) -> dict[str, Any]:
    """The body of POST /v2/orders. Always carries the intent (F3), so that the venue refuses a flip."""
    body: dict[str, Any] = {
        "client_order_id": _client_order_id(request.client_order_id),
        "symbol": request.symbol,
        "qty": number(request.qty, "qty"),
        "side": request.side.value,
        "type": request.type.value,
        "time_in_force": request.time_in_force.value,
        "position_intent": request.position_intent.value,
    }
    if request.position_intent.value.partition("_")[0] != request.side.value:
        raise InvalidInput(f"side {request.side.value} contradicts intent {request.position_intent.value}")
    if request.limit_price is not None:
        body["limit_price"] = number(request.limit_price, "limit_price")
    if request.stop_price is not None:
        body["stop_price"] = number(request.stop_price, "stop_price")
    if request.extended_hours:
        body["extended_hours"] = True
    return body | _legs(request)


def _legs(request: OrderRequest) -> dict[str, Any]:
    given = (request.take_profit is not None) + (request.stop_loss is not None)
    needed = {OrderClass.BRACKET: 2, OrderClass.OCO: 2, OrderClass.OTO: 1}.get(request.order_class, 0)
    if given != needed:
        raise InvalidInput(f"a {request.order_class.value} order has {needed} leg price(s), was given {given}")
    if not needed:
        return {}
    legs: dict[str, Any] = {"order_class": request.order_class.value}
    if request.take_profit is not None:
        legs["take_profit"] = {"limit_price": number(request.take_profit, "take_profit")}
    if request.stop_loss is not None:
        legs["stop_loss"] = {"stop_price": number(request.stop_loss, "stop_loss")}
    return legs


def encode_replacement(
    client_order_id: str, qty: Decimal | None, limit_price: Decimal | None, stop_price: Decimal | None
) -> dict[str, Any]:
    """The body of PATCH /v2/orders/{id}. Raises InvalidInput when nothing changes."""
    changes = {"qty": qty, "limit_price": limit_price, "stop_price": stop_price}
    body = {name: number(value, name) for name, value in changes.items() if value is not None}
    if not body:
        raise InvalidInput("a replacement must change the quantity, the limit price or the stop price")
    return {"client_order_id": _client_order_id(client_order_id), **body}


def judge_submit(response: Response, client_order_id: str) -> SubmitResult:
    """What an answer to POST or PATCH proves.

    Only a readable order under our id proves acceptance, only the venue's own 4xx proves refusal; all else is unknown.
    """
    try:
        answer = judge(response)
        order = decode_order(answer)
    except BrokerUnavailable as error:
        return Unknown(str(error))
    except (BrokerRefused, BrokerUnauthorised) as error:
        return Refused(error)
    except Unreadable as error:
        return Unknown(f"HTTP {response.status} with an order that cannot be read: {error}: {excerpt(response.body)!r}")
    if order.client_order_id != client_order_id:
        return Unknown(f"sent {client_order_id!r}, the answer speaks of {order.client_order_id!r}")
    return Accepted(order)


def judge_cancel(response: Response) -> CancelResult:
    """What an answer to DELETE /v2/orders/{id} proves; success only means that the cancel is on its way."""
    if 200 <= response.status < 300:
        return CancelResult(known=True)
    error = refusal(response)
    detail = str(error)
    if not isinstance(error, BrokerRefused):
        unauthorised = error if isinstance(error, BrokerUnauthorised) else None
        return CancelResult(known=False, detail=detail, error=unauthorised)
    if error.status == HTTPStatus.NOT_FOUND and error.code == 40410000:
        return CancelResult(known=True, not_found=True, detail=detail)
    if error.status == HTTPStatus.UNPROCESSABLE_ENTITY:
        return CancelResult(known=True, already_terminal=_says_terminal(error.reason), detail=detail)
    return CancelResult(known=False, detail=detail, error=error)


def _says_terminal(message: str) -> bool:
    state = _ALREADY.search(message.lower())
    if state is not None:
        return any(status.is_terminal for status in OrderStatus if status.value == state[1])
    return "not cancelable" in message.lower()
