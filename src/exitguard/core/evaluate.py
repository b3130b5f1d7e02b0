"""The one function that decides an exit: `evaluate`. Live, replay, simulator and tests call it and nothing else does.

Rules, kinds and priorities are those of the table in `spec/exits.md`. Priority decides among true rules; inside one
priority the order of `RULES`. What it decides, it can explain: a Decision carries every rule that was true with the
numbers compared.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_FLOOR, Decimal
from enum import StrEnum
from typing import Any, TypeGuard

from exitguard.core.instrument import Instrument
from exitguard.core.marks import QuoteView
from exitguard.core.policy import Policy, TrailStep
from exitguard.core.position import Pnl, PositionSide, pnl
from exitguard.core.quote import QuoteState
from exitguard.core.records import CloseReason
from exitguard.core.session import NEW_YORK, Session

DAY_TRADE = "day_trade"


class Action(StrEnum):
    """What to do with a position now."""

    HOLD = "hold"
    CLOSE = "close"
    REDUCE = "reduce"
    RESTORE = "restore"


class Bracket(StrEnum):
    """What the broker shows of a stock's resting stop and target."""

    NOT_NEEDED = "not_needed"
    COMPLETE = "complete"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Watched:
    """All that a decision may know of a position.

    Quantities in shares or contracts, prices in dollars a share (an option's in premium). `stop_loss` and
    `take_profit` are levels given with the execution; they win over the policy's percentages. `best_price` is the most
    favourable mark so far. `expires_at` is the close of the last session in which an option trades.
    `bracket_missing_since` counts only while the broker would take a restoration.
    """

    instrument: Instrument
    side: PositionSide
    qty: Decimal
    original_qty: Decimal
    entry_price: Decimal
    opened_at: datetime
    strategy: str
    max_hold_deadline: datetime
    stop_loss: Decimal | None = None
    take_profit: Decimal | None = None
    best_price: Decimal | None = None
    scaled_out: bool = False
    expires_at: datetime | None = None
    bracket: Bracket = Bracket.NOT_NEEDED
    bracket_missing_since: datetime | None = None
    command: CloseReason | None = None


@dataclass(frozen=True, slots=True)
class RuleHit:
    """A rule that was true: what it compared, in words and numbers. `reduce_qty` is set by reducing rules only."""

    rule: CloseReason
    priority: int
    blocked: bool
    compared: str
    reduce_qty: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome of one evaluation.

    `hits` are all rules that were true, winner first. For a hold or a restoration, `held` is the rule that the minimum
    hold keeps back ("Too early to exit"). `pending`: the rule acts as soon as the venue would take an order. `blind`:
    no price rule could be looked at. `price` and `pnl` are the mark's, None when blind.
    """

    action: Action
    rule: CloseReason | None
    hits: tuple[RuleHit, ...]
    price: Decimal | None
    pnl: Pnl | None
    quote_state: QuoteState
    held: CloseReason | None = None
    pending: bool = False
    blind: bool = False
    reduce_qty: Decimal | None = None

    def explain(self) -> dict[str, object]:
        """The decision as plain values for an event."""
        return {
            "action": self.action.value,
            "rule": self.rule.value if self.rule else None,
            "held": self.held.value if self.held else None,
            "pending": self.pending,
            "blind": self.blind,
            "price": self.price,
            "pnl_dollars": self.pnl.dollars if self.pnl else None,
            "pnl_percent": self.pnl.percent if self.pnl else None,
            "quote_state": self.quote_state.value,
            "rules_true": [
                {"rule": h.rule.value, "priority": h.priority, "blocked": h.blocked, "compared": h.compared}
                for h in self.hits
            ],
        }


@dataclass(frozen=True, slots=True)
class _Facts:
    """Everything that a rule may look at."""

    position: Watched
    policy: Policy
    now: datetime
    session: Session | None
    price: Decimal | None
    pnl: Pnl | None

    @property
    def peak_percent(self) -> Decimal:
        """Best gain so far in percent, this mark included."""
        position = self.position
        best = position.best_price if position.best_price is not None else position.entry_price
        if self.price is not None:
            best = max(best, self.price) if position.side is PositionSide.LONG else min(best, self.price)
        return pnl(position.instrument, position.side, position.qty, position.entry_price, best).percent

    @property
    def days_to_expiry(self) -> int | None:
        """Calendar days in New York to the expiry; None for a stock."""
        expiry = self.position.instrument.expiry
        return None if expiry is None else (expiry - self.now.astimezone(NEW_YORK).date()).days

    def before_close(self, minutes: int) -> bool:
        """Whether the session is in its last `minutes`."""
        session = self.session
        return session is not None and session.close - timedelta(minutes=minutes) <= self.now < session.close


def effective_stop(position: Watched, policy: Policy) -> Decimal | None:
    """The stop's level in dollars a share: the execution's where it makes sense, else the policy's; None when off.

    A given level on the wrong side of the entry is no stop (F5, F6): it would close a fresh position.
    """
    level = position.stop_loss
    sign = position.side.sign
    if _is_price(level) and (position.entry_price - level) * sign > 0:
        return level
    return _percent_level(position, policy.levels(position.instrument.is_option).stop_loss_percent)


def effective_target(position: Watched, policy: Policy) -> Decimal | None:
    """The target's level in dollars a share; see `effective_stop`."""
    level = position.take_profit
    sign = position.side.sign
    if _is_price(level) and (level - position.entry_price) * sign > 0:
        return level
    return _percent_level(position, policy.levels(position.instrument.is_option).take_profit_percent)


