"""Reconciliation: what a poll of 10,000 positions takes beyond the broker's own answers.

The broker is a process that answers from memory; client, books and ledger are the product's.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import timedelta
from typing import Any, cast
from uuid import uuid4

import aiohttp
import orjson

from exitguard.broker.budget import RequestBudget
from exitguard.broker.clock import SteppedClock
from exitguard.broker.rest import AlpacaBroker, AlpacaEndpoints
from exitguard.cli.bench.book import Sizes, ledger_operations, make_book, opening_time, trading_day
from exitguard.cli.bench.place import BenchFailed, Place
from exitguard.cli.bench.result import Measurement, Target, measured, median
from exitguard.cli.bench.venue import STILL
from exitguard.core.policy import DEFAULT_POLICY
from exitguard.core.reconcile import FindingKind
from exitguard.core.records import Batch, Operation
from exitguard.core.session import table_calendar
from exitguard.manager.account import AccountManager
from exitguard.manager.alarms import Alarms
from exitguard.manager.context import AccountContext
from exitguard.manager.ledger import Ledger
from exitguard.manager.options import ManagerOptions
from exitguard.store.repository import PgAccountStore

ACCOUNT = "bench"
TARGET = Target(1_000)
_POSITIONS_A_BATCH = 500
_START_SECONDS = 60.0
_LEASE = timedelta(minutes=10)
# What a poll asks the broker.
_LISTS = ("/v2/orders?status=open&direction=asc&nested=true&limit=500", "/v2/positions")


class _Deaf:
    """Market data that nobody listens to."""

    def watch(self, symbols: Collection[str]) -> None:
        """Take note of nothing."""


async def measure(place: Place, count: int, rounds: int, say: Callable[[str], None]) -> dict[str, Measurement]:
    """Poll `rounds` times, each next to bare GETs of the same lists; medians in milliseconds.

    The value is what the poll took beyond those GETs. Raises BenchFailed when a poll does not find every position
    matched: that would be a measurement of something else.
    """
    sizes = Sizes(underlyings=min(200, count - 1), positions=count - 1, rounds=1, warmup=0)
    say(f"reconciliation: filling the ledger with {count} positions")
    store = await PgAccountStore.connect(await place.database(), ACCOUNT)
    try:
        broker = await place.start("broker", "exitguard.cli.bench.venue", orjson.dumps(asdict(sizes)).decode(), STILL)
        url = f"http://127.0.0.1:{orjson.loads(await place.line(broker, _START_SECONDS))['http']}"
        async with _manager(store, sizes, url) as manager, aiohttp.ClientSession() as session:
            say(f"reconciliation: {rounds} polls, each next to bare requests")
            ours, bare = [], []
            # One more at the start, which counts for neither.
            for turn in range(rounds + 1):
                bare_took = await _bare(session, url)
                began = time.perf_counter()
                await manager.poll()
                took = time.perf_counter() - began
                _all_matched(manager, count)
                if turn:
                    ours.append(max(0.0, took - bare_took) * 1000)
                    bare.append(bare_took * 1000)
    finally:
        await store.close()
        await place.stop_all()
    return {"reconciliation": measured(median(ours), "ms", baseline=median(bare), target=TARGET)}


async def _bare(session: aiohttp.ClientSession, url: str) -> float:
    began = time.perf_counter()
    for path in _LISTS:
        async with session.get(url + path) as answer:
            await answer.read()
    return time.perf_counter() - began


def _all_matched(manager: AccountManager, count: int) -> None:
    matched = sum(1 for each in manager.reconciler.findings if each.kind is FindingKind.MATCHED)
    if matched != count or len(manager.reconciler.findings) != count:
        raise BenchFailed(f"{matched} of {count} positions matched, {len(manager.reconciler.findings)} findings")


@asynccontextmanager
async def _manager(store: PgAccountStore, sizes: Sizes, url: str) -> AsyncIterator[AccountManager]:
    """A manager that took over the book of an earlier process, and does nothing by itself."""
    session = trading_day()
    clock = SteppedClock(opening_time(session))
    ledger = Ledger(store, clock)
    lease = await store.acquire_lease("bench", _LEASE)
    ledger.epoch = lease.epoch
    book = make_book(sizes, session.day)
    for first in range(0, len(book), _POSITIONS_A_BATCH):
        operations: list[Operation] = []
        for number, held in enumerate(book[first : first + _POSITIONS_A_BATCH], first + 1):
            operations += ledger_operations(ACCOUNT, held, number, clock.now())
        await store.commit(Batch(uuid4(), ACCOUNT, lease.epoch, clock.now(), tuple(operations)))
    broker = AlpacaBroker(
        AlpacaEndpoints(url, url), "bench", "bench", account_name=ACCOUNT, budget=RequestBudget(100_000)
    )
    options = ManagerOptions(
        ACCOUNT, "bench", "paper", lambda _strategy, _instrument: DEFAULT_POLICY, "bench", "bench", "-", "-",
        stepped=True,
    )  # fmt: skip
    context = AccountContext(options, broker, clock, ledger, Alarms(ledger, ACCOUNT), table_calendar())
    try:
        async with asyncio.TaskGroup() as tasks:
            context.tasks = tasks
            manager = AccountManager(context, cast(Any, None), cast(Any, _Deaf()))
            manager.restore(await store.load())
            yield manager
            await ledger.commit()
    finally:
        await broker.close()
        await store.release_lease(lease)
