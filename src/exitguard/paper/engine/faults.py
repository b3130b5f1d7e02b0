"""Faults that can be switched on (skeleton; filled in next)."""

from dataclasses import dataclass, field
from typing import Any

FAULT_KINDS: dict[str, str] = {}


@dataclass(slots=True)
class Fault:
    """One fault that is switched on."""

    id: int
    kind: str
    probability: float = 1.0
    count: int | None = None
    account: str | None = None
    symbol: str | None = None
    endpoint: str | None = None
    seed: int = 0
    parameters: dict[str, Any] = field(default_factory=dict)


class Faults:
    """The faults of one venue and the log of what was injected."""

    def add(self, specification: dict[str, Any]) -> Fault:
        """Switch a fault on. Raises ApiError 422 when the specification makes no sense."""
        raise NotImplementedError

    def remove(self, fault_id: int) -> bool:
        """Switch one fault off."""
        raise NotImplementedError

    def clear(self) -> None:
        """Switch every fault off; the log stays."""

    def strike(
        self, kind: str, *, account: str | None = None, symbol: str | None = None, endpoint: str | None = None
    ) -> Fault | None:
        """Decide whether a fault of this kind hits now; a hit is counted and logged. None almost always, and cheap."""
        return None

    def to_json(self) -> dict[str, Any]:
        """The switched-on faults, the kinds known and the log."""
        return {"faults": [], "kinds": FAULT_KINDS, "log": []}
