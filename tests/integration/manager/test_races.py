"""Tasks of one manager that meet on the same position."""

import asyncio
from decimal import Decimal

import pytest
from tests.support.managed import Managed, Venue

from exitguard.broker.port import Accepted, BrokerIncomplete, BrokerUnavailable, UnreadableRow
from exitguard.core.orders import OrderRequest, OrderSide, OrderType, PositionIntent, TimeInForce
from exitguard.core.policy import CloseStyle, Policy
from exitguard.core.records import Batch, IntentPurpose, IntentStatus, PutIntent
from exitguard.manager.armer import Armer

CALL = "AAPL260619C00150000"
POLICY = Policy(missing_bracket=False, min_hold_minutes=0, option_close_style=CloseStyle.MARKET)


async def test_i2_a_breach_during_the_recovery_begins_one_close_only() -> None:
    venue = Venue()
    async with Managed(venue, policy=POLICY) as first:
        await first.price(CALL, "5.00")
        position = await first.enter(CALL, "10")
    restarted = Managed(venue, policy=POLICY)
    positions, recovered = restarted.broker.positions, asyncio.Event()

    async def slow_positions():  # type: ignore[no-untyped-def]
        await recovered.wait()
        return await positions()

    restarted.broker.positions = slow_positions  # type: ignore[method-assign]
    restarted.market.watch({CALL})  # the quotes are there before the broker has answered
    fills = restarted.broker.match
    restarted.broker.match = lambda symbol: None  # type: ignore[method-assign]  # the order rests
    async with restarted:
        await restarted.price(CALL, "2.50")
        await restarted.until(lambda: len(restarted.closing_orders(position)) == 1, "the breach is acted upon at once")
        recovered.set()
        await restarted.advance(1)
        restarted.broker.match = fills  # type: ignore[method-assign]
        await restarted.price(CALL, "2.50")
        await restarted.closed(position)
        assert len(restarted.closing_orders(position)) == 1
        await restarted.advance(1)
        assert restarted.held(CALL) == 0


async def _never(_: Armer) -> None:
    """Arm nothing: each close has its intent still to be written."""
    await asyncio.Event().wait()


def _sell_when_written(managed: Managed, purpose: IntentPurpose, symbol: str, qty: str) -> None:
    """Let somebody sell a part by hand in the moment in which an intent has been written."""
    commit, sold = managed.store.commit, asyncio.Event()

    async def overtaken(batch: Batch) -> None:
        await commit(batch)
        intents = [o.row for o in batch.operations if isinstance(o, PutIntent)]
        if not sold.is_set() and any(i.purpose is purpose and i.status is IntentStatus.INTENDED for i in intents):
            sold.set()
            managed.broker.external_order(symbol, OrderSide.SELL, qty, "5.00")
            await managed.trades.delivered()

    managed.store.commit = overtaken  # type: ignore[method-assign]


async def test_i1_what_is_sold_while_the_intent_of_a_close_is_written_is_not_sold_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Found by the simulator: a part was sold by hand between the decision and the order of an unarmed close."""
    monkeypatch.setattr(Armer, "follow", _never)
    async with Managed(Venue(), policy=POLICY, real_clock=True) as managed:
        managed.store.surely_leased = lambda: False  # type: ignore[method-assign]  # the intent is written first
        _sell_when_written(managed, IntentPurpose.CLOSE, CALL, "4")
        await managed.price(CALL, "5.00")
        position = await managed.enter(CALL, "10")
        await managed.price(CALL, "2.50")
        await managed.closed(position)
        assert [order.qty for order in managed.closing_orders(position)] == [6]
        assert managed.held(CALL) == 0


async def test_i1_no_bracket_is_sent_for_what_is_sold_while_its_intent_is_written() -> None:
    async with Managed(Venue(), policy=Policy(), real_clock=True) as managed:
        _sell_when_written(managed, IntentPurpose.RESTORE, "AAPL", "4")
        await managed.price("AAPL", "100")
        position = await managed.enter("AAPL", "10")

        def withdrawn() -> bool:
            return any(i.status is IntentStatus.REJECTED for i in managed.rows.intents.values())

        await managed.until(withdrawn, "withdrawn")
        assert managed.row(position.id).quantity == 6
        assert not [o for o in managed.closing_orders(position) if o.qty > 6]


async def _sold_behind_an_unseen_addition(managed: Managed) -> None:
    """Our books are flat after the sale that we see; the broker holds what was bought while the stream was mute."""
    managed.trades.mute = True
    managed.broker.external_order(CALL, OrderSide.BUY, "3", "5.00")
    managed.trades.mute = False
    managed.broker.external_order(CALL, OrderSide.SELL, "10", "5.00")
    await managed.trades.delivered()


async def test_i11_a_sale_by_others_closes_nothing_while_an_addition_is_unseen() -> None:
    """Found by the simulator: the position was recorded as closed and the rest of it adopted as a new one."""
    async with Managed(Venue(), policy=POLICY) as managed:
        await managed.price(CALL, "5.00")
        position = await managed.enter(CALL, "10")
        await _sold_behind_an_unseen_addition(managed)
        await managed.until(lambda: managed.row(position.id).quantity == 3, "the rest is still managed")
        await managed.advance(1)
        assert list(managed.rows.positions) == [position.id]
        assert not managed.rows.history


@pytest.mark.parametrize("incomplete", [False, True], ids=["no answer", "an unreadable order"])
async def test_a_sale_by_others_is_recorded_once_the_broker_has_answered(incomplete: bool) -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        await managed.price(CALL, "5.00")
        position = await managed.enter(CALL, "10")
        orders_since, asked = managed.broker.orders_since, asyncio.Event()

        async def failing(after, symbols=None):  # type: ignore[no-untyped-def]
            found = await orders_since(after, symbols)
            if incomplete:
                raise BrokerIncomplete(found, [UnreadableRow("order", "no side", "{}")])
            if not asked.is_set():
                asked.set()
                raise BrokerUnavailable("HTTP 504")
            return found

        managed.broker.orders_since = failing  # type: ignore[method-assign]
        managed.broker.external_order(CALL, OrderSide.SELL, "10", "5.00")
        await managed.closed(position)


async def test_f32_a_stranger_is_adopted_although_an_order_of_ours_rests_on_the_other_side() -> None:
    """Found by the simulator: a position that was turned by hand was never taken under management."""
    async with Managed(Venue(), policy=POLICY, real_clock=True) as managed:
        await managed.price("AAPL", "100")
        managed.broker.hold("AAPL", "-4", "100")
        request = OrderRequest(
            f"xg-{managed.name}-0123456789ab-b1x1",
            "AAPL",
            OrderSide.BUY,
            Decimal(4),
            OrderType.LIMIT,
            TimeInForce.GTC,
            PositionIntent.BUY_TO_CLOSE,
            limit_price=Decimal(90),
        )
        assert isinstance(await managed.broker.submit(request), Accepted)
        await managed.until(lambda: any(p.quantity == 4 for p in managed.rows.positions.values()), "adopted")
