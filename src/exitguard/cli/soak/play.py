"""Conducts a soak: house up, minute after minute under faults, one manager killed in the middle, books compared."""

import asyncio
import contextlib
import time
from asyncio.subprocess import Process
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random

from exitguard.cli.bench.book import OPTION_QTY, STOCK_QTY
from exitguard.cli.bench.house import House, HouseSizes, furnish, start_exchange
from exitguard.cli.bench.place import BenchFailed, Place, open_place
from exitguard.cli.bench.whole import resident_megabytes
from exitguard.cli.demo.venue import Venue, VenueFailed
from exitguard.cli.demo.verify import read_fills, read_state
from exitguard.cli.soak.faults import strike, switch_on
from exitguard.cli.soak.report import GROWTH_LIMIT, SoakResult
from exitguard.cli.soak.verdict import compare, sentences
from exitguard.store.operator import Operator
from exitguard.store.schema import as_owner

Say = Callable[[str], None]
# Wall seconds that the managers of a process may take to start.
_START_PATIENCE = 300.0
# Wall seconds without any sweep after which a minute goes on without those that are missing, and the market time that
# nobody may be behind: a sweep whose heartbeat met a database that stumbled is only repeated in the next minute.
_LATE_SECONDS = 10.0
_LATEST = timedelta(minutes=5)
# Market minutes without faults until the books must agree with the exchange.
_SETTLING = 15
_LOOK = 0.02
# Connections to PostgreSQL that an account keeps, and some for everybody else.
_CONNECTIONS, _MORE_CONNECTIONS = 5, 60
_STOCKS = 100
# Every fifth position is a stock with a bracket.
_STOCK_SHARE = 5
# What may be bought by hand in a minute, so that the house stays full; the same contract not again for a while, because
# what nobody has seen yet cannot be in the ledger when somebody else sells it.
_BOUGHT_A_MINUTE = 30
_BOUGHT_AGAIN = timedelta(minutes=6)


