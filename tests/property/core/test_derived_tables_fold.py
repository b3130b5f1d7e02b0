"""Whatever fills a position gets, its life follows from its events, and no fill can be left out unseen (I5, I10)."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st
from tests.support.ledger import NOON, event, fill, history, position

from exitguard.core.instrument import parse_instrument
from exitguard.core.orders import Fill
from exitguard.core.position import Holding, PositionSide, apply_fill
from exitguard.core.records import (
    CloseReason,
    EventType,
    Operation,
    Outcome,
    PositionRecord,
    PositionStatus,
    PutFill,
    PutHistory,
    PutPosition,
)
from exitguard.core.replay import contradictions, differences, replay

QUANTITIES = st.integers(1, 500).map(Decimal)
PRICES = st.decimals("0.01", "900", places=4)


@st.composite
def lives(draw: st.DrawFn) -> list[Operation]:
    """One position: opened, added to, reduced, closed or not; each step a fill, a row and an event."""
    side = draw(st.sampled_from(PositionSide))
    symbol = draw(st.sampled_from(["AAPL", "SPY261218C00600000"]))
    record = position("large", 1, symbol, side=side, stop_loss=None, take_profit=None)
    holding = Holding(parse_instrument(symbol), side)
    operations: list[Operation] = []
    for number in range(draw(st.integers(1, 6))):
        adds = holding.qty == 0 or draw(st.booleans())
        most = QUANTITIES if adds else st.integers(1, int(holding.qty)).map(Decimal)
        new = step(symbol, number, side, adds, draw(most), draw(PRICES))
        holding = apply_fill(holding, new)
        record = carried(record, holding)
        operations += [PutFill(1, new, "stream"), PutPosition(record), event(EventType.FILL)]
        if holding.is_flat:
            past = history(record, holding.realised_pnl, quantity=holding.closed_qty, exit_price=holding.exit_price)
            past = replace(past, best_price=None, worst_price=None, outcome=Outcome.of(holding.realised_pnl))
            operations.append(PutHistory(past))
            break
    return operations


def step(symbol: str, number: int, side: PositionSide, adds: bool, qty: Decimal, price: Decimal) -> Fill:
    direction = side.opening if adds else side.closing
    at = NOON + timedelta(minutes=number)
    return fill(f"fill-{number}", symbol=symbol, side=direction, qty=qty, price=price, at=at)


def carried(record: PositionRecord, holding: Holding) -> PositionRecord:
    flat = holding.is_flat
    return replace(
        record,
        quantity=holding.qty,
        original_quantity=holding.opened_qty,
        entry_price=holding.entry_price,
        exit_price=holding.exit_price,
        realised_pnl=holding.realised_pnl,
        status=PositionStatus.CLOSED if flat else PositionStatus.OPEN,
        close_reason=CloseReason.STOP_LOSS if flat else None,
        closed_at=holding.last_fill_at if flat else None,
    )


@given(lives())
def test_i10_what_the_events_of_a_life_make_agrees_with_itself(operations: list[Operation]) -> None:
    tables = replay("large", operations)
    assert list(contradictions(tables)) == []
    assert list(differences(tables, replay("large", [*operations, *operations]))) == [], "told twice"


@given(lives(), st.data())
def test_i5_a_fill_that_is_left_out_never_goes_unseen(operations: list[Operation], data: st.DataObject) -> None:
    fills = [operation for operation in operations if isinstance(operation, PutFill)]
    lost = data.draw(st.sampled_from(fills))
    tables = replay("large", [operation for operation in operations if operation is not lost])
    assert list(contradictions(tables)) != []
    assert list(differences(replay("large", operations), tables)) != []
