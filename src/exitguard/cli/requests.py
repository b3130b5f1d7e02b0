"""Requests about an account's books: answered by the running manager, or here when no manager holds the lease."""

import asyncio
import getpass
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from exitguard.cli.database import Row, database
from exitguard.cli.exits import CommandFailed, Exit, exit_code_of, first_cause, one_line
from exitguard.cli.output import remark
from exitguard.config.settings import AccountSettings, Settings
from exitguard.core.records import CommandVerb
from exitguard.store.operator import Operator
from exitguard.store.port import LeaseHeld, LeaseLost

_POLL_SECONDS = 0.2
# How often it is looked whether the manager that should answer is still there.
_LEASE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Asked:
    """What became of one request. `by` is who answered it: `manager`, `command`, or None when nobody did.

    Then `trouble` says what kept this command from answering it, unless only the time was too short, and `code` is the
    exit code for it.
    """

    account_name: str
    request: int
    ok: bool | None
    result: str | None
    answer: Mapping[str, Any] | None
    by: str | None
    trouble: str | None = None
    code: Exit = Exit.TEMPORARY

    def body(self) -> dict[str, Any]:
        """As JSON: stable names."""
        return {
            "request": self.request,
            "ok": self.ok,
            "result": self.result if self.trouble is None else self.trouble,
            "answered_by": self.by,
            **(self.answer or {}),
        }

    def exit(self) -> Exit:
        """Exit code of a command that asked only this."""
        if self.ok is None:
            return self.code
        return Exit.OK if self.ok else Exit.WRONG

    def line(self) -> str:
        """What a person is told."""
        if self.ok is None:
            said = "no answer in time" if self.trouble is None else f"not done: {self.trouble}"
            return f"{self.account_name}: {said}; request {self.request} stands, and the next manager answers it"
        return f"{self.account_name}: {'done' if self.ok else 'not done'}: {self.result}"


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
        self._visited: set[str] = set()

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

        Without a manager the request is answered here, under the account's lease; when that fails it waits for the next
        manager. Raises StoreError.
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
            left = deadline - time.monotonic()
            if left <= 0:
                return _asked(row, None)
            if time.monotonic() - looked_at >= _LEASE_SECONDS:
                looked_at = time.monotonic()
                if account.name not in await self.operator.managed_accounts():
                    try:
                        answered = await self._visit(account, number, left)
                    except CommandFailed as failed:
                        return replace(_asked(row, None), trouble=str(failed), code=failed.code)
                    if answered:
                        by = "command"
                        continue
            await asyncio.sleep(_POLL_SECONDS)

    async def _visit(self, account: AccountSettings, number: int, seconds: float) -> bool:
        """Answer the request here; False when a manager was faster, or `seconds` too short. Raises CommandFailed."""
        # Imported late: it brings a whole manager along.
        from exitguard.cli.supervision import AccountUnit, Fleet

        if account.name not in self._visited:
            self._visited.add(account.name)
            remark(f"no manager runs for {account.name}: answered by this command")
        unit = AccountUnit(account, self._settings, self._url, Fleet(asyncio.Event()), once=True)
        try:
            async with asyncio.timeout(seconds) as limit:
                await unit.visit(number)
        except (LeaseHeld, LeaseLost):
            return False
        except Exception as error:
            if limit.expired():
                return False
            cause = first_cause(error)
            code = exit_code_of(cause)
            if code is None:
                raise
            raise CommandFailed(one_line(str(cause)), code) from error
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
