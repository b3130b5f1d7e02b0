"""docs/policy.md, made from the policy itself, so that no document states another threshold than the code (F144)."""

import textwrap
from decimal import Decimal

from exitguard.core.evaluate import RULES
from exitguard.core.policy import DEFAULT_POLICY, Policy, policy_hash
from exitguard.core.records import CloseReason

_HEAD = """# Exit policy

<!-- Made by: exitguard policy --docs docs/policy.md. Do not edit; a test compares it. -->

Every position is judged by one pure function, `core.evaluate`, live, in replay and in tests. These are the numbers of
the default policy (hash `{hash}`); `exitguard policy` shows the effective ones of a settings file, and every
heartbeat carries their hash. Percentages are of the entry price: -40 is a loss of 40 %. Options are measured in
premium, stocks in dollars a share. A level given with the signal (`stop_loss`, `take_profit`) wins over the percentage.

## Rules

Among rules that are true at once the lowest priority number wins; inside one priority the order of this table.

| rule | applies to | closes when | priority | default | held back for the first {hold} minutes |
|---|---|---|---|---|---|
"""


def policy_page(policy: Policy = DEFAULT_POLICY) -> str:
    """The page about a policy, in Markdown."""
    head = _HEAD.format(hash=policy_hash(policy), hold=policy.min_hold_minutes)
    rules = "\n".join(f"| {' | '.join(row)} |" for row in _rules(policy))
    return f"{head}{rules}\n\n{_quotes(policy)}\n{_closing(policy)}\n{_alarms(policy)}"


def _percent(value: Decimal | None) -> str:
    return "never (off)" if value is None else f"{value:+f} %" if value else "0 %"


def _switch(on: bool) -> str:
    return "on" if on else "off"


def _rules(policy: Policy) -> list[tuple[str, str, str, str, str, str]]:
    """One row for each rule of the table that decides, in its order and with its priority."""
    described = _descriptions(policy)
    rows = []
    for rule in RULES:
        applies, text, on = described[rule.reason]
        held = "yes" if rule.min_hold_blocks else "no"
        rows.append((rule.reason.value, applies, text, str(rule.priority), _switch(on), held))
    return rows


def _descriptions(policy: Policy) -> dict[CloseReason, tuple[str, str, bool]]:
    """What each rule applies to, when it closes, and whether it is on."""
    return {
        CloseReason.MANUAL_CLOSE: ("all", "a person asks (`exitguard close`)", True),
        CloseReason.KILL_SWITCH: ("all", "the account's kill switch asks", True),
        **_price_rules(policy),
        **_time_rules(policy),
    }


def _price_rules(policy: Policy) -> dict[CloseReason, tuple[str, str, bool]]:
    options, stocks = policy.options, policy.stocks
    steps = ", ".join(f"from {_percent(s.from_percent)} keep {s.keep_percent:f} %" for s in policy.trail_steps)
    stop = f"{_percent(options.stop_loss_percent)} (options), {_percent(stocks.stop_loss_percent)} (stocks)"
    target = f"{_percent(options.take_profit_percent)} (options), {_percent(stocks.take_profit_percent)} (stocks)"
    last = options.catastrophic_stop_percent
    bracket = (
        "the broker shows no live stop or no live target for the whole quantity; it is restored first, and the position"
        f" closed when that is not accepted within {policy.missing_bracket_grace_seconds} s"
    )
    theta = (
        f"{policy.theta_near_days} days or fewer to expiry and P&L < {_percent(policy.theta_near_percent)}, or"
        f" {policy.theta_far_days} or fewer and P&L < {_percent(policy.theta_far_percent)}"
    )
    scaling = (
        f"at {_percent(policy.profit_scaling_percent)} sell {policy.profit_scaling_share_percent:f} % of the original"
        " quantity, once"
    )
    armed = _percent(policy.breakeven_arm_percent)
    return {
        CloseReason.CATASTROPHIC_STOP: ("options", f"P&L <= {_percent(last)}", last is not None),
        CloseReason.STOP_LOSS: ("all", f"P&L <= {stop}", _any(options.stop_loss_percent, stocks.stop_loss_percent)),
        CloseReason.TAKE_PROFIT: (
            "all",
            f"P&L >= {target}",
            _any(options.take_profit_percent, stocks.take_profit_percent),
        ),
        CloseReason.TRAILING_STOP: ("all", f"less of the best gain is left than: {steps}", policy.trailing_stop),
        CloseReason.BREAKEVEN_STOP: ("all", f"was {armed} or better and is back at entry", policy.breakeven_stop),
        CloseReason.MISSING_BRACKET: ("stocks", bracket, policy.missing_bracket),
        CloseReason.THETA_DECAY: ("options", theta, policy.theta_decay),
        CloseReason.PROFIT_SCALING: ("reduces only", scaling, policy.profit_scaling),
    }


