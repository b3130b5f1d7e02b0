"""Bring a database to this build's schema version (F61, F66, F67).

Alembic runs the migrations; its revisions are made from the numbered SQL files and nothing else.
"""

import asyncio
import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg
import sqlalchemy
from alembic import op
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import Script, ScriptDirectory

from exitguard.store.connection import place
from exitguard.store.port import SchemaMismatch, StoreError, StoreUnavailable
from exitguard.store.schema import FOLDER, mismatch

_FILE_NAME = re.compile(r"^(?P<version>[0-9]{4})_(?P<name>[a-z0-9_]+)\.sql$")
# Any constant will do: it keeps concurrent starts of this program apart within one database.
_LOCK_KEY = 7_273_160_001
_CONNECT_TIMEOUT = 10
# Views that respect the reader's row-level security came with this version.
OLDEST_SERVER = 15


class MigrationFailed(StoreError):
    """A migration did not apply; its transaction was rolled back."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One SQL file. `postcondition` is a SELECT that must return true after it."""

    version: int
    name: str
    text: str
    postcondition: str
    path: Path

    @property
    def checksum(self) -> str:
        """Sha256 of the file, hexadecimal."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def revision(self) -> str:
        """The revision name that Alembic knows it by."""
        return f"{self.version:04d}"


@dataclass(frozen=True, slots=True)
class MigrationResult:
    """What a run did: the versions that it applied, and the version that the database has now."""

    applied: tuple[int, ...]
    version: int


def load_migrations(folder: Path = FOLDER) -> tuple[Migration, ...]:
    """Read the SQL files in order. Raises MigrationFailed for a gap, a duplicate or a missing postcondition."""
    found: list[Migration] = []
    for path in sorted(folder.glob("*.sql")):
        match = _FILE_NAME.match(path.name)
        if match is None:
            raise MigrationFailed(f"{path} must be named like 0007_what_it_does.sql")
        text = path.read_text(encoding="utf-8")
        condition = " ".join(line[3:].strip() for line in text.splitlines() if line.startswith("--!"))
        if not condition:
            raise MigrationFailed(f"{path} has no postcondition (`--! SELECT ...` lines)")
        found.append(Migration(int(match["version"]), match["name"], text, condition, path))
    if not found or [migration.version for migration in found] != list(range(1, len(found) + 1)):
        numbers = ", ".join(migration.revision for migration in found) or "none"
        raise MigrationFailed(f"migrations in {folder} must be numbered 0001, 0002, ... without gaps; found {numbers}")
    return tuple(found)


def migrate(url: str, migrations: tuple[Migration, ...] | None = None) -> MigrationResult:
    """Apply what is missing, one transaction a migration; safe to repeat and to run from several processes at once.

    Args:
        url: connection URL of the owner of the database.
        migrations: only for tests of the runner itself; default: the files of this build.

    Raises:
        StoreUnavailable: the database cannot be reached.
        SchemaMismatch: the database is newer than this build, or an applied file was changed later.
        MigrationFailed: a migration or its postcondition failed; the error names it, nothing of it stays.
    """
    wanted = migrations if migrations is not None else load_migrations()
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://",
        # A login that is named like a schema of ours must not put the tables there.
        creator=lambda: psycopg.connect(url, connect_timeout=_CONNECT_TIMEOUT, options="-c search_path=public"),
        poolclass=sqlalchemy.NullPool,
    )
    try:
        with engine.connect() as connection:
            _require_server(connection)
            connection.exec_driver_sql(f"SELECT pg_advisory_lock({_LOCK_KEY})")
            connection.exec_driver_sql("CREATE SCHEMA IF NOT EXISTS exitguard")
            connection.commit()
            return _run(connection, wanted)
    except sqlalchemy.exc.OperationalError as error:
        raise StoreUnavailable(f"the database at {place(url)} cannot be reached: {_first_line(error.orig)}") from error
    except sqlalchemy.exc.DBAPIError as error:
        raise MigrationFailed(f"the schema cannot be prepared: {_first_line(error.orig)}") from error
    finally:
        engine.dispose()


async def migrate_async(url: str) -> MigrationResult:
    """Run `migrate` in a thread."""
    return await asyncio.to_thread(migrate, url)


def _require_server(connection: sqlalchemy.Connection) -> None:
    found = int(connection.exec_driver_sql("SHOW server_version_num").scalar_one())
    if found < OLDEST_SERVER * 10_000:
        raise MigrationFailed(f"the server is PostgreSQL {found // 10_000}, exitguard needs {OLDEST_SERVER} or newer")


def _run(connection: sqlalchemy.Connection, wanted: tuple[Migration, ...]) -> MigrationResult:
    before = _verify_history(connection, wanted)
    connection.commit()
    config = Config()
    scripts = _SqlScripts(wanted)

    def steps(revision: Any, _context: Any) -> Any:
        return scripts._upgrade_revs("head", revision)

    with EnvironmentContext(config, scripts, fn=steps) as environment:
        environment.configure(
            connection=connection,
            transaction_per_migration=True,
            version_table="alembic_version",
            version_table_schema="exitguard",
        )
        with environment.begin_transaction():
            environment.run_migrations()
    connection.commit()
    after = _verify_history(connection, wanted)
    connection.commit()
    if after != wanted[-1].version:
        raise MigrationFailed(f"the database is at version {after} after migrating to {wanted[-1].version}")
    return MigrationResult(tuple(range(before + 1, after + 1)), after)


def _verify_history(connection: sqlalchemy.Connection, wanted: tuple[Migration, ...]) -> int:
    """Compare what was applied with the files; returns the version of the database."""
    exists = connection.exec_driver_sql("SELECT to_regclass('exitguard.migrations') IS NOT NULL").scalar_one()
    if not exists:
        return 0
    rows = connection.exec_driver_sql("SELECT version, checksum FROM exitguard.migrations ORDER BY version").all()
    if rows and rows[-1][0] > wanted[-1].version:
        raise SchemaMismatch(mismatch(rows[-1][0], wanted[-1].version))
    for (version, checksum), migration in zip(rows, wanted, strict=False):
        if version != migration.version or checksum != migration.checksum:
            raise SchemaMismatch(
                f"migration {migration.path.name} was changed after it had been applied to this database "
                f"(checksum {migration.checksum[:12]}, applied {checksum[:12]}): restore the file"
            )
    return len(rows)


class _SqlScripts(ScriptDirectory):
    """Alembic's script directory, with revisions made from SQL files instead of Python files."""

    def __init__(self, migrations: tuple[Migration, ...]) -> None:
        self._migrations = migrations
        super().__init__(str(FOLDER))

    def _load_revisions(self) -> Iterator[Script]:
        for migration in self._migrations:
            module = ModuleType(f"exitguard_migration_{migration.revision}")
            earlier = migration.version - 1
            module.__dict__.update(
                revision=migration.revision,
                down_revision=f"{earlier:04d}" if earlier else None,
                upgrade=_upgrade_of(migration),
            )
            yield Script(module, migration.revision, str(migration.path))


def _upgrade_of(migration: Migration) -> Callable[..., None]:
    def upgrade(**_: object) -> None:
        raw: Any = op.get_bind().connection.driver_connection
        try:
            raw.execute(migration.text)
            row = raw.execute(migration.postcondition).fetchone()
        except psycopg.Error as error:
            raise MigrationFailed(f"migration {migration.path.name} failed: {_first_line(error)}") from error
        if row is None or row[0] is not True:
            raise MigrationFailed(f"migration {migration.path.name} ran, but its postcondition does not hold")
        raw.execute(
            "INSERT INTO exitguard.migrations (version, name, checksum) VALUES (%s, %s, %s)",
            (migration.version, migration.name, migration.checksum),
        )

    return upgrade


def _first_line(error: BaseException | None) -> str:
    return str(error).strip().splitlines()[0] if error and str(error).strip() else type(error).__name__
