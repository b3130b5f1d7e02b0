"""The admin API: market time under control, hand-made quotes, and faults around requests."""

import asyncio
import contextlib
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import aiohttp
import pytest
from tests.integration.paper.conftest import START, Client, client_of, running, unanswered
from tests.integration.paper.sockets import connected, hear, tell
from tests.support.waiting import PATIENCE, eventually
from websockets.asyncio.client import ClientConnection

from exitguard.paper.market.recorded import RecordedBar


async def clock(client: Client) -> dict[str, Any]:
    status, body = await client.get("/admin/clock")
    assert status == 200
    return body


# Time
async def test_time_is_stepped_exactly_and_seen_by_the_trading_clock(client: Client) -> None:
    _, advanced = await client.post("/admin/advance", {"seconds": 90})
    assert advanced["now"] == "2026-11-18T15:01:30+00:00"
    assert (await client.get("/v2/clock"))[1]["timestamp"] == "2026-11-18T10:01:30-05:00"
    _, advanced = await client.post("/admin/advance", {"to": "2026-11-18T10:05:00"})
    assert advanced["now"] == "2026-11-18T15:05:00+00:00"


async def test_a_running_clock_obeys_speed_pause_resume_and_jump() -> None:
    async with running(paused=False, speed=500.0) as client:
        first = (await clock(client))["now"]
        for _ in range(500):
            if (await clock(client))["now"] > first:
                break
        else:
            raise AssertionError("the clock does not run")
        _, paused = await client.post("/admin/clock", {"pause": True})
        assert paused["paused"]
        assert (await clock(client))["now"] == paused["now"]
        _, jumped = await client.post("/admin/clock", {"jump_to": "2026-11-19T15:00:00+00:00"})
        assert jumped["now"] == "2026-11-19T15:00:00+00:00"
        _, resumed = await client.post("/admin/clock", {"resume": True, "speed": 1000})
        assert (resumed["paused"], resumed["speed"]) == (False, 1000.0)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/admin/advance", {}),
        ("/admin/advance", {"seconds": -1}),
        ("/admin/advance", {"seconds": "many"}),
        ("/admin/advance", {"seconds": 1, "to": "2026-11-18T16:00:00Z"}),
        ("/admin/advance", {"to": "2020-01-01T00:00:00Z"}),
        ("/admin/advance", {"to": "tomorrow"}),
        ("/admin/advance", {"seconds": 1e12}),
        ("/admin/advance", {"seconds": 1, "speed": 0}),
        ("/admin/clock", {}),
        ("/admin/clock", {"speed": -2}),
        ("/admin/clock", {"stop": True}),
        ("/admin/clock", {"jump_to": "2020-01-01T00:00:00Z"}),
        ("/admin/quote", {"symbol": "AAPL"}),
        ("/admin/quote", {"symbol": "AAPL", "bid": "NaN", "ask": 1}),
        ("/admin/quote", {"symbol": "AAPL", "bid": -1, "ask": 1}),
        ("/admin/quote", {"symbol": "not a symbol", "bid": 1, "ask": 1}),
        ("/admin/faults", {"kind": "nothing"}),
    ],
)
async def test_impossible_admin_requests_are_422_and_change_nothing(
    client: Client, path: str, body: dict[str, Any]
) -> None:
    before = await clock(client)
    status, answer = await client.post(path, body)
    assert status == 422, answer
    assert answer["message"]
    assert await clock(client) == before


async def test_orders_match_while_time_stands_still(client: Client) -> None:
    order = await client.buy()
    await eventually(lambda: len(client.server.exchange.fills_json()) == 1, "the fill")
    assert (await clock(client))["now"] == START.isoformat()
    _, found = await client.get(f"/v2/orders/{order['id']}")
    assert found["status"] == "filled"
    resting = await client.buy(type="limit", limit_price="100")
    assert (await client.delete(f"/v2/orders/{resting['id']}"))[0] == 204
    for _ in range(400):
        _, found = await client.get(f"/v2/orders/{resting['id']}")
        if found["status"] == "canceled":
            break
        await asyncio.sleep(0.005)
    assert found["status"] == "canceled"


async def test_clients_act_between_the_rounds_of_an_advance() -> None:
    async with running(manual={}, symbols=["AAPL"]) as client, connected(client) as socket:
        await tell(socket, {"action": "subscribe", "quotes": ["AAPL"]})
        advancing = asyncio.create_task(client.post("/admin/advance", {"seconds": 3600}))
        reactions = []
        for _ in range(15):
            quote = (await newest(socket))["t"]
            order = await client.buy(qty=1)
            told, ordered = datetime.fromisoformat(quote), datetime.fromisoformat(order["submitted_at"])
            reactions.append((ordered - told).total_seconds())
        await advancing
    assert sorted(reactions)[7] <= 15.0, f"market time runs away from clients: {reactions}"


