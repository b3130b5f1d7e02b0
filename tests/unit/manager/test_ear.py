"""When a trade stream that says that it listens is deaf (F45, F98)."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from exitguard.core.orders import BrokerOrder, OrderSide, OrderStatus, OrderType
from exitguard.manager.ear import PATIENCE, RECONNECT_LOOKS, StreamEar

UP = datetime(2026, 3, 17, 14, 0, tzinfo=UTC)
LATER = UP + timedelta(minutes=5)
TEN = Decimal(10)


def order(status: OrderStatus, filled: str = "0", at: datetime = LATER) -> BrokerOrder:
    filled_at = at if status is OrderStatus.FILLED else None
    return BrokerOrder(
        "o-1", "xg-large-1", "AAPL", OrderSide.SELL, status, TEN, Decimal(filled), None, OrderType.LIMIT, "simple",
        None, None, at, at, filled_at,
    )  # fmt: skip


RESTING = order(OrderStatus.NEW, at=UP - timedelta(minutes=1))


def listening() -> StreamEar:
    ear = StreamEar()
    ear.up(UP)
    return ear


def look(ear: StreamEar, times: int = PATIENCE) -> str | None:
    for _ in range(times):
        ear.look()
    return ear.deaf


@pytest.mark.parametrize(
    "told",
    [
        order(OrderStatus.FILLED, "10"),
        order(OrderStatus.PARTIALLY_FILLED, "4"),
        order(OrderStatus.CANCELED),
        order(OrderStatus.EXPIRED),
        order(OrderStatus.REJECTED),
    ],
)
def test_f98_a_stream_that_does_not_tell_what_rest_tells_is_deaf_after_a_few_looks(told: BrokerOrder) -> None:
    ear = listening()
    ear.told_elsewhere(RESTING, told)
    assert look(ear, PATIENCE - 1) is None
    assert look(ear, 1) == "o-1"


def test_f98_what_the_stream_tells_a_moment_later_is_no_debt() -> None:
    ear, filled = listening(), order(OrderStatus.FILLED, "10")
    ear.told_elsewhere(RESTING, filled)
    ear.heard(filled, filled)
    assert look(ear, 50) is None


def test_f98_an_older_message_about_the_order_pays_nothing() -> None:
    ear, filled = listening(), order(OrderStatus.FILLED, "10")
    ear.told_elsewhere(RESTING, filled)
    ear.heard(filled, order(OrderStatus.PARTIALLY_FILLED, "4"))
    assert look(ear) == "o-1"


@pytest.mark.parametrize(
    ("known", "told"),
    [
        (order(OrderStatus.FILLED, "10"), order(OrderStatus.FILLED, "10")),
        (RESTING, order(OrderStatus.ACCEPTED)),
        (RESTING, order(OrderStatus.DONE_FOR_DAY)),
        (order(OrderStatus.HELD), order(OrderStatus.CANCELED)),
        (RESTING, order(OrderStatus.FILLED, "10", UP + timedelta(seconds=1))),
        (None, order(OrderStatus.CANCELED)),
        (None, order(OrderStatus.FILLED, "10", UP - timedelta(days=1))),
        (RESTING, replace(order(OrderStatus.CANCELED), updated_at=None)),
    ],
    ids=[
        "known", "accepted", "done for the day", "a leg that was held", "while connecting", "canceled long ago",
        "filled long ago", "without a time",
    ],
)  # fmt: skip
def test_what_the_stream_need_not_tell_is_no_debt(known: BrokerOrder | None, told: BrokerOrder) -> None:
    ear = listening()
    ear.told_elsewhere(known, told)
    assert look(ear, 50) is None


def test_a_stream_that_is_down_owes_nothing_and_one_that_came_back_starts_anew() -> None:
    ear = listening()
    ear.told_elsewhere(RESTING, order(OrderStatus.FILLED, "10"))
    ear.down()
    ear.told_elsewhere(RESTING, order(OrderStatus.FILLED, "10"))
    ear.up(LATER)
    ear.told_elsewhere(RESTING, order(OrderStatus.FILLED, "10"))
    assert look(ear, 50) is None


def test_a_deaf_stream_is_opened_anew_at_once_and_then_rarely() -> None:
    ear = listening()
    assert ear.may_reconnect()
    for _ in range(RECONNECT_LOOKS - 1):
        ear.look()
        assert not ear.may_reconnect()
    ear.look()
    assert ear.may_reconnect()
