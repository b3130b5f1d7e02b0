"""The player: order of events, boundaries, pacing, one driver at a time, and contracts on demand."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from tests.support.waiting import eventually

from exitguard.core.errors import InvalidInput
from exitguard.core.quote import Quote
from exitguard.core.session import table_calendar
from exitguard.paper.engine.faults import Faults
from exitguard.paper.market.clock import MarketClock
from exitguard.paper.market.feed_faults import FeedFaults
from exitguard.paper.market.option_board import OptionBoard
from exitguard.paper.market.option_model import OptionModel
from exitguard.paper.market.player import Player, Shown
from exitguard.paper.market.recorded import RecordedBar, RecordedBars

CALENDAR = table_calendar()
OPEN = datetime(2023, 1, 3, 14, 30, tzinfo=UTC)
CALL = "AAPL230120C00130000"


class RecordingVenue:
    """Writes down what it is told, with its own boundaries: each session's open and close."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []

    def on_quotes(self, quotes: Sequence[Quote]) -> None:
        self.heard.append(("quotes", [quote.symbol for quote in quotes]))

    def on_sound_quotes(self, quotes: Sequence[Quote]) -> None:
        self.heard.append(("option quotes", [quote.symbol for quote in quotes]))

    def on_trade(self, symbol: str, price: Decimal, at: datetime) -> None:
        self.heard.append(("trade", (symbol, price)))

    def advance_to(self, now: datetime) -> None:
        if not self.heard or self.heard[-1] != ("advance", now):
            self.heard.append(("advance", now))

    def next_boundary(self, after: datetime) -> datetime:
        return min(CALENDAR.next_open(after), CALENDAR.next_close(after))

    def halt(self, symbol: str) -> None:
        self.heard.append(("halt", symbol))

    def resume(self, symbol: str) -> None:
        self.heard.append(("resume", symbol))


async def breathe() -> None:
    await asyncio.sleep(0)


def faults() -> Faults:
    return Faults(1, lambda: "", lambda fault: None)


def player(
    minutes: int = 10, *, switched: Faults | None = None, speed: float = 1.0, paused: bool = True
) -> tuple[Player, RecordingVenue, list[Shown]]:
    bars = [RecordedBar(OPEN + timedelta(minutes=n), 130, 131, 129, 130, 1000) for n in range(minutes)]
    board = OptionBoard(CALENDAR, OptionModel(CALENDAR), {"AAPL": 0.3})
    venue = RecordingVenue()
    clock = MarketClock(OPEN - timedelta(minutes=1), paused=paused, speed=speed)
    feed_faults = FeedFaults(switched or faults())
    made = Player(
        clock, CALENDAR, [RecordedBars({"AAPL": bars})], board, venue, settle=breathe, feed_faults=feed_faults
    )
    shown: list[Shown] = []
    made.listeners.append(shown.append)
    return made, venue, shown


async def test_advance_plays_everything_up_to_its_end_and_no_more() -> None:
    made, _, shown = player()
    await made.advance(OPEN + timedelta(seconds=44))
    assert [one.at for one in shown] == [OPEN + timedelta(seconds=s) for s in (0, 15, 30)]
    assert made.clock.now() == OPEN + timedelta(seconds=44)
    assert not made.ended
    await made.advance(OPEN + timedelta(minutes=10))
    assert made.ended
    assert made.rounds_played == 40


async def test_boundaries_come_before_the_quotes_of_the_same_instant() -> None:
    made, venue, _ = player()
    await made.advance(OPEN)
    kinds = [kind for kind, value in venue.heard if kind != "advance" or value == OPEN]
    assert kinds[:2] == ["advance", "quotes"]


async def test_overnight_every_boundary_is_visited() -> None:
    made, venue, _ = player()
    await made.advance(OPEN + timedelta(days=2))
    visited = {value for kind, value in venue.heard if kind == "advance"}
    close = OPEN + timedelta(hours=6, minutes=30)
    assert {OPEN, close, OPEN + timedelta(days=1), close + timedelta(days=1)} <= visited


async def test_minute_bars_are_finished_exactly_as_recorded() -> None:
    made, _, shown = player(2)
    await made.advance(OPEN + timedelta(minutes=1, seconds=59))
    (finished,) = [bar for one in shown for bar in one.minute_bars]
    assert (finished.open, finished.high, finished.low, finished.close) == (130, 131, 129, 130)
    assert (finished.volume, finished.trades, finished.start) == (1000, 4, OPEN)
    assert made.tape.minutes("AAPL", OPEN, OPEN + timedelta(hours=1)) == [finished]
    await made.advance(OPEN + timedelta(minutes=2))
    assert shown[-1].minute_bars[0].start == OPEN + timedelta(minutes=1), "without waiting for another quote"


async def test_time_cannot_go_back() -> None:
    made, _, _ = player()
    await made.advance(OPEN)
    with pytest.raises(InvalidInput, match="cannot go back"):
        await made.advance(OPEN - timedelta(seconds=1))
    with pytest.raises(InvalidInput, match="cannot go back"):
        await made.jump(OPEN - timedelta(seconds=1))


