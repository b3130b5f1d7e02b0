"""What counts against the limits: the ledger and the broker together, whoever knows more."""

from decimal import Decimal

import pytest
from tests.support.ledger import position
from tests.unit.dispatch.rows import CALL, broker_account, risk

from exitguard.core.instrument import parse_instrument
from exitguard.core.orders import BrokerPosition
from exitguard.core.position import PositionSide
from exitguard.dispatch.plan import Underway, build_book
from exitguard.dispatch.sizing import Declined, size_entry


def held(symbol: str, qty: str, price: str) -> BrokerPosition:
    return BrokerPosition(
        symbol=symbol,
        qty=Decimal(qty),
        qty_available=Decimal(qty),
        avg_entry_price=Decimal(price),
        current_price=Decimal(price),
        market_value=None,
        asset_id="asset",
    )


@pytest.mark.parametrize("teller", ["the broker", "the ledger", "both", "an entry on its way"])
def test_t16_f30_f125_a_position_counts_whoever_knows_of_it(teller: str) -> None:
    """Three names for one account made the gates see no positions at all, three times."""
    theirs = [held("MSFT", "100", "250")] if teller in ("the broker", "both") else []
    ours = [
        position("large", 1, "MSFT", quantity=Decimal(100), entry_price=Decimal(250))
    ] if teller in ("the ledger", "both") else []  # fmt: skip
    underway = [Underway("MSFT", "xg-large-r1", Decimal(25_000))] if teller == "an entry on its way" else []
    book = build_book(theirs, [], ours, underway)
    assert (book.exposure, book.symbols) == (Decimal(25_000), {"MSFT"})
    full = risk(max_open_positions=1)
    other = parse_instrument("AAPL")
    declined = size_entry(other, PositionSide.LONG, Decimal(10), broker_account(), book, full)
    assert isinstance(declined, Declined)
    assert "max_open_positions is 1" in declined.reason


def test_t16_f51_exposure_counts_a_contract_a_hundredfold() -> None:
    assert build_book([held(CALL, "3", "2.50")], [], [], []).exposure == 750
    ours = position("large", 1, CALL, quantity=Decimal(3), entry_price=Decimal("2.50"))
    assert build_book([], [], [ours], []).exposure == 750


def test_f125_what_the_dispatcher_cannot_read_still_ties_money_up() -> None:
    assert build_book([held("BTC/USD", "2", "31000")], [], [], []).exposure == 62_000
