"""The watchdog: what makes no progress, or makes too much of it, is an alarm with its own threshold (F20, F98, I7)."""

import asyncio
import json
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from aiohttp import ClientSession
from tests.support.managed import Managed, Venue

from exitguard.broker.clock import RealClock
from exitguard.broker.port import BrokerRefused, BrokerUnavailable, StreamUp
from exitguard.cli.endpoint import open_endpoint
from exitguard.cli.supervision import Fleet, State
from exitguard.core.orders import OrderClass, OrderSide
from exitguard.core.policy import CloseStyle, Policy
from exitguard.core.records import PositionStatus
from exitguard.manager.alarm_list import kind_of
from exitguard.manager.vitals import WatchLimits

CALL = "AAPL260619C00150000"

POLICY = Policy(missing_bracket=False, min_hold_minutes=0)
QUICK = WatchLimits(creations_a_minute=3, look_seconds=0.01)


class Watched(Managed):
    """A manager whose process serves the health endpoint."""

    def __init__(
        self, venue: Venue, journal: Path | None = None, *, real_clock: bool = False, policy: Policy = POLICY
    ) -> None:
        super().__init__(venue, policy=policy, journal=journal, real_clock=real_clock)
        self.options = replace(self.options, limits=QUICK, skew_alarm=timedelta(seconds=2))
        self.fleet = Fleet(self.stop)
        self._around = AsyncExitStack()

    async def __aenter__(self) -> "Watched":
        self.fleet.vitals[self.name] = self.options.vitals
        self.fleet.enter(self.name, State.RUNNING)
        self.address = await self._around.enter_async_context(open_endpoint("127.0.0.1:0", self.fleet))
        self.client = await self._around.enter_async_context(ClientSession())
        await super().__aenter__()
        return self

    async def __aexit__(self, *failure: Any) -> None:
        await super().__aexit__(*failure)
        await self._around.aclose()

    async def get(self, path: str) -> tuple[int, str]:
        """Status and text of a page of the health endpoint."""
        async with self.client.get(f"{self.address}{path}") as answer:
            return answer.status, await answer.text()

    async def shown(self, key: str) -> tuple[bool, bool]:
        """Whether an alarm is on /healthz, and in /metrics by its kind."""
        listed = json.loads((await self.get("/healthz"))[1])["accounts"][self.name]["alarms"]
        counted = f'exitguard_alarms{{account="{self.name}",alarm="{kind_of(key)}"}}' in (await self.get("/metrics"))[1]
        return key in listed, counted


def watched(venue: Venue, journal: Path | None = None, *, real_clock: bool = False, policy: Policy = POLICY) -> Watched:
    return Watched(venue, journal, real_clock=real_clock, policy=policy)


async def raised(managed: Watched, key: str) -> None:
    """In the database, on the health endpoint and in the metrics."""
    await managed.until(lambda: key in managed.rows.alarms, f"alarm {key}")
    assert managed.rows.alarms[key].kind == kind_of(key)
    await managed.until(lambda: key in managed.options.vitals.alarms, f"{key} among the vitals")
    assert await managed.shown(key) == (True, True)


async def cleared(managed: Watched, key: str) -> None:
    """In all three places."""
    await managed.until(lambda: key not in managed.rows.alarms, f"no alarm {key}")
    await managed.until(lambda: key not in managed.options.vitals.alarms, f"{key} gone from the vitals")
    assert (await managed.shown(key))[0] is False


async def test_f98_sweeps_that_hang_are_alarms_of_silence_and_of_stale_positions() -> None:
    """A sweep that hangs behind a database that takes its marks and never answers."""
    async with watched(Venue()) as managed:
        await managed.price("AAPL", "100")
        await managed.enter("AAPL")
        await managed.advance(1)
        await managed.until(lambda: managed.options.vitals.open_positions == 1, "the watchdog knows the position")
        write_marks, free, hangs = managed.store.write_marks, asyncio.Event(), asyncio.Event()

        async def hanging(marks, epoch):  # type: ignore[no-untyped-def]
            hangs.set()
            await free.wait()
            return await write_marks(marks, epoch)

        managed.store.write_marks = hanging  # type: ignore[method-assign]
        for minutes in (1, 7):
            managed.venue.time += timedelta(minutes=minutes)
            managed.clock.observe(managed.venue.time, authoritative=True)
            await managed.until(hangs.is_set, "the sweep hangs")
        await raised(managed, "silence:sweeps")
        assert (await managed.get("/livez"))[0] == 503
        assert (await managed.get("/healthz"))[0] == 503
        await raised(managed, "stale_marks")
        assert "AAPL" in managed.rows.alarms["stale_marks"].message
        free.set()
        await cleared(managed, "silence:sweeps")
        await cleared(managed, "stale_marks")
        assert (await managed.get("/livez"))[0] == (await managed.get("/healthz"))[0] == 200


