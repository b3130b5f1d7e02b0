"""`exitguard adopt`."""

import asyncio
from typing import Annotated

from cyclopts import Parameter

from exitguard.cli.confirm import confirm
from exitguard.cli.context import load, quiet_logs
from exitguard.cli.exits import CommandFailed, Exit
from exitguard.cli.output import AccountName, ConfigFile, Json, emit, emit_json
from exitguard.cli.requests import Asked, Requests, one_account
from exitguard.core.instrument import InvalidSymbol, parse_instrument
from exitguard.core.records import CommandVerb


def adopt(
    symbol: Annotated[str, Parameter(help="Contract symbol as the broker has it.")],
    /,
    *,
    account: AccountName = None,
    yes: Annotated[bool, Parameter(negative="", help="Do not ask again.")] = False,
    timeout: Annotated[float, Parameter(help="Wait at most this many seconds for the answer.")] = 60.0,
    config: ConfigFile = None,
    json: Json = False,
) -> int:
    """Take a position that the broker holds and we do not know under management, with its true entry time.

    Its exit rules apply from then on, and it may be closed at once. Exit 1 when refused, 75 without an answer.
    """
    quiet_logs()
    settings = load(config)
    chosen = one_account(settings, account)
    try:
        contract = parse_instrument(symbol.strip().upper()).symbol
    except InvalidSymbol as error:
        raise CommandFailed(str(error), Exit.USAGE) from error
    confirm(f"take {contract} of account {chosen.name} under management, exits included", yes=yes)

    async def ask() -> Asked:
        async with Requests.open(settings) as requests:
            return await requests.ask(chosen, CommandVerb.ADOPT, symbol=contract, timeout=timeout)

    asked = asyncio.run(ask())
    if json:
        emit_json({"account": chosen.name, "symbol": contract, **asked.body()})
    else:
        emit(asked.line())
    return asked.exit()