async def newest(socket: ClientConnection) -> dict[str, Any]:
    """The newest message that has arrived, waiting for one if need be."""
    messages = await hear(socket)
    with contextlib.suppress(TimeoutError):
        while True:
            async with asyncio.timeout(0):
                messages = await hear(socket)
    return messages[-1]


async def test_an_order_sent_during_an_advance_fills_near_its_moment() -> None:
    async with running(manual={}, symbols=["AAPL"]) as client, client_of(client.server, "tiny") as other:
        advancing = asyncio.create_task(client.post("/admin/advance", {"seconds": 3 * 3600}))
        await other.get("/v2/clock")
        order = await other.buy(qty=1)
        await advancing
        (fill,) = client.server.exchange.fills_json()
        submitted = datetime.fromisoformat(order["submitted_at"])
        filled_at = datetime.fromisoformat(fill["at"])
        assert timedelta(0) <= filled_at - submitted <= timedelta(seconds=10)


async def test_a_day_of_ten_stocks_and_forty_contracts_plays_quickly() -> None:
    open_at = datetime(2026, 11, 18, 14, 30, tzinfo=UTC)
    async with running(manual={}, symbols=None, start=open_at) as client:
        await client.post("/admin/advance", {"seconds": 5})
        host = client.server.host
        _, listed = await client.get("/v2/options/contracts?limit=10000")
        symbols = [contract["symbol"] for contract in listed["option_contracts"]][:40]
        host.need_contracts(symbols)
        assert len(host.player.board.followed()) == 40
        begun = time.process_time()
        await client.post("/admin/advance", {"to": "2026-11-18T16:00:00"})
        assert host.player.rounds_played > 390 * 12
        assert time.process_time() - begun < 60, "the bound only catches a collapse"


# Quotes
async def test_a_hand_made_quote_moves_the_market(client: Client) -> None:
    await client.quote("AAPL", 150.00, 150.05)
    await client.buy(qty=1)
    await eventually(lambda: len(client.server.exchange.fills_json()) == 1, "the fill")
    assert client.server.exchange.fills_json()[0]["price"] == "150.05"
    status, _ = await client.post("/admin/quote", {"symbol": "ZZZZ", "bid": 1, "ask": 2})
    assert status == 404


async def test_a_held_stock_keeps_its_hand_made_price() -> None:
    async with running(manual={}, symbols=["AAPL"]) as client:
        await client.quote("AAPL", 99, 99.02, hold=True)
        await client.post("/admin/advance", {"seconds": 60})
        _, quotes = await client.get("/v2/stocks/quotes/latest?symbols=AAPL")
        assert quotes["quotes"]["AAPL"]["bp"] == 99
        await client.post("/admin/quote", {"symbol": "AAPL", "hold": False})
        await client.post("/admin/advance", {"seconds": 60})
        _, quotes = await client.get("/v2/stocks/quotes/latest?symbols=AAPL")
        assert quotes["quotes"]["AAPL"]["bp"] > 150


# Faults around requests
ORDER = {"symbol": "AAPL", "qty": "1", "side": "buy", "type": "market", "time_in_force": "day"}


@pytest.mark.parametrize(
    ("kind", "status", "carried_out"),
    [
        ("http_504_before", 504, False),
        ("http_504_after", 504, True),
        ("http_500", 500, False),
        ("html_error", 502, False),
        ("rate_limit", 429, False),
        ("slow_response", 200, True),
    ],
)
async def test_f33_answers_that_lie_about_the_outcome(
    client: Client, kind: str, status: int, carried_out: bool
) -> None:
    await client.fault(kind, count=1, endpoint="POST /v2/orders", parameters={"seconds": 0.05})
    order = {**ORDER, "client_order_id": "mine"}
    got, body = await client.post("/v2/orders", order)
    assert got == status
    if kind == "html_error":
        assert "<html>" in body
    found, _ = await client.get("/v2/orders:by_client_order_id", params={"client_order_id": "mine"})
    assert found == (200 if carried_out else 404)
    assert (await client.post("/v2/orders", {**ORDER, "client_order_id": "next"}))[0] == 200, "one fault, one request"


@pytest.mark.parametrize(
    ("kind", "carried_out"),
    [("timeout_before", False), ("timeout_after", True), ("reset_before", False), ("reset_after", True)],
)
async def test_f33_requests_without_an_answer(client: Client, kind: str, carried_out: bool) -> None:
    await client.fault(kind, count=1, endpoint="POST /v2/orders")
    await unanswered(client, kind, {**ORDER, "client_order_id": "mine"})
    found, _ = await client.get("/v2/orders:by_client_order_id", params={"client_order_id": "mine"})
    assert found == (200 if carried_out else 404)


