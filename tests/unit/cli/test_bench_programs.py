"""The benchmarks that need programs: as small as they can be, on a real PostgreSQL. Only shapes are looked at."""

from pathlib import Path

import pytest
from tests.support.waiting import PATIENCE

from exitguard.cli.bench import breach
from exitguard.cli.bench.book import Sizes
from exitguard.cli.bench.command import Plan, run_all
from exitguard.cli.bench.house import HouseSizes
from exitguard.cli.bench.place import BenchFailed, open_place
from exitguard.cli.bench.restart import RestartSizes

TINY = Sizes(underlyings=2, positions=4, rounds=3, warmup=1)


def quiet(_text: str) -> None:
    """Nobody reads the progress of a test."""


def entries(folder: Path) -> list[str]:
    """What a folder holds."""
    return [entry.name for entry in folder.iterdir()]


@pytest.fixture(autouse=True)
def _own_state(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXITGUARD_STATE_DIR", str(state_dir))


async def test_every_breach_becomes_an_order_of_the_real_manager(state_dir: Path) -> None:
    async with open_place() as place:
        found = await breach.explain(place, TINY, quiet)
        assert all(len(times) == TINY.rounds for times in found.values()), found
        assert all(microseconds >= 0 for times in found.values() for microseconds in times)
    assert entries(state_dir) == [], "a benchmark left something behind"


async def test_marks_are_written_both_ways() -> None:
    row = (await run_all(("marks_10000",), Plan(marks=20, mark_rounds=1), quiet))["marks_10000"]
    assert row.error is None
    assert row.value is not None
    assert row.baseline is not None
    assert row.target == "ratio <= 3"


async def test_a_poll_is_measured_beyond_bare_requests() -> None:
    row = (await run_all(("reconciliation",), Plan(reconciled=20, reconciled_rounds=1), quiet))["reconciliation"]
    assert row.error is None
    assert row.value is not None
    assert row.baseline is not None
    assert row.target == "value < 1000"


async def test_f44_a_stand_by_watches_the_book_after_a_kill() -> None:
    house = HouseSizes(stocks=4, stocks_held=2, positions=6)
    plan = Plan(restart=RestartSizes(house, recoveries=1, crashes=1, hangs=0))
    row = (await run_all(("takeover_crash",), plan, quiet))["takeover_crash"]
    assert row.error is None
    assert row.value is not None
    assert row.target == "value < 1"


async def test_a_child_that_ends_is_named_with_its_last_words() -> None:
    async with open_place() as place:
        child = await place.start("venue", "exitguard.cli.bench.venue", "nonsense")
        with pytest.raises(BenchFailed, match=r"venue ended with exit code 1: .*JSONDecodeError"):
            await place.line(child, PATIENCE)
