"""The fakes keep the promises that the tests built on them rely on."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import uuid4

import pytest
from tests.support.fake_broker import FakeBroker, Wire
from tests.support.memory_store import MemoryLedger, MemoryStore

from exitguard.broker.port import Accepted, Refused, Unknown
from exitguard.core.orders import (
    OrderClass,
    OrderRequest,
    OrderSide,
    OrderStatus,
    OrderType,
    PositionIntent,
    TimeInForce,
)
from exitguard.core.records import Batch, RecommendationStatus, SetRecommendation
from exitguard.store.port import LeaseHeld, LeaseLost, StoreRejected

NOW = datetime(2025, 3, 3, 15, 0, tzinfo=UTC)


def bracket(client_order_id: str = "a") -> OrderRequest:
    return OrderRequest(
        client_order_id, "AAPL", OrderSide.BUY, Decimal(10), OrderType.LIMIT, TimeInForce.DAY,
        PositionIntent.BUY_TO_OPEN, limit_price=Decimal("100.10"), order_class=OrderClass.BRACKET,
        take_profit=Decimal(103), stop_loss=Decimal(98),
    )  # fmt: skip


def close(qty: int, client_order_id: str = "c") -> OrderRequest:
    return OrderRequest(
        client_order_id, "AAPL", OrderSide.SELL, Decimal(qty), OrderType.MARKET, TimeInForce.DAY,
        PositionIntent.SELL_TO_CLOSE,
    )  # fmt: skip


async def test_bracket_legs_wake_hold_the_quantity_and_cancel_each_other() -> None:
    broker = FakeBroker(lambda: NOW)
    broker.set_quote("AAPL", "99.90", "100.00")
    answer = await broker.submit(bracket())
    assert isinstance(answer, Accepted)
    assert (await broker.position("AAPL")).qty_available == 0
    refused = await broker.submit(close(10))
    assert isinstance(refused, Refused)
    assert refused.error.is_insufficient_quantity
    broker.set_quote("AAPL", "97.50", "97.60")
    assert await broker.positions() == []
    assert await broker.open_orders() == []
    order = await broker.order(answer.order.id)
    assert {leg.type: leg.status for leg in order.legs} == {
        OrderType.LIMIT: OrderStatus.CANCELED,
        OrderType.STOP: OrderStatus.FILLED,
    }


async def test_cancelling_one_leg_frees_the_quantity() -> None:
    broker = FakeBroker(lambda: NOW)
    broker.set_quote("AAPL", "99.90", "100.00")
    await broker.submit(bracket())
    leg = (await broker.open_orders())[0]
    broker.slow_cancels = True
    await broker.cancel(leg.id)
    assert isinstance(await broker.submit(close(10)), Refused)
    broker.finish_cancels()
    assert isinstance(await broker.submit(close(10, "c2")), Accepted)
    assert await broker.positions() == []


async def test_a_used_client_order_id_stays_used_even_when_the_answer_was_lost() -> None:
    broker = FakeBroker(lambda: NOW)
    broker.set_quote("AAPL", "99.90", "100.00")
    broker.next_submits(Wire.ACCEPTED_ANSWER_LOST)
    assert isinstance(await broker.submit(bracket()), Unknown)
    again = await broker.submit(bracket())
    assert isinstance(again, Refused)
    assert again.error.is_duplicate_client_order_id
    assert (await broker.order_by_client_id("a")) is not None


async def test_closing_what_is_not_held_is_an_intent_mismatch() -> None:
    broker = FakeBroker(lambda: NOW)
    broker.set_quote("AAPL", "99.90", "100.00")
    refused = await broker.submit(close(1))
    assert isinstance(refused, Refused)
    assert refused.error.is_intent_mismatch


async def test_leases_fence_and_batches_apply_once_and_whole() -> None:
    now = [NOW]
    ledger = MemoryLedger(lambda: now[0])
    first, second = MemoryStore(ledger, "large"), MemoryStore(ledger, "large")
    number = ledger.recommend("large", ticker="AAPL", action="BUY_STOCK")
    lease = await first.acquire_lease("one", timedelta(seconds=10))
    with pytest.raises(LeaseHeld):
        await second.acquire_lease("two", timedelta(seconds=10))
    await second.acquire_lease("two", timedelta(seconds=10), "dispatcher")
    done = SetRecommendation(number, RecommendationStatus.EXECUTED, None, NOW)
    wrong = SetRecommendation(99, RecommendationStatus.EXECUTED, None, NOW)
    with pytest.raises(StoreRejected):
        await first.commit(Batch(uuid4(), "large", lease.epoch, NOW, (done, wrong)))
    assert first.rows.recommendations[number].status is RecommendationStatus.PENDING
    batch = Batch(uuid4(), "large", lease.epoch, NOW, (done,))
    await first.commit(batch)
    await first.commit(batch)
    assert first.rows.recommendations[number].status is RecommendationStatus.EXECUTED
    assert len(first.batches) == 1
    now[0] += timedelta(seconds=11)
    await second.acquire_lease("two", timedelta(seconds=10))
    with pytest.raises(LeaseLost):
        await first.commit(Batch(uuid4(), "large", lease.epoch, NOW, (done,)))
