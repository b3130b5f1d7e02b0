"""`exitguard positions` and `exitguard events`."""

import time
from typing import Annotated

from cyclopts import Parameter

from exitguard.cli.context import load, quiet_logs
from exitguard.cli.database import Connection, Row, rows, session
from exitguard.cli.output import AccountName, ConfigFile, Json, cell, emit, emit_json, emit_table, remark

MAX_EVENTS = 10_000
_FOLLOW_SECONDS = 1.0

_POSITIONS = """
SELECT * FROM v_open_positions_summary WHERE %s::text IS NULL OR account_name = %s ORDER BY account_name, entry_time
"""
_CLOSED = """
SELECT * FROM v_position_performance WHERE %s::text IS NULL OR account_name = %s ORDER BY closed_at DESC LIMIT %s
"""
_EVENTS = """
SELECT account_name, seq, id, at, created_at, event_type, position_id, event_data FROM position_events
WHERE (%s::text IS NULL OR account_name = %s) AND (%s::bigint IS NULL OR position_id = %s)
    AND (%s::text IS NULL OR event_type = %s) AND id > %s
ORDER BY id DESC LIMIT %s
"""


def positions(
    *,
    account: AccountName = None,
    closed: Annotated[
        bool, Parameter(negative="", help="The latest closed positions instead of the open ones.")
    ] = False,
    limit: Annotated[int, Parameter(help="At most this many closed positions.")] = 50,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """List open positions with marks, protection and deadlines, or with --closed what became of the latest ones."""
    quiet_logs()
    with session(load(config)) as connection:
        found = (
            rows(connection, _CLOSED, (account, account, max(limit, 0)))
            if closed
            else rows(connection, _POSITIONS, (account, account))
        )
    if json:
        emit_json(found)
    elif not found:
        remark("no closed positions" if closed else "no open positions")
    elif closed:
        _closed_table(found)
    else:
        _open_table(found)


def _open_table(found: list[Row]) -> None:
    columns = ("account", "id", "symbol", "side", "qty", "entry", "mark", "P&L $", "P&L %", "state", "held", "deadline")
    emit_table(
        columns,
        (
            (
                row["account_name"],
                row["id"],
                row["symbol"],
                row["side"],
                row["quantity"],
                row["entry_price"],
                row["current_price"],
                row["current_pnl_dollars"],
                row["current_pnl_percent"],
                row["protection"] if row["status"] == "open" else f"closing: {row['close_reason']}",
                f"{row['hold_minutes']:.0f} min" if row["hold_minutes"] is not None else None,
                row["max_hold_deadline"],
            )
            for row in found
        ),
        numeric=("id", "qty", "entry", "mark", "P&L $", "P&L %", "held"),
    )
    remark("times are New York's")


def _closed_table(found: list[Row]) -> None:
    columns = (
        "account",
        "id",
        "symbol",
        "side",
        "qty",
        "entry",
        "exit",
        "outcome",
        "P&L $",
        "P&L %",
        "reason",
        "closed",
    )
    emit_table(
        columns,
        (
            (
                row["account_name"],
                row["position_id"],
                row["symbol"],
                row["side"],
                row["quantity"],
                row["entry_price"],
                row["exit_price"],
                row["outcome"],
                row["final_pnl_dollars"],
                row["final_pnl_percent"],
                row["close_reason"],
                row["closed_at"],
            )
            for row in found
        ),
        numeric=("id", "qty", "entry", "exit", "P&L $", "P&L %"),
    )
    remark("times are New York's")


def events(
    *,
    account: AccountName = None,
    position: Annotated[int | None, Parameter(help="Only this position's events.")] = None,
    type: Annotated[str | None, Parameter(help="Only events of this type, such as exit_triggered.")] = None,
    limit: Annotated[int, Parameter(help="At most this many, the newest.")] = 50,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative="", help="Go on with new ones.")] = False,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """List what happened, newest last. With --json one array; with --follow --json one object a line."""
    quiet_logs()
    with session(load(config)) as connection:
        chosen = (account, position, type)
        found = _fetch_events(connection, chosen, 0, min(max(limit, 0), MAX_EVENTS))
        if not follow:
            if json:
                emit_json(found)
            else:
                _print_events(found)
            return
        newest = 0
        while True:
            for row in found:
                newest = max(newest, row["id"])
                if json:
                    emit_json(row)
            if not json:
                _print_events(found)
            time.sleep(_FOLLOW_SECONDS)
            found = _fetch_events(connection, chosen, newest, MAX_EVENTS)


def _fetch_events(
    connection: Connection, chosen: tuple[str | None, int | None, str | None], after: int, limit: int
) -> list[Row]:
    account, position, kind = chosen
    parameters = (account, account, position, position, kind, kind, after, limit)
    return rows(connection, _EVENTS, parameters)[::-1]


def _print_events(found: list[Row]) -> None:
    for row in found:
        data = {name: value for name, value in row["event_data"].items() if name != "account_name"}
        where = "" if row["position_id"] is None else f" #{row['position_id']}"
        emit(f"{cell(row['at'])} {row['account_name']:8} {row['event_type']:18}{where} {cell(data)}")
