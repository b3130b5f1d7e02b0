"""Real PostgreSQL for tests: one embedded server a test session, one migrated template, a fresh database a test."""

import asyncio
import contextlib
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg

from exitguard.store.embedded import EmbeddedServer
from exitguard.store.migrate import migrate
from exitguard.store.port import Lease
from exitguard.store.repository import PgAccountStore

TEMPLATE = "exitguard_template"


def open_folder(prefix: str = "exitguard-test-") -> Path:
    """A temporary folder that every identity may pass through.

    pytest's own temporary folders are closed to others, and the embedded server of root runs as another identity: it
    would have to move its data outside of them.
    """
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    folder.chmod(0o755)
    return folder


@contextlib.contextmanager
def removed_at_end(folder: Path) -> Iterator[Path]:
    """Remove the folder when done."""
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@dataclass(frozen=True)
class Databases:
    """Makes databases on the session's server, and lends emptied ones again: making one takes half a second."""

    server: EmbeddedServer
    spare: list[str] = field(default_factory=list)

    def url(self, name: str) -> str:
        return self.server.url(name)

    def fresh(self, *, migrated: bool = True) -> str:
        """Create a database and return its URL; an empty one when not `migrated`."""
        name = f"test_{uuid.uuid4().hex}"
        template = TEMPLATE if migrated else "template0"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.url(name)

    def borrow(self) -> str:
        """A migrated, empty database; its schema must not be changed."""
        return self.spare.pop() if self.spare else self.fresh()

    def give_back(self, url: str) -> None:
        """Empty the database for the next test. Sessions that a test left open are ended."""
        name = url.rsplit("/", 1)[1]
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", (name,)
            )
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(_EMPTY)
        self.spare.append(url)

    def drop(self, url: str) -> None:
        name = url.rsplit("/", 1)[1]
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


# Without triggers and foreign keys, because events refuse to be deleted. Identities start again.
_EMPTY = """
SET session_replication_role = replica;
DO $$
DECLARE
    v_name text;
BEGIN
    FOR v_name IN SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = 'public' LOOP
        EXECUTE 'DELETE FROM ' || v_name;
    END LOOP;
    FOR v_name IN SELECT format('%I.%I', schemaname, sequencename) FROM pg_sequences
        WHERE schemaname = 'public' AND last_value IS NOT NULL
    LOOP
        EXECUTE 'ALTER SEQUENCE ' || v_name || ' RESTART';
    END LOOP;
END
$$;
"""


@contextlib.contextmanager
def session_databases() -> Iterator[Databases]:
    """Start the session's server and migrate the template once; leaves nothing behind."""
    with removed_at_end(open_folder()) as folder:
        server = EmbeddedServer(folder)
        try:
            _run(lambda: _prepare(server))
            yield Databases(server)
        finally:
            _run(server.destroy)


def _run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine whether or not this thread has a loop that runs: a fixture may be asked for from either."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: asyncio.run(work())).result()


async def _prepare(server: EmbeddedServer) -> None:
    await server.ensure_running()
    await server.create_database(TEMPLATE)
    await asyncio.to_thread(migrate, server.url(TEMPLATE))


class StoreMaker:
    """Makes account stores on one database and closes them all."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._stack = contextlib.AsyncExitStack()

    async def __call__(self, account_name: str, *, component: str = "manager") -> PgAccountStore:
        store = await PgAccountStore.connect(self.url, account_name, component=component)
        self._stack.push_async_callback(store.close)
        return store

    async def leased(self, account_name: str, *, component: str = "manager") -> tuple[PgAccountStore, Lease]:
        """A store that holds the lease of its account."""
        store = await self(account_name, component=component)
        return store, await store.acquire_lease(f"test {uuid.uuid4()}", timedelta(seconds=30), component)

    async def close(self) -> None:
        await self._stack.aclose()


@contextlib.asynccontextmanager
async def store_maker(url: str) -> AsyncIterator[StoreMaker]:
    """A maker that closes its stores at the end."""
    maker = StoreMaker(url)
    try:
        yield maker
    finally:
        await maker.close()
