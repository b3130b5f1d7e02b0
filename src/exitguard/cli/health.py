"""`exitguard health`."""

from typing import Any

from exitguard.cli.context import load, quiet_logs
from exitguard.cli.database import Row, ask, require_account, whose_ledger
from exitguard.cli.exits import Exit
from exitguard.cli.output import AccountName, ConfigFile, Json, emit, emit_json, emit_table
from exitguard.config.settings import Settings
from exitguard.store.operator import Operator

MANAGER = "manager"


def health(*, account: AccountName = None, config: ConfigFile = None, json: Json = False) -> int:
    """Tell whether every account is watched and nothing is stale or alarmed; exit 1 if not."""
    quiet_logs()
    settings = load(config)
    body = ask(settings, lambda operator: _examine(operator, settings, account))
    if json:
        emit_json(body)
    else:
        _print(body)
    return Exit.OK if body["healthy"] else Exit.WRONG


async def _examine(operator: Operator, settings: Settings, only: str | None) -> dict[str, Any]:
    await require_account(operator, settings, only)

    def ours(row: Row) -> bool:
        return only is None or row["account_name"] == only

    beats = [row for row in await operator.heartbeats() if ours(row)]
    counts = await operator.live_counts()
    held = {name: count for name, count in counts.items() if only is None or name == only}
    alarms = [row for row in await operator.alarms() if ours(row)]
    summary = await operator.health()
    for row in beats:
        row["state"] = _state(row, settings.watch.ledger_silence_seconds)
        del row["details"]  # what a component keeps for itself
    problems = [*_silence(beats, held), *(f"{a['account_name']}: alarm {a['kind']}: {a['message']}" for a in alarms)]
    if only is None and summary["stale_positions"]:
        problems.append(f"{summary['stale_positions']} positions were not checked for 5 minutes")
    known = {row["account_name"] for row in beats}
    problems += [
        f"{name}: no manager has ever run" for name in settings.selected if name not in known and only in (None, name)
    ]
    if not known and not settings.selected:
        problems.append(f"no account is known, so nothing is watched{whose_ledger(settings)}")
    return {
        "healthy": not problems,
        "problems": problems,
        "components": beats,
        "alarms": alarms,
        "positions": summary,
    }


def _state(row: Row, silence_seconds: float) -> str:
    if row["stopped"]:
        return "stopped"
    return "fresh" if row["leased"] and row["age_seconds"] <= silence_seconds else "silent"


def _silence(beats: list[Row], held: dict[str, int]) -> list[str]:
    """An orderly stop is a person's decision, unless it leaves positions behind; silence never is."""
    problems = []
    managers = {row["account_name"]: row for row in beats if row["component"] == MANAGER}
    for row in beats:
        if row["state"] == "silent":
            problems.append(f"{row['account_name']}: the {row['component']} is silent for {row['age_seconds']:.0f} s")
    for name, count in held.items():
        manager = managers.get(name)
        if manager is None or manager["state"] == "stopped":
            problems.append(f"{name}: {count} open positions and no manager")
    return problems


def _print(body: dict[str, Any]) -> None:
    emit("healthy" if body["healthy"] else "NOT healthy")
    for problem in body["problems"]:
        emit(f"  - {problem}")
    columns = (
        "account",
        "component",
        "state",
        "beat",
        "venue time",
        "open",
        "closing",
        "build",
        "policy",
        "broker account",
    )
    emit_table(
        columns,
        (
            (
                row["account_name"],
                row["component"],
                row["state"],
                f"{row['age_seconds']:.0f} s ago",
                row["venue_time"],
                row["open_positions"],
                row["closing_positions"],
                row["build"],
                row["policy_hash"],
                row["broker_account_number"],
            )
            for row in body["components"]
        ),
        numeric=("open", "closing"),
        spare=("policy", "build", "broker account", "venue time"),
    )
    emit(", ".join(f"{count} {name.replace('_', ' ')}" for name, count in body["positions"].items()))
