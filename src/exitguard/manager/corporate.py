"""Splits, new symbols and adjusted contracts: the same position in other terms, recognised from the broker's evidence.

Activities tell of them, but mostly on the next day, and by then an old entry price beside a new market price would
have looked like a loss of half of everything. So the position list is the first witness. A split leaves its mark on
it that nothing else leaves: the quantity has changed by a plain ratio and the average price by its inverse, so nothing
was paid and nothing received. A new symbol keeps the broker's id of the asset.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction

from exitguard.broker.port import Activity, BrokerError, BrokerIncomplete
from exitguard.core.instrument import parse_instrument
from exitguard.core.orders import BrokerPosition, Fill
from exitguard.core.position import CrossesZero, Holding, PositionSide, fold, restate
from exitguard.core.reconcile import Finding, FindingKind
from exitguard.core.records import AppendEvent, EventType, PositionStatus, PutPosition
from exitguard.core.restatement import Restatement, RestatementKind, split_before, terms_of
from exitguard.core.session import NEW_YORK, SessionCalendar
from exitguard.manager.context import AccountContext
from exitguard.manager.lifecycle import Lifecycle
from exitguard.manager.tracked import Tracked

# The activities of a holding that became another one.
_EXCHANGES = ("NC", "OPCA")
_SPLIT = "SPLIT"
_MOMENT = timedelta(microseconds=1)
_KINDS = {
    RestatementKind.SPLIT: EventType.SPLIT,
    RestatementKind.SYMBOL_CHANGED: EventType.SYMBOL_CHANGED,
    RestatementKind.CONTRACT_ADJUSTED: EventType.CONTRACT_ADJUSTED,
}


class CorporateActions:
    """Recognises them for one account, and restates what they concern."""

    def __init__(self, context: AccountContext, lifecycle: Lifecycle) -> None:
        self._context = context
        self._lifecycle = lifecycle

    # Splits -----------------------------------------------------------------------------------------------------

    def shown(self, tracked: Tracked, theirs: BrokerPosition) -> Restatement | None:
        """The split that one answer of the broker shows, if it shows one."""
        return split_of(tracked.holding, theirs, self._context.calendar, self._context.clock.now())

    async def split(self, tracked: Tracked, theirs: BrokerPosition) -> bool:
        """Restate the position when the broker's shows a split of it; whether it did. Raises BrokerError.

        `theirs` is what the list of all positions shows; the question for the one position must give the same.
        """
        record, context = tracked.record, self._context
        if record.status is PositionStatus.CLOSED or self.shown(tracked, theirs) is None:
            return False
        try:
            await self._lifecycle.read_missed(tracked)
        except BrokerIncomplete as error:
            # What could be read is folded; a row that cannot must not keep a close from its right quantity.
            context.log.error("orders partly unreadable", position=record.id, reason=str(error))
        again = await context.broker.position(record.symbol)
        activity = _newest(await self._since(tracked), record.symbol, (_SPLIT,))
        found = self.shown(tracked, theirs)
        if tracked.holding.restatements and context.is_settling(record.symbol, context.clock.now()):
            return False  # an answer that lags still shows the old terms
        if record.id not in context.positions or found is None or again is None or _terms(again) != _terms(theirs):
            return False  # something changed while we asked
        evidence: dict[str, object] = {"broker_quantity": theirs.qty, "broker_average": theirs.avg_entry_price}
        if activity is not None:
            evidence |= {"activity_id": activity.id, "date": activity.date}
        self._restate(tracked, found, evidence)
        self._pay_out(tracked, theirs, activity)
        return True

    def _pay_out(self, tracked: Tracked, theirs: BrokerPosition, activity: Activity | None) -> None:
        """Book the cash for the fraction of a share that a reverse split left over.

        Until the broker says what it paid, the fraction counts at what it cost: nothing is gained or lost by it.
        """
        record, now = tracked.record, self._context.clock.now()
        fraction = tracked.holding.qty - abs(theirs.qty)
        if not 0 < fraction < 1:
            return
        paid = None if activity is None else activity.net_amount
        price = abs(paid) / fraction if paid else tracked.holding.entry_price
        name = f"cash-in-lieu:{record.uid}:{len(tracked.holding.restatements)}"
        fill = Fill(name, name, None, record.symbol, record.side.closing, fraction, price, now)
        finding = Finding(FindingKind.QUANTITY, record.symbol, tracked.signed_qty, theirs.qty)
        source = "activity" if paid else "not told yet: at the entry price"
        self._lifecycle.book_reconciled(tracked, fill, finding, now, repair="cash in lieu of a fraction", paid=source)

    # New symbols ------------------------------------------------------------------------------------------------

    async def renamed(self, theirs: BrokerPosition, held: Iterable[str]) -> bool:
        """Take a position that appears under a new symbol for the one of ours that it was; whether it did.

        `held`: the symbols that the broker's whole answer lists. One of ours that is missing there and has the same
        asset id, or whose activity names the new symbol, is it.
        """
        listed = set(held)
        side = PositionSide.LONG if theirs.qty > 0 else PositionSide.SHORT
        missing = [
            tracked
            for tracked in self._context.positions.values()
            if tracked.record.symbol not in listed and tracked.record.side is side and tracked.holding.qty > 0
        ]
        for tracked in missing:
            if not self._is_alike(tracked, theirs):
                continue
            evidence = await self._sameness(tracked, theirs)
            if evidence is None or self._context.on_symbol(theirs.symbol) is not None:
                continue
            if tracked.record.id not in self._context.positions:
                continue
            self._restate(tracked, _renaming(tracked, theirs, self.shown(tracked, theirs)), evidence)
            self._pay_out(tracked, theirs, None)
            return True
        return False

    def _is_alike(self, tracked: Tracked, theirs: BrokerPosition) -> bool:
        """The same kind of thing, in the same quantity or split at a plain ratio."""
        ours, new = tracked.holding.instrument, parse_instrument(theirs.symbol)
        if (ours.type, ours.expiry) != (new.type, new.expiry):
            return False
        return abs(theirs.qty) == tracked.holding.qty or self.shown(tracked, theirs) is not None

    async def _sameness(self, tracked: Tracked, theirs: BrokerPosition) -> dict[str, object] | None:
        """The evidence that the broker's position is ours under another symbol; None without any."""
        orders = [order for order in self._context.orders.values() if order.symbol == tracked.record.symbol]
        known = {tracked.asset_id, *(order.raw.get("asset_id") for order in orders)} - {None, ""}
        if theirs.asset_id in known:
            return {"asset_id": theirs.asset_id}
        activities = await self._since(tracked)
        activity = _newest(activities, tracked.record.symbol, _EXCHANGES)
        if activity is None:
            return None
        group = activity.raw.get("group_id")
        for other in activities:
            if other.type == activity.type and other.symbol == theirs.symbol and other.raw.get("group_id") == group:
                return {"activity_id": activity.id, "date": activity.date}
        return None

    # Both -------------------------------------------------------------------------------------------------------

    def _restate(self, tracked: Tracked, change: Restatement, evidence: dict[str, object]) -> None:
        """Put the position and everything that hangs on it under its new terms, in one step."""
        context, now, before = self._context, self._context.clock.now(), tracked.record
        context.marks.detach(tracked)  # with the last quote: it is one of the old terms
        tracked.holding = restate(tracked.holding, change)
        instrument = tracked.holding.instrument
        tracked.record = replace(
            before,
            symbol=instrument.symbol,
            ticker=instrument.underlying,
            option_symbol=instrument.option_symbol,
            expiration_date=instrument.expiry,
            strike_price=instrument.strike,
            stop_loss=change.price(before.stop_loss),
            take_profit=change.price(before.take_profit),
            best_price=change.price(before.best_price),
            worst_price=change.price(before.worst_price),
            current_price=change.price(before.current_price),
        )
        tracked.refresh_from_holding()
        tracked.expires_at = context.expiry_moment(instrument)
        tracked.trigger_price = change.price(tracked.trigger_price)
        tracked.broker_mark = tracked.diverged_since = None
        context.changed(tracked)
        context.note_fill(instrument.symbol, now)  # answers that lag still show the old terms
        self._lifecycle.refresh_bracket(tracked, now, announce=False)
        terms = {
            "before": change.before,
            "after": change.after,
            "old_rate": change.old_rate,
            "new_rate": change.new_rate,
            "quantity_before": before.quantity,
            "quantity": tracked.record.quantity,
            "entry_price_before": before.entry_price,
            "entry_price": tracked.record.entry_price,
        }
        context.ledger.post(
            PutPosition(tracked.record),
            AppendEvent(_KINDS[change.kind], now, {**terms, **evidence}, before.id),
        )
        context.alarms.clear(f"unexplained:{before.id}", now, before.id)
        context.log.warning(
            "position restated",
            position=before.id,
            kind=change.kind.value,
            symbol=change.after,
            **{name: str(value) for name, value in terms.items()},
        )
        tracked.news.set()

    async def _since(self, tracked: Tracked) -> list[Activity]:
        opened = tracked.record.entry_time.astimezone(NEW_YORK).date()
        try:
            activities = await self._context.broker.activities(after=opened)
        except BrokerError as error:
            # They say more about what the positions show; without them these stand for themselves.
            self._context.log.warning("activities not read", position=tracked.record.id, reason=str(error))
            return []
        return [activity for activity in activities if activity.raw.get("status") != "canceled"]