async def test_f98_a_ledger_that_gets_no_heartbeat_is_an_alarm_also_while_it_is_away(tmp_path: Path) -> None:
    async with watched(Venue(), tmp_path) as managed:
        managed.store.away = True
        for _ in range(4):
            managed.venue.time += timedelta(minutes=1)
            managed.clock.observe(managed.venue.time, authoritative=True)
        vitals = managed.options.vitals
        await managed.until(lambda: "silence:ledger" in vitals.alarms, "the process shows it")
        assert (await managed.get("/healthz"))[0] == 503
        assert (await managed.get("/livez"))[0] == 200, "a restart would lose what can still close"
        managed.store.away = False
        await raised(managed, "silence:ledger")
        managed.venue.time += timedelta(minutes=1)
        managed.clock.observe(managed.venue.time, authoritative=True)
        await cleared(managed, "silence:ledger")


async def test_f98_a_look_at_the_broker_that_never_ends_is_an_alarm() -> None:
    venue = Venue()
    async with watched(venue, real_clock=True) as managed:
        free, hangs, positions = asyncio.Event(), asyncio.Event(), managed.broker.positions

        async def hanging(*arguments, **named):  # type: ignore[no-untyped-def]
            hangs.set()
            await free.wait()
            return await positions(*arguments, **named)

        managed.broker.positions = hanging  # type: ignore[method-assign]
        # A look that had its answer before may end yet, and would count.
        await managed.until(hangs.is_set, "a look hangs")
        assert isinstance(managed.clock, RealClock)
        managed.clock.skew += timedelta(seconds=QUICK.poll_silence.total_seconds() + 1)
        await raised(managed, "silence:polls")
        assert (await managed.get("/livez"))[0] == 503
        free.set()
        await cleared(managed, "silence:polls")


async def test_f98_a_broker_that_refuses_every_look_is_an_alarm_but_no_reason_to_restart() -> None:
    venue = Venue()
    async with watched(venue, real_clock=True) as managed:
        positions = managed.broker.positions

        async def away(*_: object, **__: object) -> None:
            raise BrokerUnavailable("HTTP 503")

        managed.broker.positions = away  # type: ignore[method-assign, assignment]
        await raised(managed, "broker")
        assert isinstance(managed.clock, RealClock)
        managed.clock.skew += timedelta(seconds=QUICK.poll_silence.total_seconds() + 1)
        seen = managed.clock.now()
        await managed.until(lambda: managed.options.vitals.poll_age > 60, "a look that has seen the time pass")
        assert managed.clock.now() >= seen
        assert "silence:polls" not in managed.options.vitals.alarms
        assert (await managed.get("/livez"))[0] == 200
        managed.broker.positions = positions  # type: ignore[method-assign]
        await cleared(managed, "broker")


async def test_f20_positions_that_multiply_are_an_alarm() -> None:
    async with watched(Venue()) as managed:
        for number in range(QUICK.creations_a_minute):
            managed.broker.external_order(f"A{chr(65 + number)}", OrderSide.BUY, "1", "10")
        await managed.advance(1)
        await managed.until(lambda: len(managed.rows.positions) == QUICK.creations_a_minute, "three positions")
        assert "rapid_creation" not in managed.rows.alarms
        for number in range(QUICK.creations_a_minute + 1):
            managed.broker.external_order(f"B{chr(65 + number)}", OrderSide.BUY, "1", "10")
        await managed.advance(2)
        await raised(managed, "rapid_creation")
        assert managed.options.vitals.positions_created >= 4
        await managed.advance(2)
        await cleared(managed, "rapid_creation")


