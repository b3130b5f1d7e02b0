"""`exitguard record`: what was heard is what is played back, exactly; and recorders that are unlucky."""

import asyncio
import contextlib
import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.integration.paper.conftest import Client, running
from tests.support.waiting import PATIENCE, eventually

from exitguard.broker.port import BrokerError
from exitguard.broker.wire import Backoff
from exitguard.cli.exits import CommandFailed
from exitguard.cli.record import record as command
from exitguard.cli.recorder import Feed, Recording, record
from exitguard.paper.market.generated import GeneratorSettings

OPEN = datetime(2026, 11, 18, 14, 30, tzinfo=UTC)
# Much that is wrong, so that all of it is heard within minutes.
LIVELY = GeneratorSettings(interval=2.0, bad_quote_probability=0.2)
CHANNELS = ("quotes", "trades", "statuses")


@contextlib.asynccontextmanager
async def recorded(client: Client, path: Path, options: list[str], account: str = "large") -> AsyncIterator[Recording]:
    """Everything that the exchange says meanwhile is recorded; the file is closed afterwards."""
    one = client.server.accounts[account]
    feeds = [Feed(client.server.data_stream_url, {channel: ["*"] for channel in CHANNELS})]
    if options:
        feeds.append(Feed(client.server.option_stream_url, {"quotes": options, "trades": options}))
    listening = asyncio.Event()
    recording = Recording.create(path)
    task = asyncio.ensure_future(
        record(feeds, one.key, one.secret, recording, say=print, on_listening=listening.set, backoff=quick)
    )
    await asyncio.wait_for(listening.wait(), PATIENCE)
    try:
        yield recording
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        recording.file.close()


def quick() -> Backoff:
    return Backoff(first=0.01, maximum=0.02, busy=0.01)


async def settled(recording: Recording) -> None:
    """Wait until nothing more is heard: several looks in a row, for one may fall into a moment without any work."""
    seen, quiet = -1, 0
    while quiet < 10:
        quiet = quiet + 1 if seen == recording.events else 0
        seen = recording.events
        await asyncio.sleep(0.02)


async def option_of(client: Client, underlying: str) -> list[str]:
    _, listed = await client.get(f"/v2/options/contracts?underlying_symbols={underlying}&limit=400")
    contracts = [contract["symbol"] for contract in listed["option_contracts"]]
    return contracts[len(contracts) // 2 : len(contracts) // 2 + 3]


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
async def test_a_recording_plays_back_exactly(tmp_path: Path, suffix: str) -> None:
    first, second = tmp_path / f"first{suffix}", tmp_path / f"second{suffix}"
    async with running(manual={}, symbols=["AAPL", "F"], start=OPEN, generator=LIVELY) as client:
        await client.post("/admin/advance", {"seconds": 1})
        options = await option_of(client, "AAPL")
        await client.fault("quote_nan", probability=0.02)
        await client.fault("quote_stale", probability=0.02)
        async with recorded(client, first, options) as recording:
            await client.post("/admin/advance", {"seconds": 300})
            await client.post("/admin/halt", {"symbol": "F"})
            await client.post("/admin/advance", {"seconds": 5})
            await client.post("/admin/halt", {"symbol": "F", "halted": False})
            await client.post("/admin/advance", {"seconds": 300})
            await settled(recording)
    assert {"quote", "trade", "halt", "resume"} <= {row.split(",")[1] for row in lines(first)}
    assert "NaN" in "".join(lines(first))
    async with running(manual={}, replay=first, start=None) as client:
        assert client.server.host.now().isoformat()[:19] == lines(first)[1][:19]
        async with recorded(client, second, options) as recording:
            await client.post("/admin/advance", {"seconds": 700})
            await settled(recording)
        assert client.server.host.player.ended
    # Each socket's order is kept; between two sockets there is none.
    for wanted in (("AAPL", "F"), options):
        assert of(second, wanted) == of(first, wanted)
    assert recording.symbols == {"AAPL", "F", *options}


def of(path: Path, symbols: Collection[str]) -> list[str]:
    return [row for row in lines(path) if row.split(",")[2] in symbols]


def lines(path: Path) -> list[str]:
    return (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode().splitlines()


async def test_a_recorder_goes_on_after_its_connection_was_cut(tmp_path: Path) -> None:
    async with running() as client, recorded(client, tmp_path / "cut.csv", []) as recording:
        await client.quote("AAPL", 190, 190.02)
        await eventually(lambda: recording.events == 1, "the first quote")
        await client.fault("data_disconnect", count=1)
        streams = client.server.app.data_streams
        await eventually(lambda: streams.subscriptions() == 0, "the cut")
        await eventually(lambda: streams.subscriptions() > 0, "the new connection")
        await client.quote("AAPL", 191, 191.02)
        await eventually(lambda: recording.events == 2, "the second quote")


async def test_refused_keys_and_subscriptions_are_told(tmp_path: Path) -> None:
    async with running() as client:
        one = client.server.accounts["large"]
        stocks = Feed(client.server.data_stream_url, {"quotes": ["AAPL"]})
        for feed, secret, words in (
            (stocks, "wrong", "auth failed"),
            (Feed(client.server.option_stream_url, {"quotes": ["*"]}), one.secret, "star subscription"),
        ):
            recording = Recording.create(tmp_path / f"{words}.csv")
            with recording.file, pytest.raises(BrokerError, match=words):
                await record([feed], one.key, secret, recording, say=print)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "nothing to record"),
        ({"stocks": ["AAPL261120C00190000"]}, "belongs to --options"),
        ({"options": ["AAPL"]}, "belongs to --stocks"),
        ({"stocks": ["not one"]}, "not one"),
        ({"stocks": ["AAPL"], "seconds": 0.0}, "must be positive"),
        ({"stocks": ["AAPL"], "file": Path("x.parquet")}, "is a .csv"),
    ],
)
def test_requests_that_make_no_sense(tmp_path: Path, given: dict[str, Any], words: str) -> None:
    file = tmp_path / given.pop("file", "x.csv")
    with pytest.raises(CommandFailed, match=words):
        command(file, **given)
    assert not file.exists()


async def test_the_command_records_until_it_is_told_to_stop(tmp_path: Path) -> None:
    file = tmp_path / "live.csv"
    async with running() as client:
        process = await start(client, file)
        assert process.stderr is not None
        assert b"recording" in await asyncio.wait_for(process.stderr.readline(), PATIENCE)
        await client.quote("AAPL", 190, 190.02)
        await eventually(lambda: len(lines(file)) == 2, "the quote to be written out")
        process.send_signal(signal.SIGTERM)
        out, errors = await process.communicate()
        assert (process.returncode, errors) == (0, b"")
        found = json.loads(out)
        assert (found["events"], found["symbols"], found["file"]) == (1, 1, str(file))
        again = await start(client, file)
        _, errors = await again.communicate()
        assert again.returncode == 73
        assert b"exists already" in errors


async def start(client: Client, file: Path) -> asyncio.subprocess.Process:
    one = client.server.accounts["large"]
    environment = {**os.environ, "REC_KEY": one.key, "REC_SECRET": one.secret, "EXITGUARD_STATE_DIR": str(file.parent)}
    urls = ("--stock-url", client.server.data_stream_url, "--key", "env:REC_KEY", "--secret", "env:REC_SECRET")
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "exitguard.cli.main",
        "record",
        str(file),
        "--stocks",
        "AAPL",
        *urls,
        "--json",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
