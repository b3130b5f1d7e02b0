"""One connection to PostgreSQL that comes back after it broke, and errors in the store's own words."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

import asyncpg

from exitguard.store.port import (
    AccountMismatch,
    LeaseHeld,
    LeaseLost,
    SchemaMismatch,
    StoreError,
    StoreRejected,
    StoreUnavailable,
)

# Raised by the functions of the migrations.
_OWN_ERRORS: dict[str, type[StoreError]] = {
    "XG001": LeaseLost,
    "XG002": LeaseHeld,
    "XG003": AccountMismatch,
    "XG011": LeaseLost,
}
_START_IT = "; start it, or correct its address"
_WHAT_TO_DO = {"XG002": "; end that one, or wait for its end: exitguard run --standby"}
# Classes of SQLSTATE that say "not now" and not "never": connection, transaction rollback (deadlock, serialization),
# resources, operator intervention (shutdown, cancelled statement), system error.
_NOT_NOW = ("08", "40", "53", "57", "58")
# Read-only: a replica, or a server in recovery after a fail-over. Object in use: lock timeout.
_NOT_NOW_STATES = ("25006", "55P03", "25P03", "25P04")


def translated(error: BaseException) -> StoreError:
    """What an error of the driver means to the caller."""
    if isinstance(error, asyncpg.PostgresError):
        state = str(error.sqlstate or "")
        text = str(error.args[0]) if error.args else type(error).__name__
        if state in _OWN_ERRORS:
            return _OWN_ERRORS[state](text + _WHAT_TO_DO.get(state, ""))
        if state.startswith(_NOT_NOW) or state in _NOT_NOW_STATES:
            return StoreUnavailable(f"the database cannot answer now: {text}")
        where = f" ({error.constraint_name})" if getattr(error, "constraint_name", None) else ""
        detail = f": {error.detail}" if getattr(error, "detail", None) else ""
        return StoreRejected(f"the database refused: {text}{where}{detail}"[:1000])
    if isinstance(error, (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError)):
        return StoreUnavailable(f"the database cannot be reached: {type(error).__name__} {error}".rstrip())
    return StoreRejected(f"the statement cannot be sent: {type(error).__name__} {error}")


# What a driver call can fail with; anything else is a defect of ours and travels unchanged.
_DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)


@contextlib.contextmanager
def translating() -> Iterator[None]:
    """Turn driver errors into store errors."""
    try:
        yield
    except asyncpg.DataError as error:  # a value that PostgreSQL has no form for
        raise StoreRejected(f"the database refused a value: {error}") from error
    except _DRIVER_ERRORS as error:
        raise translated(error) from error


def place(url: str) -> str:
    """Host, port and name of a database, without login and password."""
    try:
        parts = urlsplit(url)
        return f"{parts.hostname or 'the local socket'}:{parts.port or 5432}{parts.path}"
    except ValueError:
        return "an address that is no URL"


def no_connection(error: Exception, url: str, settings: Mapping[str, str], seconds: float) -> StoreError:
    """Why a connection with these session settings could not be opened, and what to do. Never tells the password."""
    where, role = place(url), settings.get("role")
    if isinstance(error, asyncpg.PostgresError):
        if isinstance(error, asyncpg.InvalidParameterValueError) and f'role "{role}"' in str(error):
            return SchemaMismatch(f"the database at {where} has no exitguard schema; run: exitguard db migrate")
        if role is not None and isinstance(error, asyncpg.InsufficientPrivilegeError):
            login = unquote(urlsplit(url).username or "") or "of this connection"
            return StoreUnavailable(
                f"the database login {login} may not be {role} at {where}; as the owner: GRANT {role} TO {login}"
            )
        return StoreUnavailable(f"the database at {where} refuses the connection: {error.args[0]}; check DATABASE_URL")
    if isinstance(error, TimeoutError):
        return StoreUnavailable(f"the database at {where} cannot be reached: no answer in {seconds:g} s{_START_IT}")
    if isinstance(error, ValueError):  # also what asyncpg says of a URL that it cannot use
        return StoreUnavailable(f"the database URL cannot be used: {error}")
    cause = getattr(error, "strerror", None) or error
    return StoreUnavailable(f"the database at {where} cannot be reached: {cause}{_START_IT}")


class Link:
    """One connection, used by one caller at a time, opened on demand and again after it broke.

    Args:
        url: connection URL.
        settings: server settings of the session (role, app.account, time-outs).
        connect_timeout: seconds to wait for a connection.
        command_timeout: seconds to wait for any one statement.
        on_connect: called with each new connection before it is used.
    """

    def __init__(
        self,
        url: str,
        settings: dict[str, str],
        *,
        connect_timeout: float,
        command_timeout: float,
        on_connect: Callable[[Any], Awaitable[None]] | None = None,
    ) -> None:
        self._url = url
        self._settings = settings
        self._connect_timeout = connect_timeout
        self._command_timeout = command_timeout
        self._on_connect = on_connect
        self._lock = asyncio.Lock()
        self._connection: Any = None
        self._closed = False
        # Counts connections, so that a caller can tell that session state (locks, listeners) is gone.
        self.generation = 0

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def is_open(self) -> bool:
        """Whether the connection stands, as far as this side knows."""
        return self._connection is not None and not self._connection.is_closed()

    @contextlib.asynccontextmanager
    async def use(self) -> AsyncIterator[Any]:
        """Borrow the connection. Raises StoreUnavailable and what `translating` raises."""
        async with self._lock:
            with translating():
                connection = await self._ready()
                try:
                    yield connection
                except (OSError, TimeoutError):
                    # A peer that went silent would make the next statement wait for the cancel of this one.
                    connection.terminate()
                    raise

    async def _ready(self) -> Any:
        if self._closed:
            raise StoreUnavailable("the store has been closed")
        if self._connection is not None and not self._connection.is_closed():
            return self._connection
        self._connection = None
        try:
            connection = await asyncpg.connect(
                self._url,
                timeout=self._connect_timeout,
                command_timeout=self._command_timeout,
                server_settings=self._settings,
            )
        except (*_DRIVER_ERRORS, ValueError) as error:
            raise no_connection(error, self._url, self._settings, self._connect_timeout) from error
        try:
            if self._on_connect is not None:
                await self._on_connect(connection)
        except BaseException:
            connection.terminate()
            raise
        self._connection = connection
        self.generation += 1
        return connection

    async def close(self) -> None:
        """Close the connection for good."""
        self._closed = True
        connection, self._connection = self._connection, None
        if connection is not None and not connection.is_closed():
            try:
                await connection.close(timeout=2)
            except _DRIVER_ERRORS:
                connection.terminate()