def _is_price(level: Decimal | None) -> TypeGuard[Decimal]:
    return level is not None and level.is_finite() and level > 0


def _percent_level(position: Watched, percent: Decimal | None) -> Decimal | None:
    """The price at a P&L of `percent`; None without an entry price, of which nothing can be a share."""
    if percent is None or position.entry_price <= 0:
        return None
    return position.entry_price * (1 + position.side.sign * percent / 100)


def _command(facts: _Facts, which: CloseReason) -> str | None:
    return "asked for" if facts.position.command is which else None


def _catastrophic_stop(facts: _Facts) -> str | None:
    limit = facts.policy.levels(True).catastrophic_stop_percent
    if not facts.position.instrument.is_option or limit is None or facts.pnl is None or facts.pnl.percent > limit:
        return None
    return f"P&L {facts.pnl.percent:.2f} % <= {limit} %"


def _stop_loss(facts: _Facts) -> str | None:
    level = effective_stop(facts.position, facts.policy)
    if level is None or facts.price is None or (facts.price - level) * facts.position.side.sign > 0:
        return None
    return f"price {facts.price} at or beyond stop {level:.4f}"


def _take_profit(facts: _Facts) -> str | None:
    level = effective_target(facts.position, facts.policy)
    if level is None or facts.price is None or (facts.price - level) * facts.position.side.sign < 0:
        return None
    return f"price {facts.price} at or beyond target {level:.4f}"


def trail_step(policy: Policy, peak_percent: Decimal) -> TrailStep | None:
    """The step that a peak gain has reached, None below the first."""
    reached = [step for step in policy.trail_steps if peak_percent >= step.from_percent]
    return reached[-1] if reached else None


def _trailing_stop(facts: _Facts) -> str | None:
    if not facts.policy.trailing_stop or facts.pnl is None:
        return None
    peak = facts.peak_percent
    step = trail_step(facts.policy, peak)
    if step is None:
        return None
    floor = peak * step.keep_percent / 100
    return (
        f"P&L {facts.pnl.percent:.2f} % <= {floor:.2f} % kept of peak {peak:.2f} %"
        if facts.pnl.percent <= floor
        else None
    )


def _breakeven_stop(facts: _Facts) -> str | None:
    if not facts.policy.breakeven_stop or facts.pnl is None or facts.pnl.percent > 0:
        return None
    peak = facts.peak_percent
    if peak < facts.policy.breakeven_arm_percent:
        return None
    return f"P&L {facts.pnl.percent:.2f} % back at entry after a peak of {peak:.2f} %"


