"""The option model: no arbitrage, spreads and depth that behave, and a board that prices only what is needed."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exitguard.core.instrument import parse_instrument
from exitguard.core.session import table_calendar
from exitguard.paper.market.option_board import OptionBoard
from exitguard.paper.market.option_model import OptionModel, UnderlyingState

CALENDAR = table_calendar()
MODEL = OptionModel(CALENDAR)
NOON = datetime(2026, 11, 18, 17, 0, tzinfo=UTC)


def contract(kind: str, strike: float, expiry: str = "261127", root: str = "AAPL") -> str:
    return f"{root}{expiry}{kind}{round(strike * 1000):08d}"


def quote(symbol: str, spot: float = 100.0, at: datetime = NOON, edge: float = 0.0, stress: float = 1.0):
    return MODEL.quote(parse_instrument(symbol), UnderlyingState(spot, 0.3, stress), at, edge)


@settings(max_examples=300, deadline=None)
@given(
    spot=st.floats(1.0, 900.0),
    moneyness=st.floats(0.3, 3.0),
    volatility=st.floats(0.05, 2.0),
    stress=st.floats(0.0, 8.0),
    edge=st.floats(0.0, 1.0),
    kind=st.sampled_from("CP"),
    expiry=st.sampled_from(["261118", "261120", "261218", "270618", "280121"]),
)
def test_every_quote_is_on_its_tick_and_not_crossed(
    spot: float, moneyness: float, volatility: float, stress: float, edge: float, kind: str, expiry: str
) -> None:
    symbol = contract(kind, max(0.5, round(spot * moneyness * 2) / 2), expiry)
    made = MODEL.quote(parse_instrument(symbol), UnderlyingState(spot, volatility, stress), NOON, edge)
    assert 0 <= made.bid < made.ask
    assert made.bid_size >= (1 if made.bid else 0)
    assert made.ask_size >= 1
    tick = Decimal("0.01")
    assert made.bid % tick == made.ask % tick == 0


def test_fair_values_respect_their_bounds() -> None:
    years = MODEL.years_left(parse_instrument(contract("C", 100)), NOON)
    for strike in range(60, 150, 5):
        state = UnderlyingState(100.0, 0.3)
        call = MODEL.fair(parse_instrument(contract("C", strike)), state, NOON)
        put = MODEL.fair(parse_instrument(contract("P", strike)), state, NOON)
        assert max(0.0, 100.0 - strike) <= call <= 100.0
        assert max(0.0, strike - 100.0) <= put <= strike
        # Put-call parity, but for the interest that exercising a deep put early saves.
        assert call - put == pytest.approx(100.0 - strike * (1 - 0.04 * years), abs=0.04 * years * strike)


def test_calls_fall_and_puts_rise_with_the_strike() -> None:
    state = UnderlyingState(100.0, 0.3)
    calls = [MODEL.fair(parse_instrument(contract("C", k)), state, NOON) for k in range(70, 131, 5)]
    puts = [MODEL.fair(parse_instrument(contract("P", k)), state, NOON) for k in range(70, 131, 5)]
    assert all(a > b for a, b in pairwise(calls))
    assert all(a < b for a, b in pairwise(puts))


def test_volatility_smiles_and_near_expiries_carry_more() -> None:
    state = UnderlyingState(100.0, 0.3)

    def volatility(strike: float, expiry: str) -> float:
        one = parse_instrument(contract("C", strike, expiry))
        return MODEL.volatility(one, state, MODEL.years_left(one, NOON))

    assert volatility(80, "261127") > volatility(100, "261127")
    assert volatility(130, "261127") > volatility(105, "261127")
    assert volatility(100, "261120") > volatility(100, "270618")


def test_spreads_widen_near_expiry_at_the_edges_of_the_day_and_in_fast_markets() -> None:
    plain = quote(contract("C", 100)).spread
    assert quote(contract("C", 100), edge=1.0).spread > plain
    assert quote(contract("C", 100), stress=5.0).spread > plain * Decimal("1.5")
    same_price = quote(contract("C", 98, "261118"), spot=100.0)
    assert same_price.relative_spread > quote(contract("C", 100)).relative_spread
    assert quote(contract("C", 100), edge=1.0).bid_size < quote(contract("C", 100)).bid_size


def test_far_out_of_the_money_has_no_bid() -> None:
    far = quote(contract("C", 180))
    assert (far.bid, far.bid_size) == (Decimal("0.00"), 0)
    assert far.ask > 0


def test_large_prices_tick_in_nickels_except_for_the_penny_underlyings() -> None:
    deep = quote(contract("C", 80))
    assert deep.bid % Decimal("0.05") == deep.ask % Decimal("0.05") == 0
    spy = [quote(contract("C", k, root="SPY")) for k in range(80, 95)]
    assert any(one.bid % Decimal("0.05") for one in spy)


def test_greeks_have_their_signs_and_agree_with_the_price() -> None:
    state = UnderlyingState(100.0, 0.3)
    call, put = parse_instrument(contract("C", 100)), parse_instrument(contract("P", 100))
    c, p = MODEL.value(call, state, NOON), MODEL.value(put, state, NOON)
    assert 0 < c.delta < 1
    assert -1 < p.delta < 0
    assert c.gamma > 0
    assert c.vega > 0
    assert c.theta < 0
    assert c.rho > 0 > p.rho
    moved = MODEL.fair(call, UnderlyingState(100.01, 0.3), NOON) - c.price
    assert moved == pytest.approx(c.delta * 0.01, rel=0.1)


def board() -> OptionBoard:
    made = OptionBoard(CALENDAR, MODEL, {"AAPL": 0.3})
    made.on_underlying("AAPL", Decimal(100), NOON)
    return made


def test_only_followed_contracts_get_new_quotes() -> None:
    one = board()
    assert one.requote(["AAPL"], NOON) == []
    one.follow(contract("C", 100))
    one.follow(contract("P", 100))
    assert {made.symbol for made in one.requote(["AAPL"], NOON)} == {contract("C", 100), contract("P", 100)}
    one.unfollow([contract("P", 100)])
    assert one.followed() == {contract("C", 100)}
    assert one.requote(["MSFT"], NOON) == []


def test_any_contract_of_a_known_underlying_has_a_price_at_once() -> None:
    one = board()
    made = one.price(contract("C", 101), NOON)
    assert made is not None
    assert made.at == NOON
    assert one.price(contract("C", 101, root="MSFT"), NOON) is None


def test_outside_regular_hours_the_last_close_is_quoted() -> None:
    one = board()
    one.follow(contract("C", 100))
    for now, close in [
        (datetime(2026, 11, 18, 22, 0, tzinfo=UTC), datetime(2026, 11, 18, 21, 0, tzinfo=UTC)),
        (datetime(2026, 11, 19, 13, 0, tzinfo=UTC), datetime(2026, 11, 18, 21, 0, tzinfo=UTC)),
        (datetime(2026, 11, 22, 15, 0, tzinfo=UTC), datetime(2026, 11, 20, 21, 0, tzinfo=UTC)),
    ]:
        assert one.requote(["AAPL"], now) == []
        made = one.price(contract("C", 100), now)
        assert made is not None
        assert made.at == close


def test_expired_contracts_have_no_quote() -> None:
    one = board()
    one.follow(contract("C", 100, "261117"))
    assert one.requote(["AAPL"], NOON) == []
    assert one.price(contract("C", 100, "261117"), NOON) is None


def test_a_fast_market_widens_the_quotes_and_calms_down() -> None:
    one = board()
    one.follow(contract("C", 100))
    price = Decimal(100)
    at = NOON
    for step in range(1, 120):
        price = Decimal(100) + Decimal(step % 3) / 100
        at = NOON + timedelta(seconds=5 * step)
        one.on_underlying("AAPL", price, at)
    calm = one.requote(["AAPL"], at)[0]
    for step in range(4):
        at += timedelta(seconds=5)
        one.on_underlying("AAPL", price - Decimal(step), at)
    fast = one.requote(["AAPL"], at)[0]
    assert fast.relative_spread > 2 * calm.relative_spread
