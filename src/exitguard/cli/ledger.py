"""The ledger for long-running processes: the embedded server is started, migrated and kept alive."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import structlog

from exitguard.config.paths import state_dir
from exitguard.config.redaction import remember_secret
from exitguard.config.secrets import SecretReader, database_url
from exitguard.config.settings import Settings
from exitguard.store.embedded import EmbeddedServer, EmbeddedServerError
from exitguard.store.migrate import migrate_async

_WATCH_AGAIN_SECONDS = 5.0


@contextlib.asynccontextmanager
async def open_ledger(settings: Settings) -> AsyncIterator[str]:
    """Connection URL of the ledger, which is there for as long as the context.

    The embedded database belongs to this build and is brought to its schema version; a database of somebody else is
    never changed by the way: the stores refuse another schema version and say what to run (F61).
    """
    name = settings.database.embedded_name
    if name is None:
        reader = SecretReader(region=settings.aws_region)
        yield await asyncio.to_thread(database_url, settings.database, reader)
        return
    server = EmbeddedServer(state_dir())
    info = await server.ensure_running()
    try:
        remember_secret(info.password_file.read_text(encoding="utf-8").strip())
        await server.create_database(name)
        url = server.url(name)
        result = await migrate_async(url)
        if result.applied:
            structlog.get_logger().info("schema migrated", version=result.version, applied=list(result.applied))
        watcher = asyncio.create_task(_keep_alive(server), name="embedded server")
        try:
            yield url
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
    finally:
        await server.release()


async def _keep_alive(server: EmbeddedServer) -> None:
    """Start the server again whenever it dies; exits go on from the journal meanwhile, so this never gives up."""
    while True:
        try:
            await server.watch()
        except EmbeddedServerError as error:
            structlog.get_logger().error("embedded PostgreSQL cannot be kept running", reason=str(error))
        await asyncio.sleep(_WATCH_AGAIN_SECONDS)
