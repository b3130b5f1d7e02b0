"""F104: what is called silent, stale or lost has had at least two chances to say something before."""

import inspect
from datetime import timedelta

import pytest

from exitguard.broker import wire
from exitguard.config.settings import WatchSettings
from exitguard.core.policy import DEFAULT_POLICY
from exitguard.dispatch import service as dispatcher
from exitguard.dispatch.options import DispatcherOptions
from exitguard.manager import closer, context, streams
from exitguard.manager.options import ManagerOptions

SWEEP = 60.0


def default(of: type, name: str) -> float:
    found = inspect.signature(of).parameters[name].default
    value = of.__dataclass_fields__[name].default if found is inspect.Parameter.empty else found  # type: ignore[attr-defined]
    return seconds(value)


def seconds(value: timedelta | float) -> float:
    return value.total_seconds() if isinstance(value, timedelta) else float(value)


WATCH = WatchSettings()
POLL = default(ManagerOptions, "poll_seconds")


@pytest.mark.parametrize(
    ("limit", "rhythm", "chances"),
    [
        pytest.param(WATCH.ledger_silence_seconds, SWEEP, 2, id="a manager's heartbeat, by its sweeps"),
        pytest.param(WATCH.ledger_silence_seconds, dispatcher._BEAT_EVERY, 2, id="a dispatcher's heartbeat"),
        pytest.param(WATCH.sweep_silence_seconds, SWEEP, 2, id="sweeps"),
        pytest.param(WATCH.poll_silence_seconds, POLL, 2, id="broker polls"),
        pytest.param(WATCH.stale_position_seconds, SWEEP, 2, id="the evaluation of a position, by sweeps"),
        pytest.param(DEFAULT_POLICY.max_quote_age_seconds, SWEEP, 1, id="a quote, by sweeps that ask REST"),
        pytest.param(DEFAULT_POLICY.alarms.mark_divergence_seconds, POLL, 2, id="the broker's mark, by polls"),
        pytest.param(streams.STREAM_ALARM_SECONDS, wire.MAX_DELAY * 1.25, 1, id="a stream, by its reconnections"),
        pytest.param(context.SETTLING, POLL, 2, id="a fresh order, by polls"),
        pytest.param(closer.CLEAR_FOR, POLL, 2, id="the books' proof that nothing rests, by polls"),
        pytest.param(closer.CLEAR_FOR_STEPPED, SWEEP, 1, id="the same where each sweep polls"),
        pytest.param(
            dispatcher.POSITIONS_LAG, default(DispatcherOptions, "poll_seconds"), 2, id="the dispatcher's positions"
        ),
    ],
)
def test_f104_a_limit_is_wider_than_the_rhythm_that_feeds_it(
    limit: timedelta | float, rhythm: timedelta | float, chances: int
) -> None:
    assert seconds(limit) > 0
    assert seconds(limit) >= chances * seconds(rhythm) + 1
