"""The ledger as a person sees it: all accounts, read-only, and the few things that a person may ask for."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Self

import asyncpg

from exitguard.core.errors import InvalidInput
from exitguard.core.records import CommandVerb
from exitguard.store.connection import Link
from exitguard.store.encoding import encode_json
from exitguard.store.migrate import check_schema
from exitguard.store.port import StoreRejected
from exitguard.store.queries import query
from exitguard.store.repository import CONNECT_TIMEOUT, prepare_session

STATEMENT_TIMEOUT = 30.0
MAX_ROWS = 10_000
# Today, for people who trade here, is the day in New York: CURRENT_DATE in their statements means the trading day.
TIMEZONE = "America/New_York"
_RECOMMENDATION_COLUMNS = (
    *("account_name", "ticker", "option_symbol", "action", "strategy_type", "qty", "stop_loss", "take_profit"),
    *("max_hold_minutes", "confidence", "features", "expires_at"),
)


@dataclass(frozen=True, slots=True)
class Table:
    """The answer to a statement. `truncated`: there were more rows than `MAX_ROWS`."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    truncated: bool = False

    def dictionaries(self) -> list[dict[str, Any]]:
        """The rows by column name."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


@dataclass(frozen=True, slots=True)
class CommandResult:
    """A request and its answer; `ok` is None until a manager has answered."""

    id: int
    account_name: str
    verb: str
    requested_at: datetime
    finished_at: datetime | None
    ok: bool | None
    result: str | None


class Operator:
    """Reads as `exitguard_operator` in read-only sessions; asks as `exitguard_desk`."""

    def __init__(self, url: str) -> None:
        def link(role: str, read_only: bool) -> Link:
            limit = str(int(STATEMENT_TIMEOUT * 900))
            settings = {
                "role": role,
                "search_path": "public",
                "application_name": "exitguard operator",
                "timezone": TIMEZONE,
                "statement_timeout": limit,
                "lock_timeout": limit,
                "default_transaction_read_only": "on" if read_only else "off",
            }
            return Link(
                url,
                settings,
                connect_timeout=CONNECT_TIMEOUT,
                command_timeout=STATEMENT_TIMEOUT,
                on_connect=prepare_session,
            )

        self._read = link("exitguard_operator", True)
        self._ask = link("exitguard_desk", False)

    @classmethod
    async def connect(cls, url: str) -> Self:
        """Connect and check the schema version. Raises StoreUnavailable, SchemaMismatch."""
        operator = cls(url)
        try:
            async with operator._read.use() as connection:
                await check_schema(connection)
        except BaseException:
            await operator.close()
            raise
        return operator

    async def __aenter__(self) -> Self:
        """Use as a context that closes."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close."""
        await self.close()

    async def close(self) -> None:
        """Release connections."""
        await self._read.close()
        await self._ask.close()

    # Reading ---------------------------------------------------------------------------------------------------------

    async def query(self, sql: str) -> Table:
        """Run exactly one statement that only reads.

        It is prepared, which PostgreSQL does for single statements only, in a read-only transaction with a time limit.
        Raises StoreRejected with the database's words, StoreUnavailable.
        """
        if not sql.strip(" \t\r\n;"):
            raise StoreRejected("there is no statement to run")
        async with self._read.use() as connection:
            transaction = connection.transaction(readonly=True)
            await transaction.start()
            try:
                statement = await connection.prepare(sql)
                columns = tuple(attribute.name for attribute in statement.get_attributes())
                if not columns:
                    raise StoreRejected("the statement returns no columns: only statements that read are run here")
                cursor = await statement.cursor()
                rows = await cursor.fetch(MAX_ROWS + 1)
            except asyncpg.ReadOnlySQLTransactionError as error:
                raise StoreRejected(f"only statements that read are run here: {error}") from error
            finally:
                # Never committed: whatever the statement set in the session is undone as well.
                await transaction.rollback()
        kept = tuple(tuple(row.values()) for row in rows[:MAX_ROWS])
        return Table(columns, kept, truncated=len(rows) > MAX_ROWS)

    async def positions(self, account: str | None = None) -> list[dict[str, Any]]:
        """Open and closing positions, newest first."""
        return await self._fetch("operator_positions", account)

    async def events(self, account: str | None = None, limit: int = 50) -> list[dict[str, Any]]:
        """The newest events, newest first."""
        return await self._fetch("operator_events", account, limit)

    async def health(self) -> dict[str, Any]:
        """The one row of `v_position_health_check`."""
        return (await self._fetch("operator_health"))[0]

    async def heartbeats(self) -> list[dict[str, Any]]:
        """The last heartbeat of every component of every account, with its age in seconds."""
        return await self._fetch("operator_heartbeats")

    async def alarms(self, *, active_only: bool = True) -> list[dict[str, Any]]:
        """Alarms, newest first."""
        return await self._fetch("operator_alarms", active_only)

    async def broken_event(self, account: str) -> int | None:
        """First sequence number at which the account's chain of events does not verify, None when it does (I6)."""
        async with self._read.use() as connection:
            broken: int | None = await connection.fetchval(query("operator_broken_event"), account)
            return broken

    async def command_result(self, command_id: int) -> CommandResult | None:
        """A request and its answer, None when there is no such request."""
        rows = await self._fetch("operator_command", command_id)
        return CommandResult(**rows[0]) if rows else None

    async def _fetch(self, name: str, *arguments: object) -> list[dict[str, Any]]:
        async with self._read.use() as connection:
            return [dict(row) for row in await connection.fetch(query(name), *arguments)]

    # Asking ----------------------------------------------------------------------------------------------------------

    async def insert_command(
        self,
        account: str,
        verb: CommandVerb,
        *,
        requested_by: str,
        position_id: int | None = None,
        symbol: str | None = None,
    ) -> int:
        """Ask an account's manager for something; returns the id of the request. Raises StoreRejected."""
        async with self._ask.use() as connection:
            number: int = await connection.fetchval(
                query("insert_command"), account, verb.value, position_id, symbol, requested_by[:200]
            )
            return number

    async def insert_recommendations(self, rows: Sequence[Mapping[str, object]]) -> list[int]:
        """Insert signals in one statement; returns their ids in order.

        Keys are columns of `dispatch_recommendations`; `account_name` is required. Values may be wrong: the dispatcher
        sets such signals aside. Raises InvalidInput for an unknown key or a missing account, StoreRejected.
        """
        if not rows:
            return []
        body = encode_json([_recommendation_row(row) for row in rows])
        async with self._ask.use() as connection:
            found = await connection.fetch(query("insert_recommendations"), body)
        return [row["id"] for row in found]


def _recommendation_row(row: Mapping[str, object]) -> dict[str, object]:
    unknown = sorted(set(row) - set(_RECOMMENDATION_COLUMNS))
    if unknown:
        raise InvalidInput(f"a signal has no {', '.join(unknown)}; it may have {', '.join(_RECOMMENDATION_COLUMNS)}")
    account = row.get("account_name")
    if not isinstance(account, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", account):
        raise InvalidInput(f"a signal needs the name of its account, was {str(account)[:80]!r}")
    expires = row.get("expires_at")
    if expires is not None and (not isinstance(expires, datetime) or expires.tzinfo is None):
        raise InvalidInput(f"expires_at must be an aware time, was {str(expires)[:80]!r}")
    return {name: str(value) if isinstance(value, (Decimal, float, int)) else value for name, value in row.items()}
