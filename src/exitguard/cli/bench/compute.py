"""What one processor does without waiting for anybody: quiet quotes and evaluations a second."""

import random
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, cast

from exitguard.broker.clock import SteppedClock
from exitguard.broker.port import Tick
from exitguard.cli.bench.book import PREMIUM, Sizes, ledger_operations, make_book, opening_time, trading_day
from exitguard.cli.bench.result import Measurement, measured, median
from exitguard.core.evaluate import Action, evaluate
from exitguard.core.marks import WideStreak, judge
from exitguard.core.orders import Fill
from exitguard.core.policy import DEFAULT_POLICY
from exitguard.core.records import LedgerState, PositionRecord, PutFill, PutPosition
from exitguard.core.session import table_calendar
from exitguard.manager.account import AccountManager
from exitguard.manager.alarms import Alarms
from exitguard.manager.context import AccountContext
from exitguard.manager.ledger import Ledger
from exitguard.manager.options import ManagerOptions

_FRAME = 1000
_NANOSECONDS = 1_000_000_000


class BookedAccount:
    """An account's manager with a book of options in memory, and nobody behind it: no broker, no store, no task."""

    def __init__(self, positions: int) -> None:
        session = trading_day()
        self.now = opening_time(session)
        sizes = Sizes(underlyings=min(200, positions), positions=positions + min(200, positions), rounds=1, warmup=0)
        self.book = [held for held in make_book(sizes, session.day) if held.is_option][:positions]
        clock = SteppedClock(self.now)
        # A quiet quote reaches none of them; one that is not would fail here instead of being counted.
        nobody = cast(Any, None)
        ledger = Ledger(nobody, clock)
        options = ManagerOptions(
            "bench", "bench", "paper", lambda _strategy, _instrument: DEFAULT_POLICY, "bench", "bench", "-", "-"
        )
        context = AccountContext(options, nobody, clock, ledger, Alarms(ledger, "bench"), table_calendar())
        manager = AccountManager(context, nobody, nobody)
        manager.restore(self._state())
        self.watcher = manager.watcher
        self.positions = list(context.positions.values())

    def _state(self) -> LedgerState:
        rows: list[PositionRecord] = []
        fills: dict[int, tuple[Fill, ...]] = {}
        for number, held in enumerate(self.book, 1):
            put, fill = ledger_operations("bench", held, number, self.now)
            assert isinstance(put, PutPosition)
            assert isinstance(fill, PutFill)
            rows.append(put.row)
            fills[number] = (fill.fill,)
        return LedgerState(tuple(rows), fills, (), frozenset(), len(rows) + 1, {})

    def ticks(self, bid: float, ask: float, at: datetime) -> list[Tick]:
        """One quote of every symbol."""
        stamp = int(at.timestamp()) * _NANOSECONDS
        return [Tick(held.symbol, bid, ask, 10, 10, stamp) for held in self.book]

    def arm(self) -> None:
        """Show every position both ends of the range in which the measured quotes lie."""
        for bid, ask in ((4.49, 4.51), (5.49, 5.51)):
            self.watcher.on_ticks(self.ticks(bid, ask, self.now))


def quiet_quotes(positions: int, quotes: int, rounds: int, say: Callable[[str], None]) -> dict[str, Measurement]:
    """Quotes a second through the watcher with every position armed; baseline: a look-up and two comparisons."""
    say(f"quiet_quotes: {quotes} quotes on {positions} positions, {rounds} times each way")
    account = BookedAccount(positions)
    account.arm()
    frames = _frames(account, quotes)
    table = {held.symbol: (4.0, 6.0) for held in account.book}
    ours, bare = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        for frame in frames:
            account.watcher.on_ticks(frame)
        ours.append(quotes / (time.perf_counter() - began))
        began = time.perf_counter()
        seen = _bare_pass(frames, table)
        bare.append(quotes / (time.perf_counter() - began))
        assert seen == quotes
    return {"quiet_quotes": measured(median(ours), "quotes/s", baseline=median(bare))}


def _frames(account: BookedAccount, quotes: int) -> list[list[Tick]]:
    """Quotes within the armed range, in an order that no cache likes."""
    chance = random.Random(1)  # noqa: S311 - no secret
    names = [held.symbol for held in account.book]
    stamp = int(account.now.timestamp()) * _NANOSECONDS
    ticks = []
    for number in range(quotes):
        cents = chance.randint(460, 540)
        ticks.append(Tick(chance.choice(names), (cents - 1) / 100, (cents + 1) / 100, 10, 10, stamp + number))
    return [ticks[first : first + _FRAME] for first in range(0, quotes, _FRAME)]


def _bare_pass(frames: Sequence[Sequence[Tick]], table: dict[str, tuple[float, float]]) -> int:
    seen = 0
    for frame in frames:
        for tick in frame:
            low, high = table[tick.symbol]
            if low < tick.bid and tick.ask < high:
                seen += 1
    return seen


def evaluations(count: int, rounds: int, say: Callable[[str], None]) -> dict[str, Measurement]:
    """Evaluations of an option position a second, one processor; baseline: the P&L in percent and one comparison."""
    say(f"evaluate: {count} evaluations, {rounds} times each way")
    account = BookedAccount(1)
    watched = account.positions[0].watched()
    session = table_calendar().current(account.now)
    quote = account.ticks(4.99, 5.01, account.now)[0].quote()
    view, _ = judge(quote, account.now, DEFAULT_POLICY, WideStreak())
    now = account.now + timedelta(seconds=1)
    ours, bare = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(count):
            decision = evaluate(watched, view, now, session, DEFAULT_POLICY)
        ours.append(count / (time.perf_counter() - began))
        assert decision.action is Action.HOLD
        began = time.perf_counter()
        beyond = sum(_bare_rule(quote.bid, quote.ask) for _ in range(count))
        bare.append(count / (time.perf_counter() - began))
        assert beyond == 0
    return {"evaluate": measured(median(ours), "evaluations/s", baseline=median(bare))}


def _bare_rule(bid: Decimal, ask: Decimal) -> bool:
    return ((bid + ask) / 2 - PREMIUM) / PREMIUM * 100 <= -40
