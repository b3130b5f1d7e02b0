"""A trading floor: the paper exchange on sockets, PostgreSQL, and real managers and dispatchers, in market lockstep."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, cast

import asyncpg
from tests.support.waiting import PATIENCE, eventually

from exitguard.broker.budget import RequestBudget
from exitguard.broker.clock import SteppedClock, follow_venue_clock
from exitguard.broker.market_data import AlpacaMarketData
from exitguard.broker.port import QUIET_SECONDS
from exitguard.broker.rest import AlpacaBroker, AlpacaEndpoints
from exitguard.broker.trade_stream import AlpacaTradeStream
from exitguard.config.settings import AccountSettings, RiskSettings
from exitguard.core.policy import Policy, policy_hash
from exitguard.dispatch.options import DispatcherOptions
from exitguard.dispatch.service import run_dispatcher
from exitguard.manager.options import ManagerOptions
from exitguard.manager.service import run_manager
from exitguard.manager.vitals import Vitals, WatchLimits
from exitguard.paper.server.app import PaperServer
from exitguard.store.operator import Operator
from exitguard.store.repository import PgAccountStore

REQUESTS_PER_MINUTE = 100_000


class CountingClock(SteppedClock):
    """Tells how often the venue has answered, so that a test knows when its time has arrived."""

    def __init__(self, start: datetime) -> None:
        super().__init__(start)
        self.answers = 0

    def observe(self, venue_now: datetime, *, authoritative: bool) -> None:
        """Count answers."""
        super().observe(venue_now, authoritative=authoritative)
        self.answers += authoritative


@dataclass
class Seat:
    """One account on the floor: a running manager and dispatcher."""

    name: str
    clock: CountingClock
    broker: AlpacaBroker
    data: AlpacaMarketData
    vitals: Vitals
    stores: list[PgAccountStore] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def check(self) -> None:
        """Fail with the cause when anything of the account has died."""
        for task in self.tasks:
            if task.done():
                task.result()


class Floor:
    """Everything of one test day. Made by `open_floor`."""

    def __init__(self, server: PaperServer, database_url: str, operator: Operator) -> None:
        self.server = server
        self.database_url = database_url
        self.operator = operator
        self.seats: dict[str, Seat] = {}
        self.stop = asyncio.Event()

    @property
    def now(self) -> datetime:
        """The market's time."""
        return self.server.host.now()

    # Accounts ----------------------------------------------------------------------------------------------------

    def broker(self, name: str) -> AlpacaBroker:
        """A REST client of an account."""
        server, account = self.server, self.server.accounts[name]
        return AlpacaBroker(
            AlpacaEndpoints(server.rest_url, server.data_url),
            account.key,
            account.secret,
            account_name=name,
            budget=RequestBudget(REQUESTS_PER_MINUTE),
        )

    async def seat(
        self,
        name: str,
        policy: Policy,
        *,
        dispatch: bool = True,
        limits: WatchLimits | None = None,
        quiet_seconds: float = QUIET_SECONDS,
    ) -> Seat:
        """Start an account's manager and dispatcher, and wait for its first sweep."""
        server, account = self.server, self.server.accounts[name]
        clock, broker = CountingClock(self.now), self.broker(name)
        options = ManagerOptions(
            account_name=name,
            tier=name,
            mode="paper",
            select_policy=lambda strategy, instrument: policy,
            holder=f"test {name}",
            build="test",
            policy_hash=policy_hash(policy),
            config_hash="test",
            expected_account_number=account.account_number,
            stepped=True,
            limits=limits or WatchLimits(),
        )
        data = AlpacaMarketData(
            server.data_stream_url,
            server.option_stream_url,
            account.key,
            account.secret,
            quiet_seconds=quiet_seconds,
        )
        store = await PgAccountStore.connect(self.database_url, name)
        seat = Seat(name, clock, broker, data, options.vitals, [store])
        self.seats[name] = seat
        seat.tasks = [
            asyncio.create_task(follow_venue_clock(broker, clock, poll_seconds=0.002)),
            asyncio.create_task(
                run_manager(
                    options,
                    store,
                    broker,
                    AlpacaTradeStream(server.stream_url, account.key, account.secret),
                    data,
                    clock,
                    stop=self.stop,
                )
            ),
        ]
        if dispatch:
            entries = await PgAccountStore.connect(self.database_url, name, component="dispatcher")
            seat.stores.append(entries)
            seat.tasks.append(
                asyncio.create_task(
                    run_dispatcher(
                        self._settings(name),
                        entries,
                        broker,
                        clock,
                        stop=self.stop,
                        options=DispatcherOptions(options.select_policy, f"test {name}", "test", "p", "c"),
                    )
                )
            )
        await self.swept()
        return seat

    def _settings(self, name: str) -> AccountSettings:
        server = self.server
        return AccountSettings(
            name=name,
            tier=name,
            mode="paper",
            rest_url=server.rest_url,
            trade_stream_url=server.stream_url,
            data_url=server.data_url,
            stock_stream_url=server.data_stream_url,
            option_stream_url=server.option_stream_url,
            key=f"env:{name}_KEY",
            secret=f"env:{name}_SECRET",
            clock="stepped",
            requests_per_minute=REQUESTS_PER_MINUTE,
            risk=RiskSettings(
                max_position_fraction=Decimal("0.5"),
                max_open_positions=50,
                max_total_exposure_fraction=Decimal(4),
                allow_short=True,
                allow_options=True,
            ),
        )

    async def close(self) -> None:
        """Stop everything in order."""
        self.stop.set()
        for seat in self.seats.values():
            for task in seat.tasks[1:]:
                await asyncio.wait_for(task, PATIENCE)
            seat.tasks[0].cancel()
            with suppress(asyncio.CancelledError):
                await seat.tasks[0]
            await seat.broker.close()
            for store in seat.stores:
                await store.close()

    # Time --------------------------------------------------------------------------------------------------------

    async def advance(self, seconds: float) -> None:
        """Let market time pass in quarters of a minute; nobody on the floor is ever behind."""
        target = self.now + timedelta(seconds=seconds)
        while self.now < target:
            step = min(target, self.now + timedelta(seconds=15))
            await self.server.host.player.advance(step, None)
            await self._arrived()
            if step.second == 0:
                await self.swept()
        await self.swept()

    async def advance_to(self, moment: datetime) -> None:
        """Advance to a market time."""
        await self.advance((moment - self.now).total_seconds())

    async def jump(self, moment: datetime) -> None:
        """Skip to a market time without playing what lies between."""
        await self.server.host.player.jump(moment)
        await self._arrived()
        await self.swept()

    async def _arrived(self) -> None:
        """The venue's time was asked and answered twice since: quotes sent before have been taken in."""
        marks = {seat.name: seat.clock.answers for seat in self.seats.values()}

        def seen() -> bool:
            for seat in self.seats.values():
                seat.check()
            return all(
                seat.clock.answers >= marks[seat.name] + 2 and seat.clock.now() >= self.now
                for seat in self.seats.values()
            )

        await eventually(seen, "every account sees the market's time")

    async def swept(self) -> None:
        """Every manager has swept the present minute, and no close is under way that the market would fill."""
        minute = self.now.replace(second=0, microsecond=0)

        async def behind() -> bool:
            for seat in self.seats.values():
                seat.check()
            beats = await self.rows(
                "SELECT account_name FROM heartbeats WHERE component = 'manager' AND venue_time >= $1", minute
            )
            closing = await self.rows("SELECT 1 FROM active_positions WHERE status = 'closing' LIMIT 1")
            market_is_open = self.server.host.calendar.is_open(self.now)
            return {row["account_name"] for row in beats} < self.seats.keys() or bool(closing and market_is_open)

        await self.until(behind, "every manager has swept and nothing is left closing", wanted=False)

    async def until(self, question: Callable[[], Any], what: str, *, wanted: bool = True) -> None:
        """Ask until the answer is as wanted."""
        end = asyncio.get_running_loop().time() + PATIENCE
        while bool(await question()) is not wanted:
            if asyncio.get_running_loop().time() > end:
                raise AssertionError(f"not within {PATIENCE:g} s: {what}")
            await asyncio.sleep(0.002)

    # Asking and ordering -----------------------------------------------------------------------------------------

    async def rows(self, sql: str, *arguments: object) -> list[Mapping[str, Any]]:
        """Read from the database as its owner."""
        connection = cast("asyncpg.Connection", self._connection)
        return cast("list[Mapping[str, Any]]", await connection.fetch(sql, *arguments))

    async def signal(self, account: str, action: str, ticker: str, **fields: object) -> int:
        """Insert a signal as outside engines do; returns its id."""
        ids = await self.operator.insert_recommendations(
            [{"account_name": account, "action": action, "ticker": ticker, "strategy_type": "swing", **fields}]
        )
        return ids[0]

    async def opened(self, count: int) -> None:
        """Wait until so many positions are live."""

        async def enough() -> bool:
            for seat in self.seats.values():
                seat.check()
            found = await self.rows("SELECT count(*) AS n FROM active_positions WHERE status <> 'closed'")
            return bool(found[0]["n"] >= count)

        try:
            await self.until(enough, f"{count} positions open")
        except AssertionError as error:
            signals = await self.rows(
                "SELECT account_name, ticker, action, status, reason FROM dispatch_recommendations"
            )
            raise AssertionError(f"{error}; signals: {[dict(row) for row in signals]}") from error

    _connection: Any = None


@asynccontextmanager
async def open_floor(server: PaperServer, database_url: str) -> AsyncIterator[Floor]:
    """Run a floor on a running exchange and a migrated database."""
    connection = await asyncpg.connect(database_url)
    async with Operator(database_url) as operator:
        floor = Floor(server, database_url, operator)
        floor._connection = connection
        try:
            yield floor
        finally:
            await floor.close()
            await connection.close()
