"""Positions change and go: each step is one batch of row, fills, event and (at the end) history."""

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

from exitguard.broker.port import BrokerError, BrokerIncomplete
from exitguard.core.bracket import STOP_TYPES, view_bracket
from exitguard.core.evaluate import Bracket
from exitguard.core.orders import BrokerOrder, Fill
from exitguard.core.policy import policy_hash
from exitguard.core.position import Holding, apply_fill, closable, pnl
from exitguard.core.reconcile import Finding
from exitguard.core.records import (
    AppendEvent,
    CloseReason,
    EventType,
    FinishCommand,
    HistoryRecord,
    Operation,
    Outcome,
    PositionRecord,
    PositionStatus,
    Protection,
    PutFill,
    PutHistory,
    PutPosition,
)
from exitguard.manager.armer import disarm, recognise
from exitguard.manager.context import AccountContext
from exitguard.manager.fills import derived_id, new_fill
from exitguard.manager.orders import is_liquidation
from exitguard.manager.tracked import Tracked
from exitguard.store.port import StoreRejected, StoreUnavailable

_PERCENT_DIGITS = Decimal("0.0001")
# A restored bracket counts as restored when it has stood for this long (venue time).
BRACKET_LASTS = timedelta(seconds=10)


class Lifecycle:
    """Changes and finishes positions of one account."""

    def __init__(self, context: AccountContext) -> None:
        self._context = context

    # Changing ---------------------------------------------------------------------------------------------------

    def apply_order(self, order: BrokerOrder, reported: Fill | None, now: datetime, source: str) -> list[Tracked]:
        """Fold what is new of an order and its legs into the contract's position; returns the positions touched.

        Fills of a contract that is not under management are left unbooked: discovery or reconciliation attributes them.
        """
        context = self._context
        for member in order.family():
            known = context.orders.get(member.id)
            if source == "stream":
                context.ear.heard(known, member)
            else:
                context.ear.told_elsewhere(known, member)
        context.know_order(order)
        touched: list[Tracked] = []
        for member in order.family():
            tracked = context.on_symbol(member.symbol)
            if tracked is not None:
                recognise(context, tracked, member, now)
            context.carry_into_intent(member)
            if tracked is None:
                continue
            if tracked not in touched:
                touched.append(tracked)
            if self._is_past(tracked, member):
                continue
            fill = new_fill(context, member, reported if member is order else None, now)
            if fill is not None:
                self._book(tracked, member, fill, now, source)
        for tracked in touched:
            if tracked.record.status is not PositionStatus.CLOSED:
                self.refresh_bracket(tracked, now)
            tracked.news.set()
        return touched

    def _is_past(self, tracked: Tracked, order: BrokerOrder) -> bool:
        """Whether an order ended before an adopted position began: it is in the quantity that was adopted.

        The tally knows it too, but does not outlive a restart.
        """
        if not tracked.record.adopted or order.is_open:
            return False
        ended = order.filled_at or order.updated_at
        if ended is None:
            return False
        begun = tracked.record.entry_time
        return ended < begun or (ended == begun and self._context.tally(order.id).qty == 0)

    def _book(self, tracked: Tracked, order: BrokerOrder, fill: Fill, now: datetime, source: str) -> None:
        context, record = self._context, tracked.record
        closing = fill.side is record.side.closing
        fits = closable(tracked.holding, fill) if closing else fill.qty
        excess = fill.qty - fits
        if excess > 0:
            # The broker filled more than was held: book what closes, and let reconciliation see the rest (F2, I1).
            context.alarms.raise_alarm(
                f"overfill:{record.id}",
                "overfill",
                f"{fill.symbol}: {fill.qty} closed but {tracked.holding.qty} held; the excess is reconciled",
                now,
                record.id,
                order_id=order.id,
            )
            # What is not booked stays open in the tally: adoption books it, and a restart counts the same.
            tally = context.tally(order.id)
            tally.add(-excess, fill.price)
            if tracked.holding.qty <= 0:
                return
            fill = replace(fill, qty=fits, execution_id=derived_id(order.id, tally.qty))
        tracked.holding = apply_fill(tracked.holding, fill)
        tracked.refresh_from_holding()
        context.changed(tracked)
        context.note_fill(record.symbol, now)
        partial = not tracked.holding.is_flat
        context.ledger.post(
            PutFill(record.id, fill, source),
            PutPosition(tracked.record),
            AppendEvent(
                EventType.PARTIAL_FILL if partial and closing else EventType.FILL,
                now,
                {
                    "order_id": order.id,
                    "client_order_id": order.client_order_id,
                    "side": fill.side,
                    "quantity": fill.qty,
                    "price": fill.price,
                    "left": tracked.holding.qty,
                    "source": source,
                },
                record.id,
            ),
        )
        if not tracked.holding.is_flat:
            return
        if is_liquidation(order, context.name, tracked.expires_at):
            tracked.record = replace(tracked.record, close_reason=CloseReason.BROKER_LIQUIDATION)
        elif record.status is not PositionStatus.CLOSING:
            tracked.record = replace(tracked.record, close_reason=self._foreign_reason(record, order))

    def book_reconciled(
        self, tracked: Tracked, fill: Fill, finding: Finding, now: datetime, **evidence: object
    ) -> None:
        """Book a quantity that no order explains, with the finding and what else is known as evidence."""
        tracked.holding = apply_fill(tracked.holding, fill)
        tracked.refresh_from_holding()
        self.refresh_bracket(tracked, now)
        self._context.changed(tracked)
        self._context.ledger.post(
            PutFill(tracked.record.id, fill, "reconciled"),
            PutPosition(tracked.record),
            AppendEvent(
                EventType.RECONCILED,
                now,
                {
                    "finding": finding.kind,
                    "ours": finding.ours,
                    "theirs": finding.theirs,
                    "quantity": fill.qty,
                    "price": fill.price,
                    **evidence,
                },
                tracked.record.id,
            ),
        )

    def _foreign_reason(self, record: PositionRecord, order: BrokerOrder) -> CloseReason:
        """Who closed it, when it was not our closing order."""
        bracketed = order.id in (record.stop_order_id, record.target_order_id) or order.order_class in (
            "bracket",
            "oco",
            "oto",
        )
        if not bracketed:
            return CloseReason.EXTERNAL_CLOSE
        return CloseReason.BRACKET_STOP if order.type in STOP_TYPES else CloseReason.BRACKET_TARGET

    def refresh_bracket(self, tracked: Tracked, now: datetime, *, announce: bool = True) -> None:
        """Look at the resting orders again, and start or stop the clock of a missing bracket."""
        context, record = self._context, tracked.record
        if not tracked.policy.missing_bracket:
            return
        instrument = tracked.holding.instrument
        view = view_bracket(instrument, record.side, tracked.holding.qty, context.open_orders_on(record.symbol))
        before, tracked.bracket = tracked.bracket, view.state
        complete = view.state is Bracket.COMPLETE
        if (view.stop_order_id, view.target_order_id, complete) != (
            record.stop_order_id,
            record.target_order_id,
            record.bracket_order_accepted,
        ):
            tracked.record = replace(
                record,
                stop_order_id=view.stop_order_id or record.stop_order_id,
                target_order_id=view.target_order_id or record.target_order_id,
                bracket_order_accepted=complete,
            )
        self._run_bracket_clock(tracked, view.state, now)
        if before is not view.state and announce:
            context.ledger.post(
                PutPosition(tracked.record),
                AppendEvent(
                    EventType.PROTECTION_CHANGED, now, {"bracket": view.state, "before": before}, tracked.record.id
                ),
            )

    def _run_bracket_clock(self, tracked: Tracked, state: Bracket, now: datetime) -> None:
        """Start the clock of a missing bracket, and stop it only when the bracket has lasted.

        A broker that accepts a restoration and rejects it a moment later must not reset the grace again and again.
        """
        if state is Bracket.MISSING:
            tracked.bracket_complete_since = None
            can_trade = self._context.can_trade(tracked.holding.instrument, now, tracked.policy)
            if tracked.bracket_missing_since is None and can_trade:
                tracked.bracket_missing_since = now
            return
        tracked.bracket_complete_since = tracked.bracket_complete_since or now
        if state is Bracket.NOT_NEEDED or now - tracked.bracket_complete_since >= BRACKET_LASTS:
            tracked.bracket_missing_since = None

    # Finishing --------------------------------------------------------------------------------------------------

    async def read_missed(self, tracked: Tracked) -> None:
        """Fold the orders of the contract since shortly before the entry.

        Raises BrokerError; on BrokerIncomplete the orders that could be read are folded all the same.
        """
        broker, clock = self._context.broker, self._context.clock
        since = tracked.record.entry_time - timedelta(minutes=5)
        try:
            for order in await broker.orders_since(since, [tracked.record.symbol]):
                self.apply_order(order, None, clock.now(), "orders")
        except BrokerIncomplete as error:
            for row in error.rows:
                if isinstance(row, BrokerOrder):
                    self.apply_order(row, None, clock.now(), "orders")
            raise

    async def finish_foreign(self, tracked: Tracked) -> bool:
        """Finish a position that somebody else closed, once the broker's orders show that nothing of it was missed.

        An unseen addition would make our books flat before the position is. False when the broker did not answer:
        the position stays as it is until the next look.
        """
        context = self._context
        try:
            await self.read_missed(tracked)
        except BrokerIncomplete as error:
            # What cannot be read must not keep the close from the books: reconciliation finds what is left.
            context.log.error("orders partly unreadable", position=tracked.record.id, reason=str(error))
        except BrokerError as error:
            context.log.warning("close by others not confirmed yet", position=tracked.record.id, reason=str(error))
            return False
        if tracked.closer is not None:
            return True  # something was added, and is being closed by now
        if tracked.holding.is_flat:
            await self.finish(tracked, context.clock.now())
        elif tracked.record.status is PositionStatus.OPEN:
            tracked.record = replace(tracked.record, close_reason=None)
        return True

    async def finish(self, tracked: Tracked, now: datetime) -> None:
        """Close the books of a flat position: row, history, event and answered commands in one transaction (F62)."""
        context, holding = self._context, tracked.holding
        if not holding.is_flat or tracked.record.status is PositionStatus.CLOSED:
            return
        exit_price = holding.exit_price
        if exit_price is None:
            raise AssertionError(f"position {tracked.record.id} is flat without closing fills")
        closed_at = holding.last_fill_at or now
        reason = tracked.record.close_reason or CloseReason.EXTERNAL_CLOSE
        record = replace(
            tracked.record,
            status=PositionStatus.CLOSED,
            quantity=Decimal(0),
            close_reason=reason,
            exit_price=exit_price,
            realised_pnl=holding.realised_pnl,
            closed_at=closed_at,
            current_price=exit_price,
            current_pnl_dollars=holding.realised_pnl,
            current_pnl_percent=self._realised_percent(holding),
            protection=Protection.PROTECTED,
            protection_since=now,
            close_deadline=None,
        )
        before, tracked.record = tracked.record, record
        armed = tracked.armed
        context.remove(tracked)
        context.alarms.clear_position(record.id, now, but=_unrecorded(record))
        try:
            await context.ledger.commit(*self._last_operations(tracked, closed_at, reason, exit_price, now))
        except StoreUnavailable as error:
            context.log.error("close not recorded yet: the database is away", position=record.id, reason=str(error))
        except StoreRejected as error:
            # Never closed without its history row (F62): it stays under management, flat, and a person is told.
            tracked.record = replace(before, close_attempt=tracked.record.close_attempt)
            tracked.armed = armed
            context.add(tracked)
            context.alarms.raise_alarm(
                _unrecorded(record),
                "close_unrecorded",
                f"{record.symbol} is closed at the broker, and the database refuses to record it: {error}",
                now,
                record.id,
            )
            return
        tracked.command_ids.clear()
        context.alarms.clear(_unrecorded(record), now, record.id)
        context.log.info(
            "Position closed successfully",
            position=record.id,
            symbol=record.symbol,
            reason=reason.value,
            exit_price=str(exit_price),
            realised_pnl=str(holding.realised_pnl),
        )

    def _last_operations(
        self, tracked: Tracked, closed_at: datetime, reason: CloseReason, exit_price: Decimal, now: datetime
    ) -> list[Operation]:
        record, holding = tracked.record, tracked.holding
        operations: list[Operation] = [
            PutPosition(record),
            *disarm(tracked),
            PutHistory(self._history(tracked, closed_at, reason)),
            AppendEvent(
                EventType.CLOSED,
                now,
                {
                    "reason": reason,
                    "exit_price": exit_price,
                    "realised_pnl": holding.realised_pnl,
                    "quantity": holding.closed_qty,
                    "attempts": record.close_attempt,
                    "symbol": record.symbol,
                },
                record.id,
            ),
        ]
        operations += [
            FinishCommand(command, True, f"closed {record.symbol} at {exit_price:.4f}: {reason.value}", now)
            for command in tracked.command_ids
            if not any(command in other.command_ids for other in self._context.positions.values())
        ]
        return operations

    def _realised_percent(self, holding: Holding) -> Decimal:
        exit_price = holding.exit_price or Decimal(0)
        gain = pnl(holding.instrument, holding.side, holding.closed_qty, holding.entry_price, exit_price)
        return gain.percent.quantize(_PERCENT_DIGITS)

    def _history(self, tracked: Tracked, closed_at: datetime, reason: CloseReason) -> HistoryRecord:
        record, holding, options = tracked.record, tracked.holding, self._context.options
        held = Decimal((closed_at - record.entry_time).total_seconds()) / 60
        return HistoryRecord(
            account_name=record.account_name,
            position_id=record.id,
            execution_id=record.execution_id,
            symbol=record.symbol,
            ticker=record.ticker,
            option_symbol=record.option_symbol,
            instrument_type=record.instrument_type,
            strategy_type=record.strategy_type,
            side=record.side,
            quantity=holding.closed_qty,
            multiplier=record.multiplier,
            entry_price=holding.entry_price,
            exit_price=holding.exit_price or Decimal(0),
            entry_time=record.entry_time,
            closed_at=closed_at,
            realised_pnl=holding.realised_pnl,
            realised_pnl_percent=self._realised_percent(holding),
            outcome=Outcome.of(holding.realised_pnl),
            close_reason=reason,
            hold_minutes=max(held, Decimal(0)).quantize(Decimal("0.01")),
            best_price=record.best_price,
            worst_price=record.worst_price,
            trigger_price=tracked.trigger_price,
            trigger_at=tracked.trigger_at,
            build=options.build,
            policy_hash=policy_hash(tracked.policy),
            features=record.features,
        )


def _unrecorded(record: PositionRecord) -> str:
    """Key of the alarm for a close that the ledger refuses."""
    return f"unrecorded:{record.id}"