async def test_f142_lists_that_come_back_empty_or_cut(client: Client) -> None:
    await client.buy()
    await eventually(lambda: len(client.server.exchange.fills_json()) == 1, "the fill")
    await client.fault("empty_list", count=1, endpoint="GET /v2/positions")
    assert await client.get("/v2/positions") == (200, [])
    await client.fault("malformed_body", count=1, endpoint="GET /v2/positions")
    with pytest.raises(ValueError, match=r"Expecting|Unterminated|delimiter"):
        await client.get("/v2/positions")
    assert len((await client.get("/v2/positions"))[1]) == 1


async def test_faults_hit_their_target_only_and_are_logged(client: Client) -> None:
    fault = await client.fault("http_500", account="tiny", endpoint="GET /v2/account")
    assert (await client.get("/v2/account"))[0] == 200
    async with client_of(client.server, "tiny") as tiny:
        assert (await tiny.get("/v2/account"))[0] == 500
        assert (await tiny.get("/v2/positions"))[0] == 200
    _, listed = await client.get("/admin/faults")
    assert [one["injected"] for one in listed["faults"]] == [1]
    assert listed["log"][-1]["account"] == "tiny"
    assert (await client.delete(f"/admin/faults/{fault['id']}"))[0] == 204
    assert (await client.delete(f"/admin/faults/{fault['id']}"))[0] == 404
    await client.fault("http_500", symbol="AAPL")
    assert (await client.post("/v2/orders", ORDER))[0] == 500
    assert (await client.post("/v2/orders", {**ORDER, "symbol": "F"}))[0] == 200
    assert (await client.delete("/admin/faults"))[0] == 204
    assert (await client.post("/v2/orders", ORDER))[0] == 200


async def test_a_skewed_clock(client: Client) -> None:
    await client.fault("clock_skew", count=1, parameters={"seconds": -120})
    assert (await client.get("/v2/clock"))[1]["timestamp"] == "2026-11-18T09:58:00-05:00"
    assert (await client.get("/v2/clock"))[1]["timestamp"] == "2026-11-18T10:00:00-05:00"


async def test_a_silent_request_does_not_hold_an_advance_up(client: Client) -> None:
    await client.fault("timeout_before", count=1, endpoint="GET /v2/account")
    silent = asyncio.create_task(client.get("/v2/account"))
    await eventually(lambda: client.server.exchange.faults.injected["timeout_before"] == 1, "the fault to strike")
    await client.post("/admin/advance", {"seconds": 600})
    assert not silent.done()
    silent.cancel()
    with pytest.raises(asyncio.CancelledError):
        await silent


async def test_state_shows_every_account_as_it_is(client: Client) -> None:
    await client.buy()
    await eventually(lambda: len(client.server.exchange.fills_json()) == 1, "the fill")
    _, state = await client.get("/admin/state")
    text = str(state)
    assert "large" in text
    assert "tiny" in text
    _, fills = await client.get("/admin/fills")
    assert [(fill["account"], fill["symbol"], fill["qty"]) for fill in fills] == [("large", "AAPL", "10")]


async def test_recorded_bars_play_through_the_whole_stack() -> None:
    start = datetime(2023, 1, 4, 14, 30, tzinfo=UTC)
    bars = [RecordedBar(start + timedelta(minutes=n), 100 + n, 102 + n, 99 + n, 101 + n, 400) for n in range(3)]
    async with running(manual={}, bars={"MSFT": bars}, start=None, accounts={"large": Decimal(5000)}) as client:
        assert (await clock(client))["now"] == start.isoformat()
        await client.post("/admin/advance", {"seconds": 31})
        _, quotes = await client.get("/v2/stocks/quotes/latest?symbols=MSFT")
        assert (quotes["quotes"]["MSFT"]["bp"], quotes["quotes"]["MSFT"]["ap"]) == (101.99, 102.01)
        await client.post("/admin/advance", {"seconds": 600})
        assert (await clock(client))["ended"]
        _, history = await client.get("/v2/stocks/MSFT/bars?timeframe=1Min&start=2023-01-04")
        assert [(bar["o"], bar["h"], bar["l"], bar["c"], bar["v"]) for bar in history["bars"]][:2] == [
            (100, 102, 99, 101, 400),
            (101, 103, 100, 102, 400),
        ]


