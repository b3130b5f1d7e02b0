"""Which schema version a database has and which one this build needs. Knows no migration: it loads in no time."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from exitguard.store.connection import Link
from exitguard.store.port import SchemaMismatch
from exitguard.store.queries import query

FOLDER = Path(__file__).parent / "migrations"
_CONNECT_TIMEOUT = 10.0
_STATEMENT_TIMEOUT = 60.0


@lru_cache(maxsize=1)
def expected_schema_version() -> int:
    """The schema version that this build needs: the number of its last migration."""
    return int(max(FOLDER.glob("[0-9][0-9][0-9][0-9]_*.sql")).name[:4])


async def schema_version(connection: Any) -> int:
    """The schema version of a database; 0 when it has none.

    Args:
        connection: an asyncpg connection.
    """
    if not await connection.fetchval("SELECT to_regclass('exitguard.migrations') IS NOT NULL"):
        return 0
    return int(await connection.fetchval("SELECT coalesce(max(version), 0) FROM exitguard.migrations"))


async def is_current(connection: Any) -> bool:
    """Whether the database has all of this build's migrations, each as it stands, and no other.

    Args:
        connection: an asyncpg connection.
    """
    if not await schema_version(connection):
        return False
    rows = await connection.fetch("SELECT version, checksum FROM exitguard.migrations ORDER BY version")
    files = sorted(FOLDER.glob("[0-9][0-9][0-9][0-9]_*.sql"))
    ours = [(int(path.name[:4]), hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]
    return [(row["version"], row["checksum"]) for row in rows] == ours


async def check_schema(connection: Any) -> None:
    """Refuse to work on another schema version.

    Args:
        connection: an asyncpg connection.

    Raises:
        SchemaMismatch: with both versions and what to do.
    """
    found = await schema_version(connection)
    if found != expected_schema_version():
        raise SchemaMismatch(mismatch(found, expected_schema_version()))


def mismatch(found: int, expected: int) -> str:
    """What is wrong with a database of another version, and what to do."""
    remedy = "run: exitguard db migrate" if found < expected else "deploy a build that knows this schema"
    return f"the database has schema version {found}, this build needs {expected}; {remedy}"


async def database_exists(connection: Any, name: str) -> bool:
    """Whether the server of this asyncpg connection has a database of this name."""
    return await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name) is not None


async def schema_note(connection: Any) -> str:
    """What `set_schema_note` left in the database; empty when there is nothing."""
    note = "SELECT coalesce(obj_description(to_regnamespace('exitguard'), 'pg_namespace'), '')"
    return str(await connection.fetchval(note))


async def set_schema_note(connection: Any, text: str) -> None:
    """Leave a note in the database, for `schema_note`; it goes with the schema."""
    await connection.execute(
        await connection.fetchval("SELECT format('COMMENT ON SCHEMA exitguard IS %L', $1::text)", text)
    )


async def drop_schema(connection: Any) -> None:
    """Drop what the migrations made, with all that it holds, and nothing else of the database."""
    for row in await connection.fetch(query("own_objects")):
        await connection.execute(row["statement"])
    await connection.execute("DROP SCHEMA IF EXISTS exitguard CASCADE")


@asynccontextmanager
async def as_owner(url: str) -> AsyncIterator[Any]:
    """A connection as the login in the URL, for what is done to a database and not in it. Raises StoreUnavailable."""
    settings = {"search_path": "public", "application_name": "exitguard owner"}
    link = Link(url, settings, connect_timeout=_CONNECT_TIMEOUT, command_timeout=_STATEMENT_TIMEOUT)
    try:
        async with link.use() as connection:
            yield connection
    finally:
        await link.close()
