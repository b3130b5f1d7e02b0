"""Properties of the evaluator: a fresh position is quiet, the quiet band is honest (F5 F6 F54 F114, T3)."""

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from tests.property.core.cases import CALL, LATER, PUT, STOCK, decide, rules, watched

from exitguard.core.evaluate import RULES, Action, Watched, effective_stop, effective_target, quiet_band, trail_step
from exitguard.core.policy import Levels, Policy, TrailStep, validate_policy
from exitguard.core.position import PositionSide, pnl
from exitguard.core.records import CloseReason

QUICK = settings(max_examples=120, deadline=None)
SYMBOLS = st.sampled_from([CALL, PUT, STOCK])
SIDES = st.sampled_from(PositionSide)
PRICES = st.decimals(Decimal("0.0001"), Decimal(2000), places=4)
PRICE_RULES = {
    "catastrophic_stop", "stop_loss", "take_profit", "trailing_stop", "breakeven_stop", "theta_decay",
    "profit_scaling",
}  # fmt: skip


def percents(low: int, high: int) -> st.SearchStrategy[Decimal]:
    return st.decimals(Decimal(low), Decimal(high), places=2)


@st.composite
def levels(draw: st.DrawFn, catastrophic: bool) -> Levels:
    stop = draw(st.none() | percents(-95, -1))
    target = draw(st.none() | percents(1, 300))
    last = draw(st.none() | percents(-99, -95)) if catastrophic else None
    return Levels(stop, target, last)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    froms = sorted(draw(st.sets(percents(1, 100), min_size=1, max_size=3)))
    keeps = sorted(draw(st.lists(percents(1, 99), min_size=len(froms), max_size=len(froms))))
    policy = Policy(
        stocks=draw(levels(catastrophic=False)),
        options=draw(levels(catastrophic=True)),
        trailing_stop=draw(st.booleans()),
        trail_steps=tuple(TrailStep(*pair) for pair in zip(froms, keeps, strict=True)),
        breakeven_stop=draw(st.booleans()),
        breakeven_arm_percent=draw(percents(1, 50)),
        profit_scaling=draw(st.booleans()),
        profit_scaling_percent=draw(percents(1, 100)),
        theta_decay=draw(st.booleans()),
    )
    assert validate_policy(policy) == []
    return policy


@st.composite
def averages(draw: st.DrawFn) -> Decimal:
    """Entry prices as folds make them: the average of a few fills, with all its digits."""
    fills = draw(st.lists(st.tuples(st.integers(1, 20), PRICES), min_size=1, max_size=4))
    return sum((qty * price for qty, price in fills), Decimal(0)) / sum(qty for qty, _ in fills)


@st.composite
def positions(draw: st.DrawFn) -> Watched:
    entry = draw(averages())
    near = st.decimals(Decimal("0.3"), Decimal(3), places=3).map(
        lambda share: (entry * share).quantize(Decimal("0.01"))
    )
    best = draw(st.none() | near)
    return watched(
        draw(SYMBOLS),
        entry,
        side=draw(SIDES),
        stop_loss=draw(st.none() | near),
        take_profit=draw(st.none() | near),
        best_price=best if best is None or best > 0 else None,
        scaled_out=draw(st.booleans()),
        expires_at=None,
    )


MOMENTS = st.integers(0, 330).map(lambda minute: LATER.replace(hour=10, minute=30) + timedelta(minutes=minute))


@QUICK
@given(SYMBOLS, SIDES, averages(), policies(), st.none() | PRICES, st.none() | PRICES, MOMENTS)
@example(PUT, PositionSide.LONG, Decimal("7.30"), Policy(), Decimal("150.71"), Decimal("155.20"), LATER)
@example(STOCK, PositionSide.SHORT, Decimal(100), Policy(), Decimal(98), Decimal(103), LATER)
def test_t3_f5_f6_a_fresh_position_at_its_own_entry_triggers_no_price_rule(
    symbol: str, side: PositionSide, entry: Decimal, policy: Policy, stop: Decimal | None, target: Decimal | None,
    now: datetime,
) -> None:  # fmt: skip
    for best in (None, entry):
        fresh = watched(
            symbol, entry, side=side, stop_loss=stop, take_profit=target, best_price=best, opened_at=now,
            max_hold_deadline=now + timedelta(minutes=240),
        )  # fmt: skip
        decision = decide(fresh, entry, now, policy)
        assert decision.action is Action.HOLD
        assert decision.hits == ()
        assert decision.held is None


@QUICK
@given(positions(), policies())
def test_f5_effective_levels_lie_on_their_sides_of_the_entry(position: Watched, policy: Policy) -> None:
    sign, entry = position.side.sign, position.entry_price
    stop, target = effective_stop(position, policy), effective_target(position, policy)
    assert stop is None or (entry - stop) * sign > 0
    assert target is None or (target - entry) * sign > 0


