"""Policies are data: contradictions are reported, every number shows in the hash (F57 F73 F110 F144)."""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import time, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any

import pytest

from exitguard.core.policy import (
    DEFAULT_POLICY,
    AlarmThresholds,
    Levels,
    OvernightWindow,
    Policy,
    TrailStep,
    policy_body,
    policy_hash,
    validate_policy,
)

D = Decimal
NAN = Decimal("NaN")


def test_the_default_policy_is_sound_and_has_the_numbers_of_the_specification() -> None:
    assert validate_policy(DEFAULT_POLICY) == []
    policy = DEFAULT_POLICY
    assert (policy.options.stop_loss_percent, policy.options.take_profit_percent) == (D(-40), D(80))
    assert policy.options.catastrophic_stop_percent == -50
    assert (policy.stocks.stop_loss_percent, policy.stocks.take_profit_percent) == (D(-2), D(3))
    assert [(int(s.from_percent), int(s.keep_percent)) for s in policy.trail_steps] == [(20, 70), (40, 80), (60, 85)]
    assert (policy.min_hold, policy.max_hold_minutes) == (timedelta(minutes=30), 240)
    assert (policy.day_trade_minutes_before_close, policy.expiration_hours) == (5, 24)
    assert policy.expiration_day_cutoff == time(15, 15)
    on = {name for name, value in vars_of(policy).items() if value is True}
    assert on == {"missing_bracket", "day_trade_close", "expiration_risk", "max_hold_time"}
    assert policy.levels(True) is policy.options
    assert policy.levels(False) is policy.stocks


def vars_of(policy: Policy) -> dict[str, Any]:
    return {f.name: getattr(policy, f.name) for f in dataclasses.fields(policy)}


def steps(*pairs: tuple[int, int]) -> tuple[TrailStep, ...]:
    return tuple(TrailStep(D(a), D(b)) for a, b in pairs)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"stocks": Levels(D(2), D(3))}, "stocks.stop_loss_percent"),
        ({"stocks": Levels(D(0), D(3))}, "stocks.stop_loss_percent"),
        ({"options": Levels(D(-101), D(80))}, "options.stop_loss_percent"),
        ({"options": Levels(D(-40), D(0))}, "options.take_profit_percent"),
        ({"options": Levels(D(-40), D(-80))}, "options.take_profit_percent"),
        ({"options": Levels(D(-40), D(80), D(-39))}, "at or beyond the stop"),
        ({"options": Levels(D(-40), D(80), D(5))}, "options.catastrophic_stop_percent"),
        ({"stocks": Levels(D(-2), D(3), D(-10))}, "applies to options only"),
        ({"options": Levels(NAN, D(80))}, "options.stop_loss_percent: must be a number"),
        ({"trail_steps": (TrailStep(D(20), D("Infinity")),)}, "trail_steps[0].keep_percent: must be a number"),
        ({"wide_floor": NAN}, "wide_floor: must be a number"),
        ({"trailing_stop": True, "trail_steps": ()}, "has no steps"),
        ({"trail_steps": steps((0, 50))}, "from must be > 0"),
        ({"trail_steps": steps((20, 100))}, "keep in (0, 100)"),
        ({"trail_steps": steps((20, 0))}, "keep in (0, 100)"),
        ({"trail_steps": steps((40, 70), (20, 80))}, "must rise"),
        ({"trail_steps": steps((20, 70), (20, 80))}, "must rise"),
        ({"trail_steps": steps((20, 80), (40, 70))}, "must rise"),
        ({"breakeven_arm_percent": D(0)}, "breakeven_arm_percent"),
        ({"profit_scaling_percent": D(0)}, "profit_scaling_percent"),
        ({"profit_scaling_share_percent": D(100)}, "profit_scaling_share_percent"),
        ({"profit_scaling_share_percent": D(0)}, "profit_scaling_share_percent"),
        ({"expiration_day_cutoff": time(15, 31)}, "expiration_day_cutoff"),
        ({"expiration_day_cutoff": time(9, 30)}, "expiration_day_cutoff"),
        ({"overnight": True, "overnight_windows": ()}, "has no windows"),
        ({"overnight_windows": (OvernightWindow(211, D(0)),)}, "inside the shortest"),
        ({"overnight_windows": (OvernightWindow(0, D(0)),)}, "inside the shortest"),
        ({"overnight_windows": (OvernightWindow(15, D(0)), OvernightWindow(60, D(0)))}, "nearer to the close"),
        ({"overnight_windows": (OvernightWindow(60, D(5)), OvernightWindow(15, D(0)))}, "stricter"),
        ({"overnight_windows": (OvernightWindow(60, D(0), 2), OvernightWindow(15, D(0), 1))}, "stricter"),
        ({"overnight_windows": (OvernightWindow(60, D(0), 0, D(100)), OvernightWindow(15, D(0)))}, "stricter"),
        ({"overnight_windows": (OvernightWindow(60, D(0), 0, D(0)),)}, "max_position_dollars"),
        ({"day_trade_minutes_before_close": 0}, "day_trade_minutes_before_close"),
        ({"day_trade_minutes_before_close": 211}, "day_trade_minutes_before_close"),
        ({"min_hold_minutes": -1}, "min_hold_minutes"),
        ({"min_hold_minutes": 240}, "must exceed min_hold_minutes"),
        ({"max_hold_minutes": 0}, "max_hold_minutes"),
        ({"expiration_hours": 0}, "expiration_hours"),
        ({"missing_bracket_grace_seconds": 0}, "missing_bracket_grace_seconds"),
        ({"max_quote_age_seconds": 0}, "max_quote_age_seconds"),
        ({"wide_confirm_seconds": 0}, "wide_confirm_seconds"),
        ({"adaptive_steps": 0}, "adaptive_steps"),
        ({"adaptive_steps": 10, "adaptive_step_seconds": 6}, "must end before close_deadline_seconds"),
        ({"close_deadline_seconds": 4}, "close_deadline_seconds"),
        ({"theta_near_days": 3}, "nearer expiry"),
        ({"theta_near_percent": D(-1)}, "nearer expiry"),
        ({"theta_far_days": 61}, "theta_far_days"),
        ({"max_relative_spread_percent": D(0)}, "max_relative_spread_percent"),
        ({"max_relative_spread_percent": D(201)}, "max_relative_spread_percent"),
        ({"adaptive_tight_spread_percent": D(0)}, "adaptive_tight_spread_percent"),
        ({"mark_divergence_percent": D(-1)}, "mark_divergence_percent"),
        ({"wide_floor": D("-0.01")}, "wide_floor"),
        ({"alarms": AlarmThresholds(blind_seconds=0)}, "alarms.blind_seconds"),
        ({"alarms": AlarmThresholds(naked_seconds=86_400)}, "alarms.naked_seconds"),
    ],
)
def test_f110_each_contradiction_is_reported_by_name(changes: dict[str, Any], problem: str) -> None:
    problems = validate_policy(replace(DEFAULT_POLICY, **changes))
    assert any(problem in text for text in problems), problems


