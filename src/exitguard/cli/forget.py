"""`exitguard forget`."""

import asyncio
from decimal import Decimal, InvalidOperation
from typing import Annotated

from cyclopts import Parameter

from exitguard.cli.confirm import confirm
from exitguard.cli.context import load, quiet_logs
from exitguard.cli.database import Row
from exitguard.cli.exits import CommandFailed, Exit
from exitguard.cli.output import AccountName, ConfigFile, Json, emit, emit_json
from exitguard.cli.requests import Asked, Requests
from exitguard.config.settings import Settings
from exitguard.core.records import CommandVerb


def forget(
    position: Annotated[int, Parameter(help="Position id; see: exitguard positions.")],
    /,
    *,
    evidence: Annotated[str, Parameter(help="How you know that it is gone; kept with the event.")],
    price: Annotated[str | None, Parameter(help="Dollars a share at which it ended, when that is known.")] = None,
    account: AccountName = None,
    yes: Annotated[bool, Parameter(negative="", help="Do not ask again.")] = False,
    timeout: Annotated[float, Parameter(help="Wait at most this many seconds for the answer.")] = 60.0,
    config: ConfigFile = None,
    json: Json = False,
) -> int:
    """Close a position in our books that the broker proves not to hold, with written evidence. Deletes nothing.

    Refused (exit 1) while the broker holds anything of it, or orders rest on it. Without --price it is booked at its
    entry price: no result is invented. Exit 75 without an answer.
    """
    quiet_logs()
    settings = load(config)
    if len(evidence.strip()) < 10:
        raise CommandFailed(
            "--evidence must say how you know that the position is gone (10 characters or more)", Exit.USAGE
        )
    asked, row = asyncio.run(_ask(settings, position, account, _arguments(evidence, price), yes, timeout))
    if json:
        emit_json({"account": row["account_name"], "position_id": position, "symbol": row["symbol"], **asked.body()})
    else:
        emit(asked.line())
    return asked.exit()


def _arguments(evidence: str, price: str | None) -> dict[str, object]:
    arguments: dict[str, object] = {"evidence": evidence.strip()}
    if price is not None:
        try:
            value = Decimal(price)
        except InvalidOperation:
            value = Decimal("NaN")
        if not value.is_finite() or value < 0:
            raise CommandFailed(f"--price must be dollars a share, was {price!r}", Exit.USAGE)
        arguments["price"] = str(value)
    return arguments


async def _ask(
    settings: Settings, position: int, account: str | None, arguments: dict[str, object], yes: bool, timeout: float
) -> tuple[Asked, Row]:
    async with Requests.open(settings) as requests:
        found = [row for row in await requests.operator.live_rows(account) if row["id"] == position]
        if not found:
            where = f" in account {account}" if account else ""
            raise CommandFailed(f"no open position {position}{where}; see: exitguard positions")
        if len(found) > 1:
            names = ", ".join(row["account_name"] for row in found)
            raise CommandFailed(f"position {position} exists in {names}; choose one with --account", Exit.USAGE)
        (row,) = found
        chosen = settings.account(row["account_name"])
        what = f"{row['side']} {row['quantity']} {row['symbol']}"
        confirm(f"close position {position} ({what}, account {chosen.name}) in our books without a trade", yes=yes)
        asked = await requests.ask(
            chosen, CommandVerb.FORGET, position_id=position, symbol=row["symbol"], arguments=arguments, timeout=timeout
        )
        return asked, row
