"""Every fault kind acts, is counted and is logged: one demonstration each, over the wire, and none is left out."""

import asyncio
import contextlib
import json
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.paper.conftest import START, Client, running, unanswered
from tests.integration.paper.sockets import connected, hear, tell
from tests.integration.paper.test_trade_stream import keys, listening
from tests.support.waiting import PATIENCE, eventually
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from exitguard.core.errors import InvalidInput
from exitguard.paper.engine import FAULT_KINDS
from exitguard.paper.server.fault_file import read_faults

CALL = "AAPL261120C00190000"
SOON = {"seconds": 0.1}
# No machine is so slow that this passes by itself.
LATE = {"seconds": 3600}
Demonstration = Callable[[Client], Awaitable[None]]
DEMONSTRATIONS: dict[str, Demonstration] = {}


def shows(kind: str) -> Callable[[Demonstration], Demonstration]:
    def keep(function: Demonstration) -> Demonstration:
        assert kind not in DEMONSTRATIONS
        DEMONSTRATIONS[kind] = function
        return function

    return keep


async def status(client: Client, order: dict[str, Any], wanted: str) -> dict[str, Any]:
    """Wait for an order's status."""
    seen: dict[str, Any] = {}
    for _ in range(1000):
        code, seen = await client.get(f"/v2/orders/{order['id']}")
        if code == 200 and seen["status"] == wanted:
            return seen
        await asyncio.sleep(0.003)
    raise AssertionError(f"wanted {wanted}, the order is {seen}")


async def resting(client: Client, **fields: Any) -> dict[str, Any]:
    order = await client.buy(type="limit", limit_price="100", **fields)
    return await status(client, order, "new")


async def hold(client: Client, symbol: str = "AAPL", qty: int = 10) -> None:
    order = await client.buy(symbol, qty=qty)
    await status(client, order, "filled")


async def positions(client: Client) -> dict[str, str]:
    _, found = await client.get("/v2/positions")
    return {position["symbol"]: position["qty"] for position in found}


async def until_positions(client: Client, wanted: dict[str, str]) -> None:
    for _ in range(1000):
        if await positions(client) == wanted:
            return
        await asyncio.sleep(0.003)
    raise AssertionError(f"wanted {wanted}, positions are {await positions(client)}")


# Orders -----------------------------------------------------------------------------------------------------------


@shows("accepted_then_rejected")
async def _(client: Client) -> None:
    await client.fault("accepted_then_rejected")
    await status(client, await client.buy(), "rejected")


@shows("cancel_then_filled")
async def _(client: Client) -> None:
    order = await resting(client)
    await client.fault("cancel_then_filled")
    assert (await client.delete(f"/v2/orders/{order['id']}"))[0] == 204
    await status(client, order, "filled")


@shows("cancel_slow")
async def _(client: Client) -> None:
    for seconds, shown in ((LATE, "pending_cancel"), (SOON, "canceled")):
        order = await resting(client)
        await client.fault("cancel_slow", count=1, parameters=seconds)
        await client.delete(f"/v2/orders/{order['id']}")
        await status(client, order, shown)


@shows("cancel_lost")
async def _(client: Client) -> None:
    order = await resting(client)
    await client.fault("cancel_lost", count=1)
    assert (await client.delete(f"/v2/orders/{order['id']}"))[0] == 204
    await client.post("/admin/advance", {"seconds": 5})
    await status(client, order, "new")


@shows("partial_fill")
async def _(client: Client) -> None:
    await client.fault("partial_fill", count=1)
    order = await client.buy()
    await status(client, order, "filled")
    assert [fill["qty"] for fill in client.server.exchange.fills_json()] == ["5", "5"]


@shows("partial_fill_then_cancel")
async def _(client: Client) -> None:
    await client.fault("partial_fill_then_cancel")
    found = await status(client, await client.buy(), "canceled")
    assert found["filled_qty"] == "5"


@shows("overfill")
async def _(client: Client) -> None:
    await client.fault("overfill", parameters={"qty": 3})
    found = await status(client, await client.buy(), "filled")
    assert (found["qty"], found["filled_qty"]) == ("10", "13")