async def test_a_jump_skips_quotes_and_keeps_boundaries() -> None:
    made, venue, shown = player()
    await made.jump(OPEN + timedelta(minutes=5))
    assert shown == []
    assert ("advance", OPEN) in venue.heard
    await made.advance(OPEN + timedelta(minutes=5, seconds=1))
    assert [one.at for one in shown] == [OPEN + timedelta(minutes=5)]


async def test_a_running_clock_plays_by_itself_and_pauses() -> None:
    made, _, shown = player(speed=600.0, paused=False)
    running = asyncio.create_task(made.run())
    try:
        await eventually(lambda: len(shown) >= 8, "eight rounds")
        made.set_clock(paused=True)
        await made.advance(made.clock.now() + timedelta(minutes=1))
        played = made.rounds_played
        assert made.clock.paused
        made.set_clock(paused=False, speed=1200.0)
        await eventually(lambda: made.rounds_played > played, "more rounds after resuming")
    finally:
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


async def test_an_advance_can_be_paced() -> None:
    made, _, shown = player()
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await made.advance(OPEN + timedelta(minutes=2), speed=1800.0)
    assert loop.time() - begun >= 0.09
    assert made.clock.now() == OPEN + timedelta(minutes=2)
    assert len(shown) == 9


async def test_two_drivers_take_turns() -> None:
    made, _, shown = player()
    first = asyncio.create_task(made.advance(OPEN + timedelta(minutes=1)))
    second = asyncio.create_task(made.advance(OPEN + timedelta(minutes=2)))
    await asyncio.gather(first, second)
    times = [one.at for one in shown]
    assert times == sorted(times)
    assert len(times) == len(set(times))


async def test_a_contract_has_its_first_quote_when_it_is_needed() -> None:
    made, venue, shown = player()
    made.need_options([CALL])
    assert CALL not in made.tape.quotes, "the underlying has no price yet"
    await made.advance(OPEN)
    before = len(shown)
    made.need_options([CALL])
    quote = made.tape.quotes.get(CALL)
    assert quote is not None
    assert ("option quotes", [CALL]) in venue.heard
    made.need_options([CALL])
    assert made.tape.quotes[CALL] == quote
    assert len(shown) <= before + 1
    venue.heard.clear()
    await made.advance(OPEN + timedelta(seconds=15))
    assert ("quotes", ["AAPL"]) in venue.heard
    assert ("option quotes", [CALL]) in venue.heard


async def test_looking_at_a_contract_does_not_follow_it() -> None:
    made, _, _ = player()
    await made.advance(OPEN)
    assert made.look_at_option(CALL) is not None
    assert made.board.followed() == set()


async def test_a_hand_made_quote_reaches_feed_and_matching_or_the_feed_alone() -> None:
    made, venue, shown = player()
    await made.advance(OPEN)
    quote = Quote("AAPL", Decimal(90), Decimal(91), OPEN, 1, 1, Decimal("90.5"))
    made.publish(quote, trade_size=5)
    assert venue.heard[-1] == ("trade", ("AAPL", Decimal("90.5")))
    assert shown[-1].quotes == [quote]
    heard = len(venue.heard)
    made.publish(Quote("AAPL", Decimal(1), Decimal(2), OPEN), feed_only=True)
    assert len(venue.heard) == heard
    assert made.tape.quotes["AAPL"].bid == 1


async def test_a_held_stock_takes_no_quotes_from_its_source() -> None:
    made, _, shown = player()
    made.held.add("AAPL")
    await made.advance(OPEN + timedelta(seconds=15))
    assert [one.quotes for one in shown] == [[], []]
    made.held.discard("AAPL")
    await made.advance(OPEN + timedelta(seconds=30))
    assert [quote.symbol for quote in shown[-1].quotes] == ["AAPL"]


@pytest.mark.parametrize(
    "kind", ["quote_stale", "quote_one_sided", "quote_zero", "quote_crossed", "quote_nan", "quote_wild"]
)
async def test_f48_quote_faults_distort_the_feed_and_not_the_market(kind: str) -> None:
    switched = faults()
    made, _, shown = player(switched=switched)
    await made.advance(OPEN)
    good = shown[-1].quotes[0]
    switched.add({"kind": kind, "symbol": "AAPL", "count": 1})
    await made.advance(OPEN + timedelta(seconds=15))
    wrong = shown[-1].quotes[0]
    assert repr(wrong) != repr(good)
    spot = made.board.price(CALL, made.clock.now())
    assert spot is not None
    await made.advance(OPEN + timedelta(seconds=30))
    assert shown[-1].quotes[0].bid > 100, "one fault, one quote"


async def test_f48_a_dropped_quote_is_not_shown() -> None:
    switched = faults()
    made, _, shown = player(switched=switched)
    switched.add({"kind": "quote_drop", "count": 1})
    await made.advance(OPEN)
    assert shown[-1].quotes == []
