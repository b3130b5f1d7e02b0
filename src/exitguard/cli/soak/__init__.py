"""`exitguard soak`: many accounts, ten thousand positions and an hour of market time, with faults all the while.

The managers are processes as operators start them, the exchange is spoken to over sockets, the ledger is PostgreSQL.
Market time is stepped: it goes on when every manager has swept, so that a slow machine is slower and never wrong.
`play` conducts, `faults` says what strikes, `verdict` compares ledger and exchange, `report` is what is told.
"""

import asyncio
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from exitguard.cli.context import quiet_logs
from exitguard.cli.exits import CommandFailed, Exit
from exitguard.cli.output import Json, emit, emit_json, emit_table, remark


def soak(
    *,
    accounts: Annotated[int, Parameter(help="Accounts.")] = 200,
    positions: Annotated[int, Parameter(help="Positions of all accounts together.")] = 10_000,
    minutes: Annotated[int, Parameter(help="Minutes of market time with faults.")] = 60,
    processes: Annotated[int, Parameter(help="Processes that share the accounts.")] = 8,
    seed: Annotated[int, Parameter(help="Seed of market and faults.")] = 1,
    report: Annotated[Path | None, Parameter(help="Write the result as JSON to this file too.")] = None,
    json: Json = False,
) -> int:
    """Manage a large house under faults; exit 1 when anything was lost, done twice, or when memory grew.

    Works in a state directory of its own, which is removed at the end. The full size takes some minutes.
    """
    from exitguard.cli.bench.command import run_stoppable
    from exitguard.cli.soak.play import SoakSizes, play
    from exitguard.cli.soak.report import rows

    quiet_logs()
    processes = min(processes, accounts)
    if min(accounts, minutes, processes) < 1 or positions < 2 * accounts:
        raise CommandFailed(
            "--accounts, --minutes and --processes must be at least 1, --positions at least two an account",
            Exit.USAGE,
        )
    sizes = SoakSizes(accounts, positions // accounts, minutes, processes, seed)
    result = asyncio.run(run_stoppable(play(sizes, remark)))
    body = result.body()
    if report is not None:
        from exitguard.cli.figures.kept import write_json

        write_json(report, body)
    if json:
        emit_json(body)
    else:
        emit_table(("what", "figure"), rows(body), numeric=("figure",))
        for problem in result.problems:
            emit(problem)
    return Exit.WRONG if result.problems else Exit.OK
