"""The rule table of spec/exits.md, row by row (F5 F6 F9 F54 F57, T3 T4 T5 T11)."""

import itertools
import json
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from tests.property.core.cases import BLIND, CALL, LATER, OPENED, PUT, STOCK, decide, rules, session_of, view, watched

from exitguard.core.evaluate import RULES, Action, Bracket, evaluate, scaling_qty
from exitguard.core.policy import Levels, OvernightWindow, Policy
from exitguard.core.position import PositionSide
from exitguard.core.records import CloseReason

CLOSE, HOLD, REDUCE, RESTORE = Action.CLOSE, Action.HOLD, Action.REDUCE, Action.RESTORE
SHORT = PositionSide.SHORT
TRAIL = Policy(trailing_stop=True, options=Levels(Decimal(-40), None, Decimal(-50)))
EVEN = Policy(breakeven_stop=True)
THETA = Policy(theta_decay=True)
SCALE = Policy(profit_scaling=True)


def case(name: str, action: Action, rule: str | None, price: str | None, policy: Policy | None = None, **position: Any):  # type: ignore[no-untyped-def]
    return pytest.param(action, rule, price, policy or Policy(), position, id=name)


@pytest.mark.parametrize(
    ("action", "rule", "price", "policy", "position"),
    [
        # Options: percentages of the premium; the boundary belongs to the rule.
        case("at entry", HOLD, None, "5.00"),
        case("call above its stop", HOLD, None, "3.01"),
        case("call at its stop", CLOSE, "stop_loss", "3.00"),
        case("put at its stop (F6)", CLOSE, "stop_loss", "3.00", symbol=PUT),
        case("call below its target", HOLD, None, "8.99"),
        case("call at its target", CLOSE, "take_profit", "9.00"),
        case("put at its target", CLOSE, "take_profit", "9.00", symbol=PUT),
        case("call beyond the catastrophic stop", CLOSE, "catastrophic_stop", "2.50"),
        case("short call at its stop", CLOSE, "stop_loss", "7.00", side=SHORT),
        case("short call beyond the catastrophic stop", CLOSE, "catastrophic_stop", "7.50", side=SHORT),
        case("short call at its target", CLOSE, "take_profit", "1.00", side=SHORT),
        case("short call in between", HOLD, None, "6.99", side=SHORT),
        # Stocks: -2 %, +3 %, no catastrophic stop.
        case("stock above its stop", HOLD, None, "98.01", symbol=STOCK, entry="100"),
        case("stock at its stop", CLOSE, "stop_loss", "98.00", symbol=STOCK, entry="100"),
        case("stock at its target", CLOSE, "take_profit", "103.00", symbol=STOCK, entry="100"),
        case("stock at half its price", CLOSE, "stop_loss", "50.00", symbol=STOCK, entry="100"),
        case("short stock at its stop", CLOSE, "stop_loss", "102.00", symbol=STOCK, entry="100", side=SHORT),
        case("short stock at its target", CLOSE, "take_profit", "97.00", symbol=STOCK, entry="100", side=SHORT),
        case("short stock in between", HOLD, None, "101.99", symbol=STOCK, entry="100", side=SHORT),
        # Levels given with the execution win.
        case("given stop not reached", HOLD, None, "96", symbol=STOCK, entry="100", stop_loss=Decimal(95)),
        case("given stop", CLOSE, "stop_loss", "95", symbol=STOCK, entry="100", stop_loss=Decimal(95)),
        case("given target not reached", HOLD, None, "104", symbol=STOCK, entry="100", take_profit=Decimal(105)),
        case("given target", CLOSE, "take_profit", "105", symbol=STOCK, entry="100", take_profit=Decimal(105)),
        case("given short stop", CLOSE, "stop_loss", "104", symbol=STOCK, entry="100", side=SHORT,
             stop_loss=Decimal(104)),
        case("given option stop", CLOSE, "stop_loss", "4.00", stop_loss=Decimal(4)),
        # F5: underlying dollars offered as premium levels are no levels; the policy's percentages hold.
        case("stop of the underlying (F5)", HOLD, None, "7.30", entry="7.30", stop_loss=Decimal("150.71")),
        case("stop of the underlying, policy's stop", CLOSE, "stop_loss", "4.38", entry="7.30",
             stop_loss=Decimal("150.71")),
        case("inverted put stop (F6)", HOLD, None, "5.00", symbol=PUT, stop_loss=Decimal(6), take_profit=Decimal(4)),
        case("level NaN", CLOSE, "stop_loss", "3.00", stop_loss=Decimal("NaN"), take_profit=Decimal("NaN")),
        case("level zero", CLOSE, "stop_loss", "3.00", stop_loss=Decimal(0)),
        case("stop switched off", HOLD, None, "3.00", Policy(options=Levels(None, None, Decimal(-50)))),
        case("all price rules off", HOLD, None, "0.01", Policy(options=Levels(None, None))),
        # Nothing is a share of an entry price of zero.
        case("entry zero", HOLD, None, "7.00", entry="0"),
        case("entry zero, short", HOLD, None, "7.00", entry="0", side=SHORT),
        # Trailing stop: from +20 % keep 70 %, +40 % keep 80 %, +60 % keep 85 %.
        case("no trail below the first step", HOLD, None, "5.00", TRAIL, best_price=Decimal("5.99")),
        case("first step, inside", HOLD, None, "5.71", TRAIL, best_price=Decimal("6.00")),
        case("first step", CLOSE, "trailing_stop", "5.70", TRAIL, best_price=Decimal("6.00")),
        case("second step, inside", HOLD, None, "6.61", TRAIL, best_price=Decimal("7.00")),
        case("second step", CLOSE, "trailing_stop", "6.60", TRAIL, best_price=Decimal("7.00")),
        case("third step", CLOSE, "trailing_stop", "9.25", TRAIL, best_price=Decimal("10.00")),
        case("third step, inside", HOLD, None, "9.26", TRAIL, best_price=Decimal("10.00")),
        case("this mark is the peak", HOLD, None, "12.00", TRAIL, best_price=Decimal("10.00")),
        case("short trail", CLOSE, "trailing_stop", "3.40", TRAIL, best_price=Decimal("3.00"), side=SHORT),
        case("short trail, inside", HOLD, None, "3.39", TRAIL, best_price=Decimal("3.00"), side=SHORT),
        case("trail off", HOLD, None, "5.50", best_price=Decimal("10.00")),
        # Breakeven stop.
        case("not armed", HOLD, None, "5.00", EVEN, best_price=Decimal("5.49")),
        case("armed, above entry", HOLD, None, "5.01", EVEN, best_price=Decimal("5.50")),
        case("armed, back at entry", CLOSE, "breakeven_stop", "5.00", EVEN, best_price=Decimal("5.50")),
        case("armed, below entry", CLOSE, "breakeven_stop", "4.00", EVEN, best_price=Decimal("5.50")),
        case("breakeven off", HOLD, None, "4.90", best_price=Decimal("5.50")),
        # Profit scaling.
        case("below the step", HOLD, None, "5.99", SCALE),
        case("at the step", REDUCE, "profit_scaling", "6.00", SCALE),
        case("only once", HOLD, None, "6.00", SCALE, scaled_out=True),
        case("a single contract", HOLD, None, "6.00", SCALE, qty=Decimal(1), original_qty=Decimal(1)),
        case("target before scaling", CLOSE, "take_profit", "9.00", SCALE),
        case("scaling off", HOLD, None, "6.00"),
        # Commands.
        case("manual close", CLOSE, "manual_close", "5.00", command=CloseReason.MANUAL_CLOSE),
        case("kill switch", CLOSE, "kill_switch", "5.00", command=CloseReason.KILL_SWITCH),
        case("command before stop", CLOSE, "manual_close", "1.00", command=CloseReason.MANUAL_CLOSE),
        case("command while blind", CLOSE, "kill_switch", None, command=CloseReason.KILL_SWITCH),
        # Deadline.
        case("deadline", CLOSE, "max_hold_time", "5.00", max_hold_deadline=LATER),
        case("deadline not yet", HOLD, None, "5.00", max_hold_deadline=LATER + timedelta(seconds=1)),
        case("deadline rule off", HOLD, None, "5.00", Policy(max_hold_time=False), max_hold_deadline=LATER),
        case("deadline while blind (T11)", CLOSE, "max_hold_time", None, max_hold_deadline=LATER),
        case("stop before time (F54)", CLOSE, "stop_loss", "2.85", max_hold_deadline=LATER),
        # Missing bracket: stocks only; restored first, closed when that failed for a minute.
        case("bracket missing", RESTORE, "missing_bracket", "100", symbol=STOCK, entry="100",
             bracket=Bracket.MISSING, bracket_missing_since=LATER - timedelta(seconds=59)),
        case("bracket missing for a minute", CLOSE, "missing_bracket", "100", symbol=STOCK, entry="100",
             bracket=Bracket.MISSING, bracket_missing_since=LATER - timedelta(seconds=60)),
        case("clock not started", RESTORE, "missing_bracket", "100", symbol=STOCK, entry="100",
             bracket=Bracket.MISSING),
        case("bracket missing while blind", RESTORE, "missing_bracket", None, symbol=STOCK, entry="100",
             bracket=Bracket.MISSING),
        case("bracket complete", HOLD, None, "100", symbol=STOCK, entry="100", bracket=Bracket.COMPLETE),
        case("bracket rule off", HOLD, None, "100", Policy(missing_bracket=False), symbol=STOCK, entry="100",
             bracket=Bracket.MISSING),
        case("an option needs none", HOLD, None, "5.00", bracket=Bracket.MISSING,
             bracket_missing_since=LATER - timedelta(hours=1)),
        case("stop before restoration", CLOSE, "stop_loss", "98", symbol=STOCK, entry="100", bracket=Bracket.MISSING),
        case("a close of lower priority before restoration", CLOSE, "max_hold_time", "100", symbol=STOCK, entry="100",
             bracket=Bracket.MISSING, max_hold_deadline=LATER),
        case("restoration before a reduction", RESTORE, "missing_bracket", "102",
             Policy(profit_scaling=True, profit_scaling_percent=Decimal(2)), symbol=STOCK, entry="100",
             bracket=Bracket.MISSING),
    ],
)  # fmt: skip
def test_each_row_of_the_rule_table(
    action: Action, rule: str | None, price: str | None, policy: Policy, position: dict[str, Any]
) -> None:
    decision = decide(watched(**position), price, policy=policy)
    assert (decision.action, decision.rule) == (action, rule)
    assert decision.blind is (price is None)
    assert not decision.pending
    if rule is not None:
        assert rules(decision)[0] == rule


