"""Records with sensible content, for tests that write them through the store and load them again (F145)."""

import itertools
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from exitguard.core.instrument import parse_instrument
from exitguard.core.orders import Fill, OrderSide
from exitguard.core.position import PositionSide
from exitguard.core.records import (
    Action,
    AppendEvent,
    Batch,
    CloseReason,
    EventType,
    ExecutionMode,
    ExecutionRecord,
    ExecutionStatus,
    Heartbeat,
    HistoryRecord,
    IntentPurpose,
    IntentRecord,
    IntentStatus,
    Operation,
    Outcome,
    PositionRecord,
    PositionStatus,
)

NOON = datetime(2024, 3, 8, 17, 0, tzinfo=UTC)
_numbers = itertools.count(1)


def position(account: str, number: int = 1, symbol: str = "AAPL", **changes: Any) -> PositionRecord:
    instrument = parse_instrument(symbol)
    record = PositionRecord(
        account_name=account,
        id=number,
        uid=f"{account}-{number}",
        execution_id=None,
        symbol=instrument.symbol,
        ticker=instrument.underlying,
        option_symbol=instrument.option_symbol,
        instrument_type=instrument.type,
        strategy_type="swing_trade",
        side=PositionSide.LONG,
        quantity=Decimal(10),
        original_quantity=Decimal(10),
        entry_price=Decimal("100.25"),
        entry_time=NOON,
        stop_loss=Decimal(95),
        take_profit=Decimal(110),
        max_hold_deadline=NOON + timedelta(hours=4),
        expiration_date=instrument.expiry,
        strike_price=instrument.strike,
        multiplier=instrument.multiplier,
        policy_name="default",
    )
    return replace(record, **changes)


def execution(account: str, symbol: str = "AAPL", **changes: Any) -> ExecutionRecord:
    instrument = parse_instrument(symbol)
    identifier = uuid.uuid4()
    record = ExecutionRecord(
        account_name=account,
        execution_id=identifier,
        recommendation_id=None,
        symbol=instrument.symbol,
        ticker=instrument.underlying,
        option_symbol=instrument.option_symbol,
        instrument_type=instrument.type,
        strategy_type="swing_trade",
        action=Action.BUY_STOCK if not instrument.is_option else Action.BUY_CALL,
        side=OrderSide.BUY,
        qty=Decimal(10),
        execution_mode=ExecutionMode.ALPACA_PAPER,
        status=ExecutionStatus.FILLED,
        client_order_id=f"entry-{identifier}",
        simulated_ts=NOON,
        filled_qty=Decimal(10),
        avg_fill_price=Decimal("100.25"),
        executed_at=NOON,
    )
    return replace(record, **changes)


def intent(account: str, position_id: int | None, **changes: Any) -> IntentRecord:
    record = IntentRecord(
        account_name=account,
        client_order_id=f"close-{account}-{position_id}-{next(_numbers)}",
        purpose=IntentPurpose.CLOSE,
        symbol="AAPL",
        side=OrderSide.SELL,
        qty=Decimal(10),
        status=IntentStatus.INTENDED,
        attempt=1,
        created_at=NOON,
        position_id=position_id,
        request={"type": "market", "qty": "10"},
    )
    return replace(record, **changes)


def fill(execution_id: str = "fill-1", **changes: Any) -> Fill:
    record = Fill(
        execution_id=execution_id,
        order_id="order-1",
        client_order_id="client-1",
        symbol="AAPL",
        side=OrderSide.BUY,
        qty=Decimal(10),
        price=Decimal("100.25"),
        at=NOON,
    )
    return replace(record, **changes)


def history(of: PositionRecord, realised: Decimal = Decimal("-20.5"), **changes: Any) -> HistoryRecord:
    record = HistoryRecord(
        account_name=of.account_name,
        position_id=of.id,
        execution_id=of.execution_id,
        symbol=of.symbol,
        ticker=of.ticker,
        option_symbol=of.option_symbol,
        instrument_type=of.instrument_type,
        strategy_type=of.strategy_type,
        side=of.side,
        quantity=of.original_quantity,
        multiplier=of.multiplier,
        entry_price=of.entry_price,
        exit_price=Decimal("98.2"),
        entry_time=of.entry_time,
        closed_at=of.closed_at or NOON + timedelta(minutes=30),
        realised_pnl=realised,
        realised_pnl_percent=realised / 10,
        outcome=Outcome.of(realised),
        close_reason=of.close_reason or CloseReason.STOP_LOSS,
        hold_minutes=Decimal(30),
        best_price=Decimal(101),
        worst_price=Decimal(98),
        trigger_price=Decimal("98.3"),
        trigger_at=NOON,
        build="test",
        policy_hash="hash",
    )
    return replace(record, **changes)


def closed(of: PositionRecord, reason: CloseReason = CloseReason.STOP_LOSS) -> PositionRecord:
    return replace(
        of,
        status=PositionStatus.CLOSED,
        quantity=Decimal(0),
        close_reason=reason,
        exit_price=Decimal("98.2"),
        closed_at=NOON + timedelta(minutes=30),
    )


def event(kind: EventType = EventType.CREATED, position_id: int | None = 1, **data: Any) -> AppendEvent:
    return AppendEvent(kind, NOON, data, position_id)


def batch(account: str, epoch: int, *operations: Operation, **changes: Any) -> Batch:
    return replace(Batch(uuid.uuid4(), account, epoch, NOON, operations), **changes)


def heartbeat(account: str, **changes: Any) -> Heartbeat:
    record = Heartbeat(
        account_name=account,
        component="manager",
        build="test",
        policy_hash="hash",
        config_hash="config",
        broker_account_number="PA1",
        venue_time=NOON,
        open_positions=0,
        closing_positions=0,
    )
    return replace(record, **changes)
