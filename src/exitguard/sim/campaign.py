"""Many seeds: what was simulated, what was injected, what did not hold."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from exitguard.sim.faults import FAULTS
from exitguard.sim.shrink import shrink
from exitguard.sim.simulate import RunResult, RunSpec, simulate

SECONDS_A_DAY = 86_400
# Shrinking is for people to read: the first few failures are enough.
SHRUNK = 3
STORY_LINES = 60


@dataclass(slots=True)
class Campaign:
    """The sum of many runs."""

    first_seed: int
    seeds: int
    faults: frozenset[str]
    # Seconds by the clock on the wall from begin to end; `wall_seconds` counts those of each process.
    elapsed_seconds: float = 0.0
    simulated_seconds: float = 0.0
    wall_seconds: float = 0.0
    steps: int = 0
    closed: int = 0
    injected: Counter[str] = field(default_factory=Counter)
    failed: list[RunResult] = field(default_factory=list)
    shrunk: list[RunResult] = field(default_factory=list)

    def add(self, result: RunResult) -> None:
        """Count one run."""
        self.simulated_seconds += result.virtual_seconds
        self.wall_seconds += result.wall_seconds
        self.steps += result.steps
        self.closed += result.closed
        self.injected.update(result.injected)
        if result.violations:
            self.failed.append(result)

    def body(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {
            "first_seed": self.first_seed,
            "seeds": self.seeds,
            "simulated_days": round(self.simulated_seconds / SECONDS_A_DAY, 3),
            "simulated_seconds_per_wall_second": round(self.simulated_seconds / max(self.wall_seconds, 1e-9)),
            "wall_seconds": round(self.wall_seconds, 2),
            "elapsed_seconds": round(self.elapsed_seconds, 2),
            "steps": self.steps,
            "positions_closed": self.closed,
            "faults_enabled": sorted(self.faults),
            "faults_injected": {name: self.injected.get(name, 0) for name in FAULTS if name in self.faults},
            "violations": sum(len(result.violations) for result in self.failed),
            "failed_seeds": [failure_body(result) for result in self.failed],
            "shrunk": [{**failure_body(result), "story": result.story[-STORY_LINES:]} for result in self.shrunk],
        }


def failure_body(result: RunResult) -> dict[str, Any]:
    """A failed run: what it takes to repeat it, and what did not hold."""
    return {
        "seed": result.spec.seed,
        "digest": result.digest,
        "violations": [str(violation) for violation in result.violations],
        "faults": sorted(result.spec.faults),
        "without": sorted(result.spec.without),
    }


def run_campaign(
    first_seed: int,
    seeds: int,
    faults: frozenset[str],
    *,
    jobs: int = 1,
    on_result: Callable[[int, RunResult], None] | None = None,
) -> Campaign:
    """Simulate `seeds` seeds from `first_seed` on; the first failures are made small.

    `on_result` is called after each seed, in their order, with how many are done and its result.
    """
    campaign, began = Campaign(first_seed, seeds, faults), perf_counter()
    specs = [RunSpec(seed, faults) for seed in range(first_seed, first_seed + seeds)]
    for done, result in enumerate(_results(specs, jobs), 1):
        campaign.add(result)
        if on_result is not None:
            on_result(done, result)
    campaign.elapsed_seconds = perf_counter() - began
    campaign.shrunk = [shrink(result) for result in campaign.failed[:SHRUNK]]
    return campaign


def _results(specs: list[RunSpec], jobs: int) -> Iterator[RunResult]:
    if jobs <= 1:
        yield from map(_light, specs)
        return
    with ProcessPoolExecutor(jobs) as pool:
        found: Iterable[RunResult] = pool.map(_light, specs, chunksize=4)
        yield from found


def _light(spec: RunSpec) -> RunResult:
    result = simulate(spec)
    result.timeline = None  # the story is enough, and travels between processes
    return result