@pytest.mark.parametrize(
    ("now", "price", "days", "action"),
    [
        ("1 day", "5.49", 1, CLOSE),
        ("1 day", "5.50", 1, HOLD),
        ("2 days", "4.99", 2, CLOSE),
        ("2 days", "5.00", 2, HOLD),
        ("3 days", "4.00", 3, HOLD),
        ("today", "5.49", 0, CLOSE),
    ],
)
def test_theta_decay_counts_calendar_days_in_new_york(now: str, price: str, days: int, action: Action) -> None:
    symbol = f"AAPL25030{3 + days}C00200000"
    policy = Policy(theta_decay=True, expiration_risk=False)
    decision = decide(watched(symbol), price, policy=policy)
    assert (decision.action, rules(decision)) == (action, ["theta_decay"] if action is CLOSE else []), now
    assert decide(watched(symbol), price, policy=Policy(expiration_risk=False)).action is HOLD


@pytest.mark.parametrize(
    ("minute", "price", "symbol", "held", "action"),
    [
        (89, "3.90", CALL, {}, HOLD),  # before every window
        (90, "3.90", CALL, {}, CLOSE),
        (90, "4.00", CALL, {}, HOLD),
        (181, "4.99", CALL, {}, CLOSE),
        (181, "5.00", CALL, {}, HOLD),
        (181, None, CALL, {}, HOLD),
        (181, "8.00", "AAPL250304C00200000", {}, CLOSE),  # one day to expiry, two demanded
        (181, None, "AAPL250304C00200000", {}, CLOSE),
        (181, "7.00", CALL, {"qty": Decimal(15)}, CLOSE),  # 10,500 dollars exposed
        (181, "7.00", CALL, {"qty": Decimal(14)}, HOLD),
        (181, "98.50", STOCK, {"entry": "100"}, HOLD),  # options only
    ],
)
def test_f109_overnight_windows_grow_stricter(
    minute: int, price: str | None, symbol: str, held: dict[str, Any], action: Action
) -> None:
    windows = (
        OvernightWindow(120, Decimal(-20)),
        OvernightWindow(30, Decimal(0), 2, Decimal(10_000)),
    )
    policy = Policy(overnight=True, overnight_windows=windows, expiration_risk=False)
    now = LATER.replace(hour=12, minute=30) + timedelta(minutes=minute)  # 14:00 is the first window's start
    decision = decide(watched(symbol, **held), price, now, policy)
    assert decision.action is action, rules(decision)
    assert decide(watched(symbol, **held), price, now, Policy(expiration_risk=False)).action is HOLD


