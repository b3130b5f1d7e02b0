"""The ledger as commands see it: where it is, and short sessions in an operator's role."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast
from urllib.parse import urlsplit

import psycopg
import psycopg.sql
from psycopg.rows import dict_row

from exitguard.cli.exits import CommandFailed, Exit
from exitguard.config.build import build_info
from exitguard.config.paths import ensure_state_dir
from exitguard.config.redaction import remember_secret
from exitguard.config.secrets import SecretReader, database_url
from exitguard.config.settings import Settings
from exitguard.store.embedded import EmbeddedServer, ServerInfo
from exitguard.store.port import SchemaMismatch, StoreUnavailable

OPERATOR = "exitguard_operator"
DESK = "exitguard_desk"
CONNECT_TIMEOUT = 10
_STATEMENT_TIMEOUT = 60

Row = dict[str, Any]
Connection = psycopg.Connection[Row]


def embedded_server() -> EmbeddedServer:
    """The embedded server of the state directory."""
    return EmbeddedServer(ensure_state_dir())


@contextmanager
def database(
    settings: Settings, *, keep: bool = False, prepare: bool = True
) -> Iterator[tuple[str, ServerInfo | None]]:
    """Connection URL of the ledger's owner; the embedded server runs at least for as long as the context.

    With `keep` it outlives the context. With `prepare` an embedded database without any schema gets this build's; no
    other database is ever changed by the way.
    """
    name = settings.database.embedded_name
    if name is None:
        yield database_url(settings.database, SecretReader(region=settings.aws_region)), None
        return
    server = embedded_server()
    info = asyncio.run(server.ensure_running(keep=keep))
    try:
        remember_secret(info.password_file.read_text(encoding="utf-8").strip())
        asyncio.run(server.create_database(name))
        if prepare:
            _prepare(server.url(name))
        yield server.url(name), info
    finally:
        asyncio.run(server.release())


def _prepare(url: str) -> None:
    with connect(url) as connection:
        version = schema_version(connection)
    if version == 0:
        # Imported late: it is needed once in a ledger's life and takes longer to load than most commands to run.
        from exitguard.store.migrate import migrate

        migrate(url)


@contextmanager
def session(settings: Settings, role: str = OPERATOR, *, check_schema: bool = True) -> Iterator[Connection]:
    """A connection in an operator's role, who sees all accounts.

    OPERATOR reads in a read-only session; DESK may also insert commands and signals. Raises StoreUnavailable;
    SchemaMismatch unless `check_schema` is False.
    """
    with database(settings) as (url, _), connect(url) as connection:
        _require(schema_version(connection), check_schema)
        _become(connection, role)
        yield connection


def connect(url: str) -> Connection:
    """Connect as the login in the URL. Raises StoreUnavailable, which names the server but not the password."""
    try:
        return cast(
            Connection,
            psycopg.connect(url, connect_timeout=CONNECT_TIMEOUT, autocommit=True, row_factory=dict_row),
        )
    except psycopg.OperationalError as error:
        raise StoreUnavailable(f"the database at {where(url)} cannot be reached: {first_line(error)}") from error
    except psycopg.Error as error:
        raise StoreUnavailable(f"the database URL cannot be used: {first_line(error)}") from error


def where(url: str) -> str:
    """Host, port and name of a database, without login and password."""
    try:
        parts = urlsplit(url)
        return f"{parts.hostname or 'the local socket'}:{parts.port or 5432}{parts.path}"
    except ValueError:
        return "an address that is no URL"


def first_line(error: BaseException) -> str:
    """The first line of what PostgreSQL says."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def schema_version(connection: Connection) -> int:
    """The schema version of a database; 0 when it has none."""
    if not value(connection, "SELECT to_regclass('exitguard.migrations') IS NOT NULL"):
        return 0
    return int(value(connection, "SELECT coalesce(max(version), 0) FROM exitguard.migrations"))


def _require(version: int, check: bool) -> None:
    expected = build_info().schema_version
    if check and version != expected:
        remedy = "run: exitguard db migrate" if version < expected else "use a build that knows this schema"
        raise SchemaMismatch(f"the database has schema version {version}, this build needs {expected}; {remedy}")


def _become(connection: Connection, role: str) -> None:
    try:
        # CURRENT_DATE in an operator's statement means the trading day, which is New York's.
        connection.execute("SET timezone = 'America/New_York'")
        connection.execute(f"SET statement_timeout = '{_STATEMENT_TIMEOUT}s'")
        connection.execute(psycopg.sql.SQL("SET ROLE {}").format(psycopg.sql.Identifier(role)))
    except psycopg.errors.InsufficientPrivilege as error:
        login = connection.info.user
        raise CommandFailed(
            f"the database login {login} is not an operator; as the owner: GRANT {role} TO {login}", Exit.UNAVAILABLE
        ) from error
    except psycopg.errors.InvalidParameterValue as error:
        raise CommandFailed(
            "the database has no exitguard schema; run: exitguard db migrate", Exit.UNAVAILABLE
        ) from error
    if role == OPERATOR:
        connection.execute("SET default_transaction_read_only = on")


def rows(connection: Connection, statement: str, parameters: Sequence[object] = ()) -> list[Row]:
    """Run one of our own statements. Raises StoreUnavailable when the connection breaks."""
    try:
        return connection.execute(statement, parameters).fetchall()
    except psycopg.OperationalError as error:
        raise StoreUnavailable(f"the database broke off: {first_line(error)}") from error


def value(connection: Connection, statement: str, parameters: Sequence[object] = ()) -> Any:
    """The only value of the only row of a statement of ours."""
    (row,) = rows(connection, statement, parameters)
    (only,) = row.values()
    return only
