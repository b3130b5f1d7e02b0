"""`--state DIR`: a real process is stopped, killed and started again; what was answered is still true."""

import asyncio
import json
import os
import signal
import sqlite3
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import pytest
from tests.integration.paper.conftest import running, settings
from tests.support.waiting import PATIENCE, eventually

from exitguard.paper.server.app import PaperServer
from exitguard.paper.server.state import FILE, StateError

ROOT = Path(__file__).parents[3]
BASE = ("--generate", "7", "--symbols", "AAPL", "--symbols", "F", "--account", "demo:100000", "--paused")


class Exchange:
    """`exitguard paper --state` as a process."""

    def __init__(self, state: Path, *more: str) -> None:
        command = [sys.executable, "-m", "exitguard.cli.main", "paper", "--json", "--state", str(state), *BASE, *more]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        self.process = Popen(command, stdout=PIPE, stderr=PIPE, text=True, env=environment)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        self.said: dict[str, Any] = json.loads(line)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        account = self.said["accounts"]["demo"]
        headers = {"APCA-API-KEY-ID": account["key"], "APCA-API-SECRET-KEY": account["secret"]}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.said["rest"] + path, data=data, headers=headers, method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            content = answer.read()
            return json.loads(content) if content else None

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, "it did not come to that"
            time.sleep(0.005)

    def view(self) -> dict[str, Any]:
        """Everything that is to survive, as a client sees it."""
        paths = (
            "/v2/account",
            "/v2/account/configurations",
            "/v2/orders?status=all&nested=true&limit=500",
            "/v2/positions",
            "/v2/account/activities",
            "/v2/watchlists",
            "/v2/clock",
        )
        return {path: self.call("GET", path) for path in paths}

    def stop(self, number: int = signal.SIGTERM) -> str:
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == (0 if number == signal.SIGTERM else -number), errors
        return errors


@contextmanager
def exchange(state: Path, *more: str) -> Iterator[Exchange]:
    started = Exchange(state, *more)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.process.kill()
            started.process.communicate()


def trade(venue: Exchange) -> None:
    """Positions, resting and ended orders of several kinds, a watchlist, changed configurations, a taken id."""
    venue.call("POST", "/admin/advance", {"seconds": 10})
    order = {"symbol": "AAPL", "side": "buy", "qty": "10", "type": "market", "time_in_force": "day"}
    venue.call("POST", "/v2/orders", {**order, "client_order_id": "mine"})
    venue.until(lambda: len(venue.call("GET", "/v2/positions")) == 1)
    price = float(venue.call("GET", "/v2/positions/AAPL")["current_price"])
    exits = {
        "take_profit": {"limit_price": str(round(price * 1.2, 2))},
        "stop_loss": {"stop_price": str(round(price * 0.8, 2))},
    }
    oco = {"side": "sell", "type": "limit", "order_class": "oco", "qty": "4", "time_in_force": "gtc", **exits}
    venue.call("POST", "/v2/orders", {**order, **oco})
    bracket = {**order, "symbol": "F", "type": "limit", "limit_price": "1.00", "order_class": "bracket"}
    venue.call(
        "POST", "/v2/orders", {**bracket, "take_profit": {"limit_price": "2"}, "stop_loss": {"stop_price": "0.5"}}
    )
    gone = venue.call("POST", "/v2/orders", {**order, "type": "limit", "limit_price": "1.00"})
    venue.until(lambda: venue.call("GET", f"/v2/orders/{gone['id']}")["status"] == "new")
    venue.call("DELETE", f"/v2/orders/{gone['id']}")
    venue.until(lambda: venue.call("GET", f"/v2/orders/{gone['id']}")["status"] == "canceled")
    venue.call("POST", "/v2/watchlists", {"name": "mine", "symbols": ["AAPL"]})
    venue.call("PATCH", "/v2/account/configurations", {"no_shorting": True})
    venue.until(lambda: all(each["status"] != "pending_new" for each in venue.call("GET", "/v2/orders")))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_everything_survives_a_stop_and_a_kill(tmp_path: Path, number: int) -> None:
    with exchange(tmp_path / "kept") as venue:
        trade(venue)
        before, keys = venue.view(), venue.said["accounts"]
        venue.stop(number)
    with exchange(tmp_path / "kept") as venue:
        assert venue.said["accounts"] == keys
        after = venue.view()
        assert after["/v2/clock"]["timestamp"] == before["/v2/clock"]["timestamp"]
        assert after == before
        # The client's id stays taken, new ids are new, and the market goes on.
        order = {"symbol": "AAPL", "side": "buy", "qty": "1", "type": "market", "time_in_force": "day"}
        with pytest.raises(urllib.error.HTTPError) as refused:
            venue.call("POST", "/v2/orders", {**order, "client_order_id": "mine"})
        assert json.load(refused.value)["code"] == 40010001
        venue.call("POST", "/v2/orders", order)
        venue.call("POST", "/admin/advance", {"seconds": 10})
        venue.until(lambda: venue.call("GET", "/v2/positions/AAPL")["qty"] == "11")
        ids = [each["id"] for each in venue.call("GET", "/v2/orders?status=all&nested=true&limit=500")]
        assert len(set(ids)) == len(ids) == len(before["/v2/orders?status=all&nested=true&limit=500"]) + 1
        price = float(venue.call("GET", "/v2/positions/AAPL")["current_price"])
        assert price == pytest.approx(float(before["/v2/positions"][0]["current_price"]), rel=0.02)
        venue.stop()


