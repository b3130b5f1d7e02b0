"""A process that decides by its journal, and another that reaches the database first when it is back."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.support.away_store import AwayStore
from tests.support.ledger import batch, event
from tests.support.memory_store import MemoryLedger, MemoryStore

from exitguard.store.journal import Journal
from exitguard.store.journaled import JournaledStore
from exitguard.store.port import LeaseLost

TTL = timedelta(minutes=1)


async def test_i12_nothing_is_decided_by_a_journal_once_another_process_took_over(tmp_path: Path) -> None:
    """Found by the simulator: until its next renewal a process went on by its journal after a long outage."""
    now = [datetime(2026, 3, 17, 14, tzinfo=UTC)]
    ledger = MemoryLedger(lambda: now[0])
    inner = AwayStore(ledger, "large")
    store = JournaledStore(inner, Journal.open(tmp_path, "large", size=65536))
    lease = await store.acquire_lease("first", TTL)
    inner.away = True
    await store.commit(batch("large", lease.epoch, event()))  # into the journal
    now[0] += 2 * TTL
    store._held = lease, TTL, 0.0  # in the database the lease has ended by now
    await store.commit(batch("large", lease.epoch, event()))  # nobody can take it there
    await MemoryStore(ledger, "large").acquire_lease("second", TTL)
    inner.away = False
    with pytest.raises(LeaseLost):
        await store.commit(batch("large", lease.epoch, event()))
    assert store.pending == 2
    await store.close()
