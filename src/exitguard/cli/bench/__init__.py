"""`exitguard bench`: speed and size, each figure next to a baseline of the same run.

`command` runs, `page` writes the document. `breach` measures the way from a quote to its order with three processes:
`venue` (stamps both ends), `bare` (the baseline) and the manager; `probed` tells where the time goes. `place` is the
state directory, database and children of one benchmark; `book` the positions that all of them agree on.
"""

import asyncio
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from exitguard.cli.context import quiet_logs
from exitguard.cli.exits import CommandFailed, Exit
from exitguard.cli.output import Json, emit, emit_json, emit_table, remark
from exitguard.config.errors import did_you_mean

if TYPE_CHECKING:
    from exitguard.cli.bench.result import Measurement


def bench(
    *names: str,
    markdown: Annotated[bool, Parameter(negative="", help="Print the page of docs/benchmarks.md instead.")] = False,
    verbose: Annotated[bool, Parameter(negative="", help="Tell on stderr where the time of a breach goes.")] = False,
    json: Json = False,
) -> int:
    """Measure speed and size; takes some minutes. NAMES choose figures, without them all are measured.

    Works in a state directory of its own, which is removed at the end. Exit 0 when everything was measured, whether
    targets hold or not; exit 1 when something could not be measured.
    """
    from exitguard.cli.bench.command import NAMES, Plan, run_all, run_stoppable
    from exitguard.cli.bench.page import page

    quiet_logs()
    for name in names:
        if name not in NAMES:
            raise CommandFailed(f"no benchmark {name!r}; expected {did_you_mean(name, NAMES)}", Exit.USAGE)
    rows = asyncio.run(run_stoppable(run_all(names, Plan(), remark, verbose=verbose)))
    if json:
        emit_json({name: row.as_json() for name, row in rows.items()})
    elif markdown:
        emit(page(rows).rstrip("\n"))
    else:
        show(rows)
    return Exit.OK if all(row.error is None for row in rows.values()) else Exit.WRONG


def show(rows: "dict[str, Measurement]") -> None:
    """Print the table for a person."""
    words = {None: "-", True: "ok", False: "missed"}
    columns = ("benchmark", "value", "unit", "baseline", "ratio", "target", "holds")
    emit_table(
        columns,
        (
            (
                name,
                _number(row.value),
                row.unit or "-",
                _number(row.baseline),
                _number(row.ratio),
                row.target,
                "failed" if row.error is not None else words[row.holds],
            )
            for name, row in rows.items()
        ),
        numeric=("value", "baseline", "ratio"),
    )


def _number(value: float | None) -> str | None:
    if value is None:
        return None
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"
