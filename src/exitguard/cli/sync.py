"""`exitguard sync`."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated

from cyclopts import Parameter

from exitguard.cli.brokers import make_broker
from exitguard.cli.confirm import confirm
from exitguard.cli.context import load, quiet_logs, selected_accounts
from exitguard.cli.database import Row
from exitguard.cli.exits import CommandFailed, Exit
from exitguard.cli.output import AccountName, ConfigFile, Json, emit, emit_json, remark
from exitguard.cli.requests import Asked, Requests
from exitguard.config.secrets import Credentials, SecretReader, credentials
from exitguard.config.settings import AccountSettings, Settings
from exitguard.core.instrument import parse_instrument
from exitguard.core.reconcile import FindingKind, KnownOrder
from exitguard.core.records import CommandVerb
from exitguard.ops.sync import AccountComparison, compare_account, describe, render
from exitguard.store.operator import Operator

# The broker's positions lag its fills by seconds: a difference counts when it is still there at a second look.
SECOND_LOOK_SECONDS = 3.0
# What a repair does about each kind of difference.
_REMEDIES = {
    FindingKind.PHANTOM: "book the orders or activities that closed it; without proof it stays, see: exitguard forget",
    FindingKind.UNTRACKED: "adopt it, with the entry time that its fills show",
    FindingKind.QUANTITY: "book the orders, activities or additions that explain it",
    FindingKind.SIDE: "book the orders that turned it",
    FindingKind.ORPHAN_ORDER: "cancel it",
    FindingKind.FOREIGN_ORDER: "leave it alone: somebody else sent it",
}

Opened = list[tuple[AccountSettings, Credentials]]


def sync(
    *,
    account: AccountName = None,
    repair: Annotated[bool, Parameter(negative="", help="Ask the managers to mend what differs.")] = False,
    dry_run: Annotated[bool, Parameter(negative="", help="With --repair: only tell what would be done.")] = False,
    accept_mass_change: Annotated[
        bool, Parameter(negative="", help="With --repair: go on although many positions are missing at the broker.")
    ] = False,
    yes: Annotated[bool, Parameter(negative="", help="With --repair: do not ask again.")] = False,
    timeout: Annotated[float, Parameter(help="With --repair: wait at most this many seconds an account.")] = 120.0,
    config: ConfigFile = None,
    json: Json = False,
) -> int:
    """Compare the broker's positions and open orders with our books. Exit 1 on any difference.

    69: a broker gives no answer. With --repair also 75: no manager answered in time. A repair books what the broker
    proves, adopts, and cancels orders of ours without a purpose; it sends no order, and stops and asks when too many
    positions are missing.
    """
    quiet_logs()
    if (dry_run or accept_mass_change or yes) and not repair:
        raise CommandFailed("--dry-run, --accept-mass-change and --yes go with --repair", Exit.USAGE)
    settings = load(config)
    reader = SecretReader(region=settings.aws_region)
    opened = [(each, credentials(each, reader)) for each in selected_accounts(settings, account)]

    async def run() -> int:
        async with Requests.open(settings) as requests:
            found = await _compare(opened, requests.operator)
            if not repair or dry_run or not any(_repairable(each) for each in found):
                _print(found, {}, json=json)
                if dry_run and not json:
                    _print_plan(found)
                return _exit(found)
            if not json:
                emit("\n\n".join(render(each) for each in found))
                _print_plan(found)
            names = ", ".join(each.account_name for each in found if _repairable(each))
            confirm(f"repair the books of {names}", yes=yes)
            return await _mend(settings, opened, requests, found, accept_mass_change, timeout, json)

    return asyncio.run(run())


async def _mend(
    settings: Settings,
    opened: Opened,
    requests: Requests,
    before: list[AccountComparison],
    accept_mass_change: bool,
    timeout: float,
    json: bool,
) -> int:
    """Ask the managers of the accounts that differ, and compare again."""
    arguments = {"accept_mass_change": accept_mass_change}
    asked = {
        each.account_name: await requests.ask(
            settings.account(each.account_name), CommandVerb.SYNC_REPAIR, arguments=arguments, timeout=timeout
        )
        for each in before
        if _repairable(each)
    }
    after = await _compare(opened, requests.operator)
    if not json:
        emit("\n" + "\n".join(each.line() for each in asked.values()) + "\n")
    _print(after, asked, json=json)
    unanswered = [each for each in asked.values() if each.ok is None]
    if unanswered:
        return unanswered[0].exit()
    if any(each.ok is False for each in asked.values()) and _exit(after) is Exit.OK:
        return Exit.WRONG
    return _exit(after)


def _repairable(found: AccountComparison) -> bool:
    """Whether there is a difference that a repair can do anything about."""
    kept = (FindingKind.MATCHED, FindingKind.FOREIGN_ORDER)
    return found.error is None and any(each.kind not in kept for each in found.findings)


def _print(found: list[AccountComparison], asked: Mapping[str, Asked], *, json: bool) -> None:
    if not json:
        emit("\n\n".join(render(each) for each in found))
        return
    accounts = {each.account_name: each.body() for each in found}
    for name, each in asked.items():
        accounts[name]["repair"] = each.body()
    emit_json({"in_sync": all(each.in_sync for each in found), "accounts": accounts})


def _print_plan(found: list[AccountComparison]) -> None:
    for each in found:
        for finding in each.findings:
            if finding.kind in _REMEDIES:
                remark(f"{each.account_name}: {describe(finding)}: would {_REMEDIES[finding.kind]}")


def _exit(found: list[AccountComparison]) -> Exit:
    if any(each.error is not None for each in found):
        return Exit.UNAVAILABLE
    return Exit.OK if all(each.in_sync for each in found) else Exit.WRONG


async def _compare(accounts: Opened, operator: Operator) -> list[AccountComparison]:
    found = await _look(accounts, operator)
    if any(not each.in_sync and each.error is None for each in found):
        await asyncio.sleep(SECOND_LOOK_SECONDS)
        found = await _look(accounts, operator)
    return found


async def _look(accounts: Opened, operator: Operator) -> list[AccountComparison]:
    records = _records(await operator.live_rows())
    numbers = await operator.account_numbers()
    return list(
        await asyncio.gather(
            *(
                _ask(each, found, records.get(each.name, {}), numbers.get(each.name), operator)
                for each, found in accounts
            )
        )
    )


async def _ask(
    account: AccountSettings,
    found: Credentials,
    records: Mapping[str, Decimal],
    bound: str | None,
    operator: Operator,
) -> AccountComparison:
    broker = make_broker(account, found)

    async def known(ids: list[str]) -> list[KnownOrder]:
        return await operator.own_orders(account.name, ids)

    try:
        return await compare_account(account.name, records, broker, bound, known)
    finally:
        await broker.close()


def _records(rows: list[Row]) -> dict[str, dict[str, Decimal]]:
    """Signed quantities by account and contract."""
    records: dict[str, dict[str, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    for row in rows:
        signed = row["quantity"] if row["side"] == "long" else -row["quantity"]
        records[row["account_name"]][parse_instrument(row["symbol"]).symbol] += signed
    return records
