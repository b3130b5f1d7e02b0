"""Small translations between broker orders and ledger intents."""

import dataclasses
from datetime import datetime, timedelta
from typing import Any

from exitguard.core.orders import BrokerOrder, OrderRequest, OrderStatus
from exitguard.core.reconcile import order_prefix
from exitguard.core.records import IntentStatus

# Before the end of a contract's last session the broker may sell it out by itself (Alpaca: from 15:30).
LIQUIDATION = timedelta(minutes=30)

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


def is_liquidation(order: BrokerOrder, account_name: str, expires_at: datetime | None) -> bool:
    """Whether the broker's risk desk sent an order: not ours, and in the last half hour of a contract's life.

    It sells out what the account could not bear to exercise; the order carries no other mark.
    """
    if expires_at is None or order.submitted_at is None or order.client_order_id.startswith(order_prefix(account_name)):
        return False
    return expires_at - LIQUIDATION <= order.submitted_at <= expires_at
