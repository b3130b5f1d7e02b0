"""Where a benchmark works: a state directory of its own with an embedded PostgreSQL, and child processes.

It lies beside the user's own state, because a disk that is not the real one would flatter every commit, and it is
removed at the end; what a killed benchmark left behind is removed by the next one.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from exitguard.config.paths import ensure_state_dir
from exitguard.core.errors import ExitguardError
from exitguard.store.embedded import EmbeddedServer
from exitguard.store.migrate import migrate_async

DATABASE = "exitguard_bench"
_PREFIX = "bench-"
_STOP_SECONDS = 15.0
_LINE_LIMIT = 2**24


class BenchFailed(ExitguardError):
    """A benchmark could not be measured."""


class Place:
    """One benchmark's folder, database and children."""

    def __init__(self, folder: Path, server: EmbeddedServer) -> None:
        self.folder = folder
        self.server = server
        self._children: list[tuple[str, asyncio.subprocess.Process]] = []

    @property
    def environment(self) -> dict[str, str]:
        """The children's environment: this state directory, and nothing that points to another ledger or account."""
        ours = {"DATABASE_URL", "ACCOUNT_NAME", "ACCOUNT_TIER", "RUN_MODE", "EXITGUARD_CONFIG"}
        kept = {name: value for name, value in os.environ.items() if name not in ours}
        keys = {"BENCH_KEY": "bench-key", "BENCH_SECRET": "bench-secret"}
        return kept | keys | {"EXITGUARD_STATE_DIR": str(self.folder)}

    async def database(self) -> str:
        """Connection URL of an empty, migrated database; the embedded server is started for it."""
        await self.server.ensure_running()
        await self.server.create_database(DATABASE, recreate=True)
        url = self.server.url(DATABASE)
        await migrate_async(url)
        return url

    async def start(self, name: str, module: str, *arguments: str) -> asyncio.subprocess.Process:
        """Start a module of ours; its output can be read, its complaints go to NAME.log."""
        with (self.folder / f"{name}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                module,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=self.environment,
                limit=_LINE_LIMIT,
            )
        self._children.append((name, process))
        return process

    async def line(self, process: asyncio.subprocess.Process, seconds: float) -> bytes:
        """The next line that a child prints. Raises BenchFailed when none comes, or when any child ends instead."""
        assert process.stdout is not None
        reading = asyncio.ensure_future(process.stdout.readline())
        ends = [asyncio.ensure_future(child.wait()) for _, child in self._children if child is not process]
        try:
            await asyncio.wait([reading, *ends], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if reading.done() and (line := reading.result()):
                return line
            if reading.done():
                # Its output ended: so does the process, and then it can be named as the one that did.
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), _STOP_SECONDS)
            raise BenchFailed(self._complaint(process, seconds))
        finally:
            for each in (reading, *ends):
                each.cancel()

    def _complaint(self, waited_for: asyncio.subprocess.Process, seconds: float) -> str:
        """Whose fault it is that a line did not come: a child that ended, else the one that is silent."""
        ended = [(name, child) for name, child in self._children if child.returncode is not None]
        name, child = next(iter(ended or [each for each in self._children if each[1] is waited_for]))
        log = (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace").splitlines()
        what = f"said nothing within {seconds:g} s" if not ended else f"ended with exit code {child.returncode}"
        return f"{name} {what}: {log[-1][:300] if log else '(it logged nothing)'}"

    def last_words(self, about: str, lines: int = 3) -> str:
        """The newest lines that any child logged about something."""
        found = [
            line
            for log in self.folder.glob("*.log")
            for line in log.read_text(encoding="utf-8", errors="replace").splitlines()
            if about in line
        ]
        return " | ".join(line[:300] for line in sorted(found)[-lines:]) or "(nothing was logged about it)"

    async def stop(self, process: asyncio.subprocess.Process) -> None:
        """End one child in good order, or by force when it does not listen."""
        self._children = [(name, child) for name, child in self._children if child is not process]
        await _end(process)

    async def stop_all(self) -> None:
        """End every child, the newest first."""
        while self._children:
            await self.stop(self._children[-1][1])


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.communicate(), _STOP_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def open_place() -> AsyncIterator[Place]:
    """A place that is gone afterwards, whatever happened."""
    base = ensure_state_dir()
    for leftover in _leftovers(base):
        await EmbeddedServer(leftover).destroy()
        shutil.rmtree(leftover, ignore_errors=True)
    folder = base / f"{_PREFIX}{os.getpid()}"
    folder.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700)
    place = Place(folder, EmbeddedServer(folder))
    try:
        yield place
    finally:
        await place.stop_all()
        await place.server.destroy()
        shutil.rmtree(folder)


def _leftovers(base: Path) -> list[Path]:
    """Folders of benchmarks whose process is gone."""
    found = ((folder, folder.name.removeprefix(_PREFIX)) for folder in base.glob(f"{_PREFIX}*"))
    return [folder for folder, number in found if number.isdecimal() and not _runs(int(number))]


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
