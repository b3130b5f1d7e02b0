"""The real program killed with SIGKILL, on a real exchange and a real PostgreSQL: one close, recorded once.

The manager is a process of its own that a test kills at a chosen moment and starts again. Prices move only when the
test sets them.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tests.support.postgres import open_folder, removed_at_end

from exitguard.core.quote import Quote
from exitguard.core.records import CommandVerb
from exitguard.paper.market.ticks import quoted_around
from exitguard.paper.server.app import PaperServer
from exitguard.paper.server.settings import PaperSettings
from exitguard.store.embedded import EmbeddedServer
from exitguard.store.migrate import migrate
from exitguard.store.operator import Operator

CRASHING = Path(__file__).parents[2] / "support" / "crashing.py"
# A Wednesday, ten in the morning in New York.
START = datetime(2026, 11, 18, 15, 0, tzinfo=UTC)
SETTINGS = """
[accounts.large]
tier = "large"
mode = "paper"
rest_url = "{rest}"
trade_stream_url = "{stream}"
data_url = "{rest}"
stock_stream_url = "{data_stream}"
option_stream_url = "{option_stream}"
key = "env:LARGE_KEY"
secret = "env:LARGE_SECRET"
clock = "real"
requests_per_minute = 10000

[policies.default]
min_hold_minutes = 0
missing_bracket = {brackets}
"""


class Desk:
    """One account: its exchange, its database, and the manager's process."""

    def __init__(self, server: PaperServer, database_url: str, folder: Path, state: Path) -> None:
        self.server = server
        self.database_url = database_url
        self.process: asyncio.subprocess.Process | None = None
        self._folder = folder
        self._log = folder / "log"
        account = server.accounts["large"]
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "EXITGUARD_STATE_DIR": str(state),
            "DATABASE_URL": database_url,
            "LARGE_KEY": account.key,
            "LARGE_SECRET": account.secret,
        }

    def configure(self, *, brackets: bool = False) -> None:
        """Write the settings file."""
        server = self.server
        text = SETTINGS.format(
            rest=server.rest_url,
            stream=server.stream_url,
            data_stream=server.data_stream_url,
            option_stream=server.option_stream_url,
            brackets=str(brackets).lower(),
        )
        (self._folder / "exitguard.toml").write_text(text)

    # The manager ---------------------------------------------------------------------------------------------------

    async def start(self, moment: str = "never") -> None:
        """Start the manager, and wait until it watches."""
        already = self.logged("Sleeping for 1 minute until next check...")
        with self._log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, str(CRASHING), moment, "run", "--account", "large",
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder, env=self._environment,
            )  # fmt: skip
        await self.until(
            lambda: (
                self.process is not None
                and (self.process.returncode is not None or self.logged("Sleeping for 1 minute") > already)
            ),
            "the manager watches",
        )

    def logged(self, phrase: str) -> int:
        """How often a phrase is in the log."""
        return self._log.read_text().count(phrase) if self._log.exists() else 0

    async def died(self) -> None:
        """Wait until the process has killed itself."""
        assert self.process is not None
        code = await asyncio.wait_for(self.process.wait(), 20)
        assert code == -signal.SIGKILL, self._log.read_text()[-3000:]

    async def kill(self) -> None:
        """Kill the process now."""
        assert self.process is not None
        self.process.kill()
        await self.process.wait()

    async def end(self) -> None:
        """Stop the manager in an orderly way."""
        if self.process is not None and self.process.returncode is None:
            self.process.terminate()
            await asyncio.wait_for(self.process.wait(), 20)

    async def until(self, condition: Callable[[], bool | Awaitable[bool]], what: str, seconds: float = 20.0) -> None:
        """Wait for a condition."""
        deadline = time.monotonic() + seconds
        while True:
            holds = condition()
            if not isinstance(holds, bool):
                holds = await holds
            if holds:
                return
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}\n{self._log.read_text()[-6000:]}"
            await asyncio.sleep(0.02)

    # The exchange --------------------------------------------------------------------------------------------------

    def price(self, price: float) -> None:
        """Move the market."""
        bid, middle, ask = quoted_around(price, 0.0001)
        self.server.host.player.publish(Quote("AAPL", bid, ask, self.server.host.now(), 1000, 1000, middle))

    async def order(self, **fields: Any) -> None:
        """Trade by hand."""
        self.server.exchange.submit_order(
            self.server.accounts["large"], {"symbol": "AAPL", "type": "market", "time_in_force": "day", **fields}
        )

    def held(self) -> Decimal:
        """Shares that the exchange says we hold, negative when short."""
        account = self.server.accounts["large"]
        return sum((Decimal(row["qty"]) for row in self.server.exchange.list_positions(account)), Decimal(0))

    def sold(self) -> list[dict[str, Any]]:
        """Closing orders that filled, legs included, oldest first."""
        account = self.server.accounts["large"]
        orders = self.server.exchange.list_orders(account, {"status": "all", "limit": "500", "direction": "asc"})
        return [o for o in orders if o["side"] == "sell" and Decimal(o["filled_qty"]) > 0]

    def resting(self) -> list[dict[str, Any]]:
        """Orders that may still fill."""
        return list(self.server.exchange.list_orders(self.server.accounts["large"], {"status": "open"}))

    # The database --------------------------------------------------------------------------------------------------

    async def rows(self, sql: str) -> list[Any]:
        """Rows as an administrator sees them; none while the database is away."""
        try:
            connection = await asyncpg.connect(self.database_url, timeout=2)
        except (OSError, asyncpg.PostgresError):
            return []
        try:
            return list(await connection.fetch(sql))
        finally:
            await connection.close()

    async def recorded(self) -> bool:
        """Whether the close is in the history and nothing is left open."""
        history = await self.rows("SELECT FROM position_history")
        live = await self.rows("SELECT FROM active_positions WHERE status IN ('open', 'closing')")
        return len(history) > 0 and not live

    async def check(self, qty: int = 10) -> None:
        """Exactly one close of exactly what was held, recorded once, and a chain that verifies."""
        await self.until(self.recorded, "the close is recorded")
        assert self.held() == 0
        assert self.resting() == []
        assert sum(Decimal(o["filled_qty"]) for o in self.sold()) == qty
        (history,) = await self.rows("SELECT quantity, exit_price FROM position_history")
        assert history["quantity"] == qty
        paid = sum(Decimal(o["filled_qty"]) * Decimal(o["filled_avg_price"]) for o in self.sold())
        assert abs(history["exit_price"] * qty - paid) < Decimal("0.01")
        positions = await self.rows("SELECT status FROM active_positions")
        assert [row["status"] for row in positions] == ["closed"]
        closed = await self.rows("SELECT FROM position_events WHERE event_type = 'closed'")
        assert len(closed) == 1
        await self.until(self._ended, "no intent is without an end")
        async with await Operator.connect(self.database_url) as operator:
            assert await operator.broken_event("large") is None

    async def _ended(self) -> bool:
        return not await self.rows("SELECT FROM order_intents WHERE status IN ('intended', 'unknown', 'working')")


