"""What `exitguard db status` tells."""

import asyncio
from typing import Any

from exitguard.cli.database import connect, embedded_server, schema_version, where
from exitguard.config.build import build_info
from exitguard.config.secrets import SecretReader, database_url
from exitguard.config.settings import Settings


def ledger_status(settings: Settings) -> dict[str, Any]:
    """Where the ledger is, whether it answers, and its schema version. Starts nothing.

    Raises StoreUnavailable when a database that is not ours does not answer.
    """
    name = settings.database.embedded_name
    body: dict[str, Any] = {"embedded": name is not None, "running": True, "database": None, "port": None, "pid": None}
    body |= {"data": None, "schema_version": None, "needed_schema_version": build_info().schema_version}
    if name is None:
        url = database_url(settings.database, SecretReader(region=settings.aws_region))
    else:
        info = asyncio.run(embedded_server().running())
        if info is None:
            return body | {"running": False}
        body |= {"port": info.port, "pid": info.pid, "data": str(info.data_dir)}
        with connect(info.url("postgres")) as connection:
            known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone()
        if known is None:
            return body
        url = info.url(name)
    body["database"] = where(url)
    with connect(url) as connection:
        body["schema_version"] = schema_version(connection)
    return body
