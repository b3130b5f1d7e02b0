"""The live view: market clock and progress, open positions with their protection, and what just happened."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

from rich import box
from rich.console import Group, JustifyMethod, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from exitguard.cli.demo.conductor import Snapshot
from exitguard.cli.demo.report import money
from exitguard.core.instrument import InvalidSymbol, parse_instrument
from exitguard.core.session import NEW_YORK, Session

ZERO = Decimal(0)
_EVENT_ROWS = 8
_PROTECTION = {
    "protected": ("● protected", "green"),
    "naked": ("▲ naked", "bold yellow"),
    "blind": ("◌ blind", "bold yellow"),
    "stuck": ("■ stuck", "bold red"),
    "unmanaged": ("✖ unmanaged", "bold red"),
}
_EVENT_STYLE = {
    "created": "cyan",
    "closed": "bold",
    "reduced": "bold",
    "exit_triggered": "yellow",
    "alarm_raised": "red",
    "bracket_failed": "red",
    "close_failed": "red",
    "bracket_restored": "green",
}


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    width: int
    needs: int = 0
    """Shown on terminals of at least so many columns: a number that is cut in the middle is worse than none."""
    right: bool = False


_COLUMNS = (
    _Column("acct", 5),
    _Column("contract", 18),
    _Column("side", 5),
    _Column("qty", 5, right=True),
    _Column("entry", 8, needs=96, right=True),
    _Column("mark", 7, right=True),
    _Column("P&L", 12, right=True),
    _Column("%", 6, needs=96, right=True),
    _Column("state", 11),
    _Column("due", 6),
    _Column("because of", 18, needs=114),
)


def render(snapshot: Snapshot, session: Session, rows: int = 40, columns: int = 120) -> RenderableType:
    """One frame that fits `rows` lines and `columns`; 24 by 80 is the smallest."""
    events = _EVENT_ROWS if rows >= 30 else _EVENT_ROWS - 3
    # Around the positions: header (4), the table's own lines (4), the frame of the events (2), a free line.
    room = max(5, rows - 11 - events - len(snapshot.trouble[-3:]))
    return Group(
        _header(snapshot, session),
        _positions(snapshot, session, room, columns),
        _events(snapshot, events, columns),
        *([_trouble(snapshot)] if snapshot.trouble else []),
    )


def _header(snapshot: Snapshot, session: Session) -> RenderableType:
    local = snapshot.now.astimezone(NEW_YORK)
    state = Text("open", style="bold green") if session.contains(snapshot.now) else Text("closed", style="bold red")
    grid = Table.grid(expand=True, padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(ratio=1)
    clock = Text(f"{local:%a %d %b}  ", style="dim") + Text(f"{local:%H:%M} New York  ", style="bold") + state
    bar = ProgressBar(total=snapshot.minutes, completed=min(snapshot.minute, snapshot.minutes), width=None)
    grid.add_row(clock, bar)
    totals = _totals(snapshot)
    totals.no_wrap, totals.overflow = True, "ellipsis"
    title = "[bold]exitguard[/]  every position gets out"
    return Panel(Group(grid, totals), title=title, title_align="left", box=box.ROUNDED)


def _totals(snapshot: Snapshot) -> Text:
    text = Text()
    accounts = sorted({*snapshot.opened, *(row["account_name"] for row in snapshot.positions)})
    for name in accounts:
        closed = [row for row in snapshot.history if row["account_name"] == name]
        total = sum((row["realised_pnl"] for row in closed), ZERO)
        text.append(f"{name} ", style="bold")
        text.append(f"{snapshot.opened.get(name, 0)} in, {len(closed)} out ", style="dim")
        text.append_text(money(total))
        text.append("   ")
    text.append("missed ", style="dim")
    text.append(str(snapshot.missed), style="bold red" if snapshot.missed else "bold green")
    return text


def _positions(snapshot: Snapshot, session: Session, room: int, columns: int) -> RenderableType:
    shown = [column for column in _COLUMNS if columns >= column.needs]
    table = Table(box=box.SIMPLE_HEAD, expand=True, padding=0)
    for column in shown:
        justify: JustifyMethod = "right" if column.right else "left"
        table.add_column(column.name, min_width=column.width, justify=justify, no_wrap=True)
    hidden = len(snapshot.positions) - room
    visible = snapshot.positions[: room - 1 if hidden > 0 else room]
    for row in visible:
        cells = _cells(row, session)
        table.add_row(*(cells[column.name] for column in shown))
    if hidden > 0:
        table.add_row("…", Text(f"{hidden + 1} more", style="dim"))
    for _ in range(room - len(visible) - (hidden > 0)):
        table.add_row("")
    return table


def _cells(row: Mapping[str, Any], session: Session) -> dict[str, Text]:
    percent = row["current_pnl_percent"]
    style = "" if percent is None else "green" if percent > 0 else "red" if percent < 0 else ""
    words, colour = _PROTECTION.get(row["protection"], (str(row["protection"]), ""))
    due, because = _deadline(row, session)
    if row["status"] == "closing":
        words, colour, due, because = "→ closing", "bold cyan", "now", str(row["close_reason"] or "?")
    return {
        "acct": Text(row["account_name"], style="dim"),
        "contract": Text(contract_name(str(row["symbol"]))),
        "side": Text(row["side"], style="magenta" if row["side"] == "short" else ""),
        "qty": Text(f"{row['quantity']:f}"),
        "entry": Text(f"{row['entry_price']:.2f}"),
        "mark": Text("-" if row["current_price"] is None else f"{row['current_price']:.2f}"),
        "P&L": money(row["current_pnl_dollars"]),
        "%": Text("-" if percent is None else f"{percent:+.1f}", style=style),
        "state": Text(words, style=colour),
        "due": Text(due, style="dim"),
        "because of": Text(because, style="dim"),
    }


def contract_name(symbol: str) -> str:
    """A contract as people say it: the ticker, and for options expiry, strike, and C or P."""
    try:
        option = parse_instrument(symbol)
    except InvalidSymbol:
        return symbol
    if option.expiry is None or option.strike is None:
        return symbol
    return f"{option.underlying} {option.expiry:%d%b} {option.strike.normalize():f} {option.type[0]}"


def _deadline(row: Mapping[str, Any], session: Session) -> tuple[str, str]:
    due, why = row["max_hold_deadline"], "max hold"
    if row["strategy_type"] == "day_trade" and session.close - timedelta(minutes=5) < due:
        due, why = session.close - timedelta(minutes=5), "day trade"
    local = due.astimezone(NEW_YORK)
    return (f"{local:%H:%M}" if local.date() == session.day else f"{local:%d %b}"), why


def _events(snapshot: Snapshot, rows: int, columns: int) -> RenderableType:
    names = {(row["account_name"], row["id"]): str(row["symbol"]) for row in snapshot.positions}
    names |= {(row["account_name"], row["position_id"]): str(row["symbol"]) for row in snapshot.history}
    table = Table.grid(padding=(0, 1), expand=True)
    for _ in range(4):
        table.add_column(no_wrap=True)
    # What is told last gives way on a narrow terminal, never the words before it.
    table.add_column(no_wrap=True, ratio=1)
    for row in snapshot.events[:rows]:
        local = row["at"].astimezone(NEW_YORK)
        kind, data = row["event_type"], row["event_data"]
        symbol = data.get("symbol") or names.get((row["account_name"], row["position_id"]), "")
        table.add_row(
            Text(f"{local:%H:%M:%S}" if columns >= 96 else f"{local:%H:%M}", style="dim"),
            Text(row["account_name"], style="dim"),
            Text(_KIND.get(kind, kind.replace("_", " ")), style=_EVENT_STYLE.get(kind, "")),
            Text(contract_name(str(symbol))),
            Text(_told(data), style="dim"),
        )
    return Panel(table, title="what happens", title_align="left", box=box.ROUNDED, height=rows + 2)


_KIND = {"protection_changed": "protection", "exit_triggered": "triggered", "bracket_restored": "restored"}
# In the order in which they matter: a narrow terminal cuts the last ones.
_TOLD = {
    "reason": "", "rule": "", "bracket": "bracket ", "protection": "", "before": "was ", "realised_pnl": "P&L ",
    "quantity": "", "entry_price": "at ", "price": "at ", "exit_price": "at ", "message": "",
}  # fmt: skip


def _told(data: Mapping[str, Any]) -> str:
    return "  ".join(f"{word}{short(data[name])}" for name, word in _TOLD.items() if data.get(name) not in (None, ""))


def short(value: object) -> str:
    """A value of an event in few characters."""
    text = str(value)
    try:
        number = Decimal(text)
    except ArithmeticError:
        return text
    return f"{number:.2f}" if number.is_finite() and "." in text else text


def _trouble(snapshot: Snapshot) -> RenderableType:
    return Text("\n".join(f"! {line}" for line in snapshot.trouble[-3:]), style="yellow")
