"""The mark book: the latest quote of each watched symbol, and the quiet band in which no position cares about it.

A quote inside the band costs a few comparisons however many positions hang on the symbol. The band is conservative: it
ends at the nearest armed level, at the extremes seen so far (MFE, MAE) and wherever a quote would not be plainly
live, so what `core.evaluate.evaluate` would decide is never missed.
"""

from collections.abc import Iterable
from decimal import Decimal
from math import inf

from exitguard.broker.port import Tick
from exitguard.core.evaluate import quiet_band
from exitguard.core.marks import WideStreak
from exitguard.core.position import PositionSide
from exitguard.core.quote import Quote, QuoteLimits
from exitguard.manager.tracked import Tracked

# A quote that is older than the newest one by more than this, in nanoseconds: the newest may be the wrong one.
SUSPICIOUS_NS = 1_000_000_000


class SymbolMarks:
    """One symbol: latest tick, and the band. `quote` is made from the tick only when somebody looks."""

    __slots__ = ("_quote", "high", "low", "max_spread", "positions", "streak", "symbol", "tick")

    def __init__(self, symbol: str) -> None:
        self.symbol = symbol
        self.tick: Tick | None = None
        self._quote: Quote | None = None
        self.low = inf
        self.high = -inf
        self.max_spread = 0.0
        self.streak = WideStreak()
        self.positions: tuple[Tracked, ...] = ()

    @property
    def quote(self) -> Quote | None:
        """The latest quote as decimals."""
        if self.tick is None:
            return self._quote
        if self._quote is None:
            self._quote = self.tick.quote()
        return self._quote

    def set_tick(self, tick: Tick) -> None:
        """Remember a newer tick."""
        self.tick = tick
        self._quote = None

    def set_quote(self, quote: Quote) -> None:
        """Remember a quote that came over REST, unless the stream's is newer."""
        current = self.quote
        if current is None or quote.at > current.at:
            self.tick = None
            self._quote = quote

    def forget_quote(self) -> None:
        """Know no quote: the newest one cannot be true."""
        self.tick = None
        self._quote = None

    def open_band(self) -> None:
        """Nothing is quiet until the next full look."""
        self.low, self.high = inf, -inf

    def settle_band(self) -> None:
        """Compute the band anew from the positions; stays open while any of them is blind or a wide streak runs."""
        self.open_band()
        if not self.positions or self.streak.since is not None:
            return
        low, high = Decimal(0), Decimal("Infinity")
        limits: QuoteLimits | None = None
        for tracked in self.positions:
            if tracked.blind_since is not None or tracked.is_closing:
                return
            band = quiet_band(tracked.watched(), tracked.policy)
            record = tracked.record
            best, worst = record.best_price, record.worst_price
            if best is None or worst is None:
                return
            bottom, top = (worst, best) if record.side is PositionSide.LONG else (best, worst)
            low, high = max(low, band.low, bottom), min(high, band.high, top)
            own = tracked.policy.quote_limits
            if limits is None or own.max_relative_spread < limits.max_relative_spread:
                limits = own
        if low < high and limits is not None:
            self.low, self.high = float(low), float(high)
            self.max_spread = float(max(limits.max_relative_spread * low, limits.wide_floor))


class MarkBook:
    """All watched symbols of one account."""

    def __init__(self) -> None:
        self._symbols: dict[str, SymbolMarks] = {}

    @property
    def symbols(self) -> Iterable[str]:
        """Symbols with positions on them."""
        return self._symbols.keys()

    def get(self, symbol: str) -> SymbolMarks | None:
        """The marks of a symbol, None when nothing is held of it."""
        return self._symbols.get(symbol)

    def on_tick(self, tick: Tick) -> SymbolMarks | None:
        """Take a tick in; returns the symbol's marks when the tick needs a full look, else None (the quiet path)."""
        marks = self._symbols.get(tick.symbol)
        if marks is None:
            return None
        previous = marks.tick
        if previous is not None and tick.at_ns < previous.at_ns:
            # Late: a newer quote is known. Or that one came from the future: a full look tells.
            return marks if previous.at_ns - tick.at_ns > SUSPICIOUS_NS else None
        marks.tick = tick
        marks._quote = None
        bid, ask = tick.bid, tick.ask
        if marks.low < bid <= ask < marks.high and ask - bid <= marks.max_spread:
            return None
        return marks

    def attach(self, tracked: Tracked) -> None:
        """Hang a position on its symbol."""
        marks = self._symbols.setdefault(tracked.record.symbol, SymbolMarks(tracked.record.symbol))
        if tracked not in marks.positions:
            marks.positions = (*marks.positions, tracked)
        marks.open_band()

    def detach(self, tracked: Tracked) -> None:
        """Take a position off; the symbol goes when it was the last."""
        marks = self._symbols.get(tracked.record.symbol)
        if marks is None:
            return
        marks.positions = tuple(p for p in marks.positions if p is not tracked)
        marks.open_band()
        if not marks.positions:
            del self._symbols[tracked.record.symbol]
