"""Options: contracts, levels and refusals, the last hour, exercise, assignment, expiry, multi-leg orders."""

from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from tests.unit.paper_engine.floor import Floor, refusal

CALL, PUT = "KO261009C00050000", "KO261009P00050000"
HIGH_CALL, LATER = "KO261009C00052000", "KO261016C00050000"


def floor_with_options(**settings: Any) -> Floor:
    floor = Floor(**settings)
    floor.exchange.add_option_chain("KO", strikes_each_side=5)
    for symbol in (CALL, PUT, LATER):
        floor.quote(symbol, "0.80", "0.90")
    floor.quote(HIGH_CALL, "0.20", "0.25")
    return floor


REFUSALS = [
    (
        {"order_class": "bracket", "take_profit": {"limit_price": "2"}, "stop_loss": {"stop_price": "0.5"}},
        "complex orders not supported for options trading",
    ),
    (
        {"extended_hours": True, "type": "limit", "limit_price": "1"},
        "extended hours is not supported for options trading",
    ),
    ({"notional": "100", "qty": None}, "notional orders are not supported for options trading"),
    ({"qty": "1.5"}, "qty must be integer for options trading"),
    ({"time_in_force": "ioc"}, "invalid option time_in_force"),
    ({"type": "trailing_stop", "trail_price": "1"}, "invalid order type for options trading"),
    (
        {"type": "limit", "limit_price": "0.855"},
        "invalid limit_price 0.855. sub-penny increment does not fulfill minimum pricing criteria",
    ),
    (
        {"position_intent": "sell_to_close", "side": "sell"},
        "position intent mismatch, inferred: sell_to_open, specified: sell_to_close",
    ),
]


@pytest.mark.parametrize(("fields", "message"), REFUSALS)
def test_what_options_do_not_know(fields: dict[str, Any], message: str) -> None:
    floor = floor_with_options()
    assert refusal(lambda: floor.order(symbol=CALL, **{"qty": "1", **fields})) == (
        422,
        {"code": 42210000, "message": message},
    )


@pytest.mark.parametrize(
    ("level", "fields", "message"),
    [
        (0, {}, "account not authorized to trade options"),
        (1, {}, "account not eligible for level2 options trading"),
        (0, {"side": "sell"}, "account not authorized to trade options"),
        (3, {"side": "sell"}, "account not eligible to trade uncovered option contracts"),
    ],
)
def test_f4_option_levels(level: int, fields: dict[str, str], message: str) -> None:
    floor = floor_with_options(options_trading_level=level)
    status, body = refusal(lambda: floor.order(symbol=CALL, qty="1", **fields))
    assert (status, body["message"]) == (403, message)


def test_options_cost_a_hundred_times_their_premium() -> None:
    floor = floor_with_options()
    assert refusal(lambda: floor.order(floor.other, symbol=CALL, qty="12")) == (
        403,
        {
            "code": 40310000,
            "message": "insufficient options buying power",
            "options_buying_power": "1000",
            "cost_basis": "1080",
        },
    )
    floor.order(symbol=CALL, qty="2")
    floor.run()
    assert floor.account.cash == Decimal(100000) - 180
    (position,) = floor.exchange.list_positions(floor.account)
    assert (position["market_value"], position["cost_basis"], position["exchange"]) == ("170", "180", "")
    assert (position["asset_class"], position["avg_entry_price"]) == ("us_option", "0.9")


def test_a_cash_secured_put_needs_its_strike() -> None:
    floor = floor_with_options()
    assert refusal(lambda: floor.order(floor.other, symbol=PUT, side="sell", qty="1")) == (
        403,
        {
            "code": 40310000,
            "message": "insufficient options buying power for cash-secured put (required: 5000, available: 1000)",
            "buying_power": "1000",
            "required_options_buying_power": "5000",
        },
    )
    floor.order(symbol=PUT, side="sell", qty="1")
    floor.run()
    assert floor.qty(PUT) == -1


