"""The same invariants as seen by clients of a whole exchange: HTTP requests, quotes, time, and faults on the way."""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from decimal import Decimal
from random import Random
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from tests.integration.paper.conftest import START, Client, client_of
from tests.integration.paper.test_trade_stream import listening
from tests.property.paper_engine.test_balances import Day
from tests.support.waiting import eventually

from exitguard.paper.engine import ExchangeSettings
from exitguard.paper.server.app import PaperServer
from exitguard.paper.server.settings import PaperSettings

# Faults that no longer let a client say what its account holds; an overfill crosses zero on purpose.
FAULTS = (
    "accepted_then_rejected", "cancel_then_filled", "cancel_slow", "cancel_lost", "partial_fill",
    "partial_fill_then_cancel", "fill_withheld", "expired_early", "done_for_day", "replaced_by_venue",
    "replace_rejected", "positions_lag", "lookup_lag", "http_504_before", "http_504_after", "reset_before",
    "reset_after", "http_500", "html_error", "rate_limit", "empty_list", "malformed_body", "quote_drop", "quote_stale",
    "quote_zero", "quote_crossed", "quote_nan", "quote_wild", "clock_skew",
)  # fmt: skip
# What a listener can see through: nothing is lost for good.
STREAM_FAULTS = ("stream_duplicate", "stream_reorder", "stream_delay", "stream_unknown", "stream_null")
EVENTS = ("external_close", "external_add", "external_flip", "liquidation", "exercise", "assignment", "split")
CALL, PUT = "KO261120C00050000", "KO261120P00050000"
SYMBOLS = ("KO", "KO", "KO", CALL, PUT)


class Books(Day):
    """The invariants of the engine's own property test, over a running server."""

    def __init__(self, server: PaperServer) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        server.exchange.trade_update_listeners.append(lambda account, data: self.events.append((account.name, data)))
        self.floor = SimpleNamespace(exchange=server.exchange, events=self.events)  # type: ignore[assignment]
        self.refused = []


class Trader:
    """Sends what a plan says; what it is answered may be anything but a defect."""

    def __init__(self, client: Client, other: Client) -> None:
        self.clients = {"large": client, "tiny": other}
        self.statuses: list[int | str] = []
        self.ids: dict[str, list[str]] = {"large": [], "tiny": []}

    async def call(self, account: str, method: str, path: str, body: Any = None) -> Any:
        try:
            status, answer = await self.clients[account].call(method, path, json=body)
        except (aiohttp.ClientError, ValueError) as error:
            self.statuses.append(type(error).__name__)
            return None
        self.statuses.append(status)
        return answer if status == 200 else None

    async def order(self, chance: Random, account: str) -> None:
        symbol, side = chance.choice(SYMBOLS), chance.choice(["buy", "buy", "sell"])
        price = Decimal(50) if symbol == "KO" else Decimal(2)
        near = str(price + Decimal(chance.randint(-60, 60)).scaleb(-2))
        body: dict[str, Any] = {"symbol": symbol, "side": side, "qty": chance.choice(["1", "2", "5"])}
        kind = chance.choice(["market", "market", "limit", "stop", "bracket", "oco"])
        body |= {"type": kind if kind in ("market", "limit", "stop") else "limit", "time_in_force": "day"}
        if body["type"] == "limit":
            body["limit_price"] = near
        if kind == "stop":
            body["stop_price"] = near
        if kind in ("bracket", "oco"):
            up, down = str(price + 3), str(price - 1)
            body |= {"order_class": kind, "time_in_force": "gtc", "take_profit": {"limit_price": up}}
            body["stop_loss"] = {"stop_price": down}
            if kind == "oco":
                del body["limit_price"]
        answer = await self.call(account, "POST", "/v2/orders", body)
        if isinstance(answer, dict) and "id" in answer:
            self.ids[account].append(answer["id"])

    def pick(self, chance: Random, account: str) -> str:
        known = self.ids[account]
        return known[-chance.randint(1, min(6, len(known)))] if known else "none"

    async def act(self, chance: Random) -> None:
        account = chance.choice(["large", "large", "tiny"])
        what = chance.choices(
            ["order", "quote", "cancel", "replace", "close", "close_all", "fault", "event", "time", "look"],
            [30, 30, 6, 6, 4, 1, 8, 3, 2, 4],
        )[0]
        if what == "order":
            await self.order(chance, account)
        elif what == "quote":
            symbol = chance.choice(SYMBOLS)
            middle = (5000 if symbol == "KO" else 200) + chance.randint(-90, 90)
            prices = {"bid": (middle - 1) / 100, "ask": (middle + 1) / 100}
            await self.call(account, "POST", "/admin/quote", {"symbol": symbol, **prices})
        elif what == "cancel":
            await self.call(account, "DELETE", f"/v2/orders/{self.pick(chance, account)}")
        elif what == "replace":
            change = chance.choice([{"limit_price": "50.10"}, {"stop_price": "49.20"}, {"qty": "3"}])
            answer = await self.call(account, "PATCH", f"/v2/orders/{self.pick(chance, account)}", change)
            if isinstance(answer, dict) and "id" in answer:
                self.ids[account].append(answer["id"])
        elif what == "close":
            await self.call(account, "DELETE", f"/v2/positions/{chance.choice(SYMBOLS)}")
        elif what == "close_all":
            await self.call(account, "DELETE", f"/v2/positions?cancel_orders={chance.choice(['true', 'false'])}")
        elif what == "fault":
            fault = {"kind": chance.choice(FAULTS), "count": chance.randint(1, 2), "parameters": {"seconds": 0}}
            await self.call(account, "POST", "/admin/faults", {**fault, "probability": chance.choice([0.5, 1])})
        elif what == "event":
            fault = {"kind": chance.choice(EVENTS), "account": account, "symbol": chance.choice(SYMBOLS)}
            await self.call(account, "POST", "/admin/faults", fault)
        elif what == "time":
            await self.call(account, "POST", "/admin/advance", {"seconds": chance.choice([60, 3600, 8 * 3600])})
        else:
            await self.call(account, "GET", chance.choice(["/v2/positions", "/v2/orders?nested=true", "/v2/clock"]))


