"""Requests about an account's books: answered by the running manager, or here when no manager holds the lease."""

import asyncio
import getpass
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from exitguard.cli.database import Row, database
from exitguard.cli.exits import CommandFailed, Exit, one_line
from exitguard.cli.output import remark
from exitguard.config.settings import AccountSettings, Settings
from exitguard.core.records import CommandVerb
from exitguard.store.operator import Operator
from exitguard.store.port import LeaseHeld

_POLL_SECONDS = 0.2
# How often it is looked whether the manager that should answer is still there.
_LEASE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Asked:
    """What became of one request. `by` is who answered it: `manager`, `command`, or None when nobody did in time."""

    account_name: str
    request: int
    ok: bool | None
    result: str | None
    answer: Mapping[str, Any] | None
    by: str | None

    def body(self) -> dict[str, Any]:
        """As JSON: stable names."""
        return {
            "request": self.request,
            "ok": self.ok,
            "result": self.result,
            "answered_by": self.by,
            **(self.answer or {}),
        }

    def exit(self) -> Exit:
        """Exit code of a command that asked only this."""
        if self.ok is None:
            return Exit.TEMPORARY
        return Exit.OK if self.ok else Exit.WRONG

    def line(self) -> str:
        """What a person is told."""
        if self.ok is None:
            return f"{self.account_name}: no answer in time; request {self.request} stands, see: exitguard health"
        return f"{self.account_name}: {'done' if self.ok else 'refused'}: {self.result}"


def asker() -> str:
    """Who asks: user and machine."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):  # an identity without a name, as containers have
        return f"unknown@{socket.gethostname()}"


class Requests:
    """Asks the managers of accounts on one ledger."""

    def __init__(self, settings: Settings, operator: Operator, url: str) -> None:
        self.operator = operator
        self._settings = settings
        self._url = url

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings) -> AsyncIterator["Requests"]:
        """On the ledger of the settings. Raises StoreUnavailable, SchemaMismatch."""
        async with database(settings) as (url, _), await Operator.connect(url) as operator:
            yield cls(settings, operator, url)

    async def ask(
        self,
        account: AccountSettings,
        verb: CommandVerb,
        *,
        timeout: float,
        position_id: int | None = None,
        symbol: str | None = None,
        arguments: Mapping[str, object] | None = None,
    ) -> Asked:
        """Ask, and wait for at most `timeout` seconds.

        Without a manager the request is answered here, under the account's lease. Raises BrokerError and StoreError
        when that fails: the request then waits for the next manager.
        """
        number = await self.operator.insert_command(
            account.name,
            verb,
            requested_by=one_line(asker()),
            position_id=position_id,
            symbol=symbol,
            arguments=arguments,
        )
        by = "manager"
        deadline = time.monotonic() + timeout
        looked_at = 0.0
        while True:
            (row,) = await self.operator.answers([number])
            if row["ok"] is not None:
                return _asked(row, by)
            if time.monotonic() >= deadline:
                return _asked(row, None)
            if time.monotonic() - looked_at >= _LEASE_SECONDS:
                looked_at = time.monotonic()
                if account.name not in await self.operator.managed_accounts() and await self._visit(account, number):
                    by = "command"
                    continue
            await asyncio.sleep(_POLL_SECONDS)

    async def _visit(self, account: AccountSettings, number: int) -> bool:
        """Answer the request here; False when a manager was faster."""
        # Imported late: it brings a whole manager along.
        from exitguard.cli.supervision import AccountUnit, Fleet

        remark(f"no manager runs for {account.name}: answered by this command")
        unit = AccountUnit(account, self._settings, self._url, Fleet(asyncio.Event()), once=True)
        try:
            await unit.visit(number)
        except LeaseHeld:
            return False
        return True


def _asked(row: Row, by: str | None) -> Asked:
    return Asked(row["account_name"], row["id"], row["ok"], row["result"], row["answer"], by)


def one_account(settings: Settings, name: str | None) -> AccountSettings:
    """The account that a request is about: never guessed when there are several."""
    if name is not None:
        account = settings.account(name)
        if name not in settings.selected:
            raise CommandFailed(f"--account {name}, but ACCOUNT_NAME allows only {settings.selected[0]}", Exit.USAGE)
        return account
    accounts = settings.require_accounts()
    if len(accounts) > 1:
        names = ", ".join(each.name for each in accounts)
        raise CommandFailed(f"say which account with --account: {names}", Exit.USAGE)
    return accounts[0]
