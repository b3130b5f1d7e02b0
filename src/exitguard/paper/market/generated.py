"""A seeded stock market: volatility, drift, gaps, jumps, halts, and quotes that are wrong on purpose.

Each stock has a random stream of its own, derived from the seed and its name, so that adding a stock does not change
the others. A bad quote is shown on the data feed only: orders match against the true market, as on the real venue,
where a wrong print does not make anybody trade at it.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum

from exitguard.core.errors import InvalidInput
from exitguard.core.quote import Quote
from exitguard.core.session import NEW_YORK, Session, SessionCalendar
from exitguard.paper.market.moods import Temper, tempers
from exitguard.paper.market.ticks import CENTS, Round, StatusChange, Tick, quoted_around, stock_price

_TRADING_YEAR_SECONDS = 252.0 * 6.5 * 3600.0
_LOWEST_PRICE = 0.05


class BadQuoteKind(StrEnum):
    """Ways in which a shown quote can be wrong."""

    CROSSED = "crossed"
    NO_BID = "no_bid"
    NO_ASK = "no_ask"
    ZERO = "zero"
    STALE = "stale"
    WILD_HIGH = "wild_high"
    WILD_LOW = "wild_low"


@dataclass(frozen=True, slots=True)
class StockProfile:
    """One generated stock: price in dollars, yearly volatility and drift as fractions, shares a second at the mean."""

    price: float
    volatility: float = 0.35
    drift: float = 0.0
    overnight_gap: float = 0.008
    volume_rate: float = 200.0
    spread_fraction: float = 0.0002


@dataclass(frozen=True, slots=True)
class GeneratorSettings:
    """What the generated market does. Probabilities are for one quote, or for one stock and day where said.

    `interval` is the market time between two quotes of a stock, in seconds; `extended_interval` the same outside
    regular hours, 0 for no quotes there.
    """

    interval: float = 5.0
    extended_interval: float = 60.0
    jump_probability: float = 0.0002
    jump_size: float = 0.012
    halt_probability_a_day: float = 0.05
    halt_minutes: tuple[int, int] = (5, 15)
    bad_quote_probability: float = 0.0003
    bad_quote_kinds: tuple[BadQuoteKind, ...] = tuple(BadQuoteKind)
    carry_trades: float = 0.9


DEFAULT_PROFILES: dict[str, StockProfile] = {
    "AAPL": StockProfile(190.0, 0.28),
    "MSFT": StockProfile(410.0, 0.26),
    "NVDA": StockProfile(125.0, 0.50),
    "SPY": StockProfile(560.0, 0.16, spread_fraction=0.00005),
    "AMD": StockProfile(150.0, 0.48),
    "TSLA": StockProfile(240.0, 0.58),
    "AMZN": StockProfile(185.0, 0.32),
    "META": StockProfile(520.0, 0.36),
    "IBM": StockProfile(205.0, 0.22),
    "F": StockProfile(11.5, 0.38, spread_fraction=0.0009),
}


def profile_of(symbol: str, seed: int) -> StockProfile:
    """The default profile of a stock; one that is not listed gets a price and a volatility from the seed."""
    known = DEFAULT_PROFILES.get(symbol)
    if known is not None:
        return known
    chance = random.Random(f"{seed}:{symbol}:profile")  # noqa: S311 - a price model, not a secret
    return StockProfile(round(math.exp(chance.uniform(math.log(5.0), math.log(400.0))), 2), chance.uniform(0.2, 0.7))


@dataclass(slots=True)
class _Stock:
    symbol: str
    profile: StockProfile
    chance: random.Random
    price: float
    temper: Temper | None = None
    halts: list[tuple[datetime, datetime]] = field(default_factory=list)
    halted: bool = False
    last_quote: Quote | None = None


class GeneratedMarket:
    """A source without an end; the same seed, stocks and start give the same rounds."""

    def __init__(
        self,
        calendar: SessionCalendar,
        seed: int,
        profiles: dict[str, StockProfile],
        start: datetime,
        settings: GeneratorSettings | None = None,
        moods: Mapping[str, str] | None = None,
    ) -> None:
        if not profiles:
            raise InvalidInput("a generated market needs at least one stock")
        self._calendar = calendar
        self._settings = settings or GeneratorSettings()
        if self._settings.interval <= 0 or self._settings.extended_interval < 0:
            raise InvalidInput("the generator's interval must be above 0 seconds, the extended one not below 0")
        found = tempers(moods or {}, list(profiles), seed)
        self._stocks = [
            _Stock(symbol, profile, random.Random(f"{seed}:{symbol}"), profile.price, found.get(symbol))  # noqa: S311
            for symbol, profile in sorted(profiles.items())
        ]
        self._session: Session | None = None
        self._day = start.astimezone(NEW_YORK).date() - timedelta(days=1)
        self._at: datetime | None = None
        self._previous: datetime | None = None
        self._next_session()
        self._begin_at(start)

    def _begin_at(self, start: datetime) -> None:
        """Find the first round's time; there is no path before the start: the first price is the profile's."""
        while self._at is not None and self._at < start:
            self._step_time()

    def symbols(self) -> Sequence[str]:
        """The stocks generated."""
        return [stock.symbol for stock in self._stocks]

    def first_at(self) -> None:
        """It begins wherever it is started."""
        return

    def last_at(self) -> None:
        """It ends with the calendar only."""
        return

    def opening_price(self, symbol: str) -> Decimal:
        """The present price of a stock's path."""
        return stock_price(next(stock.price for stock in self._stocks if stock.symbol == symbol))

    def volatility(self, symbol: str) -> float:
        """Yearly volatility of a stock."""
        return next(stock.profile.volatility for stock in self._stocks if stock.symbol == symbol)

    def peek(self) -> datetime | None:
        """Time of the next round; None beyond the calendar."""
        return self._at

    def take(self) -> Round:
        """The next round."""
        at = self._at
        if at is None:
            raise InvalidInput("the generated market has reached the end of the calendar")
        now = Round(at)
        elapsed = self._elapsed(at)
        for stock in self._stocks:
            self._move(stock, at, elapsed)
            tick = self._tick(stock, at, now)
            if tick is not None:
                now.ticks.append(tick)
        self._previous = at
        self._step_time()
        return now

    def seek(self, moment: datetime) -> None:
        """Skip to the first round at or after `moment`; the prices move on their way there."""
        while self._at is not None and self._at < moment:
            self.take()

    # Time
    def _elapsed(self, at: datetime) -> float:
        """Seconds since the previous round of the same session; 0 for the session's first round."""
        session = self._session
        assert session is not None
        if self._previous is None or self._previous < session.pre_open:
            return 0.0
        return (at - self._previous).total_seconds()

    def _step_time(self) -> None:
        session = self._session
        at = self._at
        assert session is not None
        assert at is not None
        extended = self._settings.extended_interval
        if at < session.open:
            self._at = min(session.open, at + timedelta(seconds=extended))
        elif at < session.close:
            self._at = at + timedelta(seconds=self._settings.interval)
            if self._at >= session.close:
                self._at = session.close if extended else None
        else:
            self._at = at + timedelta(seconds=extended)
        if self._at is None or self._at >= session.post_close:
            self._next_session()

    def _next_session(self) -> None:
        self._at = None
        session = None
        while session is None:
            self._day += timedelta(days=1)
            if self._day > self._calendar.last_day:
                return
            if self._day >= self._calendar.first_day:
                session = self._calendar.on(self._day)
        self._session = session
        self._at = session.pre_open if self._settings.extended_interval else session.open
        for stock in self._stocks:
            self._begin_day(stock, session, self._day)

    def _begin_day(self, stock: _Stock, session: Session, day: date) -> None:
        stock.halts = []
        stock.halted = False
        chance = stock.chance
        # Drawn in any case: a changed probability must not shift the random stream of the prices.
        hit, where, length = chance.random(), chance.random(), chance.randint(*self._settings.halt_minutes)
        if hit < self._settings.halt_probability_a_day:
            span = (session.close - session.open).total_seconds()
            begin = session.open + timedelta(seconds=300 + where * max(0.0, span - 3600))
            stock.halts.append((begin, begin + timedelta(minutes=length)))
        if stock.temper is not None:
            own = stock.temper.begin_day(session)
            if stock.temper.mood.halts is not None:
                stock.halts = own
        gap = chance.gauss(0.0, stock.profile.overnight_gap)
        if self._previous is not None:
            stock.price = max(_LOWEST_PRICE, stock.price * math.exp(gap))

    # Prices
    def _move(self, stock: _Stock, at: datetime, elapsed: float) -> None:
        session = self._session
        assert session is not None
        noise, jump, jump_size = stock.chance.gauss(0.0, 1.0), stock.chance.random(), stock.chance.gauss(0.0, 1.0)
        if elapsed <= 0.0:
            if stock.temper is not None:
                # The session's first round: only a gap can lie before it.
                change = stock.temper.change(at - timedelta(microseconds=1), at)
                stock.price = max(_LOWEST_PRICE, stock.price * math.exp(change))
            return
        profile = stock.profile
        temper = stock.temper
        sigma = profile.volatility * _activity(session, at)
        if temper is not None:
            sigma *= temper.mood.volatility
        step = elapsed / _TRADING_YEAR_SECONDS
        change = (profile.drift - 0.5 * sigma * sigma) * step + sigma * math.sqrt(step) * noise
        if jump < self._settings.jump_probability and (temper is None or temper.mood.jumps):
            change += jump_size * self._settings.jump_size
        if temper is not None:
            change += temper.change(at - timedelta(seconds=elapsed), at)
        stock.price = max(_LOWEST_PRICE, stock.price * math.exp(change))

    def _tick(self, stock: _Stock, at: datetime, now: Round) -> Tick | None:
        chance = stock.chance
        traded, volume, bad, depth = chance.random(), chance.expovariate(1.0), chance.random(), chance.random()
        halted = any(begin <= at < end for begin, end in stock.halts)
        if halted != stock.halted:
            stock.halted = halted
            now.statuses.append(StatusChange(stock.symbol, halted))
        if halted:
            return None
        session = self._session
        assert session is not None
        regular = session.contains(at)
        widening = 1.0 if regular else 8.0
        bid, middle, ask = quoted_around(stock.price, stock.profile.spread_fraction * widening)
        size = 0
        if traded < self._settings.carry_trades:
            size = max(1, int(volume * stock.profile.volume_rate * (self._settings.interval if regular else 0.5)))
        lots = 100 * (1 + int(depth * 9))
        quote = Quote(stock.symbol, bid, ask, at, lots, 1000 + 100 - lots, middle if size else None)
        shown = None
        wrong = self._settings.bad_quote_probability
        if stock.temper is not None and stock.temper.mood.bad_quotes is not None:
            wrong = stock.temper.mood.bad_quotes
        if bad < wrong and self._settings.bad_quote_kinds:
            shown = make_bad(quote, chance.choice(self._settings.bad_quote_kinds), chance.random())
        return Tick(quote, size, shown)