@shows("fill_withheld")
async def _(client: Client) -> None:
    await client.fault("fill_withheld")
    order = await client.buy()
    await client.quote("AAPL", 100, 100.02)
    await status(client, order, "new")


@shows("expired_early")
async def _(client: Client) -> None:
    await client.fault("expired_early")
    await status(client, await client.buy(), "expired")


@shows("done_for_day")
async def _(client: Client) -> None:
    await client.fault("done_for_day")
    await status(client, await client.buy(), "done_for_day")


@shows("replaced_by_venue")
async def _(client: Client) -> None:
    await client.fault("replaced_by_venue", count=1)
    order = await client.buy(type="limit", limit_price="100")
    old = await status(client, order, "replaced")
    assert (await status(client, {"id": old["replaced_by"]}, "new"))["replaces"] == order["id"]


@shows("replace_rejected")
async def _(client: Client) -> None:
    order = await resting(client)
    await client.fault("replace_rejected")
    code, new = await client.call("PATCH", f"/v2/orders/{order['id']}", json={"limit_price": "101"})
    assert code == 200
    await status(client, new, "rejected")
    await status(client, order, "new")


@shows("positions_lag")
async def _(client: Client) -> None:
    await client.fault("positions_lag", count=1, parameters=LATE)
    await hold(client)
    assert await positions(client) == {}
    await client.fault("positions_lag", count=1, parameters=SOON)
    await hold(client, "F")
    await until_positions(client, {"F": "10"})


async def refused(client: Client, code: int, **fields: Any) -> str:
    """Have an order to sell refused; the words."""
    order = {"qty": "10", "side": "sell", "type": "market", "time_in_force": "day", **fields}
    answered, body = await client.post("/v2/orders", order)
    assert (answered, body["code"]) == (403, code)
    return str(body["message"])


@shows("assignment_lock")
async def _(client: Client) -> None:
    await hold(client, CALL, 1)
    await client.fault("assignment_lock", count=1)
    assert "active assignment lock" in await refused(client, 40310000, symbol=CALL, qty="1")


@shows("expiring_limit")
async def _(client: Client) -> None:
    await client.post("/admin/advance", {"to": "2026-11-20T10:00:00"})
    await client.quote("AAPL", 190, 190.02)
    await client.fault("expiring_limit", parameters={"limit": 2})
    message = await refused(client, 40310000, symbol=CALL, side="buy", qty="3")
    assert message.endswith("(requested: 3, held+open: 0, limit: 2)")
    await hold(client, CALL, 2)


@shows("halt_refused")
async def _(client: Client) -> None:
    await hold(client)
    await client.fault("halt_refused", count=1)
    await client.fault("halt", symbol="AAPL")
    assert "halted" in await refused(client, 40310010, symbol="AAPL")


@shows("day_trade_denied")
async def _(client: Client) -> None:
    await hold(client)
    await client.fault("day_trade_denied", account="large")
    assert "pattern day trading" in await refused(client, 40310100, symbol="AAPL")


@shows("lookup_lag")
async def _(client: Client) -> None:
    await client.fault("lookup_lag", count=1, parameters=LATE)
    order = await client.buy()
    assert (await client.get(f"/v2/orders/{order['id']}"))[0] == 404
    await client.fault("lookup_lag", count=1, parameters=SOON)
    await status(client, await client.buy(), "filled")


# The wire ---------------------------------------------------------------------------------------------------------


def answers(kind: str, code: int, carried_out: bool, **fields: Any) -> None:
    @shows(kind)
    async def _(client: Client) -> None:
        await client.fault(kind, count=1, endpoint="POST /v2/orders", **fields)
        order = {"symbol": "AAPL", "qty": "1", "side": "buy", "type": "market", "time_in_force": "day"}
        begun = asyncio.get_running_loop().time()
        got, body = await client.post("/v2/orders", {**order, "client_order_id": "mine"})
        assert got == code
        if kind == "html_error":
            assert "<html>" in body
        if kind == "slow_response":
            assert asyncio.get_running_loop().time() - begun >= 0.1
        found, _ = await client.get("/v2/orders:by_client_order_id", params={"client_order_id": "mine"})
        assert found == (200 if carried_out else 404)


