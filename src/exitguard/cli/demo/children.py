"""The demo's child processes: started in sessions of their own, logged, stopped by their own identity, never by name.

Their process ids lie in a file, so that the next demo, or `exitguard demo --stop`, finds what a killed one left behind.
A process is only signalled when it still is the one that was started: same id, same start time.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from exitguard.core.errors import ExitguardError

STOP_PATIENCE = 30.0
TAIL_LINES = 12
_LONGEST_LINE = 400


class ChildFailed(ExitguardError):
    """A child process ended or never got ready; carries its last words."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A process as one can recognise it later."""

    name: str
    pid: int
    started: str


@dataclass(slots=True)
class Child:
    """One running child."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path
    out: Path

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    def last_words(self) -> str:
        """The end of its log."""
        return tail(self.log)


class Children:
    """All children of one demo. `folder` holds their logs and the list of their identities."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = dict(environment)
        self._children: list[Child] = []
        self._released = False

    def start(self, name: str, arguments: Sequence[str]) -> Child:
        """Start `exitguard ARGUMENTS`; standard output goes to NAME.out, standard error to NAME.log."""
        log, out = self._folder / f"{name}.log", self._folder / f"{name}.out"
        with log.open("wb", buffering=0) as sink, out.open("wb", buffering=0) as results:
            process = subprocess.Popen(  # noqa: S603 - our own program, no shell
                [sys.executable, "-m", "exitguard.cli.main", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=results,
                stderr=sink,
                env=self._environment,
                start_new_session=True,
            )
        child = Child(name, process, log, out)
        self._children.append(child)
        self._remember()
        return child

    def words_of_all(self) -> str:
        """Each child's log and its end."""
        return "\n".join(f"{child.log}:\n{child.last_words()}" for child in self._children)

    def check(self) -> None:
        """Raise ChildFailed when any child has ended."""
        for child in self._children:
            if not child.alive:
                raise ChildFailed(
                    f"{child.name} ended with exit code {child.process.returncode}; {child.log}: {child.last_words()}"
                )

    async def first_line(self, child: Child, patience: float) -> bytes:
        """The first line that a child prints. Raises ChildFailed when it ends, or takes longer, without one."""
        deadline = time.monotonic() + patience
        while True:
            line, newline, _ = child.out.read_bytes().partition(b"\n")
            if newline:
                return line
            self.check()
            if time.monotonic() > deadline:
                raise ChildFailed(f"{child.name} was not ready in {patience:.0f} s; {child.log}: {child.last_words()}")
            await asyncio.sleep(0.01)

    def release(self) -> None:
        """Leave the children running from now on; their identities stay on file, for `stop_leftovers`."""
        self._released = True

    async def stop(self) -> None:
        """Ask every child to stop, managers before the exchange; one that does not is killed. Released ones stay."""
        if self._released:
            return
        for child in reversed(self._children):
            if child.alive:
                with contextlib.suppress(ProcessLookupError):
                    child.process.send_signal(signal.SIGTERM)
                await self._ended(child)
        self._children.clear()
        self._record.unlink(missing_ok=True)

    async def _ended(self, child: Child) -> None:
        try:
            await asyncio.to_thread(child.process.wait, STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            child.process.kill()
            await asyncio.to_thread(child.process.wait)

    @property
    def _record(self) -> Path:
        return self._folder / "children.json"

    def _remember(self) -> None:
        found = [Identity(c.name, c.process.pid, start_time(c.process.pid)) for c in self._children if c.alive]
        self._record.write_text(json.dumps([asdict(one) for one in found]), encoding="utf-8")


def leftovers(folder: Path) -> list[Identity]:
    """Children of an earlier demo that still run."""
    try:
        rows = json.loads((folder / "children.json").read_text(encoding="utf-8"))
        known = [Identity(str(row["name"]), int(row["pid"]), str(row["started"])) for row in rows]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        # Nothing was recorded, or the record was torn by the same death that left the processes: nothing can be
        # recognised with certainty, so nothing is signalled.
        return []
    return [one for one in known if one.started and start_time(one.pid) == one.started]


def stop_leftovers(folder: Path) -> list[str]:
    """Stop children of an earlier demo; returns their names."""
    found = leftovers(folder)
    for one in reversed(found):
        _signal(one, signal.SIGTERM)
        deadline = time.monotonic() + STOP_PATIENCE
        while start_time(one.pid) == one.started and time.monotonic() < deadline:
            time.sleep(0.05)
        _signal(one, signal.SIGKILL)
    (folder / "children.json").unlink(missing_ok=True)
    return [one.name for one in found]


def _signal(one: Identity, number: signal.Signals) -> None:
    if start_time(one.pid) == one.started:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one.pid, number)


def start_time(pid: int) -> str:
    """When a process started, as the kernel says it; empty when it does not run."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return _start_time_by_ps(pid)
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in ("Z", "X") else fields[19]


def _start_time_by_ps(pid: int) -> str:
    if Path("/proc/self").exists():
        return ""
    listing = subprocess.run(  # noqa: S603 - fixed command, no shell
        ["/bin/ps", "-p", str(pid), "-o", "lstart="], capture_output=True, text=True, check=False
    )
    return listing.stdout.strip()


def tail(path: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log, each bounded."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 64_000))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return "(no log)"
    return "\n".join(line[:_LONGEST_LINE] for line in text.splitlines()[-lines:]) or "(empty log)"
