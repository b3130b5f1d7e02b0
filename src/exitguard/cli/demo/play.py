"""Plays one demo from start to end: processes up, day conducted, books compared, processes down."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

from exitguard.cli.demo.children import Child, ChildFailed, Children, stop_leftovers
from exitguard.cli.demo.conductor import Conductor, DemoFailed, Snapshot
from exitguard.cli.demo.database import DemoDatabase, demo_database
from exitguard.cli.demo.report import Summary
from exitguard.cli.demo.scenario import CASH, LARGE, SYMBOLS, make_day
from exitguard.cli.demo.settings_file import expiration_hours, write_settings
from exitguard.cli.demo.venue import Addresses, Contract, Venue
from exitguard.cli.demo.verify import Verdict, read_fills, read_state, verify
from exitguard.cli.exits import CommandFailed, Exit
from exitguard.config.paths import ensure_state_dir
from exitguard.core.session import NEW_YORK, Session, table_calendar
from exitguard.store.files import try_lock
from exitguard.store.operator import Operator

START_PATIENCE = 120.0
_BEFORE_OPEN = timedelta(minutes=1)
_CHAIN_DAYS = timedelta(days=16)
# What would make a child serve other accounts, another database, or say more or less than the demo expects.
_NOT_INHERITED = (
    "ACCOUNT_NAME", "ACCOUNT_TIER", "RUN_MODE", "DATABASE_URL", "EXITGUARD_CONFIG", "EXITGUARD_LOG_LEVEL",
    "EXITGUARD_LOG_FORMAT",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the person asked for. `speed` in market seconds a wall second, None for as fast as the managers follow."""

    seed: int
    speed: float | None
    keep: bool
    day: date | None


@dataclass(frozen=True, slots=True)
class Kept:
    """What `--keep` leaves running, for the person to look at."""

    addresses: Addresses
    database: DemoDatabase
    settings: Path


def demo_folder() -> Path:
    """STATE_DIR/demo, for this user only. Raises StateDirectoryError."""
    folder = ensure_state_dir() / "demo"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@contextmanager
def only_demo(folder: Path) -> Iterator[None]:
    """Keep a second demo of the same state directory out; the kernel frees the lock of a killed one."""
    handle = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        if not try_lock(handle):
            raise CommandFailed(
                f"another demo is playing in {folder}; wait for it, or set EXITGUARD_STATE_DIR to another folder",
                Exit.TEMPORARY,
            )
        yield
    finally:
        os.close(handle)


def demo_session(day: date | None) -> Session:
    """The session to play: today's, or the next one when the market is closed (or the given day's, likewise).

    So the statements that operators keep (`closed_at >= CURRENT_DATE`) find the day just played.
    """
    calendar = table_calendar()
    wanted = day or datetime.now(NEW_YORK).date()
    return calendar.session_on_or_after(min(wanted, calendar.last_day))


async def play(
    options: DemoOptions,
    show: Callable[[Snapshot, Session], Awaitable[None]],
    on_kept: Callable[[Kept], None],
) -> Summary:
    """Play a day. Whatever happens, no child is left behind, unless `keep` and everything went well enough to look at.

    Raises StateDirectoryError, StoreUnavailable, CommandFailed when it cannot even start.
    """
    began = time.monotonic()
    folder = demo_folder()
    with only_demo(folder):
        await asyncio.to_thread(stop_leftovers, folder)
        return await _play(options, folder, show, on_kept, began)


async def _play(
    options: DemoOptions,
    folder: Path,
    show: Callable[[Snapshot, Session], Awaitable[None]],
    on_kept: Callable[[Kept], None],
    began: float,
) -> Summary:
    session = demo_session(options.day)
    children = Children(folder, _environment(folder))
    try:
        paper = _start_exchange(children, options.seed, session)
        addresses = Addresses.read(await children.first_line(paper, START_PATIENCE))
        numbers = frozenset(each.account_number for each in addresses.accounts.values())
        async with demo_database(numbers, keep=options.keep) as database, Venue(addresses) as venue:
            contracts = await venue.chain(LARGE, SYMBOLS, session.day, session.day + _CHAIN_DAYS)
            settings = write_settings(folder, addresses, database.setting, _hours(session, contracts))
            for name in CASH:
                children.start(name, ["run", "--account", name, "--config", str(settings)])
            async with await Operator.connect(database.url) as ledger:
                summary = await _conduct(options, venue, ledger, children, session, contracts, show, began)
            if options.keep:
                await venue.resume(1.0)
                children.release()
                on_kept(Kept(addresses, database, settings))
            # Before the context ends: the managers hold the embedded server, which ends when nobody needs it.
            await children.stop()
        return summary
    finally:
        await children.stop()