async def test_a_clock_that_differs_from_the_venues_is_an_alarm_with_its_own_threshold() -> None:
    async with watched(Venue(), real_clock=True) as managed:
        assert isinstance(managed.clock, RealClock)
        await raised(managed, "clock_skew")
        assert abs(managed.options.vitals.clock_skew) > 2
        managed.clock.skew = timedelta(seconds=1)
        await cleared(managed, "clock_skew")


async def test_f98_a_position_without_usable_quotes_is_an_alarm() -> None:
    async with watched(Venue()) as managed:
        await managed.price(CALL, "5.00")
        position = await managed.enter(CALL)
        managed.market.mute = True
        managed.broker.quotes.pop(CALL)
        for _ in range(4):
            await managed.advance(1)
        await raised(managed, f"blind:{position.id}")
        assert (await managed.get("/livez"))[0] == (await managed.get("/healthz"))[0] == 200
        metrics = (await managed.get("/metrics"))[1]
        assert 'exitguard_positions{account="large",protection="blind"} 1.0' in metrics
        managed.market.mute = False
        await managed.price(CALL, "5.00")
        await managed.advance(1)
        await cleared(managed, f"blind:{position.id}")


async def test_a_position_without_its_bracket_is_an_alarm() -> None:
    policy = Policy(min_hold_minutes=0, missing_bracket_grace_seconds=3600)
    async with watched(Venue(), policy=policy) as managed:
        await managed.price("AAPL", "100")
        submit = managed.broker.submit

        async def no_oco(request, priority=None):  # type: ignore[no-untyped-def]
            if request.order_class is OrderClass.OCO:
                managed.broker.next_submits(BrokerRefused(422, 42210000, "complex orders are not available"))
            return await submit(request)

        managed.broker.submit = no_oco  # type: ignore[method-assign]
        position = await managed.enter("AAPL")
        for _ in range(3):
            managed.quote("AAPL", "99.99", "100.01")
            await managed.advance(1)
        await raised(managed, f"naked:{position.id}")
        managed.broker.external_order("AAPL", OrderSide.SELL, "10", "100")
        await managed.closed(position)
        await cleared(managed, f"naked:{position.id}")


async def test_a_close_that_does_not_end_is_an_alarm() -> None:
    policy = Policy(missing_bracket=False, min_hold_minutes=0, option_close_style=CloseStyle.MARKET)
    async with watched(Venue(), policy=policy) as managed:
        await managed.price(CALL, "5.00")
        position = await managed.enter(CALL)
        match = managed.broker.match
        managed.broker.match = lambda symbol: None  # type: ignore[method-assign]
        await managed.price(CALL, "2.50")
        await managed.until(lambda: managed.row(position.id).status is PositionStatus.CLOSING, "an order that rests")
        await managed.advance(5)
        await raised(managed, f"stuck:{position.id}")
        assert (await managed.get("/livez"))[0] == 200
        managed.broker.match = match  # type: ignore[method-assign]
        await managed.price(CALL, "2.50")
        await managed.closed(position)
        await cleared(managed, f"stuck:{position.id}")


async def test_f98_a_deaf_trade_stream_is_an_alarm() -> None:
    async with watched(Venue()) as managed:
        await managed.price("AAPL", "100")
        await managed.enter("AAPL")
        await managed.advance(1)
        managed.trades.mute = True
        managed.broker.external_order("AAPL", OrderSide.SELL, "1", "100")
        await managed.advance(1)
        await raised(managed, "stream_deaf:trade_updates")
        assert 'exitguard_trade_stream_up{account="large"} 0.0' in (await managed.get("/metrics"))[1]
        managed.trades.push(StreamUp(0.0))
        await cleared(managed, "stream_deaf:trade_updates")


async def test_t17_f90_the_heartbeat_says_who_runs_what_on_which_account() -> None:
    async with watched(Venue()) as managed:
        beat = managed.rows.heartbeats["manager"]
        assert (beat.build, beat.policy_hash, beat.config_hash) == ("test", "p", "c")
        assert beat.broker_account_number == "PA-large"
        vitals = managed.options.vitals
        await managed.until(lambda: vitals.broker_account_number == "PA-large", "a look")
