"""What happened in a simulation, as lines that a person reads; their hash says whether two runs were the same."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog

from exitguard.core.session import NEW_YORK
from exitguard.sim.loop import PROCESS

_NOISE = frozenset({"Sleeping for 1 minute until next check...", "stream up", "Position updated"})
_BOUND = frozenset({"account", "build", "exc_info"})
_DEFECTS = ("failed unexpectedly", "refused a change", "refused a batch", "the database refused")
# A journal that another holder overtook is kept aside, not written.
_BY_DESIGN = "a later holder has written since"


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that happened. `about` is the account that it concerns, empty for all."""

    at: datetime
    actor: str
    about: str
    text: str

    def __str__(self) -> str:
        return f"{self.at.astimezone(NEW_YORK):%m-%d %H:%M:%S.%f} {self.actor:<12} {self.text}"


class Timeline:
    """All lines of one run."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self.lines: list[Line] = []
        # Log lines in which the manager itself says that something is wrong with it.
        self.defects: list[str] = []

    def note(self, actor: str, text: str, about: str = "") -> None:
        """Add a line."""
        self.lines.append(Line(self._now(), actor, about, text))

    def digest(self) -> str:
        """A hash of everything that happened."""
        total = hashlib.sha256()
        for line in self.lines:
            total.update(f"{line}\n".encode())
        return total.hexdigest()[:16]

    def story(self, account: str, words: tuple[str, ...], last: int = 60) -> list[str]:
        """The last lines that concern an account and, where `words` are given, any of them."""
        chosen = [
            line
            for line in self.lines
            if line.about in ("", account) and (not words or line.about == "" or any(w in line.text for w in words))
        ]
        return _collapsed(chosen)[-last:]

    @contextmanager
    def capturing_logs(self) -> Iterator[None]:
        """Take in the log lines of the managers instead of printing them."""
        before = structlog.get_config()
        structlog.configure(
            processors=[self._take],
            wrapper_class=structlog.make_filtering_bound_logger(20),
            cache_logger_on_first_use=False,
        )
        try:
            yield
        finally:
            structlog.configure(**before)

    def _take(self, _logger: Any, method: str, event: Any) -> Any:
        process = PROCESS.get()
        text = str(event.pop("event"))
        if text in _NOISE or (process is not None and not process.alive):
            raise structlog.DropEvent
        account = str(event.get("account", ""))
        facts = " ".join(f"{name}={value}" for name, value in event.items() if name not in _BOUND)
        error = event.get("exc_info")
        line = f"{text} {facts}".strip()
        if any(words in text for words in _DEFECTS) and _BY_DESIGN not in line:
            cause = _cause(error)
            self.defects.append(f"{line} {cause}".strip())
            line = f"{line} {cause}".strip()
        self.note(process.name if process is not None else "world", line, account)
        raise structlog.DropEvent


def _collapsed(lines: list[Line]) -> list[str]:
    """Lines as text; what one actor says again and again is said once, with how often."""
    found: list[tuple[Line, int]] = []
    newest: dict[str, int] = {}
    for line in lines:
        before = newest.get(line.actor)
        if before is not None and found[before][0].text == line.text:
            found[before] = (found[before][0], found[before][1] + 1)
            continue
        newest[line.actor] = len(found)
        found.append((line, 1))
    return [f"{line}" + (f" ({times} times)" if times > 1 else "") for line, times in found]


def _cause(error: object) -> str:
    if error is True:
        import sys

        error = sys.exc_info()[1]
    if not isinstance(error, BaseException):
        return ""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    where = f" at {frame.tb_frame.f_code.co_name}:{frame.tb_lineno}" if frame is not None else ""
    return f"{error!r}{where}"
