"""One live process for each account and component, whatever happens to it."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta

import psycopg
import pytest
from tests.support.ledger import batch, event, heartbeat, position
from tests.support.postgres import StoreMaker
from tests.support.waiting import PATIENCE

from exitguard.core.records import PutPosition
from exitguard.store.port import LeaseHeld, LeaseLost, StoreUnavailable

MINUTE = timedelta(minutes=1)

HOLDER = """
import asyncio, sys
from datetime import timedelta
from exitguard.store.repository import PgAccountStore

async def main():
    store = await PgAccountStore.connect(sys.argv[1], "large")
    lease = await store.acquire_lease("other process", timedelta(minutes=10))
    print(lease.epoch, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.fixture
def holder(database_url: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds the lease of account large for ten minutes, and does not renew it."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, database_url], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline().strip() == b"1"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def take_over(make_store: StoreMaker) -> None:
    """Take the lease; the server notices a death in its own time, which is a matter of milliseconds."""
    store = await make_store("large")
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                lease = await store.acquire_lease("successor", MINUTE)
                break
            except LeaseHeld:
                await asyncio.sleep(0.01)
    assert lease.epoch == 2
    await store.commit(batch("large", lease.epoch, event()))


async def test_f44_a_second_start_is_told_at_once_who_holds_the_account(
    holder: subprocess.Popen[bytes], make_store: StoreMaker
) -> None:
    store = await make_store("large")
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(LeaseHeld, match=r"another process \(other process\) is the manager of account large"):
            await store.acquire_lease("me", MINUTE)


async def test_t7_the_lease_of_a_killed_process_is_taken_at_once(
    holder: subprocess.Popen[bytes], make_store: StoreMaker
) -> None:
    holder.kill()
    holder.wait()
    await take_over(make_store)


async def test_the_lease_of_a_hung_process_is_taken_when_its_time_is_up(
    holder: subprocess.Popen[bytes], database_url: str, make_store: StoreMaker
) -> None:
    os.kill(holder.pid, signal.SIGSTOP)
    store = await make_store("large")
    with pytest.raises(LeaseHeld):
        await store.acquire_lease("me", MINUTE)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("UPDATE leases SET expires_at = now() - interval '1 millisecond'")
    await take_over(make_store)
    # The third one is kept out although the hung one still holds its lock and then dies.
    holder.kill()
    holder.wait()
    with pytest.raises(LeaseHeld, match="successor"):
        await store.acquire_lease("me", MINUTE)


async def test_f44_a_standby_sees_who_holds_the_account_and_when_nobody_does(
    holder: subprocess.Popen[bytes], make_store: StoreMaker
) -> None:
    store = await make_store("large")
    found = await store.lease_holder()
    assert found is not None
    assert (found.holder, found.epoch) == ("other process", 1)
    assert await store.lease_holder("dispatcher") is None
    holder.kill()
    holder.wait()
    async with asyncio.timeout(PATIENCE):
        while await store.lease_holder() is not None:  # noqa: ASYNC110 - the database has no event for it
            await asyncio.sleep(0.01)
    lease = await store.acquire_lease("successor", MINUTE)
    assert (await store.lease_holder()) is not None, "its own session does not count as somebody else's"
    await store.release_lease(lease)
    assert await store.lease_holder() is None


async def test_many_starts_at_once_give_one_holder(make_store: StoreMaker) -> None:
    stores = [await make_store("large") for _ in range(6)]
    results = await asyncio.gather(
        *(store.acquire_lease(f"start {number}", MINUTE) for number, store in enumerate(stores)), return_exceptions=True
    )
    held = [result for result in results if isinstance(result, LeaseHeld)]
    assert len(held) == 5, results


async def test_i12_a_batch_in_flight_is_ordered_against_a_take_over(make_store: StoreMaker, database_url: str) -> None:
    old, lease = await make_store.leased("large")
    successor = await make_store("large")
    with psycopg.connect(database_url) as blocker:
        # The old holder's batch waits on a row in the middle of its work.
        await old.commit(batch("large", lease.epoch, event()))
        blocker.execute("SELECT * FROM event_heads FOR UPDATE")
        late = asyncio.create_task(old.commit(batch("large", lease.epoch, event())))
        await _until_waiting(database_url)
        await old._watch.close()  # the old process's session dies, its batch lives
        taking = asyncio.create_task(successor.acquire_lease("successor", MINUTE))
        await _until_waiting(database_url, 2)
        assert not taking.done(), "the take-over waits for what is being written"
        blocker.rollback()
        await late
        new = await taking
    with pytest.raises(LeaseLost):
        await old.commit(batch("large", lease.epoch, event()))
    await successor.commit(batch("large", new.epoch, event()))


async def _until_waiting(url: str, sessions: int = 1) -> None:
    statement = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"

    def waiting() -> int:
        with psycopg.connect(url, autocommit=True) as connection:
            row = connection.execute(statement).fetchone()
            assert row is not None
            return int(row[0])

    async with asyncio.timeout(PATIENCE):
        while await asyncio.to_thread(waiting) < sessions:  # noqa: ASYNC110 - the database has no event for it
            await asyncio.sleep(0.01)


async def test_a_holder_survives_the_loss_of_its_connections(make_store: StoreMaker, database_url: str) -> None:
    store, lease = await make_store.leased("large")
    await store.commit(batch("large", lease.epoch, PutPosition(position("large"))))
    await asyncio.to_thread(terminate, database_url)
    renewed = await _eventually(lambda: store.renew_lease(lease, MINUTE))
    assert renewed.epoch == lease.epoch
    await _eventually(lambda: store.commit(batch("large", lease.epoch, event())))
    await _eventually(lambda: store.beat(heartbeat("large"), lease.epoch))
    # It holds its lock again: nobody else comes in.
    other = await make_store("large")
    with pytest.raises(LeaseHeld):
        await other.acquire_lease("me", MINUTE)


def terminate(url: str) -> None:
    """End every session of the database but our own."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


async def _eventually(attempt):  # type: ignore[no-untyped-def]
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await attempt()
            except StoreUnavailable:
                await asyncio.sleep(0.01)


async def test_notifications_go_on_after_the_connection_was_lost(make_store: StoreMaker, database_url: str) -> None:
    store = await make_store("large")
    seen: asyncio.Queue[str] = asyncio.Queue()

    async def listen() -> None:
        async for name in store.notifications():
            seen.put_nowait(name)

    listener = asyncio.create_task(listen())
    try:
        async with asyncio.timeout(PATIENCE):
            assert {await seen.get(), await seen.get()} == {"commands", "recommendations"}
            await asyncio.to_thread(terminate, database_url)
            # Something may have come meanwhile: both are said again.
            assert {await seen.get(), await seen.get()} == {"commands", "recommendations"}
            await asyncio.to_thread(insert_command, database_url)
            assert await seen.get() == "commands"
    finally:
        listener.cancel()
        await asyncio.gather(listener, return_exceptions=True)


def insert_command(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("INSERT INTO commands (account_name, verb, requested_by) VALUES ('large', 'close', 'me')")


async def test_a_foreign_lease_is_not_renewed(make_store: StoreMaker) -> None:
    store, _ = await make_store.leased("large")
    _, other = await make_store.leased("large", component="dispatcher")
    with pytest.raises(LeaseLost, match="not a lease of this process"):
        await store.renew_lease(other, MINUTE)
