"""Sessions: queueing, auctions, extended hours, expiry of orders, early closes, DST, jumps over several days."""

from datetime import UTC, datetime
from typing import Any

import pytest
from tests.unit.paper_engine.floor import Floor, refusal

from exitguard.core.session import NEW_YORK


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=NEW_YORK).astimezone(UTC)


def test_a_market_order_after_hours_waits_for_the_next_open() -> None:
    floor = Floor()
    floor.to("17:00")
    order = floor.order()
    floor.run()
    assert (floor.get(order)["status"], floor.get(order)["expires_at"]) == ("accepted", "2026-10-09T20:00:00Z")
    floor.quote("KO", "48", "48.02")
    assert floor.get(order)["status"] == "accepted"
    floor.to("09:30", days=1)
    assert floor.get(order)["status"] == "new", "yesterday's quote opens no day"
    floor.quote("KO", "47", "47.02")
    assert floor.get(order)["filled_avg_price"] == "47.02"
    assert floor.names() == ["pending_new", "accepted", "new", "fill"]


def test_extended_hours_orders_trade_before_and_after_and_others_do_not() -> None:
    floor = Floor()
    floor.to("17:00")
    extended = floor.order(type="limit", limit_price="50.1", extended_hours=True, qty="1")
    plain = floor.order(type="limit", limit_price="50.1", qty="1")
    floor.run()
    floor.quote("KO", "50", "50.1")
    assert (floor.get(extended)["status"], floor.get(plain)["status"]) == ("filled", "accepted")
    early = floor.order(type="limit", limit_price="49", extended_hours=True, qty="1")
    floor.run()
    assert floor.get(early)["expires_at"] == "2026-10-09T00:00:00Z"
    floor.to("20:00")
    assert floor.get(early)["status"] == "expired"
    late = floor.order(type="limit", limit_price="49", extended_hours=True, qty="1")
    floor.run()
    floor.to("04:00", days=1)
    assert floor.get(late)["status"] == "new"
    floor.quote("KO", "48.9", "49")
    assert floor.get(late)["status"] == "filled"


def test_day_orders_expire_at_the_close_and_gtc_orders_do_not() -> None:
    floor = Floor()
    day = floor.order(type="limit", limit_price="40", qty="1")
    gtc = floor.order(type="limit", limit_price="40", time_in_force="gtc", qty="1")
    floor.run()
    floor.to("16:00")
    assert (floor.get(day)["status"], floor.get(gtc)["status"]) == ("expired", "new")
    assert floor.get(day)["expired_at"].startswith("2026-10-08T20:00:00")
    floor.to("09:30", days=1)
    floor.quote("KO", "39.9", "40")
    assert floor.get(gtc)["status"] == "filled"


def test_a_gtc_order_ends_after_90_days() -> None:
    floor = Floor()
    order = floor.order(type="limit", limit_price="40", time_in_force="gtc")
    floor.run()
    floor.to("16:30", days=89)
    assert floor.get(order)["status"] == "new"
    floor.to("16:30", days=1)
    assert floor.get(order)["status"] == "expired"


def test_auction_orders_fill_at_the_open_and_at_the_close() -> None:
    floor = Floor(at=at("2026-10-08T08:00"))
    opening = floor.order(time_in_force="opg", qty="1")
    limit = floor.order(time_in_force="opg", type="limit", limit_price="40", qty="1")
    closing = floor.order(time_in_force="cls", qty="1")
    floor.run()
    assert floor.get(opening)["status"] == "accepted"
    floor.to("09:30")
    floor.quote("KO", "49", "49.02")
    assert floor.get(opening)["filled_avg_price"] == "49.02"
    assert floor.get(limit)["status"] == "canceled"
    floor.quote("KO", "51", "51.02")
    assert floor.get(closing)["status"] == "new"
    floor.to("16:00")
    assert floor.get(closing)["filled_avg_price"] == "51.02"


