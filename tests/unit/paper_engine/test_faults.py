"""Faults: each does what its description says, is counted, logged, aimed and repeatable."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from tests.unit.paper_engine.floor import Floor, refusal

from exitguard.paper.engine import FAULT_KINDS

CALL = "KO261009C00050000"


def inject(floor: Floor, kind: str, **fields: Any) -> None:
    floor.exchange.faults.add({"kind": kind, **fields})


def test_an_accepted_order_can_still_be_rejected() -> None:
    floor = Floor()
    inject(floor, "accepted_then_rejected")
    order = floor.order()
    floor.run()
    view = floor.get(order)
    assert (view["status"], view["filled_qty"]) == ("rejected", "0")
    assert view["failed_at"] is not None
    assert floor.names() == ["pending_new", "new", "rejected"]


def test_a_cancel_can_be_accepted_and_then_filled() -> None:
    floor = Floor()
    inject(floor, "cancel_then_filled")
    order = floor.order(type="limit", limit_price="45")
    floor.run()
    floor.exchange.cancel_order(floor.account, order["id"])
    floor.run()
    assert (floor.get(order)["status"], floor.get(order)["filled_avg_price"]) == ("filled", "45")


def test_a_cancel_can_be_slow() -> None:
    floor = Floor()
    inject(floor, "cancel_slow", parameters={"seconds": 30})
    order = floor.order(type="limit", limit_price="45")
    floor.run()
    floor.exchange.cancel_order(floor.account, order["id"])
    floor.run(29)
    assert floor.get(order)["status"] == "pending_cancel"
    floor.run(2)
    assert floor.get(order)["status"] == "canceled"


def test_a_cancel_can_be_lost() -> None:
    floor = Floor()
    inject(floor, "cancel_lost", count=1)
    order = floor.order(type="limit", limit_price="45")
    floor.run()
    floor.exchange.cancel_order(floor.account, order["id"])
    floor.run(60)
    assert floor.get(order)["status"] == "new"
    floor.exchange.cancel_order(floor.account, order["id"])
    floor.run()
    assert floor.get(order)["status"] == "canceled"


@pytest.mark.parametrize(
    ("kind", "status", "filled"), [("partial_fill", "filled", "10"), ("partial_fill_then_cancel", "canceled", "3")]
)
def test_fills_can_be_divided_or_broken_off(kind: str, status: str, filled: str) -> None:
    floor = Floor()
    inject(floor, kind, parameters={"fraction": 0.3}, count=1)
    order = floor.order()
    floor.run()
    assert (floor.get(order)["status"], floor.get(order)["filled_qty"]) == (status, filled)


def test_an_overfill_executes_more_than_was_ordered() -> None:
    floor = Floor()
    inject(floor, "overfill", parameters={"qty": 2})
    order = floor.order()
    floor.run()
    assert (floor.get(order)["filled_qty"], floor.qty()) == ("12", 12)


def test_an_order_can_be_taken_and_never_filled() -> None:
    floor = Floor()
    inject(floor, "fill_withheld", count=1)
    order = floor.order()
    floor.run()
    floor.quote("KO", "40", "40.02")
    assert floor.get(order)["status"] == "new"


@pytest.mark.parametrize(("tif", "after"), [("day", "expired"), ("gtc", "filled")])
def test_an_order_done_for_day_wakes_only_when_good_till_cancelled(tif: str, after: str) -> None:
    floor = Floor()
    inject(floor, "done_for_day", count=1)
    order = floor.order(time_in_force=tif)
    floor.run()
    assert floor.get(order)["status"] == "done_for_day"
    floor.to("09:30", days=1)
    floor.quote("KO", "49.99", "50.01")
    assert floor.get(order)["status"] == after


def test_the_venue_can_expire_an_order_early() -> None:
    floor = Floor()
    inject(floor, "expired_early")
    order = floor.order()
    floor.run()
    assert floor.get(order)["status"] == "expired"


def test_the_venue_can_put_an_order_under_a_new_id() -> None:
    floor = Floor()
    inject(floor, "replaced_by_venue", count=1)
    order = floor.order(type="limit", limit_price="45")
    floor.run()
    old = floor.get(order)
    assert old["status"] == "replaced"
    new = floor.exchange.get_order(floor.account, old["replaced_by"])
    assert (new["status"], new["replaces"], new["limit_price"]) == ("new", old["id"], "45")


def test_a_replacement_can_be_rejected() -> None:
    floor = Floor()
    inject(floor, "replace_rejected")
    order = floor.order(type="limit", limit_price="45")
    floor.run()
    new = floor.exchange.replace_order(floor.account, order["id"], {"limit_price": "46"})
    floor.events.clear()
    floor.run()
    assert (floor.get(order)["status"], floor.get(new)["status"]) == ("new", "rejected")
    assert floor.names() == ["order_replace_rejected", "rejected"]


def test_positions_can_lag_behind_fills() -> None:
    floor = Floor()
    floor.hold("5")
    inject(floor, "positions_lag", parameters={"seconds": 10}, count=1)
    floor.hold("5")
    assert floor.exchange.get_position(floor.account, "KO")["qty"] == "5"
    assert floor.exchange.list_positions(floor.account)[0]["qty"] == "5"
    assert floor.exchange.state_json()["large"]["positions"]["KO"]["qty"] == "10"
    floor.run(11)
    assert floor.exchange.get_position(floor.account, "KO")["qty"] == "10"


def test_an_order_can_be_unfindable_for_a_moment() -> None:
    floor = Floor()
    inject(floor, "lookup_lag", parameters={"seconds": 2})
    order = floor.order(client_order_id="mine")
    ask = lambda: floor.exchange.get_order_by_client_order_id(floor.account, "mine")  # noqa: E731
    assert refusal(ask)[0] == 404
    assert refusal(lambda: floor.get(order))[0] == 404
    assert floor.exchange.list_orders(floor.account, {"status": "all"}) == []
    floor.run(3)
    assert ask()["id"] == order["id"]


# Events ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "parameters", "left"),
    [
        ("external_close", {}, 0),
        ("external_add", {"qty": 3}, 13),
        ("external_flip", {}, -10),
        ("external_flip", {"qty": 4}, -4),
    ],
)
def test_somebody_else_trades_the_position(kind: str, parameters: dict[str, int], left: int) -> None:
    floor = Floor()
    floor.bracket(client_order_id="mine")
    floor.run()
    inject(floor, kind, account="large", symbol="KO", parameters=parameters)
    floor.run()
    assert floor.qty() == left
    foreign = [fill for fill in floor.exchange.fills_json() if fill["client_order_id"] != "mine"]
    assert foreign


def test_the_broker_liquidates_an_option_under_a_foreign_id() -> None:
    floor = Floor()
    floor.exchange.add_option_chain("KO")
    floor.quote(CALL, "0.8", "0.9")
    floor.hold("2", CALL)
    inject(floor, "liquidation", account="large", symbol=CALL)
    floor.run()
    assert floor.qty(CALL) == 0
    assert floor.exchange.fills_json()[-1]["client_order_id"].startswith("liquidation-")


def test_assignment_and_exercise_out_of_the_blue() -> None:
    floor = Floor()
    floor.exchange.add_option_chain("KO")
    floor.quote(CALL, "0.8", "0.9")
    floor.hold("100")
    floor.order(symbol=CALL, side="sell", qty="1")
    floor.run()
    floor.events.clear()
    inject(floor, "assignment", account="large", symbol=CALL)
    assert (floor.qty(CALL), floor.qty("KO")) == (0, 0)
    floor.hold("1", CALL)
    floor.events.clear()
    inject(floor, "exercise", account="large", symbol=CALL)
    assert (floor.qty(CALL), floor.qty("KO"), floor.names()) == (0, 100, [])


def test_a_split_changes_quantity_and_price_and_cancels_orders() -> None:
    floor = Floor()
    floor.hold("10")
    order = floor.order(side="sell", type="limit", limit_price="60", time_in_force="gtc")
    floor.run()
    inject(floor, "split", symbol="KO", parameters={"ratio": 4})
    row = floor.exchange.get_position(floor.account, "KO")
    assert (row["qty"], row["avg_entry_price"], row["current_price"]) == ("40", "12.5025", "12.5")
    assert floor.get(order)["status"] == "canceled"
    floor.to("09:00", days=1)
    assert floor.exchange.activities_by_type(floor.account, "SPLIT", {})[0]["qty"] == "30"
    found = floor.exchange.announcements({"ca_types": "split", "since": "2026-10-01", "until": "2026-10-31"})
    assert (found[0]["initiating_symbol"], found[0]["new_rate"]) == ("KO", "4")


def test_a_symbol_change_keeps_the_asset_id() -> None:
    floor = Floor()
    floor.hold("10")
    before = floor.exchange.get_position(floor.account, "KO")
    inject(floor, "symbol_change", symbol="KO", parameters={"new_symbol": "KOX"})
    after = floor.exchange.get_position(floor.account, "KOX")
    assert (after["asset_id"], after["qty"]) == (before["asset_id"], "10")
    assert refusal(lambda: floor.exchange.get_position(floor.account, "KO"))[0] == 404
    floor.quote("KOX", "50", "50.02")
    floor.exchange.close_position(floor.account, "KOX", {})
    floor.run()
    assert floor.qty("KOX") == 0


def test_a_blocked_account_cannot_trade() -> None:
    floor = Floor()
    inject(floor, "account_block", account="large")
    assert refusal(floor.order)[1]["message"] == "account is blocked from trading"
    assert floor.exchange.account_json(floor.account)["trading_blocked"] is True
    inject(floor, "account_unblock", account="large")
    assert floor.order()["status"] == "pending_new"


# Aim, count, seed, log ------------------------------------------------------------------------------------------------


def test_faults_are_aimed_and_counted() -> None:
    faults = Floor().exchange.faults
    faults.add(
        {"kind": "http_504_after", "account": "large", "symbol": "KO", "endpoint": "POST /v2/orders", "count": 2}
    )
    aim = {"account": "large", "symbol": "KO", "endpoint": "POST /v2/orders"}
    for name in aim:
        assert faults.strike("http_504_after", **{**aim, name: "other"}) is None
    assert faults.strike("http_504_before", **aim) is None
    hits = [faults.strike("http_504_after", **aim) is not None for _ in range(4)]
    assert hits == [True, True, False, False]
    view = faults.to_json()
    assert view["injected"] == {"http_504_after": 2}
    assert [entry["symbol"] for entry in view["log"]] == ["KO", "KO"]
    assert view["log"][0]["at"] == "2026-10-08T15:00:00Z"
    assert view["faults"] == []


def test_the_same_seed_strikes_at_the_same_moments() -> None:
    def pattern(seed: int) -> list[bool]:
        faults = Floor().exchange.faults
        faults.add({"kind": "stream_drop", "probability": "0.5", "seed": seed})
        return [faults.strike("stream_drop") is not None for _ in range(200)]

    assert pattern(1) == pattern(1) != pattern(2)
    assert 60 < sum(pattern(1)) < 140


def test_faults_are_switched_off() -> None:
    faults = Floor().exchange.faults
    one, two = faults.add({"kind": "stream_drop"}), faults.add({"kind": "stream_drop"})
    assert faults.remove(one.id) is True
    assert faults.remove(one.id) is False
    assert faults.strike("stream_drop") is two
    faults.clear()
    assert faults.strike("stream_drop") is None


@pytest.mark.parametrize(
    "specification",
    [
        {},
        {"kind": "earthquake"},
        {"kind": "stream_drop", "probability": 2},
        {"kind": "stream_drop", "probability": "x"},
        {"kind": "stream_drop", "count": -1},
        {"kind": "stream_drop", "parameters": 3},
        {"kind": "slow_response", "parameters": {"seconds": "soon"}},
        {"kind": "slow_response", "parameters": {"seconds": -1}},
        {"kind": "clock_skew", "parameters": {"seconds": "nan"}},
        {"kind": "partial_fill", "parameters": {"fraction": True}},
        {"kind": "halt", "count": 2, "parameters": {"every": 0}},
        {"kind": "external_close"},
        {"kind": "external_close", "account": "large", "symbol": "KO"},
        {"kind": "halt", "symbol": "NOPE"},
        {"kind": "split", "symbol": "KO", "parameters": {"ratio": "x"}},
        {"kind": "symbol_change", "symbol": "KO", "parameters": {"new_symbol": "not a symbol"}},
        {"kind": "exercise", "account": "large", "symbol": "KO"},
    ],
)
def test_faults_that_make_no_sense_are_refused(specification: dict[str, Any]) -> None:
    floor = Floor()
    if specification.get("kind") == "exercise":
        floor.hold("1")
    assert refusal(lambda: floor.exchange.faults.add(specification))[0] == 422
    assert floor.exchange.faults.to_json()["log"] == []


def events(floor: Floor, minutes: int) -> list[tuple[str | None, str | None]]:
    """Let minutes pass, and tell whom events hit."""
    before = len(floor.exchange.faults.log)
    for _ in range(minutes):
        floor.now += timedelta(minutes=1)
        floor.exchange.try_events(floor.now, lambda fault: None)
        floor.run()
    return [(entry["account"], entry["symbol"]) for entry in list(floor.exchange.faults.log)[before:]]


def test_an_event_with_a_count_happens_so_often_and_no_more() -> None:
    floor = Floor()
    floor.hold("10")
    inject(floor, "external_add", count=3, parameters={"qty": 5, "every": 120})
    assert floor.qty() == 10, "it waits for market time to pass"
    assert events(floor, 20) == [("large", "KO")] * 3
    assert floor.qty() == 25
    assert floor.exchange.faults.to_json()["faults"] == []


def test_an_event_with_a_probability_strikes_what_there_is_by_its_seed() -> None:
    seen = []
    for seed in (1, 1, 2):
        floor = Floor()
        for symbol in ("PEP", "MCD"):
            floor.exchange.add_stock(symbol, Decimal(100))
        inject(floor, "halt", probability=0.3, seed=seed)
        inject(floor, "resume", probability=0.3, seed=seed)
        seen.append(events(floor, 60))
    assert seen[0] == seen[1] != seen[2]
    assert {symbol for _, symbol in seen[0]} == {"KO", "PEP", "MCD"}
    assert 10 < len(seen[0]) < 40


def test_an_event_waits_until_there_is_something_to_hit_within_its_target() -> None:
    floor = Floor()
    inject(floor, "external_close", account="large", count=2, probability=1)
    assert events(floor, 3) == []
    floor.order(floor.other, qty="5")
    floor.run()
    assert events(floor, 3) == [], "another account's position is none of its business"
    floor.hold("10")
    assert events(floor, 3) == [("large", "KO")]
    assert (floor.qty(), floor.other.position_qty("KO")) == (0, 5)
    assert floor.exchange.faults.remove(floor.exchange.faults.to_json()["faults"][0]["id"])
    assert not floor.exchange.faults.has_events


def test_every_kind_of_fault_is_described_and_every_event_can_happen() -> None:
    assert {entry["side"] for entry in FAULT_KINDS.values()} == {"engine", "wire", "event"}
    assert all(entry["description"] for entry in FAULT_KINDS.values())
    floor = Floor()
    floor.hold("10")
    for kind, entry in FAULT_KINDS.items():
        if entry["side"] == "event" and kind not in ("assignment", "exercise", "symbol_change"):
            inject(floor, kind, account="large", symbol="KO")
            floor.run()
            floor.quote("KO", "49.99", "50.01")
            if kind == "account_block":
                inject(floor, "account_unblock", account="large")
            if not floor.qty():
                floor.hold("10")
    assert Decimal(floor.exchange.state_json()["large"]["cash"]) > 0
