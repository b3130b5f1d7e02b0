"""One account for the crash table: an exchange, a database and the manager's process, which a story kills and starts.

The manager is a process of its own; the exchange lives in ours and is talked to over sockets by the manager alone.
Prices move only when a story sets them.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg

from exitguard.cli.account_section import PlainUrls, account_section
from exitguard.cli.crashes.victim import NEVER
from exitguard.core.errors import ExitguardError
from exitguard.core.quote import Quote
from exitguard.core.records import CommandVerb
from exitguard.paper.market.ticks import quoted_around
from exitguard.paper.server.app import PaperServer
from exitguard.paper.server.settings import PaperSettings
from exitguard.store.operator import Operator

ACCOUNT = "large"
SYMBOL = "AAPL"
QUANTITY = 10
# A Wednesday, ten in the morning in New York.
START = datetime(2026, 11, 18, 15, 0, tzinfo=UTC)
# Generous: a machine that does much else must not make a story fail.
PATIENCE_SECONDS = 120.0
# Long enough that no manager of a busy machine loses its lease before its point, or comes to doubt it. A killed one's
# is free at once; a story in which one hangs waits for the end of a shorter one.
LEASE_SECONDS = 60
LEASE_OF_HANGING_SECONDS = 9
_WATCHING = "Sleeping for 1 minute until next check..."
_SETTINGS = """
[accounts.large.risk]
max_position_fraction = "0.10"
max_open_positions = 20
max_total_exposure_fraction = "0.80"
allow_short = true
allow_options = true

