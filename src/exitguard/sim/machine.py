"""A machine on which one account's manager runs, dies and is started again, as its supervisor does."""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from datetime import datetime, timedelta
from typing import Any, Protocol

from exitguard.broker.clock import RealClock, follow_venue_clock
from exitguard.broker.port import BrokerError
from exitguard.manager.options import ManagerOptions
from exitguard.manager.service import run_manager
from exitguard.sim.checks import Judge
from exitguard.sim.exchange import SimExchange
from exitguard.sim.loop import PROCESS, Process, SimLoop
from exitguard.sim.memory_store import MemoryLedger
from exitguard.sim.numbers import numbers
from exitguard.sim.scenario import Scenario
from exitguard.sim.stores import Disk, MemoryJournal, SimStore, StoreSurroundings
from exitguard.sim.streams import SimMarketData, SimTradeStream
from exitguard.sim.wire import Wire, WireSurroundings
from exitguard.store.journaled import JournaledStore
from exitguard.store.port import Lease, StoreError


class MachineSurroundings(WireSurroundings, StoreSurroundings, Protocol):
    """What a machine needs of the simulated world."""

    loop: SimLoop
    scenario: Scenario
    ledger: MemoryLedger
    exchanges: dict[str, SimExchange]
    judge: Judge

    def start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run something of the world's own."""
        ...


class _WatchedStore(SimStore):
    """Tells its machine and the judge when it becomes the holder of the lease."""

    on_lease: Callable[[Lease], None]

    async def acquire_lease(self, holder: str, ttl: timedelta, component: str = "manager") -> Lease:
        """Become the one live process."""
        lease = await super().acquire_lease(holder, ttl, component)
        self.on_lease(lease)
        return lease


class Machine:
    """One account's supervisor on one computer. Its disk survives every crash."""

    def __init__(self, world: MachineSurroundings, account: str, number: int) -> None:
        self._world = world
        self.account = account
        self.name = f"{account}/{number}"
        self.disk = Disk(self.name)
        self.epoch = 0
        self.started_at: datetime | None = None
        self.process: Process | None = None
        self.past: list[Process] = []
        self.trades: SimTradeStream | None = None
        self.market: SimMarketData | None = None
        self.store: JournaledStore | None = None
        self.defects: list[str] = []
        # How wrong the machine's own clock is.
        self.clock_error = timedelta(0)
        self._lives = 0
        self._delay_first = 0.0 if number == 1 else numbers(world.scenario.seed, f"twin {account}").uniform(0, 300)
        self._rng = numbers(world.scenario.seed, f"machine {self.name}")

    # Lives ------------------------------------------------------------------------------------------------------

    async def keep_running(self) -> None:
        """Start the manager, again and again."""
        await asyncio.sleep(self._delay_first)
        while True:
            await self._one_life()
            calm = self._world.faults.over
            await asyncio.sleep(1.0 if calm else self._rng.choice((0.2, 2.0, 10.0, 40.0)))

    async def _one_life(self) -> None:
        self._lives += 1
        process = self.process = Process(f"{self.name}.{self._lives}")
        ended = asyncio.Event()
        process.on_kill = ended.set
        self._plan_death(process)
        context = Context()
        context.run(PROCESS.set, process)
        task = self._world.loop.create_task(self._manage(process), name=process.name, context=context)
        task.add_done_callback(lambda _: ended.set(), context=Context())
        self.started_at = self._world.now()
        await ended.wait()
        killed = not process.alive
        if not killed:
            self._judge_end(task)
        process.on_kill = None
        self.past = [*self.past[-3:], process]
        self.process = None
        process.kill()
        if self.trades is not None:
            self.trades.detach()
        if killed:
            self._world.timeline.note(process.name, "killed", self.account)
            self._free_lease(process.name)

    def _plan_death(self, process: Process) -> None:
        """Some die while they start and recover."""
        faults = self._world.faults
        if "crash" in faults.strength and not faults.over and faults.rng("crash").random() < 0.25:
            faults.count("crash")
            process.kill_after = faults.rng("crash").randint(5, 900)

    def _free_lease(self, holder: str) -> None:
        """The database sees the end of most connections at once; else the lease has to run out."""
        if self._rng.random() < 0.75:
            self._world.later(self._rng.uniform(0.01, 1.0), self._world.ledger.disconnect, self.account, holder)

    def _judge_end(self, task: "asyncio.Task[None]") -> None:
        error = task.exception() if not task.cancelled() else None
        self._world.timeline.note(self.name, f"the manager ended: {error!r}", self.account)
        if task.cancelled():
            self.defects.append("the manager ended as if it had been cancelled")
        elif not isinstance(error, BrokerError | StoreError):
            self.defects.append(f"the manager died of {error!r}{_place(error)}")

    async def _manage(self, process: Process) -> None:
        world, seed = self._world, self._world.scenario.seed
        exchange = world.exchanges[self.account]
        inner = _WatchedStore(world, world.ledger, self.account, process, numbers(seed, f"store {process.name}"))
        inner.on_lease = self._on_lease
        store = self.store = JournaledStore(inner, MemoryJournal(self.disk, process))
        trades = self.trades = SimTradeStream(world, exchange, process, numbers(seed, f"trades {process.name}"))
        market = self.market = SimMarketData(world, process, numbers(seed, f"market {process.name}"))
        wire = Wire(world, exchange, process, numbers(seed, f"wire {process.name}"))
        self.clock_error = timedelta(seconds=world.faults.skew())
        clock = RealClock(lambda: world.now() + self.clock_error)
        following = asyncio.ensure_future(follow_venue_clock(wire, clock, monotonic=world.loop.time))
        try:
            await run_manager(self._options(process), store, wire, trades, market, clock, stop=asyncio.Event())
        finally:
            following.cancel()
            await store.close()

    def _on_lease(self, lease: Lease) -> None:
        self.epoch = lease.epoch
        self._world.judge.on_lease(self.account, lease.epoch)
        self._world.timeline.note(lease.holder, f"holds the lease, epoch {lease.epoch}", self.account)

    def _options(self, process: Process) -> ManagerOptions:
        policy = self._world.scenario.policy
        return ManagerOptions(
            account_name=self.account,
            tier=self.account,
            mode="paper",
            select_policy=lambda strategy, instrument: policy,
            holder=process.name,
            build="sim",
            policy_hash="sim",
            config_hash="sim",
            expected_account_number=f"PA-{self.account}",
        )

    # What is done to it -----------------------------------------------------------------------------------------

    def calm(self) -> None:
        """The faults stop: paused processes go on, silent sockets come back, nobody dies any more."""
        process = self.process
        if process is None:
            return
        process.kill_after = None
        self.resume()
        if self.trades is not None and self.trades.mute:
            self.trades.come_up()
        if self.market is not None:
            self.market.mute = False
        self.disk.full = False

    def resume(self) -> None:
        """Let a paused process go on."""
        if self.process is not None and self.process.paused:
            self._world.timeline.note(self.process.name, "goes on", self.account)
            self._world.loop.resume(self.process)

    def end(self) -> None:
        """The simulation is over."""
        if self.process is not None:
            self.process.on_kill = None
            if self.process.paused:
                self._world.loop.resume(self.process)
            self.process.kill()


def _place(error: BaseException | None) -> str:
    frame = error.__traceback__ if error is not None else None
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return f" at {frame.tb_frame.f_code.co_name}:{frame.tb_lineno}" if frame is not None else ""
