"""Contracts under new names and terms, and multi-leg orders that fill in parts."""

from decimal import Decimal
from typing import Any

import pytest
from tests.unit.paper_engine.floor import Floor, refusal

from exitguard.paper.engine.wire import text

CALL, HIGHER = "KO261009C00050000", "KO261009C00051000"


# Corporate actions ------------------------------------------------------------------------------------------------


def corporate(floor: Floor, kind: str, **parameters: Any) -> None:
    floor.exchange.faults.add({"kind": kind, "symbol": "KO", "parameters": parameters})


def test_a_new_name_renames_the_contracts_and_keeps_their_ids() -> None:
    floor = Floor()
    floor.exchange.add_option_chain("KO")
    floor.quote(CALL, "1.00", "1.10")
    floor.hold("2", CALL)
    resting = floor.order(symbol=CALL, type="limit", limit_price="0.50", qty="1")
    floor.run()
    before = floor.exchange.get_option_contract(CALL)
    corporate(floor, "symbol_change", new_symbol="COKE")
    new = CALL.replace("KO", "COKE")
    (position,) = floor.exchange.list_positions(floor.account)
    assert (position["symbol"], position["qty"], position["asset_id"]) == (new, "2", before["id"])
    assert floor.get(resting)["status"] == "canceled"
    after = floor.exchange.get_option_contract(new)
    assert (after["id"], after["root_symbol"], after["underlying_symbol"]) == (before["id"], "COKE", "COKE")
    assert refusal(lambda: floor.exchange.get_option_contract(CALL))[0] == 404
    # It can be closed under its new name, and the activities of the next morning tell both sides.
    floor.quote(new, "1.20", "1.30")
    floor.exchange.close_position(floor.account, new, {})
    floor.run()
    assert floor.exchange.list_positions(floor.account) == []
    floor.to("04:00", days=1)
    told = floor.exchange.activities_by_type(floor.account, "OPCA", {"direction": "asc"})
    assert [(each["symbol"], each["qty"]) for each in told] == [(CALL, "-2"), (new, "2")]
    assert told[0]["group_id"] == told[1]["group_id"]


def test_a_split_adjusts_contracts_and_leaves_their_worth() -> None:
    floor = Floor()
    floor.exchange.add_option_chain("KO")
    floor.quote(CALL, "1.00", "1.00")
    floor.hold("2", CALL)
    strikes = {contract["strike_price"] for contract in contracts(floor)}
    worth = floor.exchange.list_positions(floor.account)[0]["market_value"]
    corporate(floor, "split", ratio=2)
    new = CALL.replace("00050000", "00025000")
    (position,) = floor.exchange.list_positions(floor.account)
    assert (position["symbol"], position["qty"], position["market_value"]) == (new, "4", worth)
    assert {contract["strike_price"] for contract in contracts(floor)} == {
        text(Decimal(strike) / 2) for strike in strikes
    }


def contracts(floor: Floor) -> list[dict[str, Any]]:
    wanted = {"underlying_symbols": "KO", "limit": "1000", "expiration_date_lte": "2027-01-01"}
    found: list[dict[str, Any]] = floor.exchange.list_option_contracts(wanted)["option_contracts"]
    return found


def test_a_split_that_would_change_deliverables_is_refused_while_contracts_are_held() -> None:
    floor = Floor()
    floor.exchange.add_option_chain("KO")
    floor.quote(CALL, "1.00", "1.00")
    corporate(floor, "split", ratio=1.5)
    floor.hold("2", CALL)
    status, body = refusal(lambda: corporate(floor, "split", ratio=1.5))
    assert (status, "no whole ratio" in body["message"]) == (422, True)


# Parts of multi-leg orders ----------------------------------------------------------------------------------------


def spread(floor: Floor, qty: str = "4") -> dict[str, Any]:
    floor.exchange.add_option_chain("KO")
    floor.quote(CALL, "1.00", "1.10")
    floor.quote(HIGHER, "0.40", "0.50")
    legs = [
        {"symbol": CALL, "ratio_qty": "1", "side": "buy"},
        {"symbol": HIGHER, "ratio_qty": "2", "side": "buy"},
    ]
    body = {"order_class": "mleg", "type": "limit", "limit_price": "3.00", "qty": qty, "legs": legs}
    return floor.exchange.submit_order(floor.account, {**body, "time_in_force": "day"})


@pytest.mark.parametrize(
    ("kind", "status", "filled"), [("partial_fill", "filled", "4"), ("partial_fill_then_cancel", "canceled", "1")]
)
def test_multi_leg_orders_fill_in_whole_spreads(kind: str, status: str, filled: str) -> None:
    floor = Floor()
    floor.exchange.faults.add({"kind": kind, "count": 1, "parameters": {"fraction": 0.3}})
    order = spread(floor)
    floor.run()
    found = floor.get(order)
    assert (found["status"], found["filled_qty"]) == (status, filled)
    assert [leg["filled_qty"] for leg in found["legs"]] == [filled, str(2 * int(filled))]
    assert {leg["status"] for leg in found["legs"]} == {status}
    assert (floor.qty(CALL), floor.qty(HIGHER)) == (int(filled), 2 * int(filled))
    assert floor.account.option_reserve == 0
    parts = [data for _, data in floor.events if data["event"] in ("partial_fill", "fill")]
    assert [part["qty"] for part in parts] == (["1", "3"] if status == "filled" else ["1"])
    assert parts[0]["legs"][1]["qty"] == "2"
