"""`exitguard db`: the ledger itself."""

import asyncio
import os
import signal
from contextlib import aclosing
from typing import Annotated

from cyclopts import App, Parameter

from exitguard.cli.context import load, quiet_logs
from exitguard.cli.database import ask, database, embedded_server
from exitguard.cli.exits import CommandFailed, Exit
from exitguard.cli.output import ConfigFile, Json, JsonArray, emit, emit_json, emit_table, remark
from exitguard.config.errors import ConfigError, Problem
from exitguard.config.settings import Settings
from exitguard.store.connection import place
from exitguard.store.operator import READER, Operator

app = App(name="db", help="The ledger: migrate, query, psql, url, the embedded server.", version_flags=[])


@app.command
def query(
    sql: Annotated[str, Parameter(help="One statement that only reads.")],
    /,
    *,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Run one read-only statement as the operator who sees all accounts. Exit 1 if PostgreSQL refuses it.

    With --json an answer may have any length; as a table at most 100000 rows, more are an error.
    """
    quiet_logs()
    ask(
        load(config),
        lambda operator: _print_json(operator, sql) if json else _print_table(operator, sql),
        check_schema=False,
    )


async def _print_json(operator: Operator, sql: str) -> None:
    async with aclosing(operator.stream(sql)) as parts:
        array = JsonArray()
        async for part in parts:
            array.extend(part.dictionaries())
        array.end()


async def _print_table(operator: Operator, sql: str) -> None:
    found = await operator.query(sql)
    emit_table(found.columns, found.rows)
    remark(f"{len(found.rows)} row{'' if len(found.rows) == 1 else 's'}")


@app.command
def url(*, config: ConfigFile = None, json: Json = False) -> None:
    """Print a connection URL of the ledger, with its password. Starts the embedded server, which then stays up."""
    quiet_logs()
    settings = load(config)

    async def tell() -> None:
        async with database(settings, keep=True) as (address, info):
            if json:
                emit_json({"url": address, "embedded": info is not None})
            else:
                emit(address)
            if info is not None:
                remark("the embedded PostgreSQL stays up; stop it with: exitguard db stop")

    asyncio.run(tell())


@app.command
def psql(*arguments: Annotated[str, Parameter(allow_leading_hyphen=True)], config: ConfigFile = None) -> int:
    """Open psql on the ledger, as the operator who only reads. Arguments go to psql."""
    quiet_logs()
    return asyncio.run(_psql(load(config), arguments))


async def _psql(settings: Settings, arguments: tuple[str, ...]) -> int:
    async with database(settings) as (address, info):
        program = str(info.psql) if info is not None else "psql"
        environment = dict(os.environ)
        environment["PGOPTIONS"] = f"-c role={READER} -c default_transaction_read_only=on"
        # The password travels in the environment and not in the arguments, which everybody can list.
        environment |= _connection_environment(address)
        # Ctrl-C is for psql, which ends a statement with it and not itself.
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, lambda: None)
        try:
            process = await asyncio.create_subprocess_exec(program, *arguments, env=environment)
        except FileNotFoundError as error:
            raise CommandFailed(
                f"{program} is not installed; install the PostgreSQL client", Exit.UNAVAILABLE
            ) from error
        return await process.wait()


def _connection_environment(address: str) -> dict[str, str]:
    # libpq's own reading of the URL, for libpq's own environment; imported late, only psql needs it.
    from psycopg.conninfo import conninfo_to_dict

    parts = conninfo_to_dict(address)
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
    names |= {"sslmode": "PGSSLMODE", "sslrootcert": "PGSSLROOTCERT", "connect_timeout": "PGCONNECT_TIMEOUT"}
    return {names[key]: str(text) for key, text in parts.items() if key in names and text is not None}


@app.command(name="migrate")
def migrate_schema(*, config: ConfigFile = None, json: Json = False) -> None:
    """Bring the ledger to the schema version of this build. Safe to repeat."""
    from exitguard.store.migrate import migrate_async

    quiet_logs()
    settings = load(config)

    async def bring() -> None:
        async with database(settings, prepare=False) as (address, _):
            result = await migrate_async(address)
        if json:
            emit_json({"version": result.version, "applied": list(result.applied)})
            return
        applied = ", ".join(str(version) for version in result.applied) or "nothing to do"
        emit(f"schema version {result.version} of {place(address)} (applied: {applied})")

    asyncio.run(bring())


def _embedded_only(settings: Settings) -> None:
    if settings.database.embedded_name is None:
        found = "a database of yours"
        raise ConfigError([Problem(settings.source, "database.url", found, "embedded, to start or stop our server")])


@app.command
def start(*, config: ConfigFile = None, json: Json = False) -> None:
    """Start the embedded PostgreSQL; it stays up until `exitguard db stop`."""
    quiet_logs()
    settings = load(config)
    _embedded_only(settings)

    async def begin() -> None:
        async with database(settings, keep=True) as (_, info):
            assert info is not None
            if json:
                emit_json({"running": True, "pid": info.pid, "port": info.port, "data": str(info.data_dir)})
            else:
                emit(f"the embedded PostgreSQL runs as process {info.pid} on {info.host}:{info.port}")

    asyncio.run(begin())


@app.command
def stop(*, config: ConfigFile = None, json: Json = False) -> None:
    """Stop the embedded PostgreSQL, whoever uses it."""
    quiet_logs()
    _embedded_only(load(config))
    stopped = asyncio.run(embedded_server().stop())
    if json:
        emit_json({"running": False, "stopped": stopped})
    else:
        emit("the embedded PostgreSQL is stopped" if stopped else "the embedded PostgreSQL did not run")


@app.command
def status(*, config: ConfigFile = None, json: Json = False) -> int:
    """Tell whether the ledger can be reached and which schema version it has; exit 1 if the embedded server is down."""
    from exitguard.cli.status import ledger_status

    quiet_logs()
    body = asyncio.run(ledger_status(load(config)))
    if json:
        emit_json(body)
    else:
        for name, text in body.items():
            emit(f"{name.replace('_', ' '):22} {'-' if text is None else text}")
    return Exit.OK if body["running"] else Exit.WRONG
