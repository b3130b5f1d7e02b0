"""The demo's database: a fresh one on the embedded server, or the one of DATABASE_URL, wiped only when it is ours."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import psycopg
from psycopg import sql

from exitguard.cli.database import Connection, connect, embedded_server, first_line, rows, value, where
from exitguard.cli.exits import CommandFailed, Exit
from exitguard.config.redaction import remember_secret
from exitguard.store.migrate import migrate_async
from exitguard.store.port import StoreUnavailable

DATABASE = "exitguard_demo"
_MARK = "exitguard demo accounts: "
# Objects that the migrations put into the public schema; nothing else of a foreign database is ever touched.
_OURS = """
SELECT format('DROP %%s IF EXISTS public.%%I CASCADE', CASE relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END, relname)
    AS statement
FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v') AND relname IN (
    'accounts', 'leases', 'heartbeats', 'policies', 'dispatch_recommendations', 'dispatch_executions',
    'active_positions', 'position_fills', 'event_heads', 'position_events', 'order_intents', 'position_history',
    'alarms', 'commands', 'set_aside', 'applied_batches', 'v_account_clocks', 'v_open_positions_summary',
    'v_position_performance', 'v_position_health_check')
ORDER BY relkind = 'r'
"""


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
        _leave_mark(external, account_numbers)
        yield DemoDatabase(external, "env:DATABASE_URL")
        return
    server = embedded_server()
    info = await server.ensure_running(keep=keep)
    try:
        remember_secret(info.password_file.read_text(encoding="utf-8").strip())
        await server.create_database(DATABASE, recreate=True)
        url = server.url(DATABASE)
        await migrate_async(url)
        yield DemoDatabase(url, f"embedded:{DATABASE}")
    finally:
        await server.release()


async def _wipe(url: str, account_numbers: frozenset[str]) -> None:
    """Drop our own objects from a database that held nothing but demos before."""
    with connect(url) as connection:
        try:
            foreign = _foreign_accounts(connection, account_numbers)
            if foreign:
                raise CommandFailed(
                    f"DATABASE_URL names a database that holds accounts which are no demo's ({', '.join(foreign)} at"
                    f" {where(url)}) and the demo would wipe it; unset DATABASE_URL, or name a database for the demo",
                    Exit.CONFIG,
                )
            for row in rows(connection, _OURS):
                connection.execute(row["statement"])
            connection.execute("DROP SCHEMA IF EXISTS exitguard CASCADE")
        except psycopg.Error as error:
            raise StoreUnavailable(f"the database at {where(url)} cannot be emptied: {first_line(error)}") from error


def _foreign_accounts(connection: Connection, account_numbers: frozenset[str]) -> list[str]:
    """Accounts bound to a broker account number that no demo made up: numbers of real accounts look alike."""
    if not value(connection, "SELECT to_regclass('public.accounts') IS NOT NULL"):
        return []
    mark = value(connection, "SELECT coalesce(obj_description(to_regnamespace('exitguard'), 'pg_namespace'), '')")
    ours = set(account_numbers)
    if mark.startswith(_MARK):
        ours.update(mark.removeprefix(_MARK).split())
    bound = rows(connection, "SELECT account_name, account_number FROM accounts WHERE account_number IS NOT NULL")
    return sorted(row["account_name"] for row in bound if row["account_number"] not in ours)


def _leave_mark(url: str, account_numbers: frozenset[str]) -> None:
    """Note in the database which broker accounts are a demo's, so that the next demo may wipe them."""
    numbers = " ".join(sorted(account_numbers))
    with connect(url) as connection:
        statement = sql.SQL("COMMENT ON SCHEMA exitguard IS {}").format(sql.Literal(f"{_MARK}{numbers}"))
        connection.execute(statement)
