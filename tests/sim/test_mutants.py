"""Bugs planted on purpose: the suite looks for the ones that are quickly found, `exitguard sim --mutants` for all."""

import pytest

from exitguard.sim.mutants import MUTANTS, hunt

QUICK = (
    "no_intent",
    "lost_armed",
    "no_tally",
    "mark_for_fill",
    "empty_means_flat",
    "two_closers",
    "never_acts",
    "no_history",
)


@pytest.mark.parametrize("name", QUICK)
def test_a_planted_bug_is_found(name: str) -> None:
    (found,) = hunt([name])
    assert found.seeds is not None
    assert found.violation


def test_planting_leaves_nothing_behind() -> None:
    for mutant in MUTANTS.values():
        assert mutant.about
        with mutant.plant():
            pass
    assert hunt([]) == []


def test_there_are_at_least_25_planted_bugs() -> None:
    assert len(MUTANTS) >= 25
