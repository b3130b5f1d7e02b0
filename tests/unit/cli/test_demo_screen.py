"""What a person sees of the demo, on the smallest terminal as well as on a wide one."""

import io
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from rich.console import Console

from exitguard.cli.demo.conductor import Snapshot
from exitguard.cli.demo.report import Summary
from exitguard.cli.demo.report import render as render_summary
from exitguard.cli.demo.screen import contract_name, render
from exitguard.cli.demo.verify import AccountReport, Slippage, Verdict
from exitguard.core.session import Session

NOW = datetime(2026, 11, 23, 15, 0, tzinfo=UTC)
_HOURS = [datetime(2026, 11, 23, hour, minute, tzinfo=UTC) for hour, minute in ((14, 30), (21, 0), (9, 0))]
SESSION = Session(NOW.date(), _HOURS[0], _HOURS[1], _HOURS[2], datetime(2026, 11, 24, 1, tzinfo=UTC))


def position(number: int, symbol: str, **changed: Any) -> dict[str, Any]:
    return {
        "account_name": "large", "id": number, "symbol": symbol, "side": "short", "quantity": Decimal(240),
        "entry_price": Decimal("1205.80"), "current_price": Decimal("1206.16"), "protection": "protected",
        "current_pnl_dollars": Decimal("-11299.00"), "current_pnl_percent": Decimal("-45.1234"), "status": "open",
        "close_reason": None, "max_hold_deadline": datetime(2026, 11, 24, 18, 31, tzinfo=UTC), "strategy_type": "swing",
    } | changed  # fmt: skip


def snapshot(positions: int) -> Snapshot:
    rows = [position(n, "GOOGL261125C00127500") for n in range(positions)]
    told = {"reason": "catastrophic_stop", "quantity": "239", "exit_price": "127.96", "realised_pnl": "-1380.00"}
    event = {
        "account_name": "large", "position_id": 0, "at": NOW, "event_type": "protection_changed",
        "event_data": told | {"message": "no usable quote (stale); price rules cannot act, time rules go on"},
    }  # fmt: skip
    opened = {"large": 37, "tiny": 9}
    return Snapshot(NOW, 30, 390, rows, [event] * 8, opened, trouble=("10:50 tiny: the trade stream is cut",))


def drawn(what: Any, columns: int) -> list[str]:
    console = Console(file=io.StringIO(), width=columns, force_terminal=False, color_system=None)
    console.print(what)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize(
    ("columns", "rows"), [(80, 24), (80, 50), (96, 30), (100, 30), (114, 30), (120, 40), (200, 60)]
)
def test_no_number_of_the_live_table_is_cut_on_any_terminal(columns: int, rows: int) -> None:
    lines = drawn(render(snapshot(90), SESSION, rows, columns), columns)
    assert len(lines) <= rows
    first = next(line for line in lines if "GOOGL 25Nov 127.5 C" in line)
    for word in ("large", "short", "240", "1206.16", "-11,299.00 $", "protected", "24 Nov"):
        assert word in first
    assert any("more" in line for line in lines)
    assert any("large 37 in, 0 out" in line and "missed 0" in line for line in lines)
    assert any("catastrophic_stop" in line and "-1380.00" in line for line in lines)


def test_a_closing_position_says_why() -> None:
    closing = position(1, "AAPL", status="closing", close_reason="stop_loss")
    text = "\n".join(drawn(render(Snapshot(NOW, 30, 390, [closing]), SESSION, 40, 120), 120))
    assert "→ closing" in text
    assert "stop_loss" in text


@pytest.mark.parametrize("columns", [80, 120])
def test_no_number_of_the_summary_is_cut(columns: int) -> None:
    slip = Slippage(26, 3, Decimal("-12949.85"), [Decimal("-1216.87")], [20.0])
    report = AccountReport(opened=137, closed=137, realised_pnl=Decimal("-16188.69"), slippage=slip)
    verdict = Verdict(accounts={"large": report})
    lines = drawn(render_summary(Summary(verdict, 7, date(2026, 11, 23), 390, 64.6)), columns)
    assert any("137" in line and "-16,188.69" in line for line in lines)
    assert not any("…" in line for line in lines)


def test_contracts_are_named_as_people_say_them() -> None:
    assert contract_name("BRK.B") == "BRK.B"
    assert contract_name("SPY261125P00555000") == "SPY 25Nov 555 P"
    assert contract_name("") == ""
