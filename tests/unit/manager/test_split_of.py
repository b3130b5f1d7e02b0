"""Which split, if any, makes the broker's position of the fills that we know."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from exitguard.core.instrument import parse_instrument
from exitguard.core.orders import BrokerPosition, Fill, OrderSide
from exitguard.core.position import PositionSide, fold
from exitguard.core.session import table_calendar
from exitguard.manager.corporate import split_of

# A Tuesday and a Wednesday, half past ten in the morning in New York.
TUESDAY = datetime(2026, 3, 17, 14, 30, tzinfo=UTC)
WEDNESDAY = TUESDAY + timedelta(days=1)


def _fill(number: int, side: OrderSide, qty: str, price: str, at: datetime) -> Fill:
    return Fill(f"e{number}", f"o{number}", None, "TSLA", side, Decimal(qty), Decimal(price), at)


def _split(
    fills: list[Fill], side: PositionSide, qty: str, average: str, now: datetime
) -> tuple[Decimal, datetime] | None:
    holding = fold(parse_instrument("TSLA"), side, fills, ())
    theirs = BrokerPosition("TSLA", Decimal(qty), Decimal(qty), Decimal(average), Decimal(average), None, "asset")
    found = split_of(holding, theirs, table_calendar(), now)
    return None if found is None else (found.new_rate / found.old_rate, found.at)


def test_i11_what_was_added_after_the_night_is_not_taken_for_a_part_of_the_split() -> None:
    """Cost is the same whatever was split when: 12 at 121.643 could be 8 split 3:2, but only a night splits."""
    fills = [
        _fill(1, OrderSide.SELL, "4", "249.97", TUESDAY),
        _fill(2, OrderSide.SELL, "4", "114.96", WEDNESDAY),
    ]
    ratio_and_moment = _split(fills, PositionSide.SHORT, "-12", "121.643", WEDNESDAY + timedelta(minutes=1))
    assert ratio_and_moment == (2, WEDNESDAY)


def test_a_split_before_a_part_was_closed() -> None:
    fills = [_fill(1, OrderSide.BUY, "10", "100", TUESDAY), _fill(2, OrderSide.SELL, "5", "52", WEDNESDAY)]
    assert _split(fills, PositionSide.LONG, "15", "50", WEDNESDAY + timedelta(minutes=1)) == (2, WEDNESDAY)


def test_a_split_after_everything_that_is_known() -> None:
    fills = [_fill(1, OrderSide.BUY, "10", "100", TUESDAY), _fill(2, OrderSide.BUY, "10", "110", TUESDAY)]
    found = _split(fills, PositionSide.LONG, "40", "52.5", WEDNESDAY)
    assert found is not None
    assert found[0] == 2


def test_i11_an_addition_that_nobody_told_of_is_no_split() -> None:
    fills = [_fill(1, OrderSide.BUY, "10", "100", TUESDAY)]
    assert _split(fills, PositionSide.LONG, "20", "75", WEDNESDAY) is None
    assert _split(fills, PositionSide.LONG, "20", "100", WEDNESDAY) is None
    assert _split(fills, PositionSide.LONG, "-20", "50", WEDNESDAY) is None
