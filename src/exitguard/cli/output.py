"""What commands print: results on stdout (JSON on one line, or a table), remarks and errors on stderr."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
from cyclopts import Parameter

from exitguard.cli.exits import one_line
from exitguard.core.session import NEW_YORK

if TYPE_CHECKING:
    from rich.console import Console

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON on one line instead of a table.")]
ConfigFile = Annotated[
    Path | None,
    Parameter(name="--config", help="Settings file; else EXITGUARD_CONFIG, ./exitguard.toml, the demo's."),
]
AccountName = Annotated[str | None, Parameter(name="--account", help="Only this account.")]

MAX_CELL_LENGTH = 200


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return (value.astimezone(UTC) if value.tzinfo is not None else value).isoformat()
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    return str(value)


def _encoded(value: object) -> str:
    options = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_NON_STR_KEYS
    return orjson.dumps(value, default=_plain, option=options).decode()


def emit_json(value: object) -> None:
    """Print one JSON document on one line. Decimals are text, times ISO 8601 in UTC."""
    sys.stdout.write(_encoded(value) + "\n")
    sys.stdout.flush()


class JsonArray:
    """Prints one JSON array on one line, part by part, so that its length does not matter."""

    def __init__(self) -> None:
        self._opening = "["

    def extend(self, items: Iterable[object]) -> None:
        """Print more items."""
        for item in items:
            sys.stdout.write(self._opening + _encoded(item))
            self._opening = ","

    def end(self) -> None:
        """Close the array. Without this what was printed is no JSON: an answer that broke off must not look whole."""
        sys.stdout.write("[]\n" if self._opening == "[" else "]\n")
        sys.stdout.flush()


def emit(text: str) -> None:
    """Print a line of a result."""
    sys.stdout.write(text + "\n")


def remark(text: str) -> None:
    """Say something that is not the result: one line on stderr."""
    sys.stderr.write(one_line(text) + "\n")
    sys.stderr.flush()


def program() -> str:
    """Exitguard as the person who started it called it, so that a command that we name can be copied."""
    return sys.argv[0] if Path(sys.argv[0]).name == "exitguard" else "exitguard"


def console() -> "Console":
    """A console for tables on stdout; colours only on a terminal."""
    from rich.console import Console

    # A pipe has no width: wide enough that no cell is cut for a script or a pager.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 200)


def emit_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], numeric: Sequence[str] = (), spare: Sequence[str] = ()
) -> None:
    """Print a table. Cells are plain text, whatever they hold; `numeric` columns are aligned to the right.

    On a terminal that is too narrow the `spare` columns are left out, the first of them first, and a remark says so.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    cells = [[Text(cell(value), style=_style(value)) for value in row] for row in rows]
    widths = [max([len(name), *(row[at].cell_len for row in cells)]) for at, name in enumerate(columns)]
    out = console()
    shown, tight = _fitting(columns, widths, out.width, spare if out.is_terminal else ())
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0 if tight else (0, 1), show_edge=not tight)
    for at in shown:
        table.add_column(columns[at], justify="right" if columns[at] in numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*(row[at] for at in shown))
    out.print(table)
    if len(shown) < len(columns):
        missing = ", ".join(name for at, name in enumerate(columns) if at not in shown)
        remark(f"left out on this narrow terminal: {missing}; --json has everything")


def _fitting(columns: Sequence[str], widths: Sequence[int], room: int, spare: Sequence[str]) -> tuple[list[int], bool]:
    """Which columns fit, and whether only with the smallest gaps: a number folded in the middle is misread."""
    shown = list(range(len(columns)))
    if sum(widths) + 3 * len(columns) <= room:
        return shown, False
    for name in spare:
        if sum(widths[at] for at in shown) + len(shown) - 1 <= room:
            break
        shown.remove(columns.index(name))
    return shown, True


def cell(value: object) -> str:
    """A value as a bounded, printable cell."""
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return f"{value.astimezone(NEW_YORK) if value.tzinfo is not None else value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, Decimal):
        return plain_number(value)
    if isinstance(value, Mapping):
        value = orjson.dumps(value, default=_plain).decode()
    text = "".join(each if each.isprintable() else " " for each in str(value))
    return text if len(text) <= MAX_CELL_LENGTH else text[: MAX_CELL_LENGTH - 1] + "…"


def plain_number(value: Decimal) -> str:
    """A decimal without exponent and without trailing zeros beyond cents."""
    if not value.is_finite():
        return str(value)
    shortest = value.normalize()
    exponent = shortest.as_tuple().exponent
    assert isinstance(exponent, int)
    return f"{shortest:f}" if exponent < -2 else f"{value:.2f}" if exponent < 0 else f"{shortest:f}"


_BAD = frozenset({"naked", "blind", "stuck", "unmanaged", "stale", "down", "mismatch", "missing", "failed"})
_GOOD = frozenset({"protected", "fresh", "matched", "ok", "win"})


def _style(value: Any) -> str:
    text = str(value).lower()
    if text in _BAD:
        return "bold red"
    return "green" if text in _GOOD else ""