@pytest.fixture
async def server() -> AsyncIterator[PaperServer]:
    """An exchange whose clock runs as ours does, with one stock whose price is set by hand."""
    settings = PaperSettings(
        accounts={"large": Decimal(100_000)}, manual={"AAPL": Decimal(100)}, start=START, symbols=()
    )
    async with PaperServer(settings) as running:
        yield running


@contextlib.asynccontextmanager
async def _desk(
    server: PaperServer, database_url: str, folder: Path, state: Path, *, brackets: bool = False
) -> AsyncIterator[Desk]:
    desk = Desk(server, database_url, folder, state)
    desk.configure(brackets=brackets)
    await desk.order(side="buy", qty="10")
    await desk.until(lambda: desk.held() == 10, "bought")
    try:
        yield desk
    finally:
        await desk.end()


@pytest.mark.parametrize(
    "moment",
    [
        "before the intent",
        "after the intent",
        "after the order",
        "before the fill is written",
        "before the close is recorded",
        "after the close was recorded",
    ],
)
async def test_t7_f33_killed_while_closing(
    moment: str, server: PaperServer, database_url: str, tmp_path: Path, state_dir: Path
) -> None:
    async with _desk(server, database_url, tmp_path, state_dir) as desk:
        await desk.start(moment)
        desk.price(90)
        await desk.died()
        await desk.start()
        await desk.check()
        assert len(desk.sold()) == 1
        reasons = await desk.rows("SELECT close_reason FROM position_history")
        assert [row["close_reason"] for row in reasons] == ["stop_loss"]


