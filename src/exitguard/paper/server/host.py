"""Puts one venue together: calendar, clock, markets, option board, engine, player."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cache
from itertools import pairwise
from math import log, sqrt
from statistics import pstdev
from typing import Any

from exitguard.core.errors import InvalidInput
from exitguard.core.instrument import InvalidSymbol, parse_instrument
from exitguard.core.quote import Quote
from exitguard.core.session import NEW_YORK, SessionCalendar, table_calendar
from exitguard.paper.engine import Account, ApiError, Exchange, Fault
from exitguard.paper.market.adjustments import Adjustments
from exitguard.paper.market.clock import MarketClock
from exitguard.paper.market.feed_faults import FeedFaults
from exitguard.paper.market.generated import GeneratedMarket, profile_of
from exitguard.paper.market.option_board import OptionBoard
from exitguard.paper.market.option_model import OptionModel
from exitguard.paper.market.player import Player, Shown
from exitguard.paper.market.recorded import RecordedBar, RecordedBars
from exitguard.paper.market.recording import RecordedTicks
from exitguard.paper.market.replay import load_replay
from exitguard.paper.market.tape import Bar
from exitguard.paper.market.ticks import Round, Source, StatusChange, quoted_around, stock_price
from exitguard.paper.server.fault_file import FaultPlan
from exitguard.paper.server.keeper import Keeper, KeptVenue
from exitguard.paper.server.scheduler import LoopScheduler
from exitguard.paper.server.settings import DEFAULT_SYMBOLS, PaperSettings

# A stepped market waits this long in all for orders in flight, and then goes on: a fault may hold one for ever.
_SETTLE_SECONDS = 0.25
# Faults that take a print back.
_REVISIONS = ("trade_correction", "trade_cancel")


class Host:
    """Everything behind the sockets. Made inside a running event loop."""

    def __init__(self, settings: PaperSettings, keeper: Keeper) -> None:
        self.settings = settings
        self.keeper = keeper
        self.calendar = settings.calendar or _default_calendar()
        self.scheduler = LoopScheduler()
        # Answers that the stepped market waits for: whether a socket still has something to send, and the like.
        self.busy_checks: list[Callable[[], bool]] = []
        self.requests_in_progress = 0
        # Answers which contracts clients watch.
        self.watched: list[Callable[[], Iterable[str]]] = []
        # Counts what clients were just told and may act upon: data, trade updates, answers to orders.
        self.activity = 0
        self.reaction_seconds = settings.reaction_seconds
        self._activity_settled = 0
        recorded, ticks = _recorded(settings)
        start = _start(settings, self.calendar, recorded, ticks)
        kept_at = keeper.market_time()
        if kept_at is not None:
            if settings.start is not None and start < kept_at:
                raise InvalidInput(
                    f"the market time kept in {settings.state} is {kept_at.isoformat()}, {start.isoformat()} lies "
                    "before it: leave the start out, or choose another state folder"
                )
            start = start if settings.start is not None else kept_at
        adjustments = Adjustments()
        adjustments.restore(keeper.market_terms())
        self._kept_prices = keeper.prices()
        self.clock = MarketClock(kept_at or start, speed=settings.speed, paused=settings.paused)
        generated = self._generated((recorded, ticks), start, adjustments)
        sources: list[Source] = [source for source in (recorded, ticks, generated) if source is not None]
        for source in sources:
            source.seek(start)
        self.exchange = Exchange(
            self.calendar,
            settings.seed,
            now=self.clock.now,
            schedule=self.scheduler.schedule,
            settings=settings.exchange,
        )
        keeper.restore(self.exchange)
        for name, cash in settings.accounts.items():
            if name not in self.exchange.accounts:
                self.exchange.create_account(name, cash)
        self.accounts: dict[str, Account] = self.exchange.accounts
        model = OptionModel(self.calendar, settings.options)
        board = OptionBoard(self.calendar, model, _volatilities(settings, recorded, generated))
        self.player = Player(
            self.clock,
            self.calendar,
            sources,
            board,
            KeptVenue(self.exchange, self.keeper) if self.keeper.is_on else self.exchange,
            settle=self.settle,
            feed_faults=FeedFaults(self.exchange.faults),
            adjustments=adjustments,
        )
        if recorded is not None:
            self.player.tape.preload(_played(symbol, bar) for symbol, bar in recorded.before(start))
        self._day = start.astimezone(NEW_YORK).date()
        self._listed: list[str] = []
        for source in sources:
            for symbol in source.symbols():
                self._list(adjustments.name_of(symbol), source.opening_price(symbol))
        for symbol, price in settings.manual.items():
            self._list(adjustments.name_of(symbol), price)
        if ticks is not None:
            self._list_contracts(ticks.option_symbols())
        if kept_at is not None and start > kept_at:
            # Started later than it was left: what the hours between demand happens first.
            self.clock.reach(start)
            self.exchange.advance_to(start)
        for symbol, price in settings.manual.items():
            name = adjustments.name_of(symbol)
            self.player.publish(_opening_quote(name, self._kept_prices.get(name, price), start))
        if kept_at is not None:
            self.need_contracts(self._needed_contracts())
        self.player.listeners.append(self._follow_days)
        self.keeper.begin(self.exchange, self.clock.now, adjustments.to_json)
        self.scheduler.afterwards = self.keeper.save
        # Called after faults were switched on by the plan: sockets have to look at them.
        self.on_faults: Callable[[], None] = lambda: None
        self._plan: FaultPlan | None = None
        if settings.faults is not None:
            self._plan = FaultPlan(settings.faults, self.add_fault, self.exchange.faults.note_failure)
            self._plan.begin()
        self.player.followers.append(self._follow_plan)

    def _generated(
        self, recorded: Iterable[Source | None], start: datetime, adjustments: Adjustments
    ) -> GeneratedMarket | None:
        settings = self.settings
        taken = {symbol for source in recorded if source is not None for symbol in source.symbols()} | set(
            settings.manual
        )
        wanted = settings.symbols
        if wanted is None:
            wanted = () if taken else DEFAULT_SYMBOLS
        profiles = {
            symbol: settings.profiles.get(symbol) or profile_of(symbol, settings.seed)
            for symbol in wanted
            if symbol not in taken
        }
        if not profiles:
            return None
        for symbol, profile in profiles.items():
            kept = self._kept_prices.get(adjustments.name_of(symbol))
            if kept is not None and kept > 0:
                profiles[symbol] = replace(profile, price=float(adjustments.source_price(symbol, kept)))
        return GeneratedMarket(self.calendar, settings.seed, profiles, start, settings.generator, settings.moods)

    def _list(self, symbol: str, price: Decimal) -> None:
        if symbol not in self._kept_prices:
            self.exchange.add_stock(symbol, price)
        self.exchange.add_option_chain(symbol)
        self._listed.append(symbol)

    def _list_contracts(self, symbols: Sequence[str]) -> None:
        """List recorded contracts; an underlying that nobody quotes is listed at their middle strike."""
        contracts = [parse_instrument(symbol) for symbol in symbols]
        for underlying in sorted({contract.underlying for contract in contracts} - set(self._listed)):
            strikes = sorted(one.strike for one in contracts if one.underlying == underlying and one.strike is not None)
            self.exchange.add_stock(underlying, strikes[len(strikes) // 2])
            self._listed.append(underlying)
        for contract in contracts:
            assert contract.expiry is not None, contract.symbol
            assert contract.strike is not None, contract.symbol
            self.exchange.add_option_chain(contract.underlying, expiries=[contract.expiry], strikes=[contract.strike])
        self.player.recorded_options = frozenset(symbols)

    def now(self) -> datetime:
        """The market's time."""
        return self.clock.now()

    def symbols(self) -> list[str]:
        """Every stock listed."""
        return sorted(self._listed)

    # Options
    def need_contracts(self, symbols: Iterable[str]) -> None:
        """See to it that each listed option contract among `symbols` has a quote now and keeps getting one."""
        self.player.need_options(symbol for symbol in symbols if self.is_listed_option(symbol))

    def is_listed_option(self, symbol: str) -> bool:
        """Whether the venue has this option contract."""
        try:
            if not parse_instrument(symbol).is_option:
                return False
            self.exchange.get_option_contract(symbol)
        except (InvalidSymbol, ApiError):
            return False
        return True

    def _follow_days(self, shown: Shown) -> None:
        """On a new day: list new expiries and strikes, stop pricing contracts that nobody holds or watches."""
        day = shown.at.astimezone(NEW_YORK).date()
        if day == self._day:
            return
        self._day = day
        for symbol in self._listed:
            self.exchange.add_option_chain(symbol)
        idle = self.player.board.followed() - self._needed_contracts()
        self.player.board.unfollow(idle)
        self.player.tape.forget_quotes(idle)

    def _follow_plan(self, at: datetime) -> None:
        """Switch planned faults on, and let events happen that are due."""
        if self._plan is not None:
            due = self._plan.next_at
            if due is not None and due <= at and self._plan.reach(at):
                self.on_faults()
        self.exchange.try_events(at, self._after_event)

    def _needed_contracts(self) -> set[str]:
        """Contracts that somebody subscribes to, holds, or has an order for."""
        needed = {symbol for look in self.watched for symbol in look()}
        for state in self.exchange.state_json().values():
            needed |= set(state["positions"])
            needed |= {order["symbol"] for order in state["open_orders"]}
            needed |= {leg["symbol"] for order in state["open_orders"] for leg in order["legs"] or ()}
        return needed

    # Interventions
    def add_fault(self, specification: Mapping[str, Any]) -> Fault:
        """Switch a fault on, and let the market follow where it changes a stock. Raises ApiError 422."""
        fault = self.exchange.faults.add(specification)
        if fault.injected:
            self._after_event(fault)
        return fault

    def _after_event(self, fault: Fault) -> None:
        """An event fault has happened: let the market follow where it changes a stock."""
        symbol = fault.symbol or ""
        if fault.kind == "split":
            self.player.adjustments.split(symbol, Decimal(str(fault.parameters.get("ratio", 2))))
        elif fault.kind == "symbol_change":
            new = parse_instrument(fault.parameters["new_symbol"]).symbol
            self.player.adjustments.rename(symbol, new)
            self._listed[self._listed.index(symbol)] = new
        elif fault.kind in ("halt", "resume"):
            self.change_status(StatusChange(symbol, fault.kind == "halt"))
        elif fault.kind in _REVISIONS:
            self._revise(symbol, fault)
        if fault.kind in ("split", "symbol_change"):
            self._follow_new_contracts(symbol)

    def _revise(self, symbol: str, fault: Fault) -> None:
        """Take a print back, and say so on the feeds; one that is not there is left alone."""
        back = int(fault.number("back", 0))
        found = self.player.tape.revisable(symbol, back)
        if found is not None:
            price = float(stock_price(found.price * fault.number("factor", 0.995)))
            self.player.revise(symbol, back, price if fault.kind == "trade_correction" else None)

    def _follow_new_contracts(self, underlying: str) -> None:
        """The contracts of a stock have other symbols now: forget the old ones, price those that are needed."""
        player = self.player
        old = {symbol for symbol in player.board.followed() if parse_instrument(symbol).underlying == underlying}
        player.board.unfollow(old)
        recorded = {symbol for symbol in player.recorded_options if parse_instrument(symbol).underlying == underlying}
        # A recording goes on under symbols that are no more; the model takes over.
        player.recorded_options -= recorded
        player.held |= recorded
        player.tape.forget_quotes(old | recorded)
        self.need_contracts(self._needed_contracts())

    def change_status(self, change: StatusChange) -> None:
        """Halt or resume a stock now, on the feeds too."""
        self.player.play(Round(self.now(), statuses=[change]))

    # Waiting
    async def settle(self) -> None:
        """Between two rounds of a stepped market: let sockets flush, clients react, and their orders be carried out.

        Whoever was told something gets `reaction_seconds` to act, and again after each answer, for at most
        _SETTLE_SECONDS in all. Without clients this is one turn of the event loop.
        """
        await asyncio.sleep(0)
        if self.activity == self._activity_settled and not self._busy():
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _SETTLE_SECONDS
        while loop.time() < deadline:
            if self._busy():
                await asyncio.sleep(0.0005 if self.scheduler.busy else 0)
            elif self.activity != self._activity_settled:
                self._activity_settled = self.activity
                await asyncio.sleep(self.reaction_seconds)
            else:
                break

    def _busy(self) -> bool:
        return self.scheduler.busy or self.requests_in_progress > 0 or any(check() for check in self.busy_checks)

    def close(self) -> None:
        """Stop everything that would still happen."""
        self.scheduler.close()