def test_f57_rules_are_the_table_in_its_order_and_every_reason_once() -> None:
    table = {
        "manual_close": 0, "kill_switch": 0, "catastrophic_stop": 1, "stop_loss": 1, "take_profit": 1,
        "trailing_stop": 1, "breakeven_stop": 1, "missing_bracket": 1, "day_trade_close": 2, "expiration_risk": 2,
        "overnight": 2, "max_hold_time": 3, "theta_decay": 4, "profit_scaling": 5,
    }  # fmt: skip
    assert [(rule.reason.value, rule.priority) for rule in RULES] == list(table.items())
    blocked = {rule.reason.value for rule in RULES if rule.min_hold_blocks}
    assert blocked == {
        "stop_loss", "take_profit", "trailing_stop", "breakeven_stop", "theta_decay", "profit_scaling",
    }  # fmt: skip


def test_f54_a_decision_explains_every_rule_that_was_true_winner_first() -> None:
    everything = watched(
        "AAPL250303C00200000",
        command=CloseReason.MANUAL_CLOSE,
        max_hold_deadline=OPENED,
        best_price=Decimal(9),
        strategy="day_trade",
    )
    now = LATER.replace(hour=15, minute=56)
    policy = Policy(trailing_stop=True, breakeven_stop=True, theta_decay=True, overnight=True)
    decision = decide(everything, "2.00", now, policy)
    assert rules(decision) == [
        "manual_close", "catastrophic_stop", "stop_loss", "trailing_stop", "breakeven_stop", "day_trade_close",
        "expiration_risk", "overnight", "max_hold_time", "theta_decay",
    ]  # fmt: skip
    assert all(hit.compared for hit in decision.hits)
    told = decision.explain()
    assert told["rule"] == "manual_close"
    assert len(told["rules_true"]) == 10  # type: ignore[arg-type]
    assert json.loads(json.dumps(told, default=str))["pnl_percent"] == "-60.0"


