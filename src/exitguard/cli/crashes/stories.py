"""What is done at each point of the crash table, and what must be true at the end of every story.

A story begins a piece of work, kills something in the middle of it, starts it again, and concludes: whatever was begun
is finished, once.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

from exitguard.cli.crashes.desk import (
    ACCOUNT,
    LEASE_OF_HANGING_SECONDS,
    QUANTITY,
    Desk,
    StoryFailed,
    open_desk,
)
from exitguard.cli.crashes.victim import POINTS, STOPPING
from exitguard.store.embedded import EmbeddedServer, EmbeddedServerError
from exitguard.store.operator import Operator

_HOUR_MINUTES = 60
_DATABASE_TRIES = 20


@dataclass(frozen=True, slots=True)
class Outcome:
    """One row of the table. `seconds` from the kill until everything is recorded, the start of the process included.

    `sent` are closing orders that reached the exchange (brackets left out), `filled` those of them that filled. `left`
    is what the kill left of a close: the status of its intent in the books, and its order at the exchange.
    """

    point: str
    left: str | None = None
    sent: int = 0
    filled: int = 0
    recorded: int = 0
    seconds: float = 0.0
    failure: str | None = None

    @property
    def kept(self) -> bool:
        """Whether the guarantees held."""
        return self.failure is None


@dataclass(frozen=True, slots=True)
class Stage:
    """What a story plays on: a folder of its own, an empty ledger, and the server behind it where it may be killed."""

    folder: Path
    database_url: str
    database: EmbeddedServer | None = None

    async def kill_database(self) -> None:
        """Kill -9 of PostgreSQL: its first process, and the children that would see that and end a moment later."""
        assert self.database is not None, "this story needs a database of its own"
        first = (await self.database.ensure_running()).pid
        for process in (first, *_children(first)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    async def restart_database(self) -> None:
        """Start PostgreSQL again; the dead one's shared memory may take a moment to be free."""
        assert self.database is not None, "this story needs a database of its own"
        for attempt in range(1, _DATABASE_TRIES + 1):
            try:
                await self.database.ensure_running()
                return
            except EmbeddedServerError:
                if attempt == _DATABASE_TRIES:
                    raise
                await asyncio.sleep(0.5)


