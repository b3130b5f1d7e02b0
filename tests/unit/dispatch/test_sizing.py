"""How much an entry may be."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.dispatch.rows import CALL, broker_account, risk

from exitguard.core.instrument import parse_instrument
from exitguard.core.position import PositionSide
from exitguard.dispatch.sizing import Book, Commitment, Declined, Sized, size_entry

LONG, SHORT = PositionSide.LONG, PositionSide.SHORT
STOCK, OPTION = parse_instrument("AAPL"), parse_instrument(CALL)
EMPTY = Book(())


def book(*dollars: str) -> Book:
    return Book(tuple(Commitment(f"S{'ABCDEFGHIJKL'[i]}", Decimal(d), "held") for i, d in enumerate(dollars)))


@pytest.mark.parametrize(
    ("what", "instrument", "side", "price", "account", "taken", "limits", "wanted", "qty"),
    [
        ("a tenth of equity", STOCK, LONG, "100", {}, EMPTY, {}, None, "100"),
        ("F51: a contract counts a hundredfold", OPTION, LONG, "2.50", {}, EMPTY, {}, None, "40"),
        ("the signal's qty is an upper bound", STOCK, LONG, "100", {}, EMPTY, {}, "30", "30"),
        ("and never a demand", STOCK, LONG, "100", {}, EMPTY, {}, "500", "100"),
        ("a fraction of a share is dropped", STOCK, LONG, "100", {}, EMPTY, {}, "30.9", "30"),
        ("a short is reserved with a margin", STOCK, SHORT, "100", {}, EMPTY, {}, None, "97"),
        ("buying power binds", STOCK, LONG, "100", {"buying_power": Decimal(450)}, EMPTY, {}, None, "4"),
        ("options have their own", OPTION, LONG, "2", {"options_buying_power": Decimal(450)}, EMPTY, {}, None, "2"),
        ("F131: exposure includes what is held", STOCK, LONG, "100", {}, book("50000", "27000"), {}, None, "30"),
    ],
)
def test_t16_f51_f131_how_much_an_entry_may_be(  # type: ignore[no-untyped-def]
    what, instrument, side, price, account, taken, limits, wanted, qty
) -> None:
    result = size_entry(
        instrument, side, Decimal(price), broker_account(**account), taken, risk(**limits),
        Decimal(wanted) if wanted else None,
    )  # fmt: skip
    assert isinstance(result, Sized), what
    assert result.qty == Decimal(qty), what


@pytest.mark.parametrize(
    ("what", "instrument", "side", "price", "account", "taken", "limits", "says"),
    [
        ("F129: never at least one", OPTION, LONG, "12", {"equity": "1000"}, EMPTY, {}, "costs 1200.00 $"),
        ("F131: no room for the new one", STOCK, LONG, "100", {}, book("79950"), {}, "max_total_exposure"),
        ("F30: too many positions", STOCK, LONG, "1", {}, book("1", "1"), {"max_open_positions": 2}, "2 positions"),
        ("F127: held already", STOCK, LONG, "1", {}, Book((Commitment("AAPL", Decimal(5), "x"),)), {}, "taken already"),
        ("F4: options are never sold short", OPTION, SHORT, "1", {}, EMPTY, {}, "never sold short"),
        ("F16: shorts need a permission", STOCK, SHORT, "1", {}, EMPTY, {"allow_short": False}, "allow_short"),
        ("of the broker too", STOCK, SHORT, "1", {"shorting_enabled": False}, EMPTY, {}, "does not allow short"),
        ("F10: options need a permission", OPTION, LONG, "1", {}, EMPTY, {"allow_options": False}, "allow_options"),
        ("and a level", OPTION, LONG, "1", {"options_trading_level": 1}, EMPTY, {}, "options level 1"),
        ("F126: an unknown limit declines", OPTION, LONG, "1", {"options_buying_power": None}, EMPTY, {}, "reports no"),
        ("a blocked account", STOCK, LONG, "1", {"trading_blocked": True}, EMPTY, {}, "blocked"),
        ("no equity", STOCK, LONG, "1", {"equity": "-5"}, EMPTY, {}, "must be positive"),
    ],
)
def test_t16_f30_f126_f127_what_a_limit_forbids_is_declined(  # type: ignore[no-untyped-def]
    what, instrument, side, price, account, taken, limits, says
) -> None:
    result = size_entry(instrument, side, Decimal(price), broker_account(**account), taken, risk(**limits))
    assert isinstance(result, Declined), what
    assert says in result.reason, what


money = st.decimals(min_value=0, max_value=10**7, places=2)


@given(
    instrument=st.sampled_from([STOCK, OPTION]),
    price=st.decimals(min_value=Decimal("0.01"), max_value=5000, places=2),
    equity=money,
    power=money,
    exposure=money,
    share=st.decimals(min_value=Decimal("0.01"), max_value=1, places=2),
    wanted=st.none() | st.integers(1, 10**6).map(Decimal),
)
def test_f129_f131_the_cost_never_exceeds_any_limit(instrument, price, equity, power, exposure, share, wanted) -> None:  # type: ignore[no-untyped-def]
    account = broker_account(str(equity), buying_power=power, options_buying_power=power)
    limits = risk(max_position_fraction=share, max_total_exposure_fraction=Decimal(1))
    taken = Book((Commitment("OTHER", exposure, "held"),))
    result = size_entry(instrument, LONG, price, account, taken, limits, wanted)
    if isinstance(result, Declined):
        return
    cost = instrument.notional(result.qty, price)
    assert result.cost == cost
    assert cost <= equity * share
    assert cost <= power
    assert cost + exposure <= equity
    assert result.qty == result.qty.to_integral_value()
    assert result.qty >= 1
    assert wanted is None or result.qty <= wanted


@pytest.mark.parametrize("equity", ["1800", "100000"])
def test_f76_each_account_can_trade_and_stays_within_its_own_equity(equity: str) -> None:
    """Both accounts had one account's limits in dollars: the small one could afford nothing of what was ordered."""
    account = broker_account(equity)
    share = size_entry(STOCK, LONG, Decimal("12.50"), account, EMPTY, risk())
    contract = size_entry(OPTION, LONG, Decimal("1.20"), account, EMPTY, risk())
    for sized in (share, contract):
        assert isinstance(sized, Sized)
        assert 0 < sized.cost <= Decimal(equity) / 10
    dear = size_entry(OPTION, LONG, Decimal("17.00"), account, EMPTY, risk())
    assert isinstance(dear, Sized) is (equity == "100000")
