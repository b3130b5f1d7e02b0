"""Plays the market: merges sources in time order, adds option quotes, feeds the venue and the data listeners."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Protocol

from exitguard.core.errors import InvalidInput
from exitguard.core.quote import Quote
from exitguard.core.session import SessionCalendar
from exitguard.paper.market.adjustments import Adjustments
from exitguard.paper.market.clock import MarketClock, checked_speed
from exitguard.paper.market.feed_faults import FeedFaults
from exitguard.paper.market.option_board import OptionBoard
from exitguard.paper.market.tape import Bar, Revision, Tape, Trade
from exitguard.paper.market.ticks import Round, Source, StatusChange, Tick

# Wall seconds between two looks at the clock while it runs, at most.
_LONGEST_NAP = 0.02


class Venue(Protocol):
    """The matching side, as the player sees it."""

    def on_quotes(self, quotes: Sequence[Quote]) -> None:
        """Take quotes and match."""
        ...

    def on_sound_quotes(self, quotes: Sequence[Quote]) -> None:
        """Take the option model's quotes and match."""
        ...

    def on_trade(self, symbol: str, price: Decimal, at: datetime) -> None:
        """Take a print."""
        ...

    def advance_to(self, now: datetime) -> None:
        """Do what session boundaries demand."""
        ...

    def next_boundary(self, after: datetime) -> datetime:
        """The next moment at which `advance_to` would do something."""
        ...

    def halt(self, symbol: str) -> None:
        """Stop trading in a symbol."""
        ...

    def resume(self, symbol: str) -> None:
        """Let it trade again."""
        ...


@dataclass(slots=True)
class Shown:
    """What the data feeds publish of one round."""

    at: datetime
    quotes: list[Quote] = field(default_factory=list)
    trades: list[Trade] = field(default_factory=list)
    minute_bars: list[Bar] = field(default_factory=list)
    statuses: list[StatusChange] = field(default_factory=list)
    revisions: list[Revision] = field(default_factory=list)


