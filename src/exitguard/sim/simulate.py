"""One seed to its end: the spec of a run, its result, and what makes it repeat exactly."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from time import perf_counter

from exitguard.sim.checks import Violation
from exitguard.sim.faults import FAULTS, Faults
from exitguard.sim.loop import SimLoop, run
from exitguard.sim.numbers import numbers
from exitguard.sim.scenario import make_scenario
from exitguard.sim.timeline import Timeline
from exitguard.sim.world import World


@dataclass(frozen=True, slots=True)
class RunSpec:
    """What to simulate: a seed, the faults that may strike, and parts of the scenario to leave out."""

    seed: int
    faults: frozenset[str] = frozenset(FAULTS)
    without: frozenset[str] = frozenset()


@dataclass(slots=True)
class RunResult:
    """What came of it. `digest` is the same for the same spec, in every process."""

    spec: RunSpec
    violations: list[Violation]
    digest: str
    virtual_seconds: float
    wall_seconds: float
    steps: int
    injected: dict[str, int]
    closed: int
    story: list[str] = field(default_factory=list)
    timeline: Timeline | None = None

    @property
    def kinds(self) -> frozenset[str]:
        """The invariants that did not hold."""
        return frozenset(violation.invariant for violation in self.violations)


def simulate(spec: RunSpec) -> RunResult:
    """Run one simulation to its end. The same spec gives the same result, for ever."""
    began = perf_counter()
    scenario = make_scenario(spec.seed, spec.without)
    faults = Faults(spec.seed, spec.faults)
    loop = SimLoop(numbers(spec.seed, "schedule"), shuffle=scenario.shuffle)

    def now() -> datetime:
        return scenario.start + timedelta(seconds=loop.time())

    timeline = Timeline(now)
    worlds: list[World] = []

    async def play() -> None:
        worlds.append(World(loop, scenario, faults, timeline))
        await worlds[0].play()

    with _repeatable(spec.seed), timeline.capturing_logs():
        run(loop, play())
    world = worlds[0]
    result = RunResult(
        spec=spec,
        violations=world.violations,
        digest=timeline.digest(),
        virtual_seconds=loop.time(),
        wall_seconds=perf_counter() - began,
        steps=loop.steps,
        injected=dict(sorted(faults.injected.items())),
        closed=sum(len(world.ledger.account(name).history) for name in scenario.accounts),
        timeline=timeline,
    )
    if world.violations:
        first = world.violations[0]
        result.story = timeline.story(first.account, first.words)
    return result


@contextmanager
def _repeatable(seed: int) -> Iterator[None]:
    """Let nothing but the seed decide: `uuid4` draws from it, and the collector does not run in between."""
    rng = numbers(seed, "uuids")
    before, collecting = os.urandom, gc.isenabled()
    gc.disable()
    os.urandom = rng.randbytes
    try:
        yield
    finally:
        os.urandom = before
        if collecting:
            gc.enable()
