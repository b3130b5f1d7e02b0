"""The ledger as a person sees it: all accounts, read-only, and the few things that a person may ask for."""

import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, Self

import asyncpg
import orjson

from exitguard.core.errors import InvalidInput
from exitguard.core.reconcile import KnownOrder
from exitguard.core.records import CommandVerb
from exitguard.store.connection import Link
from exitguard.store.encoding import encode_json
from exitguard.store.port import StoreRejected
from exitguard.store.queries import query
from exitguard.store.repository import prepare_session
from exitguard.store.schema import check_schema

READER = "exitguard_operator"
ASKER = "exitguard_desk"
CONNECT_TIMEOUT = 10.0
# Seconds that a statement may take before its first row, and between two parts of a long answer.
STATEMENT_TIMEOUT = 60.0
# Rows of an answer that is wanted at once; `stream` has no limit.
MAX_ROWS = 100_000
_PART = 500
# Today, for people who trade here, is the day in New York: CURRENT_DATE in their statements means the trading day.
TIMEZONE = "America/New_York"
# The server stopped or went away: not a matter of the statement.
_CONNECTION_TROUBLE = ("08", "57P")
_RECOMMENDATION_COLUMNS = (
    *("account_name", "ticker", "option_symbol", "action", "strategy_type", "qty", "stop_loss", "take_profit"),
    *("max_hold_minutes", "confidence", "features", "created_at", "expires_at"),
)

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """The answer to a statement, or a part of it."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def dictionaries(self) -> list[Row]:
        """The rows by column name."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


