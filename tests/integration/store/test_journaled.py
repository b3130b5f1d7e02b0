"""A ledger that goes on while the database is gone."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.support.ledger import batch, event, heartbeat, intent, position
from tests.support.postgres import StoreMaker
from tests.support.waiting import PATIENCE

from exitguard.core.records import Batch, IntentStatus, PutIntent, PutPosition
from exitguard.store.embedded import EmbeddedServer
from exitguard.store.journal import Journal, JournalInUse
from exitguard.store.journaled import JournaledStore
from exitguard.store.migrate import migrate_async
from exitguard.store.operator import Operator
from exitguard.store.port import LeaseLost, StoreRejected, StoreUnavailable
from exitguard.store.repository import PgAccountStore

MINUTE = timedelta(minutes=1)


class Wire:
    """The way to the database, which a test may cut before or after the database has acted."""

    def __init__(self, store: PgAccountStore) -> None:
        self._store = store
        self.cut = False
        self.answers = True
        self.hangs = False

    async def commit_encoded(self, given: Batch, operations: bytes, *, journaled_epoch: int | None = None) -> None:
        if self.hangs:
            await asyncio.sleep(3600)
        if self.cut:
            raise StoreUnavailable("cut")
        await self._store.commit_encoded(given, operations, journaled_epoch=journaled_epoch)
        if not self.answers:
            raise StoreUnavailable("cut after the commit")

    def __getattr__(self, name: str) -> Any:
        if self.cut and name not in ("account_name", "close"):
            raise StoreUnavailable("cut")
        return getattr(self._store, name)


@pytest.fixture
async def wire(make_store: StoreMaker) -> Wire:
    return Wire(await make_store("large"))


@pytest.fixture
async def store(wire: Wire, tmp_path: Path) -> AsyncIterator[JournaledStore]:
    found = opened(wire, tmp_path)
    yield found
    await found.close()


@pytest.fixture
async def impatient(wire: Wire, tmp_path: Path) -> AsyncIterator[JournaledStore]:
    """A store that soon gives up on a database that does not answer."""
    found = opened(wire, tmp_path, commit_seconds=0.5)
    yield found
    await found.close()


def opened(inner: Any, folder: Path, *, commit_seconds: float = PATIENCE) -> JournaledStore:
    """A store with a small journal, for which a slow machine is no database that is away."""
    return JournaledStore(inner, Journal.open(folder, "large", size=65536), commit_seconds=commit_seconds)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - the conditions are properties of the product
            await asyncio.sleep(0.01)


async def quantities(make_store: StoreMaker) -> list[int]:
    reader = await make_store("large")
    return [int(row.quantity) for row in (await reader.load()).positions]


def held(quantity: int) -> PutPosition:
    return PutPosition(position("large", quantity=Decimal(quantity)))


async def test_with_the_database_nothing_touches_the_journal(store: JournaledStore, make_store: StoreMaker) -> None:
    lease = await store.acquire_lease("me", MINUTE)
    await store.commit(batch("large", lease.epoch, held(5)))
    assert (store.degraded, store.pending) == (False, 0)
    assert await quantities(make_store) == [5]


async def test_commits_outlive_the_database_and_reach_it_in_order(
    store: JournaledStore, wire: Wire, make_store: StoreMaker, database_url: str
) -> None:
    lease = await store.acquire_lease("me", MINUTE)
    wire.cut = True
    order = intent("large", 1)
    await store.commit(batch("large", lease.epoch, held(9), PutIntent(order), event(number=1)))
    for quantity in (8, 7, 6):
        await store.commit(batch("large", lease.epoch, held(quantity), event(number=quantity)))
    assert (store.degraded, store.pending) == (True, 4)
    assert await store.intent(order.client_order_id) == order, "the newest truth is in the journal"
    wire.cut = False
    await until(lambda: not store.degraded)
    assert await quantities(make_store) == [6]
    await store.commit(batch("large", lease.epoch, held(5)))
    assert await quantities(make_store) == [5]
    async with await Operator.connect(database_url) as operator:
        assert await operator.broken_event("large") is None
        found = await operator.query("SELECT event_type, event_data->>'number' FROM position_events ORDER BY seq")
        told = [("created", number) for number in ("1", "8", "7", "6")]
        assert list(found.rows) == [*told, ("recorded", None)], "what no event of its batch told of was recorded too"


async def test_while_the_journal_waits_every_commit_queues_behind_it(store: JournaledStore, wire: Wire) -> None:
    lease = await store.acquire_lease("me", MINUTE)
    wire.cut = True
    await store.commit(batch("large", lease.epoch, held(9)))
    await asyncio.gather(*(store.commit(batch("large", lease.epoch, event(number=n))) for n in range(20)))
    assert store.pending == 21
    wire.cut = False
    await until(lambda: not store.degraded)
    assert (await store.load()).positions[0].quantity == 9


async def test_a_commit_whose_answer_was_lost_counts_once(store: JournaledStore, wire: Wire, database_url: str) -> None:
    lease = await store.acquire_lease("me", MINUTE)
    wire.answers = False
    await store.commit(batch("large", lease.epoch, held(9), event()))
    assert store.degraded
    wire.answers = True
    await until(lambda: not store.degraded)
    async with await Operator.connect(database_url) as operator:
        assert (await operator.query("SELECT count(*) FROM position_events")).rows == ((1,),)


async def test_a_database_that_hangs_is_as_good_as_gone(impatient: JournaledStore, wire: Wire) -> None:
    lease = await impatient.acquire_lease("me", MINUTE)
    wire.hangs = True
    async with asyncio.timeout(PATIENCE):
        await impatient.commit(batch("large", lease.epoch, held(9)))
        await impatient.commit(batch("large", lease.epoch, held(8)))
    assert impatient.pending == 2


async def test_f60_a_journaled_batch_that_is_refused_later_is_kept_aside_and_blocks_nothing(
    store: JournaledStore, wire: Wire, make_store: StoreMaker
) -> None:
    lease = await store.acquire_lease("me", MINUTE)
    wire.cut = True
    bad = batch("large", lease.epoch, PutPosition(position("large", 2, quantity=Decimal(-1))))
    await store.commit(batch("large", lease.epoch, held(9)))
    await store.commit(bad)
    await store.commit(batch("large", lease.epoch, held(8)))
    wire.cut = False
    await until(lambda: not store.degraded)
    assert await quantities(make_store) == [8]
    assert [given.id for given, _ in store.refused] == [bad.id]
    evidence = store._journal.path.with_suffix(".refused.jsonl")
    assert str(bad.id) in evidence.read_text()


async def test_i12_a_journal_of_a_lost_lease_is_not_written(
    store: JournaledStore, wire: Wire, make_store: StoreMaker
) -> None:
    lease = await store.acquire_lease("me", MINUTE)
    wire.cut = True
    await store.commit(batch("large", lease.epoch, held(9)))
    await wire._store._watch.close()  # the database saw us die
    successor = await make_store("large")
    async with asyncio.timeout(PATIENCE):
        new = await successor.acquire_lease("successor", MINUTE)
    await successor.commit(batch("large", new.epoch, held(1)))
    wire.cut = False
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await store.commit(batch("large", lease.epoch, held(7)))
            except LeaseLost:
                break
            await asyncio.sleep(0.01)
    assert await quantities(make_store) == [1]


async def test_t7_what_a_killed_process_left_in_its_journal_is_written_by_the_next(
    wire: Wire, make_store: StoreMaker, tmp_path: Path
) -> None:
    first = opened(wire, tmp_path)
    lease = await first.acquire_lease("first", MINUTE)
    await first.commit(batch("large", lease.epoch, held(9)))
    wire.cut = True
    order = intent("large", 1)
    await first.commit(batch("large", lease.epoch, held(8), PutIntent(order)))
    await first.close()  # as a kill would: the lease is not released, the journal stays
    second = opened(await make_store("large"), tmp_path)
    assert second.pending == 1
    with pytest.raises(StoreUnavailable, match="once this process holds the lease"):
        await second.load()
    lease = await second.acquire_lease("second", MINUTE)
    state = await second.load()
    assert [row.quantity for row in state.positions] == [8]
    assert state.live_intents == (order,)
    assert (second.pending, second.refused) == (0, [])
    await second.commit(batch("large", lease.epoch, PutIntent(replace(order, status=IntentStatus.FILLED))))
    await second.close()


async def test_i12_a_journal_older_than_what_another_holder_wrote_is_kept_aside(
    wire: Wire, make_store: StoreMaker, tmp_path: Path
) -> None:
    first = opened(wire, tmp_path)
    lease = await first.acquire_lease("first", MINUTE)
    wire.cut = True
    await first.commit(batch("large", lease.epoch, held(8)))
    await first.close()
    other_machine = await make_store("large")
    lease = await other_machine.acquire_lease("other machine", MINUTE)
    await other_machine.commit(batch("large", lease.epoch, held(3)))
    await other_machine.release_lease(lease)
    back = opened(await make_store("large"), tmp_path)
    lease = await back.acquire_lease("first machine again", MINUTE)
    assert [row.quantity for row in (await back.load()).positions] == [3]
    assert len(back.refused) == 1
    await back.commit(batch("large", lease.epoch, held(2)))
    await back.close()


async def test_what_rests_on_the_tables_is_refused_while_they_are_behind(impatient: JournaledStore, wire: Wire) -> None:
    store = impatient
    lease = await store.acquire_lease("me", MINUTE)
    wire.hangs = True
    await store.commit(batch("large", lease.epoch, held(9)))
    calls: list[Callable[[], Awaitable[object]]] = [
        store.load,
        store.unlinked_executions,
        store.open_executions,
        lambda: store.own_orders(["order-1"]),
        store.pending_commands,
        lambda: store.claim_recommendations(position("large").entry_time),
        lambda: store.write_marks([], lease.epoch),
    ]
    for call in calls:
        with pytest.raises(StoreUnavailable):
            await call()
    await store.beat(heartbeat("large"), lease.epoch)
    async with await Operator.connect(wire._store._work._url) as operator:
        assert (await operator.heartbeats())[0]["details"] == {"journal_pending": 1}


async def test_f25_another_accounts_batch_does_not_even_reach_the_journal(store: JournaledStore, wire: Wire) -> None:
    wire.cut = True
    with pytest.raises(StoreRejected, match="F25"):
        await store.commit(batch("tiny", 1, event()))
    assert store.pending == 0


async def test_without_database_and_without_space_a_commit_says_so_and_goes_on_when_one_is_back(
    store: JournaledStore, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = await store.acquire_lease("me", MINUTE)
    wire.cut = True

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    bulky = [event(text="x" * 60_000)]
    await store.commit(batch("large", lease.epoch, *bulky))
    with pytest.raises(StoreUnavailable, match="database is away, and so is the journal"):
        await store.commit(batch("large", lease.epoch, *bulky))
    wire.cut = False
    await until(lambda: not store.degraded)
    await store.commit(batch("large", lease.epoch, held(1)))


async def test_two_stores_cannot_share_a_journal(store: JournaledStore, tmp_path: Path) -> None:
    with pytest.raises(JournalInUse):
        Journal.open(tmp_path, "large")


async def test_kill_9_of_postgres_costs_no_record(state_dir: Path, tmp_path: Path) -> None:
    server = EmbeddedServer(state_dir)
    info = await server.ensure_running()
    try:
        await server.create_database("exitguard")
        await migrate_async(server.url("exitguard"))
        inner = await PgAccountStore.connect(server.url("exitguard"), "large")
        store = opened(inner, tmp_path)
        lease = await store.acquire_lease("me", MINUTE)
        for number in range(30):
            if number == 10:
                os.kill(info.pid, signal.SIGKILL)
            await store.commit(batch("large", lease.epoch, held(number), event(number=number)))
        assert store.degraded
        watcher = asyncio.create_task(server.watch(0.05))
        await until(lambda: not store.degraded)
        await store.renew_lease(lease, MINUTE)
        assert [row.quantity for row in (await store.load()).positions] == [29]
        async with await Operator.connect(server.url("exitguard")) as operator:
            found = await operator.query("SELECT (event_data->>'number')::int FROM position_events ORDER BY seq")
            assert [row[0] for row in found.rows] == list(range(30))
            assert await operator.broken_event("large") is None
        await store.close()
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)
    finally:
        await server.destroy()


PROCESS = """
import asyncio, sys
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from exitguard.core.records import PutPosition
from exitguard.store.journal import Journal
from exitguard.store.journaled import JournaledStore
from exitguard.store.port import StoreUnavailable
from exitguard.store.repository import PgAccountStore
from tests.support.ledger import batch, event, position

