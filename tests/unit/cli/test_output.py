"""What commands print: exact, bounded, and harmless whatever it holds."""

from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import orjson
import pytest
from rich.console import Console

from exitguard.cli.output import MAX_CELL_LENGTH, cell, emit_json, emit_table, plain_number


def test_f18_json_is_one_line_with_exact_numbers_and_utc_times(capsys: pytest.CaptureFixture[str]) -> None:
    from zoneinfo import ZoneInfo

    noon = datetime(2026, 1, 2, 12, tzinfo=ZoneInfo("America/New_York"))
    emit_json([{"a": Decimal("0.10"), "t": noon, "u": UUID(int=1), "n": None, "text": "x\ny"}])
    text = capsys.readouterr().out
    assert text.count("\n") == 1
    assert orjson.loads(text) == [
        {"a": "0.10", "t": "2026-01-02T17:00:00+00:00", "u": str(UUID(int=1)), "n": None, "text": "x\ny"}
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (Decimal("1E+3"), "1000"),
        (Decimal("12.5"), "12.50"),
        (Decimal("12.00"), "12"),
        (Decimal("0.0004"), "0.0004"),
        (Decimal("-3.10"), "-3.10"),
        (Decimal("NaN"), "NaN"),
        (datetime(2026, 1, 2, 20, 55, tzinfo=UTC), "2026-01-02 15:55:00"),
        ({"a": Decimal(1)}, '{"a":"1"}'),
        ("a\x1b[31m\nb", "a [31m b"),
    ],
)
def test_cells(value: object, text: str) -> None:
    assert cell(value) == text


def test_cells_are_bounded() -> None:
    assert len(cell("x" * 10_000)) == MAX_CELL_LENGTH


def test_text_from_outside_is_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    emit_table(("name", "n"), [("[bold]not bold[/bold]", Decimal(1)), ("[/]", None)], numeric=("n",))
    text = capsys.readouterr().out
    assert "[bold]not bold[/bold]" in text
    assert "[/]" in text


def test_numbers_lose_nothing() -> None:
    assert plain_number(Decimal("123456789012.123456")) == "123456789012.123456"


def test_a_narrow_terminal_leaves_out_spare_columns_and_folds_no_number(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = ("account", "symbol", "entry", "P&L $", "closed")
    row = ("large", "TSLA261125C00252500", "1205.80", "-11050.00", "2026-11-23 15:55:00")
    monkeypatch.setattr(
        "exitguard.cli.output.console", lambda: Console(width=48, force_terminal=True, color_system=None)
    )
    emit_table(columns, [row], numeric=("entry", "P&L $"), spare=("closed", "entry"))
    told = capsys.readouterr()
    assert all(text in told.out for text in ("large", "TSLA261125C00252500", "1205.80", "-11050.00"))
    assert "2026-11-23" not in told.out
    assert "left out on this narrow terminal: closed; --json has everything" in told.err


def test_a_pipe_gets_every_column(capsys: pytest.CaptureFixture[str]) -> None:
    emit_table(("a", "b"), [("x" * 150, "y" * 40)], spare=("b",))
    assert "y" * 40 in capsys.readouterr().out