class Operator:
    """Reads as `exitguard_operator` in read-only sessions; asks as `exitguard_desk`.

    Each connection is opened when it is needed first. Everything raises StoreUnavailable when the database cannot be
    reached or its login may not be an operator; use `connect` to be sure of the schema version.
    """

    def __init__(self, url: str) -> None:
        def link(role: str, prepare: Callable[[Any], Awaitable[None]], *, read_only: bool) -> Link:
            # The server gives up a little earlier than the client, so that a timeout normally has a known outcome.
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
                on_connect=prepare,
            )

        self._read = link(READER, _prepare_reading, read_only=True)
        self._ask = link(ASKER, prepare_session, read_only=False)

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

    # Statements of people ----------------------------------------------------------------------------------------

    async def stream(self, sql: str) -> AsyncGenerator[Table, None]:
        """Run exactly one statement that only reads; yields its answer in parts, at least one, of any total length.

        It is prepared, which PostgreSQL does for single statements only, in a read-only transaction with a time limit.
        Infinite dates come as text. Close the generator (`contextlib.aclosing`).
        Raises StoreRejected with the database's words, StoreUnavailable.
        """
        if not sql.strip(" \t\r\n;"):
            raise StoreRejected("there is no statement to run")
        async with self._read.use() as connection, _undone(connection):
            with _in_the_databases_words():
                statement = await _prepare(connection, sql)
                attributes = statement.get_attributes()
                columns = tuple(attribute.name for attribute in attributes)
                convert = tuple(bytes.decode if each.type.oid == _CHAR else _plain for each in attributes)
                cursor = await statement.cursor()
            while True:
                with _in_the_databases_words():
                    rows = await cursor.fetch(_PART)
                yield Table(columns, tuple(_row(row, convert) for row in rows))
                if len(rows) < _PART:
                    return

    async def query(self, sql: str) -> Table:
        """The whole answer of `stream`. Raises StoreRejected also for one of more than `MAX_ROWS` rows."""
        rows: list[tuple[Any, ...]] = []
        columns: tuple[str, ...] = ()
        async with contextlib.aclosing(self.stream(sql)) as parts:
            async for part in parts:
                columns = part.columns
                rows += part.rows
                if len(rows) > MAX_ROWS:
                    raise StoreRejected(f"the answer has more than {MAX_ROWS} rows: narrow it down or add a LIMIT")
        return Table(columns, tuple(rows))

    # Reading -----------------------------------------------------------------------------------------------------

    async def positions(self, account: str | None = None) -> list[Row]:
        """Open and closing positions as `v_open_positions_summary` shows them, oldest first."""
        return await self._rows("operator_positions", account)

    async def closed_positions(self, account: str | None, limit: int) -> list[Row]:
        """The latest closed positions as `v_position_performance` shows them, newest first."""
        return await self._rows("operator_closed_positions", account, limit)

    async def live_rows(self, account: str | None = None) -> list[Row]:
        """Open and closing positions with exact numbers, as the manager keeps them, by account and id."""
        return await self._rows("operator_live_rows", account)

    async def live_counts(self) -> dict[str, int]:
        """Number of open and closing positions by account."""
        return {row["account_name"]: row["n"] for row in await self._rows("operator_live_counts")}

    async def opened_counts(self) -> dict[str, int]:
        """Number of positions ever opened by account."""
        return {row["account_name"]: row["n"] for row in await self._rows("operator_opened_counts")}

    async def history(self) -> list[Row]:
        """Every closed position with what triggered its exit and exact numbers, oldest first."""
        return await self._rows("operator_history")

    async def events(
        self,
        account: str | None = None,
        *,
        position: int | None = None,
        types: Sequence[str] | None = None,
        after: int = 0,
        limit: int = 50,
    ) -> list[Row]:
        """The newest events with an id above `after`, newest first."""
        kinds = None if types is None else list(types)
        return await self._rows("operator_events", account, position, kinds, after, limit)

    async def event_counts(self) -> dict[str, dict[str, int]]:
        """Number of events by account and type."""
        return _nested(await self._rows("operator_event_counts"))

    async def signal_counts(self) -> dict[str, dict[str, int]]:
        """Number of signals by account and status."""
        return _nested(await self._rows("operator_signal_counts"))

    async def unfinished(self) -> list[Row]:
        """Executions, intents and signals that have no end yet: account_name, kind, name, status."""
        return await self._rows("operator_unfinished")

    async def health(self) -> Row:
        """The one row of `v_position_health_check`."""
        return (await self._rows("operator_health"))[0]

    async def heartbeats(self) -> list[Row]:
        """Every component's last heartbeat, its age in seconds, and the state of its lease."""
        return await self._rows("operator_heartbeats")

    async def managed_accounts(self) -> frozenset[str]:
        """Accounts whose lease a manager holds now."""
        return frozenset(row["account_name"] for row in await self._rows("operator_managed_accounts"))

    async def own_orders(self, account: str, ids: Sequence[str]) -> list[KnownOrder]:
        """What the account's books know of these order ids and client order ids: whose they are, and still wanted?"""
        return [KnownOrder(**row) for row in await self._rows("own_orders", account, list(ids))]

    async def account_numbers(self) -> dict[str, str | None]:
        """The broker's account number by account; None before its first run."""
        return {row["account_name"]: row["account_number"] for row in await self._rows("operator_account_numbers")}

    async def alarms(self) -> list[Row]:
        """Alarms that are still active."""
        return await self._rows("operator_alarms")

    async def broken_event(self, account: str) -> int | None:
        """First sequence number at which the account's chain of events does not verify, None when it does (I6)."""
        async with self._read.use() as connection:
            broken: int | None = await connection.fetchval(query("operator_broken_event"), account)
            return broken

    @contextlib.asynccontextmanager
    async def snapshot(self) -> AsyncGenerator[Any, None]:
        """A connection on which everything is read as it was at one moment, whatever is written meanwhile."""
        async with self._read.use() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
            yield connection

    async def answers(self, commands: Sequence[int]) -> list[Row]:
        """Requests and their answers; `ok` is None until a manager has answered."""
        return await self._rows("operator_answers", list(commands))

    async def _rows(self, name: str, *arguments: object) -> list[Row]:
        async with self._read.use() as connection:
            return [dict(row) for row in await connection.fetch(query(name), *arguments)]

    # Asking ------------------------------------------------------------------------------------------------------

    async def insert_command(
        self,
        account: str,
        verb: CommandVerb,
        *,
        requested_by: str,
        position_id: int | None = None,
        symbol: str | None = None,
        arguments: Mapping[str, object] | None = None,
    ) -> int:
        """Ask an account's manager for something; returns the id of the request. Raises StoreRejected."""
        body = encode_json(dict(arguments or {}))
        async with self._ask.use() as connection:
            number: int = await connection.fetchval(
                query("insert_command"), account, verb.value, position_id, symbol, requested_by[:200], body
            )
            return number

    async def insert_recommendations(self, rows: Sequence[Mapping[str, object]]) -> list[int]:
        """Insert signals in one statement; returns their ids in order.

        Keys are columns of `dispatch_recommendations`; `account_name` is required, `created_at` is now unless given
        (as the venue's clock has it). Values may be wrong: the dispatcher sets such signals aside. Raises InvalidInput
        for an unknown key, a missing account or a time without a zone, StoreRejected.
        """
        if not rows:
            return []
        body = encode_json([_recommendation_row(row) for row in rows])
        async with self._ask.use() as connection:
            found = await connection.fetch(query("insert_recommendations"), body)
        return [row["id"] for row in found]