@pytest.mark.parametrize(
    ("clock", "tif", "taken"),
    [
        ("09:27", "opg", True),
        ("09:28", "opg", False),
        ("18:59", "opg", False),
        ("19:00", "opg", True),
        ("15:49", "cls", True),
        ("15:50", "cls", False),
        ("19:00", "cls", True),
    ],
)
def test_auction_cutoffs(clock: str, tif: str, taken: bool) -> None:
    floor = Floor(at=at(f"2026-10-08T{clock}"))
    if taken:
        assert floor.order(time_in_force=tif)["status"] == "pending_new"
    else:
        until = {"opg": "9:28am", "cls": "3:50pm"}[tif]
        message = f"{tif} orders must be submitted after 7:00pm and before {until}"
        assert refusal(lambda: floor.order(time_in_force=tif)) == (403, {"code": 40310000, "message": message})


def test_f115_an_early_close_ends_the_day_at_one() -> None:
    floor = Floor(at=at("2026-11-27T10:00"))
    order = floor.order(type="limit", limit_price="40")
    floor.run()
    assert floor.get(order)["expires_at"] == "2026-11-27T18:00:00Z"
    floor.to("13:00")
    assert floor.get(order)["status"] == "expired"
    late = floor.order()
    floor.run()
    assert (floor.get(late)["status"], floor.get(late)["expires_at"]) == ("accepted", "2026-11-30T21:00:00Z")


@pytest.mark.parametrize(("start", "open_utc"), [("2026-10-30T17:00", "14:30"), ("2026-03-06T17:00", "13:30")])
def test_f107_a_weekend_with_a_clock_change_moves_the_open_in_utc(start: str, open_utc: str) -> None:
    floor = Floor(at=at(start))
    order = floor.order()
    floor.run()
    boundary = floor.exchange.next_boundary(floor.now)
    while floor.get(order)["status"] == "accepted":
        floor.now = floor.exchange.next_boundary(floor.now)
        floor.exchange.advance_to(floor.now)
    assert boundary.astimezone(NEW_YORK).hour in (17, 20)
    assert f"{floor.now:%H:%M}" == open_utc


def test_a_jump_over_days_works_off_every_boundary_at_its_own_time() -> None:
    floor = Floor()
    order = floor.order(type="limit", limit_price="40")
    floor.run()
    floor.to("12:00", days=5)
    assert floor.get(order)["expired_at"].startswith("2026-10-08T20:00:00")


def test_a_host_that_forgets_to_announce_a_boundary_is_caught_up_with() -> None:
    floor = Floor()
    order = floor.order(type="limit", limit_price="40")
    floor.run()
    floor.now = at("2026-10-08T16:00:30")
    floor.order(type="limit", limit_price="40", qty="1")
    assert floor.get(order)["status"] == "expired"


def test_a_halted_symbol_takes_orders_and_fills_none() -> None:
    floor = Floor()
    floor.exchange.halt("KO")
    assert floor.exchange.is_halted("KO")
    order = floor.order()
    floor.run()
    floor.quote("KO", "49.9", "50")
    assert floor.get(order)["status"] == "new"
    floor.exchange.resume("KO")
    floor.quote("KO", "49.9", "50")
    assert floor.get(order)["status"] == "filled"


def test_a_stale_quote_does_not_trade() -> None:
    floor = Floor(at=at("2026-10-08T09:00"))
    floor.quote("KO", "49.9", "50")
    floor.to("09:30")
    order = floor.order()
    floor.run()
    assert floor.get(order)["status"] == "new"


@pytest.mark.parametrize("fields", [{}, {"type": "limit", "limit_price": "50.01"}])
def test_orders_of_a_saturday_wait_for_monday(fields: dict[str, Any]) -> None:
    floor = Floor(at=at("2026-10-10T12:00"))
    order = floor.order(**fields)
    floor.run()
    assert floor.get(order)["status"] == "accepted"
    floor.to("09:30", days=2)
    floor.quote("KO", "49.9", "50")
    assert floor.get(order)["status"] == "filled"
