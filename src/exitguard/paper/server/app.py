"""A running paper exchange inside this process."""

import asyncio
import contextlib
import socket
from types import TracebackType
from typing import Self

import uvicorn

from exitguard.core.errors import ExitguardError
from exitguard.paper.engine import Account, Exchange
from exitguard.paper.server.asgi import PaperApp
from exitguard.paper.server.host import Host
from exitguard.paper.server.keeper import Keeper
from exitguard.paper.server.protocol import bounded
from exitguard.paper.server.settings import PaperSettings
from exitguard.paper.server.state import StateFile

_TEST_SYMBOL_SECONDS = 1.0
# How long clients may take to take their leave when the exchange stops.
_GOODBYE_SECONDS = 3.0


class PortInUse(ExitguardError):
    """The port cannot be bound."""


class PaperServer:
    """An exchange on a port of its own: `async with PaperServer(settings) as server`.

    URLs are complete; `rest_url` and `data_url` have no /v2. Leaving the context closes every socket and ends every
    task.
    """

    def __init__(self, settings: PaperSettings) -> None:
        self.settings = settings
        self._socket: socket.socket | None = None
        self._server: uvicorn.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._host: Host | None = None
        self._app: PaperApp | None = None

    # What a client needs
    @property
    def host(self) -> Host:
        """The venue behind the sockets."""
        assert self._host is not None, "the server has not been started"
        return self._host

    @property
    def app(self) -> PaperApp:
        """The ASGI application, for white-box tests."""
        assert self._app is not None, "the server has not been started"
        return self._app

    @property
    def exchange(self) -> Exchange:
        """The engine."""
        return self.host.exchange

    @property
    def accounts(self) -> dict[str, Account]:
        """Accounts by name, with `.key`, `.secret`, `.account_number`."""
        return self.host.accounts

    @property
    def port(self) -> int:
        """The port listened on."""
        assert self._socket is not None, "the server has not been started"
        return int(self._socket.getsockname()[1])

    @property
    def address(self) -> str:
        """HOST:PORT for clients on this machine."""
        host = "127.0.0.1" if self.settings.host in ("0.0.0.0", "") else self.settings.host  # noqa: S104
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    @property
    def rest_url(self) -> str:
        """Trading REST, without /v2."""
        return f"http://{self.address}"

    @property
    def data_url(self) -> str:
        """Market data REST."""
        return f"http://{self.address}"

    @property
    def admin_url(self) -> str:
        """The admin API's base, without /admin."""
        return f"http://{self.address}"

    @property
    def stream_url(self) -> str:
        """The trade stream."""
        return f"ws://{self.address}/stream"

    @property
    def data_stream_url(self) -> str:
        """The stock data socket."""
        return f"ws://{self.address}/v2/iex"

    @property
    def option_stream_url(self) -> str:
        """The option data socket."""
        return f"ws://{self.address}/v1beta1/indicative"

    def description(self) -> dict[str, object]:
        """The first line of `exitguard paper --json`."""
        return {
            "rest": self.rest_url,
            "stream": self.stream_url,
            "data": self.data_url,
            "data_stream": self.data_stream_url,
            "option_stream": self.option_stream_url,
            "admin": f"{self.admin_url}/admin",
            "accounts": {
                name: {"key": account.key, "secret": account.secret, "account_number": account.account_number}
                for name, account in self.accounts.items()
            },
        }

    # Life
    async def start(self) -> None:
        """Bind, build the venue, listen. Raises PortInUse, and InvalidInput for settings that make no sense."""
        self._socket = _bind(self.settings.host, self.settings.port)
        keeper: Keeper | None = None
        try:
            folder = self.settings.state
            keeper = Keeper(None if folder is None else StateFile(folder, self.settings.seed))
            self._host = Host(self.settings, keeper)
            self._app = PaperApp(self._host)
            config = uvicorn.Config(
                self._app,
                loop="none",
                http=bounded(self.settings.limits),
                ws="websockets-sansio",
                ws_max_size=self.settings.limits.largest_message,
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=5,
            )
            config.load()
            self._server = uvicorn.Server(config)
            self._server.lifespan = config.lifespan_class(config)
            await self._server.startup(sockets=[self._socket])
            await self._server.on_tick(0)
        except BaseException:
            self._socket.close()
            if keeper is not None:
                keeper.close()
            raise
        self._tasks = [
            asyncio.create_task(self._host.player.run(), name="market player"),
            asyncio.create_task(self._housekeeping(), name="exchange housekeeping"),
        ]

    async def _housekeeping(self) -> None:
        """Once a wall second: the Date header, the test feed's symbol."""
        while True:
            await asyncio.sleep(_TEST_SYMBOL_SECONDS)
            assert self._server is not None
            await self._server.on_tick(0)
            self.host.keeper.save_prices()
            self.app.data_streams.publish_test_symbol()

    async def stop(self) -> None:
        """Close every connection and end every task."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._tasks = []
        if self._host is not None:
            self._host.player.stop()
            self._host.close()
        if self._app is not None:
            self._app.stop()
        if self._server is not None and self._socket is not None:
            await _shut_down(self._server)
            self._socket.close()
            self._server = None
        if self._host is not None:
            self._host.keeper.close()

    async def wait_failed(self) -> None:
        """Return never, unless the market stops by an error, which is raised."""
        waits: list[asyncio.Future[None]] = [*self._tasks, self.host.keeper.failed]
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


async def _shut_down(server: uvicorn.Server) -> None:
    """Stop listening and end every connection. uvicorn's own shutdown does the same in steps of a tenth of a second."""
    for listener in server.servers:
        listener.close()
    state = server.server_state
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _GOODBYE_SECONDS
    for connection in list(state.connections):
        connection.shutdown()
    # Connections and tasks are uvicorn's own sets, without an event that says when they are empty.
    while (state.connections or state.tasks) and loop.time() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.002)
    left = list(state.tasks)
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    for listener in server.servers:
        await listener.wait_closed()


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Without the protocol named asyncio does not take it for TCP, and answers wait 40 ms for an acknowledgement.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen(2048)
    except OSError as error:
        bound.close()
        raise PortInUse(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another port or stop what uses it"
        ) from error
    bound.setblocking(False)
    return bound
