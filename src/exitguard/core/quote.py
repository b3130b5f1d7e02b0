"""Quotes and their validity.

A quote that is not live, or wide and confirmed, makes a position blind for price rules; it never
touches time rules (`spec: marks`; F48-F50).
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum

import msgspec


class QuoteState(StrEnum):
    """What a quote is worth."""

    LIVE = "live"
    WIDE = "wide"
    ONE_SIDED = "one_sided"
    CROSSED = "crossed"
    STALE = "stale"
    ABSENT = "absent"


class PriceBasis(StrEnum):
    """Which price of a quote the rules compare."""

    MID = "mid"
    BID = "bid"
    LAST = "last"


class Quote(msgspec.Struct, frozen=True, gc=False):
    """Best bid and offer of one instrument, dollars a share; 0 means that the side is empty.

    `at` is the venue's timestamp. `last` is the last trade price where it is known.

    Not a dataclass: a frozen one takes ten times as long to make, and the garbage collector would walk over every
    quote that is kept, though none can be part of a cycle.
    """

    symbol: str
    bid: Decimal
    ask: Decimal
    at: datetime
    bid_size: int = 0
    ask_size: int = 0
    last: Decimal | None = None

    @property
    def mid(self) -> Decimal:
        """Middle of bid and ask; meaningful only when both sides are there."""
        return (self.bid + self.ask) / 2

    @property
    def spread(self) -> Decimal:
        """Ask minus bid, dollars a share; negative when crossed."""
        return self.ask - self.bid

    @property
    def relative_spread(self) -> Decimal:
        """Spread as a share of the mid (F14: never of the bid alone)."""
        return self.spread / self.mid


@dataclass(frozen=True, slots=True)
class QuoteLimits:
    """What a policy demands of a quote: greatest age, and greatest spread as a share of the mid.

    A spread of at most `wide_floor` dollars is never wide: a nickel on a ten-cent option is normal.
    """

    max_age: timedelta
    max_relative_spread: Decimal
    wide_floor: Decimal = Decimal("0.05")
    max_ahead: timedelta = timedelta(seconds=5)


def classify(quote: Quote | None, now: datetime, limits: QuoteLimits) -> QuoteState:
    """Say what `quote` is worth at `now`. NaN and infinite or negative prices count as absent."""
    if quote is None:
        return QuoteState.ABSENT
    bid, ask = quote.bid, quote.ask
    if not (bid.is_finite() and ask.is_finite()) or bid < 0 or ask < 0 or (bid == 0 and ask == 0):
        return QuoteState.ABSENT
    age = now - quote.at
    if age > limits.max_age or -age > limits.max_ahead:
        return QuoteState.STALE
    if bid == 0 or ask == 0:
        return QuoteState.ONE_SIDED
    if bid > ask:
        return QuoteState.CROSSED
    if quote.spread > limits.wide_floor and quote.relative_spread > limits.max_relative_spread:
        return QuoteState.WIDE
    return QuoteState.LIVE
