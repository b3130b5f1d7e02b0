"""The REST client against a venue that does everything wrong."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from tests.support.fake_venue import (
    BAD_GATEWAY,
    GATEWAY_TIMEOUT,
    HANG,
    HTML,
    RESET,
    RESET_MID_BODY,
    Answer,
    FakeVenue,
    Received,
    Reply,
    eventually,
    refusal,
)
from tests.support.payloads import account_json, clock_json, fill_json, order_json, position_json

from exitguard.broker.budget import RequestBudget
from exitguard.broker.port import (
    Accepted,
    BrokerIncomplete,
    BrokerRateLimited,
    BrokerRefused,
    BrokerUnauthorised,
    BrokerUnavailable,
    CancelResult,
    Priority,
    Refused,
    Unknown,
    UnreadableRow,
)
from exitguard.broker.rest import AlpacaBroker, AlpacaEndpoints
from exitguard.broker.transport import Timeouts
from exitguard.core.errors import InvalidInput
from exitguard.core.orders import (
    OrderClass,
    OrderRequest,
    OrderSide,
    OrderStatus,
    OrderType,
    PositionIntent,
    TimeInForce,
)
from exitguard.core.quote import QuoteLimits, QuoteState, classify

QUICK = Timeouts(connect=1.0, total=0.3, exit_total=0.2, budget=0.5, exit_budget=0.2, retry=0.001)


@pytest.fixture
async def venue() -> AsyncIterator[FakeVenue]:
    async with FakeVenue() as fake:
        yield fake


@pytest.fixture
async def broker(venue: FakeVenue) -> AsyncIterator[AlpacaBroker]:
    client = make_broker(venue)
    yield client
    await client.close()


def make_broker(
    venue: FakeVenue, *, timeouts: Timeouts = QUICK, unreadable: list[UnreadableRow] | None = None
) -> AlpacaBroker:
    return AlpacaBroker(
        AlpacaEndpoints(venue.rest_url, venue.rest_url),
        "key-1",
        "secret-1",
        account_name="large",
        budget=RequestBudget(100_000),
        data_budget=RequestBudget(100_000),
        timeouts=timeouts,
        on_unreadable=unreadable.append if unreadable is not None else None,
    )


def request(**changes: object) -> OrderRequest:
    fields = {
        "client_order_id": "close-1",
        "symbol": "AAPL261016C00200000",
        "side": OrderSide.SELL,
        "qty": Decimal(3),
        "type": OrderType.LIMIT,
        "time_in_force": TimeInForce.DAY,
        "position_intent": PositionIntent.SELL_TO_CLOSE,
        "limit_price": Decimal("7.30"),
        **changes,
    }
    return OrderRequest(**fields)  # type: ignore[arg-type]


def echo(received: Received) -> Answer:
    return Answer(order_json("o9", status="pending_new", **received.body))


# Submitting


async def test_f2_f3_an_order_carries_its_intent_its_contract_and_exact_decimals(
    venue: FakeVenue, broker: AlpacaBroker
) -> None:
    venue.on("POST", "/v2/orders", echo)
    result = await broker.submit(request(qty=Decimal("0.557436865"), limit_price=Decimal("0.30")))
    assert isinstance(result, Accepted)
    assert result.order.id == "o9"
    assert result.order.status is OrderStatus.PENDING_NEW
    (sent,) = venue.requests
    assert sent.body == {
        "client_order_id": "close-1",
        "symbol": "AAPL261016C00200000",
        "qty": "0.557436865",
        "side": "sell",
        "type": "limit",
        "time_in_force": "day",
        "position_intent": "sell_to_close",
        "limit_price": "0.30",
    }
    assert sent.headers["APCA-API-KEY-ID"] == "key-1"
    assert sent.headers["APCA-API-SECRET-KEY"] == "secret-1"


async def test_a_bracket_carries_both_legs(venue: FakeVenue, broker: AlpacaBroker) -> None:
    venue.on("POST", "/v2/orders", echo)
    bracket = request(
        symbol="BRK.B",
        side=OrderSide.BUY,
        position_intent=PositionIntent.BUY_TO_OPEN,
        order_class=OrderClass.BRACKET,
        take_profit=Decimal("480.10"),
        stop_loss=Decimal("441"),
        extended_hours=False,
    )
    assert isinstance(await broker.submit(bracket), Accepted)
    body = venue.requests[0].body
    assert body["order_class"] == "bracket"
    assert body["take_profit"] == {"limit_price": "480.10"}
    assert body["stop_loss"] == {"stop_price": "441"}


@pytest.mark.parametrize(
    "changes",
    [
        {"qty": Decimal(0)},
        {"qty": Decimal("NaN")},
        {"limit_price": Decimal(-1)},
        {"limit_price": Decimal("Infinity")},
        {"client_order_id": ""},
        {"client_order_id": "x" * 129},
        {"side": OrderSide.BUY},
        {"order_class": OrderClass.BRACKET, "take_profit": Decimal(1)},
        {"stop_loss": Decimal(1)},
    ],
)
async def test_an_order_that_cannot_be_meant_is_not_sent(
    venue: FakeVenue, broker: AlpacaBroker, changes: dict[str, object]
) -> None:
    with pytest.raises(InvalidInput):
        await broker.submit(request(**changes))
    assert venue.requests == []


UNKNOWN_OUTCOMES: dict[str, Reply] = {
    "504 html": GATEWAY_TIMEOUT,
    "500 json": Answer({"code": 50010000, "message": "internal server error occurred"}, 500),
    "502 html": BAD_GATEWAY,
    "hang": HANG,
    "reset": RESET,
    "reset mid-body": RESET_MID_BODY,
    "200 html": Answer(HTML),
    "200 empty": Answer(b""),
    "200 not an order": Answer({"ok": True}),
    "200 someone else's order": Answer(order_json("o9", client_order_id="other")),
    "403 html of a proxy": Answer(HTML, 403),
    "408": Answer({"message": "request timeout"}, 408),
    "redirect": Answer(b"", 302, {"Location": "/v2/elsewhere"}),
}


@pytest.mark.parametrize("reply", UNKNOWN_OUTCOMES.values(), ids=UNKNOWN_OUTCOMES.keys())
async def test_an_unproven_outcome_is_unknown_and_never_sent_twice(
    venue: FakeVenue, broker: AlpacaBroker, reply: Reply
) -> None:
    venue.on("POST", "/v2/orders", reply)
    venue.on("PATCH", "/v2/orders/o1", reply)
    result = await broker.submit(request())
    assert isinstance(result, Unknown)
    assert result.sent
    replaced = await broker.replace("o1", client_order_id="r-1", stop_price=Decimal("90.5"))
    assert isinstance(replaced, Unknown)
    assert len(venue.sent("POST")) == len(venue.sent("PATCH")) == 1


async def test_f33_a_504_after_acceptance_is_found_by_its_own_id(venue: FakeVenue, broker: AlpacaBroker) -> None:
    accepted: list[str] = []

    def accept_and_fail(received: Received) -> Answer:
        accepted.append(received.body["client_order_id"])
        return GATEWAY_TIMEOUT

    def look_up(received: Received) -> Answer:
        wanted = received.query["client_order_id"]
        if wanted in accepted:
            return Answer(order_json("o9", client_order_id=wanted))
        return refusal(404, 40410000, "order not found")

    venue.on("POST", "/v2/orders", accept_and_fail)
    venue.on("GET", "/v2/orders:by_client_order_id", look_up)
    assert await broker.order_by_client_id("close-1") is None
    assert isinstance(await broker.submit(request()), Unknown)
    found = await broker.order_by_client_id("close-1")
    assert found is not None
    assert found.id == "o9"
    assert len(venue.sent("POST")) == 1


async def test_no_connection_proves_that_nothing_was_sent() -> None:
    async with FakeVenue() as venue:
        broker = make_broker(venue)
    result = await broker.submit(request())
    assert isinstance(result, Unknown)
    assert not result.sent
    with pytest.raises(BrokerUnavailable, match="no connection"):
        await broker.positions()
    await broker.close()
    late = await broker.submit(request())
    assert isinstance(late, Unknown)
    assert not late.sent


async def test_f7_a_refusal_is_definite_and_keeps_all_that_the_broker_said(
    venue: FakeVenue, broker: AlpacaBroker
) -> None:
    sub_penny = "invalid limit_price 290.123. sub-penny increment does not fulfill minimum pricing criteria"
    venue.on(
        "POST",
        "/v2/orders",
        refusal(422, 42210000, sub_penny),
        refusal(422, 42210000, "position intent mismatch, inferred: sell_to_open, specified: sell_to_close"),
        refusal(403, 40310000, "insufficient qty available for order", held_for_orders="3", available="0"),
        refusal(422, 40010001, "client_order_id must be unique"),
    )
    errors = []
    for _ in range(4):
        result = await broker.submit(request())
        assert isinstance(result, Refused)
        assert isinstance(result.error, BrokerRefused)
        errors.append(result.error)
    assert errors[0].reason == sub_penny
    assert (errors[0].status, errors[0].code) == (422, 42210000)
    assert errors[1].is_intent_mismatch
    assert errors[2].is_insufficient_quantity
    assert errors[2].extras == {"held_for_orders": "3", "available": "0"}
    assert errors[3].is_duplicate_client_order_id


@pytest.mark.parametrize(
    "reply",
    [
        Answer({"message": "unauthorized"}, 401),
        Answer({"code": 40110000, "message": "request is not authorized"}, 401),
        Answer({"message": "forbidden."}, 403),
        Answer(HTML, 401),
    ],
)
async def test_f79_f86_wrong_keys_are_an_error_of_their_own(
    venue: FakeVenue, broker: AlpacaBroker, reply: Answer
) -> None:
    venue.on("GET", "/v2/account", reply)
    venue.on("POST", "/v2/orders", reply)
    venue.on("DELETE", "/v2/orders/o1", reply)
    with pytest.raises(BrokerUnauthorised):
        await broker.account()
    assert len(venue.requests) == 1, "asking again with wrong keys leads to a lock-out"
    result = await broker.submit(request())
    assert isinstance(result, Refused)
    assert isinstance(result.error, BrokerUnauthorised)
    cancelled = await broker.cancel("o1")
    assert not cancelled.known
    assert isinstance(cancelled.error, BrokerUnauthorised)


# Rate limits


async def test_a_429_is_a_refusal_with_the_venues_own_pause(venue: FakeVenue, broker: AlpacaBroker) -> None:
    venue.on(
        "POST", "/v2/orders", Answer({"code": 42910000, "message": "rate limit exceeded"}, 429, {"Retry-After": "0.4"})
    )
    result = await broker.submit(request())
    assert isinstance(result, Refused)
    assert isinstance(result.error, BrokerRateLimited)
    assert result.error.retry_after == pytest.approx(0.4)
    # The pause holds for everything, so the next call waits longer than its patience and is not sent.
    again = await broker.submit(request())
    assert isinstance(again, Refused)
    assert isinstance(again.error, BrokerRateLimited)
    assert len(venue.requests) == 1


async def test_a_read_waits_for_the_reset_of_a_429_and_goes_on(venue: FakeVenue, broker: AlpacaBroker) -> None:
    reset = {"Date": "Thu, 08 Oct 2026 14:00:00 GMT", "X-RateLimit-Reset": str(1791468000.1)}
    venue.on("GET", "/v2/positions", Answer(b"too many requests.", 429, reset), Answer([position_json()]))
    assert [p.symbol for p in await broker.positions()] == ["AAPL"]
    assert len(venue.requests) == 2


async def test_a_long_pause_is_told_instead_of_waited_for(venue: FakeVenue, broker: AlpacaBroker) -> None:
    venue.on("GET", "/v2/positions", Answer(HTML, 429, {"Retry-After": "45"}))
    with pytest.raises(BrokerRateLimited) as caught:
        await broker.positions()
    assert caught.value.retry_after == 45
    assert len(venue.requests) == 1


# Reading


@pytest.mark.parametrize("fault", [BAD_GATEWAY, RESET, RESET_MID_BODY, HANG, Answer(HTML), Answer(b"")])
async def test_a_read_is_tried_again_a_bounded_number_of_times(
    venue: FakeVenue, broker: AlpacaBroker, fault: Answer
) -> None:
    venue.on("GET", "/v2/positions", fault, fault, Answer([position_json()]))
    assert len(await broker.positions()) == 1
    venue.on("GET", "/v2/positions", fault)
    venue.requests.clear()
    with pytest.raises(BrokerUnavailable):
        await broker.positions()
    assert len(venue.requests) == 3


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


# Cancelling


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Answer(status=204), CancelResult(known=True)),
        (refusal(404, 40410000, "order not found"), CancelResult(known=True, not_found=True)),
        (refusal(422, 42210000, 'order is already in "filled" state'), CancelResult(known=True, already_terminal=True)),
        (refusal(422, 42210000, 'order is already in "pending_cancel" state'), CancelResult(known=True)),
        (refusal(422, 42210000, "order is not cancelable"), CancelResult(known=True, already_terminal=True)),
        (GATEWAY_TIMEOUT, CancelResult(known=False)),
        (HANG, CancelResult(known=False)),
        (RESET, CancelResult(known=False)),
        (Answer(HTML, 404), CancelResult(known=False)),
    ],
)
async def test_a_cancel_is_sent_once_and_claims_only_what_is_proven(
    venue: FakeVenue, broker: AlpacaBroker, reply: Answer, expected: CancelResult
) -> None:
    venue.on("DELETE", "/v2/orders/o1", reply)
    result = await broker.cancel("o1")
    assert (result.known, result.already_terminal, result.not_found) == (
        expected.known,
        expected.already_terminal,
        expected.not_found,
    )
    assert len(venue.sent("DELETE")) == 1


async def test_a_delete_on_a_dead_kept_alive_connection_is_not_repeated(venue: FakeVenue, broker: AlpacaBroker) -> None:
    venue.on("GET", "/v2/account", Answer(account_json()))
    venue.on("DELETE", "/v2/orders/o1", RESET)
    await broker.account()
    assert not (await broker.cancel("o1")).known
    assert len(venue.sent("DELETE")) == 1


# Budget and bounds


async def test_an_exit_is_not_held_up_by_reads_that_hang(venue: FakeVenue) -> None:
    broker = make_broker(venue, timeouts=Timeouts(total=5.0))
    venue.on("GET", "/v2/positions", HANG)
    venue.on("POST", "/v2/orders", echo)
    reads = [asyncio.create_task(broker.positions()) for _ in range(20)]
    await eventually(lambda: len(venue.sent("GET")) == 20)
    assert isinstance(await broker.submit(request()), Accepted)
    for read in reads:
        read.cancel()
    await asyncio.gather(*reads, return_exceptions=True)
    await broker.close()


async def test_the_venues_remaining_count_shrinks_the_budget_but_not_the_exits(venue: FakeVenue) -> None:
    broker = make_broker(venue)
    left = Answer([], headers={"X-RateLimit-Remaining": "5"})
    venue.on("GET", "/v2/positions", left)
    venue.on("GET", "/v2/positions/AAPL", refusal(404, 40410000, "position does not exist"))
    await broker.positions()
    with pytest.raises(BrokerRateLimited, match="not sent"):
        await broker.positions()
    assert len(venue.requests) == 1
    assert await broker.position("AAPL", Priority.EXIT) is None
    await broker.close()


async def test_fills_are_known_by_execution_and_sorted(venue: FakeVenue, broker: AlpacaBroker) -> None:
    rows = [fill_json(2, side="sell_short"), fill_json(1), fill_json(3, order_id="o2")]
    venue.on("GET", "/v2/account/activities/FILL", Answer(rows))
    fills = await broker.fills(order_id="o1")
    assert [(f.execution_id, f.side) for f in fills] == [
        ("execution-1", OrderSide.BUY),
        ("execution-2", OrderSide.SELL),
    ]
    assert fills[0].price == Decimal("101.25")


async def test_credentials_are_not_shown(venue: FakeVenue, broker: AlpacaBroker) -> None:
    venue.on("GET", "/v2/account", RESET)
    with pytest.raises(BrokerUnavailable) as caught:
        await broker.account()
    assert "secret-1" not in repr(broker) + str(caught.value)
