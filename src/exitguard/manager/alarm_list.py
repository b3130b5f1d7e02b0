"""Every alarm there is: what it means, where its threshold is set, and what a person does about it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AlarmKind:
    """One kind of alarm. `key` begins the keys of its alarms; `threshold` is a setting, None where one look suffices.

    In `threshold` "policy" stands for the policy of the position.
    """

    kind: str
    key: str
    when: str
    do: str
    threshold: str | None = None


ALARM_KINDS: tuple[AlarmKind, ...] = (
    AlarmKind(
        "blind",
        "blind",
        "a position has no usable quote while quotes are due; time rules go on",
        "look whether the feed serves the symbol; close by hand if in doubt",
        "policy.alarms.blind_seconds",
    ),
    AlarmKind(
        "naked",
        "naked",
        "a position that needs a bracket has no live stop and target at the broker",
        "look at the orders at the broker; the manager restores what it may",
        "policy.alarms.naked_seconds",
    ),
    AlarmKind(
        "stuck",
        "stuck",
        "a close is past its deadline; it goes on",
        "look at the broker; close by hand if it cannot be filled",
        "policy.close_deadline_seconds",
    ),
    AlarmKind(
        "mark_divergence",
        "divergence",
        "our mark of a position and the broker's differ",
        "compare both with another source of prices",
        "policy.alarms.mark_divergence_seconds",
    ),
    AlarmKind(
        "silence",
        "silence:sweeps",
        "no sweep was completed; one is due every minute",
        "restart the process (`/livez` fails)",
        "watch.sweep_silence_seconds",
    ),
    AlarmKind(
        "silence",
        "silence:polls",
        "no look at the broker came to an end, good or bad",
        "restart the process (`/livez` fails)",
        "watch.poll_silence_seconds",
    ),
    AlarmKind(
        "silence",
        "silence:ledger",
        "no heartbeat reached the database; closes go on from the journal",
        "bring the database back; do not restart the process",
        "watch.ledger_silence_seconds",
    ),
    AlarmKind(
        "stale_marks",
        "stale_marks",
        "a position was not evaluated, with or without a quote",
        "watch the named positions by hand, look at the log",
        "watch.stale_position_seconds",
    ),
    AlarmKind(
        "rapid_creation",
        "rapid_creation",
        "more new positions within a minute than this",
        "`exitguard sync`, and stop whatever enters",
        "watch.creations_a_minute",
    ),
    AlarmKind(
        "clock_skew",
        "clock_skew",
        "this machine's clock differs from the venue's, which decides",
        "set the clock (NTP)",
        "watch.clock_skew_seconds",
    ),
    AlarmKind(
        "broker_unreachable",
        "broker",
        "the broker does not answer over REST",
        "look at the broker's status page; closes are tried again",
    ),
    AlarmKind(
        "broker_answer_incomplete",
        "incomplete",
        "rows of the broker's answer cannot be read; nothing missing in it counts as gone",
        "report it with the line of the log",
    ),
    AlarmKind(
        "trade_stream_down",
        "trade_stream",
        "the trade stream has not come back for a minute; orders are followed over REST",
        "look at the broker's status page",
    ),
    AlarmKind(
        "stream_refused",
        "stream",
        "the broker refuses a stream: keys, subscription, or another connection of the account",
        "end the other connection, or mend keys and subscription",
    ),
    AlarmKind(
        "stream_deaf",
        "stream_deaf",
        "a stream is connected and does not tell what REST tells; it is opened anew, at most once a minute",
        "nothing, unless it comes again and again: look at the network between here and the broker",
    ),
    AlarmKind(
        "mass_change",
        "mass_change",
        "the broker's answer misses too many positions at once; nothing is changed",
        "look at the account; if it is true: `exitguard sync --repair --accept-mass-change`",
    ),
    AlarmKind(
        "untracked_position",
        "untracked",
        "the broker holds a position that nobody here manages, and its fills do not explain it",
        "`exitguard adopt SYMBOL --account NAME`",
    ),
    AlarmKind(
        "unexplained_phantom",
        "unexplained",
        "we hold a position and the broker holds none, and no order explains it",
        "look at the broker's activities; `exitguard forget` with the evidence",
    ),
    AlarmKind(
        "unexplained_quantity",
        "unexplained",
        "the broker holds less than we do, and no order explains it",
        "look at the broker's activities, then `exitguard sync --repair`",
    ),
    AlarmKind(
        "unexplained_side",
        "unexplained",
        "the broker holds the other side, and no order explains it",
        "look at the broker's activities, then `exitguard sync --repair`",
    ),
    AlarmKind(
        "unconfirmed_split",
        "unexplained",
        "the broker's list shows a split of what we hold, and its other answers do not confirm it",
        "compare with the broker's dashboard; prices of the position may be in old terms",
    ),
    AlarmKind(
        "unreadable_position",
        "unreadable",
        "the broker holds a symbol that we cannot read",
        "watch it by hand, report the symbol",
    ),
    AlarmKind(
        "orphan_order",
        "orphan_order",
        "an order of ours has no position and no purpose left",
        "`exitguard sync --repair` cancels it",
    ),
    AlarmKind(
        "foreign_order",
        "foreign_order",
        "an order that exitguard did not send rests at the broker; it is left alone",
        "cancel it where it came from, or live with it",
    ),
    AlarmKind(
        "overfill",
        "overfill",
        "the broker filled more than was held; the excess is reconciled",
        "look at the account",
    ),
    AlarmKind(
        "close_unrecorded",
        "unrecorded",
        "a position is closed at the broker and the database refuses to record it",
        "keep the log; look at the database",
    ),
    AlarmKind(
        "closer_failed",
        "closer",
        "a close failed unexpectedly and is tried again",
        "look at the broker; report the line of the log",
    ),
    AlarmKind(
        "evaluation_failed",
        "evaluation",
        "a position cannot be evaluated; its neighbours go on",
        "watch it by hand, report the line of the log",
    ),
)


def kind_of(key: str) -> str:
    """The kind of an alarm that is known by its key only, as those that an earlier process left on."""
    fitting = (each.kind for each in ALARM_KINDS if key == each.key or key.startswith(f"{each.key}:"))
    return next(fitting, key.partition(":")[0])
