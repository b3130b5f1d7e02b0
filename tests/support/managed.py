"""One account's real manager on a fake broker and an in-memory ledger, with a clock that the test moves."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import uuid4

from tests.support.away_store import AwayStore
from tests.support.fake_broker import FakeBroker
from tests.support.fake_streams import FakeMarketData, FakeTradeStream
from tests.support.memory_store import AccountLedger, MemoryLedger
from tests.support.waiting import PATIENCE, eventually

from exitguard.broker.clock import RealClock, SteppedClock
from exitguard.broker.port import Accepted
from exitguard.core.instrument import parse_instrument
from exitguard.core.orders import OrderClass, OrderRequest, OrderSide, OrderType, PositionIntent, TimeInForce
from exitguard.core.policy import DEFAULT_POLICY, Policy
from exitguard.core.records import (
    Action,
    AppendEvent,
    Batch,
    CommandVerb,
    EventType,
    ExecutionMode,
    ExecutionRecord,
    ExecutionStatus,
    PositionRecord,
    PositionStatus,
    PutExecution,
)
from exitguard.manager.options import ManagerOptions
from exitguard.manager.service import run_manager
from exitguard.store.journal import Journal
from exitguard.store.journaled import JournaledStore

# A Tuesday with regular hours, 10:00 in New York.
OPENING = datetime(2026, 3, 17, 14, 0, tzinfo=UTC)


class Venue:
    """Time, prices and ledger that several accounts and several processes of a test share."""

    def __init__(self, start: datetime = OPENING) -> None:
        self.time = start
        self.ledger = MemoryLedger(lambda: self.time)
        self.brokers: dict[str, FakeBroker] = {}

    def broker(self, name: str) -> FakeBroker:
        """The account's broker; it outlives managers."""
        if name not in self.brokers:
            self.brokers[name] = FakeBroker(lambda: self.time, account_number=f"PA-{name}")
        return self.brokers[name]

    def quote(self, symbol: str, bid: str, ask: str) -> None:
        """Publish a quote to every account."""
        for broker in self.brokers.values():
            broker.set_quote(symbol, bid, ask)


