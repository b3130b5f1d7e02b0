"""Quotes that lie about their time, that only REST has, or that come late; positions that quotes must reach at once."""

from datetime import timedelta

import pytest
from tests.support.managed import OPENING, Managed, Venue

from exitguard.broker.port import BrokerUnavailable, Tick
from exitguard.core.orders import OrderSide
from exitguard.core.policy import CloseStyle, Policy
from exitguard.core.position import PositionSide
from exitguard.core.records import CloseReason, PositionStatus
from exitguard.manager import watcher as watcher_module

CALL = "AAPL260619C00150000"
OTHER = "AAPL260619C00160000"
POLICY = Policy(missing_bracket=False, min_hold_minutes=0, option_close_style=CloseStyle.MARKET)


def _tick(symbol: str, bid: float, ask: float, at_ns: int) -> Tick:
    return Tick(symbol, bid, ask, 10, 10, at_ns)


def _ns(seconds: float = 0) -> int:
    return int((OPENING.timestamp() + seconds) * 1_000_000_000)


@pytest.mark.parametrize(
    ("real_clock", "ahead"),
    [(True, 10), (True, 4 * 3600), (True, 400 * 86_400), (False, 4 * 3600), (False, 400 * 86_400)],
)
async def test_f48_a_quote_from_the_future_does_not_blind_a_position(real_clock: bool, ahead: int) -> None:
    async with Managed(Venue(), policy=POLICY, real_clock=real_clock) as managed:
        await managed.price(CALL, "5.00")
        position = await managed.enter(CALL, "10")
        managed.market.push(_tick(CALL, 4.99, 5.01, _ns(ahead)))
        managed.broker.match = lambda symbol: None  # type: ignore[method-assign]
        managed.broker.set_quote(CALL, "2.49", "2.51", at=OPENING + timedelta(milliseconds=1))
        await managed.market.delivered()
        del managed.broker.match
        managed.broker.match(CALL)
        row = await managed.closed(position)
        assert row.close_reason is CloseReason.CATASTROPHIC_STOP


@pytest.mark.parametrize("real_clock", [True, False])
async def test_f50_a_quote_that_only_rest_has_is_acted_upon_at_once(real_clock: bool) -> None:
    async with Managed(Venue(), policy=POLICY, real_clock=real_clock) as managed:
        await managed.price(CALL, "5.00")
        position = await managed.enter(CALL, "10")
        managed.market.push(_tick(CALL, 0.0, 5.01, _ns(0.001)))  # one-sided: blind
        await managed.market.delivered()
        managed.market.mute = True
        managed.broker.set_quote(CALL, "2.49", "2.51", at=OPENING + timedelta(milliseconds=2))
        if not real_clock:
            await managed.advance(1)
        await managed.closed(position)


@pytest.mark.parametrize("real_clock", [True, False])
async def test_a_new_position_gets_its_quotes_although_the_broker_lists_nothing(real_clock: bool) -> None:
    async with Managed(Venue(), policy=POLICY, real_clock=real_clock) as managed:
        managed.broker.set_quote(CALL, "4.99", "5.01")
        managed.broker.fail_reads("positions", BrokerUnavailable("HTTP 503"), times=1000)
        position = await managed.enter(CALL, "10")
        await managed.until(lambda: CALL in managed.market.watched, "quotes asked for")
        await managed.price(CALL, "2.50")
        await managed.closed(position)


async def test_a_blind_alarm_that_an_earlier_process_raised_is_cleared() -> None:
    venue = Venue()
    first = Managed(venue, policy=POLICY)
    first.start()
    await first.caught_up()
    await first.price(CALL, "5.00")
    position = await first.enter(CALL, "10")
    first.quote(CALL, "0", "5.01")
    await first.market.delivered()
    await first.advance(1)
    await first.advance(1)
    key = f"blind:{position.id}"
    await first.until(lambda: key in first.rows.alarms, "blind")
    await first.kill()
    async with Managed(venue, policy=POLICY) as restarted:
        await restarted.price(CALL, "5.00")
        await restarted.advance(1)
        await restarted.until(lambda: key not in restarted.rows.alarms, "sees again")


async def test_blindness_is_an_alarm_after_a_minute_also_between_sweeps() -> None:
    venue = Venue(OPENING + timedelta(seconds=30))
    async with Managed(venue, policy=POLICY) as managed:
        await managed.price(CALL, "5.00")
        position = await managed.enter(CALL, "10")
        managed.quote(CALL, "0", "5.01")
        await managed.market.delivered()
        await managed.advance(0.5)
        assert not managed.rows.alarms
        managed.venue.time += timedelta(seconds=31)
        managed.clock.observe(managed.venue.time, authoritative=True)
        await managed.until(lambda: f"blind:{position.id}" in managed.rows.alarms, "alarm 60 s after it went blind")


async def test_f60_a_position_that_cannot_be_evaluated_is_an_alarm_and_its_neighbours_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    evaluate, broken = watcher_module.evaluate, [True]

    def failing(position, *rest):  # type: ignore[no-untyped-def]
        if broken[0] and position.instrument.symbol == OTHER:
            raise ArithmeticError("a number that nobody thought of")
        return evaluate(position, *rest)

    monkeypatch.setattr(watcher_module, "evaluate", failing)
    async with Managed(Venue(), policy=POLICY) as managed:
        await managed.price(CALL, "5.00")
        await managed.price(OTHER, "5.00")
        good, bad = await managed.enter(CALL, "10"), await managed.enter(OTHER, "10")
        await managed.advance(1)
        await managed.until(lambda: f"evaluation:{bad.id}" in managed.rows.alarms, "a person is told")
        await managed.price(CALL, "2.50")
        await managed.closed(good)
        assert managed.row(bad.id).status is PositionStatus.OPEN
        broken[0] = False
        await managed.advance(1)
        await managed.until(lambda: not managed.rows.alarms, "alarm cleared")
        assert managed.row(bad.id).side is PositionSide.LONG


async def test_an_adopted_position_gets_its_quotes_at_once() -> None:
    async with Managed(Venue(), policy=POLICY, real_clock=True) as managed:
        managed.broker.set_quote("NVDA", "90", "90.02")
        managed.broker.external_order("NVDA", OrderSide.BUY, "7", "90")
        await managed.until(lambda: "NVDA" in managed.market.watched, "watched")
