"""Runs one account's manager as a process does: identity, lease, recovery, loops, orderly end."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

import structlog

from exitguard.broker.clock import Clock
from exitguard.broker.port import (
    Broker,
    BrokerError,
    BrokerRateLimited,
    BrokerUnavailable,
    MarketData,
    TradeStream,
)
from exitguard.core.orders import BrokerAccount
from exitguard.core.records import AppendEvent, EventType, LedgerState
from exitguard.core.session import SessionCalendar, table_calendar
from exitguard.manager.account import AccountManager
from exitguard.manager.alarms import Alarms
from exitguard.manager.context import AccountContext
from exitguard.manager.ledger import Ledger
from exitguard.manager.options import ManagerOptions
from exitguard.manager.watchdog import Watchdog
from exitguard.store.port import AccountMismatch, AccountStore, Lease, StoreUnavailable

T = TypeVar("T")
START_TRIES = 5
ONCE_WAIT_SECONDS = 60.0
STOP_WAIT_SECONDS = 3.0
CALENDAR_BACK = timedelta(days=14)
CALENDAR_AHEAD = timedelta(days=90)
STREAM_READY_SECONDS = 10.0
CALENDAR_HOURS = 6


async def run_manager(
    options: ManagerOptions,
    store: AccountStore,
    broker: Broker,
    trade_stream: TradeStream,
    market_data: MarketData,
    clock: Clock,
    *,
    stop: asyncio.Event,
) -> None:
    """Manage one account until `stop` is set (or for one cycle).

    Raises BrokerUnauthorised and AccountMismatch for wrong keys, LeaseHeld when another process manages the account,
    LeaseLost when one took over, BrokerError and StoreError when the start cannot be completed.
    """
    log = structlog.get_logger().bind(account=options.account_name, build=options.build)
    log.info("Position Manager starting", mode=options.mode, policy_hash=options.policy_hash, holder=options.holder)
    log.info(f"Managing positions for account: {options.account_name}", tier=options.tier)
    context = await _prepare(options, store, broker, clock, log)
    async with _leased(context) as lease:
        try:
            await _manage(AccountManager(context, trade_stream, market_data), lease, stop)
        except BaseExceptionGroup as group:
            raise _cause(group, log) from group
        finally:
            log.info("Position Manager completed")


async def visit_account(
    options: ManagerOptions,
    store: AccountStore,
    broker: Broker,
    trade_stream: TradeStream,
    market_data: MarketData,
    clock: Clock,
    *,
    request: int,
) -> None:
    """Answer one request about the books of an account that nobody manages, under its lease, and go.

    Nothing is evaluated, no stream is opened, no order is sent, and closes that were begun wait for a manager. Raises
    what `run_manager` raises.
    """
    log = structlog.get_logger().bind(account=options.account_name, build=options.build)
    context = await _prepare(options, store, broker, clock, log)
    async with _leased(context) as lease:
        manager = AccountManager(context, trade_stream, market_data)
        try:
            async with asyncio.TaskGroup() as tasks:
                context.tasks = tasks
                renewing = tasks.create_task(_renew(context, lease))
                manager.restore(await _loaded(context))
                for command in await store.pending_commands():
                    if command.id == request:
                        await manager.desk.answer(command)
                await context.ledger.commit()
                renewing.cancel()
        except BaseExceptionGroup as group:
            raise _cause(group, log) from group


async def _prepare(
    options: ManagerOptions, store: AccountStore, broker: Broker, clock: Clock, log: structlog.stdlib.BoundLogger
) -> AccountContext:
    """Make sure whose keys these are, and gather what an account's parts share."""
    account = await _patiently(broker.account, log)
    _check_identity(options, account)
    await store.bind_account_number(account.account_number, options.tier, options.mode)
    calendar = await _patiently(lambda: _calendar(broker, clock), log)
    ledger = Ledger(store, clock)
    alarms = Alarms(ledger, options.account_name)
    context = AccountContext(options, broker, clock, ledger, alarms, calendar)
    context.account_number, context.log = account.account_number, log
    return context


@contextlib.asynccontextmanager
async def _leased(context: AccountContext) -> AsyncIterator[Lease]:
    """Hold the account's lease, and give it back. Raises LeaseHeld."""
    store, options = context.ledger.store, context.options
    lease = await store.acquire_lease(options.holder, options.lease_ttl)
    context.ledger.epoch = lease.epoch
    try:
        yield lease
    finally:
        try:
            await store.release_lease(lease)
        except StoreUnavailable as error:
            context.log.warning("lease not given back, it ends by itself", reason=str(error))


def _cause(group: BaseExceptionGroup[BaseException], log: structlog.stdlib.BoundLogger) -> BaseException:
    """The first failure is the cause; the others are its consequences and are said in the log."""
    for error in group.exceptions[1:]:
        log.error("account stopped, also failed", reason=repr(error))
    return group.exceptions[0]


def _check_identity(options: ManagerOptions, account: BrokerAccount) -> None:
    expected = options.expected_account_number
    if expected is not None and expected != account.account_number:
        raise AccountMismatch(
            f"account {options.account_name}: the keys belong to broker account {account.account_number}, the"
            f" configuration expects {expected}: check key and secret of this account"
        )


