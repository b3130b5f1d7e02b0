"""A sweep's marks beside the batches of the same account: neither may wait for the other in a circle."""

import asyncio
from datetime import UTC, datetime
from decimal import Decimal

import asyncpg
from tests.support.ledger import NOON
from tests.support.postgres import StoreMaker
from tests.support.waiting import PATIENCE

from exitguard.core.records import Mark, Protection

_POSITIONS = """
INSERT INTO active_positions (account_name, id, uid, symbol, ticker, instrument_type, strategy_type, side, quantity,
    original_quantity, entry_price, entry_time, max_hold_deadline, multiplier, policy_name, status, protection,
    bracket_order_accepted, scaled_out, adopted, close_attempt, realised_pnl)
SELECT 'large', i, 'u' || i, s, s, 'STOCK', 'swing', 'long', 1, 1, 10, $1::timestamptz,
    $1::timestamptz + interval '1 day', 1, 'default', 'open',
    'protected', true, false, false, 0, 0
FROM unnest(ARRAY['A', 'B', 'C']) WITH ORDINALITY AS given (s, i)
"""


def mark(position_id: int) -> Mark:
    price = Decimal("10.5")
    return Mark(position_id, price, Decimal("0.5"), Decimal(5), price, price, NOON, NOON, Protection.PROTECTED, NOON)


async def test_marks_leave_a_row_that_a_batch_holds_to_the_batch(make_store: StoreMaker) -> None:
    store, lease = await make_store.leased("large")
    owner = await asyncpg.connect(make_store.url)
    try:
        await owner.execute(_POSITIONS, datetime(2024, 3, 8, 15, 0, tzinfo=UTC))
        async with owner.transaction():
            # As a batch does that writes two positions, of which it has reached the second one only.
            await owner.execute("SELECT 1 FROM active_positions WHERE id = 2 FOR UPDATE")
            written = await asyncio.wait_for(store.write_marks([mark(i) for i in (1, 2, 3)], lease.epoch), PATIENCE)
            assert written == 2
            # The batch goes on to a row that the marks have written: nobody holds it any longer.
            await owner.execute("UPDATE active_positions SET quantity = 1 WHERE id = 1")
        assert await store.write_marks([mark(2)], lease.epoch) == 1
        rows = await owner.fetch("SELECT id, current_price FROM active_positions ORDER BY id")
        assert {row["id"]: row["current_price"] for row in rows} == dict.fromkeys((1, 2, 3), Decimal("10.5"))
    finally:
        await owner.close()