def test_a_covered_call_needs_and_locks_its_shares() -> None:
    floor = floor_with_options()
    floor.hold("50")
    status, body = refusal(lambda: floor.order(symbol=CALL, side="sell", qty="1"))
    assert (status, body["message"]) == (
        403,
        "insufficient underlying qty available for covered call (required: 100, available: 50)",
    )
    assert (body["available_qty"], body["required_qty"], body["symbol"]) == ("50", "100", "KO")
    floor.hold("60")
    floor.order(symbol=CALL, side="sell", qty="1")
    floor.run()
    positions = {row["symbol"]: row for row in floor.exchange.list_positions(floor.account)}
    assert positions["KO"]["qty_available"] == "10"
    assert refusal(lambda: floor.order(side="sell", qty="20"))[0] == 403


def test_option_market_orders_only_in_market_hours() -> None:
    floor = floor_with_options()
    floor.to("16:00")
    assert refusal(lambda: floor.order(symbol=CALL, qty="1"))[1]["message"] == (
        "options market orders are only allowed during market hours"
    )
    assert floor.order(symbol=LATER, qty="1", type="limit", limit_price="1")["status"] == "pending_new"


def test_t11_a_zero_bid_lets_a_market_sell_wait() -> None:
    floor = floor_with_options()
    floor.hold("1", CALL)
    floor.quote(CALL, "0", "0.05")
    order = floor.exchange.close_position(floor.account, CALL, {})
    floor.run()
    assert floor.get(order)["status"] == "new"
    floor.quote(CALL, "0.01", "0.05")
    assert floor.get(order)["filled_avg_price"] == "0.01"


def test_no_opening_orders_in_the_last_half_hour_of_a_contract_but_closing_ones() -> None:
    floor = floor_with_options()
    floor.hold("1", CALL)
    floor.to("15:30", days=1)
    floor.quote(CALL, "0.80", "0.90")
    assert refusal(lambda: floor.order(symbol=CALL, qty="1")) == (
        422,
        {"code": 42210000, "message": f'contract "{CALL}" expires soon, unable to open new positions'},
    )
    assert floor.order(symbol=CALL, side="sell", qty="1")["position_intent"] == "sell_to_close"


def test_an_expired_contract_is_refused_and_inactive() -> None:
    floor = floor_with_options()
    floor.to("17:00", days=1)
    assert floor.exchange.get_option_contract(CALL)["status"] == "inactive"
    assert refusal(lambda: floor.order(symbol=CALL, qty="1", type="limit", limit_price="1"))[1]["message"] == (
        f'contract "{CALL}" is not active'
    )


def test_a_long_call_in_the_money_is_exercised_and_told_only_by_positions_then_by_activities() -> None:
    floor = floor_with_options()
    floor.hold("1", CALL)
    floor.to("15:00", days=1)
    floor.quote("KO", "51.00", "51.02")
    floor.events.clear()
    cash = floor.account.cash
    floor.to("16:00")
    assert (floor.qty(CALL), floor.qty("KO")) == (0, 100)
    assert floor.account.cash == cash - 5000
    assert floor.names() == []
    assert {row["activity_type"] for row in floor.exchange.list_activities(floor.account, {})} == {"FILL"}
    floor.to("09:00", days=3)
    rows = floor.exchange.list_activities(floor.account, {"category": "non_trade_activity", "direction": "asc"})
    assert [(row["activity_type"], row["symbol"], row["qty"], row["price"], row["net_amount"]) for row in rows] == [
        ("OPEXC", CALL, "-1", "0", "0"),
        ("OPTRD", "KO", "100", "50", "-5000"),
    ]
    assert rows[0]["date"] == "2026-10-12"


