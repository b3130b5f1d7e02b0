"""Closes that are committed before anything has breached: sent at once, recorded behind, never twice (I2, I3, I12)."""

import asyncio
from decimal import Decimal
from pathlib import Path

import pytest
from tests.support.managed import Managed, Venue

from exitguard.broker.port import Priority, SubmitResult
from exitguard.core.orders import OrderRequest, OrderSide
from exitguard.core.policy import CloseStyle, Policy
from exitguard.core.records import (
    Batch,
    CloseReason,
    EventType,
    IntentPurpose,
    IntentRecord,
    IntentStatus,
    PositionRecord,
    PositionStatus,
    PutIntent,
)
from exitguard.store.port import StoreUnavailable

CALL = "AAPL260619C00150000"
POLICY = Policy(missing_bracket=False, min_hold_minutes=0, option_close_style=CloseStyle.MARKET)


def closes(managed: Managed, position: PositionRecord) -> list[IntentRecord]:
    """What the ledger has of the position's closes."""
    rows = managed.rows.intents.values()
    return [i for i in rows if i.position_id == position.id and i.purpose is IntentPurpose.CLOSE]


async def armed(managed: Managed, qty: str = "10") -> PositionRecord:
    """A position whose close is armed."""
    await managed.price(CALL, "5.00")
    position = await managed.enter(CALL, qty)

    def is_armed() -> bool:
        return any(i.status is IntentStatus.ARMED and i.qty == Decimal(qty) for i in closes(managed, position))

    await managed.until(is_armed, "the close is armed")
    return position


async def test_i3_a_breach_sends_what_is_committed_and_records_it_behind() -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        position = await armed(managed)
        seen: list[tuple[IntentStatus, Decimal, dict[str, object]]] = []
        submit = managed.broker.submit

        async def watching(request: OrderRequest, priority: Priority = Priority.EXIT) -> SubmitResult:
            row = managed.rows.intents[request.client_order_id]
            seen.append((row.status, row.qty, row.request))
            return await submit(request, priority)

        managed.broker.submit = watching  # type: ignore[method-assign]
        await managed.price(CALL, "2.50")
        row = await managed.closed(position)
        ((status, qty, request),) = seen
        assert (status, qty) == (IntentStatus.ARMED, Decimal(10)), "the order left before its record was written"
        assert (request["symbol"], request["qty"], request["client_order_id"]) == (CALL, 10, row.close_client_order_id)
        (intent,) = closes(managed, position)
        assert (intent.status, intent.attempt, row.close_attempt) == (IntentStatus.FILLED, 1, 1)
        assert row.close_reason is CloseReason.CATASTROPHIC_STOP
        assert [e.data["rule"] for e in managed.events(EventType.EXIT_TRIGGERED, position.id)] == ["catastrophic_stop"]


async def test_i1_what_is_armed_follows_what_is_held() -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        position = await armed(managed)
        await managed.enter(CALL, "5")
        await managed.until(
            lambda: [(i.status, i.qty) for i in closes(managed, position)] == [(IntentStatus.ARMED, 15)],
            "the close of all fifteen is armed",
        )
        await managed.price(CALL, "2.50")
        await managed.closed(position)
        assert [r.qty for r in managed.closing_orders(position)] == [15]


async def test_i12_without_certainty_about_the_lease_the_intent_is_committed_first() -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        position = await armed(managed)
        managed.store.surely_leased = lambda: False  # type: ignore[method-assign]
        order: list[str] = []
        submit = managed.broker.submit

        def committed(batch: Batch) -> None:
            changes = [o.row for o in batch.operations if isinstance(o, PutIntent)]
            order.extend("committed" for row in changes if row.status is IntentStatus.INTENDED)

        async def sending(request: OrderRequest, priority: Priority = Priority.EXIT) -> SubmitResult:
            order.append("sent")
            return await submit(request, priority)

        managed.store.on_commit = committed
        managed.broker.submit = sending  # type: ignore[method-assign]
        await managed.price(CALL, "2.50")
        await managed.closed(position)
        assert order == ["committed", "sent"]


async def test_a_position_that_others_close_leaves_nothing_armed() -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        position = await armed(managed)
        managed.broker.external_order(CALL, OrderSide.SELL, "10", "5.00")
        await managed.advance()
        row = await managed.closed(position)
        assert row.close_reason is CloseReason.EXTERNAL_CLOSE
        (intent,) = closes(managed, position)
        assert (intent.status, intent.detail) == (IntentStatus.CANCELED, "not needed, never sent")


