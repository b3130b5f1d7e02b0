"""Long lists: nothing lost, nothing twice, holes told."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from tests.support.fake_venue import Answer, FakeVenue, Received
from tests.support.payloads import fill_json, order_json

from exitguard.broker.port import BrokerIncomplete, BrokerUnavailable
from exitguard.broker.rest import AlpacaBroker

START = datetime(2026, 10, 8, 14, tzinfo=UTC)


def nanoseconds(text: str) -> int:
    whole, _, fraction = text.rstrip("Z").partition(".")
    return int(datetime.fromisoformat(whole + "+00:00").timestamp()) * 10**9 + int(fraction.ljust(9, "0") or 0)


def order_book(orders: list[dict[str, Any]]) -> Callable[[Received], Answer]:
    """GET /v2/orders as documented: exclusive bounds on submitted_at, at most 500, newest first by default."""

    def serve(request: Received) -> Answer:
        query = request.query
        rows = sorted(orders, key=lambda o: nanoseconds(o["submitted_at"]))
        if "after" in query:
            rows = [o for o in rows if nanoseconds(o["submitted_at"]) > nanoseconds(query["after"])]
        if "until" in query:
            rows = [o for o in rows if nanoseconds(o["submitted_at"]) < nanoseconds(query["until"])]
        if "symbols" in query:
            rows = [o for o in rows if o["symbol"] in query["symbols"].split(",")]
        if query.get("direction", "desc") == "desc":
            rows.reverse()
        return Answer(rows[: int(query.get("limit", 50))])

    return serve


def stamped(number: int, at: datetime, nanos: str = "") -> dict[str, Any]:
    return order_json(f"o{number}", submitted_at=at.strftime("%Y-%m-%dT%H:%M:%S.%f") + nanos + "Z")


@pytest.mark.parametrize("count", [0, 1, 499, 500, 501, 1000, 1730])
async def test_all_open_orders_come_however_many(venue: FakeVenue, broker: AlpacaBroker, count: int) -> None:
    orders = [stamped(i, START + timedelta(milliseconds=i)) for i in range(count)]
    venue.on("GET", "/v2/orders", order_book(orders))
    found = await broker.open_orders()
    assert [o.id for o in found] == [o["id"] for o in orders]


@pytest.mark.parametrize("tied", [2, 499, 500, 501, 700, 999])
async def test_orders_that_share_a_timestamp_are_not_lost_between_pages(
    venue: FakeVenue, broker: AlpacaBroker, tied: int
) -> None:
    before = [stamped(i, START + timedelta(microseconds=i)) for i in range(498)]
    same = [stamped(10_000 + i, START + timedelta(seconds=1), f"{i % 7:03d}") for i in range(tied)]
    later = [stamped(20_000 + i, START + timedelta(seconds=1, microseconds=1 + i)) for i in range(600)]
    venue.on("GET", "/v2/orders", order_book(before + same + later))
    found = [o.id for o in await broker.orders_since(START - timedelta(days=1))]
    assert len(found) == len(set(found)), "none twice"
    assert set(found) == {o["id"] for o in before + same + later}


async def test_i11_more_orders_at_one_instant_than_can_be_listed_is_told(
    venue: FakeVenue, broker: AlpacaBroker
) -> None:
    venue.on("GET", "/v2/orders", order_book([stamped(i, START) for i in range(1500)]))
    with pytest.raises(BrokerIncomplete, match="more than 1000 orders") as caught:
        await broker.open_orders()
    assert len(caught.value.rows) == 1000


async def test_symbols_are_asked_in_portions(venue: FakeVenue, broker: AlpacaBroker) -> None:
    symbols = [f"{a}{b}{c}" for a in "ABCDEF" for b in "ABCDEFG" for c in "ABCDEF"]
    orders = [
        {**stamped(i, START + timedelta(seconds=i)), "symbol": symbol} for i, symbol in enumerate([*symbols, "ZZZ"])
    ]
    venue.on("GET", "/v2/orders", order_book(orders))
    assert {o.symbol for o in await broker.open_orders(symbols)} == set(symbols)
    assert max(len(r.query["symbols"]) for r in venue.requests) < 2500
    venue.requests.clear()
    assert await broker.open_orders([]) == []
    assert venue.requests == []


def activity_pages(rows: list[dict[str, Any]]) -> Callable[[Received], Answer]:
    def serve(request: Received) -> Answer:
        assert request.query["direction"] == "asc"
        chosen = sorted(rows, key=lambda r: r["id"])
        if token := request.query.get("page_token"):
            chosen = [r for r in chosen if r["id"] > token]
        return Answer(chosen[: min(100, int(request.query["page_size"]))])

    return serve


@pytest.mark.parametrize("count", [0, 99, 100, 101, 450])
async def test_all_fills_come_oldest_first(venue: FakeVenue, broker: AlpacaBroker, count: int) -> None:
    venue.on("GET", "/v2/account/activities/FILL", activity_pages([fill_json(i) for i in range(count)]))
    fills = await broker.fills()
    assert [f.execution_id for f in fills] == [f"execution-{i}" for i in range(count)]
    half = datetime(2026, 10, 8, 14, 0, 0, count // 2, UTC)
    assert len(await broker.fills(after=half)) == count - count // 2, "the moment itself is included"


async def test_a_list_that_does_not_go_on_is_incomplete(venue: FakeVenue, broker: AlpacaBroker) -> None:
    rows = [fill_json(i) for i in range(100)]
    venue.on("GET", "/v2/account/activities/FILL", Answer(rows))
    with pytest.raises(BrokerIncomplete, match="does not go on") as caught:
        await broker.fills()
    assert len(caught.value.rows) == 100


async def test_activities_leave_fills_out_and_keep_all_that_came(venue: FakeVenue, broker: AlpacaBroker) -> None:
    expiry = {
        "id": "20261008000000000::x",
        "activity_type": "OPEXP",
        "date": "2026-10-08",
        "symbol": "AAPL261008C00200000",
        "qty": "-2",
        "net_amount": "0",
        "status": "executed",
    }
    venue.on("GET", "/v2/account/activities", activity_pages([fill_json(1), expiry]))
    (activity,) = await broker.activities(after=date(2026, 10, 8))
    assert (activity.type, activity.qty, activity.date) == ("OPEXP", Decimal(-2), date(2026, 10, 8))
    assert activity.raw["status"] == "executed"
    assert venue.requests[0].query["after"] == "2026-10-07T00:00:00Z"


def contract(number: int) -> dict[str, Any]:
    return {
        "id": f"c{number}",
        "symbol": f"AAPL261016C{number:08d}",
        "status": "active",
        "tradable": True,
        "expiration_date": "2026-10-16",
        "underlying_symbol": "AAPL",
        "type": "call",
        "strike_price": str(number),
        "multiplier": "100",
        "size": "100",
        "open_interest": "237",
    }


async def test_all_contracts_come_and_an_expiry_range_is_always_asked(venue: FakeVenue, broker: AlpacaBroker) -> None:
    def serve(request: Received) -> Answer:
        start = int(request.query.get("page_token", 0))
        page = [contract(i) for i in range(start + 1, min(start + 1000, 2300) + 1)]
        token = str(start + 1000) if start + 1000 < 2300 else None
        return Answer({"option_contracts": page, "next_page_token": token})

    venue.on("GET", "/v2/options/contracts", serve)
    found = await broker.option_contracts(
        ["AAPL"], expiry_from=date(2026, 10, 9), expiry_to=date(2026, 10, 16), type="call", strike_from=Decimal("1.5")
    )
    assert len(found) == len({c.symbol for c in found}) == 2300
    assert found[0].strike == 1
    assert found[0].open_interest == 237
    query = venue.requests[0].query
    assert (query["expiration_date_gte"], query["expiration_date_lte"]) == ("2026-10-09", "2026-10-16")
    assert (query["type"], query["strike_price_gte"]) == ("call", "1.5")


async def test_a_contract_list_that_turns_in_circles_ends(venue: FakeVenue, broker: AlpacaBroker) -> None:
    venue.on("GET", "/v2/options/contracts", Answer({"option_contracts": [contract(1)], "next_page_token": "again"}))
    with pytest.raises(BrokerIncomplete, match="does not go on"):
        await broker.option_contracts(["AAPL"], expiry_from=date(2026, 10, 9), expiry_to=date(2026, 10, 16))
    venue.on("GET", "/v2/options/contracts", Answer([]))
    with pytest.raises(BrokerUnavailable):
        await broker.option_contracts(["AAPL"], expiry_from=date(2026, 10, 9), expiry_to=date(2026, 10, 16))


async def test_assets_by_symbol_and_in_bulk(venue: FakeVenue, broker: AlpacaBroker) -> None:
    row = {"id": "a1", "symbol": "AAPL", "class": "us_equity", "status": "active", "tradable": True, "shortable": True}
    venue.on("GET", "/v2/assets", Answer([{**row, "borrow_status": "easy_to_borrow"}, {**row, "id": "a2"}]))
    first, second = await broker.assets()
    assert (first.easy_to_borrow, second.easy_to_borrow) == (True, False)
    venue.on("GET", "/v2/assets/BRK.B", Answer({**row, "symbol": "BRK.B"}))
    found = await broker.asset("BRK.B")
    assert found is not None
    assert found.tradable
    venue.on("GET", "/v2/assets/NOPE", Answer({"code": 40410000, "message": "asset not found for NOPE"}, 404))
    assert await broker.asset("NOPE") is None
