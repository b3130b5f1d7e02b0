"""Limit up, limit down: the price bands around each stock in regular hours.

The reference is the mean price of the last five minutes; a new one counts when it is one per cent away from the one in
force, as in the plan of the exchanges. Every stock is treated as one of tier 1.
"""

from datetime import datetime, timedelta
from typing import Any

from exitguard.core.session import SessionCalendar
from exitguard.paper.market.tape import Tape
from exitguard.paper.market.ticks import stock_price

_WINDOW = timedelta(minutes=5)
_CHANGE = 0.01
_OPENING, _CLOSING = timedelta(minutes=15), timedelta(minutes=25)


class PriceBands:
    """The bands in force, renewed when a minute bar is finished."""

    def __init__(self, calendar: SessionCalendar, tape: Tape) -> None:
        self._calendar = calendar
        self._tape = tape
        self._known: dict[str, tuple[float, float]] = {}

    def renewed(self, symbol: str, at: datetime) -> dict[str, Any] | None:
        """New bands without their time (dollars); None where nothing has changed or no bands are kept."""
        session = self._calendar.current(at)
        if session is None or not session.contains(at):
            return None
        bars = self._tape.minutes(symbol, at - _WINDOW, at)
        if not bars:
            return None
        reference = sum(bar.vwap for bar in bars) / len(bars)
        is_edge = at < session.open + _OPENING or at >= session.close - _CLOSING
        width = _width(reference) * (2 if is_edge else 1)
        before = self._known.get(symbol)
        if before is not None and before[1] == width and abs(reference / before[0] - 1) < _CHANGE:
            return None
        self._known[symbol] = (reference, width)
        upper, lower = stock_price(reference * (1 + width)), stock_price(max(reference * (1 - width), 0.0))
        return {"u": float(upper), "d": float(lower), "i": "B", "z": "C"}


def _width(reference: float) -> float:
    """Half the band as a part of the reference."""
    if reference > 3:
        return 0.05
    if reference >= 0.75:
        return 0.2
    return min(0.15 / reference, 0.75)
