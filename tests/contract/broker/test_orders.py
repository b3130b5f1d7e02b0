"""Orders over REST against a venue that does everything wrong: what is proven, and nothing twice."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal

import pytest
from tests.support.clients import IMPATIENT, PATIENT, make_broker
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
from tests.support.payloads import account_json, fill_json, order_json, position_json

from exitguard.broker.budget import RequestBudget
from exitguard.broker.port import (
    Accepted,
    BrokerRateLimited,
    BrokerRefused,
    BrokerUnauthorised,
    BrokerUnavailable,
    CancelResult,
    Priority,
    Refused,
    Unknown,
)
from exitguard.broker.rest import AlpacaBroker
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


@pytest.fixture
async def impatient(venue: FakeVenue) -> AsyncIterator[AlpacaBroker]:
    """A client that soon gives up on a venue that does not answer."""
    client = make_broker(venue, timeouts=IMPATIENT)
    yield client
    await client.close()


@pytest.mark.parametrize("reply", UNKNOWN_OUTCOMES.values(), ids=UNKNOWN_OUTCOMES.keys())
async def test_an_unproven_outcome_is_unknown_and_never_sent_twice(
    venue: FakeVenue, broker: AlpacaBroker, impatient: AlpacaBroker, reply: Reply
) -> None:
    broker = impatient if reply is HANG else broker
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
    with pytest.raises(BrokerUnavailable, match=r"no connection to .*: Connection refused"):
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


async def test_a_429_is_a_refusal_with_the_venues_own_pause(venue: FakeVenue) -> None:
    still = RequestBudget(100_000, now=lambda: 0.0)  # the pause does not end
    broker = make_broker(venue, budget=still, timeouts=replace(PATIENT, exit_budget=0.2))
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
    await broker.close()


async def test_a_read_waits_for_the_reset_of_a_429_and_goes_on(venue: FakeVenue, broker: AlpacaBroker) -> None:
    reset = {"Date": "Thu, 08 Oct 2026 14:00:00 GMT", "X-RateLimit-Reset": str(1791468000.1)}
    venue.on("GET", "/v2/positions", Answer(b"too many requests.", 429, reset), Answer([position_json()]))
    assert [p.symbol for p in await broker.positions()] == ["AAPL"]
    assert len(venue.requests) == 2


async def test_a_long_pause_is_told_instead_of_waited_for(venue: FakeVenue) -> None:
    broker = make_broker(venue, timeouts=replace(PATIENT, budget=0.5))
    venue.on("GET", "/v2/positions", Answer(HTML, 429, {"Retry-After": "45"}))
    with pytest.raises(BrokerRateLimited) as caught:
        await broker.positions()
    assert caught.value.retry_after == 45
    assert len(venue.requests) == 1
    await broker.close()


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
    venue: FakeVenue, broker: AlpacaBroker, impatient: AlpacaBroker, reply: Answer, expected: CancelResult
) -> None:
    venue.on("DELETE", "/v2/orders/o1", reply)
    result = await (impatient if reply is HANG else broker).cancel("o1")
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


async def test_f99_an_exit_is_not_held_up_by_reads_that_hang(venue: FakeVenue) -> None:
    broker = make_broker(venue)
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
    broker = make_broker(venue, timeouts=replace(PATIENT, budget=0.5))
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
