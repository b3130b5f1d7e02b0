"""docs/benchmarks.md, made from figures and nothing else."""

import os
import platform
from pathlib import Path

from exitguard.cli.bench.result import Measurement
from exitguard.config.build import build_info

# What each figure is, for people.
MEANING = {
    "breach_to_order_p50": (
        "From the quote frame that breaches a stop to the order received at the venue, half of all breaches. The"
        " venue is a measuring server in a process of its own on loopback, which stamps both moments. The product is"
        " `exitguard run` as operators start it, with 1,000 open positions on 200 underlyings (200 stocks with resting"
        " brackets, 800 options), 4,000 quiet quotes a second and the embedded PostgreSQL with fsync on: the intent is"
        " committed before the order leaves. Options are breached. Baseline: a bare loop from socket to POST, with the"
        " same libraries and frames; its rounds and the product's take turns. Why the durable intent is paid for:"
        " `docs/decisions/0008-durable-and-fenced-before-the-send.md`."
    ),
    "breach_to_order_p99": "The same, 99 of 100 breaches.",
    "marks_10000": (
        "Writing the marks of 10,000 positions as a sweep does: one statement of the account's own role, under"
        " row-level security and fenced by the lease. Baseline: a bare `UPDATE ... FROM unnest` of the same rows and"
        " columns by the tables' owner."
    ),
    "demo_day": "`exitguard demo --headless --json` from start to end.",
    "idle_memory": (
        "Resident memory of `exitguard run` with one account that holds nothing, against the paper exchange."
        " Baseline: a Python interpreter that imports nothing."
    ),
    "quiet_quotes": (
        "Quotes a second through the watcher with 10,000 option positions armed, all within their quiet bands, one"
        " processor. Baseline: a dictionary look-up and two comparisons in the same loop."
    ),
    "evaluate": (
        "Full evaluations a second of an option position by the default policy, one processor. Baseline: only its P&L"
        " in percent and one comparison, in decimals."
    ),
    "simulation_speed": (
        "Simulated seconds a wall second of `exitguard sim` on one processor: seeds with one account and every fault."
        " Baseline: the same seeds without any fault."
    ),
    "reconciliation": (
        "One poll of an account with 10,000 positions (200 stocks with brackets, 9,800 options): asked, decoded,"
        " folded, compared, from the real client to the real ledger; what it takes beyond bare GETs of the same lists,"
        " which are the baseline and take turns with it."
    ),
    "recovery": (
        "`exitguard run` with 1,000 positions (200 stocks with brackets, 800 options) at the paper exchange is killed"
        " with SIGKILL and started again. The time from the kill until an option that fell through its stop meanwhile"
        " has its closing order at the exchange, and a sweep of all positions is in the ledger. Baseline: an"
        " interpreter that imports the program and ends."
    ),
    "takeover_crash": (
        "The same book with a second process that stands by (`exitguard run --standby`): from SIGKILL of the first"
        " until the second has the lease."
    ),
    "takeover_watching": (
        "The same, until the second has sent the closing order of an option that fell meanwhile, and written a sweep."
    ),
    "takeover_hang": (
        "The first process hangs (SIGSTOP): until the second has the lease, the longest. Baseline: the lease's time to"
        " live, 15 s by default."
    ),
    "exchange_orders": (
        "Market orders a second that `exitguard paper` takes and answers over loopback HTTP, 50 accounts with one order"
        " at a time each; every one of them is also filled. Baseline: the same server stack in front of a handler that"
        " answers as many bytes and does nothing."
    ),
    "exchange_fanout": (
        "Quotes a second of 500 stocks of which each of 20 sockets (msgpack, all quotes) receives every one, market"
        " model included."
    ),
    "exchange_day": (
        "A day of minute bars of 500 stocks at full speed, with 5,000 option contracts quoted anew at each of a bar's"
        " four prices: 7.8 million option quotes."
    ),
    "exchange_memory": (
        "Resident memory of an exchange that has played 50 days with trading on each, the last fifth of the days."
        " Baseline: the second fifth, when the histories that the market keeps are full."
    ),
}


def machine() -> str:
    """What the figures were measured on."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    system = f"{platform.system()}, Python {platform.python_version()}"
    # The minutes of the measurement itself; what exceeds one or two is somebody else's work.
    return f"{os.cpu_count()} processors ({model}), {system}, load average {os.getloadavg()[1]:.1f}"


def page(rows: dict[str, Measurement]) -> str:
    """The page as Markdown."""
    build = build_info()
    table = [
        "| figure | value | baseline | ratio | target | holds |",
        "|---|---|---|---|---|---|",
        *(
            f"| {name} | {_figure(row.value, row.unit)} | {_figure(row.baseline, row.unit)} | {_figure(row.ratio)}"
            f" | {row.target or '-'} | {verdict(row)} |"
            for name, row in rows.items()
        ),
    ]
    errors = [f"- {name} was not measured: {row.error}" for name, row in rows.items() if row.error]
    meanings = [f"- **{name}**: {MEANING[name]}" for name in rows]
    parts = [
        "# Benchmarks",
        "<!-- Made by: exitguard bench --markdown > docs/benchmarks.md. Do not edit. -->",
        "Each figure stands next to a baseline that was measured in the same run, turn by turn, so that the ratio means"
        " something where the value does not. Targets are promises of the ratio, or of the value where there is no"
        " baseline; they are not asserted in tests, because a busy machine proves nothing.",
        f"Measured on {machine()}, with exitguard {build.label}.",
        "\n".join(table),
        *(["\n".join(errors)] if errors else []),
        "## What is measured",
        "\n".join(meanings),
        "`exitguard bench --verbose` adds where the time of a breach goes, stage by stage, from a run with probes.",
    ]
    return "\n\n".join(parts) + "\n"


def _figure(value: float | None, unit: str = "") -> str:
    if value is None:
        return "-"
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"
    return f"{text} {unit}".rstrip()


def verdict(row: Measurement) -> str:
    """Whether the target holds, in a word."""
    return "-" if row.holds is None else "yes" if row.holds else "**no**"
