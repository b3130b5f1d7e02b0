"""Sockets that are connected, answer pings and tell nothing (F45, F98), with the real manager."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from tests.support.floor import Floor, open_floor
from tests.support.managed import Managed, Venue

from exitguard.broker.port import BrokerRefused, Priority, StreamUp
from exitguard.core.orders import OrderClass, OrderRequest, OrderSide, OrderType, PositionIntent, TimeInForce
from exitguard.core.policy import Policy
from exitguard.core.quote import Quote
from exitguard.core.records import CloseReason, Protection
from exitguard.manager.ear import PATIENCE, RECONNECT_LOOKS
from exitguard.manager.vitals import WatchLimits
from exitguard.paper.server.app import PaperServer
from exitguard.paper.server.settings import PaperSettings

POLICY = Policy(missing_bracket=False, min_hold_minutes=0)
QUICK = WatchLimits(look_seconds=0.02)
DEAF = "stream_deaf:trade_updates"
OPEN = datetime(2025, 3, 3, 15, 0, tzinfo=UTC)


def watched(venue: Venue) -> Managed:
    managed = Managed(venue, policy=POLICY)
    managed.options = replace(managed.options, limits=QUICK)
    return managed


async def test_f98_a_trade_stream_that_is_silent_about_what_rest_tells_is_down_alarmed_and_opened_anew() -> None:
    async with watched(Venue()) as managed:
        await managed.price("AAPL", "100")
        position = await managed.enter("AAPL")
        await managed.advance(1)
        vitals = managed.options.vitals
        await managed.until(lambda: vitals.stream_up, "the stream is believed")
        managed.trades.mute = True
        managed.broker.external_order("AAPL", OrderSide.SELL, "4", "99")
        await managed.advance(1)
        assert managed.row(position.id).quantity == 6
        await managed.until(lambda: DEAF in managed.rows.alarms, "a person is told")
        await managed.until(lambda: not vitals.stream_up and DEAF in vitals.alarms, "the process shows it")
        assert len(managed.trades.reconnects) == 1
        managed.trades.restore()
        await managed.until(
            lambda: DEAF not in managed.rows.alarms and vitals.stream_up, "the stream is believed again"
        )
        fills = len(managed.rows.fills)
        managed.broker.external_order("AAPL", OrderSide.SELL, "1", "99")
        await managed.until(lambda: managed.row(position.id).quantity == 5, "told by the stream, without a poll")
        assert len(managed.rows.fills) == fills + 1
        assert DEAF not in managed.rows.alarms


async def test_f98_a_stream_that_stays_deaf_is_opened_anew_within_the_brokers_limits() -> None:
    async with watched(Venue()) as managed:
        await managed.price("AAPL", "100")
        await managed.enter("AAPL")
        loop, moments = asyncio.get_running_loop(), []
        for number in (1, 2):
            managed.trades.mute = True
            await managed.advance(1)
            managed.broker.external_order("AAPL", OrderSide.SELL, "1", "99")
            await managed.advance(1)
            await managed.until(lambda: DEAF in managed.rows.alarms, "a person is told each time")
            await managed.until(lambda: len(managed.trades.reconnects) == number, "opened anew in the end")  # noqa: B023
            moments.append(loop.time())
            managed.trades.restore()
            await managed.until(lambda: DEAF not in managed.rows.alarms, "it listens again")
        assert moments[1] - moments[0] >= (RECONNECT_LOOKS - PATIENCE) * QUICK.look_seconds


async def test_f98_rest_quotes_are_acted_on_while_the_quote_socket_is_silent_and_make_it_suspect() -> None:
    async with watched(Venue()) as managed:
        managed.market.push(StreamUp(0.0, "stock"))
        await managed.price("AAPL", "100")
        position = await managed.enter("AAPL")
        await managed.advance(1)
        assert not managed.market.suspected
        managed.market.mute = True
        managed.market.quiet = frozenset({"AAPL"})
        managed.venue.time += timedelta(seconds=30)
        managed.quote("AAPL", "89.99", "90.01")
        await managed.advance(1)
        row = await managed.closed(position)
        assert row.close_reason is CloseReason.STOP_LOSS
        assert managed.market.suspected == {"AAPL"}


async def test_the_protection_state_follows_the_broker_and_the_quotes_within_seconds_not_at_the_next_sweep() -> None:
    managed = Managed(Venue(), policy=Policy(min_hold_minutes=0, missing_bracket_grace_seconds=3600), real_clock=True)
    async with managed:
        await managed.price("AAPL", "100")
        position = await managed.enter("AAPL", bracket=("90", "120"))
        await managed.until(lambda: managed.row(position.id).bracket_order_accepted, "the bracket is seen")
        submit = managed.broker.submit

        async def no_oco(request, priority=None):  # type: ignore[no-untyped-def]
            if request.order_class is OrderClass.OCO:
                managed.broker.next_submits(BrokerRefused(422, 42210000, "complex orders are not available"))
            return await submit(request)

        managed.broker.submit = no_oco  # type: ignore[method-assign]
        managed.trades.mute = True
        stop_id = managed.row(position.id).stop_order_id
        assert stop_id is not None
        await managed.broker.cancel(stop_id)
        await managed.until(lambda: managed.row(position.id).protection is Protection.NAKED, "told by a poll")
        managed.broker.submit = submit  # type: ignore[method-assign]
        async with asyncio.timeout(30):
            while managed.row(position.id).protection is not Protection.PROTECTED:
                await managed.price("AAPL", "100")  # quotes that go on, each is a look
                await asyncio.sleep(0.01)


@pytest.fixture
async def floor(database_url: str) -> AsyncIterator[Floor]:
    """One account on real sockets, whose prices stand still."""
    settings = PaperSettings({"large": Decimal(100_000)}, manual={"AAPL": Decimal(100)}, start=OPEN, paused=True)
    async with PaperServer(settings) as server, open_floor(server, database_url) as found:
        yield found


def by_hand(name: str, side: OrderSide, qty: str, **changes: Any) -> OrderRequest:
    """An order as somebody else sends it."""
    opening = side is OrderSide.BUY
    intent = PositionIntent.BUY_TO_OPEN if opening else PositionIntent.SELL_TO_CLOSE
    return OrderRequest(name, "AAPL", side, Decimal(qty), OrderType.MARKET, TimeInForce.DAY, intent, **changes)


async def minute(floor: Floor, bid: str = "99.98", ask: str = "100.02") -> None:
    """A quote, and a minute of the market."""
    floor.server.host.player.publish(Quote("AAPL", Decimal(bid), Decimal(ask), floor.now, 100, 100))
    await floor.advance(60)


async def position(floor: Floor) -> dict[str, Any]:
    rows = await floor.rows("SELECT * FROM active_positions ORDER BY id DESC LIMIT 1")
    return dict(rows[0]) if rows else {}


async def alarms(floor: Floor) -> set[str]:
    return {row["key"] for row in await floor.rows("SELECT key FROM alarms WHERE cleared_at IS NULL")}


async def test_f98_a_mute_trade_socket_hides_nothing_for_long(floor: Floor) -> None:
    """Real sockets: the protection state tells the truth over REST, the socket is found out and opened anew."""
    policy = Policy(min_hold_minutes=0, missing_bracket_grace_seconds=3600)
    seat = await floor.seat("large", policy, dispatch=False, limits=QUICK)
    bracket = {"order_class": OrderClass.BRACKET, "stop_loss": Decimal(90), "take_profit": Decimal(120)}
    await seat.broker.submit(by_hand("hand-1", OrderSide.BUY, "10", **bracket))

    async def is_protected() -> bool:
        await minute(floor)
        return (await position(floor)).get("bracket_order_accepted") is True

    await floor.until(is_protected, "the position and its bracket are seen")
    await minute(floor)
    assert (await position(floor))["protection"] == "protected"
    assert seat.vitals.stream_up

    floor.server.exchange.faults.add({"kind": "stream_mute", "count": 1})
    (bracketed,) = await seat.broker.open_orders()
    for leg in bracketed.legs:
        await seat.broker.cancel(leg.id, Priority.RECONCILE)
    await minute(floor)
    assert (await position(floor))["protection"] == "naked"

    async def told() -> bool:
        rows = await floor.rows("SELECT event_data FROM position_events WHERE event_type = 'alarm_raised'")
        return any("stream_deaf" in str(row["event_data"]) for row in rows)

    await floor.until(told, "the deaf socket is an alarm")

    async def listens() -> bool:
        return seat.vitals.stream_up and DEAF not in await alarms(floor)

    await floor.until(listens, "it is opened anew, and the alarm ends")
    await seat.broker.submit(by_hand("hand-2", OrderSide.BUY, "2"))
    # It fills, and no minute begins in which REST would be asked.
    floor.server.host.player.publish(Quote("AAPL", Decimal("99.98"), Decimal("100.02"), floor.now, 100, 100))
    await floor.advance(15)

    async def grown() -> bool:
        return (await position(floor))["quantity"] == 12

    await floor.until(grown, "the new socket tells the fill")


async def test_f98_a_mute_quote_socket_delays_no_stop(floor: Floor) -> None:
    """Real sockets: a socket that tells nothing is compared with REST, which acts on the breach, and opened anew."""
    seat = await floor.seat("large", POLICY, dispatch=False, limits=QUICK, quiet_seconds=0.3)
    await seat.broker.submit(by_hand("hand-1", OrderSide.BUY, "10"))

    async def held() -> bool:
        await minute(floor)
        return (await position(floor)).get("status") == "open"

    await floor.until(held, "the position is adopted")
    await minute(floor)
    floor.server.exchange.faults.add({"kind": "data_mute", "count": 1})
    await floor.advance(15)

    async def quiet() -> bool:
        return seat.data.unheard() == {"AAPL"}

    await floor.until(quiet, "the socket is quiet by the machine's clock")
    await minute(floor, "89.98", "90.02")

    async def closed() -> bool:
        return (await position(floor))["close_reason"] == "stop_loss"

    await floor.until(closed, "the stop is acted on over REST")

    async def told() -> bool:
        rows = await floor.rows("SELECT event_data FROM position_events WHERE event_type = 'alarm_raised'")
        return any("stream_deaf" in str(row["event_data"]) for row in rows)

    await floor.until(told, "the deaf socket is an alarm")
    await floor.until(lambda: _cleared(floor), "it is opened anew, and the alarm ends")


async def _cleared(floor: Floor) -> bool:
    return "stream_deaf:stock" not in await alarms(floor)
