"""Stocks without a live stop and target: restored, or closed when the broker does not take it."""

from decimal import Decimal

from tests.support.managed import Managed, Venue

from exitguard.broker.port import BrokerRefused
from exitguard.core.orders import OrderClass, OrderSide
from exitguard.core.policy import Policy
from exitguard.core.records import CloseReason, EventType, PositionStatus, Protection

POLICY = Policy()


async def test_f8_a_cancelled_leg_is_restored_for_the_quantity_held() -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        await managed.price("MSFT", "100")
        position = await managed.enter("MSFT", "10", bracket=("98", "103"), stop="98", target="103")
        await managed.until(lambda: managed.row(position.id).bracket_order_accepted, "bracket seen")
        stop_id = managed.row(position.id).stop_order_id
        assert stop_id is not None
        await managed.broker.cancel(stop_id)  # behind the manager's back
        await managed.until(lambda: managed.events(EventType.BRACKET_RESTORED, position.id), "restored")
        await managed.advance(1)
        row = managed.row(position.id)
        assert row.bracket_order_accepted
        assert row.stop_order_id != stop_id
        assert row.protection is Protection.PROTECTED
        oco = managed.closing_orders(position)
        assert [(o.order_class, o.qty, o.stop_loss, o.take_profit) for o in oco] == [
            (OrderClass.OCO, Decimal(10), Decimal(98), Decimal(103))
        ]


async def test_a_stock_without_any_bracket_gets_one_from_the_policy_short_too() -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        await managed.price("MSFT", "100")
        await managed.enter("MSFT", "10")
        await managed.price("NVDA", "100")
        await managed.enter("NVDA", "10", side=OrderSide.SELL)
        await managed.advance(1)
        await managed.until(lambda: len(managed.events(EventType.BRACKET_RESTORED)) == 2, "both restored")
        levels = {
            o.symbol: (o.side.value, o.stop_loss, o.take_profit)
            for o in managed.broker.submitted
            if o.order_class is OrderClass.OCO
        }
        assert levels == {
            "MSFT": ("sell", Decimal("98.00"), Decimal("103.02")),
            "NVDA": ("buy", Decimal("101.99"), Decimal("96.99")),
        }


async def test_missing_bracket_closes_when_the_broker_refuses_for_a_minute() -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        await managed.price("MSFT", "100")
        refusal = BrokerRefused(422, 42210000, "complex orders are not available")
        submit = managed.broker.submit

        async def no_oco(request, priority=None):  # type: ignore[no-untyped-def]
            if request.order_class is OrderClass.OCO:
                managed.broker.next_submits(refusal)
            return await submit(request)

        managed.broker.submit = no_oco  # type: ignore[method-assign]
        position = await managed.enter("MSFT", "10")
        await managed.until(lambda: managed.events(EventType.BRACKET_FAILED, position.id), "refused")
        assert managed.row(position.id).status is PositionStatus.OPEN
        await managed.price("MSFT", "100")
        await managed.advance(1)
        row = await managed.closed(position)
        assert row.close_reason is CloseReason.MISSING_BRACKET
        assert managed.held("MSFT") == 0


async def test_f8_a_bracket_leg_that_fills_is_booked_with_its_own_reason() -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        await managed.price("MSFT", "100")
        stopped = await managed.enter("MSFT", "10", bracket=("98", "103"))
        await managed.price("NVDA", "100")
        won = await managed.enter("NVDA", "10", bracket=("98", "103"))
        await managed.until(
            lambda: all(managed.row(p.id).bracket_order_accepted for p in (stopped, won)), "brackets seen"
        )
        await managed.price("MSFT", "97.5")
        await managed.price("NVDA", "103.5")
        assert (await managed.closed(stopped)).close_reason is CloseReason.BRACKET_STOP
        assert (await managed.closed(won)).close_reason is CloseReason.BRACKET_TARGET
        assert managed.rows.history[won.id].realised_pnl > 0 > managed.rows.history[stopped.id].realised_pnl
        assert managed.closing_orders(stopped) == managed.closing_orders(won) == []


async def test_t8_a_partial_fill_resizes_the_bracket_to_what_is_held() -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        await managed.price("MSFT", "100")
        position = await managed.enter("MSFT", "10", bracket=("98", "103"), stop="98", target="103")
        await managed.until(lambda: managed.row(position.id).bracket_order_accepted, "bracket seen")
        managed.broker.external_order("MSFT", OrderSide.BUY, "5", "100")  # somebody adds by hand
        await managed.until(lambda: managed.row(position.id).quantity == 15, "add booked")
        await managed.until(lambda: managed.events(EventType.BRACKET_RESTORED, position.id), "restored")
        assert [o.qty for o in managed.closing_orders(position)] == [Decimal(15)]


async def test_a_restoration_that_is_accepted_and_rejected_again_and_again_ends_in_a_close() -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        await managed.price("MSFT", "100")
        submit = managed.broker.submit

        async def fickle(request, priority=None):  # type: ignore[no-untyped-def]
            result = await submit(request)
            if request.order_class is OrderClass.OCO:
                for order in list(managed.broker.orders.values()):
                    if order.client_order_id == request.client_order_id:
                        await managed.broker.cancel(order.id)
            return result

        managed.broker.submit = fickle  # type: ignore[method-assign]
        position = await managed.enter("MSFT", "10")
        await managed.until(lambda: managed.events(EventType.BRACKET_RESTORED, position.id), "accepted once")
        assert managed.row(position.id).status is PositionStatus.OPEN
        await managed.price("MSFT", "100")
        await managed.advance(1)
        row = await managed.closed(position)
        assert row.close_reason is CloseReason.MISSING_BRACKET