def _activity(session: Session, at: datetime) -> float:
    """Volatility over the day: high after the open and before the close, low outside regular hours."""
    if not session.contains(at):
        return 0.4
    since = (at - session.open).total_seconds() / 60.0
    left = (session.close - at).total_seconds() / 60.0
    return 0.8 + 1.2 * math.exp(-since / 30.0) + 0.5 * math.exp(-left / 20.0)


def make_bad(quote: Quote, kind: BadQuoteKind, amount: float) -> Quote:
    """Spoil a quote; `amount` from 0 to 1 says how much where that makes sense."""
    bid, ask, at, bid_size, ask_size = quote.bid, quote.ask, quote.at, quote.bid_size, quote.ask_size
    zero = CENTS[0]
    if kind is BadQuoteKind.CROSSED:
        bid, ask = stock_price(float(ask) * (1.0 + 0.02 * amount) + 0.01), bid
    elif kind is BadQuoteKind.NO_BID:
        bid, bid_size = zero, 0
    elif kind is BadQuoteKind.NO_ASK:
        ask, ask_size = zero, 0
    elif kind is BadQuoteKind.ZERO:
        bid, ask, bid_size, ask_size = zero, zero, 0, 0
    elif kind is BadQuoteKind.STALE:
        at = at - timedelta(minutes=2 + 28 * amount)
    else:
        factor = 2.0 + 8.0 * amount if kind is BadQuoteKind.WILD_HIGH else 1.0 / (2.0 + 8.0 * amount)
        bid, ask = stock_price(float(bid) * factor), stock_price(float(ask) * factor)
    return Quote(quote.symbol, bid, ask, at, bid_size, ask_size, quote.last)