answers("http_504_before", 504, False)
answers("http_504_after", 504, True)
answers("http_500", 500, False)
answers("html_error", 502, False)
answers("rate_limit", 429, False)
answers("slow_response", 200, True, parameters=SOON)


def silences(kind: str, carried_out: bool) -> None:
    @shows(kind)
    async def _(client: Client) -> None:
        await client.fault(kind, count=1, endpoint="POST /v2/orders")
        order = {"symbol": "AAPL", "qty": "1", "side": "buy", "type": "market", "time_in_force": "day"}
        await unanswered(client, kind, {**order, "client_order_id": "mine"})
        found, _ = await client.get("/v2/orders:by_client_order_id", params={"client_order_id": "mine"})
        assert found == (200 if carried_out else 404)


silences("timeout_before", False)
silences("timeout_after", True)
silences("reset_before", False)
silences("reset_after", True)


@shows("empty_list")
async def _(client: Client) -> None:
    await hold(client)
    await client.fault("empty_list", count=1, endpoint="GET /v2/positions")
    assert await positions(client) == {}
    assert await positions(client) == {"AAPL": "10"}


@shows("malformed_body")
async def _(client: Client) -> None:
    await client.fault("malformed_body", count=1, endpoint="GET /v2/account")
    with pytest.raises(ValueError, match=r"Expecting|Unterminated|delimiter"):
        await client.get("/v2/account")


@shows("clock_skew")
async def _(client: Client) -> None:
    await client.fault("clock_skew", count=1, parameters={"seconds": 60})
    assert (await client.get("/v2/clock"))[1]["timestamp"] == "2026-11-18T10:01:00-05:00"


# The trade stream -------------------------------------------------------------------------------------------------

USUAL = ["pending_new", "new", "fill"]


def streams(kind: str, heard: list[str | None], **parameters: Any) -> None:
    @shows(kind)
    async def _(client: Client) -> None:
        async with listening(client) as socket:
            await client.fault(kind, count=1, parameters=parameters)
            await client.buy()
            got: list[str | None] = []
            while len(got) < len(heard):
                frame = await asyncio.wait_for(socket.recv(), PATIENCE)
                data = json.loads(frame)["data"]
                got.append(None if data is None else data["event"])
            assert got == heard


streams("stream_drop", ["new", "fill"])
streams("stream_duplicate", ["pending_new", *USUAL])
streams("stream_reorder", ["new", "pending_new", "fill"])
streams("stream_delay", ["new", "fill", "pending_new"], seconds=1.0)
streams("stream_unknown", ["order_reviewed", *USUAL])
streams("stream_null", [None, *USUAL])


@shows("stream_mute")
async def _(client: Client) -> None:
    async with listening(client) as socket:
        await client.fault("stream_mute")
        await hold(client)
        await asyncio.wait_for(await socket.ping(), PATIENCE)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(socket.recv(), 0.05)


@shows("stream_disconnect")
async def _(client: Client) -> None:
    async with listening(client) as socket:
        await client.fault("stream_disconnect", count=1)
        with pytest.raises(ConnectionClosed):
            await socket.recv()


@shows("stream_half_dead")
async def _(client: Client) -> None:
    await client.fault("stream_half_dead", count=1, account="tiny", parameters=LATE)
    async with listening(client, "tiny"):
        pass
    with pytest.raises(InvalidStatus) as refused:
        async with connect(client.server.stream_url, additional_headers=keys(client, "tiny")):
            raise AssertionError("the old session did not block the new one")
    assert refused.value.response.status_code == 429
    await client.fault("stream_half_dead", count=1, account="large", parameters=SOON)
    async with listening(client):
        pass
    await eventually(lambda: client.server.app.trade_stream.connections("large") == 0, "the old session to end")


# Market data ------------------------------------------------------------------------------------------------------


@shows("data_mute")
async def _(client: Client) -> None:
    async with connected(client) as socket:
        await tell(socket, {"action": "subscribe", "quotes": ["AAPL"]})
        await client.fault("data_mute")
        await client.quote("AAPL", 191, 191.02)
        await asyncio.wait_for(await socket.ping(), PATIENCE)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(socket.recv(), 0.05)


