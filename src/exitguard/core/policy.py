"""Exit policies: data, validated, hashed, and shown with their effective numbers.

Percentages are of the entry price (P&L percent as in `core.position.pnl`): -40 means a loss of 40 %. Options measure in
premium, stocks in dollars a share; a percentage is never compared with a level of the other kind (F5).
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from datetime import time, timedelta
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache
from itertools import pairwise
from typing import Any

from exitguard.core.errors import InvalidInput
from exitguard.core.quote import PriceBasis, QuoteLimits

ZERO = Decimal(0)


class CloseStyle(StrEnum):
    """How a close is sent: at market, or as a marketable limit that is re-priced and ends at market."""

    MARKET = "market"
    ADAPTIVE = "adaptive"


class InvalidPolicy(InvalidInput):
    """A policy whose numbers contradict each other; the message lists all contradictions."""


@dataclass(frozen=True, slots=True)
class TrailStep:
    """From a peak gain of `from_percent` on, close when less than `keep_percent` % of that gain is left."""

    from_percent: Decimal
    keep_percent: Decimal


@dataclass(frozen=True, slots=True)
class OvernightWindow:
    """In the last `minutes_before_close` of the session, hold only what satisfies every demand here.

    `min_pnl_percent`: at least this gain. `min_days_to_expiry`: options with fewer days are closed.
    `max_position_dollars`: a larger exposure (at the mark) is closed.
    """

    minutes_before_close: int
    min_pnl_percent: Decimal
    min_days_to_expiry: int = 0
    max_position_dollars: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Levels:
    """Price rules of one kind of instrument; None switches a rule off. Loss percentages are negative."""

    stop_loss_percent: Decimal | None
    take_profit_percent: Decimal | None
    catastrophic_stop_percent: Decimal | None = None


@dataclass(frozen=True, slots=True)
class AlarmThresholds:
    """How long a state may last before a person is told, in seconds of venue time."""

    blind_seconds: int = 60
    naked_seconds: int = 60
    mark_divergence_seconds: int = 120


@dataclass(frozen=True, slots=True)
class Policy:
    """Every number that an exit decision depends on. Defaults are those of `spec/exits.md`."""

    name: str = "default"
    min_hold_minutes: int = 30
    stocks: Levels = Levels(Decimal(-2), Decimal(3))
    options: Levels = Levels(Decimal(-40), Decimal(80), Decimal(-50))
    trailing_stop: bool = False
    trail_steps: tuple[TrailStep, ...] = (
        TrailStep(Decimal(20), Decimal(70)),
        TrailStep(Decimal(40), Decimal(80)),
        TrailStep(Decimal(60), Decimal(85)),
    )
    breakeven_stop: bool = False
    breakeven_arm_percent: Decimal = Decimal(10)
    missing_bracket: bool = True
    missing_bracket_grace_seconds: int = 60
    day_trade_close: bool = True
    day_trade_minutes_before_close: int = 5
    expiration_risk: bool = True
    expiration_hours: int = 24
    expiration_day_cutoff: time = time(15, 15)
    overnight: bool = False
    overnight_windows: tuple[OvernightWindow, ...] = (
        OvernightWindow(120, Decimal(-20), 1),
        OvernightWindow(60, Decimal(0), 2),
        OvernightWindow(15, Decimal(10), 3),
    )
    max_hold_time: bool = True
    max_hold_minutes: int = 240
    theta_decay: bool = False
    theta_near_days: int = 1
    theta_near_percent: Decimal = Decimal(10)
    theta_far_days: int = 2
    theta_far_percent: Decimal = ZERO
    profit_scaling: bool = False
    profit_scaling_percent: Decimal = Decimal(20)
    profit_scaling_share_percent: Decimal = Decimal(40)
    price_basis: PriceBasis = PriceBasis.MID
    max_quote_age_seconds: int = 90
    max_relative_spread_percent: Decimal = Decimal(10)
    wide_floor: Decimal = Decimal("0.05")
    wide_confirm_seconds: int = 1
    mark_divergence_percent: Decimal = Decimal(10)
    stock_close_style: CloseStyle = CloseStyle.MARKET
    option_close_style: CloseStyle = CloseStyle.ADAPTIVE
    adaptive_tight_spread_percent: Decimal = Decimal(3)
    adaptive_step_seconds: int = 2
    adaptive_steps: int = 3
    close_deadline_seconds: int = 60
    extended_hours: bool = False
    alarms: AlarmThresholds = field(default_factory=AlarmThresholds)

    def levels(self, is_option: bool) -> Levels:
        """Price rules for the kind of instrument."""
        return self.options if is_option else self.stocks

    @property
    def min_hold(self) -> timedelta:
        """How long after the first fill most price rules are held back."""
        return timedelta(minutes=self.min_hold_minutes)

    @property
    def quote_limits(self) -> QuoteLimits:
        """What a quote must satisfy to count as live."""
        return QuoteLimits(
            timedelta(seconds=self.max_quote_age_seconds),
            self.max_relative_spread_percent / 100,
            self.wide_floor,
        )


DEFAULT_POLICY = Policy()


def validate_policy(policy: Policy) -> list[str]:
    """List every contradiction in a policy, in words; an empty list means that it is sound."""
    problems = _non_finite(policy, "")
    if problems:
        return problems  # nothing can be compared with NaN
    problems = [*_level_problems(policy.stocks, "stocks"), *_level_problems(policy.options, "options")]
    if policy.stocks.catastrophic_stop_percent is not None:
        problems.append("stocks.catastrophic_stop_percent: the catastrophic stop applies to options only")
    steps = policy.trail_steps
    if policy.trailing_stop and not steps:
        problems.append("trail_steps: the trailing stop is on but has no steps")
    for step in steps:
        if step.from_percent <= 0 or not 0 < step.keep_percent < 100:
            problems.append(f"trail_steps: from must be > 0 and keep in (0, 100), was {_pair(step)}")
    for low, high in pairwise(steps):
        if not (low.from_percent < high.from_percent and low.keep_percent <= high.keep_percent):
            problems.append(f"trail_steps: must rise, was {_pair(low)} before {_pair(high)}")
    if policy.overnight and not policy.overnight_windows:
        problems.append("overnight_windows: the overnight rule is on but has no windows")
    if policy.theta_near_days > policy.theta_far_days or policy.theta_near_percent < policy.theta_far_percent:
        problems.append(
            "theta_near_days, theta_far_days: the nearer expiry must demand at least as much as the farther"
        )
    if policy.breakeven_arm_percent <= 0:
        problems.append(f"breakeven_arm_percent: must be > 0, was {policy.breakeven_arm_percent}")
    if not 0 < policy.profit_scaling_share_percent < 100:
        problems.append(
            f"profit_scaling_share_percent: must lie in (0, 100), was {policy.profit_scaling_share_percent}"
        )
    if policy.profit_scaling_percent <= 0:
        problems.append(f"profit_scaling_percent: must be > 0, was {policy.profit_scaling_percent}")
    if not time(9, 30) < policy.expiration_day_cutoff <= time(15, 30):
        problems.append(
            "expiration_day_cutoff: must lie after 09:30 and not after 15:30, when the broker begins to liquidate,"
            f" was {policy.expiration_day_cutoff:%H:%M}"
        )
    problems += _window_problems(policy)
    problems += _range_problems(policy)
    return problems


def _non_finite(value: Any, where: str) -> list[str]:
    if dataclasses.is_dataclass(value):
        fields = [f.name for f in dataclasses.fields(value)]
        return [p for name in fields for p in _non_finite(getattr(value, name), f"{where}.{name}" if where else name)]
    if isinstance(value, tuple):
        return [p for index, v in enumerate(value) for p in _non_finite(v, f"{where}[{index}]")]
    if isinstance(value, Decimal) and not value.is_finite():
        return [f"{where}: must be a number, was {value}"]
    return []


def _pair(step: TrailStep) -> str:
    return f"{step.from_percent}/{step.keep_percent}"


def _level_problems(levels: Levels, where: str) -> list[str]:
    problems = []
    stop, target, last = levels.stop_loss_percent, levels.take_profit_percent, levels.catastrophic_stop_percent
    for name, value in (("stop_loss_percent", stop), ("catastrophic_stop_percent", last)):
        if value is not None and not -100 <= value < 0:
            problems.append(f"{where}.{name}: must lie in [-100, 0), was {value}")
    if target is not None and target <= 0:
        problems.append(f"{where}.take_profit_percent: must be > 0, was {target}")
    if stop is not None and last is not None and last > stop:
        problems.append(f"{where}.catastrophic_stop_percent: must lie at or beyond the stop {stop}, was {last}")
    return problems


def _window_problems(policy: Policy) -> list[str]:
    problems = []
    windows = policy.overnight_windows
    shortest_session = 210  # minutes: 09:30 to 13:00, an early close
    for window in windows:
        if not 0 < window.minutes_before_close <= shortest_session:
            problems.append(
                f"overnight_windows: minutes_before_close must lie in 1..{shortest_session} (inside the shortest"
                f" session), was {window.minutes_before_close}"
            )
        if window.max_position_dollars is not None and window.max_position_dollars <= 0:
            problems.append(f"overnight_windows: max_position_dollars must be > 0, was {window.max_position_dollars}")
    for earlier, later in pairwise(windows):
        if later.minutes_before_close >= earlier.minutes_before_close:
            problems.append("overnight_windows: must come nearer to the close one after another")
        if (
            later.min_pnl_percent < earlier.min_pnl_percent
            or later.min_days_to_expiry < earlier.min_days_to_expiry
            or _dollars_allowed(later) > _dollars_allowed(earlier)
        ):
            problems.append("overnight_windows: demands must become stricter toward the close")
    if not 0 < policy.day_trade_minutes_before_close <= shortest_session:
        problems.append(
            f"day_trade_minutes_before_close: must lie in 1..{shortest_session}, was"
            f" {policy.day_trade_minutes_before_close}"
        )
    return problems


def _dollars_allowed(window: OvernightWindow) -> Decimal:
    return Decimal("Infinity") if window.max_position_dollars is None else window.max_position_dollars


def _range_problems(policy: Policy) -> list[str]:
    bounds: dict[str, tuple[int, int]] = {
        "min_hold_minutes": (0, 10_000),
        "max_hold_minutes": (1, 1_000_000),
        "expiration_hours": (1, 240),
        "missing_bracket_grace_seconds": (1, 3600),
        "max_quote_age_seconds": (1, 3600),
        "wide_confirm_seconds": (1, 600),
        "adaptive_step_seconds": (1, 60),
        "adaptive_steps": (1, 10),
        "close_deadline_seconds": (5, 3600),
        "theta_near_days": (0, 60),
        "theta_far_days": (0, 60),
    }
    problems = []
    for alarm in dataclasses.fields(policy.alarms):
        seconds = getattr(policy.alarms, alarm.name)
        if not 1 <= seconds <= 3600:
            problems.append(f"alarms.{alarm.name}: must lie in 1..3600, was {seconds}")
    if policy.adaptive_steps * policy.adaptive_step_seconds >= policy.close_deadline_seconds:
        problems.append("adaptive_steps x adaptive_step_seconds: must end before close_deadline_seconds")
    for name, (low, high) in bounds.items():
        value = getattr(policy, name)
        if not low <= value <= high:
            problems.append(f"{name}: must lie in {low}..{high}, was {value}")
    for name in ("max_relative_spread_percent", "adaptive_tight_spread_percent", "mark_divergence_percent"):
        if not 0 < getattr(policy, name) <= 200:
            problems.append(f"{name}: must lie in (0, 200], was {getattr(policy, name)}")
    if policy.wide_floor < 0:
        problems.append(f"wide_floor: must be >= 0, was {policy.wide_floor}")
    if policy.max_hold_time and policy.max_hold_minutes <= policy.min_hold_minutes:
        problems.append("max_hold_minutes: must exceed min_hold_minutes, or a price rule could never act")
    return problems


def policy_body(policy: Policy) -> dict[str, Any]:
    """The policy as plain JSON values, for storage, hashing and display."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, tuple):
            return [plain(v) for v in value]
        if isinstance(value, Decimal):
            return str(value.normalize() + 0) if value.is_finite() else str(value)
        if isinstance(value, time):
            return value.isoformat("auto" if value.second or value.microsecond else "minutes")
        return value.value if isinstance(value, StrEnum) else value

    body: dict[str, Any] = plain(policy)
    return body


@lru_cache(maxsize=256)
def policy_hash(policy: Policy) -> str:
    """Twelve hex digits that change with any number of the policy."""
    text = json.dumps(policy_body(policy), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
