"""`exitguard crashes`: kill -9 at every named point, on real processes, sockets and PostgreSQL.

`victim` is the program with the points at which it kills itself, `desk` one account's exchange, database and process,
`stories` what is done at each point and what must be true afterwards, `page` the table.
"""

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from exitguard.cli.context import quiet_logs
from exitguard.cli.exits import CommandFailed, Exit
from exitguard.cli.marked_block import write_block
from exitguard.cli.output import Json, emit, emit_json, emit_table, remark
from exitguard.config.errors import did_you_mean

if TYPE_CHECKING:
    from exitguard.cli.bench.place import Place
    from exitguard.cli.crashes.stories import Outcome


def crashes(
    *points: str,
    docs: Annotated[Path | None, Parameter(help="Write the table into its block of this document.")] = None,
    json: Json = False,
) -> int:
    """Kill manager, PostgreSQL and exchange at every named point; exit 1 when anything was lost or done twice.

    Takes some minutes. POINTS choose rows by name, without them all are played. Works in a state directory of its own,
    which is removed at the end.
    """
    from exitguard.cli.crashes.page import BLOCK, table
    from exitguard.cli.crashes.stories import STORIES

    quiet_logs()
    for point in points:
        if point not in STORIES:
            raise CommandFailed(f"no point {point!r}; expected {did_you_mean(point, STORIES)}", Exit.USAGE)
    outcomes = asyncio.run(_play_all(points or tuple(STORIES), remark))
    if docs is not None:
        write_block(docs, BLOCK, "make crashes", table(outcomes))
    if json:
        emit_json([_body(outcome) for outcome in outcomes])
    else:
        _show(outcomes)
    return Exit.OK if all(outcome.kept for outcome in outcomes) else Exit.WRONG


async def _play_all(points: tuple[str, ...], say: Callable[[str], None]) -> "list[Outcome]":
    from exitguard.cli.bench.place import open_place

    outcomes = []
    async with open_place() as place:
        for number, point in enumerate(points, 1):
            outcome = await _play(place, point)
            say(f"{number} of {len(points)}: {point}: {'kept' if outcome.kept else outcome.failure}")
            outcomes.append(outcome)
    return outcomes


async def _play(place: "Place", point: str) -> "Outcome":
    from exitguard.cli.crashes.stories import Stage, play

    with tempfile.TemporaryDirectory(prefix="story-", dir=place.folder) as folder:
        return await play(point, Stage(Path(folder), await place.database(), place.server))


def _body(outcome: "Outcome") -> dict[str, object]:
    return {
        "point": outcome.point,
        "kept": outcome.kept,
        "left_of_a_close": outcome.left,
        "closing_orders_sent": outcome.sent,
        "closing_orders_filled": outcome.filled,
        "history_rows": outcome.recorded,
        "seconds": outcome.seconds,
        "failure": outcome.failure,
    }


def _show(outcomes: "list[Outcome]") -> None:
    columns = ("killed or restarted", "sent", "filled", "history", "seconds", "guarantees")
    rows = [(o.point, o.sent, o.filled, o.recorded, o.seconds, "ok" if o.kept else "failed") for o in outcomes]
    emit_table(columns, rows, numeric=columns[1:5])
    for outcome in outcomes:
        if outcome.failure is not None:
            emit(f"{outcome.point}: {outcome.failure}")
