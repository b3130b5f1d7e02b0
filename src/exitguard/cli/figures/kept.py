"""Figures that are kept: one JSON file a measurement, so that the page can be rendered without measuring again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from exitguard.cli.exits import CommandFailed, Exit


def write_json(path: Path, body: object) -> None:
    """Write a result as readable JSON. Raises CommandFailed."""
    text = orjson.dumps(body, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)
    try:
        path.write_bytes(text)
    except OSError as error:
        raise CommandFailed(f"cannot write {path}: {error.strerror}", Exit.CANNOT_WRITE) from error


def read_json(path: Path) -> Mapping[str, Any] | None:
    """A kept result, None when nothing was kept yet. Raises CommandFailed for a file that is no result."""
    try:
        body = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, orjson.JSONDecodeError) as error:
        raise CommandFailed(f"{path} cannot be read as figures: {error}; make them again") from error
    if not isinstance(body, dict):
        raise CommandFailed(f"{path} cannot be read as figures: expected an object; make them again")
    return body
