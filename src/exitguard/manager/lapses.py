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
from itertools import combinations

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
# Answers about one position that must agree.
_ANSWERS = 3
# Activities of one contract that are tried together.
_MOST_TOLD = 8
# An activity, what it took, and the price that it is booked at.
Told = tuple[Activity, Decimal, Decimal]


class Lapses:
    """Books them for one account. `delivered` names stocks that came for contracts and are not adopted yet."""

    def __init__(self, context: AccountContext, lifecycle: Lifecycle) -> None:
        self._context = context
        self._lifecycle = lifecycle
        self.delivered: set[str] = set()
        # Ids of activities that were told before something of their contract was adopted.
        self._earlier: set[str] = set()

    async def note_earlier(self, symbol: str, now: datetime) -> None:
        """Remember what was told before a position is adopted: likely it is in its quantity. Raises BrokerError."""
        day = now.astimezone(NEW_YORK).date()
        told = await self._context.broker.activities(after=day - timedelta(days=1))
        self._earlier |= {activity.id for activity in told if activity.symbol == symbol}

    async def told(self, tracked: Tracked, finding: Finding, now: datetime, *, doubtful: bool) -> bool:
        """Book what activities tell of the position, when they explain all that is missing; whether they do.

        `doubtful`: also those that were told before the position was adopted. Raises BrokerError.
        """
        held, opened = tracked.holding, tracked.record.entry_time.astimezone(NEW_YORK).date()
        activities = await self._context.broker.activities(after=opened - timedelta(days=1))
        if tracked.holding is not held or self.missing(tracked, finding) <= 0:
            return False  # it changed while we asked
        gone = held.qty - finding.theirs * tracked.record.side.sign
        if not doubtful:
            activities = [activity for activity in activities if activity.id not in self._earlier]
        chosen = _explanation(self._news(tracked, activities, gone), gone)
        if not chosen or not await self._is_confirmed(tracked, finding):
            return False
        for activity, qty, price in chosen:
            reason = _REASONS.get(activity.type) or _sibling(activity, activities)
            evidence: dict[str, object] = {"activity": activity.type, "activity_id": activity.id, "date": activity.date}
            qty = min(qty, self.missing(tracked, finding))
            if qty > 0:
                self._book(tracked, activity.id, qty, price, reason, finding, now, evidence)
        await self._finish(tracked, True, now)
        return True

    def _news(self, tracked: Tracked, activities: list[Activity], gone: Decimal) -> list[Told]:
        """The activities that may have taken of the position and are not booked yet."""
        kinds = _REASONS if tracked.holding.instrument.is_option else (_SHARES,)
        opened = tracked.record.entry_time.astimezone(NEW_YORK).date()
        known = [
            (fill.qty, fill.price)
            for fill in tracked.holding.fills
            if fill.execution_id.startswith((_SEEN_GONE, _DELIVERED))
        ]
        found = []
        for activity in activities:
            # Booked for this position, or for one of the contract that is closed.
            booked = self._context.tally(activity.id).qty > 0
            before = activity.date is not None and activity.date < opened
            if activity.type not in kinds or activity.symbol != tracked.record.symbol or booked or before:
                continue
            price = _price(tracked, activity, gone)
            canceled = activity.raw.get("status") == "canceled"
            if price is None or canceled or not self._is_reduction(tracked, activity):
                continue
            qty = gone if activity.qty is None else abs(activity.qty)
            if activity.qty is not None and (qty, price) in known:
                known.remove((qty, price))
                continue
            found.append((activity, qty, price))
        return found

    async def _is_confirmed(self, tracked: Tracked, finding: Finding) -> bool:
        """Ask for the one position before anything of it is taken for gone (I11). Raises BrokerError."""
        held, number = tracked.holding, tracked.record.id
        same = await self._is_held(finding.symbol, finding.theirs)
        return same and number in self._context.positions and tracked.holding is held

    async def _is_held(self, symbol: str, qty: Decimal) -> bool:
        """Whether several answers in a row say so: one that says "nothing" may be no answer at all."""
        for _ in range(_ANSWERS):
            found = await self._context.broker.position(symbol)
            if (ZERO if found is None else found.qty) != qty:
                return False
        return True

    async def shown(
        self, tracked: Tracked, finding: Finding, theirs: Mapping[str, BrokerPosition], now: datetime
    ) -> bool:
        """Book contracts whose fate the broker's positions prove; False when they do not. Raises BrokerError.

        `theirs` is the broker's whole answer.
        """
        instrument = tracked.holding.instrument
        missing = self.missing(tracked, finding)
        if not instrument.is_option or missing <= 0 or instrument.underlying in CASH_SETTLED:
            return False
        shares, moved = _shares(tracked, missing), self._moved(instrument, theirs)
        gone = self._all_gone(instrument, theirs)
        over = tracked.expires_at is not None and now >= tracked.expires_at + SETTLED_AFTER
        if moved in (shares, gone) and moved and theirs:  # from an answer without anything nothing can be seen to move
            reason = CloseReason.EXERCISED if tracked.record.side is PositionSide.LONG else CloseReason.ASSIGNED
        elif over and not moved and gone:
            # A spread of which both sides were exercised would move nothing either: that waits for activities.
            reason = CloseReason.EXPIRED
        else:
            return False
        # Targeted questions before anything is taken for gone: a fill that was missed, and both positions.
        await self._lifecycle.read_missed(tracked)
        listed = theirs.get(instrument.underlying)
        if not await self._is_held(instrument.underlying, ZERO if listed is None else listed.qty):
            return False
        confirmed = await self._is_confirmed(tracked, finding)
        if not confirmed or self.missing(tracked, finding) != missing or self._moved(instrument, theirs) != moved:
            return False
        evidence: dict[str, object] = {"shares": moved, "last_session": tracked.expires_at}
        left = tracked.holding.qty - missing
        name = f"{_SEEN_GONE}{tracked.record.uid}:{left.normalize():f}"
        taken_from = None
        if reason is not CloseReason.EXPIRED:
            taken_from = self._deliver(tracked, shares, reason, f"{tracked.record.uid}:{left.normalize():f}", now)
        self._book(tracked, name, missing, ZERO, reason, finding, now, evidence)
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
            self._book(stock, f"{_DELIVERED}{name}", taken, strike, reason, finding, now, evidence)
            taken_from = stock
        if taken < abs(shares):
            self.delivered.add(instrument.underlying)
        return taken_from

    def _book(
        self,
        tracked: Tracked,
        name: str,
        qty: Decimal,
        price: Decimal,
        reason: CloseReason,
        finding: Finding,
        now: datetime,
        evidence: dict[str, object],
    ) -> None:
        record = tracked.record
        if qty == tracked.holding.qty:
            tracked.record = replace(record, close_reason=reason)
        at = now if tracked.expires_at is None else min(now, tracked.expires_at)
        fill = Fill(name, name, None, record.symbol, record.side.closing, qty, price, at)
        self._context.tally(name).add(qty, price)
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


def _explanation(told: list[Told], gone: Decimal) -> list[Told]:
    """All of them, or the fewest that add up to what is gone, the newest first; none when they do not.

    One that was told before the position was adopted may be in its quantity already; one that explains a part only may
    be of another time. What is missing then stays an alarm until the rest is told.
    """
    if sum((qty for _, qty, _ in told), ZERO) == gone:
        return told
    newest = told[::-1][:_MOST_TOLD]
    for count in range(1, len(newest) + 1):
        for chosen in combinations(newest, count):
            if sum((qty for _, qty, _ in chosen), ZERO) == gone:
                return list(chosen[::-1])
    return []


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
