"""`faults.toml`: faults that are on from the start, or from a moment of market time on.

    [[fault]]
    kind = "http_504_after"
    endpoint = "POST /v2/orders"
    probability = 0.01

    [[fault]]
    kind = "assignment"
    account = "large"
    symbol = "AAPL261120C00190000"
    at = 2026-11-20T11:00:00

The fields are those of `POST /admin/faults`, and `at` (New York time without a zone).
"""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from exitguard.core.errors import InvalidInput
from exitguard.core.session import NEW_YORK
from exitguard.paper.engine import FAULT_KINDS, ApiError
from exitguard.paper.engine.faults import FIELDS


@dataclass(frozen=True, slots=True)
class PlannedFault:
    """One entry: what to switch on, and when; None is from the start."""

    number: int
    specification: Mapping[str, Any]
    at: datetime | None


def read_faults(path: Path) -> list[PlannedFault]:
    """Read a file; entries with a time last, in their order. Raises InvalidInput that names the entry."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read as faults: {error}") from error
    entries = content.pop("fault", [])
    if content or not isinstance(entries, list):
        raise InvalidInput(f"{path}: expected [[fault]] tables and nothing else, found {', '.join(content) or 'fault'}")
    planned = [_read(path, number, entry) for number, entry in enumerate(entries, start=1)]
    return sorted(planned, key=lambda one: one.at or datetime.min.replace(tzinfo=UTC))


def _read(path: Path, number: int, entry: Any) -> PlannedFault:
    where = f"{path}, fault {number}"
    if not isinstance(entry, dict):
        raise InvalidInput(f"{where}: expected a [[fault]] table")
    specification = dict(entry)
    at = specification.pop("at", None)
    if at is not None:
        if not isinstance(at, date):
            raise InvalidInput(f"{where}: at must be a date and time, was {at!r}")
        at = at if isinstance(at, datetime) else datetime(at.year, at.month, at.day)  # noqa: DTZ001 - given below
        at = (at if at.tzinfo is not None else at.replace(tzinfo=NEW_YORK)).astimezone(UTC)
    unknown = sorted(set(specification) - FIELDS)
    if unknown:
        raise InvalidInput(f"{where}: unknown {', '.join(unknown)}; known are at, {', '.join(sorted(FIELDS))}")
    if specification.get("kind") not in FAULT_KINDS:
        raise InvalidInput(f"{where}: unknown kind {specification.get('kind')!r}; GET /admin/faults lists them")
    return PlannedFault(number, specification, at)


class FaultPlan:
    """Switches planned faults on when their time has come. One that is impossible then is logged, not raised."""

    def __init__(
        self, path: Path, add: Callable[[Mapping[str, Any]], Any], failed: Callable[[Mapping[str, Any], str], None]
    ) -> None:
        self._path = path
        self._waiting = read_faults(path)
        self._add = add
        self._failed = failed

    @property
    def next_at(self) -> datetime | None:
        """When the next fault is due; None when there is none left."""
        return self._waiting[0].at if self._waiting else None

    def begin(self) -> None:
        """Switch on what has no time. Raises InvalidInput for an entry that is impossible."""
        while self._waiting and self._waiting[0].at is None:
            planned = self._waiting.pop(0)
            try:
                self._add(planned.specification)
            except ApiError as error:
                raise InvalidInput(f"{self._path}, fault {planned.number}: {error.body.get('message')}") from error

    def reach(self, now: datetime) -> bool:
        """Switch on what is due; whether anything was."""
        acted = False
        while self._waiting and (at := self._waiting[0].at) is not None and at <= now:
            planned = self._waiting.pop(0)
            acted = True
            try:
                self._add(planned.specification)
            except ApiError as error:
                self._failed(planned.specification, str(error.body.get("message")))
        return acted
