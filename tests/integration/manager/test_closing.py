"""The closing procedure against a broker that loses answers, fills partly and refuses (T6, T7, T19)."""

import asyncio
from decimal import Decimal

import pytest
from tests.support.fake_broker import Wire
from tests.support.managed import Managed, Venue

from exitguard.broker.port import BrokerRefused, BrokerUnavailable
from exitguard.core.orders import BrokerOrder
from exitguard.core.policy import CloseStyle, Policy
from exitguard.core.records import (
    CloseReason,
    CommandVerb,
    EventType,
    IntentPurpose,
    IntentStatus,
    PositionRecord,
    PositionStatus,
)
from exitguard.manager.orders import request_data

CALL = "AAPL260619C00150000"
POLICY = Policy(missing_bracket=False, min_hold_minutes=0, option_close_style=CloseStyle.MARKET)


async def _open(managed: Managed, qty: str = "10") -> PositionRecord:
    await managed.price(CALL, "5.00")
    position = await managed.enter(CALL, qty)
    await managed.advance(1)
    return position


def _at_broker(managed: Managed, position: PositionRecord) -> list[BrokerOrder]:
    """Orders that the manager sent for a position and the broker has, in order."""
    return [o for o in managed.broker.orders.values() if f"-{position.uid}-" in o.client_order_id]


@pytest.mark.parametrize("wire", [Wire.ACCEPTED_ANSWER_LOST, Wire.NEVER_ARRIVED])
async def test_t6_f43_an_unknown_outcome_is_resolved_by_the_client_order_id(wire: Wire) -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        position = await _open(managed)
        managed.broker.next_submits(wire)
        await managed.price(CALL, "2.50")
        await managed.closed(position)
        ids = {order.client_order_id for order in managed.closing_orders(position)}
        assert len(ids) == 1  # resent under the same id, or not at all
        assert managed.held(CALL) == 0
        sold = sum((f.qty for f in managed.broker.all_fills if f.side.value == "sell"), Decimal(0))
        assert sold == 10


@pytest.mark.parametrize("certain", [True, False], ids=["armed before the breach", "committed at the breach"])
async def test_i3_the_intent_is_in_the_ledger_before_the_order_leaves(certain: bool) -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        position = await _open(managed)
        if not certain:
            managed.store.surely_leased = lambda: False  # type: ignore[method-assign]
        seen: list[bool] = []
        submit = managed.broker.submit

        async def watching(request, priority=None):  # type: ignore[no-untyped-def]
            intent = managed.rows.intents.get(request.client_order_id)
            row = managed.row(position.id)
            seen.append(
                intent is not None
                and intent.purpose is IntentPurpose.CLOSE
                and intent.request == request_data(request)
                and (
                    intent.status is IntentStatus.ARMED
                    if certain
                    else intent.status is IntentStatus.INTENDED
                    and row.status is PositionStatus.CLOSING
                    and row.close_client_order_id == request.client_order_id
                )
            )
            return await submit(request)

        managed.broker.submit = watching  # type: ignore[method-assign]
        await managed.price(CALL, "2.50")
        await managed.closed(position)
        assert seen == [True]


async def test_t6_a_partial_fill_and_a_cancel_close_the_remainder_only() -> None:
    """hummingbot sold 170 of 100 here (peers 2.2)."""
    async with Managed(Venue(), policy=POLICY) as managed:
        position = await _open(managed, "100")
        managed.broker.match = lambda symbol: None  # type: ignore[method-assign]  # nothing fills by itself
        await managed.price(CALL, "2.50")
        await managed.until(lambda: len(_at_broker(managed, position)) == 1, "first attempt")
        (first,) = _at_broker(managed, position)
        managed.broker.fill(first.id, Decimal(70), Decimal("2.50"))
        await managed.until(lambda: managed.row(position.id).quantity == 30, "partial fill booked")
        managed.broker.expire(first.id)
        await managed.until(lambda: len(_at_broker(managed, position)) == 2, "second attempt")
        second = _at_broker(managed, position)[-1]
        assert second.qty == 30
        managed.broker.fill(second.id, Decimal(30), Decimal("2.40"))
        await managed.closed(position)
        history = managed.rows.history[position.id]
        assert history.exit_price == (70 * Decimal("2.50") + 30 * Decimal("2.40")) / 100
        assert managed.events(EventType.PARTIAL_FILL, position.id)


async def test_f2_an_intent_mismatch_means_reconcile_not_retry() -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        position = await _open(managed)
        refusal = BrokerRefused(
            422, 42210000, "position intent mismatch, inferred: sell_to_open, specified: sell_to_close"
        )
        managed.broker.next_submits(refusal)
        managed.broker.calls.clear()
        await managed.price(CALL, "2.50")
        await managed.closed(position)
        asked = [name for name, _ in managed.broker.calls]
        first = asked.index("submit")
        assert {"open_orders", "position"} <= set(asked[first:]), asked
        assert len(managed.closing_orders(position)) == 2