@pytest.mark.parametrize("moment", ["before the bracket is cancelled", "after the bracket was cancelled"])
async def test_t7_killed_while_the_bracket_is_cleared(
    moment: str, server: PaperServer, database_url: str, tmp_path: Path, state_dir: Path
) -> None:
    async with _desk(server, database_url, tmp_path, state_dir, brackets=True) as desk:
        await desk.start(moment)
        await desk.until(lambda: len(desk.resting()) > 0, "the bracket is restored")
        async with await Operator.connect(database_url) as operator:
            await operator.insert_command("large", CommandVerb.CLOSE, symbol="AAPL", requested_by="tester")
        await desk.died()
        await desk.start()
        await desk.check()


@contextlib.asynccontextmanager
async def _own_database(folder: Path) -> AsyncIterator[EmbeddedServer]:
    """A PostgreSQL of this test alone, to be killed."""
    database = EmbeddedServer(folder)
    await database.ensure_running()
    try:
        await database.create_database("exitguard")
        await asyncio.to_thread(migrate, database.url())
        yield database
    finally:
        await database.destroy()


def _kill_database(database: EmbeddedServer, pid: int) -> None:
    """kill -9 of PostgreSQL's first process; its children see that and end."""
    os.kill(pid, signal.SIGKILL)


async def _withheld(desk: Desk) -> str:
    """Breach the stop while the exchange sits on the close; the id of its order."""
    desk.server.exchange.faults.add({"kind": "fill_withheld", "count": 1})
    desk.price(90)
    await desk.until(lambda: len(desk.resting()) == 1, "the close rests")
    return str(desk.resting()[0]["id"])


async def test_i3_postgresql_killed_in_the_middle_of_a_close(server: PaperServer, tmp_path: Path) -> None:
    with removed_at_end(open_folder()) as state:
        async with _own_database(state / "pg") as database, _desk(server, database.url(), tmp_path, state) as desk:
            info = await database.ensure_running()
            await desk.start()
            first = await _withheld(desk)
            _kill_database(database, info.pid)
            desk.server.exchange.cancel_order(desk.server.accounts["large"], first)
            # The next attempt needs a durable intent: the journal's. It fills while the database is dead.
            await desk.until(lambda: desk.held() == 0, "closed without a database")
            assert desk.logged("commits go to the journal") >= 1
            await database.ensure_running()
            await desk.check()
            assert desk.process is not None
            assert desk.process.returncode is None
            assert len(desk.sold()) == 1


async def test_t7_killed_while_the_database_is_away_and_started_when_it_is_back(
    server: PaperServer, tmp_path: Path
) -> None:
    with removed_at_end(open_folder()) as state:
        async with _own_database(state / "pg") as database, _desk(server, database.url(), tmp_path, state) as desk:
            info = await database.ensure_running()
            await desk.start()
            _kill_database(database, info.pid)
            await desk.until(lambda: desk.logged("Position Manager") > 0, "running")
            await _withheld(desk)
            await desk.kill()  # its intent, and the order at the broker, are known to the journal only
            await database.ensure_running()
            await desk.start()
            order = desk.resting()[0]["id"]
            desk.server.exchange.cancel_order(desk.server.accounts["large"], order)
            await desk.check()
            assert desk.logged("journal written to the database") >= 1
            assert len(desk.sold()) == 1
