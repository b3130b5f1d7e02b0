"""The manager under every fault: a bounded number of seeds, and those that failed once."""

import os
import secrets

import pytest

from exitguard.sim.campaign import Campaign, run_campaign
from exitguard.sim.faults import FAULTS
from exitguard.sim.simulate import RunSpec, simulate

# Played in every run, so that it fails for what a change breaks, and fresh ones, so that every run looks further.
SEEDS = 60
FRESH_SEEDS = int(os.environ.get("EXITGUARD_SIM_SEEDS", "40"))
FIRST_FRESH = int(os.environ.get("EXITGUARD_SIM_SEED") or secrets.randbelow(10**9))
STRIKING = frozenset(FAULTS)

# Seed and what it found. A seed that failed once stays.
ONCE_FAILED = {
    17: "a turned position was booked twice after a restart: the tally forgot what was left of the turning fill",
    26: "a refused batch was written in parts: a closed row without its history, and a position adopted twice",
    34: "the part of a fill that turned a position was booked into the position adopted from it",
    37: "the same, under an id that the ledger had already: the row and its fills differed",
    163: "a restoration whose look-up failed left its intent open for ever",
    193: "a close whose send had an unknown outcome left its intent open when the position ended otherwise",
    242: "a late-found fill had a later time than the one that closed: the fold failed and the manager never started",
    261: "a position turned by hand while its close was under way was never closed",
    287: "a closed position was adopted again from an answer that lagged",
    10454: "an adoption from positions that lagged their fills saw a turn that never was, and booked it twice",
    10633: "a manager that had stood still for minutes went on by its journal while another held the lease",
    31135: "the exercise of an earlier position of the day was booked for the next one, too",
    9000088: "after a long outage a process went on by its journal until its next renewal, beside another",
    9000205: "the judge expected something to be left of a position that an exercise had turned around",
    31924: "both parts of the fill that turned a position had one id, and the part found later was lost",
    31669: "an entry against what was held made a second row of the contract, and neither could be closed",
    411431570: "a close was booked at the average of an order that filled too much, the excess at its last price",
    7200167: "the row of a position adopted after a part of it was sold had no exit price",
    31115: "shares were split during a close, and the half that it left over became a position of its own",
    31476: "shares that came by an assignment were taken for a position on the other side",
    288271423: "shares that came by an exercise while the database was away turned a position, and it stayed as it was",
    20262296: "an exercise was booked in part because the answer about positions lagged a close, and never in full",
    20262445: "a bracket was restored at a stop from before the split of the night, and filled at once",
    9000347: "a manager with a full journal gave up at its start when the database stumbled: it missed a split",
    32000288: "an assignment from before an adoption was booked, for a part, when the broker said that it held nothing",
    33000564: "what ended an entry of ours was counted in by an adoption, and the entry, found later, never ended",
    643: "an assignment from before an adoption was booked when the broker said several times that it held nothing",
    679: "shares added after a split were taken for a part of what was split, at another ratio",
    992: "an answer without any position was taken for the exercise of a put against the shares beside it",
    1918: "a late update of a filled order made its intent live again, for ever",
    2421: "marks that the database had kept waiting took an extreme back that a later batch had written",
    5138: "a reduction whose end could not be recorded at once was told as a defect",
    1040: "an order was sent again although its first copy had arrived while the intent was written anew",
    7770080: "the judge took shares that an exercise had brought for a rest of the position beside them",
    5056: "an episode that only a lost journal had kept was folded into the position adopted after it",
}


def _stories(campaign: Campaign) -> str:
    told = [
        "\n".join([f"exitguard sim --seeds 1 --seed {r.spec.seed}: {r.violations[0]}", *r.story[-40:]])
        for r in campaign.shrunk
    ]
    return "\n\n".join(told)


def test_the_manager_keeps_its_promises_under_faults() -> None:
    campaign = run_campaign(0, SEEDS, STRIKING)
    assert not campaign.failed, _stories(campaign)
    assert campaign.closed > SEEDS / 2, "hardly anything was closed: the scenarios say nothing"
    assert {name for name in STRIKING if not campaign.injected[name]} <= {"cancel_filled", "cancel_slow"}


def test_the_manager_keeps_its_promises_in_seeds_that_nobody_chose() -> None:
    """EXITGUARD_SIM_SEED=N plays the same ones again; a seed that fails belongs into the list above."""
    campaign = run_campaign(FIRST_FRESH, FRESH_SEEDS, STRIKING)
    assert not campaign.failed, f"EXITGUARD_SIM_SEED={FIRST_FRESH}\n\n{_stories(campaign)}"


def test_without_faults_everything_is_quiet() -> None:
    campaign = run_campaign(0, 15, frozenset())
    assert not campaign.failed
    assert not campaign.injected
    assert campaign.closed > 10


@pytest.mark.parametrize("seed", ONCE_FAILED, ids=str)
def test_a_seed_that_failed_once_never_fails_again(seed: int) -> None:
    result = simulate(RunSpec(seed))
    assert not result.violations, "\n".join([ONCE_FAILED[seed], *map(str, result.violations), *result.story[-40:]])