async def main():
    inner = await PgAccountStore.connect(sys.argv[1], "large")
    store = JournaledStore(inner, Journal.open(Path(sys.argv[2]), "large", size=1 << 20))
    lease = await store.acquire_lease("doomed", timedelta(minutes=1))
    async def gone(*_, **__):
        raise StoreUnavailable("gone")
    for number in range(10_000):
        if number == 5:
            inner.commit_encoded = gone
        await store.commit(batch("large", lease.epoch, event(number=number)))
        print('promised', number, flush=True)

asyncio.run(main())
"""


async def test_t7_kill_9_with_a_journal_loses_nothing_that_was_promised(
    database_url: str, make_store: StoreMaker, tmp_path: Path
) -> None:
    def run_and_kill() -> list[int]:
        root = Path(__file__).parents[3]
        process = subprocess.Popen(
            [sys.executable, "-c", PROCESS, database_url, str(tmp_path)],
            stdout=subprocess.PIPE,
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
        )
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(25)]
        process.kill()
        lines += process.stdout.readlines()
        process.wait()
        process.stdout.close()
        return [int(line.split()[1]) for line in lines if line.startswith(b"promised") and line.endswith(b"\n")]

    promised = await asyncio.to_thread(run_and_kill)
    store = JournaledStore(await make_store("large"), Journal.open(tmp_path, "large"))
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await store.acquire_lease("successor", MINUTE)
                break
            except Exception:
                await asyncio.sleep(0.01)
    await store.load()
    async with await Operator.connect(database_url) as operator:
        found = await operator.query("SELECT (event_data->>'number')::int FROM position_events ORDER BY seq")
        written = [row[0] for row in found.rows]
        assert written[: len(promised)] == promised
        assert len(written) - len(promised) in (0, 1)
        assert await operator.broken_event("large") is None
    await store.close()
