"""`exitguard positions` and `exitguard events`."""

import asyncio
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any

from cyclopts import Parameter

from exitguard.cli.context import load, quiet_logs
from exitguard.cli.database import Row, ask, require_account, whose_ledger
from exitguard.cli.output import AccountName, ConfigFile, Json, cell, emit, emit_json, emit_table, remark
from exitguard.store.operator import Operator

MAX_EVENTS = 10_000
_FOLLOW_SECONDS = 1.0


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
    settings = load(config)

    async def listed(operator: Operator) -> list[Row]:
        await require_account(operator, settings, account)
        return await (operator.closed_positions(account, max(limit, 0)) if closed else operator.positions(account))

    found = ask(settings, listed)
    if json:
        emit_json(found)
    elif not found:
        remark(("no closed positions" if closed else "no open positions") + whose_ledger(settings))
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
                _cents(row["current_pnl_dollars"]),
                _cents(row["current_pnl_percent"]),
                row["protection"] if row["status"] == "open" else f"closing: {row['close_reason']}",
                f"{row['hold_minutes']:.0f} min" if row["hold_minutes"] is not None else None,
                row["max_hold_deadline"],
            )
            for row in found
        ),
        numeric=("id", "qty", "entry", "mark", "P&L $", "P&L %", "held"),
        spare=("held", "id", "P&L %", "entry", "deadline"),
    )
    remark("times are New York's")


def _cents(value: Decimal | None) -> str | None:
    return None if value is None else f"{value:.2f}"


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
                _cents(row["final_pnl_dollars"]),
                _cents(row["final_pnl_percent"]),
                row["close_reason"],
                row["closed_at"],
            )
            for row in found
        ),
        numeric=("id", "qty", "entry", "exit", "P&L $", "P&L %"),
        spare=("outcome", "id", "P&L %", "closed", "entry"),
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
    types = None if type is None else [type]
    settings = load(config)

    async def look(operator: Operator) -> None:
        await require_account(operator, settings, account)
        newest, most = 0, min(max(limit, 0), MAX_EVENTS)
        while True:
            found = await operator.events(account, position=position, types=types, after=newest, limit=most)
            found.reverse()
            if json and not follow:
                emit_json(found)
            elif json:
                for row in found:
                    emit_json(row)
            else:
                _print_events(found)
            if not follow:
                if not found and not json:
                    remark("no such events" + whose_ledger(settings))
                return
            newest, most = max(newest, *(row["id"] for row in found)) if found else newest, MAX_EVENTS
            await asyncio.sleep(_FOLLOW_SECONDS)

    ask(settings, look)


def _print_events(found: list[Row]) -> None:
    for row in found:
        where = "-" if row["position_id"] is None else f"#{row['position_id']}"
        emit(f"{cell(row['at'])} {row['account_name']:8} {row['event_type']:18} {where:5} {_told(row['event_data'])}")


def _told(data: Mapping[str, Any]) -> str:
    """What an event says, without what it says by leaving out; --json has all of it."""
    return "  ".join(
        f"{name}={cell(value)}"
        for name, value in data.items()
        if name != "account_name" and value not in (None, False, "", [], {})
    )
