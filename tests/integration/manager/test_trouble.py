"""Closes, reductions and restorations that meet trouble or each other."""

import asyncio
from decimal import Decimal

import pytest
from tests.support.managed import OPENING, Managed, Venue

from exitguard.broker.port import BrokerIncomplete, BrokerRefused, UnreadableRow
from exitguard.core.orders import OrderClass, OrderSide
from exitguard.core.policy import CloseStyle, Policy
from exitguard.core.records import CloseReason, EventType, PositionStatus, Protection
from exitguard.manager import restorer
from exitguard.store.port import StoreUnavailable

CALL = "AAPL260619C00150000"
POLICY = Policy(missing_bracket=False, min_hold_minutes=0, option_close_style=CloseStyle.MARKET)
SCALING = Policy(missing_bracket=False, min_hold_minutes=0, option_close_style=CloseStyle.MARKET, profit_scaling=True)


def _refuse_brackets(managed: Managed) -> None:
    submit = managed.broker.submit

    async def no_oco(request, priority=None):  # type: ignore[no-untyped-def]
        if request.order_class is OrderClass.OCO:
            managed.broker.next_submits(BrokerRefused(422, 42210000, "complex orders are not available"))
        return await submit(request)

    managed.broker.submit = no_oco  # type: ignore[method-assign]


async def test_a_stop_takes_over_a_reduction_that_is_under_way() -> None:
    async with Managed(Venue(), policy=SCALING) as managed:
        await managed.price(CALL, "5.00")
        position = await managed.enter(CALL, "10")
        match = managed.broker.match
        managed.broker.match = lambda symbol: None  # type: ignore[method-assign]  # the reduction finds no buyer
        await managed.price(CALL, "6.20")
        await managed.until(lambda: len(managed.closing_orders(position)) == 1, "reduction sent")
        await managed.price(CALL, "2.00")
        await managed.until(lambda: managed.row(position.id).status is PositionStatus.CLOSING, "the stop is taken up")
        managed.broker.match = match  # type: ignore[method-assign]
        await managed.price(CALL, "2.00")
        row = await managed.closed(position)
        assert row.close_reason is CloseReason.CATASTROPHIC_STOP
        assert managed.held(CALL) == 0
        sold = sum(f.qty for f in managed.broker.all_fills if f.side is OrderSide.SELL)
        assert sold == 10
        assert [o.qty for o in managed.closing_orders(position)] == [Decimal(4), Decimal(6)]


async def test_a_reduction_that_does_not_end_is_stuck_and_alarmed_until_it_does() -> None:
    async with Managed(Venue(), policy=SCALING) as managed:
        await managed.price(CALL, "5.00")
        position = await managed.enter(CALL, "10")
        match = managed.broker.match
        managed.broker.match = lambda symbol: None  # type: ignore[method-assign]
        await managed.price(CALL, "6.20")
        await managed.until(lambda: len(managed.closing_orders(position)) == 1, "reduction sent")
        await managed.advance(5)
        key = f"stuck:{position.id}"
        await managed.until(lambda: key in managed.rows.alarms, "stuck")
        assert managed.row(position.id).protection is Protection.STUCK
        managed.broker.match = match  # type: ignore[method-assign]
        await managed.price(CALL, "6.20")
        await managed.until(lambda: managed.row(position.id).quantity == 6, "reduced")
        await managed.advance(1)
        await managed.until(lambda: key not in managed.rows.alarms, "alarm cleared")
        assert managed.row(position.id).status is PositionStatus.OPEN
        assert managed.row(position.id).close_reason is None


@pytest.mark.parametrize("method", ["open_orders", "orders_since"])
async def test_f60_an_order_that_cannot_be_read_does_not_keep_a_position_from_closing(method: str) -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        await managed.price(CALL, "5.00")
        position = await managed.enter(CALL, "10")
        asked = getattr(managed.broker, method)

        async def partly(*arguments, **named):  # type: ignore[no-untyped-def]
            rows = await asked(*arguments, **named)
            raise BrokerIncomplete(rows, [UnreadableRow("order", "qty is missing", "{}")])

        setattr(managed.broker, method, partly)
        managed.broker.next_submits(BrokerRefused(403, 40310000, "insufficient qty available"))  # then it must ask
        await managed.price(CALL, "2.50")
        await managed.closed(position)
        assert managed.held(CALL) == 0


async def test_f60_an_entry_that_the_broker_refuses_to_tell_of_keeps_no_manager_from_starting() -> None:
    managed = Managed(Venue(), policy=POLICY)
    for symbol in ("AMD", "NVDA"):
        managed.quote(symbol, "99.99", "100.01")
        await managed.buy(symbol, "7", stop="90")
    managed.broker.fail_reads("order", BrokerRefused(422, 40010001, "order_id is invalid"))
    async with managed:
        await managed.until(lambda: managed._position("NVDA") is not None, "the neighbour is under management")
        assert [aside.reason.partition(": ")[2] for aside in managed.rows.set_aside] == ["order_id is invalid"]


