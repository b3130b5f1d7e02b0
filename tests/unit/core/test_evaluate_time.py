"""Time rules under holidays, early closes and DST, and what happens outside trading hours (F53 F107-F115, T12)."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from tests.property.core.cases import CALENDAR, CALL, STOCK, decide, ny, rules, watched

from exitguard.core.evaluate import Action, Bracket, expiration_deadline, venue_takes_orders
from exitguard.core.instrument import parse_instrument
from exitguard.core.policy import DEFAULT_POLICY, Policy
from exitguard.core.records import CloseReason

CLOSE, HOLD = Action.CLOSE, Action.HOLD


def day_trade(opened: str, **changes: Any):  # type: ignore[no-untyped-def]
    at = ny(opened)
    return watched(
        STOCK, "100", strategy="day_trade", opened_at=at, max_hold_deadline=at + timedelta(days=30), **changes
    )


@pytest.mark.parametrize(
    ("opened", "now", "action", "pending"),
    [
        ("2025-03-03 10:00", "2025-03-03 15:54:59", HOLD, False),
        ("2025-03-03 10:00", "2025-03-03 15:55:00", CLOSE, False),
        ("2025-03-03 10:00", "2025-03-03 15:59:59", CLOSE, False),
        ("2025-03-03 15:57", "2025-03-03 15:58:00", CLOSE, False),
        # Early closes: five minutes before 13:00.
        ("2025-07-03 10:00", "2025-07-03 12:54:59", HOLD, False),
        ("2025-07-03 10:00", "2025-07-03 12:55:00", CLOSE, False),
        ("2025-11-28 10:00", "2025-11-28 12:55:00", CLOSE, False),
        # The same wall time on both sides of a change of clocks.
        ("2025-03-07 10:00", "2025-03-07 15:55:00", CLOSE, False),
        ("2025-03-10 10:00", "2025-03-10 15:54:59", HOLD, False),
        ("2025-03-10 10:00", "2025-03-10 15:55:00", CLOSE, False),
        ("2025-10-31 10:00", "2025-10-31 15:55:00", CLOSE, False),
        ("2025-11-03 10:00", "2025-11-03 15:54:59", HOLD, False),
        ("2025-11-03 10:00", "2025-11-03 15:55:00", CLOSE, False),
        ("2011-03-14 10:00", "2011-03-14 15:55:00", CLOSE, False),
        # Missed: due until it is done, and pending while the venue is closed.
        ("2025-03-03 10:00", "2025-03-03 16:00:00", HOLD, True),
        ("2025-03-03 10:00", "2025-03-03 22:00:00", HOLD, True),
        ("2025-03-03 10:00", "2025-03-04 09:29:59", HOLD, True),
        ("2025-03-03 10:00", "2025-03-04 09:30:00", CLOSE, False),
        ("2025-07-03 10:00", "2025-07-04 11:00:00", HOLD, True),
        ("2025-07-03 10:00", "2025-07-07 09:30:00", CLOSE, False),
        # Bought after the close for the next session: not due tonight.
        ("2025-03-03 17:00", "2025-03-03 18:00:00", HOLD, False),
    ],
)
def test_t12_f109_day_trades_end_before_the_sessions_close(
    opened: str, now: str, action: Action, pending: bool
) -> None:
    decision = decide(day_trade(opened), "100", ny(now))
    assert (decision.action, decision.pending) == (action, pending)
    assert decision.rule == ("day_trade_close" if action is CLOSE or pending else None)


def test_day_trade_close_concerns_day_trades_only_and_can_be_switched_off() -> None:
    now = ny("2025-03-03 15:57")
    assert decide(watched(STOCK, "100", strategy="swing"), "100", now).action is HOLD
    assert decide(day_trade("2025-03-03 10:00"), "100", now, Policy(day_trade_close=False)).action is HOLD
    early = Policy(day_trade_minutes_before_close=30)
    assert decide(day_trade("2025-03-03 10:00"), "100", ny("2025-03-03 15:30"), early).action is CLOSE


@pytest.mark.parametrize(
    ("symbol", "policy", "due"),
    [
        ("AAPL250620C00200000", Policy(), "2025-06-19 16:00"),  # a holiday (Juneteenth): pending, closes on Friday
        ("AAPL250321C00200000", Policy(), "2025-03-20 16:00"),
        ("AAPL250310C00200000", Policy(), "2025-03-09 16:00"),  # 24 h of real time, across the DST change
        ("AAPL251103C00200000", Policy(), "2025-11-02 16:00"),
        ("AAPL250703C00200000", Policy(), "2025-07-02 13:00"),  # early close at 13:00
        ("AAPL250418C00200000", Policy(), "2025-04-16 16:00"),  # Good Friday: the last session is Thursday
        ("AAPL250321C00200000", Policy(expiration_hours=1), "2025-03-21 15:00"),
        ("AAPL250321C00200000", Policy(expiration_hours=48), "2025-03-19 16:00"),
    ],
)
def test_f108_t12_options_leave_before_their_last_session_ends(symbol: str, policy: Policy, due: str) -> None:
    expiry = parse_instrument(symbol).expiry
    assert expiry is not None
    last = CALENDAR.session_on_or_before(expiry).close
    assert expiration_deadline(last, policy) == ny(due)
    opened = ny(due) - timedelta(hours=8)
    position = watched(symbol, expires_at=last, opened_at=opened, max_hold_deadline=opened + timedelta(days=30))
    assert decide(position, "5", ny(due) - timedelta(seconds=1), policy).hits == ()
    assert rules(decide(position, "5", ny(due), policy)) == ["expiration_risk"]
    assert rules(decide(position, None, ny(due), policy)) == ["expiration_risk"]


@pytest.mark.parametrize(
    ("close", "cutoff"),
    [
        ("2025-03-21 16:00", "2025-03-21 15:15"),
        ("2025-07-03 13:00", "2025-07-03 12:15"),
        ("2025-03-21 16:15", "2025-03-21 15:15"),
    ],
)
def test_t12_f115_the_cutoff_on_expiry_day_keeps_its_distance_from_an_early_close(close: str, cutoff: str) -> None:
    late = replace(DEFAULT_POLICY, expiration_hours=0)  # nothing but the cutoff binds
    assert expiration_deadline(ny(close), late) == ny(cutoff)


def test_an_option_past_its_expiry_is_still_wanted_out() -> None:
    position = watched("AAPL250303C00200000", opened_at=ny("2025-02-03 10:00"))
    after = decide(position, None, ny("2025-03-03 17:00"))
    assert (after.action, after.pending, after.rule) == (HOLD, True, "expiration_risk")


@pytest.mark.parametrize(
    ("now", "action", "pending"),
    [
        ("2025-03-03 12:00", CLOSE, False),
        ("2025-03-03 16:00", HOLD, True),
        ("2025-03-04 03:00", HOLD, True),
        ("2025-03-04 09:30", CLOSE, False),
        ("2025-03-08 12:00", HOLD, True),
        ("2025-04-18 12:00", HOLD, True),
        ("2025-07-03 13:00", HOLD, True),
    ],
)
def test_f53_f113_a_passed_deadline_is_true_for_ever_and_acts_when_the_venue_does(
    now: str, action: Action, pending: bool
) -> None:
    opened = ny("2025-03-03 08:00")
    position = watched("AAPL251219C00200000", opened_at=opened, max_hold_deadline=ny("2025-03-03 12:00"))
    for price in ("5.00", None):
        decision = decide(position, price, ny(now))
        assert (decision.action, decision.pending, decision.rule) == (action, pending, "max_hold_time")


@pytest.mark.parametrize(
    ("symbol", "extended", "now", "takes"),
    [
        (STOCK, False, "2025-03-03 09:29:59", False),
        (STOCK, False, "2025-03-03 09:30", True),
        (STOCK, False, "2025-03-03 16:00", False),
        (STOCK, True, "2025-03-03 03:59:59", False),
        (STOCK, True, "2025-03-03 04:00", True),
        (STOCK, True, "2025-03-03 19:59:59", True),
        (STOCK, True, "2025-03-03 20:00", False),
        (STOCK, True, "2025-03-08 12:00", False),
        (STOCK, True, "2025-04-18 12:00", False),
        (CALL, True, "2025-03-03 09:00", False),
        (CALL, True, "2025-03-03 16:30", False),
        (CALL, False, "2025-07-03 12:59:59", True),
        (CALL, False, "2025-07-03 13:00", False),
    ],
)
def test_f113_when_an_order_would_act_at_once(symbol: str, extended: bool, now: str, takes: bool) -> None:
    policy = Policy(extended_hours=extended)
    moment = ny(now)
    assert venue_takes_orders(parse_instrument(symbol), moment, CALENDAR.current(moment), policy) is takes


@pytest.mark.parametrize(
    ("changes", "price", "rule"),
    [
        ({}, "98", "stop_loss"),
        ({}, "103", "take_profit"),
        ({"command": CloseReason.MANUAL_CLOSE}, "100", "manual_close"),
        ({"command": CloseReason.KILL_SWITCH}, None, "kill_switch"),
        ({"bracket": Bracket.MISSING}, "100", "missing_bracket"),
        ({"bracket": Bracket.MISSING, "bracket_missing_since": ny("2025-03-03 10:00")}, "100", "missing_bracket"),
    ],
)
def test_f113_outside_hours_every_rule_is_pending(changes: dict[str, Any], price: str | None, rule: str) -> None:
    position = watched(STOCK, "100", **changes)
    decision = decide(position, price, ny("2025-03-03 17:00"))
    assert (decision.action, decision.pending, decision.rule) == (HOLD, True, rule)
    assert decision.explain()["pending"] is True
    assert not decide(position, price, ny("2025-03-03 17:00"), Policy(extended_hours=True)).pending


def test_a_reduction_is_pending_outside_hours_too() -> None:
    policy = Policy(profit_scaling=True, profit_scaling_percent=Decimal(2))
    decision = decide(watched(STOCK, "100"), "102", ny("2025-03-03 17:00"), policy)
    assert (decision.action, decision.pending, decision.reduce_qty) == (HOLD, True, None)


def test_f110_f114_the_minimum_hold_never_delays_a_time_rule() -> None:
    position = day_trade("2025-03-03 15:50")
    assert decide(position, "100", ny("2025-03-03 15:55")).action is CLOSE
    assert decide(position, "97", ny("2025-03-03 15:55")).rule is CloseReason.DAY_TRADE_CLOSE