def test_the_winner_comes_first_even_when_a_restoration_steps_back() -> None:
    position = watched(STOCK, "100", bracket=Bracket.MISSING, max_hold_deadline=LATER)
    decision = decide(position, "100")
    assert rules(decision) == ["max_hold_time", "missing_bracket"]
    assert decision.rule is CloseReason.MAX_HOLD_TIME


# Minimum hold ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [10, 25, 39, 40, 43, 49, 50, 60, 75, 90, 99])
def test_t5_loss_sweep_equals_the_policy_table(loss: int) -> None:
    price = Decimal(5) * (100 - loss) / 100
    for symbol, minute in itertools.product((CALL, PUT), range(32)):
        decision = decide(watched(symbol), price, OPENED + timedelta(minutes=minute))
        early = minute < 30
        expected: tuple[Action, str | None, str | None]
        if loss >= 50:
            expected = (CLOSE, "catastrophic_stop", None)
        elif loss >= 40:
            expected = (HOLD, None, "stop_loss") if early else (CLOSE, "stop_loss", None)
        else:
            expected = (HOLD, None, None)
        assert (decision.action, decision.rule, decision.held) == expected, (symbol, minute)


def test_t5_a_gain_of_120_percent_is_held_until_the_thirtieth_minute() -> None:
    early, due = OPENED + timedelta(minutes=29, seconds=59), OPENED + timedelta(minutes=30)
    held = decide(watched(), "11.00", early)
    assert (held.action, held.held, held.rule) == (HOLD, "take_profit", None)
    assert [hit.blocked for hit in held.hits] == [True]
    assert decide(watched(), "11.00", due).rule is CloseReason.TAKE_PROFIT


@pytest.mark.parametrize(
    ("position", "policy", "price", "rule"),
    [
        ({}, Policy(), "2.50", "catastrophic_stop"),
        ({"command": CloseReason.MANUAL_CLOSE}, Policy(), "5", "manual_close"),
        ({"command": CloseReason.KILL_SWITCH}, Policy(), "3", "kill_switch"),
        ({"max_hold_deadline": OPENED}, Policy(), "3", "max_hold_time"),
        ({"symbol": "AAPL250303C00200000"}, Policy(), "3", "expiration_risk"),
        ({"symbol": STOCK, "entry": "100", "bracket": Bracket.MISSING,
          "bracket_missing_since": OPENED - timedelta(hours=1)}, Policy(), "97", "missing_bracket"),
    ],
)  # fmt: skip
def test_what_the_minimum_hold_never_blocks(position: dict[str, Any], policy: Policy, price: str, rule: str) -> None:
    decision = decide(watched(**position), price, OPENED + timedelta(seconds=1), policy)
    assert (decision.action, decision.rule) == (CLOSE, rule)
    assert not decision.hits[0].blocked


