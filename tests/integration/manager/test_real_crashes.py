"""The real program killed with SIGKILL, on a real exchange and a real PostgreSQL: one close, recorded once.

A share of the crash table; `make crashes` plays all of it.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.postgres import open_folder, removed_at_end

from exitguard.cli.crashes.stories import OF_DATABASE, STORIES, Stage, play
from exitguard.cli.crashes.victim import POINTS
from exitguard.store.embedded import EmbeddedServer
from exitguard.store.migrate import migrate_async


async def _kept(point: str, stage: Stage) -> None:
    outcome = await play(point, stage)
    assert outcome.failure is None, outcome.failure
    assert (outcome.filled, outcome.recorded) == (1, 1)


@pytest.mark.parametrize(
    "point",
    [
        "opening: after the entry's intent",
        "opening: after the entry order",
        "opening: before the position is written",
        "restoring: after the bracket's intent",
        "restoring: after the bracket's order",
        "arming: after the close was committed",
        "closing, armed: before the order",
        "closing, armed: after the order, before its record",
        "closing, armed: after its record, before the order",
        "closing, bracket: after the bracket was cancelled",
        "closing, bracket: after the order",
        "recording: before the fill",
        "recording: before the close",
        "recording: after the close",
    ],
)
async def test_t7_f33_the_manager_killed_at_a_point(point: str, database_url: str, tmp_path: Path) -> None:
    await _kept(point, Stage(tmp_path, database_url))


@pytest.fixture
async def own_stage(tmp_path: Path) -> AsyncIterator[Stage]:
    """A PostgreSQL of this test alone, to be killed."""
    with removed_at_end(open_folder()) as folder:
        database = EmbeddedServer(folder)
        await database.ensure_running()
        try:
            await database.create_database("exitguard")
            await migrate_async(database.url())
            yield Stage(tmp_path, database.url(), database)
        finally:
            await database.destroy()


@pytest.mark.parametrize(
    "point",
    [
        "PostgreSQL: killed while a close rests",
        "PostgreSQL and manager: killed while a close rests",
        "PostgreSQL: gone for an hour of market time",
    ],
)
async def test_i3_t7_postgresql_killed(point: str, own_stage: Stage) -> None:
    assert point in OF_DATABASE
    await _kept(point, own_stage)


async def test_i8_the_exchange_restarted_while_a_close_rests(database_url: str, tmp_path: Path) -> None:
    await _kept("exchange and manager: restarted while a close rests", Stage(tmp_path, database_url))


@pytest.mark.parametrize(
    "point",
    [
        "stand-by: the manager killed while a close rests",
        "hung: after the bracket's intent, awake later",
        "hung: after the close's order, before its record, awake later",
    ],
)
async def test_i12_f44_a_second_manager_takes_over(point: str, database_url: str, tmp_path: Path) -> None:
    await _kept(point, Stage(tmp_path, database_url))


def test_every_point_has_a_story() -> None:
    assert set(POINTS) | set(OF_DATABASE) < set(STORIES)
