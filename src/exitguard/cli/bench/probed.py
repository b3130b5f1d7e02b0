"""`exitguard` with a stopwatch on the way from a quote to its order: where the time of a breach goes.

Only `exitguard bench --verbose` starts it, in a run of its own: what is published is measured without probes. Moments
are nanoseconds of CLOCK_MONOTONIC, which all processes of a machine share.
"""

import functools
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson

from exitguard.broker.transport import Transport
from exitguard.cli.main import main
from exitguard.manager.closer import Closer
from exitguard.manager.watcher import Watcher

# In the order in which a breach passes them: the name of the stage that ends at the moment.
STAGES = (
    ("socket, decode", "frame read"),
    ("evaluate", "close started"),
    ("first step", "request begun"),
)
LAST_STAGE = "POST to venue"

_moments: list[tuple[str, int]] = []


def _note(moment: str) -> None:
    _moments.append((moment, time.perf_counter_ns()))


def _before(owner: Any, name: str, moment: str) -> None:
    original: Callable[..., Any] = getattr(owner, name)

    @functools.wraps(original)
    def noted(*arguments: Any, **options: Any) -> Any:
        _note(moment)
        return original(*arguments, **options)

    setattr(owner, name, noted)


def install() -> None:
    """Put the probes where the stages meet."""
    _before(Watcher, "on_ticks", "frame read")
    _before(Closer, "start", "close started")
    _before(Transport, "send", "request begun")


def run(target: Path, arguments: list[str]) -> int:
    """Run the command line with probes and leave the moments in `target`."""
    install()
    try:
        return main(arguments)
    finally:
        target.write_bytes(orjson.dumps(_moments))


def stages(moments: list[tuple[str, int]], rounds: list[tuple[int, int]]) -> dict[str, list[float]]:
    """Microseconds of each stage in each round in which all of them were seen; both lists in the order of time."""
    found: dict[str, list[float]] = {name: [] for name in (*(name for name, _ in STAGES), LAST_STAGE)}
    position = 0
    for sent, arrived in rounds:
        while position < len(moments) and moments[position][1] < sent:
            position += 1
        times = _first_of_each(moments, position, arrived)
        if times is None:
            continue
        edges = [sent, *times, arrived]
        for name, (begin, end) in zip(found, pairwise(edges), strict=True):
            found[name].append((end - begin) / 1000)
    return found


def _first_of_each(moments: list[tuple[str, int]], position: int, until: int) -> list[int] | None:
    """The moments of a round, each the first of its name after the one before it."""
    times = []
    for _, wanted in STAGES:
        while position < len(moments) and moments[position][0] != wanted and moments[position][1] <= until:
            position += 1
        if position >= len(moments) or moments[position][1] > until:
            return None
        times.append(moments[position][1])
        position += 1
    return times


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), sys.argv[2:]))