@pytest.mark.parametrize(
    ("symbol", "bid", "shares_before", "shares_after"),
    [(PUT, "49.00", "100", 0), (CALL, "49.00", "0", 0), (CALL, "50.01", "0", 100), (CALL, "49.99", "0", 0)],
)
def test_expiry_exercises_from_one_cent_in_the_money(
    symbol: str, bid: str, shares_before: str, shares_after: int
) -> None:
    floor = floor_with_options()
    if shares_before != "0":
        floor.hold(shares_before)
    floor.hold("1", symbol)
    floor.to("15:00", days=1)
    floor.quote("KO", bid, bid)
    floor.to("16:00")
    assert (floor.qty(symbol), floor.qty("KO")) == (0, shares_after)


def test_an_option_out_of_the_money_expires_worthless() -> None:
    floor = floor_with_options()
    floor.hold("2", CALL)
    floor.to("15:00", days=1)
    floor.quote("KO", "48", "48.02")
    floor.to("16:00")
    assert floor.qty(CALL) == 0
    floor.to("09:00", days=3)
    (row,) = floor.exchange.activities_by_type(floor.account, "OPEXP", {})
    assert (row["symbol"], row["qty"], row["net_amount"]) == (CALL, "-2", "0")


def test_a_short_put_in_the_money_is_assigned() -> None:
    floor = floor_with_options()
    floor.order(symbol=PUT, side="sell", qty="1")
    floor.run()
    floor.to("15:00", days=1)
    floor.quote("KO", "47", "47.02")
    floor.to("16:00")
    assert (floor.qty(PUT), floor.qty("KO")) == (0, 100)
    floor.to("09:00", days=3)
    kinds = [row["activity_type"] for row in floor.exchange.list_activities(floor.account, {"direction": "asc"})]
    assert kinds == ["FILL", "OPASN", "OPTRD"]


def test_what_the_account_cannot_exercise_is_sold_out_from_half_past_three() -> None:
    floor = floor_with_options()
    floor.order(floor.other, symbol=CALL, qty="1", client_order_id="mine")
    floor.run()
    floor.to("15:29", days=1)
    floor.quote("KO", "60", "60.02")
    floor.quote(CALL, "9.90", "10.10")
    floor.exchange.submit_order(
        floor.other,
        {"symbol": CALL, "side": "sell", "qty": 1, "type": "limit", "limit_price": 12, "time_in_force": "day"},
    )
    floor.run()
    floor.events.clear()
    floor.to("15:30")
    floor.run()
    foreign = floor.events[-1][1]["order"]
    assert floor.names() == ["canceled", "pending_new", "new", "fill"]
    assert foreign["client_order_id"].startswith("liquidation-")
    assert floor.other.position_qty(CALL) == 0


def test_do_not_exercise_is_taken_on_the_last_day_only() -> None:
    floor = floor_with_options()
    floor.hold("1", CALL)
    assert refusal(lambda: floor.exchange.do_not_exercise(floor.account, CALL)) == (
        403,
        {
            "code": 40310000,
            "message": "dne requests are only accepted on the expiration day of the option contract",
        },
    )
    assert refusal(lambda: floor.exchange.do_not_exercise(floor.account, PUT)) == (
        404,
        {"code": 40410000, "message": f"long position not found: {PUT}"},
    )
    floor.to("12:00", days=1)
    floor.quote("KO", "52", "52.02")
    floor.exchange.do_not_exercise(floor.account, CALL)
    assert refusal(lambda: floor.exchange.exercise(floor.account, CALL))[1] == {
        "code": 40310000,
        "message": "cannot exercise position marked as do-not-exercise",
    }
    floor.to("16:00")
    assert (floor.qty(CALL), floor.qty("KO")) == (0, 0)


def test_exercise_on_request() -> None:
    floor = floor_with_options()
    floor.hold("2", CALL)
    assert refusal(lambda: floor.exchange.exercise(floor.account, CALL))[1]["message"] == (
        "you are attempting to exercise an out of the money option contract, "
        "please contact support@alpaca.markets to complete this request"
    )
    floor.quote("KO", "52", "52.02")
    floor.order(symbol=CALL, side="sell", qty="1", type="limit", limit_price="5")
    assert floor.exchange.exercise(floor.account, CALL) == {"qty_exercised": "1", "qty_remaining": "1"}
    assert (floor.qty(CALL), floor.qty("KO")) == (1, 100)
    assert refusal(lambda: floor.exchange.exercise(floor.account, CALL))[1]["message"] == "no qty available to exercise"
    assert refusal(lambda: floor.exchange.exercise(floor.account, "KO"))[0] == 422
    floor.to("16:00")
    assert refusal(lambda: floor.exchange.exercise(floor.account, CALL))[1]["message"] == (
        "exercise requests are not accepted after market close until midnight"
    )