@pytest.mark.parametrize("fills", ["at once", "after the restart"])
async def test_t7_i2_a_crash_between_the_order_and_its_record_is_followed_up(fills: str) -> None:
    venue = Venue()
    managed = Managed(venue, policy=POLICY)
    managed.start()
    await managed.caught_up()
    position = await armed(managed)
    match = managed.broker.match
    if fills != "at once":
        managed.broker.match = lambda symbol: None  # type: ignore[method-assign]
    away = StoreUnavailable("nothing of the close gets into the database")

    def refuse(batch: Batch) -> None:
        raise away

    managed.store.on_commit = refuse
    await managed.price(CALL, "2.50")
    await managed.until(lambda: len(managed.closing_orders(position)) == 1, "the order has left")
    assert [i.status for i in closes(managed, position)] == [IntentStatus.ARMED]
    await managed.kill()
    managed.broker.match = match  # type: ignore[method-assign]
    async with Managed(venue, policy=POLICY) as restarted:
        await restarted.price(CALL, "2.50")
        row = await restarted.closed(position)
        assert len(restarted.closing_orders(position)) == 1
        assert restarted.held(CALL) == 0
        assert row.close_reason is CloseReason.CATASTROPHIC_STOP, "what the rules say of the price at which it filled"
        assert [i.status for i in closes(restarted, position)] == [IntentStatus.FILLED]


async def test_i3_an_armed_close_leaves_while_the_database_is_away_and_is_recorded_once(tmp_path: Path) -> None:
    async with Managed(Venue(), policy=POLICY, journal=tmp_path) as managed:
        position = await armed(managed)
        managed.store.away = True
        await managed.price(CALL, "2.50")
        await managed.until(lambda: managed.held(CALL) == 0, "closed at the broker")
        assert managed.row(position.id).status is PositionStatus.OPEN
        managed.store.away = False
        await managed.closed(position)
        assert len(managed.closing_orders(position)) == 1
        assert len(managed.rows.history) == 1


async def test_t7_what_an_earlier_process_armed_is_not_written_again_and_leaves_at_once() -> None:
    venue = Venue()
    first = Managed(venue, policy=POLICY)
    first.start()
    await first.caught_up()
    position = await armed(first)
    await first.kill()
    rewritten: list[IntentStatus] = []

    def watch(batch: Batch) -> None:
        rewritten.extend(op.row.status for op in batch.operations if isinstance(op, PutIntent))

    async with Managed(venue, policy=POLICY) as restarted:
        restarted.store.on_commit = watch
        await restarted.advance()
        assert rewritten == []
        await restarted.price(CALL, "2.50")
        await restarted.closed(position)
        assert IntentStatus.ARMED not in rewritten
        assert len(restarted.closing_orders(position)) == 1


async def test_i12_an_armed_close_is_held_back_when_the_lease_gets_doubtful_at_the_last_moment() -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        position = await armed(managed)
        answers = iter([True])
        managed.store.surely_leased = lambda: next(answers, False)  # type: ignore[method-assign]
        await managed.price(CALL, "2.50")
        await managed.closed(position)
        (request,) = managed.closing_orders(position)
        assert request.qty == 10
        (intent,) = closes(managed, position)
        assert (intent.status, intent.client_order_id) == (IntentStatus.FILLED, request.client_order_id)


async def test_a_stop_while_an_armed_order_is_unanswered_is_orderly() -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        position = await armed(managed)
        submit, free = managed.broker.submit, asyncio.Event()

        async def slow(request: OrderRequest, priority: Priority = Priority.EXIT) -> SubmitResult:
            result = await submit(request, priority)
            await free.wait()
            return result

        managed.broker.submit = slow  # type: ignore[method-assign]
        await managed.price(CALL, "2.50")
        await managed.until(lambda: managed.row(position.id).status is PositionStatus.CLOSING, "the order has left")
        (close,) = (task for task in asyncio.all_tasks() if task.get_name() == f"close {position.id}")
        close.cancel()  # what a stop does with a close that does not end in time
        await asyncio.wait({close})
        free.set()
        await managed.advance()  # the manager goes on: the answer had somewhere to go
        await managed.closed(position)
        assert len(managed.closing_orders(position)) == 1
