"""The planted bugs, and the hunt for them: each must be found by the simulator within its number of seeds.

A seed counts only when the manager as it is passes it: what is found is then the planted bug and nothing else.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

from exitguard.core import closing
from exitguard.manager import lifecycle
from exitguard.manager.account import AccountManager
from exitguard.manager.closer import Closer
from exitguard.manager.context import AccountContext
from exitguard.manager.corporate import CorporateActions
from exitguard.manager.ledger import Ledger
from exitguard.manager.lifecycle import Lifecycle
from exitguard.manager.reconciler import Reconciler
from exitguard.manager.restorer import Restorer
from exitguard.manager.watcher import Watcher
from exitguard.sim import planted
from exitguard.sim.faults import FAULTS
from exitguard.sim.simulate import RunResult, RunSpec, simulate
from exitguard.store.journaled import JournaledStore

# Planted bugs are looked for in these seeds, from the first on.
FIRST_SEED = 1_000_000


@dataclass(frozen=True, slots=True)
class Mutant:
    """One planted bug. `bound`: clean seeds within which it must be found."""

    name: str
    plant: Callable[[], AbstractContextManager[None]]
    about: str
    bound: int = 100


@dataclass(frozen=True, slots=True)
class Hunt:
    """What came of looking for one planted bug: `seeds` tried until it was found, None when it was not."""

    mutant: Mutant
    seeds: int | None
    violation: str

    def body(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "name": self.mutant.name,
            "about": self.mutant.about,
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


def _mutant(wrap: planted.Wrap, owner: Any, attribute: str, *, bound: int = 100) -> Mutant:
    about = (wrap.__doc__ or "").split(": ", 1)[-1].strip().rstrip(".")
    return Mutant(wrap.__name__, partial(planted.replaced, (owner, attribute, wrap)), about, bound)


_MUTANTS = (
    _mutant(planted.no_intent, Ledger, "commit"),
    _mutant(planted.lost_intent, Ledger, "commit"),
    _mutant(planted.same_id, closing, "client_order_id"),
    _mutant(planted.large_only, closing, "client_order_id"),
    _mutant(planted.new_id_on_unknown, _Handler(closing.Phase.SENDING), "handler"),
    _mutant(planted.first_404, _Handler(closing.Phase.RESOLVING), "handler"),
    _mutant(planted.original_quantity, Closer, "_submit"),
    _mutant(planted.underlying, closing, "close_request"),
    _mutant(planted.wrong_side, closing, "close_request"),
    _mutant(planted.keeps_orders, _Handler(closing.Phase.CLEARING), "handler"),
    _mutant(planted.done_at_first_fill, closing, "_ended"),
    _mutant(planted.leaves_order, _Handler(closing.Phase.WORKING), "handler", bound=400),
    _mutant(planted.failed_is_flat, Closer, "_perform"),
    _mutant(planted.two_closers, Closer, "start"),
    _mutant(planted.blind_resume, Closer, "resume"),
    _mutant(planted.no_resume, Closer, "resume"),
    _mutant(planted.no_recovered_intents, AccountManager, "_recover_intent"),
    _mutant(planted.no_tally, AccountContext, "tally"),
    _mutant(planted.no_tally_after_restart, AccountManager, "restore"),
    _mutant(planted.cumulative_fills, lifecycle, "new_fill"),
    _mutant(planted.mark_for_fill, Ledger, "commit"),
    _mutant(planted.no_history, Ledger, "commit"),
    _mutant(planted.fill_without_row, Ledger, "post"),
    _mutant(planted.empty_means_flat, Reconciler, "_act_on"),
    _mutant(planted.quantity_of_the_list, Reconciler, "_act_on"),
    _mutant(planted.no_adoption, Reconciler, "_adopt"),
    _mutant(planted.blind_to_splits, CorporateActions, "split", bound=400),
    _mutant(planted.no_lapses, Reconciler, "_lapsed"),
    _mutant(planted.no_legs, Lifecycle, "apply_order"),
    _mutant(planted.restore_original, Restorer, "_request"),
    _mutant(planted.no_rules_in_sweeps, Watcher, "sweep"),
    _mutant(planted.never_acts, Watcher, "_act"),
    _mutant(planted.lease_ignored, JournaledStore, "commit"),
    _mutant(planted.journal_never_written, JournaledStore, "_start_draining"),
    _mutant(planted.forgets_commands, AccountManager, "_take"),
)

MUTANTS = {mutant.name: mutant for mutant in _MUTANTS}


def hunt(names: Sequence[str], *, say: Callable[[str], None] | None = None) -> list[Hunt]:
    """Look for each planted bug in turn, in at most its bound of seeds that are clean without it."""
    clean: dict[int, bool] = {}
    found = []
    for name in names:
        found.append(_hunt_one(MUTANTS[name], clean))
        if say is not None:
            say(f"{name}: " + (f"found in {found[-1].seeds} seeds" if found[-1].seeds else "NOT FOUND"))
    return found


def _hunt_one(mutant: Mutant, clean: dict[int, bool]) -> Hunt:
    tried, seed = 0, FIRST_SEED
    while tried < mutant.bound:
        spec, seed = RunSpec(seed, frozenset(FAULTS)), seed + 1
        with mutant.plant():
            result: RunResult = simulate(spec)
        if not result.violations:
            tried += 1
            clean.setdefault(spec.seed, True)
            continue
        if spec.seed not in clean:
            clean[spec.seed] = not simulate(spec).violations
        if clean[spec.seed]:
            return Hunt(mutant, tried + 1, str(result.violations[0])[:160])
    return Hunt(mutant, None, "")