class Player:
    """Owns market time. One driver at a time moves it: the running clock, an advance, or a jump."""

    def __init__(
        self,
        clock: MarketClock,
        calendar: SessionCalendar,
        sources: Sequence[Source],
        board: OptionBoard,
        venue: Venue,
        *,
        settle: Callable[[], Awaitable[None]],
        feed_faults: FeedFaults,
        adjustments: Adjustments | None = None,
    ) -> None:
        self.clock = clock
        self.calendar = calendar
        self.board = board
        self.tape = Tape()
        self.listeners: list[Callable[[Shown], None]] = []
        # Called with the market's time after it has moved.
        self.followers: list[Callable[[datetime], None]] = []
        self.rounds_played = 0
        # Stocks whose sources are kept out while somebody sets their quotes by hand.
        self.held: set[str] = set()
        # Contracts whose quotes are recorded: the model has no say in them.
        self.recorded_options: frozenset[str] = frozenset()
        self.adjustments = adjustments or Adjustments()
        self._sources = list(sources)
        self._venue = venue
        self._settle = settle
        self._feed_faults = feed_faults
        self._boundary = venue.next_boundary(clock.reached)
        self._driving = asyncio.Lock()
        self._changed = asyncio.Event()
        self._stopped = False

    @property
    def ended(self) -> bool:
        """Whether no source has anything left to play."""
        return all(source.peek() is None for source in self._sources)

    def symbols(self) -> list[str]:
        """Every stock that a source quotes."""
        return sorted({symbol for source in self._sources for symbol in source.symbols()})

    # Driving time
    async def run(self) -> None:
        """Follow the clock until cancelled."""
        while True:
            if self.clock.paused:
                self._changed.clear()
                await self._changed.wait()
                continue
            async with self._driving:
                await self._play_to(self.clock.target(), breathe_every=16)
            await asyncio.sleep(self._nap())

    def _nap(self) -> float:
        due = self._next_due()
        if due is None:
            return _LONGEST_NAP
        left = (due - self.clock.reached).total_seconds() / self.clock.speed
        return min(_LONGEST_NAP, max(0.001, left))

    def set_clock(self, *, speed: float | None = None, paused: bool | None = None) -> None:
        """Change the running clock."""
        if speed is not None:
            self.clock.set_speed(speed)
        if paused is True:
            self.clock.pause()
        elif paused is False:
            self.clock.resume()
        self._changed.set()

    async def advance(self, to: datetime, speed: float | None = None) -> None:
        """Play up to `to`: as fast as it goes, or at `speed` market seconds a wall second.

        Raises InvalidInput where `to` lies in the past. A running clock stands still meanwhile and goes on afterwards.
        """
        if speed is not None:
            checked_speed(speed)
        async with self._driving:
            with self._standing():
                self._check_forward(to)
                if speed is None:
                    await self._play_to(to, breathe_every=1)
                    # Without a round on the way nothing has waited yet for orders that are being taken.
                    await self._settle()
                    return
                loop = asyncio.get_running_loop()
                begun, origin = loop.time(), self.clock.reached
                while self.clock.reached < to and not self._stopped:
                    await asyncio.sleep(min(_LONGEST_NAP, (to - self.clock.reached).total_seconds() / speed))
                    elapsed = timedelta(seconds=(loop.time() - begun) * speed)
                    await self._play_to(min(to, origin + elapsed), breathe_every=1)

    def stop(self) -> None:
        """Play nothing more: an advance that is under way ends where it is."""
        self._stopped = True

    async def jump(self, to: datetime) -> None:
        """Go to `to` without playing what lies between; session boundaries on the way are kept."""
        async with self._driving:
            with self._standing():
                self._check_forward(to)
                for source in self._sources:
                    source.seek(to)
                while self._boundary <= to:
                    self._cross_boundary()
                    await self._settle()
                self.clock.reach(to)
                self._venue.advance_to(to)
                self._follow(to)

    def _check_forward(self, to: datetime) -> None:
        reached = self.clock.reached
        if to < reached:
            raise InvalidInput(f"market time is {reached.isoformat()}: it cannot go back to {to.isoformat()}")

    @contextlib.contextmanager
    def _standing(self) -> Iterator[None]:
        """Keep the clock still inside; let it run on afterwards if it ran before."""
        running = not self.clock.paused
        self.clock.pause()
        try:
            yield
        finally:
            if running:
                self.clock.resume()

    # Playing
    def _next_due(self) -> datetime | None:
        times = [at for source in self._sources if (at := source.peek()) is not None]
        return min([*times, self._boundary])

    async def _play_to(self, to: datetime, *, breathe_every: int) -> None:
        played = 0
        while not self._stopped:
            due = self._next_due()
            if due is None or due > to:
                break
            if self._boundary <= due:
                self._cross_boundary()
            else:
                self.play(self._merged(due))
            played += 1
            if played % breathe_every == 0:
                await self._settle()
        if self._stopped:
            return
        self.clock.reach(to)
        self._venue.advance_to(to)
        finished = self.tape.roll(to)
        if finished:
            self._show(Shown(to, minute_bars=finished))
        self._follow(to)

    def _cross_boundary(self) -> None:
        at = self._boundary
        self.clock.reach(at)
        self._venue.advance_to(at)
        self._boundary = self._venue.next_boundary(at)
        self._follow(at)

    def _follow(self, at: datetime) -> None:
        for follower in self.followers:
            follower(at)

    def _merged(self, at: datetime) -> Round:
        rounds = [source.take() for source in self._sources if source.peek() == at]
        if len(rounds) == 1:
            merged = rounds[0]
        else:
            merged = Round(at)
            for one in rounds:
                merged.ticks += one.ticks
                merged.statuses += one.statuses
                merged.prints += one.prints
        merged = self.adjustments.translate(merged)
        if self.held:
            ticks = [tick for tick in merged.ticks if tick.quote.symbol not in self.held]
            prints = [one for one in merged.prints if one.symbol not in self.held]
            merged = Round(at, ticks, merged.statuses, prints)
        return merged

    def play(self, one: Round) -> None:
        """Play one round now: statuses, then quotes, then trades, then what the feeds show."""
        at = one.at
        self.clock.reach(at)
        self._venue.advance_to(at)
        shown = Shown(at, minute_bars=self.tape.roll(at), statuses=one.statuses)
        for status in one.statuses:
            (self._venue.halt if status.halted else self._venue.resume)(status.symbol)
        quotes = [tick.quote for tick in one.ticks]
        for quote in quotes:
            if _is_priced(quote) and quote.symbol not in self.recorded_options:
                self.board.on_underlying(quote.symbol, quote.mid, at)
        options = self.board.requote([quote.symbol for quote in quotes], at)
        for each in one.prints:
            shown.trades.append(self.tape.add_trade(each.symbol, float(each.price), each.size, each.at))
        self._record(one.ticks, options, shown)
        self._venue.on_quotes(quotes)
        if options:
            self._venue.on_sound_quotes(options)
        for each in one.prints:
            self._venue.on_trade(each.symbol, each.price, at)
        for tick in one.ticks:
            if tick.trade_size and tick.quote.last is not None:
                self._venue.on_trade(tick.quote.symbol, tick.quote.last, at)
        self.rounds_played += 1
        self._show(shown)
        self._follow(at)

    def _record(self, ticks: Iterable[Tick], options: Sequence[Quote], shown: Shown) -> None:
        faults = self._feed_faults.active()
        for tick in ticks:
            quote = tick.quote
            if tick.trade_size and quote.last is not None:
                shown.trades.append(self.tape.add_trade(quote.symbol, float(quote.last), tick.trade_size, shown.at))
            visible = tick.shown or quote
            self._show_quote(visible, shown, faults, keep_history=quote.symbol not in self.recorded_options)
        if faults:
            for quote in options:
                self._show_quote(quote, shown, faults, keep_history=False)
        else:
            self.tape.add_option_quotes(options)
            shown.quotes += options

    def _show_quote(self, quote: Quote, shown: Shown, faults: list[str], *, keep_history: bool) -> None:
        visible = self._feed_faults.distort(quote, faults) if faults else quote
        if visible is not None:
            self.tape.add_quote(visible, keep_history=keep_history)
            shown.quotes.append(visible)

    # Contracts on demand
    def need_options(self, symbols: Iterable[str]) -> None:
        """Follow contracts from now on, and see to it that each has a quote at once, on the feeds and in matching."""
        now = self.clock.now()
        ticks = []
        for symbol in symbols:
            if symbol in self.recorded_options:
                continue
            new = self.board.follow(symbol)
            if new or symbol not in self.tape.quotes:
                quote = self.board.price(symbol, now)
                if quote is not None:
                    ticks.append(Tick(quote))
        if ticks:
            self.play(Round(now, ticks))

    def look_at_option(self, symbol: str) -> Quote | None:
        """A contract's quote without following it: the newest shown, else one from the model."""
        if symbol in self.recorded_options or symbol in self.board.followed():
            return self.tape.quotes.get(symbol)
        return self.board.price(symbol, self.clock.now())

    def publish(self, quote: Quote, *, trade_size: int = 0, feed_only: bool = False) -> None:
        """Put one quote into the market now, as a round of its own.

        `trade_size` shares or contracts print at `quote.last`. `feed_only` shows it without matching against it.
        """
        now = self.clock.now()
        if feed_only:
            shown = Shown(now, minute_bars=self.tape.roll(now))
            self.tape.add_quote(quote, keep_history=False)
            shown.quotes.append(quote)
            self._show(shown)
        else:
            self.play(Round(now, [Tick(quote, trade_size)]))

    def revise(self, symbol: str, back: int, price: float | None) -> bool:
        """Take the print before `back` newer ones back: correct it to `price`, or cancel it. False without such one."""
        now = self.clock.now()
        shown = Shown(now, minute_bars=self.tape.roll(now))
        revision = self.tape.revise(symbol, back, price)
        if revision is not None:
            shown.revisions.append(revision)
        self._show(shown)
        return revision is not None

    def _show(self, shown: Shown) -> None:
        for listener in self.listeners:
            listener(shown)


def _is_priced(quote: Quote) -> bool:
    """Whether a quote has two sides; a recorded one may have prices that are no numbers."""
    bid, ask = quote.bid, quote.ask
    return bid.is_finite() and ask.is_finite() and bid > 0 and ask > 0
