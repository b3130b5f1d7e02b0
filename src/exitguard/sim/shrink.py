"""Makes a failure small: leaves out faults and parts of the scenario while the same kind of violation remains."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from exitguard.sim.scenario import make_scenario
from exitguard.sim.simulate import RunResult, RunSpec, simulate

MAX_RUNS = 150


def shrink(failed: RunResult, run: Callable[[RunSpec], RunResult] = simulate, max_runs: int = MAX_RUNS) -> RunResult:
    """The smallest failing run that greedy search finds in `max_runs`; the failed run itself when none is smaller."""
    search = _Search(failed, run, max_runs)
    # A fault that never struck cannot matter, unless its mere presence moved something else.
    search.try_spec(replace(failed.spec, faults=failed.spec.faults & failed.injected.keys()))
    search.leave_out(sorted(search.best.spec.faults), lambda spec, gone: replace(spec, faults=spec.faults - gone))
    names = make_scenario(failed.spec.seed, failed.spec.without).names
    search.leave_out(names, lambda spec, gone: replace(spec, without=spec.without | gone))
    search.leave_out(sorted(search.best.spec.faults), lambda spec, gone: replace(spec, faults=spec.faults - gone))
    return search.best


class _Search:
    def __init__(self, failed: RunResult, run: Callable[[RunSpec], RunResult], max_runs: int) -> None:
        self.best = failed
        self._kinds = failed.kinds
        self._run = run
        self._left = max_runs

    def try_spec(self, spec: RunSpec) -> bool:
        """Run a smaller spec; keep it when it still fails in the same way."""
        if self._left <= 0 or spec == self.best.spec:
            return False
        self._left -= 1
        result = self._run(spec)
        if not result.kinds & self._kinds:
            return False
        self.best = result
        return True

    def leave_out(self, parts: Sequence[str], without: Callable[[RunSpec, frozenset[str]], RunSpec]) -> None:
        """Leave out parts, first in large pieces, then one by one."""
        size = max(1, len(parts) // 2)
        kept = list(parts)
        while True:
            for start in range(0, len(kept), size):
                piece = kept[start : start + size]
                if self.try_spec(without(self.best.spec, frozenset(piece))):
                    kept = [part for part in kept if part not in piece]
                    break
            else:
                if size == 1:
                    return
                size //= 2
