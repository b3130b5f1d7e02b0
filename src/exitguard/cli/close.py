"""`exitguard close`."""

import asyncio
import time
from typing import Annotated

from cyclopts import Parameter

from exitguard.cli.context import load, quiet_logs
from exitguard.cli.database import Row, ask, require_account
from exitguard.cli.exits import CommandFailed, Exit, one_line
from exitguard.cli.output import AccountName, ConfigFile, Json, emit, emit_json, remark
from exitguard.cli.requests import asker
from exitguard.core.records import CommandVerb
from exitguard.store.operator import Operator

_POLL_SECONDS = 0.2


def close(
    target: Annotated[str | None, Parameter(help="Contract symbol or position id.")] = None,
    /,
    *,
    all: Annotated[bool, Parameter(negative="", help="Close every open position.")] = False,
    account: AccountName = None,
    reason: Annotated[str | None, Parameter(help="Why; kept with the request.")] = None,
    wait: Annotated[bool, Parameter(negative="", help="Wait for the manager's answers.")] = False,
    timeout: Annotated[float, Parameter(help="With --wait: at most this many seconds.")] = 120.0,
    config: ConfigFile = None,
    json: Json = False,
) -> int:
    """Ask the running manager to close positions. Exit 1 when a close is refused, 75 when nobody is there to answer."""
    quiet_logs()
    if (target is None) == (not all):
        raise CommandFailed("say what to close: a contract symbol, a position id, or --all", Exit.USAGE)
    asked_by = one_line(f"{asker()}{f': {reason}' if reason else ''}")[:200]

    settings = load(config)

    async def request(operator: Operator) -> tuple[list[Row], list[str]]:
        await require_account(operator, settings, account)
        chosen = _choose(await operator.live_rows(account), target, account)
        asked = [
            await operator.insert_command(
                row["account_name"],
                CommandVerb.CLOSE,
                requested_by=asked_by,
                position_id=row["id"],
                symbol=row["symbol"],
            )
            for row in chosen
        ]
        absent = {row["account_name"] for row in chosen} - await operator.managed_accounts()
        return await _wait(operator, asked, timeout if wait else 0), sorted(absent)

    found, absent = ask(settings, request)
    return _report(found, absent, wait=wait, json=json)


def _choose(held: list[Row], target: str | None, account: str | None) -> list[Row]:
    if target is None:
        return held
    text = target.strip()
    chosen = [row for row in held if text.upper() == row["symbol"] or text == str(row["id"])]
    if not chosen:
        related = [row["symbol"] for row in held if row["ticker"] == text.upper()]
        hint = f"; contracts on it: {', '.join(related)}" if related else "; see: exitguard positions"
        raise CommandFailed(f"no open position {text!r}" + (f" in account {account}" if account else "") + hint)
    accounts = sorted({row["account_name"] for row in chosen})
    if len(accounts) > 1:
        raise CommandFailed(f"{text} is held in {', '.join(accounts)}; choose one with --account", Exit.USAGE)
    return chosen


async def _wait(operator: Operator, asked: list[int], timeout: float) -> list[Row]:
    deadline = time.monotonic() + timeout
    while True:
        found = await operator.answers(asked)
        if all(row["ok"] is not None for row in found) or time.monotonic() >= deadline:
            return found
        await asyncio.sleep(_POLL_SECONDS)


def _report(found: list[Row], absent: list[str], *, wait: bool, json: bool) -> int:
    if json:
        emit_json({"requests": found, "accounts_without_manager": absent})
    elif not found:
        remark("no open positions: nothing to close")
    else:
        for row in found:
            answer = "asked" if row["ok"] is None else ("done: " if row["ok"] else "refused: ") + str(row["result"])
            emit(f"{row['account_name']} #{row['position_id']} {row['symbol']}: {answer}")
    if absent:
        remark(f"exitguard: no manager runs for {', '.join(absent)}: the request waits for one (exitguard run)")
        return Exit.TEMPORARY
    if any(row["ok"] is False for row in found):
        return Exit.WRONG
    if wait and any(row["ok"] is None for row in found):
        remark("exitguard: no answer in time: the request still stands; see: exitguard positions")
        return Exit.TEMPORARY
    return Exit.OK
