"""Looks at positions and acts on what `evaluate` decides: on each tick that matters, and on all of them in a sweep."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

from exitguard.broker.port import Tick
from exitguard.core.evaluate import Action, Decision, evaluate, expiration_deadline
from exitguard.core.evolve import evolve
from exitguard.core.marks import QuoteView, judge
from exitguard.core.position import PositionSide
from exitguard.core.quote import QuoteState
from exitguard.core.records import (
    AppendEvent,
    EventType,
    Mark,
    PositionRecord,
    PositionStatus,
    Protection,
    PutPosition,
)
from exitguard.manager.book import SymbolMarks
from exitguard.manager.closer import Closer
from exitguard.manager.context import AccountContext
from exitguard.manager.pieces import in_pieces
from exitguard.manager.restorer import Restorer
from exitguard.manager.tracked import Tracked

# Further ahead of the clock than this, a quote comes from the future (the same as in `core.quote`).
MAX_AHEAD = timedelta(seconds=5)
# A mark is an event when the P&L moved by this many percent points since the last one that was.
EVENT_MOVE_PERCENT = Decimal(10)
_MONEY = Decimal("0.01")
_PERCENT = Decimal("0.0001")
_PRICE = Decimal("0.0001")


class Watcher:
    """Evaluates the positions of one account."""

    def __init__(self, context: AccountContext, closer: Closer, restorer: Restorer) -> None:
        self._context = context
        self._closer = closer
        self._restorer = restorer

    # Ticks ------------------------------------------------------------------------------------------------------

    def on_ticks(self, ticks: Sequence[Tick]) -> None:
        """The hot path: a frame of quotes. Quiet ones cost a few comparisons; the others are looked at."""
        marks = self._context.marks
        clock = self._context.clock
        for tick in ticks:
            symbol_marks = marks.on_tick(tick)
            if symbol_marks is not None:
                quote = symbol_marks.quote
                if quote is not None:
                    clock.observe(quote.at, authoritative=False)
                self.look(symbol_marks, clock.now())
                if symbol_marks.quote is None:
                    self._look_instead(symbol_marks, tick)

    def _look_instead(self, marks: SymbolMarks, tick: Tick) -> None:
        """The newest quote was none; what counts is this one, which it had kept out, unless it is the same."""
        now = self._context.clock.now()
        marks.set_tick(tick)
        quote = marks.quote
        if quote is not None and quote.at <= now + MAX_AHEAD:
            self.look(marks, now)
        else:
            marks.forget_quote()

    def look(self, marks: SymbolMarks, now: datetime) -> None:
        """Evaluate every position of one symbol on its newest quote, then settle the quiet band."""
        failed = False
        for tracked in marks.positions:
            try:
                self._decide(tracked, self._view(tracked, marks, now), now)
            except Exception as error:
                failed = True
                self._cannot_evaluate(tracked, error, now)
        if failed:
            marks.open_band()
        else:
            marks.settle_band()

    def _cannot_evaluate(self, tracked: Tracked, error: Exception, now: datetime) -> None:
        """A position that trips us up must not take its neighbours down (F60), and a person must know."""
        record = tracked.record
        if not tracked.unevaluated:
            self._context.log.error("position cannot be evaluated", position=record.id, exc_info=error)
        tracked.unevaluated = True
        self._context.alarms.raise_alarm(
            f"evaluation:{record.id}",
            "evaluation_failed",
            f"{record.symbol} cannot be evaluated, watch it by hand: {error!r}",
            now,
            record.id,
        )

    def _view(self, tracked: Tracked, marks: SymbolMarks, now: datetime) -> QuoteView:
        quote = marks.quote
        view, marks.streak = judge(quote, now, tracked.policy, marks.streak, tracked.broker_mark)
        if view.state is QuoteState.STALE and quote is not None and quote.at > now:
            # From the future. Kept, it would pass for newer than every true quote until that time has come.
            marks.forget_quote()
        return view

    # Deciding ---------------------------------------------------------------------------------------------------

    def _decide(self, tracked: Tracked, view: QuoteView, now: datetime) -> None:
        if tracked.holding.qty <= 0 or tracked.record.status is PositionStatus.CLOSED:
            return
        self._track_blindness(tracked, view, now)
        decision = evaluate(tracked.watched(), view, now, self._context.session(now), tracked.policy)
        if not tracked.is_closing:
            self._act(tracked, decision, now)
        elif decision.action is Action.CLOSE:
            self._closer.take_over(tracked, decision)
        self._remember(tracked, decision, view, now)
        if tracked.unevaluated:
            tracked.unevaluated = False
            self._context.alarms.clear(f"evaluation:{tracked.record.id}", now, tracked.record.id)

    def _act(self, tracked: Tracked, decision: Decision, now: datetime) -> None:
        if decision.action in (Action.CLOSE, Action.REDUCE):
            self._closer.start(tracked, decision)
        elif decision.action is Action.RESTORE:
            self._restorer.start(tracked)
        if decision.held is not tracked.held_reported:
            tracked.held_reported = decision.held
            if decision.held is not None:
                self._note(tracked, EventType.EXIT_HELD, decision, now)
                self._context.log.info(
                    "Too early to exit", position=tracked.record.id, rule=decision.held.value, price=str(decision.price)
                )
        pending = decision.rule if decision.pending else None
        if pending is not tracked.pending_reported:
            tracked.pending_reported = pending
            if pending is not None:
                self._note(tracked, EventType.EXIT_PENDING, decision, now)
                self._context.log.warning(
                    "exit waits for the next session", position=tracked.record.id, rule=pending.value
                )

    def _note(self, tracked: Tracked, event: EventType, decision: Decision, now: datetime) -> None:
        self._context.ledger.post(AppendEvent(event, now, decision.explain(), tracked.record.id))

    def _remember(self, tracked: Tracked, decision: Decision, view: QuoteView, now: datetime) -> None:
        record = tracked.record
        if decision.price is None or decision.pnl is None or view.quote is None:
            tracked.record = evolve(record, last_checked_at=now)
            return
        price = decision.price
        best, worst = record.best_price or price, record.worst_price or price
        if record.side is PositionSide.LONG:
            best, worst = max(best, price), min(worst, price)
        else:
            best, worst = min(best, price), max(worst, price)
        tracked.record = evolve(
            record,
            current_price=price.quantize(_PRICE),
            current_pnl_dollars=decision.pnl.dollars.quantize(_MONEY),
            current_pnl_percent=decision.pnl.percent.quantize(_PERCENT),
            marked_at=view.quote.at,
            last_checked_at=now,
            best_price=best,
            worst_price=worst,
        )

    def _track_blindness(self, tracked: Tracked, view: QuoteView, now: datetime) -> None:
        """Blind runs only while quotes are due: the market is closed at night, not blind."""
        record, context = tracked.record, self._context
        session = context.session(now)
        due = session is not None and session.contains(now)
        if view.usable or not due:
            if tracked.blind_since is not None:
                tracked.blind_since = None
                context.alarms.clear(f"blind:{record.id}", now, record.id)
            return
        if tracked.blind_since is None:
            tracked.blind_since = now
        elif now - tracked.blind_since >= timedelta(seconds=tracked.policy.alarms.blind_seconds):
            context.alarms.raise_alarm(
                f"blind:{record.id}",
                "blind",
                f"{record.symbol}: no usable quote ({view.state.value}) since {tracked.blind_since:%H:%M:%S} UTC;"
                " price rules cannot act, time rules go on",
                now,
                record.id,
                quote_state=view.state.value,
            )

    # Sweeping ---------------------------------------------------------------------------------------------------

    async def sweep(self, now: datetime) -> list[Mark]:
        """Evaluate everything once and return the marks to write."""
        context = self._context
        async for symbols in in_pieces(list(context.marks.symbols)):
            for symbol in symbols:
                marks = context.marks.get(symbol)
                if marks is not None:
                    self.look(marks, now)
        written: list[Mark] = []
        async for piece in in_pieces(list(context.positions.values())):
            written += [self._mark(tracked, now) for tracked in piece if tracked.record.id in context.positions]
        return written

    def _mark(self, tracked: Tracked, now: datetime) -> Mark:
        self._watch_protection(tracked, now)
        record = tracked.record
        self._say_updated(record, logging.INFO if self._worth_an_event(tracked, now) else logging.DEBUG)
        return Mark(
            position_id=record.id,
            price=record.current_price,
            pnl_dollars=record.current_pnl_dollars,
            pnl_percent=record.current_pnl_percent,
            best_price=record.best_price,
            worst_price=record.worst_price,
            marked_at=record.marked_at,
            checked_at=now,
            protection=record.protection,
            protection_since=record.protection_since or now,
        )

    def _say_updated(self, record: PositionRecord, level: int) -> None:
        self._context.log.log(
            level,
            "Position updated",
            position=record.id,
            symbol=record.symbol,
            price=str(record.current_price),
            pnl=str(record.current_pnl_dollars),
            protection=record.protection.value,
        )

    def _worth_an_event(self, tracked: Tracked, now: datetime) -> bool:
        percent = tracked.record.current_pnl_percent
        if percent is None:
            return False
        last = tracked.last_event_percent
        if last is not None and abs(percent - last) < EVENT_MOVE_PERCENT:
            return False
        tracked.last_event_percent = percent
        self._context.ledger.post(
            AppendEvent(
                EventType.PRICE_UPDATE,
                now,
                {
                    "price": tracked.record.current_price,
                    "pnl_dollars": tracked.record.current_pnl_dollars,
                    "pnl_percent": percent,
                },
                tracked.record.id,
            )
        )
        return True

    def watch_protection(self) -> None:
        """Let every position's protection state say what is true now, between sweeps too."""
        now = self._context.clock.now()
        for tracked in list(self._context.positions.values()):
            if tracked.record.status is not PositionStatus.CLOSED:
                self._watch_protection(tracked, now)

    def _watch_protection(self, tracked: Tracked, now: datetime) -> None:
        """Keep the state and its clock; a naked position past its threshold is an alarm."""
        record, context = tracked.record, self._context
        state = tracked.protection(now)
        if state is not record.protection:
            tracked.record = replace(record, protection=state, protection_since=now)
            self._say_updated(tracked.record, logging.INFO)
            context.ledger.post(
                PutPosition(tracked.record),
                AppendEvent(
                    EventType.PROTECTION_CHANGED, now, {"protection": state, "before": record.protection}, record.id
                ),
            )
        if state is Protection.STUCK:
            context.alarms.raise_alarm(
                f"stuck:{record.id}",
                "stuck",
                f"close of {record.symbol} ({record.close_reason}) is past its deadline at attempt"
                f" {record.close_attempt}: it goes on; look at the broker",
                now,
                record.id,
                attempt=record.close_attempt,
            )
        else:
            context.alarms.clear(f"stuck:{record.id}", now, record.id)
        if tracked.bracket_missing_since is not None and not context.can_trade(
            tracked.holding.instrument, now, tracked.policy
        ):
            tracked.bracket_missing_since = None  # nobody can restore it now
        since = tracked.bracket_missing_since
        threshold = timedelta(seconds=tracked.policy.alarms.naked_seconds)
        if state is Protection.NAKED and since is not None and now - since >= threshold:
            context.alarms.raise_alarm(
                f"naked:{record.id}",
                "naked",
                f"{record.symbol}: no live stop and target at the broker since {since:%H:%M:%S} UTC",
                now,
                record.id,
            )
        elif state is not Protection.NAKED:
            context.alarms.clear(f"naked:{record.id}", now, record.id)

    def next_deadline(self, after: datetime) -> datetime | None:
        """The nearest moment after `after` at which a time rule of some position becomes true."""
        context = self._context
        session = context.session(after)
        moments: list[datetime] = []
        for tracked in context.positions.values():
            record, policy = tracked.record, tracked.policy
            moments.append(record.max_hold_deadline)
            moments.append(record.entry_time + policy.min_hold)
            if record.close_deadline is not None:
                moments.append(record.close_deadline)
            if tracked.expires_at is not None:
                moments.append(expiration_deadline(tracked.expires_at, policy))
            if session is not None:
                moments.append(session.close - timedelta(minutes=policy.day_trade_minutes_before_close))
            if tracked.blind_since is not None:
                moments.append(tracked.blind_since + timedelta(seconds=policy.alarms.blind_seconds))
            if tracked.bracket_missing_since is not None:
                moments.append(tracked.bracket_missing_since + timedelta(seconds=policy.missing_bracket_grace_seconds))
        return min((moment for moment in moments if moment > after), default=None)
