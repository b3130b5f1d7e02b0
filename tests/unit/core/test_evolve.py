"""Changed copies of frozen records."""

from dataclasses import FrozenInstanceError, dataclass, replace

import pytest
from tests.support.ledger import position

from exitguard.core.evolve import evolve
from exitguard.core.records import PositionStatus


def test_a_copy_is_what_replace_makes_and_the_original_stays() -> None:
    original = position("large")
    before = replace(original)
    changed = evolve(original, status=PositionStatus.CLOSING, close_attempt=3)
    assert changed == replace(original, status=PositionStatus.CLOSING, close_attempt=3)
    assert original == before
    with pytest.raises(FrozenInstanceError):
        changed.close_attempt = 4  # type: ignore[misc]


def test_a_field_that_is_not_there_is_an_error() -> None:
    with pytest.raises(TypeError, match="no field 'colour'"):
        evolve(position("large"), colour="red")


@dataclass(frozen=True, slots=True)
class Checked:
    """A class that must not be copied past its check."""

    low: int
    high: int

    def __post_init__(self) -> None:
        assert self.low <= self.high


def test_a_class_that_checks_its_fields_is_refused() -> None:
    with pytest.raises(TypeError, match=r"use dataclasses\.replace"):
        evolve(Checked(1, 2), low=3)
