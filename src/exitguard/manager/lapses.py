"""Options that expired, were exercised or assigned, and the shares that changed hands for them.

No order and no trade update tells of it, and activities (OPEXP, OPEXC, OPASN, OPTRD) come on the next day. Before they
do, positions can prove it: contracts are gone and exactly their shares have come or gone, or the last session is over
and nothing has come for them. Contracts are booked at 0: what they were worth is in the position of the shares, which
come and go at the strike.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

from exitguard.broker.port import Activity
from exitguard.core.instrument import CASH_SETTLED, Instrument, InstrumentType
from exitguard.core.orders import BrokerPosition, Fill
from exitguard.core.position import PositionSide
from exitguard.core.reconcile import Finding, compare
from exitguard.core.records import CloseReason
from exitguard.core.session import NEW_YORK
from exitguard.manager.context import AccountContext
from exitguard.manager.lifecycle import Lifecycle
from exitguard.manager.tracked import Tracked

ZERO = Decimal(0)
# After the last session the broker needs time to settle: contracts that are gone for so long have nothing to come.
SETTLED_AFTER = timedelta(hours=1)
_REASONS = {"OPEXP": CloseReason.EXPIRED, "OPEXC": CloseReason.EXERCISED, "OPASN": CloseReason.ASSIGNED}
_SHARES = "OPTRD"
# Ids of what was booked before an activity told of it.
_SEEN_GONE = "lapse:"
_DELIVERED = "delivery:"


class Lapses:
    """Books them for one account. `delivered` names stocks that came for contracts and are not adopted yet."""

    def __init__(self, context: AccountContext, lifecycle: Lifecycle) -> None:
        self._context = context
        self._lifecycle = lifecycle
        self.delivered: set[str] = set()

    async def told(self, tracked: Tracked, finding: Finding, now: datetime) -> bool:
        """Book what activities tell of the position; False when they tell nothing. Raises BrokerError."""
        record = tracked.record
        opened = record.entry_time.astimezone(NEW_YORK).date()
        activities = await self._context.broker.activities(after=opened - timedelta(days=1))
        kinds = _REASONS if tracked.holding.instrument.is_option else (_SHARES,)
        known = [
            (fill.qty, fill.price)
            for fill in tracked.holding.fills
            if fill.execution_id.startswith((_SEEN_GONE, _DELIVERED))
        ]
        booked = False
        for activity in activities:
            # Of this position, or of one of the contract that is closed.
            done = self._context.tally(activity.id).qty
            if activity.type not in kinds or activity.symbol != record.symbol or _is_done(activity, done):
                continue
            before = activity.date is not None and activity.date < opened
            if before or activity.raw.get("status") == "canceled" or record.id not in self._context.positions:
                continue
            missing = self.missing(tracked, finding)
            price = _price(tracked, activity, missing)
            if price is None or missing <= 0 or not self._is_reduction(tracked, activity):
                continue
            qty = missing if activity.qty is None else min(abs(activity.qty) - done, missing)
            if activity.qty is not None and (abs(activity.qty), price) in known:
                known.remove((abs(activity.qty), price))
                continue
            reason = _REASONS.get(activity.type) or _sibling(activity, activities)
            if not booked and not await self._is_confirmed(tracked, finding):
                return False
            evidence: dict[str, object] = {"activity": activity.type, "activity_id": activity.id, "date": activity.date}
            name = f"{activity.id}:{done.normalize():f}" if done else activity.id
            self._book(tracked, activity.id, name, qty, price, reason, finding, now, evidence)
            booked = True
        await self._finish(tracked, booked, now)
        return booked

    async def _is_confirmed(self, tracked: Tracked, finding: Finding) -> bool:
        """Ask for the one position before anything of it is taken for gone (I11). Raises BrokerError."""
        held, number = tracked.holding, tracked.record.id
        still = await self._context.broker.position(tracked.record.symbol)
        same = (ZERO if still is None else still.qty) == finding.theirs
        return same and number in self._context.positions and tracked.holding is held

    async def shown(
        self, tracked: Tracked, finding: Finding, theirs: Mapping[str, BrokerPosition], now: datetime
    ) -> bool:
        """Book contracts whose fate the broker's positions prove; False when they do not. Raises BrokerError.

        `theirs` is the broker's whole answer.
        """
        context, instrument = self._context, tracked.holding.instrument
        missing = self.missing(tracked, finding)
        if not instrument.is_option or missing <= 0 or instrument.underlying in CASH_SETTLED:
            return False
        shares, moved = _shares(tracked, missing), self._moved(instrument, theirs)
        gone = self._all_gone(instrument, theirs)
        over = tracked.expires_at is not None and now >= tracked.expires_at + SETTLED_AFTER
        if moved in (shares, gone) and moved:
            reason = CloseReason.EXERCISED if tracked.record.side is PositionSide.LONG else CloseReason.ASSIGNED
        elif over and not moved and gone:
            # A spread of which both sides were exercised would move nothing either: that waits for activities.
            reason = CloseReason.EXPIRED
        else:
            return False
        # Targeted questions before anything is taken for gone: a fill that was missed, and both positions.
        await self._lifecycle.read_missed(tracked)
        still = await context.broker.position(tracked.record.symbol)
        stock = await context.broker.position(instrument.underlying)
        listed = theirs.get(instrument.underlying)
        if (ZERO if still is None else still.qty) != finding.theirs or self.missing(tracked, finding) != missing:
            return False
        if (ZERO if stock is None else stock.qty) != (ZERO if listed is None else listed.qty):
            return False
        evidence: dict[str, object] = {"shares": moved, "last_session": tracked.expires_at}
        left = tracked.holding.qty - missing
        name = f"{_SEEN_GONE}{tracked.record.uid}:{left.normalize():f}"
        taken_from = None
        if reason is not CloseReason.EXPIRED:
            taken_from = self._deliver(tracked, shares, reason, f"{tracked.record.uid}:{left.normalize():f}", now)
        self._book(tracked, name, name, missing, ZERO, reason, finding, now, evidence)
        if taken_from is not None:
            await self._finish(taken_from, True, now)
        await self._finish(tracked, True, now)
        return True

    def _deliver(
        self, option: Tracked, shares: Decimal, reason: CloseReason, name: str, now: datetime
    ) -> Tracked | None:
        """Book the shares that a contract took from a position of ours, at its strike; what is new is adopted later.

        Returns the position that they were taken from, if there is one.
        """
        instrument = option.holding.instrument
        stock, strike = self._context.on_symbol(instrument.underlying), instrument.strike
        if strike is None:
            raise AssertionError(f"{instrument.symbol} has no strike")
        taken, taken_from = ZERO, None
        if stock is not None and stock.signed_qty * shares < 0:
            taken = min(stock.holding.qty, abs(shares))
            (finding,) = compare(
                {instrument.underlying: stock.signed_qty}, {instrument.underlying: stock.signed_qty + shares}
            )
            evidence: dict[str, object] = {"contract": instrument.symbol}
            name = f"{_DELIVERED}{name}"
            self._book(stock, name, name, taken, strike, reason, finding, now, evidence)
            taken_from = stock
        if taken < abs(shares):
            self.delivered.add(instrument.underlying)
        return taken_from

    def _book(
        self,
        tracked: Tracked,
        source: str,
        name: str,
        qty: Decimal,
        price: Decimal,
        reason: CloseReason,
        finding: Finding,
        now: datetime,
        evidence: dict[str, object],
    ) -> None:
        """Book a part under a name of its own; `source` stands for the order, and counts what was booked of it."""
        record = tracked.record
        if qty == tracked.holding.qty:
            tracked.record = replace(record, close_reason=reason)
        at = now if tracked.expires_at is None else min(now, tracked.expires_at)
        fill = Fill(name, source, None, record.symbol, record.side.closing, qty, price, at)
        self._context.tally(source).add(qty, price)
        self._lifecycle.book_reconciled(tracked, fill, finding, now, repair=reason, **evidence)
        tracked.news.set()

    async def _finish(self, tracked: Tracked, booked: bool, now: datetime) -> None:
        if booked and tracked.holding.is_flat and tracked.closer is None:
            await self._lifecycle.finish(tracked, now)

    @staticmethod
    def missing(tracked: Tracked, finding: Finding) -> Decimal:
        """How much of ours the broker does not hold; of a position that was turned around nothing is left."""
        return tracked.holding.qty - max(finding.theirs * tracked.record.side.sign, ZERO)

    @staticmethod
    def _is_reduction(tracked: Tracked, activity: Activity) -> bool:
        """Whether an activity takes from our side. One about contracts always does."""
        return activity.type in _REASONS or (activity.qty or ZERO) * tracked.record.side.sign < 0

    def _moved(self, instrument: Instrument, theirs: Mapping[str, BrokerPosition]) -> Decimal:
        """By how much the broker's position of the underlying differs from ours."""
        stock, listed = self._context.on_symbol(instrument.underlying), theirs.get(instrument.underlying)
        return (ZERO if listed is None else listed.qty) - (ZERO if stock is None else stock.signed_qty)

    def _all_gone(self, instrument: Instrument, theirs: Mapping[str, BrokerPosition]) -> Decimal:
        """The shares that all contracts of the underlying that are gone stand for together."""
        total = ZERO
        for tracked in self._context.positions.values():
            own = tracked.holding.instrument
            if not own.is_option or own.underlying != instrument.underlying:
                continue
            listed = theirs.get(own.symbol)
            left = max((ZERO if listed is None else listed.qty) * tracked.record.side.sign, ZERO)
            if left < tracked.holding.qty:
                total += _shares(tracked, tracked.holding.qty - left)
        return total


