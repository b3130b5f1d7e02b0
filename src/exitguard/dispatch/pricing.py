"""At what price: a marketable limit with a cap (F15), on a legal tick (F7), from a live quote only."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from exitguard.core.instrument import Instrument, round_to_tick
from exitguard.core.position import PositionSide
from exitguard.core.quote import Quote, QuoteLimits, QuoteState, classify

_CENT = Decimal("0.01")


@dataclass(frozen=True, slots=True)
class Caps:
    """How far beyond the far side of the quote an entry may pay, in percent of that side."""

    stock_percent: Decimal = Decimal("0.25")
    option_percent: Decimal = Decimal(3)


@dataclass(frozen=True, slots=True)
class Priced:
    """A limit price and what it was derived from; dollars a share."""

    limit: Decimal
    quote: Quote


@dataclass(frozen=True, slots=True)
class NoPrice:
    """No usable quote now; a later one may be."""

    state: QuoteState
    reason: str


def price_entry(
    instrument: Instrument, side: PositionSide, quote: Quote | None, now: datetime, limits: QuoteLimits, caps: Caps
) -> Priced | NoPrice:
    """Derive the limit price of an entry, or say why the quote is not good enough (F14, F17, F48)."""
    state = classify(quote, now, limits)
    if quote is None or state is not QuoteState.LIVE:
        seen = f"bid {quote.bid} ask {quote.ask} at {quote.at:%H:%M:%S}" if quote is not None else "no quote"
        return NoPrice(state, f"quote of {instrument.symbol} is {state}: {seen}")
    percent = caps.option_percent if instrument.is_option else caps.stock_percent
    buying = side is PositionSide.LONG
    far = quote.ask if buying else quote.bid
    # The cap is cut toward the far side, never beyond it; the far side itself stays reachable.
    raw = far * (1 + percent / 100) if buying else far * (1 - percent / 100)
    limit = tick_price(instrument, raw, up=not buying)
    if (limit < far) if buying else (limit > far):
        limit = tick_price(instrument, far, up=buying)
    return Priced(limit, quote)


def tick_price(instrument: Instrument, price: Decimal, *, up: bool) -> Decimal:
    """Round to a price that the broker takes: whole cents for options at every level, `round_to_tick` for stocks."""
    if instrument.is_option:
        return price.quantize(_CENT, rounding="ROUND_CEILING" if up else "ROUND_FLOOR")
    return round_to_tick(price, up=up)


@dataclass(frozen=True, slots=True)
class BracketLevels:
    """Prices of a bracket's legs, dollars a share."""

    stop: Decimal
    target: Decimal


def bracket_levels(
    instrument: Instrument,
    side: PositionSide,
    priced: Priced,
    stop: Decimal | None,
    target: Decimal | None,
    stop_percent: Decimal | None,
    target_percent: Decimal | None,
) -> BracketLevels | str:
    """Choose a bracket's legs: the signal's levels, else the policy's percentages of the middle price.

    Returns the reason as text when a leg is missing on both sides, or would not lie at least a tick beyond every price
    at which the entry may fill: the broker refuses such a bracket, and it would close a fresh position.
    """
    sign, mid = side.sign, priced.quote.mid
    if stop is None and stop_percent is not None:
        stop = mid * (1 + sign * stop_percent / 100)
    if target is None and target_percent is not None:
        target = mid * (1 + sign * target_percent / 100)
    if stop is None or target is None:
        return "a stock needs a stop and a target: neither the signal nor the policy gives both"
    # Rounded away from the entry, so that rounding never makes a leg tighter than asked for.
    levels = BracketLevels(
        tick_price(instrument, stop, up=sign < 0),
        tick_price(instrument, target, up=sign > 0),
    )
    if levels.stop <= 0 or levels.target <= 0:
        return f"stop {levels.stop} and target {levels.target} must be positive"
    worst, best = (priced.limit, priced.quote.bid) if sign > 0 else (priced.limit, priced.quote.ask)
    nearest_to_stop = min(worst, best) if sign > 0 else max(worst, best)
    nearest_to_target = max(worst, best) if sign > 0 else min(worst, best)
    if (nearest_to_stop - levels.stop) * sign < _CENT or (levels.target - nearest_to_target) * sign < _CENT:
        return (
            f"stop {levels.stop} and target {levels.target} leave no room around bid {priced.quote.bid},"
            f" ask {priced.quote.ask} and limit {priced.limit}"
        )
    return levels