[policies.default]
min_hold_minutes = 0
missing_bracket = {brackets}
"""


class StoryFailed(ExitguardError):
    """A story did not end as the guarantees say."""


class Desk:
    """What a story does and what it asks. Every wait has an end: StoryFailed says what did not come true."""

    def __init__(
        self, server: PaperServer, database_url: str, folder: Path, *, brackets: bool, stepped: bool, lease: int
    ) -> None:
        self.server = server
        self.database_url = database_url
        self.process: asyncio.subprocess.Process | None = None
        self._others: list[asyncio.subprocess.Process] = []
        self.died_at: float | None = None
        # What the kill left of a close, in words.
        self.left: str | None = None
        self._folder = folder
        self._log = folder / "log"
        account = server.accounts[ACCOUNT]
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "EXITGUARD_STATE_DIR": str(folder),
            "DATABASE_URL": database_url,
            "LARGE_KEY": account.key,
            "LARGE_SECRET": account.secret,
        }
        urls = PlainUrls(
            server.rest_url, server.stream_url, server.rest_url, server.data_stream_url, server.option_stream_url
        )
        section = account_section(
            ACCOUNT,
            urls,
            key="env:LARGE_KEY",
            secret="env:LARGE_SECRET",  # noqa: S106 - where it is, not what it is
            clock="stepped" if stepped else "real",
            lease_seconds=lease,
        )
        settings = section + _SETTINGS.format(brackets=str(brackets).lower())
        (folder / "exitguard.toml").write_text(settings)

    # The manager ---------------------------------------------------------------------------------------------------

    async def launch(self, point: str = NEVER, *options: str) -> None:
        """Start the manager's process; it dies at the point. One that runs already goes on beside it."""
        if self.process is not None and self.process.returncode is None:
            self._others.append(self.process)
        with self._log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "exitguard.cli.crashes.victim", point, "run", "--account", ACCOUNT, *options,
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder, env=self._environment,
            )  # fmt: skip

    async def start(self, point: str = NEVER) -> None:
        """Start the manager and wait until it watches, or has died at its point."""
        already = self.logged(_WATCHING)
        await self.launch(point)
        await self.until(lambda: self._ended() or self.logged(_WATCHING) > already, "the manager watches")
        if point == NEVER and self._ended():
            raise StoryFailed(f"the manager ended by itself: {self._last_lines()}")

    def _ended(self) -> bool:
        return self.process is not None and self.process.returncode is not None

    async def stand_by(self) -> asyncio.subprocess.Process:
        """Start a second process that waits for its turn; returns the first, which is no longer `process`."""
        first = self.process
        assert first is not None
        await self.launch(NEVER, "--standby")
        await self.until(lambda: self.logged("Standing by") > 0, "the second process stands by")
        return first

    async def hangs(self, process: asyncio.subprocess.Process, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Wait until a process has stopped itself, doing something again and again."""

        def stopped() -> bool:
            state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state != "T":
                meanwhile()
            return state == "T"

        await self.until(stopped, "the process stops at its point")
        self.died_at = time.monotonic()

    async def wakes(self, process: asyncio.subprocess.Process) -> int:
        """Let a stopped process go on, and wait until it ends; its exit code."""
        process.send_signal(signal.SIGCONT)
        await self.until(lambda: process.returncode is not None, "the process that was stopped ends")
        assert process.returncode is not None
        return process.returncode

    async def dies(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Wait until the process has killed itself, doing something again and again."""

        def gone() -> bool:
            if not self._ended():
                meanwhile()
            return self._ended()

        await self.until(gone, "the process dies at its point")
        assert self.process is not None
        if self.process.returncode != -signal.SIGKILL:
            raise StoryFailed(f"the process ended with {self.process.returncode}: {self._last_lines()}")
        self.died_at = time.monotonic()

    async def kill(self) -> None:
        """Kill -9 of the process now."""
        assert self.process is not None
        self.process.kill()
        await self.process.wait()
        self.died_at = time.monotonic()

    async def stop(self) -> None:
        """End the manager in good order, and whatever is left of others."""
        for process in self._others:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if self.process is not None and self.process.returncode is None:
            self.process.terminate()
            try:
                await asyncio.wait_for(self.process.wait(), PATIENCE_SECONDS)
            except TimeoutError:
                await self.kill()

    def logged(self, phrase: str) -> int:
        """How often a phrase is in the log."""
        return self._log.read_text(errors="replace").count(phrase) if self._log.exists() else 0

    def journaled(self) -> bool:
        """Whether the journal has the record of an order that rests at the exchange."""
        wanted = [str(order["client_order_id"]).encode() for order in self.resting()]
        written = [path.read_bytes() for path in (self._folder / "journal").iterdir()]
        return any(order in journal for order in wanted for journal in written)

    def _last_lines(self) -> str:
        return self._log.read_text(errors="replace")[-3000:]

    async def until(self, condition: Callable[[], bool | Awaitable[bool]], what: str) -> None:
        """Wait for a condition. Raises StoryFailed when it does not come true."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            holds = condition()
            if not isinstance(holds, bool):
                holds = await holds
            if holds:
                return
            if time.monotonic() > deadline:
                raise StoryFailed(f"not within {PATIENCE_SECONDS:g} s: {what}\n{self._last_lines()}")
            await asyncio.sleep(0.02)

    # The exchange --------------------------------------------------------------------------------------------------

    def price(self, price: float) -> None:
        """Publish a quote at this price."""
        bid, middle, ask = quoted_around(price, 0.0001)
        self.server.host.player.publish(Quote(SYMBOL, bid, ask, self.server.host.now(), 1000, 1000, middle))

    async def breached(self, condition: Callable[[], bool], what: str) -> None:
        """Let the price stay below the stop until something is true: one quote alone may fall between two sockets."""

        def holds() -> bool:
            if condition():
                return True
            self.price(90)
            return False

        await self.until(holds, what)

    async def buy(self) -> None:
        """Buy by hand."""
        order = {"symbol": SYMBOL, "type": "market", "time_in_force": "day", "side": "buy", "qty": str(QUANTITY)}
        self.server.exchange.submit_order(self.server.accounts[ACCOUNT], order)
        await self.until(lambda: self.held() == QUANTITY, "bought")

    def held(self) -> Decimal:
        """Shares that the exchange says we hold, negative when short."""
        found = self.server.exchange.list_positions(self.server.accounts[ACCOUNT])
        return sum((Decimal(row["qty"]) for row in found), Decimal(0))

    def orders(self, side: str) -> list[dict[str, Any]]:
        """Every order of a side, legs included, oldest first."""
        query = {"status": "all", "limit": "500", "direction": "asc"}
        found = self.server.exchange.list_orders(self.server.accounts[ACCOUNT], query)
        return [order for order in found if order["side"] == side]

    def filled(self, side: str) -> list[dict[str, Any]]:
        """Orders of a side that filled, at least in part."""
        return [order for order in self.orders(side) if Decimal(order["filled_qty"]) > 0]

    def closes(self) -> list[dict[str, Any]]:
        """Closing orders that reached the exchange; brackets are none."""
        return [order for order in self.orders("sell") if order["order_class"] in ("", "simple")]

    def resting(self) -> list[dict[str, Any]]:
        """Orders that may still fill."""
        return list(self.server.exchange.list_orders(self.server.accounts[ACCOUNT], {"status": "open"}))

    async def rests(self) -> str:
        """Breach the stop while the exchange sits on the close; the id of its order."""
        self.server.exchange.faults.add({"kind": "fill_withheld", "count": 1})
        await self.breached(lambda: len(self.resting()) == 1, "the close rests")
        return str(self.resting()[0]["id"])

    def cancel(self, order_id: str) -> None:
        """End a resting order from outside; whoever drives the close sends the next one."""
        self.server.exchange.cancel_order(self.server.accounts[ACCOUNT], order_id)

    async def restart_exchange(self) -> None:
        """Stop the exchange, every socket with it, and start it again from what it has written down."""
        settings = replace(self.server.settings, port=self.server.port, start=None)
        await self.server.stop()
        self.server = PaperServer(settings)
        await self.server.start()

    # The database --------------------------------------------------------------------------------------------------

    async def rows(self, sql: str) -> list[Any]:
        """Rows as an administrator sees them; none while the database is away."""
        try:
            connection = await asyncpg.connect(self.database_url, timeout=5)
        except (OSError, TimeoutError, asyncpg.PostgresError):
            return []
        try:
            return list(await connection.fetch(sql))
        finally:
            await connection.close()

    async def request_close(self) -> None:
        """Ask the manager, as a person does, to close the position."""
        async with await Operator.connect(self.database_url) as operator:
            await operator.insert_command(ACCOUNT, CommandVerb.CLOSE, symbol=SYMBOL, requested_by="crash table")

    async def signal(self) -> None:
        """Insert a signal to buy."""
        connection = await asyncpg.connect(self.database_url)
        try:
            await connection.execute(
                "INSERT INTO dispatch_recommendations (account_name, ticker, action, strategy_type, qty)"
                " VALUES ($1, $2, 'BUY_STOCK', 'swing_trade', $3)", ACCOUNT, SYMBOL, str(QUANTITY),
            )  # fmt: skip
        finally:
            await connection.close()

    async def tracked(self) -> bool:
        """Whether the ledger has the position."""
        found = await self.rows("SELECT quantity FROM active_positions WHERE status IN ('open', 'closing')")
        return [row["quantity"] for row in found] == [QUANTITY]

    async def armed(self) -> None:
        """Wait until the close of the position is committed in advance."""

        async def committed() -> bool:
            return len(await self.rows("SELECT FROM order_intents WHERE status = 'armed'")) == 1

        await self.until(committed, "the close is armed")

    async def recorded(self) -> bool:
        """Whether the close is in the history, nothing is left open, and no order is without an end."""
        history = await self.rows("SELECT FROM position_history")
        live = await self.rows("SELECT FROM active_positions WHERE status IN ('open', 'closing')")
        orders = await self.rows("SELECT FROM order_intents WHERE status IN ('intended', 'unknown', 'working')")
        return len(history) > 0 and not live and not orders


@contextlib.asynccontextmanager
async def open_desk(
    database_url: str,
    folder: Path,
    *,
    brackets: bool = False,
    kept: bool = False,
    stepped: bool = False,
    lease: int = LEASE_SECONDS,
) -> AsyncIterator[Desk]:
    """A desk with its exchange. `kept`: the exchange writes down what it knows, so that it can be started again.

    `stepped`: the exchange's time passes only when the story moves it. `lease`: seconds that a manager's lease lasts.
    """
    settings = PaperSettings(
        accounts={ACCOUNT: Decimal(100_000)},
        manual={SYMBOL: Decimal(100)},
        start=START,
        symbols=(),
        state=folder / "exchange" if kept else None,
        paused=stepped,
    )
    server = PaperServer(settings)
    await server.start()
    desk = Desk(server, database_url, folder, brackets=brackets, stepped=stepped, lease=lease)
    try:
        yield desk
    finally:
        await desk.stop()
        await desk.server.stop()
