"""Exit policies from the file: the specification's numbers, overridden key by key, and never contradictory."""

from datetime import time
from decimal import Decimal
from typing import Any

import pytest

from exitguard.config.policies import read_policies
from exitguard.core.policy import CloseStyle, OvernightWindow, Policy, TrailStep, policy_body


def read(**table: Any) -> Policy:
    policies, problems = read_policies({"p": table}, "file")
    assert problems == []
    return policies["p"]


def wrong(**table: Any) -> list[str]:
    policies, problems = read_policies({"p": table}, "file")
    assert "p" not in policies
    return [str(problem) for problem in problems]


def test_an_empty_table_is_the_specification() -> None:
    assert policy_body(read()) == policy_body(Policy()) | {"name": "p"}
    policies, problems = read_policies({}, "file")
    assert problems == []
    assert policies == {"default": Policy()}


def test_one_number_changes_one_number() -> None:
    policy = read(options={"stop_loss_percent": Decimal("-35.5")}, trailing_stop=True, alarms={"blind_seconds": 30})
    assert policy.options.stop_loss_percent == Decimal("-35.5")
    assert policy.options.take_profit_percent == Decimal(80)
    assert policy.trailing_stop
    assert policy.alarms.blind_seconds == 30
    assert policy.alarms.naked_seconds == Policy().alarms.naked_seconds
    assert policy.stocks == Policy().stocks


def test_off_switches_a_rule_off_and_lists_replace_lists() -> None:
    policy = read(
        options={"take_profit_percent": "off"},
        trail_steps=[{"from_percent": 10, "keep_percent": 50}],
        overnight_windows=[{"minutes_before_close": 30, "min_pnl_percent": 5, "max_position_dollars": "off"}],
        expiration_day_cutoff="15:00",
        stock_close_style="adaptive",
    )
    assert policy.options.take_profit_percent is None
    assert policy.trail_steps == (TrailStep(Decimal(10), Decimal(50)),)
    assert policy.expiration_day_cutoff == time(15, 0)
    assert policy.stock_close_style is CloseStyle.ADAPTIVE


def test_a_time_may_be_written_as_toml_writes_times() -> None:
    assert read(expiration_day_cutoff=time(15, 5)).expiration_day_cutoff == time(15, 5)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"max_hold_minuts": 5}, "file: policies.p.max_hold_minuts: found unknown key"),
        ({"max_hold_minuts": 5}, "did you mean 'max_hold_minutes'?"),
        ({"name": "x"}, "policies.p.name: found unknown key"),
        ({"options": {"stop_los_percent": -4}}, "policies.p.options.stop_los_percent: found unknown key"),
        ({"trail_steps": [{"from_percent": 1, "kep": 2}]}, "policies.p.trail_steps[0].kep: found unknown key"),
        ({"max_hold_minutes": "240"}, 'policies.p.max_hold_minutes: found "240", expected a valid integer'),
        ({"max_hold_minutes": True}, "policies.p.max_hold_minutes: found True, expected a valid integer"),
        ({"trailing_stop": 1}, "policies.p.trailing_stop: found 1, expected a valid boolean"),
        ({"trailing_stop": "off"}, "policies.p.trailing_stop"),
        ({"options": 3}, "policies.p.options"),
        ({"options": {"stop_loss_percent": "nan"}}, "policies.p.options.stop_loss_percent"),
        ({"price_basis": "middle"}, "policies.p.price_basis: found \"middle\", expected 'mid', 'bid' or 'last'"),
        ({"expiration_day_cutoff": "quarter past three"}, "policies.p.expiration_day_cutoff"),
        ({"options": {"catastrophic_stop_percent": -30}}, "must lie at or beyond the stop -40, was -30"),
        ({"trailing_stop": True, "trail_steps": []}, "policies.p.trail_steps"),
        ({"min_hold_minutes": 300}, "policies.p.max_hold_minutes"),
        ({"expiration_day_cutoff": "15:45"}, "policies.p.expiration_day_cutoff"),
    ],
)  # fmt: skip
def test_f84_wrong_keys_types_and_contradictions_are_named(table: dict[str, Any], expected: str) -> None:
    found = wrong(**table)
    assert any(expected in line for line in found), found


def test_a_bad_policy_does_not_hide_its_neighbours() -> None:
    policies, problems = read_policies({"bad": {"x": 1}, "good": {}, "worse": 7}, "file")
    assert set(policies) == {"default", "good"}
    assert len(problems) == 2


def test_overnight_windows_carry_exact_numbers() -> None:
    windows = [{"minutes_before_close": 30, "min_pnl_percent": "2.5", "max_position_dollars": 5000}]
    assert read(overnight_windows=windows).overnight_windows == (OvernightWindow(30, Decimal("2.5"), 0, Decimal(5000)),)