class Managed:
    """A running manager. `async with` starts it and stops it; `kill` ends it as a crash would."""

    def __init__(
        self,
        venue: Venue,
        name: str = "large",
        policy: Policy = DEFAULT_POLICY,
        *,
        once: bool = False,
        expected_number: str | None = None,
        journal: Path | None = None,
        lease_ttl: timedelta = timedelta(seconds=15),
        real_clock: bool = False,
    ) -> None:
        self.venue = venue
        self.name = name
        self.broker = venue.broker(name)
        self.store = AwayStore(venue.ledger, name)
        self.journaled = JournaledStore(self.store, Journal.open(journal, name)) if journal is not None else None
        self.clock: SteppedClock | RealClock = RealClock() if real_clock else SteppedClock(venue.time)
        self.clock.observe(venue.time, authoritative=True)
        self.trades = FakeTradeStream(self.broker)
        self.market = FakeMarketData(self.broker)
        self.stop = asyncio.Event()
        self.options = ManagerOptions(
            account_name=name,
            tier=name,
            mode="paper",
            select_policy=lambda strategy, instrument: policy,
            holder=f"test-{uuid4().hex[:6]}",
            build="test",
            policy_hash="p",
            config_hash="c",
            expected_account_number=expected_number,
            once=once,
            stepped=not real_clock,
            lease_ttl=lease_ttl,
            poll_seconds=0.05,
        )
        self.task: asyncio.Task[None] | None = None

    @property
    def rows(self) -> AccountLedger:
        """The account's ledger."""
        return self.store.rows

    def start(self) -> asyncio.Task[None]:
        """Start the manager's task."""
        self.task = asyncio.create_task(
            run_manager(
                self.options,
                self.journaled or self.store,
                self.broker,
                self.trades,
                self.market,
                self.clock,
                stop=self.stop,
            )
        )
        return self.task

    async def __aenter__(self) -> "Managed":
        self.start()
        await self.caught_up()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop.set()
        if self.task is not None:
            await asyncio.wait_for(self.task, PATIENCE)
        if self.journaled is not None:
            await self.journaled.close()

    async def kill(self) -> None:
        """End the manager in the middle of whatever it does; its lease falls to the next one."""
        assert self.task is not None
        if not self.task.done():
            self.task.cancel()
            with suppress(asyncio.CancelledError):
                await self.task
        if self.journaled is not None:
            await self.journaled.close()
        self.rows.leases.clear()
        self.broker.update_sinks.remove(self.trades._on_update)
        self.broker.quote_sinks.remove(self.market._on_quote)

    # Moving ------------------------------------------------------------------------------------------------------

    async def caught_up(self) -> None:
        """Wait until the manager has swept at the venue's present minute."""

        def swept() -> bool:
            assert self.task is not None
            if self.task.done():
                self.task.result()
            beat = self.rows.heartbeats.get("manager")
            return beat is not None and beat.venue_time >= self.venue.time.replace(second=0, microsecond=0)

        await eventually(swept, f"heartbeat of {self.name} at {self.venue.time}")

    async def advance(self, minutes: float = 1) -> None:
        """Let the venue's time pass, then let the manager sweep."""
        self.venue.time += timedelta(minutes=minutes)
        self.clock.observe(self.venue.time, authoritative=True)
        await self.caught_up()

    def quote(self, symbol: str, bid: str, ask: str) -> None:
        """Publish a quote at the present time."""
        self.broker.set_quote(symbol, bid, ask)

    async def price(self, symbol: str, mid: str) -> None:
        """Publish a tight quote around a price, and wait until the manager has looked at it."""
        half = Decimal("0.01")
        self.quote(symbol, str(Decimal(mid) - half), str(Decimal(mid) + half))
        await self.market.delivered()

    # Opening -----------------------------------------------------------------------------------------------------

    async def enter(self, symbol: str, qty: str = "10", **entry: Any) -> PositionRecord:
        """Enter as the dispatcher does, with what `buy` takes; returns the row once the manager has it."""
        await self.buy(symbol, qty, **entry)
        await self.until(lambda: self._position(symbol) is not None, f"{symbol} under management")
        found = self._position(symbol)
        assert found is not None
        return found

    async def buy(
        self,
        symbol: str,
        qty: str = "10",
        *,
        side: OrderSide = OrderSide.BUY,
        stop: str | None = None,
        target: str | None = None,
        bracket: tuple[str, str] | None = None,
        strategy: str = "swing",
        max_hold_minutes: int | None = None,
    ) -> None:
        """Execution row, order, fill at the newest quote, whether or not a manager is there to see it."""
        instrument = parse_instrument(symbol)
        execution_id = uuid4()
        client_id = f"xg-{self.name}-r{execution_id.hex[:8]}"
        intent = PositionIntent.BUY_TO_OPEN if side is OrderSide.BUY else PositionIntent.SELL_TO_OPEN
        action = {"CALL": Action.BUY_CALL, "PUT": Action.BUY_PUT}.get(
            instrument.type.value, Action.BUY_STOCK if side is OrderSide.BUY else Action.SELL_STOCK
        )
        execution = ExecutionRecord(
            account_name=self.name,
            execution_id=execution_id,
            recommendation_id=None,
            symbol=symbol,
            ticker=instrument.underlying,
            option_symbol=instrument.option_symbol,
            instrument_type=instrument.type,
            strategy_type=strategy,
            action=action,
            side=side,
            qty=Decimal(qty),
            execution_mode=ExecutionMode.ALPACA_PAPER,
            status=ExecutionStatus.INTENDED,
            client_order_id=client_id,
            simulated_ts=self.venue.time,
            stop_loss=Decimal(stop) if stop else None,
            take_profit=Decimal(target) if target else None,
            max_hold_minutes=max_hold_minutes,
        )
        await self.write(PutExecution(execution))
        request = OrderRequest(
            client_id,
            symbol,
            side,
            Decimal(qty),
            OrderType.MARKET,
            TimeInForce.DAY,
            intent,
            order_class=OrderClass.BRACKET if bracket else OrderClass.SIMPLE,
            stop_loss=Decimal(bracket[0]) if bracket else None,
            take_profit=Decimal(bracket[1]) if bracket else None,
        )
        result = await self.broker.submit(request)
        assert isinstance(result, Accepted), result
        await self.write(
            PutExecution(replace(execution, status=ExecutionStatus.ACCEPTED, broker_order_id=result.order.id))
        )

    async def write(self, *operations: PutExecution) -> None:
        """Write to the ledger as the dispatcher does."""
        lease = await self.store.acquire_lease("entries", timedelta(minutes=1), "dispatcher")
        await self.store.commit(Batch(uuid4(), self.name, lease.epoch, self.venue.time, operations))
        await self.store.release_lease(lease)

    def _position(self, symbol: str) -> PositionRecord | None:
        live = [p for p in self.rows.positions.values() if p.symbol == symbol and p.status is not PositionStatus.CLOSED]
        return live[-1] if live else None

    # Asking ------------------------------------------------------------------------------------------------------

    def command(self, verb: CommandVerb = CommandVerb.CLOSE, *, position_id: int | None = None) -> int:
        """Insert a person's request."""
        return self.venue.ledger.command(self.name, verb, position_id=position_id)

    def held(self, symbol: str) -> Decimal:
        """Signed quantity that the broker holds."""
        return self.broker.held.get(symbol, (Decimal(0), Decimal(0)))[0]

    def row(self, position_id: int) -> PositionRecord:
        """The position's row as the ledger has it."""
        return self.rows.positions[position_id]

    def events(self, kind: EventType, position_id: int | None = None) -> list[AppendEvent]:
        """Events of a type, oldest first."""
        return [e for e in self.rows.events if e.type is kind and position_id in (None, e.position_id)]

    async def until(self, condition: object, what: str) -> None:
        """Wait for a condition while the manager lives."""
        assert callable(condition)

        def holds() -> bool:
            if self.task is not None and self.task.done():
                self.task.result()
            return bool(condition())

        await eventually(holds, what)

    async def closed(self, position: PositionRecord) -> PositionRecord:
        """Wait until the position is closed with its history; returns the row."""
        await self.until(
            lambda: self.row(position.id).status is PositionStatus.CLOSED and position.id in self.rows.history,
            f"{position.symbol} closed, is {self.row(position.id)}",
        )
        return self.row(position.id)

    def closing_orders(self, position: PositionRecord) -> list[OrderRequest]:
        """Orders that the manager sent for a position, in order."""
        return [r for r in self.broker.submitted if f"-{position.uid}-" in r.client_order_id]
