"""Keeps the accounts of one process running, each on its own: one that cannot run never stops another."""

import asyncio
import contextlib
import gc
import os
import socket
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import Enum
from typing import Any
from uuid import uuid4

import structlog

from exitguard.broker.clock import STEPPED_POLL_SECONDS, Clock, RealClock, SteppedClock, follow_venue_clock
from exitguard.broker.port import Broker, BrokerRateLimited, BrokerUnauthorised, BrokerUnavailable
from exitguard.broker.rest import AlpacaBroker
from exitguard.cli.brokers import CLOCK_REQUESTS_PER_MINUTE, make_broker, make_market_data, make_trade_stream
from exitguard.cli.exits import Exit, exit_code_of, first_cause
from exitguard.cli.standby import outwait_visit, until_free, visitor
from exitguard.config.build import build_info
from exitguard.config.errors import ConfigError
from exitguard.config.paths import state_dir
from exitguard.config.secrets import Credentials, SecretReader, credentials
from exitguard.config.settings import AccountSettings, Settings, WatchSettings
from exitguard.core.instrument import Instrument
from exitguard.core.policy import Policy, policy_body, policy_hash
from exitguard.core.records import Heartbeat
from exitguard.dispatch.options import DispatcherOptions
from exitguard.dispatch.service import run_dispatcher
from exitguard.manager.options import ManagerOptions
from exitguard.manager.service import run_manager, visit_account
from exitguard.manager.vitals import Vitals, WatchLimits
from exitguard.store.journal import Journal, JournalError
from exitguard.store.journaled import JournaledStore
from exitguard.store.port import AccountMismatch, LeaseHeld, LeaseLost, SchemaMismatch
from exitguard.store.repository import PgAccountStore

FIRST_RETRY_SECONDS = 1.0
LAST_RETRY_SECONDS = 60.0
REMINDER_SECONDS = 60.0
START_TRIES = 5
DISPATCHER_STOP_SECONDS = 10.0
# So many accounts of one process can look at a stepped clock as often as one alone.
OFTEN_LOOKING_ACCOUNTS = 4
# What no second try mends: a person has to change something, or another process is at work.
_FINAL = (ConfigError, AccountMismatch, LeaseHeld, LeaseLost, SchemaMismatch, JournalError)


class State(Enum):
    """Where an account's manager is in its life."""

    STARTING = "starting"
    STANDING_BY = "standing by"
    RUNNING = "running"
    WAITING = "waiting"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an account does not run, and the exit code for it."""

    account_name: str
    reason: str
    code: Exit


@dataclass(slots=True)
class Fleet:
    """All accounts of this process. `failures` are accounts that were given up, in the order in which it happened."""

    stop: asyncio.Event
    states: dict[str, State] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)
    waiting: dict[str, Failure] = field(default_factory=dict)
    ever_ran: set[str] = field(default_factory=set)
    hopeless: asyncio.Event = field(default_factory=asyncio.Event)
    # What each account's manager shows of itself since it was started last.
    vitals: dict[str, Vitals] = field(default_factory=dict)
    # Seconds after which an account that is still starting counts as not managed, and since when it is.
    start_silence: float = WatchSettings().start_silence_seconds
    starting_since: dict[str, float] = field(default_factory=dict)

    def enter(self, name: str, state: State) -> None:
        """Note an account's state."""
        self.states[name] = state
        if state is State.STARTING:
            self.starting_since.setdefault(name, time.monotonic())
        else:
            self.starting_since.pop(name, None)
        if state is State.RUNNING:
            self.ever_ran.add(name)
            self.waiting.pop(name, None)
        # When nobody runs, nobody ever did, and nobody is about to, waiting is of no use: the start has failed.
        alive = (State.STARTING, State.STANDING_BY, State.RUNNING)
        active = any(each in alive for each in self.states.values())
        if not active and not self.ever_ran:
            self.hopeless.set()

    def hanging(self) -> list[Failure]:
        """Accounts whose start takes longer than any start does: something that they wait for never answers."""
        now = time.monotonic()
        return [
            Failure(name, f"still starting after {now - since:.0f} s: look at the log", Exit.TEMPORARY)
            for name, since in self.starting_since.items()
            if now - since > self.start_silence
        ]

    async def remind(self) -> None:
        """Say loudly, again and again, which accounts nobody manages."""
        while True:
            await asyncio.sleep(REMINDER_SECONDS)
            for failure in (*self.failures.values(), *self.waiting.values(), *self.hanging()):
                structlog.get_logger().error(
                    "ACCOUNT IS NOT MANAGED", account=failure.account_name, reason=failure.reason
                )


