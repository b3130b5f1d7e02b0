"""Entry orders as data: building requests, naming them, and reading what the broker says of them."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid5

from exitguard.core.errors import InvalidInput
from exitguard.core.orders import (
    BrokerOrder,
    OrderClass,
    OrderRequest,
    OrderSide,
    OrderStatus,
    OrderType,
    PositionIntent,
    TimeInForce,
)
from exitguard.core.position import PositionSide
from exitguard.core.records import (
    ExecutionMode,
    ExecutionRecord,
    ExecutionStatus,
    IntentPurpose,
    IntentRecord,
    IntentStatus,
    RecommendationRecord,
)
from exitguard.dispatch.pricing import BracketLevels
from exitguard.dispatch.signal import Signal

_EXECUTIONS = UUID("6e1e52a4-5c0f-4a19-9e0c-6f6f2f8a7d11")


def client_order_id(row: RecommendationRecord) -> str:
    """Name the one entry order of a signal, the same after every restart (F33, F43).

    The tag holds the row's creation time, so that a ledger that starts anew never reuses an id at the same broker.
    """
    text = f"{row.account_name}|{row.id}|{row.created_at.isoformat()}"
    return f"xg-{row.account_name}-r{row.id}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def execution_id(order_id: str) -> UUID:
    """Name the execution of a client order id."""
    return uuid5(_EXECUTIONS, order_id)


def build_request(
    signal: Signal, order_id: str, qty: Decimal, limit_price: Decimal, bracket: BracketLevels | None
) -> OrderRequest:
    """Build the entry: a bracket for stocks, a plain limit for options; the intent is never left to the broker (F3)."""
    long = signal.side is PositionSide.LONG
    return OrderRequest(
        client_order_id=order_id,
        symbol=signal.instrument.symbol,
        side=OrderSide.BUY if long else OrderSide.SELL,
        qty=qty,
        type=OrderType.LIMIT,
        time_in_force=TimeInForce.DAY,
        position_intent=PositionIntent.BUY_TO_OPEN if long else PositionIntent.SELL_TO_OPEN,
        limit_price=limit_price,
        order_class=OrderClass.BRACKET if bracket is not None else OrderClass.SIMPLE,
        take_profit=bracket.target if bracket is not None else None,
        stop_loss=bracket.stop if bracket is not None else None,
    )


def request_body(request: OrderRequest) -> dict[str, Any]:
    """The request as plain values for the intent row; `request_from_body` reads it back."""
    names = ("qty", "limit_price", "stop_price", "take_profit", "stop_loss")
    body: dict[str, Any] = {
        "client_order_id": request.client_order_id,
        "symbol": request.symbol,
        "side": request.side.value,
        "type": request.type.value,
        "time_in_force": request.time_in_force.value,
        "position_intent": request.position_intent.value,
        "order_class": request.order_class.value,
    }
    for name in names:
        value = getattr(request, name)
        if value is not None:
            body[name] = str(value)
    return body


def request_from_body(body: Mapping[str, Any]) -> OrderRequest:
    """Read a request back from an intent row. Raises InvalidInput when the row does not hold one."""

    def decimal(name: str) -> Decimal | None:
        return Decimal(str(body[name])) if body.get(name) is not None else None

    try:
        return OrderRequest(
            client_order_id=body["client_order_id"],
            symbol=body["symbol"],
            side=OrderSide(body["side"]),
            qty=Decimal(str(body["qty"])),
            type=OrderType(body["type"]),
            time_in_force=TimeInForce(body["time_in_force"]),
            position_intent=PositionIntent(body["position_intent"]),
            limit_price=decimal("limit_price"),
            stop_price=decimal("stop_price"),
            order_class=OrderClass(body["order_class"]),
            take_profit=decimal("take_profit"),
            stop_loss=decimal("stop_loss"),
        )
    except (KeyError, ValueError, ArithmeticError) as error:
        raise InvalidInput(f"intent holds no readable request: {error!r}") from error


@dataclass(frozen=True, slots=True)
class Records:
    """The two rows of an entry."""

    execution: ExecutionRecord
    intent: IntentRecord


def intended(
    row: RecommendationRecord, signal: Signal, request: OrderRequest, mode: ExecutionMode, now: datetime
) -> Records:
    """The rows to commit before anything is sent. Levels are the ones that the position is to be managed by."""
    name = execution_id(request.client_order_id)
    bracket = request.order_class is OrderClass.BRACKET
    execution = ExecutionRecord(
        account_name=row.account_name,
        execution_id=name,
        recommendation_id=row.id,
        symbol=signal.instrument.symbol,
        ticker=signal.instrument.underlying,
        option_symbol=signal.instrument.option_symbol,
        instrument_type=signal.instrument.type,
        strategy_type=signal.strategy,
        action=signal.action,
        side=request.side,
        qty=request.qty,
        execution_mode=mode,
        status=ExecutionStatus.INTENDED,
        client_order_id=request.client_order_id,
        simulated_ts=now,
        stop_loss=request.stop_loss if bracket else signal.stop_loss,
        take_profit=request.take_profit if bracket else signal.take_profit,
        max_hold_minutes=signal.max_hold_minutes,
        features=signal.features,
    )
    intent = IntentRecord(
        account_name=row.account_name,
        client_order_id=request.client_order_id,
        purpose=IntentPurpose.ENTRY,
        symbol=request.symbol,
        side=request.side,
        qty=request.qty,
        status=IntentStatus.INTENDED,
        attempt=1,
        created_at=now,
        execution_id=name,
        request=request_body(request),
    )
    return Records(execution, intent)


_FINAL = {
    OrderStatus.FILLED: (ExecutionStatus.FILLED, IntentStatus.FILLED),
    OrderStatus.CANCELED: (ExecutionStatus.CANCELED, IntentStatus.CANCELED),
    OrderStatus.EXPIRED: (ExecutionStatus.EXPIRED, IntentStatus.EXPIRED),
    OrderStatus.REJECTED: (ExecutionStatus.REJECTED, IntentStatus.REJECTED),
}


def told_by_broker(records: Records, order: BrokerOrder, now: datetime) -> Records:
    """Fold the broker's description of the order in. Fills never shrink: answers may come out of order."""
    execution, intent = records.execution, records.intent
    filled = max(order.filled_qty, execution.filled_qty)
    price = order.filled_avg_price if order.filled_qty >= execution.filled_qty else execution.avg_fill_price
    if order.status in _FINAL:
        status, intent_status = _FINAL[order.status]
    else:
        # Every other state, an unrecognised one too, leaves the order alive.
        status = ExecutionStatus.PARTIALLY_FILLED if filled > 0 else ExecutionStatus.ACCEPTED
        intent_status = IntentStatus.WORKING
    stop_id, target_id = _leg_ids(order)
    executed_at = execution.executed_at
    if filled > 0 and (executed_at is None or status is ExecutionStatus.FILLED):
        executed_at = order.filled_at or order.updated_at or executed_at or now
    return Records(
        replace(
            execution,
            status=status,
            broker_order_id=order.id,
            stop_order_id=stop_id or execution.stop_order_id,
            target_order_id=target_id or execution.target_order_id,
            filled_qty=filled,
            avg_fill_price=price,
            executed_at=executed_at,
        ),
        replace(intent, status=intent_status, broker_order_id=order.id),
    )


def _leg_ids(order: BrokerOrder) -> tuple[str | None, str | None]:
    stops = [leg.id for leg in order.legs if leg.type in (OrderType.STOP, OrderType.STOP_LIMIT)]
    targets = [leg.id for leg in order.legs if leg.type is OrderType.LIMIT]
    return (stops[0] if stops else None, targets[0] if targets else None)


def with_status(records: Records, status: ExecutionStatus, reason: str | None) -> Records:
    """Both rows in a state that the broker did not describe: unknown, refused, or proven never to have arrived."""
    return Records(
        replace(records.execution, status=status, reason=reason),
        replace(records.intent, status=IntentStatus(status.value), detail=reason),
    )