def _children(process: int) -> list[int]:
    """Processes that this one has started; none where there is no /proc."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # one that has just ended
            if int(stat.read_text().rpartition(")")[2].split()[1]) == process:
                found.append(int(stat.parent.name))
    return found


def _demand(holds: bool, what: str) -> None:
    if not holds:
        raise StoryFailed(what)


async def _conclude(desk: Desk, point: str, *, price: float | None = None) -> Outcome:
    """Everything that was begun is finished once: orders, fills, history, events, chain."""

    async def finished() -> bool:
        if price is not None and desk.held() > 0:
            desk.price(price)
        return desk.held() == 0 and await desk.recorded()

    await desk.until(finished, "the close is recorded")
    seconds = time.monotonic() - (desk.died_at or time.monotonic())
    filled = desk.filled("sell")
    _demand(desk.held() == 0 and not desk.resting(), f"left at the exchange: {desk.held()} shares, {desk.resting()}")
    _demand(len(desk.orders("buy")) == 1, f"{len(desk.orders('buy'))} orders to buy instead of one")
    sold = sum(Decimal(order["filled_qty"]) for order in filled)
    _demand(sold == QUANTITY and len(filled) == 1, f"{sold} sold with {len(filled)} orders instead of {QUANTITY} once")
    history = await desk.rows("SELECT quantity, exit_price FROM position_history")
    _demand(len(history) == 1, f"{len(history)} rows of history")
    paid = Decimal(filled[0]["filled_avg_price"])
    _demand(history[0]["quantity"] == QUANTITY, f"{history[0]['quantity']} in the history")
    _demand(abs(history[0]["exit_price"] - paid) < Decimal("0.0001"), f"{history[0]['exit_price']} instead of {paid}")
    for table, condition in (("active_positions", "status = 'closed'"), ("position_events", "event_type = 'closed'")):
        found = await desk.rows(f"SELECT FROM {table} WHERE {condition}")
        _demand(len(found) == 1, f"{len(found)} rows of {table} say that it was closed")
    fills = await desk.rows("SELECT side, sum(qty) AS qty FROM position_fills GROUP BY side")
    _demand({row["side"]: row["qty"] for row in fills} == {"buy": QUANTITY, "sell": QUANTITY}, f"fills: {fills}")
    async with await Operator.connect(desk.database_url) as operator:
        broken = await operator.broken_event(ACCOUNT)
    _demand(broken is None, f"the chain of events is broken at {broken}")
    return Outcome(point, desk.left, len(desk.closes()), len(filled), len(history), round(seconds, 1))


# The manager dies ---------------------------------------------------------------------------------------------------


async def _opening(stage: Stage, point: str) -> Outcome:
    async with open_desk(stage.database_url, stage.folder) as desk:
        await desk.start(point)
        await desk.signal()
        await desk.dies(lambda: desk.price(100))
        await desk.start()

        async def tracked() -> bool:
            desk.price(100)
            return await desk.tracked()

        await desk.until(tracked, "the entry is a position")
        await desk.request_close()
        return await _conclude(desk, point)


async def _marking(stage: Stage, point: str) -> Outcome:
    async with open_desk(stage.database_url, stage.folder) as desk:
        await desk.buy()
        await desk.launch(point)
        await desk.dies(lambda: desk.price(100))
        await desk.start()
        return await _conclude(desk, point, price=90)


async def _restoring(stage: Stage, point: str) -> Outcome:
    async with open_desk(stage.database_url, stage.folder, brackets=True) as desk:
        await desk.buy()
        await desk.launch(point)
        await desk.dies(lambda: desk.price(100))
        await desk.start()
        await desk.until(lambda: len(desk.resting()) > 0, "the bracket rests")
        limits = [order for order in desk.resting() if order["type"] == "limit"]
        _demand(len(limits) == 1, f"{len(limits)} brackets rest instead of one")
        await desk.request_close()
        return await _conclude(desk, point)


async def _arming(stage: Stage, point: str) -> Outcome:
    async with open_desk(stage.database_url, stage.folder) as desk:
        await desk.buy()
        await desk.launch(point)
        await desk.dies(lambda: desk.price(100))
        await _look_at_what_is_left(desk, point)
        await desk.start()
        return await _conclude(desk, point, price=90)


# What must be found right after the kill, so that a row tells of the point that it names: the statuses that the
# intent of the close may have, and whether its order is at the exchange.
_BEGUN = frozenset({"intended", "working", "filled"})
_LEFT: dict[str, tuple[frozenset[str], bool]] = {
    "arming: before the close is committed": (frozenset(), False),
    "arming: after the close was committed": (frozenset({"armed"}), False),
    "closing, armed: before the order": (frozenset({"armed"}), False),
    "closing, armed: after the order, before its record": (frozenset({"armed"}), True),
    "closing, armed: after its record, before the order": (frozenset({"intended"}), False),
    "closing, armed: after the order and its record": (_BEGUN, True),
    "closing, bracket: before the bracket is cancelled": (frozenset(), False),
    "closing, bracket: after the bracket was cancelled": (frozenset(), False),
    "closing, bracket: before the intent": (frozenset(), False),
    "closing, bracket: after the intent": (frozenset({"intended"}), False),
    "closing, bracket: after the order": (_BEGUN, True),
}


async def _look_at_what_is_left(desk: Desk, point: str) -> None:
    """Note what the kill left of the close. Raises StoryFailed when the process did not die where it should."""
    rows = await desk.rows("SELECT status FROM order_intents WHERE purpose = 'close' ORDER BY created_at DESC LIMIT 1")
    status = rows[0]["status"] if rows else None
    orders = desk.closes()
    desk.left = f"{f'intent {status}' if status else 'no intent'}, {'order sent' if orders else 'no order'}"
    if point not in _LEFT:
        return
    statuses, sent = _LEFT[point]
    _demand(status in statuses if statuses else status is None, f"the kill left {desk.left}")
    _demand(bool(orders) is sent, f"the kill left {desk.left}")


async def _clearing(stage: Stage, point: str) -> Outcome:
    async with open_desk(stage.database_url, stage.folder, brackets=True) as desk:
        await desk.buy()
        await desk.start(point)
        await desk.until(lambda: len(desk.resting()) > 0, "the bracket is restored")
        await desk.request_close()
        await desk.dies()
        await _look_at_what_is_left(desk, point)
        await desk.start()
        return await _conclude(desk, point)


async def _closing(stage: Stage, point: str) -> Outcome:
    async with open_desk(stage.database_url, stage.folder) as desk:
        await desk.buy()
        await desk.start(point)
        await desk.armed()
        await desk.dies(lambda: desk.price(90))
        await _look_at_what_is_left(desk, point)
        await desk.start()
        outcome = await _conclude(desk, point, price=90)
        reasons = await desk.rows("SELECT close_reason FROM position_history")
        _demand([row["close_reason"] for row in reasons] == ["stop_loss"], f"closed for {reasons}")
        return outcome


# Two managers ------------------------------------------------------------------------------------------------------

_TEMPORARY = 75


async def _relieved(stage: Stage, point: str) -> Outcome:
    """The second process finishes what the first had begun."""
    async with open_desk(stage.database_url, stage.folder) as desk:
        await desk.buy()
        await desk.start()
        working = await desk.stand_by()
        order = await desk.rests()
        working.kill()
        desk.died_at = time.monotonic()
        await desk.until(lambda: desk.logged("Taking over account") > 0, "the second process takes over")
        desk.cancel(order)
        return await _conclude(desk, point, price=90)


async def _hung(stage: Stage, point: str) -> Outcome:
    """The first process hangs, the second takes over; then the first wakes up where it was and must do no harm."""
    where = _HANGING[point]
    kind = where.partition(":")[0]
    async with open_desk(
        stage.database_url, stage.folder, brackets=kind == "restoring", lease=LEASE_OF_HANGING_SECONDS
    ) as desk:
        if kind.startswith("closing"):
            await desk.buy()
        await desk.start(f"{where}{STOPPING}")
        first = await desk.stand_by()
        if kind.startswith("closing"):
            await desk.armed()
        if kind == "opening":
            await desk.signal()
        elif kind == "restoring":
            await desk.buy()
        price = 90 if kind.startswith("closing") else 100
        await desk.hangs(first, lambda: desk.price(price))
        if kind.startswith("closing"):
            outcome = await _conclude(desk, point, price=price)
            code = await desk.wakes(first)
        else:
            await desk.until(lambda: _stands(desk, kind, price), "the second process finishes what was begun")
            code = await desk.wakes(first)
            await desk.request_close()
            outcome = await _conclude(desk, point)
        again = await _conclude(desk, point)
        _demand(again.sent == outcome.sent, "an order came from the process that woke up")
        _demand(code == _TEMPORARY, f"the process that woke up ended with {code}")
        return outcome


async def _stands(desk: Desk, kind: str, price: float) -> bool:
    """Whether the position is tracked, and its bracket rests where there is to be one."""
    desk.price(price)
    return await desk.tracked() and (kind != "restoring" or len(desk.resting()) > 0)


_HANGING = {
    "hung: after the entry's intent, awake later": "opening: after the entry's intent",
    "hung: after the bracket's intent, awake later": "restoring: after the bracket's intent",
    "hung: before the close's order, awake later": "closing, armed: before the order",
    "hung: after the close's record, before its order, awake later": (
        "closing, armed: after its record, before the order"
    ),
    "hung: after the close's order, before its record, awake later": (
        "closing, armed: after the order, before its record"
    ),
    "hung: after the close's order and its record, awake later": "closing, armed: after the order and its record",
}


# The database dies --------------------------------------------------------------------------------------------------


async def _database_before(stage: Stage, point: str) -> Outcome:
    async with open_desk(stage.database_url, stage.folder) as desk:
        await desk.buy()
        await desk.start()
        await stage.kill_database()
        desk.died_at = time.monotonic()
        await desk.breached(lambda: desk.held() == 0, "closed without a database")
        await stage.restart_database()
        return await _conclude(desk, point)


async def _database_during(stage: Stage, point: str) -> Outcome:
    async with open_desk(stage.database_url, stage.folder) as desk:
        await desk.buy()
        await desk.start()
        first = await desk.rests()
        await stage.kill_database()
        desk.died_at = time.monotonic()
        desk.cancel(first)
        # The next attempt needs a durable intent: the journal's. It fills while the database is dead.
        await desk.until(lambda: desk.held() == 0, "closed without a database")
        _demand(desk.logged("commits go to the journal") >= 1, "nothing went to the journal")
        await stage.restart_database()
        outcome = await _conclude(desk, point)
        _demand(desk.process is not None and desk.process.returncode is None, "the manager ended")
        return outcome


async def _both(stage: Stage, point: str) -> Outcome:
    async with open_desk(stage.database_url, stage.folder) as desk:
        await desk.buy()
        await desk.start()
        await stage.kill_database()
        first = await desk.rests()
        # An armed order leaves before its record: a kill between the two is another story.
        await desk.until(desk.journaled, "the order's record is in the journal")
        await desk.kill()  # that the order is at the broker is known to the journal only
        await stage.restart_database()
        await desk.start()
        desk.cancel(first)
        outcome = await _conclude(desk, point)
        _demand(desk.logged("journal written to the database") >= 1, "the journal was not written")
        return outcome


# A process tells of its own start and end, and of alarms that begin and end with it; nothing else may be new after one.
_WRITTEN = """
SELECT event_type, count(*) AS n FROM position_events
WHERE event_type NOT LIKE 'manager%' AND event_type NOT LIKE 'alarm%' GROUP BY event_type
"""


async def _hour(stage: Stage, point: str) -> Outcome:
    """An hour of the venue's time passes minute by minute; the close in the middle is known to the journal alone."""
    async with open_desk(stage.database_url, stage.folder, stepped=True) as desk:
        await desk.buy()
        await desk.start()
        before = desk.server.host.now()
        await stage.kill_database()
        desk.died_at = time.monotonic()
        for minute in range(_HOUR_MINUTES):
            swept = desk.logged("Sleeping for 1 minute")
            await desk.server.host.player.advance(before + timedelta(minutes=minute + 1))
            desk.price(100 if minute < _HOUR_MINUTES / 2 else 90)
            await desk.until(lambda swept=swept: desk.logged("Sleeping for 1 minute") > swept, "a sweep")  # type: ignore[misc]
        _demand(desk.held() == 0, "the breach was not closed while the database was gone")
        await stage.restart_database()
        outcome = await _conclude(desk, point)
        written = await desk.rows(_WRITTEN)
        await desk.stop()
        await desk.start()  # a journal that was not emptied would be written again
        again = await desk.rows(_WRITTEN)
        twice = sorted({row["event_type"] for row in set(again) - set(written)})
        _demand(not twice, f"records of the journal arrived twice: {', '.join(twice)}")
        return outcome