def _is_done(activity: Activity, booked: Decimal) -> bool:
    """Whether all that an activity tells of is booked; one that names no quantity tells of all that is missing."""
    return booked > 0 and (activity.qty is None or booked >= abs(activity.qty))


def _shares(tracked: Tracked, contracts: Decimal) -> Decimal:
    """Signed shares that come when so many contracts are exercised, or are assigned to us."""
    instrument = tracked.holding.instrument
    right = 1 if instrument.type is InstrumentType.CALL else -1
    return contracts * instrument.multiplier * right * tracked.record.side.sign


def _price(tracked: Tracked, activity: Activity, missing: Decimal) -> Decimal | None:
    """What an activity books its contracts or shares at; None when it does not say.

    Contracts count 0, because their worth is in the shares. Of an index there are none: the cash is their worth.
    """
    if activity.type not in _REASONS:
        return activity.price
    instrument, paid = tracked.holding.instrument, activity.net_amount
    units = (missing if activity.qty is None else abs(activity.qty)) * instrument.multiplier
    return abs(paid) / units if paid and units and instrument.underlying in CASH_SETTLED else ZERO


def _sibling(shares: Activity, activities: list[Activity]) -> CloseReason:
    """Whether shares moved for an exercise or an assignment: the activity of the contracts is in the same group."""
    group = shares.raw.get("group_id")
    found = (a for a in activities if group and a.raw.get("group_id") == group and a.type in _REASONS)
    return next((_REASONS[activity.type] for activity in found), CloseReason.ASSIGNED)
