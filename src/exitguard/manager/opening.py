"""Positions come: an entry of ours that filled, or what is adopted; row, fills and event are one batch."""

from datetime import datetime, timedelta
from uuid import uuid4

from exitguard.core.instrument import Instrument, parse_instrument
from exitguard.core.orders import BrokerOrder, Fill
from exitguard.core.position import Holding, PositionSide, apply_fill
from exitguard.core.records import AppendEvent, EventType, ExecutionRecord, PositionRecord, PutFill, PutPosition
from exitguard.manager.context import AccountContext, Counted, Tally
from exitguard.manager.fills import new_fill
from exitguard.manager.lifecycle import Lifecycle
from exitguard.manager.tracked import Tracked

DEFAULT_STRATEGY = "unknown"


class Opening:
    """Creates positions of one account."""

    def __init__(self, context: AccountContext, lifecycle: Lifecycle) -> None:
        self._context = context
        self._lifecycle = lifecycle

    def from_execution(self, execution: ExecutionRecord, order: BrokerOrder, now: datetime) -> Tracked | None:
        """Take the filled part of an entry order under management; None when nothing of it is new.

        A fill of a contract that is held already adds to that position, or takes from it: the broker knows one
        position of a contract, so two of ours on opposite sides would hide each other.
        """
        context = self._context
        instrument = parse_instrument(order.symbol)
        side = PositionSide.LONG if order.side is PositionSide.LONG.opening else PositionSide.SHORT
        existing = context.on_symbol(instrument.symbol)
        if existing is not None:
            self._lifecycle.apply_order(order, None, now, "orders")
            return existing
        context.ear.told_elsewhere(context.orders.get(order.id), order)
        context.know_order(order)
        if order.submitted_at is not None:
            context.count_out(instrument.symbol, order.submitted_at)
        fill = new_fill(context, order, None, now)
        if fill is None:
            return None
        opened = order.filled_at or fill.at
        deadline = None
        if execution.max_hold_minutes is not None:
            deadline = opened + timedelta(minutes=execution.max_hold_minutes)
        tracked = self._open(
            instrument,
            side,
            [fill],
            strategy=execution.strategy_type,
            execution=execution,
            deadline=deadline,
            source="orders",
            event=EventType.CREATED,
            now=now,
        )
        self._lifecycle.apply_order(order, None, now, "orders")  # legs that filled meanwhile
        return tracked

    def adopt(
        self, symbol: str, side: PositionSide, fills: list[Fill], history: list[Fill], now: datetime, evidence: str
    ) -> Tracked:
        """Take a position under management that nobody told us of, with its true entry time where fills show it.

        `history` is every fill of the contract that the broker tells of: all of it is in what it holds now, also what
        belongs to earlier episodes that were never recorded.
        """
        instrument = parse_instrument(symbol)
        self._count(history or fills, fills)
        return self._open(
            instrument,
            side,
            fills,
            strategy=DEFAULT_STRATEGY,
            execution=None,
            deadline=None,
            source="activities",
            event=EventType.ADOPTED,
            now=now,
            evidence=evidence,
        )

    def _count(self, history: list[Fill], opening: list[Fill]) -> None:
        """Tally what is adopted as booked, and what came before it as counted in.

        When no fills explain what is adopted, they are in it all the same, and are never to be booked again.
        """
        told: dict[str, tuple[Tally, Fill]] = {}
        for fill in history:
            whole, _ = told.get(fill.order_id, (Tally(), fill))
            whole.add(fill.qty, fill.price)
            told[fill.order_id] = whole, fill
        for order_id, (whole, last) in told.items():
            tally = self._context.tally(order_id)
            if whole.qty <= tally.qty:
                continue
            for fill in opening:
                if fill.order_id == order_id:
                    tally.add(fill.qty, fill.price)
            rest = whole.qty - tally.qty, whole.value - tally.value
            if any(fill.order_id in told for fill in opening):
                self._context.count_in(Counted(order_id, last.symbol, last.at, *rest))
            else:
                tally.qty, tally.value = whole.qty, whole.value

    def _open(
        self,
        instrument: Instrument,
        side: PositionSide,
        fills: list[Fill],
        *,
        strategy: str,
        execution: ExecutionRecord | None,
        deadline: datetime | None,
        source: str,
        event: EventType,
        now: datetime,
        evidence: str | None = None,
    ) -> Tracked:
        context = self._context
        holding = Holding(instrument, side)
        for fill in fills:
            holding = apply_fill(holding, fill)
        policy = context.options.select_policy(strategy, instrument)
        opened_at = holding.opened_at or now
        position_id, context.next_position_id = context.next_position_id, context.next_position_id + 1
        record = PositionRecord(
            account_name=context.name,
            id=position_id,
            uid=uuid4().hex[:12],
            execution_id=execution.execution_id if execution else None,
            symbol=instrument.symbol,
            ticker=instrument.underlying,
            option_symbol=instrument.option_symbol,
            instrument_type=instrument.type,
            strategy_type=strategy,
            side=side,
            quantity=holding.qty,
            original_quantity=holding.opened_qty,
            entry_price=holding.entry_price,
            entry_time=opened_at,
            stop_loss=execution.stop_loss if execution else None,
            take_profit=execution.take_profit if execution else None,
            max_hold_deadline=deadline or opened_at + timedelta(minutes=policy.max_hold_minutes),
            expiration_date=instrument.expiry,
            strike_price=instrument.strike,
            multiplier=instrument.multiplier,
            policy_name=policy.name,
            protection_since=now,
            best_price=holding.entry_price,
            worst_price=holding.entry_price,
            adopted=execution is None,
            features=execution.features if execution else {},
        )
        tracked = Tracked(record, holding, policy, context.expiry_moment(instrument))
        tracked.refresh_from_holding()  # a part of what is adopted may be closed again
        context.add(tracked)
        context.note_fill(instrument.symbol, now)
        self._lifecycle.refresh_bracket(tracked, now, announce=False)
        data: dict[str, object] = {
            "symbol": instrument.symbol,
            "instrument_type": instrument.type,
            "side": side,
            "quantity": holding.qty,
            "entry_price": holding.entry_price,
            "entry_time": opened_at,
            "strategy_type": strategy,
            "policy": policy.name,
        }
        if evidence:
            data["evidence"] = evidence
        context.ledger.post(
            PutPosition(tracked.record),
            *(PutFill(position_id, fill, source) for fill in fills),
            AppendEvent(event, now, data, position_id),
        )
        context.log.info(
            "Created active position",
            position=position_id,
            symbol=instrument.symbol,
            side=side.value,
            quantity=str(holding.qty),
            entry_price=str(holding.entry_price),
            adopted=record.adopted,
        )
        return tracked
