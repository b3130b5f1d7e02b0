"""Splits and renames translate a source's rounds."""

from datetime import UTC, datetime
from decimal import Decimal

from exitguard.core.quote import Quote
from exitguard.paper.market.adjustments import Adjustments
from exitguard.paper.market.ticks import Round, StatusChange, Tick

AT = datetime(2026, 11, 18, 15, 0, tzinfo=UTC)


def one(symbol: str = "AAPL", bid: str = "199.99", ask: str = "200.01") -> Round:
    quote = Quote(symbol, Decimal(bid), Decimal(ask), AT, 3, 4, Decimal("200.00"))
    return Round(AT, [Tick(quote, 10)], [StatusChange(symbol, True)])


def test_nothing_changes_without_an_adjustment() -> None:
    given = one()
    assert Adjustments().translate(given) is given


def test_a_split_and_a_rename_in_either_order() -> None:
    made = Adjustments()
    made.split("AAPL", Decimal(4))
    made.rename("AAPL", "APPL")
    made.split("APPL", Decimal(2))
    translated = made.translate(one())
    (tick,) = translated.ticks
    assert tick.quote.symbol == "APPL"
    assert (tick.quote.bid, tick.quote.ask, tick.quote.last) == (Decimal("25.00"), Decimal("25.01"), Decimal("25.00"))
    assert tick.trade_size == 80
    assert translated.statuses == [StatusChange("APPL", True)]
    other = one("IBM")
    assert made.translate(other).ticks[0] is other.ticks[0]


def test_a_large_split_never_crosses_the_quote() -> None:
    made = Adjustments()
    made.split("AAPL", Decimal(1000))
    (tick,) = made.translate(one()).ticks
    assert 0 < tick.quote.bid < tick.quote.ask
