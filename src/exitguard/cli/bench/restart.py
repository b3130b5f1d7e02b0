"""How long a book of 1,000 positions is unwatched: after kill -9 alone, and with a stand-by after a crash and a hang.

Real processes, the paper exchange over sockets, PostgreSQL. In each round an option falls through its stop while nobody
watches; what is measured ends when the order that closes it is at the exchange and a sweep of all positions is written.
"""

import asyncio
import signal
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import asyncpg

from exitguard.cli.bench.book import Held
from exitguard.cli.bench.house import House, HouseSizes, furnish, start_exchange
from exitguard.cli.bench.place import BenchFailed, Place
from exitguard.cli.bench.result import Measurement, Target, failed, measured, median
from exitguard.cli.demo.venue import Venue

Say = Callable[[str], None]
RECOVERY = Target(2.0)
CRASH = Target(1.0)
# Of the lease's time to live.
HANG = Target(1.0, of_ratio=True)
# The default of the settings.
LEASE_SECONDS = 15.0
_PATIENCE = 120.0
_LOOK = 0.004
_CENT = Decimal("0.01")
# A loss of 60 %: beyond every stop of the default policy.
_BREACHED = Decimal("0.4")
_COUNT = """
SELECT (SELECT count(*) FROM active_positions WHERE status IN ('open', 'closing')) AS open,
       (SELECT count(*) FROM order_intents WHERE status = 'armed') AS armed,
       (SELECT count(*) FROM active_positions WHERE status = 'open' AND instrument_type = 'STOCK'
           AND bracket_order_accepted) AS brackets,
       (SELECT count(*) FROM active_positions WHERE status = 'open' AND instrument_type = 'STOCK') AS stocks
"""
_LEASE = "SELECT max(epoch) FROM leases WHERE component = 'manager'"
_SWEPT = "SELECT max(epoch) FROM heartbeats WHERE component = 'manager'"


@dataclass(frozen=True, slots=True)
class RestartSizes:
    """How large the book is, and how often each death is died."""

    house: HouseSizes = field(default_factory=HouseSizes)
    recoveries: int = 5
    crashes: int = 3
    hangs: int = 2


class Ward:
    """One account whose manager dies again and again."""

    def __init__(self, place: Place, house: House, owner: Any) -> None:
        self._place = place
        self._house = house
        self._owner = owner
        self._name = house.sizes.names[0]
        self._number = 0
        options = [held for held in house.held[self._name] if held.is_option]
        # One option of each underlying at most: where it falls, its neighbours have no market for a while.
        self._victims = iter({held.symbol[:-15]: held for held in options}.values())

    async def manage(self, *options: str) -> Process:
        """Start a manager."""
        self._number += 1
        arguments = ("run", "--config", str(self._house.settings), "--account", self._name, *options)
        return await self._place.start(f"manager{self._number}", "exitguard.cli.main", *arguments)

    async def stand_by(self) -> Process:
        """Start a stand-by, and wait until it waits."""
        process = await self.manage("--standby")
        log = self._place.folder / f"manager{self._number}.log"
        await self._until(lambda: _true("Standing by" in log.read_text(errors="replace")), "the stand-by waits")
        return process

    async def settled(self) -> None:
        """Wait until everything is protected: brackets rest, closes are armed."""

        async def ready() -> bool:
            row = await self._owner.fetchrow(_COUNT)
            return bool(row["brackets"] == row["stocks"] and row["armed"] >= row["open"] - row["stocks"] > 0)

        await self._until(ready, "brackets and armed closes of all positions")

    async def epoch(self) -> int:
        """The newest lease."""
        return int(await self._owner.fetchval(_LEASE) or 0)

    async def taken_over(self, epoch: int, began: float) -> float:
        """Seconds until somebody has a newer lease."""

        async def newer() -> bool:
            return await self.epoch() > epoch

        await self._until(newer, "another process has the lease")
        return time.perf_counter() - began

    async def watched(self, epoch: int, began: float) -> float:
        """Let an option fall; seconds until its close is at the exchange and a sweep under a newer lease is written."""
        victim = next(self._victims, None)
        if victim is None:
            raise BenchFailed("no option is left that could fall")
        falling = asyncio.create_task(self._fall(victim))
        try:

            async def sold() -> bool:
                orders = await self._house.venue.orders(self._name, status="all", symbols=victim.symbol)
                return any(order["side"] == "sell" for order in orders)

            async def seen() -> bool:
                return bool(await self._owner.fetchval(_SWEPT) > epoch)

            async def gone() -> bool:
                return all(row["symbol"] != victim.symbol for row in await self._house.venue.positions(self._name))

            await self._until(sold, f"the close of {victim.symbol}")
            await self._until(seen, "a sweep of all positions")
            seconds = time.perf_counter() - began
            # Without quotes the exchange would not fill it.
            await self._until(gone, f"the fill of {victim.symbol}")
            return seconds
        finally:
            falling.cancel()

    async def _fall(self, victim: Held) -> None:
        """Quote an option far below its stop, as a market does: again and again."""
        bid = max(_CENT, (victim.price * _BREACHED).quantize(_CENT))
        await self._house.venue.hold(victim.symbol[:-15])
        while True:
            await self._house.venue.publish(victim.symbol, bid, bid + _CENT)
            await asyncio.sleep(0.05)

    async def _until(self, holds: Callable[[], Awaitable[bool]], what: str) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not await holds():
            if time.monotonic() > deadline:
                raise BenchFailed(f"not within {_PATIENCE:g} s: {what}")
            await asyncio.sleep(_LOOK)


