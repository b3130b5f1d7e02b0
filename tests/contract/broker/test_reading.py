"""Reading over REST from a venue that does everything wrong: errors are never empty, bad rows never silent."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from tests.support.clients import IMPATIENT, PATIENT, make_broker
from tests.support.fake_venue import (
    BAD_GATEWAY,
    HANG,
    HTML,
    RESET,
    RESET_MID_BODY,
    Answer,
    FakeVenue,
    refusal,
)
from tests.support.payloads import account_json, clock_json, order_json, position_json

from exitguard.broker.port import (
    BrokerIncomplete,
    BrokerRefused,
    BrokerUnavailable,
    UnreadableRow,
)
from exitguard.broker.rest import AlpacaBroker
from exitguard.core.orders import (
    OrderStatus,
)
from exitguard.core.quote import QuoteLimits, QuoteState, classify


@pytest.mark.parametrize("fault", [BAD_GATEWAY, RESET, RESET_MID_BODY, HANG, Answer(HTML), Answer(b"")])
async def test_a_read_is_tried_again_a_bounded_number_of_times(venue: FakeVenue, fault: Answer) -> None:
    broker = make_broker(venue, timeouts=IMPATIENT if fault is HANG else PATIENT)
    venue.on("GET", "/v2/positions", fault, fault, Answer([position_json()]))
    assert len(await broker.positions()) == 1
    venue.on("GET", "/v2/positions", fault)
    venue.requests.clear()
    with pytest.raises(BrokerUnavailable):
        await broker.positions()
    assert len(venue.requests) == 3
    await broker.close()


@pytest.mark.parametrize(
    "reply",
    [
        Answer({"positions": []}),
        Answer(None),
        Answer("[]"),
        Answer(b""),
        Answer(HTML),
        Answer({"message": "internal"}, 500),
        Answer([], 404),
    ],
)
async def test_i11_f142_a_failed_or_empty_answer_is_never_no_positions(
    venue: FakeVenue, broker: AlpacaBroker, reply: Answer
) -> None:
    for path in ("/v2/positions", "/v2/orders", "/v2/account/activities/FILL", "/v2/calendar"):
        venue.on("GET", path, reply)
    with pytest.raises(BrokerUnavailable):
        await broker.positions()
    with pytest.raises(BrokerUnavailable):
        await broker.open_orders()
    with pytest.raises(BrokerUnavailable):
        await broker.fills()
    with pytest.raises(BrokerUnavailable):
        await broker.calendar(date(2026, 10, 8), date(2026, 10, 8))


async def test_f13_only_the_brokers_own_404_proves_absence(venue: FakeVenue, broker: AlpacaBroker) -> None:
    venue.on("GET", "/v2/positions/AAPL", refusal(404, 40410000, "position does not exist"))
    assert await broker.position("AAPL") is None
    venue.on("GET", "/v2/positions/AAPL", Answer({"message": "endpoint not found"}, 404))
    with pytest.raises(BrokerRefused):
        await broker.position("AAPL")
    venue.on("GET", "/v2/positions/AAPL", Answer(HTML, 404))
    with pytest.raises(BrokerUnavailable):
        await broker.position("AAPL")
    venue.on("GET", "/v2/positions/AAPL", Answer(position_json("AMZN")))
    with pytest.raises(BrokerUnavailable, match="asked for the position in 'AAPL'"):
        await broker.position("AAPL")


async def test_i11_a_row_that_cannot_be_read_makes_the_answer_incomplete_and_its_neighbours_survive(
    venue: FakeVenue,
) -> None:
    reported: list[UnreadableRow] = []
    broker = make_broker(venue, unreadable=reported)
    rows = [position_json("AAPL"), position_json("MSFT", qty="many"), 17, position_json("IBM", qty="-3", side="short")]
    venue.on("GET", "/v2/positions", Answer(rows))
    with pytest.raises(BrokerIncomplete) as caught:
        await broker.positions()
    assert [(p.symbol, p.qty) for p in caught.value.rows] == [("AAPL", Decimal(10)), ("IBM", Decimal(-3))]
    assert list(caught.value.unreadable) == reported
    assert [r.what for r in reported] == ["position", "position"]
    assert "qty must be a number, was 'many'" in reported[0].reason
    await broker.close()


async def test_i11_a_position_that_is_listed_twice_is_not_believed(venue: FakeVenue, broker: AlpacaBroker) -> None:
    venue.on("GET", "/v2/positions", Answer([position_json("AAPL"), position_json("AAPL", qty="20")]))
    with pytest.raises(BrokerIncomplete, match="'AAPL' is listed twice"):
        await broker.positions()


async def test_unknown_enums_and_missing_fields_do_not_spoil_an_order_list(
    venue: FakeVenue, broker: AlpacaBroker
) -> None:
    odd = order_json("o2", status="suspended_by_moon", type="iceberg", asset_class="crypto_perp", new_field=[1])
    bare = {"id": "o3", "symbol": "AAPL", "side": "sell", "status": "held", "qty": 4}
    venue.on("GET", "/v2/orders", Answer([order_json("o1"), odd, bare]))
    orders = await broker.open_orders()
    assert [o.status for o in orders] == [OrderStatus.NEW, OrderStatus.UNRECOGNISED, OrderStatus.HELD]
    assert orders[1].type is None
    assert orders[1].is_open
    assert orders[1].raw["status"] == "suspended_by_moon"
    assert orders[2].qty == 4
    assert venue.requests[0].query["nested"] == "true"


async def test_a_leg_is_not_listed_a_second_time(venue: FakeVenue, broker: AlpacaBroker) -> None:
    leg = order_json("leg", status="held", side="sell", position_intent="sell_to_close", stop_price="90")
    parent = order_json("parent", order_class="bracket", legs=[leg])
    venue.on("GET", "/v2/orders", Answer([parent, leg]))
    (order,) = await broker.open_orders()
    assert [o.id for o in order.family()] == ["parent", "leg"]


async def test_account_clock_and_calendar(venue: FakeVenue, broker: AlpacaBroker) -> None:
    venue.on("GET", "/v2/account", Answer(account_json()))
    venue.on("GET", "/v2/clock", Answer(clock_json()))
    day = {"date": "2026-11-27", "open": "09:30", "close": "13:00", "session_open": "0400", "session_close": "1700"}
    venue.on("GET", "/v2/calendar", Answer([day]))
    account = await broker.account()
    assert (account.account_number, account.equity) == ("PA0123456789", Decimal("100005.82"))
    assert account.last_equity == Decimal("99788.5123456")
    clock = await broker.clock()
    assert clock.now == datetime(2026, 10, 8, 14, 0, 0, 500_000, UTC)
    assert clock.next_close == datetime(2026, 10, 8, 20, tzinfo=UTC)
    (session,) = await broker.calendar(date(2026, 11, 23), date(2026, 11, 27))
    assert session.close == datetime(2026, 11, 27, 18, tzinfo=UTC)
    assert session.is_early_close
    assert venue.requests[-1].query == {"start": "2026-11-23", "end": "2026-11-27"}


async def test_the_clock_is_asked_once_only(venue: FakeVenue, broker: AlpacaBroker) -> None:
    venue.on("GET", "/v2/clock", BAD_GATEWAY)
    with pytest.raises(BrokerUnavailable):
        await broker.clock()
    assert len(venue.requests) == 1


async def test_f52_quotes_come_from_the_stock_and_the_option_endpoint(venue: FakeVenue, broker: AlpacaBroker) -> None:
    option = "AAPL261016C00200000"
    quote = {"t": "2026-10-08T14:00:00.123456789Z", "ap": 161.11, "as": 13, "bp": 161.1, "bs": 2, "c": ["R"]}
    venue.on("GET", "/v2/stocks/quotes/latest", Answer({"quotes": {"AAPL": quote, "BRK.B": {"bp": 1}}}))
    venue.on("GET", "/v1beta1/options/quotes/latest", Answer({"quotes": {option: {**quote, "bp": 0, "c": "B"}}}))
    quotes = await broker.latest_quotes(["AAPL", option, "BRK.B", "not a symbol!", "IBM"])
    assert quotes.keys() == {"AAPL", option}
    assert (quotes["AAPL"].bid, quotes["AAPL"].ask) == (Decimal("161.1"), Decimal("161.11"))
    assert [r.query["symbols"] for r in venue.requests] == ["AAPL,BRK.B,IBM", option]
    limits = QuoteLimits(timedelta(seconds=60), Decimal("0.2"))
    assert classify(quotes[option], quotes[option].at, limits) is QuoteState.ONE_SIDED


async def test_f48_a_nan_price_reaches_the_core_as_unusable(venue: FakeVenue, broker: AlpacaBroker) -> None:
    body = b'{"quotes": {"AAPL": {"t": "2026-10-08T14:00:00Z", "ap": NaN, "bp": "garbage", "as": null, "bs": -1}}}'
    venue.on("GET", "/v2/stocks/quotes/latest", Answer(body))
    quote = (await broker.latest_quotes(["AAPL"]))["AAPL"]
    assert quote.bid.is_nan()
    assert quote.ask.is_nan()
    assert (quote.bid_size, quote.ask_size) == (0, 0)
    assert classify(quote, quote.at, QuoteLimits(timedelta(60), Decimal(1))) is QuoteState.ABSENT
