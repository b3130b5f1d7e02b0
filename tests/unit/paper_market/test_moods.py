"""Generators by name: each does what its description says, alone and together, and the same for the same seed."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from math import log

import pytest

from exitguard.core.errors import InvalidInput
from exitguard.core.session import table_calendar
from exitguard.paper.market.generated import GeneratedMarket, GeneratorSettings, StockProfile
from exitguard.paper.market.moods import DESCRIPTIONS, MOODS, mood_of, read_moods
from exitguard.paper.market.ticks import Round

CALENDAR = table_calendar()
OPEN = datetime(2026, 11, 18, 14, 30, tzinfo=UTC)
# A stock that hardly moves by itself, so that what is seen comes from the mood.
STILL = StockProfile(100.0, volatility=0.02, overnight_gap=0.0)
PLAIN = GeneratorSettings(
    interval=10.0, extended_interval=0.0, jump_probability=0.0, halt_probability_a_day=0.0, bad_quote_probability=0.0
)


def day(names: str | None, seed: int = 1, days: int = 1, settings: GeneratorSettings = PLAIN) -> list[Round]:
    moods = {} if names is None else {"X": names}
    source = GeneratedMarket(CALENDAR, seed, {"X": STILL}, OPEN, settings, moods)
    rounds = []
    while (at := source.peek()) is not None and at < OPEN + timedelta(days=days - 1, hours=7):
        rounds.append(source.take())
    return rounds


def prices(rounds: list[Round]) -> list[float]:
    return [float(tick.quote.mid) for one in rounds for tick in one.ticks]


def steps(rounds: list[Round]) -> list[float]:
    return [log(after / before) for before, after in pairwise(prices(rounds))]


def halts(rounds: list[Round]) -> int:
    return sum(status.halted for one in rounds for status in one.statuses)


def wrong(rounds: list[Round]) -> float:
    ticks = [tick for one in rounds for tick in one.ticks]
    return sum(tick.shown is not None for tick in ticks) / len(ticks)


def test_every_mood_is_described() -> None:
    assert set(MOODS) == set(DESCRIPTIONS)


@pytest.mark.parametrize("seed", [1, 2, 3])
class TestEach:
    def test_calm(self, seed: int) -> None:
        lively = GeneratorSettings(interval=10.0, extended_interval=0.0, halt_probability_a_day=1.0)
        rounds = day("calm", seed, settings=lively)
        assert (halts(rounds), wrong(rounds)) == (0, 0)
        assert max(map(abs, steps(rounds))) < max(map(abs, steps(day(None, seed, settings=lively))))

    def test_trend(self, seed: int) -> None:
        path = prices(day("trend", seed))
        assert abs(log(path[-1] / path[0])) == pytest.approx(0.04, abs=0.012)
        assert max(map(abs, steps(day("trend", seed)))) < 0.003

    def test_gap(self, seed: int) -> None:
        rounds = day("gap", seed, days=2)
        large = [step for step in map(abs, steps(rounds)) if step > 0.03]
        assert len(large) == 3, "one within each session and one at the second open; the first open has no before"
        assert all(0.03 < step < 0.1 for step in large)

    def test_crash(self, seed: int) -> None:
        path = prices(day("crash", seed))
        bottom = min(path)
        top = max(path[: path.index(bottom)])
        assert bottom / top == pytest.approx(0.75, abs=0.02)
        assert path[-1] / top == pytest.approx(0.875, abs=0.03)
        lost = path.index(bottom) - path.index(next(price for price in path if price < top * 0.97))
        assert lost * 10 <= 300

    def test_halt(self, seed: int) -> None:
        rounds = day("halt", seed)
        assert halts(rounds) == 3
        assert len([step for step in map(abs, steps(rounds)) if step > 0.008]) == 3, "each ends in a gap"
        stopped = False
        for one in rounds:
            for status in one.statuses:
                assert status.halted != stopped
                stopped = status.halted
            assert not (stopped and one.ticks)
        assert not stopped

    def test_wild(self, seed: int) -> None:
        rounds = day("wild", seed)
        assert 0.03 < wrong(rounds) < 0.07
        assert max(map(abs, steps(rounds))) < 0.003, "the true market stays what it is"

    def test_several_at_once(self, seed: int) -> None:
        rounds = day("crash+wild+halt", seed)
        assert halts(rounds) == 3
        assert wrong(rounds) > 0.03
        assert min(prices(rounds)) < 85

    def test_the_same_seed_gives_the_same_day(self, seed: int) -> None:
        assert day("gap+halt", seed) == day("gap+halt", seed) != day("gap+halt", seed + 1)


def test_a_mood_leaves_the_other_stocks_alone() -> None:
    def quotes_of(moods: dict[str, str]) -> list[object]:
        source = GeneratedMarket(CALENDAR, 1, {"X": STILL, "Y": STILL}, OPEN, PLAIN, moods)
        return [tick.quote for _ in range(500) for tick in source.take().ticks if tick.quote.symbol == "Y"]

    assert quotes_of({"X": "crash+wild"}) == quotes_of({})


def test_a_name_for_all_and_names_for_some() -> None:
    assert read_moods(["calm", "AAPL=crash+wild"]) == {"*": "calm", "AAPL": "crash+wild"}
    assert mood_of("calm+wild").bad_quotes == 0.05


@pytest.mark.parametrize("texts", [["sunny"], ["AAPL=calm+sunny"], ["=calm"], ["calm", "wild"], ["AAPL="]])
def test_unknown_and_doubled_names_are_refused(texts: list[str]) -> None:
    with pytest.raises(InvalidInput):
        read_moods(texts)


def test_a_mood_of_a_stock_that_is_not_generated_is_refused() -> None:
    with pytest.raises(InvalidInput, match="not among the generated stocks"):
        GeneratedMarket(CALENDAR, 1, {"X": STILL}, OPEN, PLAIN, {"Y": "calm"})