@dataclass(frozen=True, slots=True)
class SoakSizes:
    """How large a soak is; `positions` are those of one account."""

    accounts: int = 200
    positions: int = 50
    minutes: int = 60
    processes: int = 8
    seed: int = 1

    @property
    def house(self) -> HouseSizes:
        """What the managers are started with."""
        stocks = min(_STOCKS, max(2, self.accounts * self.positions // 10))
        held = max(1, min(stocks, self.positions // _STOCK_SHARE))
        return HouseSizes(self.accounts, stocks, held, self.positions)


@dataclass(slots=True)
class Managers:
    """The managers' processes, each with its share of the accounts."""

    place: Place
    house: House
    shares: list[tuple[str, ...]]
    running: list[Process] = field(default_factory=list)

    async def start(self, number: int) -> Process:
        """Start the process of one share."""
        arguments = [part for name in self.shares[number] for part in ("--account", name)]
        return await self.place.start(
            f"managers{number + 1}", "exitguard.cli.main", "run", "--config", str(self.house.settings), *arguments
        )

    def check(self) -> None:
        """Raise BenchFailed when one has ended."""
        for number, process in enumerate(self.running, 1):
            if process.returncode is not None:
                raise BenchFailed(f"the managers of process {number} ended with exit code {process.returncode}")


async def play(sizes: SoakSizes, say: Say) -> SoakResult:
    """Play one soak to its end. Raises BenchFailed when it cannot go on."""
    result = SoakResult(sizes.accounts, sizes.accounts * sizes.positions, sizes.minutes, sizes.processes, sizes.seed)
    began = time.monotonic()
    async with open_place() as place:
        await _widen(place, sizes.accounts * _CONNECTIONS + _MORE_CONNECTIONS)
        say(f"buying {result.positions:,} positions of {sizes.accounts} accounts at the paper exchange")
        addresses = await start_exchange(place, sizes.house, paused=True, market="trend", seed=sizes.seed)
        try:
            async with Venue(addresses) as venue:
                house = await furnish(place, venue, sizes.house, stepped=True, log="warning")
                async with await Operator.connect(house.url) as ledger:
                    await Soak(sizes, place, house, ledger, result, say).run()
        finally:
            await place.stop_all()
    result.wall_seconds = time.monotonic() - began
    return result


async def _widen(place: Place, connections: int) -> None:
    """Let the embedded server take this many connections: it is made for a few accounts."""
    await place.server.ensure_running()
    async with as_owner(place.server.url("postgres")) as connection:
        await connection.execute(f"ALTER SYSTEM SET max_connections = {connections:d}")
    await place.server.stop()
    await place.server.ensure_running()


class Soak:
    """One soak, with everything up."""

    def __init__(
        self, sizes: SoakSizes, place: Place, house: House, ledger: Operator, result: SoakResult, say: Say
    ) -> None:
        self._sizes = sizes
        self._house = house
        self._ledger = ledger
        self._result = result
        self._say = say
        self._chance = Random(sizes.seed)  # noqa: S311 - repeatability is the point
        names = house.sizes.names
        self._managers = Managers(place, house, [names[first :: sizes.processes] for first in range(sizes.processes)])
        self._now = house.furnished_at
        self._bought_at: dict[tuple[str, str], datetime] = {}

    async def run(self) -> None:
        """Play the minutes, let everything settle, and compare."""
        sizes, result, venue = self._sizes, self._result, self._house.venue
        # One after the other: two hundred accounts that start at once would starve each other.
        for number in range(sizes.processes):
            self._managers.running.append(await self._managers.start(number))
            await self._there(self._managers.shares[number])
        self._say(f"{sizes.accounts} accounts are managed by {sizes.processes} processes; {sizes.minutes} minutes")
        faults = await switch_on(venue, sizes.seed)
        for minute in range(1, sizes.minutes + 1):
            await self._events()
            if minute == sizes.minutes // 2:
                await self._kill_one()
            await self._step(minute)
            result.played = minute
        for number in faults:
            await venue.remove_fault(number)
        await self._settle()
        await self._judge()

    # One minute -------------------------------------------------------------------------------------------------

    async def _step(self, minute: int) -> None:
        began = time.monotonic()
        await self._advance()
        for number, process in enumerate(self._managers.running, 1):
            self._result.memory.setdefault(f"process {number}", []).append(resident_megabytes(process.pid))
        counts = await self._ledger.live_counts()
        memory = sum(samples[-1] for samples in self._result.memory.values())
        self._say(
            f"minute {minute} of {self._sizes.minutes}: {sum(counts.values()):,} open, managers {memory:,.0f} MB,"
            f" {time.monotonic() - began:.1f} s"
        )

    async def _advance(self) -> None:
        self._now = await self._house.venue.advance(self._now + timedelta(minutes=1))
        await self._swept(self._now)

    async def _there(self, names: Sequence[str]) -> None:
        """Wait until these accounts have swept for the first time; time goes on slowly, so that a sweep is repeated."""
        deadline = time.monotonic() + _START_PATIENCE
        while behind := [name for name in names if name not in await self._beats()]:
            if time.monotonic() > deadline:
                some = ", ".join(behind[:5])
                raise BenchFailed(f"{len(behind)} managers did not start within {_START_PATIENCE:g} s: {some}")
            self._managers.check()
            await asyncio.sleep(_LOOK)
            if time.monotonic() > deadline - _START_PATIENCE + _LATE_SECONDS:
                await self._advance()

    async def _swept(self, moment: datetime) -> None:
        """Wait until every manager has swept at `moment`, or go on without a few that are not far behind."""
        late = time.monotonic() + _LATE_SECONDS
        running = {name for share in self._managers.shares[: len(self._managers.running)] for name in share}
        before = len(running)
        while True:
            beats = await self._beats()
            behind = sorted(name for name in running if name in beats and beats[name] < moment)
            if not behind:
                return
            if len(behind) < before:
                before, late = len(behind), time.monotonic() + _LATE_SECONDS
            self._managers.check()
            if time.monotonic() > late:
                lost = [name for name in behind if moment - beats[name] > _LATEST]
                if lost:
                    raise BenchFailed(
                        f"{len(lost)} managers have not swept for {_LATEST}: {', '.join(lost[:5])}; of {lost[0]}:"
                        f" {self._managers.place.last_words(lost[0])}"
                    )
                self._result.late += len(behind)
                return
            await asyncio.sleep(_LOOK)

    async def _beats(self) -> dict[str, datetime]:
        """Market time of each manager's newest heartbeat."""
        found = await self._ledger.heartbeats()
        return {beat["account_name"]: beat["venue_time"] for beat in found if beat["component"] == "manager"}

    async def _events(self) -> None:
        """What happens behind our back: cuts, closes by hand, and purchases by hand that keep the house full."""
        rows = await self._ledger.live_rows()
        held = [(row["account_name"], row["symbol"]) for row in rows if row["status"] == "open"]
        if held:
            await strike(self._house.venue, self._chance, held)
        mine: dict[str, set[str]] = {}
        for row in rows:
            mine.setdefault(row["account_name"], set()).add(row["symbol"])
        free = [
            (name, each.symbol)
            for name, book in self._house.held.items()
            for each in book
            if each.symbol not in mine.get(name, ())
            and self._now - self._bought_at.get((name, each.symbol), self._house.furnished_at) >= _BOUGHT_AGAIN
        ]
        for name, symbol in self._chance.sample(free, min(len(free), _BOUGHT_A_MINUTE)):
            self._bought_at[name, symbol] = self._now
            # A fault may hit this purchase too; whether it went through is told by the exchange's executions.
            with contextlib.suppress(VenueFailed):
                await self._house.venue.buy(name, symbol, STOCK_QTY if len(symbol) <= 6 else OPTION_QTY)

    async def _kill_one(self) -> None:
        """Kill -9 of the last process, and start it again: its accounts go on where they were."""
        process = self._managers.running[-1]
        process.kill()
        await process.wait()
        self._managers.running[-1] = await self._managers.start(self._sizes.processes - 1)
        self._result.killed += 1
        # What a process holds is told from its own start.
        self._result.memory.pop(f"process {self._sizes.processes}", None)
        self._say(f"process {self._sizes.processes} was killed with SIGKILL and started again")

    # The end ----------------------------------------------------------------------------------------------------

    async def _settle(self) -> None:
        """Go on without faults until nothing is under way and the books agree, at most for a while."""
        for minute in range(1, _SETTLING + 1):
            await self._advance()
            self._result.settled_minutes = minute
            found = await self._compared()
            if not any(found.values()):
                return

    async def _compared(self) -> dict[str, list[str]]:
        venue, ledger = self._house.venue, self._ledger
        state = await venue.state()
        resting = {order["client_order_id"] for account in state.values() for order in account["open_orders"]}
        return compare(
            state=read_state(state),
            fills=read_fills(await venue.fills()),
            open_rows=await ledger.live_rows(),
            history=await ledger.history(),
            # A bracket that rests is no work that somebody forgot.
            unfinished=[row for row in await ledger.unfinished() if row["name"] not in resting],
        )

    async def _judge(self) -> None:
        result, ledger = self._result, self._ledger
        found = await self._compared()
        result.lost, result.twice, result.unfinished = (len(found[kind]) for kind in ("lost", "twice", "unfinished"))
        result.problems += sentences(found)
        for name in self._house.sizes.names:
            broken = await ledger.broken_event(name)
            if broken is not None:
                result.broken_chains += 1
                result.problems.append(f"{name}: the chain of events is broken at {broken}")
        result.left_open = sum((await ledger.live_counts()).values())
        result.closed = len(await ledger.history())
        # Those of the start were in the ledger before, and are no event of a manager.
        result.opened = result.closed + result.left_open - result.positions
        result.events = sum(sum(kinds.values()) for kinds in (await ledger.event_counts()).values())
        result.faults = await self._house.venue.injected()
        grown = result.growth
        if grown is not None and grown > GROWTH_LIMIT:
            result.problems.append(f"memory grew: the last quarter has {grown:.2f} times that of the second")
