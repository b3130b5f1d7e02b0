"""Rows of CSV and Parquet files, as text: one way to read both.

Parquet needs pyarrow, which is large and therefore an extra: `pip install 'exitguard[parquet]'`.
"""

import csv
import gzip
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from exitguard.core.errors import InvalidInput

SUFFIXES = (".csv", ".csv.gz", ".parquet")
Row = tuple[int, list[str]]
_ROWS_A_BATCH = 10_000


def stem_of(file: Path) -> str:
    """The file's name without what says how it is stored."""
    name = file.name
    for suffix in (".gz", ".csv", ".parquet"):
        name = name.removesuffix(suffix)
    return name


def first_line(file: Path) -> str:
    """The first line of a text file. Raises InvalidInput for what is no text."""
    with _readable(file), gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as text:
        return text.readline()


def titles_of(file: Path) -> list[str]:
    """The column titles, lower case and stripped. Raises InvalidInput."""
    if file.suffix == ".parquet":
        with _readable(file):
            names: Sequence[str] = _parquet().ParquetFile(file).schema_arrow.names
    else:
        names = next(csv.reader([first_line(file)]), [])
    return [name.strip().lower() for name in names]


def rows_of(file: Path, *, cut_end: bool = False) -> Iterator[Row]:
    """Line numbers and cells below the titles; an absent cell is empty. Raises InvalidInput while reading.

    `cut_end`: the writer may have been killed, so that a last line without an end counts as not written.
    """
    with _readable(file):
        yield from _parquet_rows(file) if file.suffix == ".parquet" else _csv_rows(file, cut_end)


def _csv_rows(file: Path, cut_end: bool) -> Iterator[Row]:
    with gzip.open(file, "rt", newline="") if file.suffix == ".gz" else file.open(newline="") as text:
        text.readline()
        try:
            for number, line in enumerate(text, start=2):
                if line.strip() and (line.endswith("\n") or not cut_end):
                    yield number, next(csv.reader([line]))
        except EOFError:
            if not cut_end:
                raise


def _parquet_rows(file: Path) -> Iterator[Row]:
    number = 1
    for batch in _parquet().ParquetFile(file).iter_batches(_ROWS_A_BATCH):
        columns = [[_text(value) for value in column.to_pylist()] for column in batch.columns]
        for cells in zip(*columns, strict=True):
            number += 1
            yield number, list(cells)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat()
    if hasattr(value, "to_pydatetime"):
        # A timestamp in nanoseconds, when pandas is there; without it pyarrow gives datetimes.
        return str(value.to_pydatetime(warn=False).isoformat())
    return str(value)


def _parquet() -> Any:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise InvalidInput("Parquet files need pyarrow: pip install 'exitguard[parquet]', or convert to CSV") from error
    return parquet


class _readable:  # noqa: N801 - reads as a statement
    """Turns what readers raise for a broken file into one clear sentence."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any) -> None:
        if isinstance(error, InvalidInput):
            return
        broken = (OSError, EOFError, UnicodeDecodeError, csv.Error)
        if isinstance(error, broken) or type(error).__module__.startswith("pyarrow"):
            raise InvalidInput(f"{self._file}: cannot be read: {error}") from error