# Corporate actions and the market's own housekeeping
async def test_a_split_halves_the_market_and_doubles_the_position() -> None:
    async with running(manual={}, symbols=["AAPL"]) as client:
        await client.post("/admin/advance", {"seconds": 5})
        await client.buy(qty=4)
        await eventually(lambda: len(client.server.exchange.fills_json()) == 1, "the fill")
        _, before = await client.get("/v2/stocks/AAPL/quotes/latest")
        await client.fault("split", symbol="AAPL", parameters={"ratio": 2})
        await client.post("/admin/advance", {"seconds": 5})
        _, after = await client.get("/v2/stocks/AAPL/quotes/latest")
        assert after["quote"]["bp"] == pytest.approx(before["quote"]["bp"] / 2, rel=0.01)
        _, positions = await client.get("/v2/positions")
        assert positions[0]["qty"] == "8"


async def test_a_renamed_stock_is_quoted_under_its_new_name() -> None:
    async with running(manual={}, symbols=["AAPL"]) as client, connected(client) as socket:
        await tell(socket, {"action": "subscribe", "quotes": ["*"]})
        await client.fault("symbol_change", symbol="AAPL", parameters={"new_symbol": "APPL"})
        await client.post("/admin/advance", {"seconds": 5})
        assert {message["S"] for message in await hear(socket)} == {"APPL"}
        assert (await client.post("/v2/orders", ORDER))[0] == 422 or (await client.get("/v2/assets/AAPL"))[0] == 404


async def test_halt_faults_are_announced_on_the_feed(client: Client) -> None:
    async with connected(client) as socket:
        await tell(socket, {"action": "subscribe", "statuses": ["*"]})
        await client.fault("halt", symbol="AAPL")
        assert (await hear(socket))[0]["sc"] == "H"
        await client.fault("resume", symbol="AAPL")
        assert (await hear(socket))[0]["sc"] == "T"


async def test_contracts_that_nobody_needs_are_forgotten_over_night() -> None:
    async with running(manual={}, symbols=["AAPL"]) as client:
        await client.post("/admin/advance", {"seconds": 5})
        _, listed = await client.get(
            "/v2/options/contracts?underlying_symbols=AAPL&expiration_date_gte=2026-11-27&limit=200"
        )
        held, idle, watched = [contract["symbol"] for contract in listed["option_contracts"][20:23]]
        board = client.server.host.player.board
        await client.buy(held, qty=1)
        await eventually(lambda: len(client.server.exchange.fills_json()) == 1, "the fill")
        client.server.host.need_contracts([idle])
        async with connected(client, packed=True, option=True) as socket:
            await tell(socket, {"action": "subscribe", "quotes": [watched]}, packed=True)
            await eventually(lambda: watched in board.followed(), "the subscription")
            assert board.followed() == {held, idle, watched}
            await client.post("/admin/clock", {"jump_to": "2026-11-19T09:29:00"})
            await client.post("/admin/advance", {"seconds": 120})
            assert board.followed() == {held, watched}
        _, tomorrow = await client.get("/v2/options/contracts?underlying_symbols=AAPL&expiration_date=2026-11-19")
        assert (await client.get("/v2/clock"))[1]["timestamp"].startswith("2026-11-19")
        assert tomorrow["option_contracts"]


async def test_bars_before_the_start_are_history_already() -> None:
    start = datetime(2023, 1, 4, 14, 30, tzinfo=UTC)
    bars = [RecordedBar(start + timedelta(minutes=n), 100 + n, 102 + n, 99 + n, 101 + n, 400) for n in range(6)]
    async with running(manual={}, bars={"MSFT": bars}, start=start + timedelta(minutes=3)) as client:
        _, history = await client.get("/v2/stocks/MSFT/bars?timeframe=1Min&start=2023-01-04")
        assert [bar["o"] for bar in history["bars"]] == [100, 101, 102]
        await client.post("/admin/advance", {"seconds": 300})
        _, history = await client.get("/v2/stocks/MSFT/bars?timeframe=1Min&start=2023-01-04")
        assert [bar["o"] for bar in history["bars"]] == [100, 101, 102, 103, 104, 105]
        assert {bar["vw"] for bar in history["bars"]} == {100.5 + n for n in range(6)}


async def test_a_held_silent_request_does_not_delay_the_stop() -> None:
    begun = time.monotonic()
    async with running() as client:
        await client.fault("timeout_before", endpoint="GET /v2/account")
        silent = asyncio.create_task(client.get("/v2/account"))
        await eventually(lambda: client.server.exchange.faults.injected["timeout_before"] == 1, "the fault")
        await client.server.stop()
        with pytest.raises(aiohttp.ClientError):
            await silent
    assert time.monotonic() - begun < PATIENCE, "the exchange would have kept the request silent for longer"
