"""`exitguard sync`."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from decimal import Decimal

from exitguard.cli.brokers import make_broker
from exitguard.cli.context import load, quiet_logs, selected_accounts
from exitguard.cli.database import Row, ask
from exitguard.cli.exits import Exit
from exitguard.cli.output import AccountName, ConfigFile, Json, emit, emit_json
from exitguard.config.secrets import Credentials, SecretReader, credentials
from exitguard.config.settings import AccountSettings
from exitguard.core.instrument import parse_instrument
from exitguard.ops.sync import AccountComparison, compare_account, render
from exitguard.store.operator import Operator

# The broker's positions lag its fills by seconds: a difference counts when it is still there at a second look.
SECOND_LOOK_SECONDS = 3.0


def sync(*, account: AccountName = None, config: ConfigFile = None, json: Json = False) -> int:
    """Compare the broker's positions with our records. Exit 1 on any difference, 69 when a broker gives no answer."""
    quiet_logs()
    settings = load(config)
    accounts = selected_accounts(settings, account)
    reader = SecretReader(region=settings.aws_region)
    opened = [(each, credentials(each, reader)) for each in accounts]
    found = ask(settings, lambda operator: _compare(opened, operator))
    if json:
        emit_json(
            {"in_sync": all(each.in_sync for each in found), "accounts": {f.account_name: f.body() for f in found}}
        )
    else:
        emit("\n\n".join(render(each) for each in found))
    if any(each.error is not None for each in found):
        return Exit.UNAVAILABLE
    return Exit.OK if all(each.in_sync for each in found) else Exit.WRONG


async def _compare(accounts: list[tuple[AccountSettings, Credentials]], operator: Operator) -> list[AccountComparison]:
    found = await _look(accounts, operator)
    if any(not each.in_sync and each.error is None for each in found):
        await asyncio.sleep(SECOND_LOOK_SECONDS)
        found = await _look(accounts, operator)
    return found


async def _look(accounts: list[tuple[AccountSettings, Credentials]], operator: Operator) -> list[AccountComparison]:
    records = _records(await operator.live_rows())
    numbers = await operator.account_numbers()
    return list(
        await asyncio.gather(
            *(_ask(each, found, records.get(each.name, {}), numbers.get(each.name)) for each, found in accounts)
        )
    )


async def _ask(
    account: AccountSettings, found: Credentials, records: Mapping[str, Decimal], bound: str | None
) -> AccountComparison:
    broker = make_broker(account, found)
    try:
        return await compare_account(account.name, records, broker, bound)
    finally:
        await broker.close()


def _records(rows: list[Row]) -> dict[str, dict[str, Decimal]]:
    """Signed quantities by account and contract."""
    records: dict[str, dict[str, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    for row in rows:
        signed = row["quantity"] if row["side"] == "long" else -row["quantity"]
        records[row["account_name"]][parse_instrument(row["symbol"]).symbol] += signed
    return records
