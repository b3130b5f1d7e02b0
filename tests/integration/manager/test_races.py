"""Tasks of one manager that meet on the same position."""

import asyncio

from tests.support.managed import Managed, Venue

from exitguard.core.policy import CloseStyle, Policy

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
