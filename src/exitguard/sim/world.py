"""The world that a seed makes: the venue, the market, machines with their managers, people, and all that fails."""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from exitguard.broker.port import Accepted
from exitguard.core.instrument import parse_instrument
from exitguard.core.orders import OrderClass, OrderRequest, OrderSide, OrderType, PositionIntent, TimeInForce
from exitguard.core.position import PositionSide
from exitguard.core.quote import Quote
from exitguard.core.records import (
    Action,
    CommandVerb,
    ExecutionMode,
    ExecutionRecord,
    ExecutionStatus,
)
from exitguard.core.session import Session, SessionCalendar, table_calendar
from exitguard.sim.checks import Judge, Violation
from exitguard.sim.corporate import Corporate
from exitguard.sim.exchange import SimExchange
from exitguard.sim.faults import Faults
from exitguard.sim.loop import Process, SimLoop
from exitguard.sim.machine import Machine
from exitguard.sim.memory_store import MemoryLedger
from exitguard.sim.numbers import numbers
from exitguard.sim.scenario import Entry, PricePath, Request, Scenario
from exitguard.sim.timeline import Timeline
from exitguard.sim.trouble import Trouble
from exitguard.sim.verdict import unsettled

# After the faults stop: how long everything may take to come right, and how often it is looked at, in seconds.
SETTLE_SECONDS = 600.0
LOOK_SECONDS = 5.0
MAX_VIOLATIONS = 5


