"""`exitguard sim`."""

from time import monotonic
from typing import Annotated

from cyclopts import Parameter

from exitguard.cli.exits import CommandFailed, Exit
from exitguard.cli.output import Json, emit, emit_json, emit_table, remark
from exitguard.sim.campaign import STORY_LINES, Campaign, failure_body, run_campaign
from exitguard.sim.faults import FAULTS
from exitguard.sim.mutants import MUTANTS, Hunt, hunt
from exitguard.sim.simulate import RunResult

PROGRESS_SECONDS = 15.0


def sim(
    *,
    seeds: Annotated[int, Parameter(help="How many seeds.")] = 100,
    seed: Annotated[int, Parameter(help="The first seed; with --seeds 1 exactly this one is repeated.")] = 0,
    faults: Annotated[
        str, Parameter(help="Faults that may strike, by name and separated by commas; all, none, or all,-NAME.")
    ] = "all",
    jobs: Annotated[int, Parameter(help="Processes that work at the same time.")] = 1,
    mutants: Annotated[
        bool, Parameter(negative="", help="Plant each known bug in turn and tell in how many seeds it is found.")
    ] = False,
    json: Json = False,
) -> int:
    """Run the real manager in virtual time against faults and crashes; exit 1 when an invariant does not hold."""
    if seeds < 1 or jobs < 1 or seed < 0:
        raise CommandFailed("--seeds and --jobs must be at least 1, --seed at least 0", Exit.USAGE)
    if mutants:
        return _show_hunt(hunt(list(MUTANTS), jobs=jobs, say=remark), json=json)
    campaign = run_campaign(seed, seeds, read_faults(faults), jobs=jobs, on_result=_Progress(seeds))
    if json:
        emit_json(campaign.body())
    else:
        _show(campaign)
    return Exit.WRONG if campaign.failed else Exit.OK


def read_faults(text: str) -> frozenset[str]:
    """Read a list of fault names. Raises CommandFailed."""
    chosen: set[str] = set()
    for name in filter(None, (part.strip() for part in text.split(","))):
        if name == "all":
            chosen |= FAULTS.keys()
        elif name.lstrip("-") not in FAULTS and name != "none":
            raise CommandFailed(f"--faults: no fault {name!r}, there are {', '.join(FAULTS)}", Exit.USAGE)
        elif name.startswith("-"):
            chosen.discard(name[1:])
        elif name != "none":
            chosen.add(name)
    return frozenset(chosen)


class _Progress:
    """Says each violation at once, and now and then how far it is."""

    def __init__(self, seeds: int) -> None:
        self._seeds = seeds
        self._began = self._said = monotonic()
        self._failed = 0

    def __call__(self, done: int, result: RunResult) -> None:
        """Note that a seed is done."""
        if result.violations:
            self._failed += 1
            remark(f"seed {result.spec.seed} (trace {result.digest}): {result.violations[0]}")
        now = monotonic()
        if now - self._said >= PROGRESS_SECONDS and done < self._seeds:
            self._said = now
            left = (now - self._began) / done * (self._seeds - done)
            remark(f"{done} of {self._seeds} seeds, {self._failed} with violations, about {left / 60:.0f} min left")


def _show(campaign: Campaign) -> None:
    body = campaign.body()
    emit_table(
        ("what", "figure"),
        [
            ("seeds", f"{campaign.seeds} from {campaign.first_seed}"),
            ("simulated days", body["simulated_days"]),
            ("simulated seconds a wall second", body["simulated_seconds_per_wall_second"]),
            ("positions closed", campaign.closed),
            ("faults injected", sum(campaign.injected.values())),
            ("time", f"{campaign.elapsed_seconds:.0f} s"),
            ("seeds with violations", len(campaign.failed)),
        ],
        numeric=("figure",),
    )
    emit_table(("fault", "injected", "what it is"), [(n, campaign.injected.get(n, 0), FAULTS[n].about) for n in FAULTS])
    for result in campaign.shrunk:
        again = f"exitguard sim --seeds 1 --seed {result.spec.seed}"
        emit(f"\nSeed {result.spec.seed}, made small (repeat the whole of it: {again}):")
        for line in result.story[-STORY_LINES:]:
            emit(f"  {line}")
        left_out = failure_body(result)["without"]
        emit(f"  needed faults: {', '.join(sorted(result.spec.faults)) or 'none'}")
        if left_out:
            emit(f"  left out: {', '.join(left_out)}")
    if campaign.failed:
        emit("\nSeeds with violations: " + ", ".join(str(result.spec.seed) for result in campaign.failed))
    else:
        emit(f"{campaign.seeds} seeds, no violation.")


def _show_hunt(found: list[Hunt], *, json: bool) -> int:
    missed = [each for each in found if each.seeds is None]
    if json:
        emit_json(
            {"planted": len(found), "found": len(found) - len(missed), "mutants": [each.body() for each in found]}
        )
    else:
        rows = [
            (e.mutant.name, e.mutant.about, e.mutant.breaks, e.seeds or "not found", e.mutant.bound, e.violation)
            for e in found
        ]
        emit_table(("planted bug", "what it does", "breaks", "found in seeds", "limit", "by"), rows)
        emit(f"{len(found) - len(missed)} of {len(found)} planted bugs found.")
    return Exit.WRONG if missed else Exit.OK
