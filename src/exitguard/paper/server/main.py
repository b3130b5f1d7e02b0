"""Runs the paper exchange as a process of its own: what `exitguard paper` calls."""

import asyncio
import contextlib
import gc
import signal
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import orjson
import uvloop

from exitguard.core.errors import InvalidInput
from exitguard.core.session import NEW_YORK
from exitguard.paper.market.moods import read_moods
from exitguard.paper.market.recorded import DEFAULT_SPREAD_FRACTION
from exitguard.paper.server.app import PaperServer, PortInUse
from exitguard.paper.server.settings import PLANS, PaperSettings, SocketLimits
from exitguard.paper.server.state import StateError, StateInUse

EXIT_OK = 0
EXIT_USAGE = 2
EXIT_CANNOT_CREATE = 73
EXIT_TEMPORARY = 75


def serve(
    *,
    accounts: Mapping[str, Decimal],
    port: int = 0,
    host: str = "127.0.0.1",
    replay: Path | None = None,
    generate: int | None = None,
    symbols: Sequence[str] | None = None,
    start: datetime | None = None,
    speed: float = 1.0,
    paused: bool = False,
    spread_fraction: float = DEFAULT_SPREAD_FRACTION,
    plan: str | None = None,
    state: Path | None = None,
    faults: Path | None = None,
    markets: Sequence[str] = (),
    json: bool = False,
) -> int:
    """Run an exchange until SIGTERM or SIGINT; the exit code.

    `accounts` maps names to opening cash in dollars. `generate` is the seed of everything that is left to chance, of
    generated stocks too; `replay` a file or folder of minute bars or recorded quotes; both may be given: `symbols` of
    which nothing is recorded are then generated. `markets` names how generated stocks behave (NAMES or SYMBOL=NAMES),
    `plan` is one of Alpaca's data plans with its limits, none without;
    `faults` is a file of faults, `state` a folder to keep everything in. `start` needs a time zone. `speed` is market
    seconds a wall second. With `json` the first line of standard output is one object with every URL and every
    account's keys; without it, the same for people.
    """
    try:
        moods = read_moods(markets)
    except InvalidInput as error:
        return _complain(str(error), EXIT_USAGE)
    limits = PLANS[plan] if plan is not None else None
    settings = PaperSettings(
        accounts=accounts,
        host=host,
        port=port,
        seed=1 if generate is None else generate,
        start=start,
        speed=speed,
        paused=paused,
        symbols=symbols,
        replay=replay,
        generate_missing=generate is not None,
        spread_fraction=spread_fraction,
        requests_per_minute=None if limits is None else limits.requests_per_minute,
        limits=SocketLimits() if limits is None else limits.limits,
        feeds_withheld=frozenset() if limits is None else limits.feeds_withheld,
        state=state,
        faults=faults,
        moods=moods,
    )
    return uvloop.run(run(settings, json=json))


async def run(settings: PaperSettings, *, json: bool) -> int:
    """The exchange's life in a running event loop; the exit code."""
    if not settings.accounts:
        return _complain("an exchange needs at least one account: NAME:CASH", EXIT_USAGE)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    server = PaperServer(settings)
    try:
        await server.start()
    except StateInUse as error:
        return _complain(str(error), EXIT_TEMPORARY)
    except (PortInUse, StateError) as error:
        return _complain(str(error), EXIT_CANNOT_CREATE)
    except InvalidInput as error:
        return _complain(str(error), EXIT_USAGE)
    # What is listed at the start stays: the garbage collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    try:
        _announce(server, json=json)
        waiting = asyncio.ensure_future(stopped.wait())
        failing = asyncio.ensure_future(server.wait_failed())
        await asyncio.wait({waiting, failing}, return_when=asyncio.FIRST_COMPLETED)
        if failing.done():
            failing.result()
        for task in (waiting, failing):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
    except StateError as error:
        return _complain(str(error), EXIT_CANNOT_CREATE)
    finally:
        await server.stop()
    return EXIT_OK


def _complain(text: str, code: int) -> int:
    print(f"exitguard paper: {text}", file=sys.stderr, flush=True)
    return code


def _announce(server: PaperServer, *, json: bool) -> None:
    description = server.description()
    pace = "paused" if server.host.clock.paused else f"{server.settings.speed:g}x"
    if json:
        print(orjson.dumps(description).decode(), flush=True)
        return
    lines = [
        f"Paper exchange on {server.rest_url} (status page there; stop with Ctrl-C)",
        f"  trade stream   {server.stream_url}",
        f"  stock data     {server.data_stream_url}",
        f"  option data    {server.option_stream_url}  (model quotes)",
        f"  market time    {server.host.now().astimezone(NEW_YORK):%Y-%m-%d %H:%M:%S} New York, {pace}",
    ]
    lines += [
        f"  account {name}: key {account.key}  secret {account.secret}  number {account.account_number}"
        for name, account in server.accounts.items()
    ]
    print("\n".join(lines), flush=True)
