"""What `docs/exchange.md` prints is true: options, keys, files, requests, the example for tests."""

import inspect
import json
import re
import shlex
from datetime import datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from tests.integration.paper.conftest import running

from exitguard.cli.paper import paper
from exitguard.paper.engine import FAULT_KINDS
from exitguard.paper.engine.faults import FIELDS
from exitguard.paper.market.moods import DESCRIPTIONS
from exitguard.paper.server.app import PaperServer
from exitguard.paper.server.fault_file import read_faults
from exitguard.paper.server.settings import PaperSettings
from exitguard.paper.server.state import StateFile

PAGE = Path(__file__).parents[3] / "docs" / "exchange.md"


@cache
def blocks(language: str = "") -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return [text for spoken, text in found if spoken == language]


def block(holding: str, language: str = "") -> str:
    (found,) = [text for text in blocks(language) if holding in text]
    return str(found)


def rows(title: str) -> dict[str, str]:
    """A table by its first column, without back quotes."""
    lines = PAGE.read_text().split(f"| {title} |", 1)[1].splitlines()[2:]
    found = {}
    for line in lines:
        if not line.startswith("|"):
            break
        first, second = re.split(r"(?<!\\)\|", line)[1:3]
        found[first.replace("`", "").strip()] = second.strip()
    return found


async def test_the_printed_keys_are_those_of_the_printed_command() -> None:
    words = shlex.split(block("exitguard paper --port"))
    name, cash = words[words.index("--account") + 1].split(":")
    settings = PaperSettings(accounts={name: Decimal(cash)}, seed=int(words[words.index("--generate") + 1]))
    async with PaperServer(settings) as server:
        account = server.accounts[name]
        assert f"PAPER_KEY={account.key} PAPER_SECRET={account.secret}" in block("export PAPER_URL")


def test_every_option_is_described_and_no_other() -> None:
    parameters = {f"--{name.replace('_', '-')}" for name in inspect.signature(paper).parameters}
    assert {name.split()[0] for name in rows("option")} == parameters


def test_fields_of_faults_and_names_of_markets_are_those_that_there_are() -> None:
    assert {name for cell in rows("field") for name in cell.split(", ")} == FIELDS
    assert rows("name") == dict(DESCRIPTIONS)


def test_kinds_of_faults_that_are_named_exist() -> None:
    text = PAGE.read_text().split("## Break it")[1].split("## Keep it")[0]
    named = set(re.findall(r"`([a-z]+(?:_[a-z0-9]+)+)`", text))
    assert named, "no kind is named"
    assert named <= set(FAULT_KINDS)


async def test_the_printed_fault_file_can_be_used(tmp_path: Path) -> None:
    path = tmp_path / "faults.toml"
    path.write_text(block("[[fault]]", "toml"))
    assert len(read_faults(path)) == 3
    async with running(accounts={"demo": Decimal(1000), "large": Decimal(1)}, faults=path) as client:
        on = (await client.get("/admin/faults"))[1]["faults"]
        assert [fault["kind"] for fault in on] == ["http_504_after", "external_close"]


async def test_the_printed_request_switches_a_fault_on() -> None:
    words = shlex.split(block("curl"))
    async with running() as client:
        path = words[2].partition("8900")[2]
        status, body = await client.post(path, json.loads(words[words.index("-d") + 1]))
        assert (status, body["kind"], body["count"]) == (200, "http_504_after", 1)


async def test_the_printed_recording_is_played(tmp_path: Path) -> None:
    path = tmp_path / "day.csv"
    path.write_text(block("timestamp,kind,symbol"))
    async with running(replay=path, manual={}, start=None) as client:
        await client.post("/admin/advance", {"seconds": 5})
        quote = (await client.get("/v2/stocks/AAPL/quotes/latest"))[1]["quote"]
        assert (quote["bp"], quote["ap"], quote["bs"]) == (189.98, 190.02, 200)
        assert (await client.get("/v2/stocks/AAPL/trades/latest"))[1]["trade"]["p"] == 190.02


async def test_the_example_for_tests_runs_as_printed(capsys: Any) -> None:
    names: dict[str, Any] = {}
    exec(compile(block("async def test_something", "python"), str(PAGE), "exec"), names)
    await names["test_something"]()
    assert "ws://127.0.0.1:" in capsys.readouterr().out


def test_tables_of_the_state_are_those_of_the_file(tmp_path: Path) -> None:
    state = StateFile(tmp_path, 1)
    try:
        tables = {name for (name,) in state._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    finally:
        state.close(write=False)
    assert {name for cell in rows("table") for name in cell.split(", ")} == tables


async def test_the_market_begins_at_an_open_and_goes_at_the_printed_speed() -> None:
    async with running(start=None, paused=True, symbols=["AAPL"], manual={}) as client:
        clock = (await client.get("/admin/clock"))[1]
        assert datetime.fromisoformat(clock["now"]).strftime("%H:%M") in ("14:30", "13:30")
        assert clock["speed"] == 1
