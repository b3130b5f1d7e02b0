"""`exitguard health`."""

from typing import Any

from exitguard.cli.context import load, quiet_logs
from exitguard.cli.database import Connection, Row, rows, session
from exitguard.cli.exits import Exit
from exitguard.cli.output import AccountName, ConfigFile, Json, emit, emit_json, emit_table
from exitguard.config.settings import Settings

# A manager beats with every sweep, once a minute; two missed beats and some slack are silence.
SILENCE_SECONDS = 150
MANAGER = "manager"

_BEATS = """
SELECT h.account_name, h.component, h.build, h.policy_hash, h.config_hash, h.broker_account_number, h.venue_time,
    h.open_positions, h.closing_positions, h.beaten_at, l.holder,
    extract(epoch FROM clock_timestamp() - h.beaten_at)::float8 AS age_seconds,
    l.released_at IS NOT NULL AS stopped,
    coalesce(l.expires_at > clock_timestamp() AND l.released_at IS NULL, false) AS leased
FROM heartbeats h LEFT JOIN leases l USING (account_name, component) ORDER BY h.account_name, h.component
"""
_LIVE = """
SELECT EXISTS (SELECT FROM leases WHERE account_name = %s AND component = 'manager' AND released_at IS NULL
    AND expires_at > clock_timestamp()) AS live
"""
_HELD = """
SELECT account_name, count(*) AS positions FROM active_positions WHERE status IN ('open', 'closing')
GROUP BY account_name
"""
_ALARMS = """
SELECT account_name, kind, message, position_id, raised_at, times FROM alarms WHERE cleared_at IS NULL
ORDER BY account_name, raised_at
"""


def has_live_manager(connection: Connection, account: str) -> bool:
    """Whether a manager holds the account's lease now."""
    return bool(rows(connection, _LIVE, (account,))[0]["live"])


def health(*, account: AccountName = None, config: ConfigFile = None, json: Json = False) -> int:
    """Tell whether every account is watched and nothing is stale or alarmed; exit 1 if not."""
    quiet_logs()
    settings = load(config)
    with session(settings) as connection:
        body = _examine(connection, settings, account)
    if json:
        emit_json(body)
    else:
        _print(body)
    return Exit.OK if body["healthy"] else Exit.WRONG


def _examine(connection: Connection, settings: Settings, only: str | None) -> dict[str, Any]:
    def ours(row: Row) -> bool:
        return only is None or row["account_name"] == only

    beats = [row for row in rows(connection, _BEATS) if ours(row)]
    held = {row["account_name"]: row["positions"] for row in rows(connection, _HELD) if ours(row)}
    alarms = [row for row in rows(connection, _ALARMS) if ours(row)]
    (summary,) = rows(connection, "SELECT * FROM v_position_health_check")
    for row in beats:
        row["state"] = _state(row)
    problems = [*_silence(beats, held), *(f"{a['account_name']}: alarm {a['kind']}: {a['message']}" for a in alarms)]
    if only is None:
        if summary["stale_positions"]:
            problems.append(f"{summary['stale_positions']} positions were not checked for 5 minutes")
        known = {row["account_name"] for row in beats}
        problems += [f"{name}: no manager has ever run" for name in settings.selected if name not in known]
    return {
        "healthy": not problems,
        "problems": problems,
        "components": beats,
        "alarms": alarms,
        "positions": summary,
    }


def _state(row: Row) -> str:
    if row["stopped"]:
        return "stopped"
    return "fresh" if row["leased"] and row["age_seconds"] <= SILENCE_SECONDS else "silent"


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
    )
    emit("  ".join(f"{name.replace('_', ' ')} {count}" for name, count in body["positions"].items()))