# The exchange goes away ---------------------------------------------------------------------------------------------


async def _exchange_before(stage: Stage, point: str) -> Outcome:
    async with open_desk(stage.database_url, stage.folder, kept=True) as desk:
        await desk.buy()
        await desk.start()
        await desk.restart_exchange()
        desk.died_at = time.monotonic()
        return await _conclude(desk, point, price=90)


async def _exchange_during(stage: Stage, point: str) -> Outcome:
    async with open_desk(stage.database_url, stage.folder, kept=True) as desk:
        await desk.buy()
        await desk.start()
        first = await desk.rests()
        await desk.restart_exchange()
        desk.died_at = time.monotonic()
        desk.cancel(first)
        return await _conclude(desk, point, price=90)


async def _exchange_and_manager(stage: Stage, point: str) -> Outcome:
    async with open_desk(stage.database_url, stage.folder, kept=True) as desk:
        await desk.buy()
        await desk.start()
        first = await desk.rests()
        await desk.kill()
        await desk.restart_exchange()
        await desk.start()
        desk.cancel(first)
        return await _conclude(desk, point, price=90)


Story = Callable[[Stage, str], Awaitable[Outcome]]
_BY_GROUP: dict[str, Story] = {
    "opening": _opening,
    "arming": _arming,
    "marking": _marking,
    "restoring": _restoring,
    "closing, armed": _closing,
    "closing, bracket": _clearing,
    "recording": _closing,
}
_OF_MANAGER: dict[str, Story] = {point: _BY_GROUP[point.partition(":")[0]] for point in POINTS}
OF_DATABASE: dict[str, Story] = {
    "PostgreSQL: killed before the breach": _database_before,
    "PostgreSQL: killed while a close rests": _database_during,
    "PostgreSQL and manager: killed while a close rests": _both,
    "PostgreSQL: gone for an hour of market time": _hour,
}
_OF_EXCHANGE: dict[str, Story] = {
    "exchange: restarted before the breach": _exchange_before,
    "exchange: restarted while a close rests": _exchange_during,
    "exchange and manager: restarted while a close rests": _exchange_and_manager,
}
_OF_TWO: dict[str, Story] = {
    "stand-by: the manager killed while a close rests": _relieved,
    **dict.fromkeys(_HANGING, _hung),
}
STORIES: dict[str, Story] = {**_OF_MANAGER, **_OF_TWO, **OF_DATABASE, **_OF_EXCHANGE}


async def play(point: str, stage: Stage) -> Outcome:
    """Play one story; a guarantee that did not hold is a row that says so."""
    try:
        return await STORIES[point](stage, point)
    except StoryFailed as error:
        return Outcome(point, failure=str(error))