@pytest.mark.parametrize(
    ("policy", "price", "changes", "rule"),
    [
        (TRAIL, "9.25", {"best_price": Decimal(10)}, "trailing_stop"),
        (EVEN, "4.99", {"best_price": Decimal("5.50")}, "breakeven_stop"),
        (Policy(theta_decay=True, expiration_risk=False), "4.99", {"symbol": "AAPL250304C00200000"}, "theta_decay"),
        (SCALE, "6.00", {}, "profit_scaling"),
        (Policy(), "3.00", {}, "stop_loss"),
        (Policy(), "9.00", {}, "take_profit"),
    ],
)
def test_the_minimum_hold_names_the_rule_that_it_holds(
    policy: Policy, price: str, changes: dict[str, Any], rule: str
) -> None:
    decision = decide(watched(**changes), price, OPENED + timedelta(minutes=29), policy)
    assert (decision.action, decision.held, decision.rule) == (HOLD, rule, None)
    assert decision.reduce_qty is None


def test_a_restoration_still_reports_the_rule_that_is_held() -> None:
    position = watched(STOCK, "100", bracket=Bracket.MISSING)
    decision = decide(position, "97", OPENED + timedelta(minutes=1))
    assert (decision.action, decision.rule, decision.held) == (RESTORE, "missing_bracket", "stop_loss")


# Blind ----------------------------------------------------------------------------------------------------------


def test_t11_f48_blind_price_rules_are_silent_and_time_rules_go_on() -> None:
    position = watched(best_price=Decimal(10))
    every = Policy(trailing_stop=True, breakeven_stop=True, profit_scaling=True, theta_decay=True)
    decision = decide(position, None, policy=every)
    assert (decision.action, decision.hits, decision.blind) == (HOLD, (), True)
    assert (decision.price, decision.pnl) == (None, None)
    expiring = watched("AAPL250303C00200000")
    assert decide(expiring, None).rule is CloseReason.EXPIRATION_RISK


def test_evaluate_is_pure() -> None:
    position, seen = watched(best_price=Decimal(8)), view(CALL, "3.00")
    first = evaluate(position, seen, LATER, session_of(LATER), TRAIL)
    assert all(evaluate(position, seen, LATER, session_of(LATER), TRAIL) == first for _ in range(3))
    assert evaluate(position, BLIND, LATER, session_of(LATER), TRAIL) != first


# Paths ----------------------------------------------------------------------------------------------------------


def test_t4_up_to_ten_and_back_fires_once_at_the_documented_level() -> None:
    up = [Decimal(p) / 100 for p in range(500, 1001, 5)]
    down = [Decimal(p) / 100 for p in range(995, 549, -5)]
    best, fired = Decimal(5), []
    for price in up + down:
        decision = decide(watched(best_price=best), price, policy=TRAIL)
        best = max(best, price)
        if decision.action is CLOSE:
            fired.append((price, decision.rule))
            break
    assert fired == [(Decimal("9.25"), "trailing_stop")]  # 85 % of a peak of +100 % is +85 %


def test_f55_without_the_persisted_peak_the_trail_would_forget() -> None:
    assert decide(watched(best_price=Decimal(10)), "5.50", policy=TRAIL).rule is CloseReason.TRAILING_STOP
    assert decide(watched(best_price=None), "5.50", policy=TRAIL).action is HOLD


@pytest.mark.parametrize("share", [1, 25, 40, 50, 99])
def test_f9_scaling_sells_whole_units_never_none_and_never_the_rest(share: int) -> None:
    policy = Policy(profit_scaling=True, profit_scaling_share_percent=Decimal(share))
    for original in range(1, 201):
        for qty in {original, (original + 1) // 2, 1}:
            position = watched(qty=Decimal(qty), original_qty=Decimal(original))
            part = scaling_qty(position, policy)
            floor = original * share // 100
            assert part == (floor if 1 <= floor < qty else None)
            decision = decide(position, "6.00", policy=policy)
            assert decision.action is (HOLD if part is None else REDUCE)
            assert decision.reduce_qty == part


def test_f9_fractional_stock_is_scaled_in_whole_shares() -> None:
    position = watched(STOCK, "100", qty=Decimal("2.5"), original_qty=Decimal("2.5"))
    assert scaling_qty(position, SCALE) == 1
    assert scaling_qty(watched(STOCK, "100", qty=Decimal("1.9"), original_qty=Decimal("1.9")), SCALE) is None
