"""What a benchmark found: one figure, its baseline of the same run, and whether the target holds."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """A promise about a figure: its ratio to the baseline, or the value itself, stays at or below `limit`."""

    limit: float
    of_ratio: bool = False

    def __str__(self) -> str:
        return f"ratio <= {self.limit:g}" if self.of_ratio else f"value < {self.limit:g}"

    def holds(self, value: float, ratio: float | None) -> bool:
        """Whether the promise is kept; a ratio that could not be measured keeps none."""
        if self.of_ratio:
            return ratio is not None and ratio <= self.limit
        return value < self.limit


@dataclass(frozen=True, slots=True)
class Measurement:
    """One row of the result. `ratio` is value divided by baseline, `target` in words, None where nothing is promised.

    `error` says why there is no value.
    """

    value: float | None
    unit: str
    baseline: float | None = None
    ratio: float | None = None
    target: str | None = None
    holds: bool | None = None
    error: str | None = None

    def as_json(self) -> dict[str, object]:
        """The row as plain values; `error` only where there is one."""
        row = asdict(self)
        if self.error is None:
            del row["error"]
        return row


def measured(value: float, unit: str, *, baseline: float | None = None, target: Target | None = None) -> Measurement:
    """Make a row from a figure."""
    ratio = value / baseline if baseline else None
    return Measurement(
        value=_rounded(value),
        unit=unit,
        baseline=None if baseline is None else _rounded(baseline),
        ratio=None if ratio is None else _rounded(ratio),
        target=None if target is None else str(target),
        holds=None if target is None else target.holds(value, ratio),
    )


def failed(reason: str, target: Target | None = None) -> Measurement:
    """A row without a figure: what is promised is then not kept."""
    return Measurement(
        None,
        "",
        target=None if target is None else str(target),
        holds=None if target is None else False,
        error=reason,
    )


def _rounded(value: float) -> float:
    """Four significant digits: what a noisy machine can say at most."""
    if value == 0 or not math.isfinite(value):
        return value
    return round(value, 3 - math.floor(math.log10(abs(value))))


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of all do not exceed (nearest rank)."""
    if not values:
        raise ValueError("a quantile of nothing")
    return sorted(values)[max(0, math.ceil(len(values) * share) - 1)]


def median(values: Sequence[float]) -> float:
    """The middle value."""
    return quantile(values, 0.5)