def _newest(activities: list[Activity], symbol: str, kinds: tuple[str, ...]) -> Activity | None:
    """The newest activity of these kinds about the symbol, if any."""
    found = [each for each in activities if each.type in kinds and each.symbol == symbol]
    return found[-1] if found else None


def _terms(theirs: BrokerPosition) -> tuple[Decimal, Decimal]:
    return theirs.qty, theirs.avg_entry_price


def split_of(holding: Holding, theirs: BrokerPosition, calendar: SessionCalendar, now: datetime) -> Restatement | None:
    """The split that makes the broker's position of ours, if one does.

    Fills may have come since: then what was held before them has been split, and they are in the new terms. Stocks are
    split over night, so a moment with a night behind it goes before any other.
    """
    if theirs.qty * holding.side.sign <= 0:
        return None
    fills = sorted(holding.fills, key=lambda fill: (fill.at, fill.execution_id))
    by_day: Restatement | None = None
    for count in range(len(fills), 0, -1):
        last, after = fills[count - 1], fills[count:]
        if after and after[0].at == last.at:
            continue
        ratio = _ratio(holding, fills[:count], after, theirs)
        if ratio is None:
            continue
        at = after[0].at if after else last.at + _MOMENT
        found = _restatement(RestatementKind.SPLIT, at, holding, holding.instrument.symbol, ratio)
        if _is_night_between(calendar, last.at, after[0].at if after else now):
            return found
        by_day = by_day or (None if after else found)
    return by_day


