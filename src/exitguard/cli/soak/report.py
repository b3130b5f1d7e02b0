"""What a soak tells: plain values, for the table, the JSON and the page."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from exitguard.config.build import build_info

# Resident memory of a manager in the last quarter of the hour, as a share of that in the second: beyond it grew.
GROWTH_LIMIT = 1.10
_LEAST_SAMPLES = 8


@dataclass(slots=True)
class SoakResult:
    """One soak. Megabytes are millions of bytes; `memory` are a manager's samples, one a minute, by process.

    `late` counts sweeps whose heartbeat came a minute later than it should.
    """

    accounts: int
    positions: int
    minutes: int
    processes: int
    seed: int
    played: int = 0
    opened: int = 0
    closed: int = 0
    left_open: int = 0
    killed: int = 0
    orders: int = 0
    events: int = 0
    wall_seconds: float = 0.0
    settled_minutes: int = 0
    late: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    memory: dict[str, list[float]] = field(default_factory=dict)
    lost: int = 0
    twice: int = 0
    unfinished: int = 0
    broken_chains: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def growth(self) -> float | None:
        """How much the memory of the process that grew most changed; None when too few minutes were played."""
        found = [each for each in map(growth, self.memory.values()) if each is not None]
        return max(found, default=None)

    def body(self) -> dict[str, Any]:
        """Everything as plain values."""
        grown = self.growth
        return {
            **asdict(self),
            "build": build_info().label,
            "wall_seconds": round(self.wall_seconds, 1),
            "memory_growth": None if grown is None else round(grown, 3),
            "memory_megabytes": round(sum(samples[-1] for samples in self.memory.values() if samples)),
            "ok": not self.problems,
        }


def growth(samples: Sequence[float]) -> float | None:
    """Median of the last quarter by that of the second: what grows for ever shows, what starts does not."""
    if len(samples) < _LEAST_SAMPLES:
        return None
    quarter = len(samples) // 4
    return _middle(samples[-quarter:]) / _middle(samples[quarter : 2 * quarter])


def _middle(samples: Sequence[float]) -> float:
    return sorted(samples)[len(samples) // 2]


def rows(body: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The table."""
    grown = body["memory_growth"]
    return [
        ("accounts", f"{body['accounts']:,}"),
        ("positions at the start", f"{body['positions']:,}"),
        ("market time", f"{body['played']} minutes, and {body['settled_minutes']} without faults"),
        ("positions opened", f"{body['opened']:,}"),
        ("positions closed", f"{body['closed']:,}"),
        ("open at the end", f"{body['left_open']:,}"),
        ("managers killed with SIGKILL", f"{body['killed']:,}"),
        ("faults injected", f"{sum(body['faults'].values()):,}"),
        ("lost", f"{body['lost']:,}"),
        ("done twice", f"{body['twice']:,}"),
        ("sweeps a minute late", f"{body['late']:,} of {body['accounts'] * body['played']:,}"),
        ("left unfinished", f"{body['unfinished']:,}"),
        ("broken chains of events", f"{body['broken_chains']:,}"),
        ("events in the ledger", f"{body['events']:,}"),
        ("memory of the managers at the end", f"{body['memory_megabytes']:,} MB"),
        ("memory, last quarter to second", "too short to tell" if grown is None else f"{grown:.2f}"),
        ("wall time", f"{body['wall_seconds']:,.0f} s"),
    ]
