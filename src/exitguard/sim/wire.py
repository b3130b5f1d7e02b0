"""One process's connection to its brokerage account: everything takes its time, and some of it is lost.

A request that has left arrives even when the process that sent it dies meanwhile: so an outcome becomes unknown.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from datetime import date, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Protocol, TypeVar

from exitguard.broker.port import (
    Activity,
    BrokerRateLimited,
    BrokerUnavailable,
    CancelResult,
    Priority,
    Refused,
    SubmitResult,
    Unknown,
)
from exitguard.core.orders import BrokerAccount, BrokerOrder, BrokerPosition, Fill, OrderRequest, VenueTime
from exitguard.core.quote import Quote
from exitguard.core.session import Session
from exitguard.sim.exchange import SimExchange, Surroundings
from exitguard.sim.loop import Killed, Process

T = TypeVar("T")
# How long the real client waits for an answer, in seconds.
PATIENCE = 8.0


class WireSurroundings(Surroundings, Protocol):
    """What a connection needs of the simulated world."""

    broker_down_until: datetime
    rate_limited_until: datetime

    def sending(self, process: Process, request: OrderRequest) -> None:
        """Judge an order in the moment in which it leaves the process."""
        ...


class Wire:
    """Implements `broker.port.Broker` for one process."""

    def __init__(self, world: WireSurroundings, exchange: SimExchange, process: Process, rng: Random) -> None:
        self._world = world
        self._exchange = exchange
        self._process = process
        self._rng = rng
        self._hidden_until: dict[str, datetime] = {}
        self._loop = asyncio.get_running_loop()

    # The way there and back -------------------------------------------------------------------------------------

    def _latency(self) -> float:
        return self._rng.uniform(0.003, 0.08)

    async def _pass(self, seconds: float) -> None:
        """Let time pass; a process that died meanwhile hears nothing."""
        await asyncio.sleep(seconds)
        self._process.require_alive()

    def _is_down(self) -> bool:
        return self._world.now() < self._world.broker_down_until

    def _is_limited(self) -> bool:
        return self._world.now() < self._world.rate_limited_until

    async def _ask(self, ask: Callable[[], Awaitable[T]]) -> T:
        self._process.require_alive()
        faults = self._world.faults
        await self._pass(self._latency())
        if self._is_down():
            raise BrokerUnavailable("connection refused")
        if self._is_limited():
            raise BrokerRateLimited("too many requests", 1.0)
        if faults.hit("read_fails"):
            if faults.rng("read_fails").random() < 0.2:
                raise BrokerRateLimited("too many requests", 1.0)
            await self._pass(self._rng.choice((0.05, 2.0)))
            raise BrokerUnavailable("HTTP 504, an HTML page")
        answer = await ask()
        if faults.hit("slow_answers"):
            seconds = faults.rng("slow_answers").uniform(0.5, 1.3 * PATIENCE)
            await self._pass(min(seconds, PATIENCE))
            if seconds > PATIENCE:
                raise BrokerUnavailable("no answer in time")
        await self._pass(self._latency())
        return answer

    # Orders -----------------------------------------------------------------------------------------------------

    async def submit(self, request: OrderRequest, priority: Priority = Priority.EXIT) -> SubmitResult:
        """Send one order."""
        self._process.require_alive()
        world, faults = self._world, self._world.faults
        world.sending(self._process, request)
        if self._is_down():
            await self._pass(self._latency())
            return Unknown("connection refused", sent=False)
        if self._is_limited():
            await self._pass(self._latency())
            return Refused(BrokerRateLimited("too many requests", 1.0))
        self._crash_sometimes(before=True)
        if faults.hit("submit_lost"):
            world.timeline.note("wire", f"{request.client_order_id} is lost on its way", self._exchange.account_name)
            await self._pass(faults.rng("submit_lost").choice((0.1, 3.0)))
            return Unknown("connection reset")
        late = faults.hit("submit_late")
        answer: asyncio.Future[SubmitResult] = self._loop.create_future()
        travel = faults.rng("submit_late").uniform(1.0, 12.0) if late else self._latency()
        world.later(travel, self._arrive, request, answer)
        self._crash_sometimes(before=False)
        if late:
            world.timeline.note("wire", f"{request.client_order_id} is under way", self._exchange.account_name)
            await self._pass(faults.rng("submit_late").uniform(0.3, 3.0))
            return Unknown("no answer in time")
        result = await answer
        self._process.require_alive()
        if faults.hit("submit_answer_lost"):
            await self._pass(faults.rng("submit_answer_lost").choice((0.0, 2.0)))
            return Unknown("HTTP 504")
        return result

    def _arrive(self, request: OrderRequest, answer: "asyncio.Future[SubmitResult]") -> None:
        result = self._exchange.take(request)

        def reply() -> None:
            if not answer.done():
                answer.set_result(result)

        self._world.later(self._latency(), reply)

    def _crash_sometimes(self, *, before: bool) -> None:
        faults = self._world.faults
        if faults.hit("crash_at_send", 0.5):
            moment = "before" if before else "after"
            self._world.timeline.note(self._process.name, f"kill -9 {moment} a send", self._exchange.account_name)
            self._process.kill()
            raise Killed(self._process.name)

    async def cancel(self, order_id: str, priority: Priority = Priority.EXIT) -> CancelResult:
        """Ask for a cancellation."""
        self._process.require_alive()
        faults = self._world.faults
        self._crash_sometimes(before=True)
        if self._is_down():
            await self._pass(self._latency())
            return CancelResult(known=False, detail="connection refused")
        if self._is_limited():
            await self._pass(self._latency())
            return CancelResult(known=False, detail="too many requests")
        if faults.hit("cancel_lost"):
            rng = faults.rng("cancel_lost")
            kind = rng.choice(("request", "answer", "ignored"))
            if kind == "answer":
                self._world.later(self._latency(), self._exchange.ask_cancel, order_id)
            await self._pass(rng.choice((0.1, 2.0)))
            return CancelResult(known=True) if kind == "ignored" else CancelResult(known=False, detail="HTTP 504")
        answer: asyncio.Future[CancelResult] = self._loop.create_future()

        def arrive() -> None:
            result = self._exchange.ask_cancel(order_id)
            self._world.later(self._latency(), lambda: None if answer.done() else answer.set_result(result))

        self._world.later(self._latency(), arrive)
        self._crash_sometimes(before=False)
        result = await answer
        self._process.require_alive()
        return result

    async def replace(
        self,
        order_id: str,
        *,
        client_order_id: str,
        qty: Decimal | None = None,
        limit_price: Decimal | None = None,
        stop_price: Decimal | None = None,
        priority: Priority = Priority.PROTECT,
    ) -> SubmitResult:
        """Replace an order."""
        return await self._ask(
            lambda: self._exchange.replace(
                order_id, client_order_id=client_order_id, qty=qty, limit_price=limit_price, stop_price=stop_price
            )
        )

    # Questions --------------------------------------------------------------------------------------------------

    async def account(self) -> BrokerAccount:
        """Describe the account."""
        return await self._ask(self._exchange.account)

    async def clock(self) -> VenueTime:
        """Tell the venue's time."""
        return await self._ask(self._exchange.clock)

    async def calendar(self, start: date, end: date) -> list[Session]:
        """List sessions."""
        return await self._ask(lambda: self._exchange.calendar(start, end))

    async def order(self, order_id: str) -> BrokerOrder | None:
        """Fetch one order."""
        return await self._ask(lambda: self._exchange.order(order_id))

    async def order_by_client_id(self, client_order_id: str) -> BrokerOrder | None:
        """Fetch one order by our id; one just sent may not be found yet."""
        found = await self._ask(lambda: self._exchange.order_by_client_id(client_order_id))
        if found is None or found.submitted_at is None:
            return found
        if client_order_id not in self._hidden_until:
            faults = self._world.faults
            hidden = faults.rng("lookup_lag").uniform(0.3, 6.0) if faults.hit("lookup_lag") else 0.0
            self._hidden_until[client_order_id] = found.submitted_at + timedelta(seconds=hidden)
        return found if self._world.now() >= self._hidden_until[client_order_id] else None

    async def open_orders(
        self, symbols: Collection[str] | None = None, priority: Priority = Priority.RECONCILE
    ) -> list[BrokerOrder]:
        """List open orders."""
        return await self._ask(lambda: self._exchange.open_orders(symbols))

    async def orders_since(self, after: datetime, symbols: Collection[str] | None = None) -> list[BrokerOrder]:
        """List orders submitted after a moment."""
        return await self._ask(lambda: self._exchange.orders_since(after, symbols))

    async def positions(self) -> list[BrokerPosition]:
        """List positions; they may lag, or be missing altogether."""
        return await self._ask(self._positions)

    async def _positions(self) -> list[BrokerPosition]:
        faults = self._world.faults
        if faults.hit("empty_positions"):
            return []
        if faults.hit("lagging_positions"):
            lag = faults.rng("lagging_positions").uniform(0.5, 10.0)
            return self._exchange.positions_at(self._world.now() - timedelta(seconds=lag))
        return await self._exchange.positions()

    async def position(self, symbol: str, priority: Priority = Priority.EXIT) -> BrokerPosition | None:
        """Fetch one position; see `positions`."""
        found = await self._ask(self._positions)
        return next((position for position in found if position.symbol == symbol), None)

    async def fills(self, after: datetime | None = None, order_id: str | None = None) -> list[Fill]:
        """List fills."""
        return await self._ask(lambda: self._exchange.fills(after, order_id))

    async def activities(self, after: date | None = None) -> list[Activity]:
        """List activities that are not trades."""
        return await self._ask(lambda: self._exchange.activities(after))

    async def latest_quotes(self, symbols: Collection[str]) -> dict[str, Quote]:
        """Newest quotes."""
        wanted = sorted(symbols)
        return await self._ask(lambda: self._exchange.latest_quotes(wanted))

    async def close(self) -> None:
        """Nothing to release."""
