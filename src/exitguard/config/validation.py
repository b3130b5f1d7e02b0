"""Turns pydantic's findings into problems that name the key, what was found and what is expected."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from exitguard.config.errors import Problem, did_you_mean, show
from exitguard.config.redaction import HIDDEN, is_sensitive_name

# Keys whose values are never shown, because somebody may have put the secret itself where a reference belongs.
_HIDDEN_KEYS = frozenset({"key", "secret", "password", "url"})


def problems_of(
    error: ValidationError, where: str, prefix: str = "", known: Mapping[str, Iterable[str]] | None = None
) -> list[Problem]:
    """List the problems of a validation error. `known` maps the dotted path of a table to the keys that it may have."""
    return [_problem(dict(item), where, prefix, known or {}) for item in error.errors(include_url=False)]


def _problem(item: dict[str, Any], where: str, prefix: str, known: Mapping[str, Iterable[str]]) -> Problem:
    path = _dotted(item["loc"])
    key = ".".join(part for part in (prefix, path) if part)
    last = str(item["loc"][-1]) if item["loc"] else ""
    if item["type"] == "missing":
        return Problem(where, key, "nothing", "a value, because it has no safe default")
    if item["type"] == "extra_forbidden":
        parent = ".".join(str(part) for part in item["loc"][:-1])
        return Problem(where, key, f"unknown key {last!r}", did_you_mean(last, known.get(parent, ())))
    expected = _expected(item["msg"])
    if last in _HIDDEN_KEYS or is_sensitive_name(last):
        return Problem(where, key, f"{_kind(item['input'])} {HIDDEN}", expected)
    return Problem(where, key, show(item["input"]), expected)


def _dotted(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _expected(message: str) -> str:
    for opening in ("Value error, ", "Input should be "):
        message = message.removeprefix(opening)
    return message


def _kind(value: object) -> str:
    return f"a text of {len(value)} characters" if isinstance(value, str) else f"a value of type {type(value).__name__}"