# Contracts ------------------------------------------------------------------------------------------------------------


def test_contracts_are_listed_around_the_price_with_every_field() -> None:
    floor = floor_with_options()
    page = floor.exchange.list_option_contracts({"underlying_symbols": "KO", "limit": "3"})
    assert page["next_page_token"] == "3"
    contract = floor.exchange.get_option_contract(CALL)
    assert contract["id"] == floor.exchange.get_option_contract(contract["id"])["id"]
    expected = {
        "symbol": CALL,
        "type": "call",
        "strike_price": "50",
        "multiplier": "100",
        "size": "100",
        "style": "american",
    }
    assert {key: contract[key] for key in expected} == expected
    assert (contract["expiration_date"], contract["root_symbol"], contract["ppind"]) == ("2026-10-09", "KO", True)
    assert contract["deliverables"][0]["symbol"] == "KO"


@pytest.mark.parametrize(
    ("params", "check"),
    [
        ({}, lambda row: row["expiration_date"] <= "2026-10-09"),
        ({"expiration_date": "2026-10-16"}, lambda row: row["expiration_date"] == "2026-10-16"),
        ({"expiration_date_gte": "2026-10-20", "type": "put"}, lambda row: row["type"] == "put"),
        ({"strike_price_gte": "51", "strike_price_lte": "52"}, lambda row: 51 <= Decimal(row["strike_price"]) <= 52),
    ],
)
def test_contract_filters(params: dict[str, str], check: Any) -> None:
    floor = floor_with_options()
    rows = floor.exchange.list_option_contracts({"underlying_symbols": "KO", "limit": "10000", **params})[
        "option_contracts"
    ]
    assert rows
    assert all(check(row) for row in rows)


def test_chains_reach_from_this_week_to_the_monthlies_of_the_next_months() -> None:
    floor = Floor()
    floor.exchange.add_option_chain("KO")
    params = {"expiration_date_lte": "2027-12-31", "limit": "10000", "type": "call"}
    rows = floor.exchange.list_option_contracts(params)["option_contracts"]
    near = ["2026-10-08", "2026-10-09", "2026-10-12", "2026-10-13", "2026-10-14", "2026-10-15"]
    fridays = ["2026-10-16", "2026-10-23", "2026-10-30", "2026-11-06"]
    assert sorted({row["expiration_date"] for row in rows}) == [
        *near,
        *fridays,
        *["2026-11-20", "2026-12-18", "2027-01-15", "2027-02-19"],
    ]


def test_pages_of_contracts_cover_everything_once() -> None:
    floor = floor_with_options()
    token: str | None = None
    symbols: list[str] = []
    while True:
        params = {"expiration_date_lte": "2027-01-01", "limit": "37", **({"page_token": token} if token else {})}
        page = floor.exchange.list_option_contracts(params)
        symbols += [row["symbol"] for row in page["option_contracts"]]
        token = page["next_page_token"]
        if token is None:
            break
    assert len(symbols) == len(set(symbols)) > 37


def test_f115_a_contract_whose_expiry_is_a_holiday_ends_the_session_before() -> None:
    floor = Floor()
    (call, _) = floor.exchange.add_option_chain("KO", expiries=[date(2026, 12, 25)], strikes=[Decimal(50)])
    floor.quote(call, "1", "1.1")
    floor.hold("1", call)
    floor.to("13:00", days=(date(2026, 12, 24) - date(2026, 10, 8)).days)
    assert floor.qty(call) == 0
