"""Frames, and how long to wait before the next connection."""

import json
import math

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exitguard.broker.port import BrokerRateLimited, BrokerUnauthorised, BrokerUnavailable
from exitguard.broker.ticks import read_frame
from exitguard.broker.trade_stream import read_events
from exitguard.broker.transport import retry_after
from exitguard.broker.wire import Backoff, decode_frame

_text = st.text(max_size=10)
_message = st.dictionaries(
    st.sampled_from(["T", "S", "bp", "ap", "bs", "as", "t", "stream", "data", "event", "order"]),
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.sampled_from(["q", "AAPL"]) | _text,
)


@given(st.lists(_message, max_size=5))
def test_no_message_whatever_crashes_a_reader(messages: list[dict[str, object]]) -> None:
    for frame in (msgpack.packb(messages), json.dumps(messages).encode()):
        result = read_frame(frame)
        quotes = [m for m in messages if m.get("T") == "q"]
        assert len(result.ticks) + len(result.problems) == len(quotes)
        assert len(read_events(frame)) == len(messages)


@given(st.binary(max_size=100))
def test_no_bytes_whatever_crash_a_reader(frame: bytes) -> None:
    read_frame(frame)
    read_events(frame)


@given(
    st.floats(min_value=0.0001, max_value=1e6).map(lambda price: round(price, 4)),
    st.integers(min_value=0, max_value=2**31),
    st.integers(min_value=0, max_value=4 * 10**18),
)
def test_a_tick_is_the_quote_that_was_sent(price: float, size: int, nanoseconds: int) -> None:
    stamp = msgpack.Timestamp(nanoseconds // 10**9, nanoseconds % 10**9)
    sent = {"T": "q", "S": "AAPL", "bp": price, "ap": price + 1, "bs": size, "as": size, "t": stamp}
    (tick,) = read_frame(msgpack.packb([sent])).ticks
    assert (tick.bid, tick.ask, tick.bid_size) == (price, price + 1, size)
    assert abs(tick.at_ns - nanoseconds) <= 500, "right to the microsecond"


def test_both_encodings_are_told_apart_by_their_first_byte() -> None:
    message = [{"T": "success", "msg": "connected"}]
    assert decode_frame(json.dumps(message).encode()) == message
    assert decode_frame(b"  " + json.dumps(message).encode()) == message
    assert decode_frame(msgpack.packb(message)) == message
    with pytest.raises(ValueError, match="neither"):
        decode_frame(b"\xc1")


@given(
    st.floats(min_value=0, max_value=0.999),
    st.lists(
        st.sampled_from([None, BrokerUnavailable("x"), BrokerUnauthorised("x"), BrokerRateLimited("x", 0.0)]),
        min_size=1,
        max_size=30,
    ),
    st.floats(min_value=0, max_value=100),
)
def test_f96_no_reconnect_comes_at_once_and_none_later_than_a_minute(
    jitter: float, errors: list[Exception | None], held: float
) -> None:
    backoff = Backoff(jitter=lambda: jitter)
    delays = [backoff.after(error, held) for error in errors]
    assert all(1.0 <= delay <= 37.5 for delay in delays)


def test_authentication_is_an_alarm_from_the_third_failure_in_a_row() -> None:
    backoff = Backoff()
    wrong = BrokerUnauthorised("no")
    assert [backoff.type_of(wrong) for _ in range(3)] == [None, None, wrong]
    backoff.accepted()
    assert backoff.type_of(wrong) is None
    limited = BrokerRateLimited("one connection is enough")
    assert backoff.type_of(limited) is limited
    # A connection that ends by itself is opened again: nobody has to act on that.
    assert backoff.type_of(BrokerUnavailable("gone")) is None


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "-7"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "Thu, 08 Oct 2026 14:00:30 GMT", "Date": "Thu, 08 Oct 2026 14:00:00 GMT"}, 30.0),
        ({"X-RateLimit-Reset": "1791468012", "Date": "Thu, 08 Oct 2026 14:00:00 GMT"}, 12.0),
        ({"X-RateLimit-Reset": "later"}, None),
        ({"Retry-After": "nan"}, None),
    ],
)
def test_when_to_ask_again(headers: dict[str, str], expected: float | None) -> None:
    assert retry_after(headers) == expected
    assert expected is None or math.isfinite(expected)
