"""What a broker does to positions by itself, done by the paper exchange over real HTTP and sockets, on PostgreSQL.

Each is booked for what it is: the reason in the history row, the same money as in the account's cash, nothing left over
on either side, nothing closed twice, and books that an audit derives again from the events.
"""

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from tests.support.floor import Floor, open_floor

from exitguard.broker.port import Accepted
from exitguard.core.orders import OrderRequest, OrderSide, OrderType, PositionIntent, TimeInForce
from exitguard.core.policy import CloseStyle, Levels, Policy
from exitguard.core.quote import Quote
from exitguard.core.session import NEW_YORK
from exitguard.paper.server.app import PaperServer
from exitguard.paper.server.settings import PaperSettings
from exitguard.store.audit import audit_account

# A Wednesday, ten in the morning in New York; the contracts expire on Friday.
START = datetime(2026, 11, 18, 15, 0, tzinfo=UTC)
CALL, LOW_CALL, HIGH_CALL = "AAPL261120C00190000", "AAPL261120C00180000", "AAPL261120C00200000"
PUT = "AAPL261120P00190000"
# Prices act on stocks alone: a split that is taken for a fall, or for a rise, would show.
POLICY = Policy(
    missing_bracket=False,
    min_hold_minutes=0,
    max_hold_time=False,
    expiration_risk=False,
    option_close_style=CloseStyle.MARKET,
    stocks=Levels(stop_loss_percent=Decimal(-5), take_profit_percent=Decimal(10)),
    options=Levels(None, None, None),
)


@pytest.fixture
async def floor(database_url: str) -> AsyncIterator[Floor]:
    """One account on an exchange whose stock stands still."""
    settings = PaperSettings({"large": Decimal(100_000)}, manual={"AAPL": Decimal(190)}, start=START, paused=True)
    async with PaperServer(settings) as server, open_floor(server, database_url) as found:
        await found.seat("large", POLICY, dispatch=False)
        yield found


def quote(floor: Floor, price: str, symbol: str = "AAPL") -> None:
    """Set the price of a stock."""
    bid, ask = Decimal(price) - Decimal("0.01"), Decimal(price) + Decimal("0.01")
    floor.server.host.player.publish(Quote(symbol, bid, ask, floor.now, 100, 100))


async def trade(floor: Floor, symbol: str, qty: str, side: OrderSide = OrderSide.BUY) -> None:
    """Somebody trades by hand; the manager takes over what it does not know."""
    opening = PositionIntent.BUY_TO_OPEN if side is OrderSide.BUY else PositionIntent.SELL_TO_OPEN
    request = OrderRequest(f"hand-{uuid4()}", symbol, side, Decimal(qty), OrderType.MARKET, TimeInForce.DAY, opening)
    before = len(await live(floor))
    assert isinstance(await floor.seats["large"].broker.submit(request), Accepted)
    await floor.advance(180)
    assert len(await live(floor)) == before + 1, "it is under management"


async def happen(floor: Floor, kind: str, symbol: str, account: str | None = None, **parameters: Any) -> None:
    """Make the exchange do something, and give the manager three looks at it."""
    floor.server.host.add_fault({"kind": kind, "symbol": symbol, "account": account, "parameters": parameters})
    await floor.advance(180)


async def morning(floor: Floor, days: int = 1) -> None:
    """Go to half past nine of a later day, and some minutes on."""
    opening = floor.now.astimezone(NEW_YORK).replace(hour=9, minute=30, second=0, microsecond=0)
    await floor.jump((opening + timedelta(days=days)).astimezone(UTC))
    await floor.advance(180)


async def live(floor: Floor) -> list[Mapping[str, Any]]:
    return await floor.rows("SELECT * FROM active_positions WHERE status <> 'closed' ORDER BY id")


async def history(floor: Floor) -> list[Mapping[str, Any]]:
    return await floor.rows("SELECT * FROM position_history ORDER BY closed_at, position_id")


async def cash(floor: Floor) -> Decimal:
    return (await floor.seats["large"].broker.account()).cash