def _environment(folder: Path) -> dict[str, str]:
    inherited = {name: text for name, text in os.environ.items() if name not in _NOT_INHERITED}
    external = os.environ.get("DATABASE_URL", "")
    if external and not external.startswith("embedded"):
        inherited["DATABASE_URL"] = external
    return {**inherited, "EXITGUARD_STATE_DIR": str(folder.parent), "PYTHONUNBUFFERED": "1"}


def _start_exchange(children: Children, seed: int, session: Session) -> Child:
    accounts = [part for name, cash in CASH.items() for part in ("--account", f"{name}:{cash}")]
    start = (session.open - _BEFORE_OPEN).isoformat()
    return children.start(
        "paper",
        ["paper", "--port", "0", *accounts, "--generate", str(seed), "--start", start, "--paused", "--json"],
    )


def _hours(session: Session, contracts: list[Contract]) -> int:
    later = sorted({contract.expiry for contract in contracts if contract.expiry > session.day})
    return expiration_hours(session, later[0]) if later else 24


async def _conduct(
    options: DemoOptions,
    venue: Venue,
    ledger: Operator,
    children: Children,
    session: Session,
    contracts: list[Contract],
    show: Callable[[Snapshot, Session], Awaitable[None]],
    began: float,
) -> Summary:
    minutes = int((session.close - session.open).total_seconds() // 60)

    async def on_minute(snapshot: Snapshot) -> None:
        await show(snapshot, session)

    conductor = Conductor(
        venue, ledger, children, make_day(options.seed, minutes), session, contracts, tuple(CASH),
        speed=options.speed, on_minute=on_minute,
    )  # fmt: skip
    failure: str | None = None
    try:
        await conductor.run()
    except ChildFailed as error:
        failure = str(error)
    except DemoFailed as error:
        failure = f"{error}\n{children.words_of_all()}"
    verdict = await _compare(venue, ledger, conductor)
    alarms = [f"{row['account_name']}: {row['kind']}: {row['message']}" for row in await ledger.alarms()]
    return Summary(
        verdict=verdict,
        seed=options.seed,
        day=session.day,
        market_minutes=min(conductor.played, minutes),
        wall_seconds=time.monotonic() - began,
        provoked=tuple(conductor.trouble),
        alarms=tuple(alarms),
        failure=failure,
        events=await ledger.event_counts(),
    )


async def _compare(venue: Venue, ledger: Operator, conductor: Conductor) -> Verdict:
    verdict = verify(
        start_cash=CASH,
        state=read_state(await venue.state()),
        fills=read_fills(await venue.fills()),
        history=await ledger.history(),
        open_rows=await ledger.live_rows(),
        opened=await ledger.opened_counts(),
        signals=await ledger.signal_counts(),
    )
    for missed in conductor.watch.missed.values():
        verdict.missed_exits += 1
        verdict.problems.append(
            f"{missed.account}: {missed.symbol} (position {missed.position_id}) was not closed: {missed.why},"
            f" since {missed.since:%H:%M} UTC"
        )
    for row in await ledger.unfinished():
        verdict.rows_left_open += 1
        verdict.problems.append(f"{row['account_name']}: {row['kind']} {row['name']} is still {row['status']}")
    return verdict


@asynccontextmanager
async def cancelled_by_signals() -> AsyncIterator[None]:
    """Let SIGTERM and SIGHUP end the demo as Ctrl-C does: cancelled, cleaned up."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.remove_signal_handler(number)
