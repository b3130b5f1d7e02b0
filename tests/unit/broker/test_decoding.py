"""Reading the vendor's JSON: lenient where it changes, strict where a wrong reading costs money."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.payloads import account_json, clock_json, fill_json, order_json, position_json

from exitguard.broker.decoding import (
    Unreadable,
    decode_account,
    decode_asset,
    decode_clock,
    decode_contract,
    decode_fill,
    decode_order,
    decode_position,
    decode_quote,
    decode_session,
    excerpt,
    parse_json,
)
from exitguard.core.orders import OrderSide, OrderStatus, OrderType


def test_an_order_in_full() -> None:
    leg = order_json("leg", status="held", side="sell", stop_price="90.5", type="stop")
    order = decode_order(order_json(order_class="bracket", legs=[leg], limit_price=100.1, qty=1, filled_qty=0))
    assert (order.qty, order.filled_qty, order.filled_avg_price) == (1, 0, None)
    assert order.limit_price == Decimal("100.1")
    assert order.submitted_at == datetime(2026, 10, 8, 14, 0, 0, 240_108, UTC)
    assert (order.legs[0].status, order.legs[0].type, order.legs[0].stop_price) == (
        OrderStatus.HELD,
        OrderType.STOP,
        Decimal("90.5"),
    )
    assert decode_order(order_json()).order_class == "simple"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"id": None}, "id must be a text"),
        ({"id": "x" * 300}, "id must be a text"),
        ({"symbol": ""}, "symbol must be a text"),
        ({"status": None}, "status must be a text"),
        ({"side": "sideways", "position_intent": None}, "side must be buy or sell"),
        ({"qty": "-1"}, "qty must be positive"),
        ({"qty": "NaN"}, "finite"),
        ({"filled_qty": [1]}, "must be a number"),
        ({"filled_qty": True}, "must be a number"),
        ({"limit_price": "cheap"}, "must be a number"),
        ({"submitted_at": "2026-10-08T14:00:00"}, "with a zone"),
        ({"submitted_at": "soon"}, "RFC 3339"),
        ({"legs": {"a": 1}}, "legs must be a list"),
        ({"legs": [order_json("ok"), {"id": "leg"}]}, "leg 2"),
    ],
)
def test_an_order_that_could_be_misread_is_unreadable(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(Unreadable, match=reason):
        decode_order(order_json(**changes))


def test_f34_an_order_by_value_has_the_quantity_that_filled() -> None:
    order = decode_order(order_json(qty=None, notional="500", filled_qty="0.25", filled_avg_price="2000"))
    assert (order.qty, order.filled_qty, order.filled_avg_price) == (Decimal("0.25"), Decimal("0.25"), 2000)


def test_the_parent_of_a_spread_has_neither_symbol_nor_side() -> None:
    nothing = {"symbol": "", "asset_class": "", "side": "", "position_intent": None, "order_class": "mleg"}
    assert decode_order(order_json(**nothing, limit_price="-1.2")).side is OrderSide.SELL
    assert decode_order(order_json(**nothing, limit_price="1.2")).symbol == ""
    with pytest.raises(Unreadable):
        decode_order(order_json(**{**nothing, "order_class": ""}))


@pytest.mark.parametrize(
    ("changes", "qty", "free"),
    [
        ({}, 10, 10),
        ({"qty_available": "4"}, 10, 4),
        ({"qty_available": None}, 10, 10),
        ({"qty": "-10", "qty_available": "-4", "side": "short"}, -10, -4),
        ({"qty": "10", "qty_available": "10", "side": "short"}, -10, -10),
        ({"qty": "0.557436865", "qty_available": "0"}, Decimal("0.557436865"), 0),
    ],
)
def test_f47_the_sign_of_a_position_follows_its_side(
    changes: dict[str, Any], qty: Decimal | int, free: Decimal | int
) -> None:
    position = decode_position(position_json(**changes))
    assert (position.qty, position.qty_available) == (qty, free)


@pytest.mark.parametrize(
    "changes", [{"qty": None}, {"qty": "-1"}, {"symbol": None}, {"avg_entry_price": ""}, {"qty_available": "lots"}]
)
def test_a_position_that_could_be_misread_is_unreadable(changes: dict[str, Any]) -> None:
    with pytest.raises(Unreadable):
        decode_position(position_json(**changes))


def test_f10_what_an_account_does_not_say_permits_nothing() -> None:
    bare = {"id": "a", "equity": 1, "last_equity": "1", "cash": "1", "buying_power": "1"}
    account = decode_account(bare)
    assert account.trading_blocked
    assert not account.shorting_enabled
    assert account.options_trading_level == 0
    assert account.account_number == ""
    assert decode_account(account_json(account_blocked=True)).trading_blocked
    assert decode_account(account_json(options_trading_level="2")).options_trading_level == 2
    with pytest.raises(Unreadable, match="equity"):
        decode_account(account_json(equity=None))


@pytest.mark.parametrize("changes", [{"qty": "0"}, {"qty": None}, {"price": "-1"}, {"transaction_time": None}])
def test_a_fill_without_sense_is_unreadable(changes: dict[str, Any]) -> None:
    with pytest.raises(Unreadable):
        decode_fill(fill_json(**changes))


def test_f115_a_session_is_read_in_new_york_time_across_dst() -> None:
    summer = decode_session({"date": "2026-10-30", "open": "09:30", "close": "16:00"})
    winter = decode_session({"date": "2026-11-02", "open": "09:30", "close": "1600", "session_open": "0400"})
    assert summer.open == datetime(2026, 10, 30, 13, 30, tzinfo=UTC)
    assert winter.open == datetime(2026, 11, 2, 14, 30, tzinfo=UTC)
    assert winter.day == date(2026, 11, 2)
    for bad in ({"date": "2026-10-30", "open": "16:00", "close": "09:30"}, {"date": "soon"}, {"open": "25:00"}):
        with pytest.raises(Unreadable):
            decode_session({"date": "2026-10-30", "open": "09:30", "close": "16:00", **bad})


def test_a_clock_without_is_open_is_unreadable() -> None:
    assert decode_clock(clock_json()).is_open
    with pytest.raises(Unreadable):
        decode_clock(clock_json(is_open="yes"))
    with pytest.raises(Unreadable):
        decode_clock(clock_json(next_close=None))


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
Decoder = tuple[Callable[[Any], Any], dict[str, Any]]
_BASES: list[Decoder] = [
    (decode_order, order_json()),
    (decode_position, position_json()),
    (decode_account, account_json()),
    (decode_fill, fill_json()),
    (decode_clock, clock_json()),
    (decode_session, {"date": "2026-10-08", "open": "09:30", "close": "16:00"}),
    (decode_asset, {"id": "a", "symbol": "AAPL", "attributes": ["x"]}),
    (
        decode_contract,
        {
            "id": "c",
            "symbol": "AAPL261016C00200000",
            "underlying_symbol": "AAPL",
            "type": "call",
            "expiration_date": "2026-10-16",
            "strike_price": "200",
            "size": "100",
        },
    ),
    (lambda raw: decode_quote("AAPL", raw), {"bp": 1, "ap": 2, "t": "2026-10-08T14:00:00Z"}),
]


@given(data=st.data(), base=st.sampled_from(_BASES), junk=_json)
def test_i11_no_json_whatever_crashes_a_decoder(
    data: st.DataObject, base: tuple[Any, dict[str, Any]], junk: Any
) -> None:
    decode, good = base
    decode(good)
    field = data.draw(st.sampled_from(sorted(good)))
    for raw in ({**good, field: junk}, {k: v for k, v in good.items() if k != field}, junk):
        reason = ""
        try:
            decode(raw)
        except Unreadable as error:
            reason = str(error)
        assert len(reason) < 2000


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=0.0001, max_value=1e9))
def test_numbers_keep_the_digits_they_were_sent_with(price: float) -> None:
    assert decode_order(order_json(limit_price=price)).limit_price == Decimal(repr(price))
    assert decode_order(order_json(limit_price=repr(price))).limit_price == Decimal(repr(price))


@given(st.binary(max_size=200))
def test_parsing_bytes_gives_json_or_a_value_error(body: bytes) -> None:
    try:
        parse_json(body)
    except ValueError:
        return


def test_json_with_nan_is_read_and_deep_nesting_is_an_error() -> None:
    assert str(parse_json(b'{"a": NaN, "b": -Infinity}')) == "{'a': nan, 'b': -inf}"
    with pytest.raises(ValueError, match="deep"):
        parse_json(b"[" * 200_000 + b"NaN")


def test_excerpts_are_short_and_on_one_line() -> None:
    text = excerpt(b"<html>\n\x00\xff" + b"a \n" * 5000)
    assert len(text) <= 201
    assert "\n" not in text
