"""The live view: market clock and progress, open positions with their protection, and what just happened."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from rich import box
from rich.align import Align
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from exitguard.cli.demo.conductor import Snapshot
from exitguard.cli.demo.report import money
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


def render(snapshot: Snapshot, session: Session, rows: int = 40) -> RenderableType:
    """One frame that fits `rows` lines."""
    # Around the positions: header, the table's own lines, events, a free line.
    room = max(6, rows - 9 - _EVENT_ROWS - len(snapshot.trouble[-3:]))
    return Group(
        _header(snapshot, session),
        _positions(snapshot, session, room),
        _events(snapshot),
        *([_trouble(snapshot)] if snapshot.trouble else []),
    )


def _header(snapshot: Snapshot, session: Session) -> RenderableType:
    local = snapshot.now.astimezone(NEW_YORK)
    state = Text("open", style="bold green") if session.contains(snapshot.now) else Text("closed", style="bold red")
    grid = Table.grid(expand=True, padding=(0, 2))
    for _ in range(2):
        grid.add_column()
    grid.add_column(ratio=1)
    clock = Text(f"{local:%a %d %b}  ", style="dim") + Text(f"{local:%H:%M} New York  ", style="bold") + state
    bar = ProgressBar(total=snapshot.minutes, completed=min(snapshot.minute, snapshot.minutes), width=None)
    grid.add_row(clock, _totals(snapshot), bar)
    return Panel(grid, title="[bold]exitguard[/]  every position gets out", title_align="left", box=box.ROUNDED)


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


def _positions(snapshot: Snapshot, session: Session, room: int) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False, padding=(0, 1))
    table.add_column("account", style="dim", no_wrap=True)
    table.add_column("contract", no_wrap=True)
    table.add_column("side", no_wrap=True)
    for name in ("qty", "entry", "mark", "P&L", "%"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("next deadline", no_wrap=True)
    for row in snapshot.positions[:room]:
        table.add_row(*_cells(row, snapshot.now, session))
    hidden = len(snapshot.positions) - room
    if hidden > 0:
        table.add_row(Text(f"… {hidden} more", style="dim"), *[""] * 9)
    for _ in range(room - min(room, len(snapshot.positions)) - (1 if hidden > 0 else 0)):
        table.add_row(*[""] * 10)
    return table


def _cells(row: Mapping[str, Any], now: datetime, session: Session) -> list[Text]:
    percent = row["current_pnl_percent"]
    style = "" if percent is None else "green" if percent > 0 else "red" if percent < 0 else ""
    words, colour = _PROTECTION.get(row["protection"], (str(row["protection"]), ""))
    if row["status"] == "closing":
        words, colour = f"→ closing: {row['close_reason'] or '?'}", "bold cyan"
    kind = {"STOCK": "", "CALL": " call", "PUT": " put"}[row["instrument_type"]]
    return [
        Text(row["account_name"]),
        Text(contract_name(row)),
        Text(f"{row['side']}{kind}", style="magenta" if row["side"] == "short" else ""),
        Text(f"{row['quantity']:f}"),
        Text(f"{row['entry_price']:.2f}"),
        Text("-" if row["current_price"] is None else f"{row['current_price']:.2f}"),
        money(row["current_pnl_dollars"]),
        Text("-" if percent is None else f"{percent:+.1f}", style=style),
        Text(words, style=colour),
        Text(_deadline(row, now, session), style="dim"),
    ]


def contract_name(row: Mapping[str, Any]) -> str:
    """A contract as people say it: the ticker, and for options expiry and strike."""
    symbol = str(row["symbol"])
    if row["instrument_type"] == "STOCK":
        return symbol
    strike = Decimal(symbol[-8:]).scaleb(-3).normalize()
    expiry = row["expiration_date"]
    return f"{row['ticker']} {expiry:%d%b} {strike:f}"


def _deadline(row: Mapping[str, Any], now: datetime, session: Session) -> str:
    due, why = row["max_hold_deadline"], "max hold"
    if row["strategy_type"] == "day_trade" and session.close - timedelta(minutes=5) < due:
        due, why = session.close - timedelta(minutes=5), "day trade"
    left = int((due - now).total_seconds() // 60)
    local = due.astimezone(NEW_YORK)
    when = f"{local:%H:%M}" if local.date() == session.day else f"{local:%d %b}"
    return f"{when} {why}, {left // 60}:{left % 60:02d}" if left >= 0 else f"{when} {why}"


def _events(snapshot: Snapshot) -> RenderableType:
    names = {(row["account_name"], row["id"]): str(row["symbol"]) for row in snapshot.positions}
    names |= {(row["account_name"], row["position_id"]): str(row["symbol"]) for row in snapshot.history}
    table = Table.grid(padding=(0, 1))
    for _ in range(5):
        table.add_column(no_wrap=True)
    for row in snapshot.events[:_EVENT_ROWS]:
        local = row["at"].astimezone(NEW_YORK)
        kind, data = row["event_type"], row["event_data"]
        symbol = data.get("symbol") or names.get((row["account_name"], row["position_id"]), "")
        table.add_row(
            Text(f"{local:%H:%M:%S}", style="dim"),
            Text(row["account_name"], style="dim"),
            Text(kind.replace("_", " "), style=_EVENT_STYLE.get(kind, "")),
            Text(str(symbol)),
            Text(_told(data), style="dim"),
        )
    return Panel(Align.left(table), title="what happens", title_align="left", box=box.ROUNDED, height=_EVENT_ROWS + 2)


_TOLD = {
    "reason": "", "rule": "", "bracket": "bracket ", "before": "was ", "quantity": "", "entry_price": "at ",
    "price": "at ", "exit_price": "at ", "realised_pnl": "P&L ", "message": "",
}  # fmt: skip


def _told(data: Mapping[str, Any]) -> str:
    parts = [f"{word}{short(data[name])}" for name, word in _TOLD.items() if data.get(name) not in (None, "")]
    return "  ".join(parts)[:90]


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