def test_an_order_that_was_answered_just_before_the_kill_is_there_and_goes_on(tmp_path: Path) -> None:
    with exchange(tmp_path) as venue:
        venue.call("POST", "/admin/advance", {"seconds": 10})
        order = {"symbol": "AAPL", "side": "buy", "qty": "1", "type": "market", "time_in_force": "day"}
        ids = [venue.call("POST", "/v2/orders", order)["id"] for _ in range(20)]
        venue.process.kill()
        venue.process.communicate()
    with exchange(tmp_path) as venue:
        venue.call("POST", "/admin/advance", {"seconds": 10})
        venue.until(lambda: {venue.call("GET", f"/v2/orders/{each}")["status"] for each in ids} == {"filled"})
        assert venue.call("GET", "/v2/positions/AAPL")["qty"] == "20"
        assert len(venue.call("GET", "/v2/account/activities")) == 20


def test_a_later_start_ends_what_the_days_between_end(tmp_path: Path) -> None:
    with exchange(tmp_path, "--start", "2026-11-18T10:00:00") as venue:
        trade(venue)
        venue.stop(signal.SIGKILL)
    with exchange(tmp_path, "--start", "2026-11-20T10:00:00") as venue:
        assert venue.call("GET", "/v2/clock")["timestamp"].startswith("2026-11-20T10:00")
        found = {each["order_class"]: each["status"] for each in venue.call("GET", "/v2/orders?status=all&limit=500")}
        assert found["bracket"] == "expired", "it was good for its day"
        assert found["oco"] in ("new", "held"), "it is good till cancelled"
        assert venue.call("GET", "/v2/account")["balance_asof"] == "2026-11-20"


def complaint(state: Path, *more: str) -> tuple[int, str]:
    """Exit code and error of an exchange that cannot start."""
    command = [sys.executable, "-m", "exitguard.cli.main", "paper", "--json", "--state", str(state), *BASE, *more]
    process = Popen(command, stdout=PIPE, stderr=PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT / "src")})
    said, errors = process.communicate(timeout=PATIENCE)
    assert said == ""
    assert errors.count("\n") == 1, errors
    return process.returncode, errors


