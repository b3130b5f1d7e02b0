"""The ledger as commands see it: where it is, and one question to it as an operator."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from exitguard.cli.exits import CommandFailed, Exit
from exitguard.config.paths import ensure_state_dir
from exitguard.config.redaction import remember_secret
from exitguard.config.secrets import SecretReader, database_url
from exitguard.config.settings import Settings
from exitguard.store.operator import Operator
from exitguard.store.schema import as_owner, schema_version

if TYPE_CHECKING:
    from exitguard.store.embedded import EmbeddedServer, ServerInfo

Row = dict[str, Any]
_T = TypeVar("_T")


def embedded_server() -> "EmbeddedServer":
    """The embedded server of the state directory."""
    # Imported late: a command on somebody else's database needs none of it.
    from exitguard.store.embedded import EmbeddedServer

    return EmbeddedServer(ensure_state_dir())


@asynccontextmanager
async def embedded_database(
    server: "EmbeddedServer", name: str, *, keep: bool = False, recreate: bool = False
) -> AsyncIterator[tuple[str, "ServerInfo"]]:
    """A database of the embedded server, which runs at least for as long as the context; with `keep` it outlives it."""
    info = await server.ensure_running(keep=keep)
    try:
        remember_secret(info.password_file.read_text(encoding="utf-8").strip())
        await server.create_database(name, recreate=recreate)
        yield server.url(name), info
    finally:
        await server.release()


async def external_url(settings: Settings) -> str:
    """Connection URL of a database that is not embedded; its secrets may have to be fetched from elsewhere."""
    return await asyncio.to_thread(database_url, settings.database, SecretReader(region=settings.aws_region))


@asynccontextmanager
async def database(
    settings: Settings, *, keep: bool = False, prepare: bool = True
) -> AsyncIterator[tuple[str, "ServerInfo | None"]]:
    """Connection URL of the ledger's owner; the embedded server runs at least for as long as the context.

    With `keep` it outlives the context. With `prepare` an embedded database without any schema gets this build's; no
    other database is ever changed by the way.
    """
    name = settings.database.embedded_name
    if name is None:
        yield await external_url(settings), None
        return
    async with embedded_database(embedded_server(), name, keep=keep) as (url, info):
        if prepare:
            await _prepare(url)
        yield url, info


async def _prepare(url: str) -> None:
    async with as_owner(url) as connection:
        version = await schema_version(connection)
    if version == 0:
        # Imported late: it is needed once in a ledger's life and takes longer to load than most commands to run.
        from exitguard.store.migrate import migrate_async

        await migrate_async(url)


def ask(settings: Settings, question: Callable[[Operator], Awaitable[_T]], *, check_schema: bool = True) -> _T:
    """The answer to a question to the ledger, as an operator who sees all accounts.

    Raises StoreUnavailable; SchemaMismatch unless `check_schema` is False.
    """

    async def answer() -> _T:
        async with (
            database(settings) as (url, _),
            await Operator.connect(url) if check_schema else Operator(url) as operator,
        ):
            return await question(operator)

    return asyncio.run(answer())


async def require_account(operator: Operator, settings: Settings, name: str | None) -> None:
    """Refuse an account that neither the settings nor the ledger know: a slip must not read as "nothing there".

    None stands for all accounts. Raises CommandFailed.
    """
    if name is None or name in settings.selected:
        return
    # Imported late: only a name that the settings do not know needs it.
    from exitguard.store.audit import audit_accounts

    known = await audit_accounts(operator)
    if name not in known:
        names = ", ".join(sorted({*settings.selected, *known})) or "none"
        raise CommandFailed(f"no account {name!r} in the settings or in the ledger; known: {names}", Exit.USAGE)


def whose_ledger(settings: Settings) -> str:
    """What to add to "nothing there" when no settings said where to look: it may be the wrong folder."""
    if settings.path is not None or settings.database.embedded_name is None:
        return ""
    return f" in the embedded ledger of {ensure_state_dir()}; no settings file was found (--config, EXITGUARD_CONFIG)"
