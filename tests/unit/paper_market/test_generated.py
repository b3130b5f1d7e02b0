"""The seeded generator: repeatable, independent stocks, halts, and wrong quotes that are shown but not real."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from exitguard.core.quote import QuoteLimits, QuoteState, classify
from exitguard.core.session import table_calendar
from exitguard.paper.market.generated import (
    BadQuoteKind,
    GeneratedMarket,
    GeneratorSettings,
    StockProfile,
    make_bad,
    profile_of,
)
from exitguard.paper.market.ticks import Round

CALENDAR = table_calendar()
OPEN = datetime(2026, 11, 20, 14, 30, tzinfo=UTC)
QUICK = GeneratorSettings(interval=30.0, extended_interval=0.0)


def market(symbols: list[str], settings: GeneratorSettings = QUICK, seed: int = 7, start: datetime = OPEN):
    return GeneratedMarket(CALENDAR, seed, {s: profile_of(s, seed) for s in symbols}, start, settings)


def play(source: GeneratedMarket, until: datetime) -> list[Round]:
    rounds = []
    while (at := source.peek()) is not None and at < until:
        rounds.append(source.take())
    return rounds


def test_the_same_seed_gives_the_same_day() -> None:
    day = OPEN + timedelta(days=4)
    assert play(market(["AAPL", "F"]), day) == play(market(["AAPL", "F"]), day)
    assert play(market(["AAPL"]), day) != play(market(["AAPL"], seed=8), day)


def test_another_stock_does_not_change_the_first() -> None:
    alone = [one.ticks[0].quote for one in play(market(["AAPL"]), OPEN + timedelta(hours=6)) if one.ticks]
    both = [
        tick.quote
        for one in play(market(["AAPL", "NVDA"]), OPEN + timedelta(hours=6))
        for tick in one.ticks
        if tick.quote.symbol == "AAPL"
    ]
    assert alone == both


def test_rounds_keep_to_sessions_and_holidays() -> None:
    source = market(["SPY"], start=datetime(2026, 11, 25, 14, 30, tzinfo=UTC))
    rounds = play(source, datetime(2026, 12, 1, 0, 0, tzinfo=UTC))
    days = {one.at.date().isoformat() for one in rounds}
    assert days == {"2026-11-25", "2026-11-27", "2026-11-30"}  # Thanksgiving and the weekend are closed
    assert max(one.at for one in rounds if one.at.date().isoformat() == "2026-11-27").hour == 17  # 13:00 New York
    assert all(b.at > a.at for a, b in pairwise(rounds))


def test_extended_hours_are_quoted_wider() -> None:
    source = market(["SPY"], GeneratorSettings(interval=60.0, extended_interval=600.0), start=OPEN - timedelta(hours=1))
    rounds = play(source, OPEN + timedelta(minutes=10))
    before = [one.ticks[0].quote.spread for one in rounds if one.at < OPEN]
    after = [one.ticks[0].quote.spread for one in rounds if one.at >= OPEN]
    assert before
    assert after
    assert min(before) > max(after)


def test_halts_stop_quotes_and_announce_themselves() -> None:
    settings = GeneratorSettings(interval=30.0, extended_interval=0.0, halt_probability_a_day=1.0)
    rounds = play(market(["AAPL"], settings), OPEN + timedelta(hours=7))
    changes = [(one.at, change.halted) for one in rounds for change in one.statuses]
    assert [halted for _, halted in changes] == [True, False]
    (begin, _), (end, _) = changes
    assert timedelta(minutes=5) <= end - begin <= timedelta(minutes=16)
    assert all(not one.ticks for one in rounds if begin <= one.at < end)


def test_wrong_quotes_are_shown_and_the_true_ones_stay_true() -> None:
    settings = GeneratorSettings(interval=5.0, extended_interval=0.0, bad_quote_probability=0.5)
    ticks = [tick for one in play(market(["AAPL"], settings), OPEN + timedelta(hours=1)) for tick in one.ticks]
    wrong = [tick for tick in ticks if tick.shown is not None]
    assert 0.3 < len(wrong) / len(ticks) < 0.7
    assert all(0 < tick.quote.bid < tick.quote.ask for tick in ticks)
    clean = [
        tick.quote
        for one in play(market(["AAPL"], GeneratorSettings(5.0, 0.0)), OPEN + timedelta(hours=1))
        for tick in one.ticks
    ]
    assert [tick.quote.at for tick in ticks] == [quote.at for quote in clean]


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        (BadQuoteKind.CROSSED, QuoteState.CROSSED),
        (BadQuoteKind.NO_BID, QuoteState.ONE_SIDED),
        (BadQuoteKind.NO_ASK, QuoteState.ONE_SIDED),
        (BadQuoteKind.ZERO, QuoteState.ABSENT),
        (BadQuoteKind.STALE, QuoteState.STALE),
        (BadQuoteKind.WILD_HIGH, QuoteState.LIVE),
        (BadQuoteKind.WILD_LOW, QuoteState.LIVE),
    ],
)
def test_f48_every_kind_of_wrong_quote_is_wrong_in_its_way(kind: BadQuoteKind, state: QuoteState) -> None:
    from decimal import Decimal

    limits = QuoteLimits(timedelta(seconds=30), Decimal("0.5"))
    good = market(["AAPL"]).take().ticks[0].quote
    bad = make_bad(good, kind, 0.5)
    assert classify(good, OPEN, limits) is QuoteState.LIVE
    assert classify(bad, OPEN, limits) is state
    if kind is BadQuoteKind.WILD_HIGH:
        assert bad.mid > 3 * good.mid


def test_prices_stay_positive_and_move_as_volatile_as_asked() -> None:
    profile = {"CHEAP": StockProfile(0.30, volatility=3.0), "CALM": StockProfile(100.0, volatility=0.01)}
    source = GeneratedMarket(CALENDAR, 3, profile, OPEN, QUICK)
    seen: Counter[str] = Counter()
    for one in play(source, OPEN + timedelta(days=10)):
        for tick in one.ticks:
            assert 0 < tick.quote.bid < tick.quote.ask
            seen[tick.quote.symbol] += 1
            if tick.quote.symbol == "CALM":
                assert 80 < tick.quote.mid < 120
    assert seen["CHEAP"] > 1000


def test_seek_skips_and_still_moves_the_price() -> None:
    source = market(["AAPL"])
    source.seek(OPEN + timedelta(hours=3))
    assert source.take().at == OPEN + timedelta(hours=3)