def _nested(rows: Sequence[Row]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for row in rows:
        found.setdefault(row["account_name"], {})[row["kind"]] = row["n"]
    return found


def _recommendation_row(row: Mapping[str, object]) -> dict[str, object]:
    unknown = sorted(set(row) - set(_RECOMMENDATION_COLUMNS))
    if unknown:
        raise InvalidInput(f"a signal has no {', '.join(unknown)}; it may have {', '.join(_RECOMMENDATION_COLUMNS)}")
    account = row.get("account_name")
    if not isinstance(account, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", account):
        raise InvalidInput(f"a signal needs the name of its account, was {str(account)[:80]!r}")
    for name in ("created_at", "expires_at"):
        moment = row.get(name)
        if moment is not None and (not isinstance(moment, datetime) or moment.tzinfo is None):
            raise InvalidInput(f"{name} must be an aware time, was {str(moment)[:80]!r}")
    return {name: str(value) if isinstance(value, (Decimal, float, int)) else value for name, value in row.items()}


# Statements of people: any type that PostgreSQL has ----------------------------------------------------------------


async def _prepare(connection: Any, sql: str) -> Any:
    statement = await connection.prepare(sql)
    attributes = statement.get_attributes()
    if not attributes:
        raise StoreRejected("only read-only statements run here, and this one returns no columns")
    if statement.get_parameters():
        raise StoreRejected("the statement has parameters ($1): write the values themselves")
    return statement


_INFINITY = {"date": 2**31 - 1, "timestamp": 2**63 - 1, "timestamptz": 2**63 - 1}


def _moment_decoder(kind: str, zero: date, unit: timedelta) -> Callable[[tuple[int]], date | str]:
    """Decode what PostgreSQL counts from the year 2000; asyncpg itself would make infinity a moment of year 9999."""

    def decode(counted: tuple[int]) -> date | str:
        if counted[0] >= _INFINITY[kind]:
            return "infinity"
        if counted[0] < -_INFINITY[kind]:
            return "-infinity"
        try:
            return zero + unit * counted[0]
        except OverflowError as error:
            raise StoreRejected(f"a {kind} before year 1 or after year 9999: cast it to text") from error

    return decode


_MICROSECOND = timedelta(microseconds=1)
# Types that asyncpg turns into something that is not their value. A text form cannot be part of a composite.
_DECODERS: tuple[tuple[str, Literal["text", "binary", "tuple"], Callable[[Any], Any]], ...] = (
    ("date", "tuple", _moment_decoder("date", date(2000, 1, 1), timedelta(days=1))),
    ("timestamp", "tuple", _moment_decoder("timestamp", datetime(2000, 1, 1), _MICROSECOND)),  # noqa: DTZ001
    ("timestamptz", "tuple", _moment_decoder("timestamptz", datetime(2000, 1, 1, tzinfo=UTC), _MICROSECOND)),
    ("json", "binary", orjson.loads),
    ("jsonb", "binary", lambda encoded: orjson.loads(encoded[1:])),  # after the number of the form
    *((name, "text", str) for name in ("bit", "varbit", "pg_lsn", "tid")),
    *((name, "text", str) for name in ("point", "line", "lseg", "box", "path", "polygon", "circle")),
)


# The one-byte "char" of the system tables, for which asyncpg takes no decoder.
_CHAR = 18


def _row(row: Any, convert: Sequence[Callable[[Any], Any]]) -> tuple[Any, ...]:
    return tuple(None if value is None else each(value) for each, value in zip(convert, row.values(), strict=True))


def _plain(value: Any) -> Any:
    """A value without the driver's own kinds: a composite becomes an object, a range its text."""
    if isinstance(value, asyncpg.Record):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, asyncpg.Range):
        return str(value).removeprefix("<Range ").removesuffix(">")
    return value


async def _prepare_reading(connection: Any) -> None:
    for name, form, decoder in _DECODERS:
        await connection.set_type_codec(name, encoder=str, decoder=decoder, schema="pg_catalog", format=form)


@contextlib.asynccontextmanager
async def _undone(connection: Any) -> AsyncIterator[None]:
    """A read-only transaction that is never committed: what a statement sets in the session is undone as well."""
    transaction = connection.transaction(readonly=True)
    await transaction.start()
    try:
        yield
    finally:
        if not connection.is_closed():
            await transaction.rollback()


@contextlib.contextmanager
def _in_the_databases_words() -> Iterator[None]:
    """What is wrong with a person's statement is said as PostgreSQL says it."""
    try:
        yield
    except asyncpg.PostgresError as error:
        if str(error.sqlstate).startswith(_CONNECTION_TROUBLE):
            raise
        raise StoreRejected(f"PostgreSQL says: {error.args[0]}") from error
    except asyncpg.UnsupportedClientFeatureError as error:
        raise StoreRejected(f"the answer cannot be read: {error}; cast it to text") from error
    except UnicodeEncodeError as error:
        raise StoreRejected(f"the statement is no UTF-8 text: {error}") from error
