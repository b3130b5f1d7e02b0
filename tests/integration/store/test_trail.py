"""A trail lives in the ledger: what a sweep wrote is what the next process decides by."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

from tests.support.ledger import NOON, batch, position
from tests.support.postgres import StoreMaker

from exitguard.core.evaluate import Action, Decision, Watched, evaluate
from exitguard.core.instrument import parse_instrument
from exitguard.core.marks import QuoteView
from exitguard.core.policy import Levels, Policy
from exitguard.core.quote import Quote, QuoteState
from exitguard.core.records import CloseReason, Mark, PositionRecord, Protection, PutPosition
from exitguard.core.session import table_calendar

CALL = "AAPL240621C00100000"
POLICY = Policy(trailing_stop=True, min_hold_minutes=0, options=Levels(Decimal(-40), None, Decimal(-50)))


def decide(row: PositionRecord, price: Decimal, minute: int) -> Decision:
    """What a process decides that knows the row and nothing else."""
    now = NOON + timedelta(minutes=minute)
    watched = Watched(
        instrument=parse_instrument(row.symbol),
        side=row.side,
        qty=row.quantity,
        original_qty=row.original_quantity,
        entry_price=row.entry_price,
        opened_at=row.entry_time,
        strategy=row.strategy_type,
        max_hold_deadline=row.max_hold_deadline,
        best_price=row.best_price,
    )
    quote = Quote(row.symbol, price - Decimal("0.01"), price + Decimal("0.01"), now)
    session = table_calendar().current(now)
    return evaluate(watched, QuoteView(quote, QuoteState.LIVE, True), now, session, POLICY)


async def test_t4_f55_f145_five_ten_and_back_through_the_real_ledger(make_store: StoreMaker) -> None:
    """The column of the peak was missing for days, then it was not loaded: the trail was armed and dead."""
    store, lease = await make_store.leased("large")
    opened = position("large", 1, CALL, entry_price=Decimal(5), stop_loss=None, take_profit=None)
    await store.commit(batch("large", lease.epoch, PutPosition(opened)))
    best = Decimal(5)
    for minute, price in enumerate(map(Decimal, ("5", "7", "9.90", "10", "9.40", "9.30"))):
        best = max(best, price)
        now = NOON + timedelta(minutes=minute)
        mark = Mark(1, price, None, None, best, Decimal(5), now, now, Protection.PROTECTED, now)
        assert await store.write_marks([mark], lease.epoch) == 1
        (row,) = (await store.load()).positions
        assert row.best_price == best
        assert decide(row, price, minute).action is Action.HOLD, price
    # 85 % of the gain of 5.00 must stay, so that 9.25 is the level: known to whoever loads the row.
    decision = decide(row, Decimal("9.24"), 6)
    assert (decision.action, decision.rule) == (Action.CLOSE, CloseReason.TRAILING_STOP)
    forgotten = replace(row, best_price=None)
    assert decide(forgotten, Decimal("9.24"), 6).action is Action.HOLD