async def prove(floor: Floor) -> None:
    """Both sides hold the same, nobody alarms, and the events give the tables."""
    ours = {row["symbol"]: row["quantity"] * (1 if row["side"] == "long" else -1) for row in await live(floor)}
    assert ours == {held.symbol: held.qty for held in await floor.seats["large"].broker.positions()}
    alarms = await floor.rows("SELECT kind, message FROM alarms WHERE cleared_at IS NULL AND kind <> 'blind'")
    assert [dict(alarm) for alarm in alarms] == []
    audit = await audit_account(floor.operator, "large")
    assert [finding.text for finding in audit.findings] == []


@pytest.mark.parametrize(
    ("ratio", "quantity", "price", "target"),
    [("2", "20", "95", "105"), ("1.5", "15", "126.67", "140"), ("0.25", "2.5", "760", "840")],
    ids=["forward", "three for two", "reverse, with a fraction"],
)
async def test_i5_a_split_is_the_same_position_in_other_terms(
    floor: Floor, ratio: str, quantity: str, price: str, target: str
) -> None:
    before = await cash(floor)
    await trade(floor, "AAPL", "10")
    (held,) = await live(floor)
    await floor.jump(datetime(2026, 11, 19, 2, 0, tzinfo=UTC))
    await happen(floor, "split", "AAPL", ratio=ratio)
    (split,) = await live(floor)
    assert (split["id"], split["uid"], split["quantity"]) == (held["id"], held["uid"], Decimal(quantity))
    assert abs(split["entry_price"] * split["quantity"] - held["entry_price"] * held["quantity"]) < Decimal("0.01")
    (event,) = await floor.rows("SELECT event_data FROM position_events WHERE event_type = 'split'")
    assert '"quantity_before": "10"' in str(event["event_data"])
    await morning(floor)
    quote(floor, price)
    await floor.advance(60)
    await prove(floor)
    assert await history(floor) == [], "no stop, no target: nothing has happened to the money"
    quote(floor, target)
    await floor.advance(60)
    (closed,) = await history(floor)
    assert (closed["close_reason"], closed["quantity"]) == ("take_profit", Decimal(quantity))
    assert abs(closed["realised_pnl"] - (await cash(floor) - before)) < Decimal("0.01")
    assert closed["realised_pnl"] > 150
    await prove(floor)


async def test_a_new_symbol_is_the_same_position(floor: Floor) -> None:
    before = await cash(floor)
    await trade(floor, "AAPL", "10")
    (held,) = await live(floor)
    await happen(floor, "symbol_change", "AAPL", new_symbol="APPL")
    (renamed,) = await live(floor)
    assert (renamed["symbol"], renamed["ticker"]) == ("APPL", "APPL")
    assert (renamed["id"], renamed["uid"], renamed["quantity"]) == (held["id"], held["uid"], 10)
    await prove(floor)
    quote(floor, "212", "APPL")
    await floor.advance(60)
    (closed,) = await history(floor)
    assert (closed["symbol"], closed["close_reason"], closed["position_id"]) == ("APPL", "take_profit", held["id"])
    assert abs(closed["realised_pnl"] - (await cash(floor) - before)) < Decimal("0.01")
    await prove(floor)


async def test_contracts_are_adjusted_with_their_stock(floor: Floor) -> None:
    await trade(floor, CALL, "3")
    (held,) = await live(floor)
    await happen(floor, "split", "AAPL", ratio="2")
    (adjusted,) = await live(floor)
    assert (adjusted["symbol"], adjusted["strike_price"]) == ("AAPL261120C00095000", 95)
    assert (adjusted["id"], adjusted["quantity"]) == (held["id"], 6)
    assert abs(adjusted["entry_price"] * 2 - held["entry_price"]) < Decimal("0.01")
    await happen(floor, "symbol_change", "AAPL", new_symbol="APPL")
    (renamed,) = await live(floor)
    assert (renamed["symbol"], renamed["ticker"]) == ("APPL261120C00095000", "APPL")
    assert (renamed["id"], renamed["quantity"]) == (held["id"], 6)
    kinds = await floor.rows("SELECT event_type FROM position_events WHERE event_type = 'contract_adjusted'")
    assert len(kinds) == 2
    assert await history(floor) == []
    await prove(floor)


