"""A process that stood still for longer than its lease decides nothing before the database answers; in virtual time."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from exitguard.core.records import AppendEvent, Batch, EventType
from exitguard.sim.loop import Process, SimLoop, run
from exitguard.sim.memory_store import MemoryLedger, MemoryStore
from exitguard.sim.numbers import numbers
from exitguard.sim.stores import Disk, MemoryJournal
from exitguard.store.journaled import JournaledStore
from exitguard.store.port import Lease, StoreUnavailable

NOW = datetime(2026, 3, 17, 14, 0, tzinfo=UTC)
TTL = timedelta(seconds=15)


class _Away(MemoryStore):
    """A store whose database goes away once the lease is held."""

    async def commit_encoded(self, batch: Batch, operations: bytes, *, journaled_epoch: int | None = None) -> None:
        raise StoreUnavailable("gone")

    async def renew_lease(self, lease: Lease, ttl: timedelta) -> Lease:
        raise StoreUnavailable("gone")


def _play(story: Callable[[JournaledStore, Lease], Awaitable[None]]) -> None:
    async def play() -> None:
        store = JournaledStore(_Away(MemoryLedger(lambda: NOW), "large"), MemoryJournal(Disk("d"), Process("p")))
        await story(store, await store.acquire_lease("me", TTL))
        await store.close()

    run(SimLoop(numbers(1, "schedule")), play())


def _batch(lease: Lease) -> Batch:
    return Batch(uuid4(), "large", lease.epoch, NOW, (AppendEvent(EventType.MANAGER_STARTED, NOW, {}),))


async def _fail_to_renew(store: JournaledStore, lease: Lease) -> None:
    with pytest.raises(StoreUnavailable):
        await store.renew_lease(lease, TTL)


def test_i12_who_stood_still_for_longer_than_the_lease_decides_nothing_without_the_database() -> None:
    async def story(store: JournaledStore, lease: Lease) -> None:
        await store.commit(_batch(lease))
        await asyncio.sleep(90)  # stopped: no renewal was even tried
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="stood still"):
                await store.commit(_batch(lease))
            await _fail_to_renew(store, lease)
        assert store.pending == 1

    _play(story)


def test_i12_who_keeps_trying_to_renew_goes_on_without_the_database_for_an_hour() -> None:
    async def story(store: JournaledStore, lease: Lease) -> None:
        for _ in range(720):
            await asyncio.sleep(5)
            await _fail_to_renew(store, lease)
        await store.commit(_batch(lease))
        assert store.pending == 1

    _play(story)
