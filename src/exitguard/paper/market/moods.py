"""Generators by name: how a generated stock can be made to behave, alone or several at once."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import log

from exitguard.core.errors import InvalidInput
from exitguard.core.session import Session

EVERY_STOCK = "*"
# No event in the first and the last minutes of a session: there is quiet before it, and time for what follows.
_MARGIN = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Mood:
    """What a name adds to a stock's ordinary walk.

    Fractions of the price: `trend` a session (its direction is drawn once a stock), `gap` at each open and once within
    the session, `crash` lost within minutes once a session, half of it regained. `halts` a session; `bad_quotes` is the
    share of quotes that are wrong; None leaves either to the generator's settings. `volatility` is a factor.
    """

    volatility: float = 1.0
    jumps: bool = True
    trend: float = 0.0
    gap: float = 0.0
    crash: float = 0.0
    halts: int | None = None
    bad_quotes: float | None = None


ORDINARY = Mood()
MOODS: Mapping[str, Mood] = {
    "calm": Mood(volatility=0.3, jumps=False, halts=0, bad_quotes=0.0),
    "trend": Mood(trend=0.04),
    "gap": Mood(gap=0.06),
    "crash": Mood(crash=0.25),
    "halt": Mood(halts=3),
    "wild": Mood(bad_quotes=0.05),
}
DESCRIPTIONS: Mapping[str, str] = {
    "calm": "a third of the volatility, no jumps, no halts, no wrong quotes",
    "trend": "4 % a session in one direction",
    "gap": "about 6 % between two quotes, at each open and once within the session",
    "crash": "25 % lost within minutes once a session, half of it regained within half an hour",
    "halt": "three halts a session, each followed by a gap",
    "wild": "one quote in twenty is wrong: crossed, one-sided, zero, old, off by a factor",
}


def mood_of(names: str) -> Mood:
    """A mood from names joined by `+`; the livelier of two that contradict each other counts. Raises InvalidInput."""
    moods = []
    for name in names.split("+"):
        if name not in MOODS:
            raise InvalidInput(f"unknown market {name!r}, expected one of {', '.join(MOODS)}, or several joined by +")
        moods.append(MOODS[name])
    volatility = 1.0
    for mood in moods:
        volatility *= mood.volatility
    return Mood(
        volatility=volatility,
        jumps=all(mood.jumps for mood in moods),
        trend=max(mood.trend for mood in moods),
        gap=max(mood.gap for mood in moods),
        crash=max(mood.crash for mood in moods),
        halts=max((mood.halts for mood in moods if mood.halts is not None), default=None),
        bad_quotes=max((mood.bad_quotes for mood in moods if mood.bad_quotes is not None), default=None),
    )


def read_moods(texts: Iterable[str]) -> dict[str, str]:
    """Read `NAMES` (every stock) and `SYMBOL=NAMES`. Raises InvalidInput."""
    found: dict[str, str] = {}
    for text in texts:
        symbol, separator, names = text.rpartition("=")
        mood_of(names)
        key = symbol if separator else EVERY_STOCK
        if not key or key in found:
            raise InvalidInput(f"market {text!r}: expected NAMES or SYMBOL=NAMES, each stock once")
        found[key] = names
    return found


@dataclass(frozen=True, slots=True)
class _Slope:
    """A change of the price's logarithm, spread evenly over a span; a span without length is a gap."""

    begin: datetime
    end: datetime
    change: float

    def within(self, since: datetime, until: datetime) -> float:
        """How much of it lies between two moments."""
        if self.end <= self.begin:
            return self.change if since < self.begin <= until else 0.0
        overlap = (min(until, self.end) - max(since, self.begin)).total_seconds()
        return self.change * max(0.0, overlap) / (self.end - self.begin).total_seconds()


class Temper:
    """One stock's mood through the days. It has a random stream of its own: the ordinary walk stays what it was."""

    def __init__(self, mood: Mood, seed: int, symbol: str) -> None:
        self.mood = mood
        self._chance = random.Random(f"{seed}:{symbol}:mood")  # noqa: S311 - a price model, not a secret
        self._direction = self._chance.choice((-1.0, 1.0))
        self._slopes: list[_Slope] = []

    def begin_day(self, session: Session) -> list[tuple[datetime, datetime]]:
        """Draw the day's events; answers its halts, in order and apart from each other."""
        mood, chance = self.mood, self._chance
        self._slopes = []
        if mood.trend:
            self._slopes.append(_Slope(session.open, session.close, self._direction * mood.trend))
        if mood.gap:
            for at in (session.open, self._moment(session)):
                self._slopes.append(_Slope(at, at, chance.choice((-1.0, 1.0)) * mood.gap * chance.uniform(0.7, 1.3)))
        if mood.crash:
            self._draw_crash(session)
        halts: list[tuple[datetime, datetime]] = []
        count = mood.halts or 0
        part = (session.close - session.open - 2 * _MARGIN) / max(count, 1)
        for number in range(count):
            begin = session.open + _MARGIN + part * (number + chance.uniform(0.0, 0.6))
            end = begin + min(timedelta(minutes=chance.randint(5, 10)), part * 0.3)
            halts.append((begin, end))
            self._slopes.append(_Slope(begin, end, chance.choice((-1.0, 1.0)) * chance.uniform(0.01, 0.03)))
        return halts

    def _draw_crash(self, session: Session) -> None:
        begin = self._moment(session)
        bottom = begin + timedelta(seconds=self._chance.uniform(90, 240))
        # The price loses a quarter: its logarithm falls by more, and regains what makes up half of the loss.
        self._slopes.append(_Slope(begin, bottom, -_log_loss(self.mood.crash)))
        regained = _log_loss(self.mood.crash) - _log_loss(self.mood.crash / 2)
        self._slopes.append(_Slope(bottom, bottom + timedelta(minutes=30), regained))

    def _moment(self, session: Session) -> datetime:
        span = session.close - session.open - 2 * _MARGIN
        return session.open + _MARGIN + span * self._chance.random()

    def change(self, since: datetime, until: datetime) -> float:
        """What the mood adds to the price's logarithm between two moments of a day."""
        return sum(slope.within(since, until) for slope in self._slopes) if self._slopes else 0.0


def _log_loss(share: float) -> float:
    return -log(1.0 - share)


def tempers(moods: Mapping[str, str], symbols: Sequence[str], seed: int) -> dict[str, Temper]:
    """The tempers of generated stocks. Raises InvalidInput for a mood of a stock that is not generated."""
    strangers = sorted(set(moods) - set(symbols) - {EVERY_STOCK})
    if strangers:
        raise InvalidInput(f"market of {', '.join(strangers)}: not among the generated stocks")
    found = {}
    for symbol in symbols:
        names = moods.get(symbol, moods.get(EVERY_STOCK))
        if names is not None:
            found[symbol] = Temper(mood_of(names), seed, symbol)
    return found