@settings(max_examples=300, deadline=None)
@given(positions(), policies(), MOMENTS, st.data())
def test_no_price_inside_the_quiet_band_is_an_exit(
    position: Watched, policy: Policy, now: datetime, data: st.DataObject
) -> None:
    band = quiet_band(position, policy)
    low = (max(band.low, Decimal("0.0001")) * 10000).to_integral_value("ROUND_CEILING")
    high = (min(band.high, position.entry_price * 4 + 1) * 10000).to_integral_value("ROUND_FLOOR")
    assume(low <= high)
    edges = st.sampled_from([int(low), int(low) + 1, int(high) - 1, int(high)])
    price = Decimal(data.draw(st.integers(int(low), int(high)) | edges)).scaleb(-4)
    assume(band.low < price < band.high)
    decision = decide(position, price, now, policy)
    assert not PRICE_RULES & set(rules(decision)), decision.hits
    if policy.trailing_stop or policy.breakeven_stop:
        best = position.best_price if position.best_price is not None else position.entry_price
        assert (best - price) * position.side.sign >= 0, "a new peak inside the band"


@QUICK
@given(positions(), policies(), MOMENTS, PRICES)
def test_a_price_that_is_an_exit_lies_outside_the_band(
    position: Watched, policy: Policy, now: datetime, price: Decimal
) -> None:
    decision = decide(position, price, now, policy)
    band = quiet_band(position, policy)
    if PRICE_RULES & set(rules(decision)):
        assert not band.low < price < band.high


@QUICK
@given(positions())
def test_a_position_without_an_entry_price_or_under_overnight_rules_is_never_quiet(position: Watched) -> None:
    for quiet in (
        quiet_band(watched(CALL, "0", side=position.side), Policy()),
        quiet_band(watched(CALL, position.entry_price, side=position.side), Policy(overnight=True)),
    ):
        assert quiet.low > quiet.high


PRIORITY = {rule.reason: (rule.priority, index) for index, rule in enumerate(RULES)}


@QUICK
@given(positions(), policies(), st.integers(0, 400), PRICES, st.none() | st.sampled_from(
    [CloseReason.MANUAL_CLOSE, CloseReason.KILL_SWITCH]))  # fmt: skip
def test_f54_the_winner_is_the_first_unblocked_rule_by_priority_and_table(
    position: Watched, policy: Policy, minute: int, price: Decimal, command: CloseReason | None
) -> None:
    now = position.opened_at + timedelta(minutes=minute)
    decision = decide(replace(position, command=command), price, now, policy)
    order = [(hit.blocked, *PRIORITY[hit.rule]) for hit in decision.hits]
    assert order == sorted(order)
    free = [hit for hit in decision.hits if not hit.blocked]
    blocked = [hit for hit in decision.hits if hit.blocked]
    assert decision.rule == (free[0].rule if free else None)
    assert decision.held == (blocked[0].rule if blocked and not free else None)
    assert all(minute < policy.min_hold_minutes for _ in blocked)
    assert decision.action is not Action.REDUCE or decision.reduce_qty is not None
    assert not decision.blind


@QUICK
@given(averages(), SIDES, st.lists(PRICES, min_size=1, max_size=30), policies())
def test_t4_a_trail_never_gives_back_more_than_its_step_allows(
    entry: Decimal, side: PositionSide, path: list[Decimal], policy: Policy
) -> None:
    """Followed mark by mark, the trail holds exactly while the kept share of the peak is kept."""
    policy = replace(
        policy, trailing_stop=True, breakeven_stop=False, profit_scaling=False, theta_decay=False,
        options=Levels(None, None),
    )  # fmt: skip
    best = entry
    for price in path:
        position = watched(CALL, entry, side=side, best_price=best)
        decision = decide(position, price, LATER, policy)
        best = max(best, price) if side is PositionSide.LONG else min(best, price)
        peak = pnl(position.instrument, side, position.qty, entry, best).percent
        step = trail_step(policy, peak)
        now = pnl(position.instrument, side, position.qty, entry, price).percent
        kept = step is None or now > peak * step.keep_percent / 100
        assert decision.action is (Action.HOLD if kept else Action.CLOSE)
        if not kept:
            return


def test_the_quiet_band_ends_before_a_level_that_rounding_moved() -> None:
    """Three fills average to 1.04666…; the trail fires at a mid of 2.265, the 28-digit level lies just below it."""
    policy = Policy(trailing_stop=True, options=Levels(None, None))
    position = watched(CALL, Decimal("3.14") / 3, best_price=Decimal("2.48"))
    assert rules(decide(position, "2.265", policy=policy)) == ["trailing_stop"]
    assert quiet_band(position, policy).low > Decimal("2.265")
