"""Marks: what a sweep writes for 10,000 positions, against a bare UPDATE of the same rows."""

import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import uuid4

import asyncpg

from exitguard.cli.bench.book import Sizes, ledger_operations, make_book, trading_day
from exitguard.cli.bench.place import Place
from exitguard.cli.bench.result import Measurement, Target, measured, median
from exitguard.core.records import Batch, Mark, Operation, Protection
from exitguard.store.repository import PgAccountStore

ACCOUNT = "bench"
TARGET = Target(3.0, of_ratio=True)
_POSITIONS_A_BATCH = 500

# Run by the owner of the tables, whom row-level security does not hold: nothing but the rows.
_BARE = """
UPDATE active_positions p SET
    current_price = m.price, current_pnl_dollars = m.dollars, current_pnl_percent = m.percent,
    best_price = m.best, worst_price = m.worst, marked_at = m.marked, last_checked_at = m.checked,
    protection = m.protection, protection_since = m.since
FROM unnest($1::bigint[], $2::numeric[], $3::numeric[], $4::numeric[], $5::numeric[], $6::numeric[],
    $7::timestamptz[], $8::timestamptz[], $9::text[], $10::timestamptz[]
) AS m (id, price, dollars, percent, best, worst, marked, checked, protection, since)
WHERE p.account_name = 'bench' AND p.id = m.id
"""


async def measure(place: Place, count: int, rounds: int, say: Callable[[str], None]) -> dict[str, Measurement]:
    """Write `count` marks `rounds` times each way, in turn; medians in milliseconds."""
    say(f"marks_10000: filling the ledger with {count} positions")
    url = await place.database()
    ours, bare = [], []
    store = await PgAccountStore.connect(url, ACCOUNT)
    owner = await asyncpg.connect(url)
    try:
        lease = await store.acquire_lease("bench", timedelta(minutes=10))
        await _fill(store, lease.epoch, count)
        await owner.execute("VACUUM ANALYZE active_positions")
        say(f"marks_10000: writing {count} marks {rounds} times each way")
        # One more at the start, which counts for neither: it makes the plans and touches the pages.
        for turn in range(rounds + 1):
            marks = _marks(count, turn)
            took = await _timed(lambda marks=marks: store.write_marks(marks, lease.epoch))  # type: ignore[misc]
            columns = _columns(_marks(count, turn + rounds))
            plain = await _timed(lambda columns=columns: owner.execute(_BARE, *columns))  # type: ignore[misc]
            if turn:
                ours.append(took)
                bare.append(plain)
            await owner.execute("VACUUM active_positions")
        await store.release_lease(lease)
    finally:
        await owner.close()
        await store.close()
    return {"marks_10000": measured(median(ours), "ms", baseline=median(bare), target=TARGET)}


async def _timed(work: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await work()
    return (time.perf_counter() - began) * 1000


async def _fill(store: PgAccountStore, epoch: int, count: int) -> None:
    session = trading_day()
    now = datetime.now(UTC)
    underlyings = min(200, count)
    book = make_book(Sizes(underlyings=underlyings, positions=count, rounds=1, warmup=0), session.day)[:count]
    for first in range(0, count, _POSITIONS_A_BATCH):
        operations: list[Operation] = []
        for number, held in enumerate(book[first : first + _POSITIONS_A_BATCH], first + 1):
            operations += ledger_operations(ACCOUNT, held, number, now)
        await store.commit(Batch(uuid4(), ACCOUNT, epoch, now, tuple(operations)))


def _marks(count: int, turn: int) -> list[Mark]:
    """Marks that differ from those of every other turn."""
    now = datetime.now(UTC)
    return [
        Mark(
            position_id=number,
            price=Decimal(50_000 + number + turn) / 10_000,
            pnl_dollars=Decimal(number + turn) / 100,
            pnl_percent=Decimal(number + turn) / 10_000,
            best_price=Decimal(60_000 + number + turn) / 10_000,
            worst_price=Decimal(40_000 + number - turn) / 10_000,
            marked_at=now,
            checked_at=now,
            protection=Protection.PROTECTED,
            protection_since=now,
        )
        for number in range(1, count + 1)
    ]


def _columns(marks: Sequence[Mark]) -> list[list[object]]:
    return [
        [mark.position_id for mark in marks],
        [mark.price for mark in marks],
        [mark.pnl_dollars for mark in marks],
        [mark.pnl_percent for mark in marks],
        [mark.best_price for mark in marks],
        [mark.worst_price for mark in marks],
        [mark.marked_at for mark in marks],
        [mark.checked_at for mark in marks],
        [mark.protection.value for mark in marks],
        [mark.protection_since for mark in marks],
    ]