def _missing_bracket(facts: _Facts) -> str | None:
    position = facts.position
    if not facts.policy.missing_bracket or position.instrument.is_option or position.bracket is not Bracket.MISSING:
        return None
    since = position.bracket_missing_since
    if since is None:
        return "no live stop or target for the full quantity"
    return f"no live stop or target for the full quantity since {since:%H:%M:%S} UTC"


def _day_trade_close(facts: _Facts) -> str | None:
    policy = facts.policy
    if not policy.day_trade_close or facts.position.strategy != DAY_TRADE:
        return None
    opened_on = facts.position.opened_at.astimezone(NEW_YORK).date()
    if opened_on < facts.now.astimezone(NEW_YORK).date():
        # Missed while nobody watched or the venue was closed: it is due until it is done, not only for five minutes.
        return f"day trade of {opened_on}, overdue"
    session, minutes = facts.session, policy.day_trade_minutes_before_close
    if session is None or not facts.position.opened_at < session.close <= facts.now + timedelta(minutes=minutes):
        return None
    return f"day trade, {minutes} minutes or less before the close, or past it"


def expiration_deadline(expires_at: datetime, policy: Policy) -> datetime:
    """The moment from which an option's expiry is a risk.

    `expiration_hours` before its last session's close, and at the latest the cutoff on expiry day; on an early close
    the cutoff keeps its distance from the close, since the broker's liquidation does.
    """
    local = expires_at.astimezone(NEW_YORK)
    cutoff = local.replace(
        hour=policy.expiration_day_cutoff.hour, minute=policy.expiration_day_cutoff.minute, second=0, microsecond=0
    )
    regular_close = local.replace(hour=16, minute=0, second=0, microsecond=0)
    cutoff -= max(regular_close - local, timedelta(0))
    return min(expires_at - timedelta(hours=policy.expiration_hours), cutoff)


# No cutoff of the day of an expiry is earlier than this before its close: most looks need not know which one it is.
_BEFORE_ANY_CUTOFF = timedelta(hours=48)


def _expiration_risk(facts: _Facts) -> str | None:
    expires_at = facts.position.expires_at
    if not facts.policy.expiration_risk or expires_at is None:
        return None
    if facts.now < expires_at - max(_BEFORE_ANY_CUTOFF, timedelta(hours=facts.policy.expiration_hours)):
        return None
    deadline = expiration_deadline(expires_at, facts.policy)
    if facts.now < deadline:
        return None
    return f"expires {_new_york(expires_at)}, exit due from {_new_york(deadline)}"


def _new_york(moment: datetime) -> str:
    return f"{moment.astimezone(NEW_YORK):%Y-%m-%d %H:%M} ET"


def _overnight(facts: _Facts) -> str | None:
    if not facts.policy.overnight or not facts.position.instrument.is_option:
        return None
    for window in facts.policy.overnight_windows:
        if not facts.before_close(window.minutes_before_close):
            continue
        days = facts.days_to_expiry
        if facts.pnl is not None and facts.pnl.percent < window.min_pnl_percent:
            demand = f"{window.min_pnl_percent} % demanded {window.minutes_before_close} min before the close"
            return f"P&L {facts.pnl.percent:.2f} % < {demand}"
        if days is not None and days < window.min_days_to_expiry:
            return f"{days} days to expiry < {window.min_days_to_expiry} demanded"
        if window.max_position_dollars is not None and facts.price is not None:
            exposure = facts.position.instrument.notional(facts.position.qty, facts.price)
            if exposure > window.max_position_dollars:
                return f"exposure {exposure:.2f} $ > {window.max_position_dollars} $ allowed"
    return None


def _max_hold_time(facts: _Facts) -> str | None:
    deadline = facts.position.max_hold_deadline
    if not facts.policy.max_hold_time or facts.now < deadline:
        return None
    return f"deadline {deadline:%Y-%m-%d %H:%M:%S} UTC passed"


def _theta_decay(facts: _Facts) -> str | None:
    days, policy = facts.days_to_expiry, facts.policy
    if not policy.theta_decay or days is None or facts.pnl is None:
        return None
    for limit_days, limit in (
        (policy.theta_near_days, policy.theta_near_percent),
        (policy.theta_far_days, policy.theta_far_percent),
    ):
        if days <= limit_days and facts.pnl.percent < limit:
            return f"{days} days to expiry and P&L {facts.pnl.percent:.2f} % < {limit} %"
    return None