@shows("data_disconnect")
async def _(client: Client) -> None:
    async with connected(client) as socket:
        await client.fault("data_disconnect", count=1)
        with pytest.raises(ConnectionClosed):
            await socket.recv()


@shows("data_half_dead")
async def _(client: Client) -> None:
    await client.fault("data_half_dead", count=1, account="tiny", parameters=LATE)
    async with connected(client, account="tiny"):
        pass
    assert (await greeting(client, "tiny")).get("code") == 406
    await client.fault("data_half_dead", count=1, account="large", parameters=SOON)
    async with connected(client):
        pass
    until = time.monotonic() + PATIENCE
    while await greeting(client, "large") != {"T": "success", "msg": "authenticated"}:
        assert time.monotonic() < until, "the old session does not end"


async def greeting(client: Client, account: str) -> dict[str, Any]:
    """What a new data socket says to the keys of an account."""
    async with connect(client.server.data_stream_url, additional_headers=keys(client, account)) as socket:
        await hear(socket)
        return (await hear(socket))[0]


def quotes(kind: str, check: Callable[[dict[str, Any]], bool], **parameters: Any) -> None:
    @shows(kind)
    async def _(client: Client) -> None:
        async with connected(client, packed=True) as socket:
            await tell(socket, {"action": "subscribe", "quotes": ["AAPL"]}, packed=True)
            await client.fault(kind, count=1, symbol="AAPL", parameters=parameters)
            await client.quote("AAPL", 200, 200.02)
            await client.quote("AAPL", 201, 201.02)
            shown = (await hear(socket))[0]
            assert check(shown), shown
        # Orders trade at the true market all the while.
        await client.buy(qty=1)
        await eventually(lambda: len(client.server.exchange.fills_json()) == 1, "the fill")
        assert client.server.exchange.fills_json()[0]["price"] == "201.02"


quotes("quote_drop", lambda shown: shown["bp"] == 201)
quotes("quote_stale", lambda shown: (START - shown["t"]).total_seconds() == 300, seconds=300)
quotes("quote_one_sided", lambda shown: shown["bp"] == 0 and shown["ap"] == 200.02)
quotes("quote_zero", lambda shown: shown["bp"] == shown["ap"] == 0)
quotes("quote_crossed", lambda shown: shown["bp"] > shown["ap"] > 0)
quotes("quote_nan", lambda shown: math.isnan(shown["bp"]))
quotes("quote_wild", lambda shown: shown["bp"] == 600, factor=3)


# What people and the broker do ------------------------------------------------------------------------------------


@shows("external_close")
async def _(client: Client) -> None:
    await hold(client)
    await client.fault("external_close", account="large", symbol="AAPL")
    await until_positions(client, {})


@shows("external_add")
async def _(client: Client) -> None:
    await hold(client)
    await client.fault("external_add", account="large", symbol="AAPL", parameters={"qty": 5})
    await until_positions(client, {"AAPL": "15"})


@shows("external_flip")
async def _(client: Client) -> None:
    await hold(client)
    await client.fault("external_flip", account="large", symbol="AAPL")
    await until_positions(client, {"AAPL": "-10"})


@shows("liquidation")
async def _(client: Client) -> None:
    await hold(client)
    await client.fault("liquidation", account="large", symbol="AAPL")
    await until_positions(client, {})
    _, orders = await client.get("/v2/orders?status=closed")
    assert orders[0]["client_order_id"].startswith("liquidation-"), "an order that the client never sent"


@shows("assignment")
async def _(client: Client) -> None:
    await hold(client, qty=100)
    await client.buy(CALL, qty=1, side="sell")
    await until_positions(client, {"AAPL": "100", CALL: "-1"})
    async with listening(client) as socket:
        await client.fault("assignment", account="large", symbol=CALL)
        await until_positions(client, {})
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(socket.recv(), 0.05)


@shows("exercise")
async def _(client: Client) -> None:
    await hold(client, CALL, qty=1)
    await client.fault("exercise", account="large", symbol=CALL)
    await until_positions(client, {"AAPL": "100"})


