"""How fast and how large the paper exchange is: orders, fan-out of quotes, a large day, many days.

The exchange runs as `exitguard paper`, its clients as processes of their own, so that each has a processor.
"""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import aiohttp
import orjson

from exitguard.cli.bench.place import BenchFailed
from exitguard.cli.bench.result import Measurement, Target, measured

Say = Callable[[str], None]
_ACCOUNTS = 50
_SOCKETS = 20
_STOCKS = 500
_START = "2026-11-18T10:00:00-05:00"
_PATIENCE = 120.0
_DAYS_PATIENCE = 600.0


@dataclass(frozen=True, slots=True)
class AtLeast(Target):
    """A promise the other way round: the value, or its ratio to the baseline, reaches a limit."""

    ratio_limit: float | None = None

    def __str__(self) -> str:
        words = f"value >= {self.limit:g}"
        return words if self.ratio_limit is None else f"{words} or ratio >= {self.ratio_limit:g}"

    def holds(self, value: float, ratio: float | None) -> bool:
        """Whether either promise is kept."""
        by_ratio = self.ratio_limit is not None and ratio is not None and ratio >= self.ratio_limit
        return value >= self.limit or by_ratio


ORDERS = AtLeast(3_000, ratio_limit=0.6)
FANOUT = AtLeast(20_000)
DAY = Target(60)
MEMORY = Target(1.05, of_ratio=True)


@dataclass(frozen=True, slots=True)
class ExchangeSizes:
    """How much is measured; seconds are wall seconds a round."""

    rounds: int = 5
    seconds: float = 1.0
    contracts: int = 5_000
    stocks: int = _STOCKS
    days: int = 50
    orders_a_day: int = 20


@contextlib.asynccontextmanager
async def _child(module: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A module of ours as a process that is gone afterwards."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.communicate(), 15)
            except TimeoutError:
                process.kill()
                await process.wait()


async def _line(process: asyncio.subprocess.Process, seconds: float, what: str) -> Any:
    """The next line that a child prints, from JSON. Raises BenchFailed when none comes."""
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), seconds)
    except TimeoutError:
        raise BenchFailed(f"{what} said nothing within {seconds:g} s") from None
    if not line:
        raise BenchFailed(f"{what} ended with exit code {await process.wait()}")
    return orjson.loads(line)


@contextlib.asynccontextmanager
async def _exchange(accounts: int, symbols: Sequence[str]) -> AsyncIterator[dict[str, Any]]:
    """`exitguard paper` with its clock standing still, ten market seconds after its start."""
    names = [argument for number in range(accounts) for argument in ("--account", f"a{number}:1000000000")]
    stocks = [argument for symbol in symbols for argument in ("--symbols", symbol)]
    options = ("paper", "--json", "--paused", "--generate", "1", "--start", _START)
    async with _child("exitguard.cli.main", *options, *names, *stocks) as process:
        said = await _line(process, _PATIENCE, "the exchange")
        await _post(f"{said['admin']}/advance", {"seconds": 10})
        yield said


async def _post(url: str, body: dict[str, Any]) -> None:
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as answer:
        if answer.status != 200:
            raise BenchFailed(f"{url} answered {answer.status}: {(await answer.text())[:200]}")


def _load(said: dict[str, Any], sizes: ExchangeSizes) -> str:
    target = {
        "port": int(said["rest"].rpartition(":")[2]),
        "accounts": [(account["key"], account["secret"]) for account in said["accounts"].values()],
        "rounds": sizes.rounds,
        "seconds": sizes.seconds,
    }
    return orjson.dumps(target).decode()


async def _rates(module: str, said: dict[str, Any], sizes: ExchangeSizes) -> list[float]:
    async with _child(module, _load(said, sizes)) as client:
        found = await _line(client, _PATIENCE + sizes.seconds * (sizes.rounds + 1), "the clients")
    return [float(rate) for rate in found]


async def orders(sizes: ExchangeSizes, say: Say) -> dict[str, Measurement]:
    """Order round trips a second; baseline: the same server stack in front of an empty handler."""
    say(f"exchange_orders: {_ACCOUNTS} accounts, {sizes.rounds} rounds each way")
    module = "exitguard.cli.bench.exchange_load"
    async with _child("exitguard.cli.bench.exchange_empty") as empty:
        port = await _line(empty, _PATIENCE, "the empty handler")
        nobody = {"rest": f"http://127.0.0.1:{port}", "accounts": {n: {"key": n, "secret": n} for n in _names()}}
        bare = await _rates(module, nobody, sizes)
    async with _exchange(_ACCOUNTS, ("AAPL",)) as said:
        ours = await _rates(module, said, sizes)
    return {"exchange_orders": measured(median(ours), "orders/s", baseline=median(bare), target=ORDERS)}


def _names() -> list[str]:
    return [f"a{number}" for number in range(_ACCOUNTS)]


async def fanout(sizes: ExchangeSizes, say: Say) -> dict[str, Measurement]:
    """Quotes a second of which each of the sockets gets every one."""
    say(f"exchange_fanout: {_SOCKETS} sockets, all quotes of {sizes.stocks} stocks, {sizes.rounds} rounds")
    stocks = [f"{first}{second}{third}" for first in "ABCDEFGH" for second in "ABCDEFGH" for third in "ABCDEFGH"]
    async with (
        _exchange(_SOCKETS, stocks[: sizes.stocks]) as said,
        _child("exitguard.cli.bench.exchange_ears", _load(said, sizes)) as ears,
    ):
        await _line(ears, _PATIENCE, "the sockets")
        playing = asyncio.ensure_future(_post(f"{said['admin']}/advance", {"seconds": 6 * 3600, "reaction": 0}))
        found = await _line(ears, _PATIENCE + sizes.seconds * (sizes.rounds + 1), "the sockets")
        playing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await playing
    return {"exchange_fanout": measured(median(found), "quotes/s", target=FANOUT)}


async def day(sizes: ExchangeSizes, say: Say) -> dict[str, Measurement]:
    """Wall seconds of a day of minute bars at full speed."""
    say(f"exchange_day: minute bars of {sizes.stocks} stocks, {sizes.contracts} option contracts")
    async with _child("exitguard.cli.bench.exchange_days", "day", str(sizes.stocks), str(sizes.contracts)) as child:
        found = await _line(child, _DAYS_PATIENCE, "the large day")
    if found["contracts"] != sizes.contracts:
        raise BenchFailed(f"only {found['contracts']} of {sizes.contracts} contracts were followed")
    return {"exchange_day": measured(found["seconds"], "s", target=DAY)}


async def memory(sizes: ExchangeSizes, say: Say) -> dict[str, Measurement]:
    """Resident memory of the last fifth of many played days; baseline: their second fifth."""
    say(f"exchange_memory: {sizes.days} days of trading")
    async with _child("exitguard.cli.bench.exchange_days", "memory", str(sizes.days), str(sizes.orders_a_day)) as child:
        found = await _line(child, _DAYS_PATIENCE, "the many days")
    fifth = max(1, sizes.days // 5)
    # The first fifth fills the histories that the market keeps of ten sessions.
    early, late = median(found["memory"][fifth : 2 * fifth]), median(found["memory"][-fifth:])
    return {"exchange_memory": measured(late, "MiB", baseline=early, target=MEMORY)}