def _time_rules(policy: Policy) -> dict[CloseReason, tuple[str, str, bool]]:
    windows = "; ".join(
        f"last {w.minutes_before_close} minutes: unless {_percent(w.min_pnl_percent)} or better and"
        f" {w.min_days_to_expiry} days or more to expiry"
        + (f" and at most {w.max_position_dollars:f} $" if w.max_position_dollars is not None else "")
        for w in policy.overnight_windows
    )
    day = f"{policy.day_trade_minutes_before_close} minutes before the session's close, early closes included"
    expiry = (
        f"less than {policy.expiration_hours} h to expiry; on the last day at {policy.expiration_day_cutoff:%H:%M}"
        " New York time at the latest"
    )
    hold = f"the stored deadline has passed ({policy.max_hold_minutes} minutes unless the signal says otherwise)"
    return {
        CloseReason.DAY_TRADE_CLOSE: ("strategy day_trade", day, policy.day_trade_close),
        CloseReason.EXPIRATION_RISK: ("options", expiry, policy.expiration_risk),
        CloseReason.OVERNIGHT: ("options", windows or "no windows", policy.overnight),
        CloseReason.MAX_HOLD_TIME: ("all", hold, policy.max_hold_time),
    }


def _any(*levels: Decimal | None) -> bool:
    return any(level is not None for level in levels)


def _quotes(policy: Policy) -> str:
    return _section(
        "Quotes",
        f"The rules compare the {policy.price_basis.value} of bid and ask.",
        f"A quote is stale after {policy.max_quote_age_seconds} s, and wide when its spread exceeds",
        f"{policy.max_relative_spread_percent:f} % of the mid and {policy.wide_floor:f} $.",
        f"A wide quote counts when a second one at least {policy.wide_confirm_seconds} s later,",
        "or the broker's own mark, agrees.",
        "Without a usable quote a position is *blind*: price rules wait, time rules go on.",
    )


def _closing(policy: Policy) -> str:
    return _section(
        "Closing",
        f"Stocks close `{policy.stock_close_style.value}`, options `{policy.option_close_style.value}`.",
        "`market` is one market order; `adaptive` is a market order when the spread is at most",
        f"{policy.adaptive_tight_spread_percent:f} %, else a marketable limit that is re-priced",
        f"{policy.adaptive_steps} times, every {policy.adaptive_step_seconds} s, and then a market order.",
        f"A close that is not confirmed after {policy.close_deadline_seconds} s makes the position *stuck*:",
        "it is tried for as long as the broker holds it. Orders outside regular hours (stocks only, as limit orders):",
        f"{_switch(policy.extended_hours)}.",
    )


def _section(title: str, *parts: str) -> str:
    prose = textwrap.fill(" ".join(parts), 118, break_long_words=False, break_on_hyphens=False)
    return f"## {title}\n\n{prose}\n"


def _alarms(policy: Policy) -> str:
    alarms = policy.alarms
    states = (
        ("blind: no usable quote", alarms.blind_seconds),
        ("naked: a bracket is missing", alarms.naked_seconds),
        ("stuck: a close does not finish", policy.close_deadline_seconds),
        (
            f"our mark and the broker's differ by more than {policy.mark_divergence_percent:f} %",
            alarms.mark_divergence_seconds,
        ),
    )
    rows = "\n".join(f"| {state} | {seconds} s |" for state, seconds in states)
    return f"## Alarms\n\n| state | a person is told after |\n|---|---|\n{rows}\n"