@shows("halt")
async def _(client: Client) -> None:
    await client.fault("halt", symbol="AAPL")
    order = await client.buy()
    await client.quote("AAPL", 190, 190.02)
    await status(client, order, "new")


@shows("resume")
async def _(client: Client) -> None:
    await client.fault("halt", symbol="AAPL")
    order = await client.buy()
    await status(client, order, "new")
    await client.fault("resume", symbol="AAPL")
    await client.quote("AAPL", 190, 190.02)
    await status(client, order, "filled")


@shows("split")
async def _(client: Client) -> None:
    await hold(client)
    await client.fault("split", symbol="AAPL", parameters={"ratio": 2})
    assert await positions(client) == {"AAPL": "20"}


@shows("symbol_change")
async def _(client: Client) -> None:
    await hold(client)
    await client.fault("symbol_change", symbol="AAPL", parameters={"new_symbol": "APPL"})
    assert await positions(client) == {"APPL": "10"}


async def printed(client: Client) -> None:
    for last in (190.0, 191.0):
        await client.quote("AAPL", last - 0.01, last + 0.01, last=last, trade_size=100)


async def taken_back(client: Client, kind: str, message: str) -> dict[str, Any]:
    """The message that a data socket with trades alone subscribed gets of a print that was taken back."""
    await printed(client)
    async with connected(client) as socket:
        await tell(socket, {"action": "subscribe", "trades": ["AAPL"]})
        await client.fault(kind, symbol="AAPL")
        (heard,) = await hear(socket)
    assert heard["T"] == message
    return heard


@shows("trade_correction")
async def _(client: Client) -> None:
    heard = await taken_back(client, "trade_correction", "c")
    assert (heard["op"], heard["cp"], heard["os"], heard["cs"]) == (191.0, 190.04, 100, 100)
    assert heard["oi"] != heard["ci"]
    _, found = await client.get("/v2/stocks/AAPL/trades")
    assert [(one["p"], one.get("u")) for one in found["trades"]][-2:] == [(191.0, "incorrect"), (190.04, "corrected")]


@shows("trade_cancel")
async def _(client: Client) -> None:
    heard = await taken_back(client, "trade_cancel", "x")
    assert (heard["p"], heard["s"], heard["a"]) == (191.0, 100, "C")
    _, found = await client.get("/v2/stocks/AAPL/trades/latest")
    assert found["trade"]["p"] == 190.0


@shows("account_block")
async def _(client: Client) -> None:
    await client.fault("account_block", account="large")
    order = {"symbol": "AAPL", "qty": "1", "side": "buy", "type": "market", "time_in_force": "day"}
    assert (await client.post("/v2/orders", order))[0] == 403
    assert (await client.get("/v2/account"))[1]["trading_blocked"] is True


@shows("account_unblock")
async def _(client: Client) -> None:
    await client.fault("account_block", account="large")
    await client.fault("account_unblock", account="large")
    await hold(client)


def test_no_fault_kind_is_left_out() -> None:
    assert set(DEMONSTRATIONS) == set(FAULT_KINDS)


@pytest.mark.parametrize("kind", sorted(FAULT_KINDS))
async def test_the_fault_acts_and_is_logged(client: Client, kind: str) -> None:
    await DEMONSTRATIONS[kind](client)
    _, found = await client.get("/admin/faults")
    assert found["injected"][kind] >= 1
    assert any(entry["kind"] == kind for entry in found["log"])


# Probability, count, target, seed ---------------------------------------------------------------------------------


async def struck(client: Client, tries: int, **fault: Any) -> list[bool]:
    await client.fault("http_500", endpoint="GET /v2/account", **fault)
    hits = [(await client.get("/v2/account"))[0] == 500 for _ in range(tries)]
    await client.delete("/admin/faults")
    return hits


async def test_probability_count_and_seed(client: Client) -> None:
    half = await struck(client, 200, probability=0.5, seed=3)
    assert 60 < sum(half) < 140
    assert sum(await struck(client, 20, count=3)) == 3
    assert not any(await struck(client, 5, probability=0))
    assert not any(await struck(client, 5, account="tiny"))
    async with running() as again:
        assert await struck(again, 200, probability=0.5, seed=3) == half, "the same seed strikes the same requests"
    async with running() as other:
        assert await struck(other, 200, probability=0.5, seed=4) != half


