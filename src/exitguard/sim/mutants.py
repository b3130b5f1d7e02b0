"""The planted bugs, and the hunt for them: each must be found by the simulator within its number of seeds.

A seed counts only when the manager as it is passes it: what is found is then the planted bug and nothing else.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

from exitguard.core import closing
from exitguard.manager import lifecycle
from exitguard.manager.account import AccountManager
from exitguard.manager.adoption import Adoption
from exitguard.manager.closer import Closer
from exitguard.manager.context import AccountContext
from exitguard.manager.corporate import CorporateActions
from exitguard.manager.ledger import Ledger
from exitguard.manager.lifecycle import Lifecycle
from exitguard.manager.reconciler import Reconciler
from exitguard.manager.watcher import Watcher
from exitguard.sim import planted
from exitguard.sim.faults import FAULTS
from exitguard.sim.memory_store import MemoryStore
from exitguard.sim.simulate import RunResult, RunSpec, simulate
from exitguard.store.journaled import JournaledStore

# Planted bugs are looked for in these seeds, from the first on.
FIRST_SEED = 1_000_000


@dataclass(frozen=True, slots=True)
class Mutant:
    """One planted bug. `breaks`: the promise that it breaks; `bound`: clean seeds within which it must be found."""

    name: str
    plant: Callable[[], AbstractContextManager[None]]
    about: str
    breaks: str
    bound: int


@dataclass(frozen=True, slots=True)
class Hunt:
    """What came of looking for one planted bug: `seeds` tried until it was found, None when it was not.

    `violation` is the first thing that was wrong: often a consequence of the bug, and not the promise that it breaks.
    """

    mutant: Mutant
    seeds: int | None
    violation: str

    def body(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "name": self.mutant.name,
            "about": self.mutant.about,
            "breaks": self.mutant.breaks,
            "bound": self.mutant.bound,
            "found_in_seeds": self.seeds,
            "violation": self.violation,
        }


class _Handler:
    """One entry of the closing procedure's table as an attribute, so that it can be replaced."""

    def __init__(self, phase: closing.Phase) -> None:
        object.__setattr__(self, "_phase", phase)

    def __getattr__(self, name: str) -> Any:
        return closing._HANDLERS[self.__dict__["_phase"]]

    def __setattr__(self, name: str, value: Any) -> None:
        closing._HANDLERS[self.__dict__["_phase"]] = value


def _mutant(
    breaks: str, wrap: planted.Wrap, owner: Any, attribute: str, *more: planted.Change, bound: int = 100
) -> Mutant:
    about = (wrap.__doc__ or "").partition("\n\n")[0].split(": ", 1)[-1].strip().rstrip(".")
    return Mutant(wrap.__name__, partial(planted.replaced, (owner, attribute, wrap), *more), about, breaks, bound)


# What one part forgets, another finds: both have to forget.
_SETTLE: planted.Change = (Reconciler, "_settle_intents", planted.unsettled_intents)
_MUTANTS = (
    _mutant("I3", planted.no_intent, Ledger, "commit"),
    _mutant("I3", planted.lost_intent, Ledger, "commit"),
    _mutant("I9", planted.same_id, closing, "client_order_id"),
    _mutant("I4", planted.large_only, closing, "client_order_id"),
    _mutant("I2", planted.new_id_on_unknown, _Handler(closing.Phase.SENDING), "handler"),
    _mutant("I2", planted.first_404, _Handler(closing.Phase.RESOLVING), "handler"),
    _mutant("I1", planted.original_quantity, Closer, "_submit"),
    _mutant("I3", planted.underlying, closing, "close_request"),
    _mutant("I9", planted.wrong_side, closing, "close_request"),
    _mutant("I9", planted.keeps_orders, _Handler(closing.Phase.CLEARING), "handler"),
    _mutant("I5", planted.done_at_first_fill, Lifecycle, "finish", (closing, "_ended", planted.ends_at_once)),
    _mutant("I11", planted.failed_is_flat, Closer, "_perform"),
    _mutant("I2", planted.two_closers, Closer, "start"),
    _mutant("I2", planted.blind_resume, Closer, "resume"),
    _mutant("I9", planted.no_resume, Closer, "resume"),
    _mutant("I8", planted.no_recovered_intents, AccountManager, "_recover_intent", _SETTLE),
    _mutant("I5", planted.no_tally, AccountContext, "tally"),
    _mutant("I5", planted.no_tally_after_restart, AccountManager, "restore"),
    _mutant("I5", planted.cumulative_fills, lifecycle, "new_fill"),
    _mutant("F58", planted.mark_for_fill, Ledger, "commit"),
    _mutant("I10", planted.no_history, Ledger, "commit"),
    _mutant("I10", planted.fill_without_row, Ledger, "post"),
    _mutant("I11", planted.empty_means_flat, Reconciler, "_act_on"),
    _mutant("I11", planted.quantity_of_the_list, Reconciler, "_act_on"),
    _mutant("I8", planted.no_adoption, Adoption, "adopt"),
    _mutant("I8", planted.blind_to_splits, CorporateActions, "split", bound=400),
    _mutant("I8", planted.no_lapses, Reconciler, "_lapsed"),
    _mutant("I8", planted.no_legs, Lifecycle, "apply_order"),
    _mutant("I9", planted.no_rules_in_sweeps, Watcher, "sweep"),
    _mutant("I9", planted.never_acts, Watcher, "_act"),
    _mutant("I12", planted.lease_ignored, MemoryStore, "_component"),
    _mutant("I8", planted.journal_never_written, JournaledStore, "_start_draining"),
    _mutant("I8", planted.forgets_commands, AccountManager, "_take"),
    _mutant("I3", planted.lost_armed, Ledger, "commit"),
)

MUTANTS = {mutant.name: mutant for mutant in _MUTANTS}


# Seeds that the manager as it is was tried with in this process: whether it passed.
_clean: dict[int, bool] = {}


def hunt(names: Sequence[str], *, jobs: int = 1, say: Callable[[str], None] | None = None) -> list[Hunt]:
    """Look for each planted bug, until it is found and in at most its bound of seeds that are clean without it."""
    found = []
    for each in _hunts(names, jobs):
        found.append(each)
        if say is not None:
            say(f"{each.mutant.name}: " + (f"found in {each.seeds} seeds" if each.seeds else "NOT FOUND"))
    return found


def _hunts(names: Sequence[str], jobs: int) -> Iterator[Hunt]:
    if jobs <= 1:
        yield from (Hunt(MUTANTS[name], *_look_for(name)) for name in names)
        return
    with ProcessPoolExecutor(jobs) as pool:
        for name, (seeds, violation) in zip(names, pool.map(_look_for, names), strict=True):
            yield Hunt(MUTANTS[name], seeds, violation)


def _look_for(name: str) -> tuple[int | None, str]:
    """How many seeds it took, and the violation that gave it away."""
    mutant, tried, seed = MUTANTS[name], 0, FIRST_SEED
    while tried < mutant.bound:
        spec, seed = RunSpec(seed, frozenset(FAULTS)), seed + 1
        with mutant.plant():
            result: RunResult = simulate(spec)
        if not result.violations:
            tried += 1
            continue
        if spec.seed not in _clean:
            _clean[spec.seed] = not simulate(spec).violations
        if _clean[spec.seed]:
            return tried + 1, str(result.violations[0])[:160]
    return None, ""
