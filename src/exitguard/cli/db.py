"""`exitguard db`: the ledger itself."""

import asyncio
import os
import subprocess
from typing import Annotated

import psycopg
from cyclopts import App, Parameter

from exitguard.cli.context import load, quiet_logs
from exitguard.cli.database import OPERATOR, database, embedded_server, first_line, session, where
from exitguard.cli.exits import CommandFailed, Exit
from exitguard.cli.output import ConfigFile, Json, emit, emit_json, emit_table, remark
from exitguard.config.errors import ConfigError, Problem
from exitguard.config.settings import Settings

app = App(name="db", help="The ledger: migrate, query, psql, url, the embedded server.", version_flags=[])


@app.command
def query(
    sql: Annotated[str, Parameter(help="One statement that only reads.")],
    /,
    *,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Run one read-only statement as the operator who sees all accounts. Exit 1 if PostgreSQL refuses it."""
    quiet_logs()
    if not sql.strip(" \t\r\n;"):
        raise CommandFailed("there is no statement to run")
    with session(load(config), check_schema=False) as connection:
        try:
            # Prepared, because only then more than one statement in the text is refused.
            cursor = connection.execute(sql.encode(), prepare=True)
            found = cursor.fetchall() if cursor.description is not None else []
        except psycopg.Error as error:
            raise CommandFailed(f"PostgreSQL says: {first_line(error)}") from error
        columns = [column.name for column in cursor.description or ()]
    if json:
        emit_json(found)
        return
    emit_table(columns, ([row[column] for column in columns] for row in found))
    remark(f"{len(found)} row{'' if len(found) == 1 else 's'}")


@app.command
def url(*, config: ConfigFile = None, json: Json = False) -> None:
    """Print a connection URL of the ledger, with its password. Starts the embedded server, which then stays up."""
    quiet_logs()
    with database(load(config), keep=True) as (address, info):
        if json:
            emit_json({"url": address, "embedded": info is not None})
        else:
            emit(address)
        if info is not None:
            remark("the embedded PostgreSQL stays up; stop it with: exitguard db stop")


@app.command
def psql(*arguments: Annotated[str, Parameter(allow_leading_hyphen=True)], config: ConfigFile = None) -> int:
    """Open psql on the ledger, as the operator who only reads. Arguments go to psql."""
    quiet_logs()
    settings = load(config)
    with database(settings) as (address, info):
        program = str(info.psql) if info is not None else "psql"
        environment = dict(os.environ)
        environment["PGOPTIONS"] = f"-c role={OPERATOR} -c default_transaction_read_only=on"
        try:
            # The URL travels in the environment of a service name, not in the arguments that everybody can list.
            environment |= _connection_environment(address)
            return subprocess.run([program, *arguments], env=environment, check=False).returncode  # noqa: S603
        except FileNotFoundError as error:
            raise CommandFailed(
                f"{program} is not installed; install the PostgreSQL client", Exit.UNAVAILABLE
            ) from error


def _connection_environment(address: str) -> dict[str, str]:
    parts = psycopg.conninfo.conninfo_to_dict(address)
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
    names |= {"sslmode": "PGSSLMODE", "sslrootcert": "PGSSLROOTCERT", "connect_timeout": "PGCONNECT_TIMEOUT"}
    return {names[key]: str(text) for key, text in parts.items() if key in names and text is not None}


@app.command(name="migrate")
def migrate_schema(*, config: ConfigFile = None, json: Json = False) -> None:
    """Bring the ledger to the schema version of this build. Safe to repeat."""
    from exitguard.store.migrate import migrate

    quiet_logs()
    with database(load(config), prepare=False) as (address, _):
        result = migrate(address)
    if json:
        emit_json({"version": result.version, "applied": list(result.applied)})
        return
    applied = ", ".join(str(version) for version in result.applied) or "nothing to do"
    emit(f"schema version {result.version} of {where(address)} (applied: {applied})")


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
    with database(settings, keep=True) as (_, info):
        assert info is not None
        if json:
            emit_json({"running": True, "pid": info.pid, "port": info.port, "data": str(info.data_dir)})
        else:
            emit(f"the embedded PostgreSQL runs as process {info.pid} on {info.host}:{info.port}")


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
    body = ledger_status(load(config))
    if json:
        emit_json(body)
    else:
        for name, text in body.items():
            emit(f"{name.replace('_', ' '):16}{'-' if text is None else text}")
    return Exit.OK if body["running"] else Exit.WRONG
