"""The ledger for long-running processes: the embedded server is started, migrated and kept alive."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import structlog

from exitguard.cli.database import embedded_database, embedded_server, external_url
from exitguard.config.settings import Settings
from exitguard.store.embedded import EmbeddedServer, EmbeddedServerError
from exitguard.store.schema import as_owner, is_current

_WATCH_AGAIN_SECONDS = 5.0


@contextlib.asynccontextmanager
async def open_ledger(settings: Settings) -> AsyncIterator[str]:
    """Connection URL of the ledger, which is there for as long as the context.

    The embedded database belongs to this build and is brought to its schema version; a database of somebody else is
    never changed by the way: the stores refuse another schema version and say what to run (F61).
    """
    name = settings.database.embedded_name
    if name is None:
        yield await external_url(settings)
        return
    server = embedded_server()
    async with embedded_database(server, name) as (url, _):
        await _bring_up_to_date(url)
        watcher = asyncio.create_task(_keep_alive(server), name="embedded server")
        try:
            yield url
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)


async def _bring_up_to_date(url: str) -> None:
    async with as_owner(url) as connection:
        if await is_current(connection):
            return
    # Imported late: it takes longer to load than everything that a manager does before its first evaluation.
    from exitguard.store.migrate import migrate_async

    result = await migrate_async(url)
    if result.applied:
        structlog.get_logger().info("schema migrated", version=result.version, applied=list(result.applied))


async def _keep_alive(server: EmbeddedServer) -> None:
    """Start the server again whenever it dies; exits go on from the journal meanwhile, so this never gives up."""
    while True:
        try:
            await server.watch()
        except EmbeddedServerError as error:
            structlog.get_logger().error("embedded PostgreSQL cannot be kept running", reason=str(error))
        await asyncio.sleep(_WATCH_AGAIN_SECONDS)
