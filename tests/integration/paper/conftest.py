"""An exchange with two accounts and hand-made stock prices for each test that asks for one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import aiohttp
import pytest
from tests.support.waiting import PATIENCE, eventually

from exitguard.paper.server.app import PaperServer
from exitguard.paper.server.settings import PaperSettings

# A Wednesday, ten in the morning in New York.
START = datetime(2026, 11, 18, 15, 0, tzinfo=UTC)


class Client:
    """A raw HTTP client of one account."""

    def __init__(self, session: aiohttp.ClientSession, server: PaperServer) -> None:
        self._session = session
        self.server = server

    async def call(self, method: str, path: str, **arguments: Any) -> tuple[int, Any]:
        async with self._session.request(method, self.server.rest_url + path, **arguments) as answer:
            if answer.content_type == "application/json":
                return answer.status, await answer.json()
            return answer.status, await answer.text()

    async def get(self, path: str, **arguments: Any) -> tuple[int, Any]:
        return await self.call("GET", path, **arguments)

    async def post(self, path: str, body: Any = None, **arguments: Any) -> tuple[int, Any]:
        return await self.call("POST", path, json=body, **arguments)

    async def delete(self, path: str, **arguments: Any) -> tuple[int, Any]:
        return await self.call("DELETE", path, **arguments)

    async def buy(self, symbol: str = "AAPL", qty: Any = 10, **fields: Any) -> dict[str, Any]:
        order = {"symbol": symbol, "qty": qty, "side": "buy", "type": "market", "time_in_force": "day", **fields}
        status, body = await self.post("/v2/orders", order)
        assert status == 200, body
        return body

    async def quote(self, symbol: str, bid: float, ask: float, **fields: Any) -> None:
        status, body = await self.post("/admin/quote", {"symbol": symbol, "bid": bid, "ask": ask, **fields})
        assert status == 200, body

    async def fault(self, kind: str, **fields: Any) -> dict[str, Any]:
        status, body = await self.post("/admin/faults", {"kind": kind, **fields})
        assert status == 200, body
        return body


def settings(**changes: Any) -> PaperSettings:
    """Two accounts, two stocks whose prices are set by hand, time standing still at START."""
    given: dict[str, Any] = {
        "accounts": {"large": Decimal(100_000), "tiny": Decimal(1_000)},
        "manual": {"AAPL": Decimal(190), "F": Decimal("11.50")},
        "start": START,
        "paused": True,
        **changes,
    }
    return PaperSettings(**given)


@asynccontextmanager
async def running(**changes: Any) -> AsyncIterator[Client]:
    """A server with changed settings, and a client of account `large`."""
    async with PaperServer(settings(**changes)) as server, client_of(server) as client:
        yield client


@asynccontextmanager
async def client_of(server: PaperServer, account: str = "large") -> AsyncIterator[Client]:
    """A raw client of an account."""
    one = server.accounts[account]
    headers = {"APCA-API-KEY-ID": one.key, "APCA-API-SECRET-KEY": one.secret}
    async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=4 * PATIENCE)) as session:
        yield Client(session, server)


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    """An exchange in the default test settings, seen by account `large`."""
    async with running() as made:
        yield made


async def unanswered(client: Client, kind: str, order: dict[str, Any]) -> None:
    """Send an order that a fault leaves without an answer: the connection breaks, or nothing comes."""
    asking = asyncio.ensure_future(client.post("/v2/orders", order))
    await eventually(lambda: client.server.exchange.faults.injected[kind] == 1, "the fault to strike")
    if kind.startswith("reset"):
        with pytest.raises(aiohttp.ClientError):
            await asking
        return
    answered, _ = await asyncio.wait({asking}, timeout=0.2)
    assert not answered
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
