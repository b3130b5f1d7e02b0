"""Whole programs: how long the demo's day takes, and how much memory an idle manager holds."""

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path

from exitguard.cli.account_section import account_section, write_keys
from exitguard.cli.bench.place import DATABASE, BenchFailed, Place
from exitguard.cli.bench.result import Measurement, Target, measured
from exitguard.cli.demo.venue import Addresses
from exitguard.store.operator import Operator

DAY = Target(60.0)
MEMORY = Target(150.0)
_DAY_SECONDS = 600.0
_START_SECONDS = 60.0
# After its first heartbeat a manager has nothing left to start; its allocator gets this long to come to rest.
_IDLE_SECONDS = 5.0


async def demo_day(place: Place, say: Callable[[str], None]) -> dict[str, Measurement]:
    """Play the day of `exitguard demo` once to the end; wall seconds as a person waits for them.

    Raises BenchFailed when it does not end, or finds something wrong: a day that failed is no measurement.
    """
    say("demo_day: exitguard demo --headless --json")
    # Warm, as on a machine where something of ours ran before: the server's data folder exists.
    await place.database()
    began = time.perf_counter()
    process = await place.start("demo", "exitguard.cli.main", "demo", "--headless", "--json")
    try:
        output, _ = await asyncio.wait_for(process.communicate(), _DAY_SECONDS)
    except TimeoutError as error:
        raise BenchFailed(f"exitguard demo did not end within {_DAY_SECONDS:g} s") from error
    finally:
        await place.stop(process)
    seconds = time.perf_counter() - began
    if process.returncode != 0:
        last = output.decode(errors="replace").splitlines()[-1:]
        raise BenchFailed(f"exitguard demo ended with exit code {process.returncode}: {''.join(last)[:300]}")
    return {"demo_day": measured(seconds, "s", target=DAY)}


async def idle_memory(place: Place, say: Callable[[str], None]) -> dict[str, Measurement]:
    """Resident memory of one `exitguard run` of one account that holds nothing, against an interpreter's alone."""
    say("idle_memory: one manager against the paper exchange")
    url = await place.database()
    exchange = await place.start(
        "paper", "exitguard.cli.main", "paper", "--account", "idle:100000", "--generate", "1", "--json", "--paused"
    )
    addresses = Addresses.read(await place.line(exchange, _START_SECONDS))
    account = addresses.accounts["idle"]
    keys = write_keys(place.folder, "idle", account)
    section = account_section("idle", addresses, **keys, account_number=account.account_number, clock="stepped")
    settings = place.folder / "idle.toml"
    settings.write_text(f'[database]\nurl = "embedded:{DATABASE}"\n{section}', encoding="utf-8")
    manager = await place.start("manager", "exitguard.cli.main", "run", "--config", str(settings))
    bare = await asyncio.create_subprocess_exec(sys.executable, "-c", "import time; time.sleep(3600)")
    try:
        await _beating(url, manager)
        await asyncio.sleep(_IDLE_SECONDS)
        ours, theirs = resident_megabytes(manager.pid), resident_megabytes(bare.pid)
    finally:
        bare.kill()
        await bare.wait()
        await place.stop_all()
    return {"idle_memory": measured(ours, "MB", baseline=theirs, target=MEMORY)}


async def _beating(url: str, manager: asyncio.subprocess.Process) -> None:
    """Wait for the account's first heartbeat."""
    deadline = time.monotonic() + _START_SECONDS
    async with Operator(url) as operator:
        while not any(beat["component"] == "manager" for beat in await operator.heartbeats()):
            if manager.returncode is not None or time.monotonic() > deadline:
                raise BenchFailed("the idle manager did not start")
            await asyncio.sleep(0.1)


def resident_megabytes(process: int) -> float:
    """Resident memory of a process, in millions of bytes. Source: /proc; Linux only."""
    status = Path(f"/proc/{process}/status")
    try:
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError as error:
        raise BenchFailed(f"cannot read {status}: {error.strerror}: this is measured on Linux only") from error
    kilobytes = next((line.split()[1] for line in lines if line.startswith("VmRSS:")), None)
    if kilobytes is None:
        raise BenchFailed(f"{status} does not tell the resident memory")
    return int(kilobytes) * 1024 / 1e6
