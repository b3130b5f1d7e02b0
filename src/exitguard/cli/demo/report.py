"""The summary of a day: for people as tables, for scripts as one JSON object."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from exitguard.cli.demo.verify import AccountReport, Verdict
from exitguard.cli.output import program

if TYPE_CHECKING:
    from exitguard.cli.demo.play import Kept


@dataclass(frozen=True, slots=True)
class Summary:
    """Everything that the demo has to say at its end."""

    verdict: Verdict
    seed: int
    day: date
    market_minutes: int
    wall_seconds: float
    provoked: Sequence[str] = ()
    alarms: Sequence[str] = ()
    failure: str | None = None
    events: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing was missed, duplicated or left open."""
        return self.failure is None and self.verdict.ok

    def to_json(self) -> dict[str, Any]:
        """As plain values; the keys are a contract with scripts."""
        return {
            "ok": self.ok,
            "accounts": {name: report.to_json() for name, report in self.verdict.accounts.items()},
            "missed_exits": self.verdict.missed_exits,
            "duplicates": self.verdict.duplicates,
            "rows_left_open": self.verdict.rows_left_open,
            "mismatches": self.verdict.mismatches,
            "market_minutes": self.market_minutes,
            "wall_seconds": round(self.wall_seconds, 2),
            "seed": self.seed,
            "day": self.day.isoformat(),
            "problems": list(self.verdict.problems),
            "provoked": list(self.provoked),
            "alarms": list(self.alarms),
            "events": self.events,
            "failure": self.failure,
        }


def render(summary: Summary) -> RenderableType:
    """The summary as a person reads it."""
    parts: list[RenderableType] = [_accounts(summary), _reasons(summary)]
    if summary.provoked:
        told = Text("\n".join(summary.provoked), style="dim")
        parts.append(
            Panel(told, title="what was done behind the managers' backs", title_align="left", expand=False, style="dim")
        )
    parts.append(_verdict(summary))
    return Group(*parts)


def _accounts(summary: Summary) -> Table:
    title = f"One trading day, {summary.day:%A %d %B %Y}"
    told = "slippage: from the price that broke the rule to the fill; its seconds are market time, played fast"
    # Short words above, units there too: 80 columns hold all of it.
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False, padding=(0, 1, 0, 0))
    table.caption, table.caption_justify = told, "left"
    table.add_column("account", no_wrap=True)
    for name in ("opened", "closed", "left\nopen", "won", "realised\nP&L $", "slippage\n$", "mean\nbp", "median\ns"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, report in summary.verdict.accounts.items():
        table.add_row(name, *_account_cells(report))
    return table


def _account_cells(report: AccountReport) -> list[Text]:
    slip = report.slippage.to_json()
    share = f"{100 * report.wins // report.closed} %" if report.closed else "-"
    bps = str(slip["mean_bp"]) if slip["mean_bp"] is not None else "-"
    seconds = f"{slip['median_seconds']:.0f}" if slip["median_seconds"] is not None else "-"
    return [
        Text(str(report.opened)),
        Text(str(report.closed)),
        Text(str(report.left_open), style="bold red" if report.left_open else "green"),
        Text(share),
        money(report.realised_pnl, unit=""),
        money(report.slippage.dollars, unit=""),
        Text(bps),
        Text(seconds),
    ]


def money(value: Decimal | None, digits: str = "0.01", unit: str = " $") -> Text:
    """Dollars with a sign, green above zero and red below."""
    if value is None:
        return Text("-", style="dim")
    style = "green" if value > 0 else "red" if value < 0 else ""
    return Text(f"{value.quantize(Decimal(digits)):+,}{unit}", style=style)


def _reasons(summary: Summary) -> Table:
    names = list(summary.verdict.accounts)
    table = Table(box=box.SIMPLE_HEAD, title="Why positions were closed", title_justify="left")
    table.add_column("reason")
    for name in names:
        table.add_column(name, justify="right")
    reports = summary.verdict.accounts
    totals: dict[str, int] = {}
    for report in reports.values():
        for reason, number in report.exit_reasons.items():
            totals[reason] = totals.get(reason, 0) + number
    for reason in sorted(totals, key=lambda r: (-totals[r], r)):
        table.add_row(reason, *(str(reports[name].exit_reasons.get(reason, "")) for name in names))
    return table


def _verdict(summary: Summary) -> Panel:
    verdict = summary.verdict
    line = Text()
    counts = (
        ("missed exits", verdict.missed_exits),
        ("duplicates", verdict.duplicates),
        ("rows left open", verdict.rows_left_open),
        ("mismatches with the exchange", verdict.mismatches),
    )
    for index, (name, number) in enumerate(counts):
        line.append("   " if index else "")
        line.append(f"{name} ", style="dim")
        line.append(str(number), style="bold red" if number else "bold green")
    wrong = sum(report.slippage.wrong_prints for report in verdict.accounts.values())
    if wrong:
        line.append("   exits on a wrong print ", "dim").append(str(wrong), "bold yellow")
    line.append(
        f"\n{summary.market_minutes} market minutes in {summary.wall_seconds:.1f} s, seed {summary.seed}", "dim"
    )
    for problem in verdict.problems[:20]:
        line.append(f"\n{problem}", style="red")
    if summary.failure is not None:
        line.append(f"\n{summary.failure}", style="bold red")
    title = "checked against the exchange's own books: all closed" if summary.ok else "something is wrong"
    return Panel(line, title=title, title_align="left", expand=False, border_style="green" if summary.ok else "red")


def kept_lines(kept: "Kept") -> list[str]:
    """Where everything is after `--keep`, and how to end it."""
    lines = [
        f"exchange      {kept.addresses.rest}",
        f"settings      {kept.settings}",
        f"database      {program()} db url --config {kept.settings}",
        f"psql          {program()} db psql --config {kept.settings}",
    ]
    lines += [
        f"account       {name}: number {each.account_number}, key in {kept.settings.parent / f'{name}.key'}"
        for name, each in kept.addresses.accounts.items()
    ]
    return [*lines, f"logs          {kept.settings.parent}/*.log", f"stop it with  {program()} demo --stop"]


def ended_lines() -> list[str]:
    """What a person may do next when nothing was kept running."""
    looks = ("positions --closed", "events --type closed", "db psql", "demo --keep")
    return ["Look at its ledger, or leave the next day running:", *(f"  {program()} {look}" for look in looks)]
