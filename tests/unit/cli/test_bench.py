"""`exitguard bench`: the shape of its answer. No speed is asserted anywhere: a busy machine proves nothing."""

from typing import Any

import orjson
import pytest

from exitguard.cli import bench as command_line
from exitguard.cli.bench import command, compute, page, probed
from exitguard.cli.bench.book import Sizes, ledger_operations, make_book, opening_time, trading_day
from exitguard.cli.bench.command import NAMES, Plan, run_all
from exitguard.cli.bench.place import BenchFailed
from exitguard.cli.bench.result import Measurement, Target, failed, measured, quantile
from exitguard.cli.exits import CommandFailed, Exit
from exitguard.core.instrument import parse_instrument
from exitguard.core.records import PutFill, PutPosition

SHAPE = ["value", "unit", "baseline", "ratio", "target", "holds"]
TINY = Plan(quiet_positions=20, quiet_quotes=200, evaluations=20, compute_rounds=1)


def quiet(_text: str) -> None:
    """Nobody reads the progress of a test."""


@pytest.mark.parametrize(
    ("value", "baseline", "target", "ratio", "words", "holds"),
    [
        (2.0, 1.0, Target(2.0, of_ratio=True), 2.0, "ratio <= 2", True),
        (2.01, 1.0, Target(2.0, of_ratio=True), 2.01, "ratio <= 2", False),
        (2.0, None, Target(2.0, of_ratio=True), None, "ratio <= 2", False),
        (2.0, 0.0, Target(2.0, of_ratio=True), None, "ratio <= 2", False),
        (59.9, None, Target(60), None, "value < 60", True),
        (60.0, None, Target(60), None, "value < 60", False),
        (60.0, 30.0, None, 2.0, None, None),
    ],
)
def test_a_figure_says_whether_its_target_holds(
    value: float,
    baseline: float | None,
    target: Target | None,
    ratio: float | None,
    words: str | None,
    holds: bool | None,
) -> None:
    row = measured(value, "ms", baseline=baseline, target=target)
    assert list(row.as_json()) == SHAPE
    assert (row.ratio, row.target, row.holds) == (ratio, words, holds)


def test_what_could_not_be_measured_holds_nothing_and_says_why() -> None:
    row = failed("the manager did not start", Target(2.0, of_ratio=True))
    assert row.as_json() == {
        "value": None,
        "unit": "",
        "baseline": None,
        "ratio": None,
        "target": "ratio <= 2",
        "holds": False,
        "error": "the manager did not start",
    }


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1), (0.5, 50), (0.99, 99), (0.991, 100), (1.0, 100)])
def test_a_quantile_is_a_value_that_was_seen(share: float, expected: int) -> None:
    assert quantile(list(range(100, 0, -1)), share) == expected


def test_a_quantile_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing"):
        quantile([], 0.5)


def test_the_book_has_the_promised_size_on_the_promised_symbols() -> None:
    sizes = Sizes(underlyings=20, positions=100, rounds=7, warmup=3)
    book = make_book(sizes, trading_day().day)
    instruments = [parse_instrument(held.symbol) for held in book]
    assert len({each.symbol for each in instruments}) == len(book) == 100 + 7 + 3
    assert len({each.underlying for each in instruments}) == 20
    assert sum(not each.is_option for each in instruments) == 20
    assert trading_day().contains(opening_time(trading_day()))


def test_a_position_of_the_book_is_what_its_fill_says() -> None:
    session = trading_day()
    held = make_book(Sizes(1, 2, 1, 0), session.day)[-1]
    put, fill = ledger_operations("bench", held, 2, opening_time(session))
    assert isinstance(put, PutPosition)
    assert isinstance(fill, PutFill)
    assert (put.row.symbol, put.row.quantity, put.row.entry_price) == (held.symbol, fill.fill.qty, fill.fill.price)
    assert put.row.entry_time == fill.fill.at < opening_time(session)


@pytest.mark.parametrize("wrong", [(0, 1, 1, 0), (2, 1, 1, 0), (1, 1, 0, 0), (1, 1, 1, -1)])
def test_impossible_sizes_are_refused(wrong: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="impossible sizes"):
        Sizes(*wrong)