def test_all_contradictions_are_listed_at_once() -> None:
    bad = Policy(stocks=Levels(D(2), D(-3)), min_hold_minutes=-1, trail_steps=steps((40, 70), (20, 60)))
    assert len(validate_policy(bad)) == 4


@pytest.mark.parametrize(
    "changes",
    [
        {"options": Levels(D(-40), D(80), D(-40))},
        {"options": Levels(None, None, D(-50))},
        {"options": Levels(None, None), "stocks": Levels(None, None)},
        {"trail_steps": steps((20, 70), (40, 70))},
        {"trail_steps": ()},
        {"max_hold_time": False, "max_hold_minutes": 10},
        {"name": "NaN"},
    ],
)
def test_sound_policies_pass(changes: dict[str, Any]) -> None:
    assert validate_policy(replace(DEFAULT_POLICY, **changes)) == []


def other(value: Any) -> Any:
    """A value of the same kind that is not the same."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, StrEnum):
        return next(member for member in type(value) if member is not value)
    if isinstance(value, int | Decimal):
        return value + 1
    if isinstance(value, time):
        return value.replace(second=1)
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, tuple):
        return value[:-1]
    assert value is None
    return D(-60)


def changed(value: Any) -> Iterator[Any]:
    """All copies of a dataclass tree that differ in one leaf."""
    for field in dataclasses.fields(value):
        old = getattr(value, field.name)
        if dataclasses.is_dataclass(old):
            yield from (replace(value, **{field.name: new}) for new in changed(old))
            continue
        if isinstance(old, tuple):
            for index, item in enumerate(old):
                for new in changed(item):
                    yield replace(value, **{field.name: (*old[:index], new, *old[index + 1 :])})
        yield replace(value, **{field.name: other(old)})


def test_f144_the_hash_changes_with_every_number() -> None:
    variants = list(changed(DEFAULT_POLICY))
    assert len(variants) > 60
    hashes = {policy_hash(variant) for variant in variants}
    assert len(hashes) == len(variants)
    assert policy_hash(DEFAULT_POLICY) not in hashes


def test_the_hash_does_not_change_with_the_way_a_number_is_written() -> None:
    same = replace(DEFAULT_POLICY, options=Levels(D("-40.00"), D("8E+1"), D("-50.0")), wide_floor=D("0.050"))
    assert policy_hash(same) == policy_hash(DEFAULT_POLICY)
    assert len(policy_hash(same)) == 12


def test_the_body_is_plain_json_and_loses_nothing() -> None:
    body = policy_body(DEFAULT_POLICY)
    assert json.loads(json.dumps(body)) == body
    assert body.keys() == vars_of(DEFAULT_POLICY).keys()
    assert body["options"]["stop_loss_percent"] == "-40"
    assert body["options"]["take_profit_percent"] == "80"
    assert body["expiration_day_cutoff"] == "15:15"
    assert type(body["price_basis"]) is str
    assert body["trail_steps"][0] == {"from_percent": "20", "keep_percent": "70"}
