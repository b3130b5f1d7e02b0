"""Fixtures that several folders share."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.support.postgres import (
    Databases,
    StoreMaker,
    open_folder,
    removed_at_end,
    session_databases,
    store_maker,
)


@pytest.fixture(scope="session")
def databases() -> Iterator[Databases]:
    """The session's PostgreSQL server."""
    with session_databases() as found:
        yield found


@pytest.fixture
def database_url(databases: Databases) -> Iterator[str]:
    """A migrated, empty database for this test alone; its schema must not be changed."""
    url = databases.borrow()
    yield url
    databases.give_back(url)


@pytest.fixture
def own_database_url(databases: Databases) -> Iterator[str]:
    """A migrated, empty database that the test may change as it likes."""
    url = databases.fresh()
    yield url
    databases.drop(url)


@pytest.fixture
def empty_database_url(databases: Databases) -> Iterator[str]:
    """A database without any schema."""
    url = databases.fresh(migrated=False)
    yield url
    databases.drop(url)


@pytest.fixture
async def make_store(database_url: str) -> AsyncIterator[StoreMaker]:
    """Makes `PgAccountStore`s on this test's database: `store = await make_store("large")`."""
    async with store_maker(database_url) as maker:
        yield maker


@pytest.fixture
def state_dir() -> Iterator[Path]:
    """A folder for EXITGUARD_STATE_DIR in which an embedded server of any identity can live."""
    with removed_at_end(open_folder()) as folder:
        yield folder