async def test_a_failed_step_of_a_close_leaves_no_alarm_behind() -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        await managed.price(CALL, "5.00")
        position = await managed.enter(CALL, "10")
        submit, failures = managed.broker.submit, [ZeroDivisionError("a defect of ours")]

        async def failing(request, priority=None):  # type: ignore[no-untyped-def]
            result = await submit(request)
            if failures:
                raise failures.pop()
            return result

        managed.broker.submit = failing  # type: ignore[method-assign]
        await managed.price(CALL, "2.50")
        await managed.until(lambda: f"closer:{position.id}" in managed.rows.alarms, "a person is told")
        await managed.closed(position)
        await managed.until(lambda: not managed.rows.alarms, "alarm cleared")
        assert len({o.client_order_id for o in managed.closing_orders(position)}) == 1
        assert managed.held(CALL) == 0


async def test_a_database_that_fails_at_the_last_record_leaves_no_alarm_behind() -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        await managed.price(CALL, "5.00")
        position = await managed.enter(CALL, "10")
        commit, failures = managed.store.commit, [StoreUnavailable("gone"), StoreUnavailable("gone")]

        async def failing(batch):  # type: ignore[no-untyped-def]
            if failures and any(type(op).__name__ == "PutHistory" for op in batch.operations):
                raise failures.pop()
            await commit(batch)

        managed.store.commit = failing  # type: ignore[method-assign]
        await managed.price(CALL, "2.50")
        await managed.closed(position)
        await managed.advance(1)
        assert not failures
        assert not managed.rows.alarms


async def test_a_breach_does_not_wait_for_a_restoration_that_fails_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restorer, "RETRY_WAIT", 60.0)  # the pause before the next try
    async with Managed(Venue(), policy=Policy(min_hold_minutes=0)) as managed:
        await managed.price("MSFT", "100")
        _refuse_brackets(managed)
        position = await managed.enter("MSFT", "10")
        await managed.until(lambda: managed.events(EventType.BRACKET_FAILED, position.id), "refused")
        await managed.price("MSFT", "90")
        assert (await managed.closed(position)).close_reason is CloseReason.STOP_LOSS


async def test_f113_a_bracket_lost_at_night_and_refused_in_the_morning_is_alarmed_and_closed() -> None:
    venue = Venue(OPENING)
    policy = Policy(max_hold_time=False)
    async with Managed(venue, policy=policy) as managed:
        await managed.price("MSFT", "100")
        position = await managed.enter("MSFT", "10", bracket=("98", "103"), stop="98", target="103")
        await managed.until(lambda: managed.row(position.id).bracket_order_accepted, "bracket seen")
        venue.time = OPENING.replace(hour=20, minute=5)
        await managed.advance(1)
        for order in list(managed.broker._everything()):
            if not order.status.is_terminal:
                managed.broker.expire(order.id)  # day orders end with their day
        await managed.until(lambda: not managed.row(position.id).bracket_order_accepted, "naked")
        _refuse_brackets(managed)
        venue.time = OPENING.replace(day=18, hour=13, minute=29)
        await managed.advance(1)  # the open
        await managed.price("MSFT", "100")
        await managed.until(lambda: managed.events(EventType.BRACKET_FAILED, position.id), "refused")
        assert managed.row(position.id).status is PositionStatus.OPEN
        await managed.advance(1)
        await managed.price("MSFT", "100")
        await managed.advance(1)
        assert (await managed.closed(position)).close_reason is CloseReason.MISSING_BRACKET


async def test_run_mode_once_restores_a_bracket_before_it_ends() -> None:
    venue = Venue()
    async with Managed(venue, policy=POLICY) as first:
        await first.price("MSFT", "100")
        position = await first.enter("MSFT", "10")
        await first.advance(1)
    once = Managed(venue, policy=Policy(), once=True)
    submit = once.broker.submit

    async def slow(request, priority=None):  # type: ignore[no-untyped-def]
        await asyncio.sleep(0.05)
        return await submit(request)

    once.broker.submit = slow  # type: ignore[method-assign]
    await once.start()
    assert [o.order_class for o in once.closing_orders(position)] == [OrderClass.OCO]
    assert once.row(position.id).bracket_order_accepted


async def test_a_request_to_close_everything_is_answered_when_everything_is_closed() -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        other = "AAPL260619C00160000"
        await managed.price(CALL, "5.00")
        await managed.price(other, "5.00")
        slow, quick = await managed.enter(CALL, "1"), await managed.enter(other, "1")
        match = managed.broker.match
        managed.broker.match = lambda symbol: match(symbol) if symbol == other else None  # type: ignore[method-assign]
        number = managed.command()
        await managed.closed(quick)
        await managed.advance(1)
        assert managed.rows.commands[number].ok is None
        managed.broker.match = match  # type: ignore[method-assign]
        await managed.price(CALL, "5.00")
        await managed.closed(slow)
        await managed.until(lambda: managed.rows.commands[number].ok is True, "answered")


async def test_a_bracket_that_was_lost_while_nobody_watched_is_restored() -> None:
    venue = Venue()
    async with Managed(venue) as first:
        await first.price("MSFT", "100")
        position = await first.enter("MSFT", "10", bracket=("98", "103"), stop="98", target="103")
        await first.until(lambda: first.row(position.id).bracket_order_accepted, "bracket seen")
    for order in list(first.broker._everything()):
        if not order.status.is_terminal:
            first.broker.expire(order.id)
    async with Managed(venue) as restarted:
        await restarted.price("MSFT", "100")
        await restarted.advance(1)
        await restarted.until(lambda: restarted.events(EventType.BRACKET_RESTORED, position.id), "restored")
        assert restarted.row(position.id).bracket_order_accepted
