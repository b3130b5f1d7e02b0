"""What `exitguard db status` tells."""

from typing import Any

from exitguard.cli.database import embedded_server, external_url
from exitguard.config.settings import Settings
from exitguard.store.connection import place
from exitguard.store.schema import as_owner, database_exists, expected_schema_version, schema_version


async def ledger_status(settings: Settings) -> dict[str, Any]:
    """Where the ledger is, whether it answers, and its schema version. Starts nothing.

    Raises StoreUnavailable when a database that is not ours does not answer.
    """
    name = settings.database.embedded_name
    body: dict[str, Any] = {"embedded": name is not None, "running": True, "database": None, "port": None, "pid": None}
    body |= {"data": None, "schema_version": None, "needed_schema_version": expected_schema_version()}
    if name is None:
        url = await external_url(settings)
    else:
        info = await embedded_server().running()
        if info is None:
            return body | {"running": False}
        body |= {"port": info.port, "pid": info.pid, "data": str(info.data_dir)}
        async with as_owner(info.url("postgres")) as connection:
            if not await database_exists(connection, name):
                return body
        url = info.url(name)
    body["database"] = place(url)
    async with as_owner(url) as connection:
        body["schema_version"] = await schema_version(connection)
    return body