class World:
    """One simulation."""

    def __init__(self, loop: SimLoop, scenario: Scenario, faults: Faults, timeline: Timeline) -> None:
        self.loop = loop
        self.scenario = scenario
        self.faults = faults
        self.calendar = _calendar(scenario.sessions)
        self.timeline = timeline
        self.ledger = MemoryLedger(self.now)
        self.broker_down_until = self.store_down_until = self.rate_limited_until = scenario.start
        self.halted_until: dict[str, datetime] = {}
        self.violations: list[Violation] = []
        self.ended = asyncio.Event()
        self.exchanges = {name: SimExchange(self, name) for name in scenario.accounts}
        wrong_clocks = {"clock_skew", "clock_jump"} & faults.strength.keys()
        clock_error = timedelta(minutes=2) if wrong_clocks else timedelta(0)
        self.judge = Judge(self.ledger, self.exchanges, self.now, self.report, clock_error)
        self.machines: list[Machine] = []
        self.paths: dict[str, PricePath] = {path.symbol: path for path in scenario.paths}
        self._neutral = Context()
        self._working: list[asyncio.Task[None]] = []

    # What everything here shares --------------------------------------------------------------------------------

    def now(self) -> datetime:
        """The venue's time."""
        return self.scenario.start + timedelta(seconds=self.loop.time())

    def later(self, seconds: float, work: Callable[..., object], *args: Any) -> None:
        """Do something after virtual seconds, on nobody's behalf."""
        self.loop.call_later(seconds, work, *args, context=self._neutral)

    def start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run something of the world's own."""
        self._working.append(self.loop.create_task(work, name=name, context=self._neutral.copy()))

    def split(self, symbol: str, factor: int) -> None:
        """Make `factor` shares of one: from now on each costs so much less."""
        path = self.paths[symbol]
        self.paths[symbol] = replace(path, base=path.base / factor)

    def report(self, violation: Violation) -> None:
        """Note a violation; the simulation ends soon after the first."""
        if len(self.violations) < MAX_VIOLATIONS:
            self.violations.append(violation)
            self.timeline.note("VIOLATION", str(violation), violation.account)
        self.ended.set()

    def sending(self, process: Process, request: OrderRequest) -> None:
        """An order leaves a process."""
        machine = next(m for m in self.machines if m.process is process or process in m.past)
        self.judge.on_send(machine.account, process, machine.epoch, machine.disk.records, request)

    # Playing ----------------------------------------------------------------------------------------------------

    async def play(self) -> None:
        """The storm, then the calm in which everything must come right."""
        scenario = self.scenario
        for account in scenario.accounts:
            twins = 2 if self.faults.hit("twin") else 1
            self.machines += [Machine(self, account, number) for number in range(1, twins + 1)]
        for machine in self.machines:
            self.start(machine.keep_running(), f"machine {machine.name}")
        self.start(self._market(), "market")
        self.start(self._sessions(), "sessions")
        for entry in scenario.entries:
            self.start(self._enter(entry), f"entry {entry.name}")
        for request in scenario.requests:
            self.start(self._ask(request), f"request {request.name}")
        trouble = Trouble(self)
        trouble.kinds.update(Corporate(self).kinds)
        for name in self.faults.happenings():
            self.start(trouble.keep_happening(name), name)
        await self._until_ended(scenario.storm)
        if not self.violations:
            self._calm()
            await self._settle()
        self._finish()

    async def _until_ended(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.ended.wait()
        except TimeoutError:
            return

    def _calm(self) -> None:
        """The faults stop; what they left behind stays."""
        self.faults.over = True
        self.timeline.note("world", "the faults stop")
        self.broker_down_until = self.store_down_until = self.rate_limited_until = self.now()
        self.halted_until.clear()
        for machine in self.machines:
            machine.calm()

    async def _settle(self) -> None:
        """Look until nothing is open any more that must not be; too long is a violation of I8 (or I9)."""
        deadline = self.loop.time() + SETTLE_SECONDS
        while not self.violations:
            await self._until_ended(LOOK_SECONDS)
            if self.violations:
                return
            left = unsettled(self)
            if not left:
                break
            if self.loop.time() > deadline:
                for violation in left:
                    self.report(violation)
                return
        for account in self.scenario.accounts:
            self.judge.check_prices(account)

    def _finish(self) -> None:
        for machine in self.machines:
            for defect in machine.defects:
                self.report(Violation("defect", machine.account, defect))
        for defect in self.timeline.defects:
            self.report(Violation("defect", "", defect))
        for failure in self.loop.failures:
            self.report(Violation("defect", "", f"{failure.get('message')}: {failure.get('exception')!r}"))
        for machine in self.machines:
            machine.end()
        for task in self._working:
            task.cancel()

    # The market -------------------------------------------------------------------------------------------------

    async def _market(self) -> None:
        """Quotes of every symbol every few seconds while the venue is open."""
        rng = numbers(self.scenario.seed, "market")
        while True:
            for path in list(self.paths.values()):
                if self.calendar.is_open(self.now()) and self.now() >= self.halted_until.get(path.symbol, self.now()):
                    self._publish(path, rng.gauss(0, 1))
            await asyncio.sleep(rng.uniform(2, 9))

    def _publish(self, path: PricePath, noise: float) -> None:
        mid = path.at(self.loop.time()) * (1 + path.noise * Decimal(f"{noise:.3f}"))
        half = max(Decimal("0.01"), (mid * Decimal("0.0002")).quantize(Decimal("0.01")))
        mid = mid.quantize(Decimal("0.01"))
        quote = Quote(path.symbol, mid - half, mid + half, self.now(), 100, 100)
        for exchange in self.exchanges.values():
            exchange.quotes[path.symbol] = quote
            exchange.work(path.symbol)
        for machine in self.machines:
            if machine.market is not None:
                machine.market.publish(quote)

    async def _sessions(self) -> None:
        """Day orders end with their session."""
        for session in self.scenario.sessions:
            await asyncio.sleep(max(0.0, (session.close - self.now()).total_seconds()))
            self.timeline.note("venue", "the session ends")
            for exchange in self.exchanges.values():
                exchange.end_session()

    # Entries and requests ---------------------------------------------------------------------------------------

    async def _enter(self, entry: Entry) -> None:
        """Open a position as the dispatcher does: the execution's row, the order, what became of it."""
        await asyncio.sleep(entry.at)
        rng = numbers(self.scenario.seed, f"enter {entry.name}")
        exchange = self.exchanges[entry.account]
        execution = _execution(entry, self.now(), UUID(int=rng.getrandbits(128), version=4))
        rows = self.ledger.account
        rows(entry.account).executions[execution.execution_id] = execution
        if execution.symbol not in exchange.quotes:
            return
        result = exchange.take(_entry_order(entry, execution, self.paths[entry.symbol].at(self.loop.time())))
        await asyncio.sleep(rng.uniform(0.01, 1.0))
        if not isinstance(result, Accepted):
            refused = replace(execution, status=ExecutionStatus.REJECTED)
            rows(entry.account).executions[execution.execution_id] = refused
            return
        if rng.random() < 0.85:  # else the dispatcher died before it could note the broker's id
            known = replace(execution, status=ExecutionStatus.ACCEPTED, broker_order_id=result.order.id)
            rows(entry.account).executions[execution.execution_id] = known

    async def _ask(self, request: Request) -> None:
        await asyncio.sleep(request.at)
        self.timeline.note("person", f"asks to close {request.symbol}", request.account)
        self.ledger.command(request.account, CommandVerb.CLOSE, symbol=request.symbol)


def _calendar(own: tuple[Session, ...]) -> SessionCalendar:
    """The scenario's sessions in place of the real ones of their days."""
    days = {session.day for session in own}
    first, last = own[0].day - timedelta(days=30), own[-1].day + timedelta(days=200)
    return SessionCalendar([*own, *(s for s in table_calendar(first, last).between(first, last) if s.day not in days)])


def _execution(entry: Entry, now: datetime, number: UUID) -> ExecutionRecord:
    instrument = parse_instrument(entry.symbol)
    stock = Action.BUY_STOCK if entry.side is PositionSide.LONG else Action.SELL_STOCK
    action = {"CALL": Action.BUY_CALL, "PUT": Action.BUY_PUT}.get(instrument.type.value, stock)
    return ExecutionRecord(
        account_name=entry.account,
        execution_id=number,
        recommendation_id=None,
        symbol=entry.symbol,
        ticker=instrument.underlying,
        option_symbol=instrument.option_symbol,
        instrument_type=instrument.type,
        strategy_type=entry.strategy,
        action=action,
        side=entry.side.opening,
        qty=Decimal(entry.qty),
        execution_mode=ExecutionMode.ALPACA_PAPER,
        status=ExecutionStatus.INTENDED,
        client_order_id=f"xg-{entry.account}-e{number.hex[:8]}",
        simulated_ts=now,
        max_hold_minutes=entry.max_hold_minutes,
    )


def _entry_order(entry: Entry, execution: ExecutionRecord, price: Decimal) -> OrderRequest:
    buying = execution.side is OrderSide.BUY
    cent = Decimal("0.01")
    below, above = (price * Decimal("0.985")).quantize(cent), (price * Decimal("1.025")).quantize(cent)
    return OrderRequest(
        execution.client_order_id,
        entry.symbol,
        execution.side,
        execution.qty,
        OrderType.MARKET,
        TimeInForce.DAY,
        PositionIntent.BUY_TO_OPEN if buying else PositionIntent.SELL_TO_OPEN,
        order_class=OrderClass.BRACKET if entry.bracket else OrderClass.SIMPLE,
        take_profit=(above if buying else below) if entry.bracket else None,
        stop_loss=(below if buying else above) if entry.bracket else None,
    )