async def test_an_exercise_closes_the_contract_and_brings_its_shares_at_the_strike(floor: Floor) -> None:
    before = await cash(floor)
    await trade(floor, LOW_CALL, "1")
    await happen(floor, "exercise", LOW_CALL, "large")
    (closed,) = await history(floor)
    assert (closed["close_reason"], closed["exit_price"], closed["quantity"]) == ("exercised", 0, 1)
    (shares,) = await live(floor)
    assert (shares["symbol"], shares["quantity"], shares["entry_price"]) == ("AAPL", 100, 180)
    await morning(floor)  # the activities have come
    await prove(floor)
    quote(floor, "199")
    await floor.advance(60)
    rows = await history(floor)
    assert [row["close_reason"] for row in rows] == ["exercised", "take_profit"]
    assert abs(sum(row["realised_pnl"] for row in rows) - (await cash(floor) - before)) < Decimal("0.01")
    await prove(floor)


async def test_t10_an_assignment_takes_the_shares_that_cover_it(floor: Floor) -> None:
    before = await cash(floor)
    await trade(floor, "AAPL", "150")
    await trade(floor, CALL, "1", OrderSide.SELL)
    await happen(floor, "assignment", CALL, "large")
    await morning(floor)
    (contract,) = await history(floor)
    assert (contract["symbol"], contract["side"], contract["close_reason"]) == (CALL, "short", "assigned")
    (shares,) = await live(floor)
    assert (shares["symbol"], shares["quantity"]) == ("AAPL", 50)
    await prove(floor)
    quote(floor, "212")
    await floor.advance(60)
    rows = await history(floor)
    assert abs(sum(row["realised_pnl"] for row in rows) - (await cash(floor) - before)) < Decimal("0.01")
    await prove(floor)


async def test_i8_an_exercise_against_shares_turns_the_position(floor: Floor) -> None:
    """A short position of shares is bought back at the strike; the rest of the shares is a position of its own."""
    await trade(floor, "AAPL", "10", OrderSide.SELL)
    await trade(floor, LOW_CALL, "1")
    await happen(floor, "exercise", LOW_CALL, "large")
    await floor.advance(120)
    rows = {row["symbol"]: row for row in await history(floor)}
    assert {row["close_reason"] for row in rows.values()} == {"exercised"}
    assert (rows["AAPL"]["side"], rows["AAPL"]["exit_price"], rows["AAPL"]["quantity"]) == ("short", 180, 10)
    (shares,) = await live(floor)
    assert (shares["symbol"], shares["side"], shares["quantity"]) == ("AAPL", "long", 90)
    await morning(floor)
    await prove(floor)


async def test_the_end_of_contracts_is_booked_for_what_it_was(floor: Floor) -> None:
    """On one expiry: one worthless, one exercised, one that the broker sold because its exercise cost too much."""
    before = await cash(floor)
    await trade(floor, HIGH_CALL, "2")
    await trade(floor, LOW_CALL, "1")
    await trade(floor, "AAPL261120C00170000", "30")
    assert len(await live(floor)) == 3
    await floor.jump(datetime(2026, 11, 20, 20, 20, tzinfo=UTC))
    quote(floor, "190")
    await floor.advance(20 * 60)
    (sold,) = await history(floor)
    assert (sold["symbol"], sold["close_reason"]) == ("AAPL261120C00170000", "broker_liquidation")
    assert sold["exit_price"] > 15
    await floor.jump(datetime(2026, 11, 20, 22, 30, tzinfo=UTC))
    await floor.advance(180)
    await floor.jump(datetime(2026, 11, 23, 15, 0, tzinfo=UTC))
    await floor.advance(180)
    ends = {row["symbol"]: (row["close_reason"], row["exit_price"]) for row in await history(floor)}
    assert ends[HIGH_CALL] == ("expired", 0)
    assert ends[LOW_CALL] == ("exercised", 0)
    (shares,) = await live(floor)
    assert (shares["symbol"], shares["quantity"], shares["entry_price"]) == ("AAPL", 100, 180)
    await prove(floor)
    paid = sum(row["realised_pnl"] for row in await history(floor))
    assert abs(paid - 18_000 - (await cash(floor) - before)) < Decimal("0.01")