async def _true(value: bool) -> bool:
    return value


@asynccontextmanager
async def _ward(place: Place, sizes: RestartSizes, say: Say, what: str) -> AsyncIterator[Ward]:
    say(f"{what}: buying {sizes.house.positions} positions at the paper exchange")
    addresses = await start_exchange(place, sizes.house, paused=False, market="calm")
    try:
        async with Venue(addresses) as venue:
            house = await furnish(place, venue, sizes.house, stepped=False)
            owner = await asyncpg.connect(house.url)
            try:
                yield Ward(place, house, owner)
            finally:
                await owner.close()
    finally:
        await place.stop_all()


async def recovery(place: Place, sizes: RestartSizes, say: Say) -> dict[str, Measurement]:
    """Kill the only manager and start it again; median seconds until everything is watched.

    Baseline: the start of an interpreter that imports the program and ends.
    """
    async with _ward(place, sizes, say, "recovery") as ward:
        manager = await ward.manage()
        await ward.settled()
        times, bare = [], []
        for turn in range(1, sizes.recoveries + 1):
            bare.append(await _bare_start())
            epoch, began = await ward.epoch(), time.perf_counter()
            manager.kill()
            await manager.wait()
            manager = await ward.manage()
            times.append(await ward.watched(epoch, began))
            say(f"recovery: {turn} of {sizes.recoveries}: {times[-1]:.2f} s")
            await ward.settled()
    return {"recovery": measured(median(times), "s", baseline=median(bare), target=RECOVERY)}


async def take_over(place: Place, sizes: RestartSizes, say: Say) -> dict[str, Measurement]:
    """Kill and stop the manager beside a stand-by; median seconds until the stand-by has the lease, and watches."""
    async with _ward(place, sizes, say, "takeover") as ward:
        manager = await ward.manage()
        await ward.settled()
        leases: dict[signal.Signals, list[float]] = {signal.SIGKILL: [], signal.SIGSTOP: []}
        watching: list[float] = []
        for number in (*[signal.SIGKILL] * sizes.crashes, *[signal.SIGSTOP] * sizes.hangs):
            stand_by = await ward.stand_by()
            epoch, began = await ward.epoch(), time.perf_counter()
            manager.send_signal(number)
            leases[number].append(await ward.taken_over(epoch, began))
            seconds = await ward.watched(epoch, began)
            if number is signal.SIGKILL:
                await manager.wait()
                watching.append(seconds)
            say(f"takeover: {number.name}: lease after {leases[number][-1]:.3f} s, all watched after {seconds:.2f} s")
            if manager.returncode is None:
                manager.send_signal(signal.SIGKILL)
            await manager.wait()
            manager = stand_by
            await ward.settled()
    return {
        "takeover_crash": measured(median(leases[signal.SIGKILL]), "s", target=CRASH),
        "takeover_watching": measured(median(watching), "s"),
        "takeover_hang": measured(max(leases[signal.SIGSTOP]), "s", baseline=LEASE_SECONDS, target=HANG)
        if sizes.hangs
        else failed("no hang was tried", HANG),
    }


async def _bare_start() -> float:
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "import exitguard.cli.run")
    await process.wait()
    return time.perf_counter() - began