def test_states_that_cannot_be_used_are_one_clear_line(tmp_path: Path) -> None:
    with exchange(tmp_path / "good", "--start", "2026-11-18T10:00:00") as venue:
        code, words = complaint(tmp_path / "good")
        assert (code, "another exchange uses" in words) == (75, True)
        venue.stop()
    code, words = complaint(tmp_path / "good", "--start", "2026-11-17T10:00:00")
    assert (code, "lies before it" in words) == (2, True)
    good = (tmp_path / "good" / FILE).read_bytes()
    for name, content, expected in (
        ("text", b"not a database at all, but text that somebody put there" * 40, "cannot be used"),
        ("cut", good[: len(good) // 2], "broken"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / FILE).write_bytes(content)
        code, words = complaint(tmp_path / name)
        assert code == 73
        assert "another" in words, words
        assert expected in words or "cannot be used" in words, words
        assert (tmp_path / name / FILE).read_bytes() == content, "what is not ours is not touched"


def change(folder: Path, *statements: str) -> None:
    with sqlite3.connect(folder / FILE) as database:
        for statement in statements:
            database.execute(statement)
    database.close()


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("PRAGMA application_id = 7", "not the state of a paper exchange"),
        ("PRAGMA user_version = 99", "has format 99"),
        ("UPDATE exchange SET value = '8' WHERE name = 'seed'", "start it with --generate 8"),
        ("UPDATE accounts SET record = '{\"name\": 5}'", "make no sense"),
        ("UPDATE accounts SET record = 'x'", "cannot be used"),
        ("DROP TABLE orders", "cannot be used"),
        ("DELETE FROM exchange WHERE name = 'boundary'", "make no sense"),
    ],
)
async def test_foreign_and_damaged_states_are_refused(tmp_path: Path, statement: str, words: str) -> None:
    async with running(state=tmp_path):
        pass
    change(tmp_path, statement)
    with pytest.raises(StateError, match=words):
        async with PaperServer(settings(state=tmp_path)):
            raise AssertionError("a state that is not ours was taken")
    # The folder is free again: a refused start holds no lock.
    with pytest.raises(StateError, match=words):
        async with PaperServer(settings(state=tmp_path)):
            raise AssertionError("a state that is not ours was taken")


async def test_a_state_that_cannot_be_written_ends_the_exchange(tmp_path: Path) -> None:
    async with running(state=tmp_path) as client:
        waiting = asyncio.ensure_future(client.server.wait_failed())
        client.server.host.keeper._state._db.execute("DROP TABLE orders")  # type: ignore[union-attr]
        order = {"symbol": "AAPL", "side": "buy", "qty": "1", "type": "market", "time_in_force": "day"}
        status, _ = await client.post("/v2/orders", order)
        assert status == 500, "an order that is not kept must not be answered as if it were"
        with pytest.raises(StateError, match="cannot be used"):
            await asyncio.wait_for(waiting, PATIENCE)


async def test_new_accounts_join_and_splits_and_names_survive(tmp_path: Path) -> None:
    generated = {"manual": {}, "symbols": ["AAPL", "F"], "state": tmp_path}
    async with running(**generated) as client:
        await client.post("/admin/advance", {"seconds": 5})
        await client.buy(qty=4)
        await eventually(lambda: len(client.server.exchange.fills_json()) == 1, "the fill")
        await client.fault("split", symbol="AAPL", parameters={"ratio": 4})
        await client.fault("symbol_change", symbol="AAPL", parameters={"new_symbol": "APPL"})
        await client.post("/admin/advance", {"seconds": 5})
        _, before = await client.get("/v2/stocks/APPL/quotes/latest")
    more: dict[str, Any] = {**generated, "start": None}
    more["accounts"] = {name: Decimal(cash) for name, cash in {"large": 1, "other": 500}.items()}
    async with running(**more) as client:
        assert set(client.server.accounts) == {"large", "tiny", "other"}
        assert client.server.accounts["other"].cash == 500
        await client.post("/admin/advance", {"seconds": 5})
        _, after = await client.get("/v2/stocks/APPL/quotes/latest")
        assert after["quote"]["bp"] == pytest.approx(before["quote"]["bp"], rel=0.02)
        _, (position,) = await client.get("/v2/positions")
        assert (position["symbol"], position["qty"]) == ("APPL", "16")
        assert (await client.get("/v2/assets/AAPL"))[0] == 404
        assert (
            len(
                (
                    await client.get(
                        "/v2/corporate_actions/announcements?ca_types=split&since=2026-11-01&until=2026-12-01"
                    )
                )[1]
            )
            == 1
        )
