"""The demo's database: a fresh one on the embedded server, or the one of DATABASE_URL, wiped only when it is ours."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from exitguard.cli.database import embedded_database, embedded_server
from exitguard.cli.exits import CommandFailed, Exit
from exitguard.store.connection import place, translating
from exitguard.store.migrate import migrate_async
from exitguard.store.port import StoreError, StoreUnavailable
from exitguard.store.queries import query
from exitguard.store.schema import as_owner, drop_schema, schema_note, set_schema_note

DATABASE = "exitguard_demo"
_MARK = "exitguard demo accounts: "


@dataclass(frozen=True, slots=True)
class DemoDatabase:
    """Where the demo keeps its rows; `setting` is what the settings file says of it."""

    url: str
    setting: str


@asynccontextmanager
async def demo_database(account_numbers: frozenset[str], *, keep: bool) -> AsyncIterator[DemoDatabase]:
    """A migrated, empty database; the embedded server runs at least as long as the context.

    `account_numbers` are those of the exchange just started. A database of DATABASE_URL that holds accounts of anything
    but a demo is refused, never wiped. Raises CommandFailed, StoreUnavailable.
    """
    external = os.environ.get("DATABASE_URL", "")
    if external and not external.startswith("embedded"):
        await _wipe(external, account_numbers)
        await migrate_async(external)
        await _leave_mark(external, account_numbers)
        yield DemoDatabase(external, "env:DATABASE_URL")
        return
    async with embedded_database(embedded_server(), DATABASE, keep=keep, recreate=True) as (url, _):
        await migrate_async(url)
        yield DemoDatabase(url, f"embedded:{DATABASE}")


async def _wipe(url: str, account_numbers: frozenset[str]) -> None:
    """Drop our own objects from a database that held nothing but demos before."""
    async with as_owner(url) as connection:
        foreign = await _foreign_accounts(connection, account_numbers)
        if foreign:
            raise CommandFailed(
                f"DATABASE_URL names a database that holds accounts which are no demo's ({', '.join(foreign)} at"
                f" {place(url)}) and the demo would wipe it; unset DATABASE_URL, or name a database for the demo",
                Exit.CONFIG,
            )
        try:
            with translating():
                await drop_schema(connection)
        except StoreError as error:
            raise StoreUnavailable(f"the database at {place(url)} cannot be emptied: {error}") from error


async def _foreign_accounts(connection: Any, account_numbers: frozenset[str]) -> list[str]:
    """Accounts bound to a broker account number that no demo made up: numbers of real accounts look alike."""
    if not await connection.fetchval("SELECT to_regclass('public.accounts') IS NOT NULL"):
        return []
    mark = await schema_note(connection)
    ours: set[str | None] = {None, *account_numbers}
    if mark.startswith(_MARK):
        ours.update(mark.removeprefix(_MARK).split())
    found = await connection.fetch(query("operator_account_numbers"))
    return sorted(row["account_name"] for row in found if row["account_number"] not in ours)


async def _leave_mark(url: str, account_numbers: frozenset[str]) -> None:
    """Note in the database which broker accounts are a demo's, so that the next demo may wipe them."""
    async with as_owner(url) as connection:
        await set_schema_note(connection, f"{_MARK}{' '.join(sorted(account_numbers))}")
