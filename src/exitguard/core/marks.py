"""From quotes to marks: which price the rules may compare, if any.

A live quote counts at once. A wide one counts when it is confirmed: two in a row at least `wide_confirm_seconds`
apart, or the broker's own mark agrees. Everything else makes the position blind for price rules (spec: marks).
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from exitguard.core.policy import Policy
from exitguard.core.position import PositionSide
from exitguard.core.quote import PriceBasis, Quote, QuoteState, classify


@dataclass(frozen=True, slots=True)
class QuoteView:
    """A judged quote: what it is worth at a moment, and whether price rules may use it."""

    quote: Quote | None
    state: QuoteState
    usable: bool

    def price(self, side: PositionSide, basis: PriceBasis) -> Decimal | None:
        """The price that rules compare, dollars a share; None when the quote is not usable.

        BID means the price at which the position could be left: the bid for a long, the ask for a short.
        LAST falls back to the mid where the quote carries no trade, or none with a price.
        """
        if not self.usable or self.quote is None:
            return None
        if basis is PriceBasis.BID:
            return self.quote.bid if side is PositionSide.LONG else self.quote.ask
        last = self.quote.last
        if basis is PriceBasis.LAST and last is not None and last.is_finite() and last > 0:
            return last
        return self.quote.mid


ABSENT = QuoteView(None, QuoteState.ABSENT, False)


@dataclass(frozen=True, slots=True)
class WideStreak:
    """Since when every quote of a symbol has been wide; None when the last one was not."""

    since: datetime | None = None


def judge(
    quote: Quote | None, now: datetime, policy: Policy, streak: WideStreak, broker_mark: Decimal | None = None
) -> tuple[QuoteView, WideStreak]:
    """Classify a quote and decide whether price rules may use it; returns the view and the streak to remember.

    `broker_mark` is the broker's own current price in dollars a share, where a recent one is known.
    """
    state = classify(quote, now, policy.quote_limits)
    if state is QuoteState.LIVE:
        return QuoteView(quote, state, True), WideStreak()
    if state is not QuoteState.WIDE or quote is None:
        # A look without a new quote does not end a streak: only another quote can.
        unbroken = quote is None or state is QuoteState.STALE
        return QuoteView(quote, state, False), streak if unbroken else WideStreak()
    since = quote.at if streak.since is None else streak.since
    confirmed = quote.at - since >= timedelta(seconds=policy.wide_confirm_seconds)
    agrees = broker_mark is not None and agree(quote.mid, broker_mark, policy.mark_divergence_percent)
    return QuoteView(quote, state, confirmed or agrees), WideStreak(since)


def agree(mark: Decimal, broker_mark: Decimal, percent: Decimal) -> bool:
    """Whether two prices differ by at most `percent` % of the broker's."""
    return broker_mark.is_finite() and broker_mark > 0 and abs(mark - broker_mark) <= broker_mark * percent / 100