def _ratio(holding: Holding, before: list[Fill], after: list[Fill], theirs: BrokerPosition) -> Fraction | None:
    """The ratio by which what `before` makes was split, if it was."""
    try:
        held = fold(holding.instrument, holding.side, before, holding.restatements)
    except (CrossesZero, ValueError):
        return None
    later = [
        (terms_of(fill, holding.restatements)[1] * (1 if fill.side is holding.side.opening else -1), fill.price)
        for fill in after
    ]
    ratios = (
        split_before((held.qty, average), later, (theirs.qty, theirs.avg_entry_price)) for average in _averages(held)
    )
    return next((ratio for ratio in ratios if ratio is not None), None)


def _is_night_between(calendar: SessionCalendar, start: datetime, end: datetime) -> bool:
    session = calendar.current(start)
    return session is None or not session.contains(start) or end > session.close


def _averages(holding: Holding) -> Iterator[Decimal]:
    """The average price as our books have it, and as a broker keeps it: a reduction leaves the average as it is."""
    yield holding.entry_price
    qty = cost = Decimal(0)
    for fill in sorted(holding.fills, key=lambda each: (each.at, each.execution_id)):
        units = terms_of(fill, holding.restatements)[1]
        if fill.side is holding.side.opening:
            qty, cost = qty + units, cost + fill.qty * fill.price
        elif qty > 0:
            qty, cost = qty - units, cost * (1 - units / qty)
    if qty > 0 and cost > 0:
        yield cost / qty


def _renaming(tracked: Tracked, theirs: BrokerPosition, split: Restatement | None) -> Restatement:
    holding = tracked.holding
    kind = RestatementKind.CONTRACT_ADJUSTED if holding.instrument.is_option else RestatementKind.SYMBOL_CHANGED
    symbol = parse_instrument(theirs.symbol).symbol
    last = max((fill.at for fill in holding.fills), default=tracked.record.entry_time)
    ratio = Fraction(1) if split is None else Fraction(split.new_rate) / Fraction(split.old_rate)
    return _restatement(kind, last + _MOMENT, holding, symbol, ratio)


def _restatement(kind: RestatementKind, at: datetime, holding: Holding, after: str, ratio: Fraction) -> Restatement:
    rates = Decimal(ratio.denominator), Decimal(ratio.numerator)
    return Restatement(kind, at, holding.instrument.symbol, after, *rates)
