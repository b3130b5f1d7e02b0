"""Small translations between broker orders and ledger intents."""

import dataclasses
from typing import Any

from exitguard.core.orders import OrderRequest, OrderStatus
from exitguard.core.records import IntentStatus

_ENDED = {
    OrderStatus.FILLED: IntentStatus.FILLED,
    OrderStatus.CANCELED: IntentStatus.CANCELED,
    OrderStatus.REPLACED: IntentStatus.CANCELED,
    OrderStatus.EXPIRED: IntentStatus.EXPIRED,
    OrderStatus.REJECTED: IntentStatus.REJECTED,
}


def intent_status(status: OrderStatus) -> IntentStatus:
    """The intent's state that a broker state proves; every state that is not terminal is WORKING."""
    return _ENDED.get(status, IntentStatus.WORKING)


def request_data(request: OrderRequest) -> dict[str, Any]:
    """The order as sent, for the intent's row."""
    values = ((field.name, getattr(request, field.name)) for field in dataclasses.fields(request))
    return {name: value for name, value in values if value is not None}
