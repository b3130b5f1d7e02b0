"""A seed is all that it takes: the same run everywhere, smaller runs that fail alike, and a story that is told."""

import os
import subprocess
import sys

import pytest

from exitguard.sim.checks import Violation
from exitguard.sim.faults import FAULTS
from exitguard.sim.mutants import MUTANTS
from exitguard.sim.shrink import shrink
from exitguard.sim.simulate import RunResult, RunSpec, simulate

DIGESTS = "from exitguard.sim.simulate import *; print([simulate(RunSpec(s)).digest for s in (3, 4, 36)])"


def test_a_seed_replays_exactly_in_every_process() -> None:
    def elsewhere(hash_seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run([sys.executable, "-c", DIGESTS], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    here = str([simulate(RunSpec(seed)).digest for seed in (3, 4, 36)])
    assert {elsewhere("1"), elsewhere("2")} == {here}


def test_different_seeds_are_different_days() -> None:
    assert len({simulate(RunSpec(seed, frozenset())).digest for seed in range(5)}) == 5


def test_nothing_of_a_simulation_stays_behind() -> None:
    import structlog

    before = os.urandom, structlog.get_config()
    simulate(RunSpec(3))
    assert (os.urandom, structlog.get_config()) == before


def test_a_failure_shrinks_to_what_it_needs_and_is_told() -> None:
    mutant = MUTANTS["empty_means_flat"]
    with mutant.plant():
        failed = next(r for r in (simulate(RunSpec(seed)) for seed in range(1_000_000, 1_000_050)) if r.violations)
        small = shrink(failed)
        again = simulate(small.spec)
    assert small.kinds & failed.kinds
    assert len(small.spec.faults) < len(failed.spec.faults) / 4
    assert again.digest == small.digest
    assert any("VIOLATION" in line for line in small.story)
    assert len(small.story) < 60
    assert not simulate(small.spec).violations, "the bug is gone with its planting"


def test_shrinking_keeps_the_kind_of_failure() -> None:
    needed = {"crash", "twin"}

    def pretend(spec: RunSpec) -> RunResult:
        kind = "I1" if needed <= spec.faults else "I8"
        violations = [Violation(kind, "large", "pretended")] if spec.faults else []
        return RunResult(spec, violations, "", 0, 0, 0, dict.fromkeys(FAULTS, 1), 0)

    assert shrink(pretend(RunSpec(1)), pretend).spec.faults == needed


@pytest.mark.parametrize("name", ["I1", "defect"])
def test_a_violation_says_what_and_where(name: str) -> None:
    assert str(Violation(name, "large", "two of them")) == f"{name} large: two of them"