@cache
def _default_calendar() -> SessionCalendar:
    return table_calendar()


def _recorded(settings: PaperSettings) -> tuple[RecordedBars | None, RecordedTicks | None]:
    bars, ticks = settings.bars, None
    if bars is None and settings.replay is not None:
        replay = load_replay(settings.replay, settings.symbols, partial=settings.generate_missing)
        bars, ticks = replay.bars or None, replay.ticks
    return None if bars is None else RecordedBars(bars, spread_fraction=settings.spread_fraction), ticks


def _played(symbol: str, bar: RecordedBar) -> Bar:
    """A recorded bar as the tape would have built it from its four trades."""
    trades = len(bar.path()) if bar.volume else 0
    opened, high, low, close = (float(stock_price(price)) for price in (bar.open, bar.high, bar.low, bar.close))
    value = bar.volume * sum(bar.path()) / 4
    return Bar(symbol, bar.start, opened, high, low, close, bar.volume, trades, value)


def _start(
    settings: PaperSettings, calendar: SessionCalendar, recorded: RecordedBars | None, ticks: RecordedTicks | None
) -> datetime:
    if settings.start is not None:
        if settings.start.tzinfo is None:
            raise InvalidInput(f"start needs a time zone, was {settings.start.isoformat()}")
        return settings.start.astimezone(UTC)
    if recorded is not None:
        day: date = recorded.first_at().astimezone(NEW_YORK).date()
    elif ticks is not None:
        return ticks.first_at()
    else:
        day = min(max(datetime.now(NEW_YORK).date(), calendar.first_day), calendar.last_day)
    return calendar.session_on_or_before(day).open


def _volatilities(
    settings: PaperSettings, recorded: RecordedBars | None, generated: GeneratedMarket | None
) -> dict[str, float]:
    """Base volatility of each stock: the generator's own, or what the recorded days' closes show."""
    found = {symbol: profile_of(symbol, settings.seed).volatility for symbol in settings.manual}
    if generated is not None:
        found |= {symbol: generated.volatility(symbol) for symbol in generated.symbols()}
    if recorded is not None:
        for symbol in recorded.symbols():
            closes = [close for _, close in recorded.closes(symbol)]
            moves = [log(after / before) for before, after in pairwise(closes)]
            known = profile_of(symbol, settings.seed).volatility
            found[symbol] = min(2.0, max(0.08, pstdev(moves) * sqrt(252))) if len(moves) >= 10 else known
    return found


def _opening_quote(symbol: str, price: Decimal, at: datetime) -> Quote:
    bid, middle, ask = quoted_around(float(price), 0.0001)
    return Quote(symbol, bid, ask, at, 100, 100, middle)