async def test_a_resting_order_is_cancelled_and_waited_for_before_the_close() -> None:
    async with Managed(Venue(), policy=Policy(min_hold_minutes=0)) as managed:
        await managed.price("MSFT", "100")
        position = await managed.enter("MSFT", "10", bracket=("98", "103"))
        await managed.until(lambda: managed.row(position.id).bracket_order_accepted, "bracket seen")
        managed.broker.slow_cancels = True
        managed.command(CommandVerb.CLOSE, position_id=position.id)
        await managed.until(lambda: any(name == "cancel" for name, _ in managed.broker.calls), "cancel of the bracket")
        await asyncio.sleep(0)
        assert managed.closing_orders(position) == []  # the quantity is still held by the bracket
        managed.broker.slow_cancels = False
        managed.broker.finish_cancels()
        row = await managed.closed(position)
        assert row.close_reason is CloseReason.MANUAL_CLOSE
        assert [o.qty for o in managed.closing_orders(position)] == [Decimal(10)]


async def test_a_leg_that_fills_while_it_is_cancelled_shrinks_the_close_to_nothing() -> None:
    async with Managed(Venue(), policy=Policy(min_hold_minutes=0)) as managed:
        await managed.price("MSFT", "100")
        position = await managed.enter("MSFT", "10", bracket=("98", "103"))
        await managed.until(lambda: managed.row(position.id).bracket_order_accepted, "bracket seen")
        managed.broker.slow_cancels = True
        managed.command(CommandVerb.CLOSE, position_id=position.id)
        await managed.until(lambda: any(n == "cancel" for n, _ in managed.broker.calls), "cancel")
        stop_id = managed.row(position.id).stop_order_id
        assert stop_id is not None
        managed.broker.fill(stop_id, Decimal(10), Decimal(98))
        managed.broker.finish_cancels()
        await managed.closed(position)
        assert managed.closing_orders(position) == []
        assert managed.held("MSFT") == 0


async def test_t19_f20_a_close_that_keeps_failing_is_one_row_an_alarm_and_bounded_events() -> None:
    venue = Venue()
    async with Managed(venue, policy=POLICY) as managed:
        position = await _open(managed)
        managed.broker.next_submits(*[BrokerRefused(403, 40310000, "trading is halted")] * 4)
        await managed.price(CALL, "2.50")
        await managed.until(lambda: len(managed.events(EventType.CLOSE_FAILED, position.id)) >= 2, "refusals")
        await managed.advance(5)
        await managed.until(lambda: f"stuck:{position.id}" in managed.rows.alarms, "stuck alarm")
        assert len(managed.rows.positions) == 1
        row = await managed.closed(position)
        assert row.close_attempt == 5
        await managed.until(lambda: f"stuck:{position.id}" not in managed.rows.alarms, "alarm cleared")
        assert len(managed.events(EventType.CLOSE_FAILED, position.id)) == 4


async def test_f142_a_broker_that_does_not_answer_changes_nothing() -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        position = await _open(managed)
        managed.broker.fail_reads("positions", BrokerUnavailable("HTTP 502"), times=3)
        for _ in range(3):
            await managed.advance(1)
        assert managed.row(position.id).status is PositionStatus.OPEN
        assert "broker" in managed.rows.alarms
        await managed.advance(1)
        assert "broker" not in managed.rows.alarms


async def test_the_adaptive_style_crosses_a_wide_spread_in_steps_then_takes_the_market() -> None:
    policy = Policy(
        missing_bracket=False, min_hold_minutes=0, adaptive_steps=2, max_relative_spread_percent=Decimal(60)
    )
    async with Managed(Venue(), policy=policy) as managed:
        position = await _open(managed)
        match = managed.broker.match
        managed.broker.match = lambda symbol: None  # type: ignore[method-assign]
        managed.quote(CALL, "2.00", "2.60")
        await managed.until(lambda: len(managed.closing_orders(position)) == 1, "first limit")
        managed.quote(CALL, "1.90", "2.50")
        managed.venue.time = managed.venue.time.replace(second=3)
        managed.clock.observe(managed.venue.time, authoritative=True)
        await managed.until(lambda: len(managed.closing_orders(position)) == 2, "second limit")
        managed.venue.time = managed.venue.time.replace(second=6)
        managed.clock.observe(managed.venue.time, authoritative=True)
        await managed.until(lambda: len(managed.closing_orders(position)) == 3, "market")
        managed.broker.match = match  # type: ignore[method-assign]
        managed.quote(CALL, "1.90", "2.50")
        await managed.closed(position)
        limits = [(o.type.value, o.limit_price) for o in managed.closing_orders(position)]
        assert limits == [("limit", Decimal("2.00")), ("limit", Decimal("1.90")), ("market", None)]