async def _patiently(
    ask: Callable[[], Awaitable[T]],
    log: structlog.stdlib.BoundLogger,
    *,
    whom: str = "broker",
    silences: tuple[type[Exception], ...] = (BrokerUnavailable, BrokerRateLimited),
) -> T:
    """Ask at the start, a few times when nobody answers; a refusal is final."""
    for attempt in range(1, START_TRIES + 1):
        try:
            return await ask()
        except silences as error:
            if attempt == START_TRIES:
                raise
            log.warning(f"{whom} does not answer, trying again", reason=str(error), attempt=attempt)
            await asyncio.sleep(min(8.0, 0.5 * 2.0**attempt))
    raise AssertionError("unreachable")


async def _loaded(context: AccountContext) -> LedgerState:
    """The ledger, once the journal of a process before is written: a database that stumbles is asked again."""
    return await _patiently(context.ledger.store.load, context.log, whom="database", silences=(StoreUnavailable,))


async def _calendar(broker: Broker, clock: Clock) -> SessionCalendar:
    """The shipped table, overruled by the broker's calendar where that speaks."""
    venue = await broker.clock()
    clock.observe(venue.now, authoritative=True)
    today = venue.now.date()
    first, last = today - CALENDAR_BACK, today + CALENDAR_AHEAD
    theirs = await broker.calendar(first, last)
    table = table_calendar()
    sessions = {s.day: s for s in table.between(table.first_day, table.last_day) if not first <= s.day <= last}
    sessions.update({s.day: s for s in theirs})
    return SessionCalendar(sessions.values())


async def _manage(manager: AccountManager, lease: Lease, stop: asyncio.Event) -> None:
    context = manager.context
    async with asyncio.TaskGroup() as tasks:
        context.tasks = tasks
        loops = [tasks.create_task(_renew(context, lease), name="lease")]
        state = await _loaded(context)
        now = context.clock.now()
        loops.append(tasks.create_task(context.ledger.run(), name="ledger"))
        manager.restore(state)
        options = context.options
        context.ledger.post(
            AppendEvent(
                EventType.MANAGER_STARTED,
                now,
                {
                    "build": options.build,
                    "policy_hash": options.policy_hash,
                    "config_hash": options.config_hash,
                    "broker_account_number": context.account_number,
                    "open_positions": len(state.positions),
                    "epoch": lease.epoch,
                },
            )
        )
        loops.append(tasks.create_task(manager.streams.follow_trades(), name="trade stream"))
        loops.append(tasks.create_task(manager.streams.follow_market(), name="market data"))
        await _stream_ready(context)
        await _patiently(lambda: manager.recover(state), context.log)
        if options.once:
            await manager.refresh()
            await manager.sweep()
            await manager.wait_for_closes(ONCE_WAIT_SECONDS, restorations=True)
            await manager.sweep()
        else:
            loops += [
                tasks.create_task(manager.follow_broker(), name="broker polls"),
                tasks.create_task(manager.follow_sweeps(), name="sweeps"),
                tasks.create_task(manager.follow_changes(), name="armed closes"),
                tasks.create_task(manager.follow_commands(), name="requests"),
                tasks.create_task(manager.streams.follow_ear(), name="deaf streams"),
                tasks.create_task(_follow_calendar(context), name="calendar"),
                tasks.create_task(Watchdog(context).run(), name="watchdog"),
            ]
            await stop.wait()
            context.log.info("stopping: closes that do not end in time are resumed at the next start")
            await manager.wait_for_closes(STOP_WAIT_SECONDS)
        for task in (*loops, *manager.requests.values()):
            task.cancel()
        for tracked in context.positions.values():
            for work in (tracked.closer, tracked.restorer):
                if work is not None:
                    work.cancel()
    stopped = AppendEvent(EventType.MANAGER_STOPPED, context.clock.now(), {"build": context.options.build})
    try:
        await context.ledger.commit(stopped)
    except StoreUnavailable as error:
        context.log.error("the last changes could not be written", reason=str(error))


async def _stream_ready(context: AccountContext) -> None:
    """Give the trade stream a moment, so that nothing falls between the first poll and the first message.

    One that says that it is down is not waited for: after a process that hung, the broker may keep its connection for
    90 s, and every (re)connection is followed by a poll anyway.
    """
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(context.stream_told.wait(), STREAM_READY_SECONDS)
    if not context.stream_up:
        context.log.warning("trade stream not ready, starting on REST alone")


async def _renew(context: AccountContext, lease: Lease) -> None:
    """Renew the lease at a third of its life; LeaseLost ends the account's manager at once.

    A database that is away can give the lease to nobody else either, so exits go on; once it is back, it decides.
    """
    ttl = context.options.lease_ttl
    while True:
        await asyncio.sleep(ttl.total_seconds() / 3)
        try:
            lease = await context.ledger.store.renew_lease(lease, ttl)
        except StoreUnavailable as error:
            context.log.error("lease not renewed, trying again", reason=str(error))


async def _follow_calendar(context: AccountContext) -> None:
    """Read the broker's calendar again a few times a day: a closure announced this morning must count today."""
    while True:
        await context.clock.sleep(CALENDAR_HOURS * 3600)
        try:
            context.calendar = await _calendar(context.broker, context.clock)
        except BrokerError as error:
            context.log.warning("calendar not refreshed, the last one stays in force", reason=str(error))