def scaling_qty(position: Watched, policy: Policy) -> Decimal | None:
    """Whole units that profit scaling sells: a share of the original quantity, at least one, never the rest (F9)."""
    share = position.original_qty * policy.profit_scaling_share_percent / 100
    qty = share.to_integral_value(ROUND_FLOOR)
    return qty if 1 <= qty < position.qty else None


def _profit_scaling(facts: _Facts) -> str | None:
    policy, position = facts.policy, facts.position
    if not policy.profit_scaling or position.scaled_out or facts.pnl is None:
        return None
    if facts.pnl.percent < policy.profit_scaling_percent or scaling_qty(position, policy) is None:
        return None
    return f"P&L {facts.pnl.percent:.2f} % >= {policy.profit_scaling_percent} %"


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the rule table."""

    reason: CloseReason
    priority: int
    min_hold_blocks: bool
    test: Callable[[_Facts], str | None]


RULES: tuple[Rule, ...] = (
    Rule(CloseReason.MANUAL_CLOSE, 0, False, lambda f: _command(f, CloseReason.MANUAL_CLOSE)),
    Rule(CloseReason.KILL_SWITCH, 0, False, lambda f: _command(f, CloseReason.KILL_SWITCH)),
    Rule(CloseReason.CATASTROPHIC_STOP, 1, False, _catastrophic_stop),
    Rule(CloseReason.STOP_LOSS, 1, True, _stop_loss),
    Rule(CloseReason.TAKE_PROFIT, 1, True, _take_profit),
    Rule(CloseReason.TRAILING_STOP, 1, True, _trailing_stop),
    Rule(CloseReason.BREAKEVEN_STOP, 1, True, _breakeven_stop),
    Rule(CloseReason.MISSING_BRACKET, 1, False, _missing_bracket),
    Rule(CloseReason.DAY_TRADE_CLOSE, 2, False, _day_trade_close),
    Rule(CloseReason.EXPIRATION_RISK, 2, False, _expiration_risk),
    Rule(CloseReason.OVERNIGHT, 2, False, _overnight),
    Rule(CloseReason.MAX_HOLD_TIME, 3, False, _max_hold_time),
    Rule(CloseReason.THETA_DECAY, 4, True, _theta_decay),
    Rule(CloseReason.PROFIT_SCALING, 5, True, _profit_scaling),
)


def evaluate(position: Watched, view: QuoteView, now: datetime, session: Session | None, policy: Policy) -> Decision:
    """Decide what to do with one position now.

    `session` is the trading session of the New York day of `now`, None when there is none. Pure: the same arguments
    give the same decision, for ever.
    """
    price = view.price(position.side, policy.price_basis)
    gain = None
    if price is not None:
        gain = pnl(position.instrument, position.side, position.qty, position.entry_price, price)
    facts = _Facts(position, policy, now, session, price, gain)
    too_early = now < position.opened_at + policy.min_hold
    hits = []
    for rule in RULES:
        compared = rule.test(facts)
        if compared is not None:
            reduce_qty = scaling_qty(position, policy) if rule.reason is CloseReason.PROFIT_SCALING else None
            blocked = too_early and rule.min_hold_blocks
            hits.append(RuleHit(rule.reason, rule.priority, blocked, compared, reduce_qty))
    hits.sort(key=lambda hit: (hit.blocked, hit.priority))  # stable: table order inside a priority
    return _decide(facts, tuple(hits), view)


def _decide(facts: _Facts, hits: tuple[RuleHit, ...], view: QuoteView) -> Decision:
    def decision(action: Action, winner: RuleHit | None, **extra: Any) -> Decision:
        rule = winner.rule if winner else None
        return Decision(action, rule, hits, facts.price, facts.pnl, view.state, blind=facts.price is None, **extra)

    acting = [hit for hit in hits if not hit.blocked]
    if not acting:
        return decision(Action.HOLD, None, held=hits[0].rule if hits else None)
    winner = acting[0]
    if winner.rule is CloseReason.MISSING_BRACKET and not _restoration_failed(facts):
        # A restoration is no exit: a rule that closes, of whatever priority, comes before it.
        winner = next((hit for hit in acting[1:] if hit.reduce_qty is None), winner)
        hits = (winner, *(hit for hit in hits if hit is not winner))
    if not venue_takes_orders(facts.position.instrument, facts.now, facts.session, facts.policy):
        return decision(Action.HOLD, winner, pending=True)
    if winner.reduce_qty is not None:
        return decision(Action.REDUCE, winner, reduce_qty=winner.reduce_qty)
    if winner.rule is CloseReason.MISSING_BRACKET and not _restoration_failed(facts):
        return decision(Action.RESTORE, winner, held=next((hit.rule for hit in hits if hit.blocked), None))
    return decision(Action.CLOSE, winner)


def _restoration_failed(facts: _Facts) -> bool:
    since = facts.position.bracket_missing_since
    grace = timedelta(seconds=facts.policy.missing_bracket_grace_seconds)
    return since is not None and facts.now - since >= grace


def venue_takes_orders(instrument: Instrument, now: datetime, session: Session | None, policy: Policy) -> bool:
    """Whether an order sent now would act now (F113): regular hours; stocks in extended hours if the policy says so."""
    if session is None:
        return False
    if session.contains(now):
        return True
    return policy.extended_hours and not instrument.is_option and session.contains_extended(now)


@dataclass(frozen=True, slots=True)
class QuietBand:
    """Open interval of prices in which no price rule of a position can become true, whatever else does not change."""

    low: Decimal
    high: Decimal


_INFINITE = Decimal("Infinity")
# Levels are products of 28 digits and rules compare quotients: the band ends this much (dollars a share) before them.
_BAND_MARGIN = Decimal("1e-9")


def quiet_band(position: Watched, policy: Policy) -> QuietBand:
    """The prices strictly between which `evaluate` finds no price rule true and no new peak that matters.

    Conservative: a price outside may still be a hold; a price inside never is an exit (a property test).
    """
    entry, sign = position.entry_price, position.side.sign
    if entry <= 0:
        return QuietBand(_INFINITE, -_INFINITE)  # nothing is quiet without an entry price
    losing: list[Decimal] = []
    winning: list[Decimal] = []
    stop, target = effective_stop(position, policy), effective_target(position, policy)
    if stop is not None:
        losing.append(stop)
    if target is not None:
        winning.append(target)
    is_option = position.instrument.is_option
    last = policy.levels(is_option).catastrophic_stop_percent
    if is_option and last is not None:
        losing.append(entry * (1 + sign * last / 100))
    best = position.best_price if position.best_price is not None else entry
    if policy.trailing_stop or policy.breakeven_stop:
        winning.append(best)
        losing += _trail_levels(position, policy, best)
    if policy.profit_scaling and not position.scaled_out:
        winning.append(entry * (1 + sign * policy.profit_scaling_percent / 100))
    if policy.theta_decay and is_option:
        losing.append(entry * (1 + sign * max(policy.theta_near_percent, policy.theta_far_percent) / 100))
    if policy.overnight and is_option:
        return QuietBand(_INFINITE, -_INFINITE)
    low_side, high_side = (losing, winning) if sign > 0 else (winning, losing)
    low, high = max(low_side, default=Decimal(0)), min(high_side, default=_INFINITE)
    return QuietBand(low + _BAND_MARGIN, high - _BAND_MARGIN)


def _trail_levels(position: Watched, policy: Policy, best: Decimal) -> list[Decimal]:
    entry, sign = position.entry_price, position.side.sign
    peak = pnl(position.instrument, position.side, position.qty, entry, best).percent
    levels = []
    if policy.breakeven_stop and peak >= policy.breakeven_arm_percent:
        levels.append(entry)
    step = trail_step(policy, peak) if policy.trailing_stop else None
    if step is not None:
        levels.append(entry * (1 + sign * peak * step.keep_percent / 10_000))
    return levels