class Listener:
    """Folds trade updates as a bot has to: by execution id, whatever is repeated, late or unknown."""

    def __init__(self) -> None:
        self.executions: dict[str, tuple[str, str, str]] = {}
        self.repeated: Counter[str] = Counter()

    async def listen(self, socket: Any) -> None:
        async for frame in socket:
            data = json.loads(frame)["data"]
            if data is None or data["event"] not in ("fill", "partial_fill"):
                continue
            key = data["execution_id"]
            said = (data["order"]["symbol"], data["qty"], data["price"])
            assert self.executions.setdefault(key, said) == said, "an execution that is told twice is the same one"
            self.repeated[key] += 1


@contextlib.asynccontextmanager
async def trading(seed: int) -> AsyncIterator[tuple[Trader, Books]]:
    settings = PaperSettings(
        accounts={"large": Decimal(100_000), "tiny": Decimal(1_000)},
        manual={"KO": Decimal(50)},
        start=START,
        paused=True,
        seed=seed,
        # Everything happens at once: what a wall clock decides is not decided by a seed.
        exchange=ExchangeSettings(0, 0, 0, 0, partial_fill_probability=0.2),
    )
    async with (
        PaperServer(settings) as server,
        client_of(server, "large") as large,
        client_of(server, "tiny") as tiny,
    ):
        yield Trader(large, tiny), Books(server)


async def day(seed: int, steps: int) -> list[Any]:
    """A day of a plan; everything that a seed decides."""
    chance = Random(seed)
    async with trading(seed) as (trader, books):
        for _ in range(steps):
            await trader.act(chance)
            # Lets what was accepted happen, so that the next step meets the same exchange in every run.
            await asyncio.wait_for(trader.clients["large"].post("/admin/advance", {"seconds": 1}), 20)
            books.check()
        exchange = books.floor.exchange
        assert all(
            status in (200, 204, 207, 400, 403, 404, 422, 429, 500, 502, 504) or isinstance(status, str)
            for status in trader.statuses
        )
        injected = exchange.faults.injected
        # What nobody broke did not break: every 5xx was a fault's.
        broken = sum(isinstance(status, int) and status >= 500 for status in trader.statuses)
        assert broken == sum(injected[kind] for kind in ("http_500", "html_error", "http_504_before", "http_504_after"))
        return [trader.statuses, exchange.fills_json(), exchange.state_json(), list(injected.items())]


@pytest.mark.parametrize("seed", range(1, 9))
async def test_i1_i5_books_balance_whatever_clients_and_faults_do(seed: int) -> None:
    assert len((await day(seed, 150))[1]) > 5, "a plan in which nothing is traded shows nothing"


@pytest.mark.parametrize("seed", [1, 2])
async def test_the_same_seed_gives_the_same_day(seed: int) -> None:
    assert await day(seed, 80) == await day(seed, 80)


async def test_a_listener_that_folds_by_execution_knows_every_fill() -> None:
    """Trade updates that come twice, late, out of order and between unknown ones, over a day of orders and faults."""
    chance, heard = Random(5), Listener()
    async with trading(5) as (trader, books), listening(trader.clients["large"]) as socket:
        ear = asyncio.ensure_future(heard.listen(socket))
        for kind in STREAM_FAULTS:
            fault = {"kind": kind, "probability": 0.2, "parameters": {"seconds": 0.01}}
            await trader.clients["large"].post("/admin/faults", fault)
        for _ in range(120):
            await trader.act(chance)
            await trader.clients["large"].post("/admin/advance", {"seconds": 1})
            books.check()
        await trader.clients["large"].delete("/admin/faults")
        fills = books.floor.exchange.fills_json()
        wanted = {
            fill["execution_id"]: (fill["symbol"], fill["qty"], fill["price"])
            for fill in fills
            if fill["account"] == "large"
        }
        await eventually(lambda: ear.done() or len(heard.executions) >= len(wanted), "every execution is heard")
        ear.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ear
        assert heard.executions == wanted
        assert len(wanted) > 5
        assert max(heard.repeated.values()) == 2