def test_stages_add_up_to_the_whole_round() -> None:
    names = [moment for _, moment in probed.STAGES]
    moments = [
        ("frame read", 500),  # a quiet frame before the breach
        *((name, 2_000 + 1_000 * index) for index, name in enumerate(names)),
        ("commit asked", 9_500),  # what the manager does afterwards
        ("frame read", 21_000),
    ]
    found = probed.stages(moments, [(1_000, 9_000), (20_000, 30_000)])
    # The second round has no commit of its own: nothing is made up for it.
    assert [len(times) for times in found.values()] == [1] * (len(names) + 1)
    assert sum(times[0] for times in found.values()) == 8.0


async def test_the_processor_benchmarks_answer_in_shape() -> None:
    rows = await run_all(("evaluate", "quiet_quotes"), TINY, quiet)
    assert list(rows) == ["quiet_quotes", "evaluate"]
    for row in rows.values():
        assert row.value is not None
        assert row.value > 0
        assert row.baseline is not None
        assert row.target is None
        assert row.holds is None


async def test_simulated_time_is_told_next_to_that_of_seeds_without_faults() -> None:
    row = (await run_all(("simulation_speed",), Plan(simulated_seeds=1), quiet))["simulation_speed"]
    assert row.value is not None
    assert row.baseline is not None
    assert row.target == "value >= 1000"


def test_every_quote_of_the_quiet_benchmark_is_quiet() -> None:
    account = compute.BookedAccount(5)
    account.arm()
    checked = [tracked.record.last_checked_at for tracked in account.positions]
    for frame in compute._frames(account, 100):
        account.watcher.on_ticks(frame)
    assert [tracked.record.last_checked_at for tracked in account.positions] == checked
    prices = {tracked.record.current_price for tracked in account.positions}
    assert len(prices) == 1, "a quiet quote was looked at"


def answer(monkeypatch: pytest.MonkeyPatch, rows: dict[str, Measurement]) -> None:
    async def run(*_arguments: Any, **_options: Any) -> dict[str, Measurement]:
        return rows

    monkeypatch.setattr(command, "run_all", run)


def all_rows() -> dict[str, Measurement]:
    return {name: measured(1234.5, "ms", baseline=1000.0, target=Target(2.0, of_ratio=True)) for name in NAMES}


def test_json_is_one_object_by_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    answer(monkeypatch, all_rows())
    assert command_line.bench(json=True) == Exit.OK
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    found = orjson.loads(printed)
    assert list(found) == list(NAMES)
    assert all(list(row) == SHAPE for row in found.values())


def test_a_failure_is_a_row_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(monkeypatch, all_rows() | {"demo_day": failed("the demo ended with exit code 1", Target(60))})
    assert command_line.bench() == Exit.WRONG
    table = capsys.readouterr().out
    assert "failed" in table
    assert "breach_to_order_p50" in table


async def test_one_failure_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: Any) -> dict[str, Measurement]:
        raise BenchFailed("no luck")

    monkeypatch.setattr(compute, "quiet_quotes", broken)
    rows = await run_all(("quiet_quotes", "evaluate"), TINY, quiet)
    assert rows["quiet_quotes"].error == "no luck"
    assert rows["evaluate"].value is not None


def test_an_unknown_name_is_wrong_usage() -> None:
    with pytest.raises(CommandFailed, match="demo_day") as caught:
        command_line.bench("demo_dya")
    assert caught.value.code is Exit.USAGE


def test_the_page_shows_and_explains_every_figure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = all_rows() | {"demo_day": failed("no demo", Target(60))}
    answer(monkeypatch, rows)
    command_line.bench(markdown=True)
    text = capsys.readouterr().out
    for name in NAMES:
        assert f"| {name} |" in text
        assert f"- **{name}**: " in text
    assert "| 1,234 ms |" in text
    assert "- demo_day was not measured: no demo" in text
    assert page.verdict(rows["demo_day"]) == "**no**"