class AnnouncingStore(JournaledStore):
    """The manager's store, which tells when its first heartbeat was written: from then on positions are watched."""

    def __init__(self, inner: PgAccountStore, journal: Journal, beaten: asyncio.Event) -> None:
        super().__init__(inner, journal)
        self._beaten = beaten

    async def beat(self, heartbeat: Heartbeat, epoch: int) -> None:
        """Record progress."""
        await super().beat(heartbeat, epoch)
        self._beaten.set()


class AccountUnit:
    """One account: its manager, its clock, and its dispatcher where it has risk limits.

    With `standby` it waits while another process manages the account, and takes over when that one dies or hangs.
    """

    def __init__(
        self,
        account: AccountSettings,
        settings: Settings,
        url: str,
        fleet: Fleet,
        *,
        once: bool,
        standby: bool = False,
    ) -> None:
        self.name = account.name
        self._account = account
        self._settings = settings
        self._url = url
        self._fleet = fleet
        self._once = once
        self._standby = standby
        self._build = build_info().label
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        self._log: Any = structlog.get_logger().bind(account=account.name, build=self._build)
        fleet.enter(self.name, State.STARTING)

    async def run(self) -> None:
        """Keep the account managed until the process is told to stop; a failure that no retry mends ends it."""
        delay = FIRST_RETRY_SECONDS
        while True:
            self._fleet.enter(self.name, State.STARTING)
            loop = asyncio.get_running_loop()
            began = loop.time()
            try:
                await self._live()
                self._fleet.enter(self.name, State.ENDED)
                return
            except Exception as error:
                failure = self._failure(error)
            if self._standby and isinstance(failure[0], LeaseHeld | LeaseLost):
                # Somebody else was faster, or took over from us while we hung: we stand by again.
                self._log.error("another process manages the account now", reason=failure[1].reason)
                continue
            if self._once or self._is_final(failure[0]):
                self._give_up(failure[1])
                return
            if loop.time() - began > LAST_RETRY_SECONDS:
                delay = FIRST_RETRY_SECONDS
            if await self._wait(failure[1], delay):
                return
            delay = min(delay * 2, LAST_RETRY_SECONDS)

    def _failure(self, error: Exception) -> tuple[BaseException, Failure]:
        cause = first_cause(error)
        code = exit_code_of(cause)
        if code is None:
            self._log.error("account failed unexpectedly", exc_info=error)
            reason = f"unexpected {type(cause).__name__}: {cause} (a defect of exitguard; the log has the details)"
            return cause, Failure(self.name, reason, Exit.UNEXPECTED)
        return cause, Failure(self.name, str(cause), code)

    def _is_final(self, cause: BaseException) -> bool:
        wrong_keys = isinstance(cause, BrokerUnauthorised) and self.name not in self._fleet.ever_ran
        return wrong_keys or isinstance(cause, _FINAL)

    def _give_up(self, failure: Failure) -> None:
        self._log.error("ACCOUNT IS NOT MANAGED", reason=failure.reason, exit_code=int(failure.code))
        self._fleet.failures[self.name] = failure
        self._fleet.waiting.pop(self.name, None)
        self._fleet.enter(self.name, State.ENDED)

    async def _wait(self, failure: Failure, delay: float) -> bool:
        """Wait before the next try. Returns whether there is to be none."""
        self._log.error("account stopped, trying again", reason=failure.reason, seconds=delay)
        self._fleet.waiting[self.name] = failure
        self._fleet.enter(self.name, State.WAITING)
        ends = [asyncio.ensure_future(each.wait()) for each in (self._fleet.stop, self._fleet.hopeless)]
        try:
            await asyncio.wait(ends, timeout=delay, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
        if self._fleet.stop.is_set() or self._fleet.hopeless.is_set():
            self._give_up(failure)
            return True
        return False

    async def _live(self) -> None:
        """Lives of the account, until one ends for another reason than a person's command that works on its books.

        A command finds the lease free when nobody manages, and also when the database was away for longer than it.
        """
        while not self._fleet.stop.is_set():
            try:
                await self._manage()
            except Exception as error:
                cause = first_cause(error)
                if self._standby or not isinstance(cause, LeaseHeld | LeaseLost) or not await self._outwait_visit():
                    raise
                if not self._fleet.stop.is_set():
                    self._log.warning("nobody else manages the account: starting", after=str(cause))
            else:
                return

    async def _outwait_visit(self) -> bool:
        """Wait while a command holds the account's lease; False when another manager does."""
        store = await PgAccountStore.connect(self._url, self.name)
        try:
            return await outwait_visit(store, self._fleet.stop, self._log)
        finally:
            await store.close()

    # One life of the account ----------------------------------------------------------------------------------------

    async def _manage(self) -> None:
        async with AsyncExitStack() as stack:
            opened = await self._open()
            broker = make_broker(self._account, opened)
            stack.push_async_callback(broker.close)
            if self._standby and not await self._stand_by():
                return
            clock = await self._clock(broker)
            watched = asyncio.Event()
            store = await self._store(watched)
            stack.push_async_callback(store.close)
            await self._save_policy()
            async with asyncio.TaskGroup() as tasks:
                helpers = [
                    tasks.create_task(self._follow_clock(opened, broker, clock), name="venue clock"),
                    tasks.create_task(self._note_running(watched), name="first heartbeat"),
                ]
                dispatcher = tasks.create_task(self._dispatch(broker, clock, watched), name="dispatcher")
                await run_manager(
                    self._manager_options(),
                    store,
                    broker,
                    make_trade_stream(self._account, opened),
                    make_market_data(self._account, opened),
                    clock,
                    stop=self._fleet.stop,
                )
                # The dispatcher hears the same request to stop; it may finish what it is writing.
                await asyncio.wait([dispatcher], timeout=DISPATCHER_STOP_SECONDS)
                for helper in (*helpers, dispatcher):
                    helper.cancel()

    async def visit(self, request: int) -> None:
        """Answer one request about the account's books while nobody manages it. Raises what the manager raises."""
        async with AsyncExitStack() as stack:
            opened = await self._open()
            broker = make_broker(self._account, opened)
            stack.push_async_callback(broker.close)
            clock = await self._clock(broker)
            # With the journal: what a manager could not write any more comes first.
            store = await self._store(asyncio.Event())
            stack.push_async_callback(store.close)
            await visit_account(
                replace(self._manager_options(), holder=visitor(self._holder)),
                store,
                broker,
                make_trade_stream(self._account, opened),
                make_market_data(self._account, opened),
                clock,
                request=request,
            )

    async def _stand_by(self) -> bool:
        """Wait while another process manages the account; False when told to stop."""
        store = await PgAccountStore.connect(self._url, self.name)
        try:
            self._fleet.enter(self.name, State.STANDING_BY)
            if not await until_free(store, self._fleet.stop, self._log):
                return False
        finally:
            await store.close()
        self._fleet.enter(self.name, State.STARTING)
        return True

    async def _open(self) -> Credentials:
        """Read the keys anew for each life: they may have been rotated. In a thread, because AWS blocks."""
        reader = SecretReader(region=self._settings.aws_region)
        return await asyncio.to_thread(credentials, self._account, reader)

    async def _clock(self, broker: Broker) -> Clock:
        if self._account.clock == "real":
            return RealClock()
        for attempt in range(1, START_TRIES + 1):
            try:
                return SteppedClock((await broker.clock()).now)
            except (BrokerUnavailable, BrokerRateLimited) as error:
                if attempt == START_TRIES:
                    raise
                self._log.warning("the venue's clock does not answer, trying again", reason=str(error))
                await asyncio.sleep(0.1 * 2**attempt)
        raise AssertionError("unreachable")

    async def _store(self, watched: asyncio.Event) -> AnnouncingStore:
        inner = await PgAccountStore.connect(self._url, self.name)
        try:
            journal = await asyncio.to_thread(Journal.open_any, state_dir() / "journal", self.name)
        except BaseException:
            await inner.close()
            raise
        return AnnouncingStore(inner, journal, watched)

    async def _save_policy(self) -> None:
        store = await PgAccountStore.connect(self._url, self.name)
        try:
            for policy in self._settings.policies_of(self._account):
                await store.save_policy(policy_hash(policy), policy.name, policy_body(policy))
        finally:
            await store.close()

    async def _follow_clock(self, opened: Credentials, broker: AlpacaBroker, clock: Clock) -> None:
        if isinstance(clock, RealClock):
            await follow_venue_clock(broker, clock)
            return
        own = make_broker(self._account, opened, requests_per_minute=CLOCK_REQUESTS_PER_MINUTE)
        try:
            # Many accounts that look as often as a few may would do nothing else; ticks tell the time meanwhile.
            crowd = max(1.0, len(self._fleet.states) / OFTEN_LOOKING_ACCOUNTS)
            await follow_venue_clock(own, clock, poll_seconds=STEPPED_POLL_SECONDS * crowd)
        finally:
            await own.close()

    async def _note_running(self, watched: asyncio.Event) -> None:
        await watched.wait()
        self._fleet.enter(self.name, State.RUNNING)
        # What has been loaded so far lives long: no later collection of garbage has to walk through it, and the
        # others come in small portions, so that none of them keeps a breach waiting.
        gc.collect()
        gc.freeze()
        gc.set_threshold(2_000, 20, 200)

    def _select_policy(self, strategy: str, instrument: Instrument) -> Policy:
        return self._settings.select_policy(self._account, strategy, instrument)

    def _manager_options(self) -> ManagerOptions:
        watch = self._settings.watch
        self._fleet.vitals[self.name] = Vitals()
        return ManagerOptions(
            account_name=self.name,
            tier=self._account.tier,
            mode=self._account.mode,
            select_policy=self._select_policy,
            holder=self._holder,
            build=self._build,
            policy_hash=self._settings.policies_hash(self._account),
            config_hash=self._settings.config_hash,
            expected_account_number=self._account.account_number,
            once=self._once,
            stepped=self._account.clock == "stepped",
            lease_ttl=timedelta(seconds=self._account.lease_seconds),
            skew_alarm=timedelta(seconds=float(watch.clock_skew_seconds)),
            limits=WatchLimits(
                sweep_silence=timedelta(seconds=watch.sweep_silence_seconds),
                poll_silence=timedelta(seconds=watch.poll_silence_seconds),
                ledger_silence=timedelta(seconds=watch.ledger_silence_seconds),
                stale=timedelta(seconds=watch.stale_position_seconds),
                creations_a_minute=watch.creations_a_minute,
            ),
            vitals=self._fleet.vitals[self.name],
        )

    # Dispatcher -------------------------------------------------------------------------------------------------------

    async def _dispatch(self, broker: Broker, clock: Clock, watched: asyncio.Event) -> None:
        """Open positions, but only while somebody watches them; a dispatcher that fails never stops the manager."""
        if self._once:
            return  # one cycle watches; what it opened would be left alone until somebody starts the next
        if self._account.risk is None:
            self._log.warning("no risk limits in the settings: this account opens no positions")
            return
        if not await self._before_stop(watched):
            return
        delay = FIRST_RETRY_SECONDS
        while not self._fleet.stop.is_set():
            try:
                await self._dispatch_once(broker, clock)
                return
            except Exception as error:
                _, failure = self._failure(error)
                self._log.error("dispatcher stopped, trying again", reason=failure.reason, seconds=delay)
            await self._before_stop_or(delay)
            delay = min(delay * 2, LAST_RETRY_SECONDS)

    async def _before_stop_or(self, seconds: float) -> None:
        """Wait for a while, or until the request to stop."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._fleet.stop.wait(), seconds)

    async def _before_stop(self, event: asyncio.Event) -> bool:
        """Wait for an event or the request to stop; whether the event came first."""
        ends = [asyncio.ensure_future(each.wait()) for each in (event, self._fleet.stop)]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
        return not self._fleet.stop.is_set()

    async def _dispatch_once(self, broker: Broker, clock: Clock) -> None:
        store = await PgAccountStore.connect(self._url, self.name, component="dispatcher")
        options = DispatcherOptions(
            select_policy=self._select_policy,
            holder=self._holder,
            build=self._build,
            policy_hash=self._settings.policies_hash(self._account),
            config_hash=self._settings.config_hash,
            lease_ttl=timedelta(seconds=self._account.lease_seconds),
        )
        try:
            await run_dispatcher(self._account, store, broker, clock, stop=self._fleet.stop, options=options)
        finally:
            await store.close()