# faults.toml ------------------------------------------------------------------------------------------------------

FILE = """
[[fault]]
kind = "http_500"
endpoint = "GET /v2/account"
count = 1

[[fault]]
kind = "external_close"
account = "large"
symbol = "AAPL"
at = 2026-11-18T10:02:00

[[fault]]
kind = "liquidation"
account = "large"
symbol = "AAPL"
at = 2026-11-18T15:03:00Z

[[fault]]
kind = "slow_response"
at = 2026-11-18T10:04:00
[fault.parameters]
seconds = 0.2
"""


@contextlib.asynccontextmanager
async def planned(tmp_path: Path, text: str) -> AsyncIterator[Client]:
    (tmp_path / "faults.toml").write_text(text)
    async with running(faults=tmp_path / "faults.toml", manual={}, symbols=["AAPL"]) as client:
        yield client


async def test_a_fault_file_strikes_from_the_start_and_at_its_moments(tmp_path: Path) -> None:
    async with planned(tmp_path, FILE) as client:
        assert [(await client.get("/v2/account"))[0] for _ in range(2)] == [500, 200]
        await client.post("/admin/advance", {"seconds": 10})
        await hold(client)
        await client.post("/admin/advance", {"to": "2026-11-18T10:01:59"})
        assert await positions(client) == {"AAPL": "10"}
        await client.post("/admin/advance", {"to": "2026-11-18T10:03:30"})
        await until_positions(client, {})
        _, found = await client.get("/admin/faults")
        logged = [(entry["kind"], entry.get("failed")) for entry in found["log"]]
        assert logged[:2] == [("http_500", None), ("external_close", None)]
        # What is impossible when its time has come is told, and hurts nobody.
        assert logged[2][0] == "liquidation"
        assert "holds no AAPL" in logged[2][1]
        assert found["faults"] == []
        await client.post("/admin/advance", {"to": "2026-11-18T10:04:30"})
        assert [one["kind"] for one in (await client.get("/admin/faults"))[1]["faults"]] == ["slow_response"]


REPEATED = """
[[fault]]
kind = "halt"
count = 2
[fault.parameters]
every = 300

[[fault]]
kind = "external_add"
account = "large"
probability = 0.5
seed = 5
count = 3
"""


async def test_events_with_a_count_or_a_probability_come_again_and_again(tmp_path: Path) -> None:
    async with planned(tmp_path, REPEATED) as client:
        await client.post("/admin/advance", {"seconds": 10})
        await client.post("/admin/halt", {"symbol": "AAPL", "halted": False})
        await hold(client)
        await client.post("/admin/advance", {"seconds": 1200})
        _, found = await client.get("/admin/faults")
        assert found["injected"] == {"halt": 2, "external_add": 3}
        assert found["faults"] == []
        await client.post("/admin/halt", {"symbol": "AAPL", "halted": False})
        await client.post("/admin/advance", {"seconds": 20})
        await until_positions(client, {"AAPL": "13"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[fault]\n", "cannot be read as faults"),
        ("kind = 'halt'", "expected \\[\\[fault\\]\\] tables"),
        ("[fault]\nkind = 'halt'", "expected \\[\\[fault\\]\\] tables"),
        ("[[fault]]\nkind = 'earthquake'", "fault 1: unknown kind 'earthquake'"),
        ("[[fault]]\nkind = 'http_500'\nprob = 1", "fault 1: unknown prob"),
        ("[[fault]]\nkind = 'http_500'\nat = 'noon'", "at must be a date and time"),
    ],
)
def test_a_bad_fault_file_names_the_entry(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "faults.toml").write_text(text)
    with pytest.raises(InvalidInput, match=words):
        read_faults(tmp_path / "faults.toml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[fault]]\nkind = 'http_500'\nprobability = 2", "probability must lie between"),
        ("[[fault]]\nkind = 'halt'\nsymbol = 'ZZZ'", "needs a listed symbol"),
    ],
)
async def test_a_fault_that_cannot_be_is_told_at_the_start(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        async with planned(tmp_path, text):
            raise AssertionError("it started")
