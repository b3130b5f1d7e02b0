"""Exit policies from the settings file: typed, complete, and free of contradictions before anybody trades by them."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError

from exitguard.config.errors import Problem, did_you_mean
from exitguard.config.validation import problems_of
from exitguard.core.policy import Policy, policy_body, validate_policy

# TOML has no null: this word switches a price rule off.
OFF = "off"


@lru_cache(maxsize=1)
def _adapter() -> TypeAdapter[Policy]:
    return TypeAdapter(Policy)


def read_policies(tables: Mapping[str, Any], where: str) -> tuple[dict[str, Policy], list[Problem]]:
    """Read all `[policies.NAME]` tables; `default` is always there. Returns the sound ones and every problem."""
    policies = {"default": Policy()}
    problems: list[Problem] = []
    for name, table in tables.items():
        key = f"policies.{name}"
        if not isinstance(table, Mapping):
            problems.append(Problem(where, key, type(table).__name__, "a table of policy numbers"))
            continue
        found, wrong = read_policy(name, table, where, key)
        problems += wrong
        if found is not None:
            policies[name] = found
    return policies, problems


def read_policy(name: str, table: Mapping[str, Any], where: str, key: str) -> tuple[Policy | None, list[Problem]]:
    """Read one policy: the specification's numbers, overridden by what `table` says."""
    problems = list(_unknown_keys(Policy, table, where, key, hidden={"name"}))
    if problems:
        return None, problems
    body = _overlay(Policy, policy_body(Policy()), table) | {"name": name}
    try:
        policy = _adapter().validate_json(orjson.dumps(body, default=str), strict=True)
    except ValidationError as error:
        return None, problems_of(error, where, key)
    contradictions = [_contradiction(text, where, key) for text in validate_policy(policy)]
    return (None if contradictions else policy), contradictions


def _contradiction(text: str, where: str, key: str) -> Problem:
    """`validate_policy` says `field: must …, was …`; the field completes the key."""
    field, _, rest = text.partition(": ")
    return Problem(where, f"{key}.{field}", "numbers that contradict each other", rest or text)


def _fields(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _nested(annotation: Any) -> type | None:
    """The dataclass that a field holds, or that a tuple of a field holds."""
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return annotation
    if typing.get_origin(annotation) is tuple:
        return _nested(typing.get_args(annotation)[0])
    return None


def _is_optional(annotation: Any) -> bool:
    return isinstance(annotation, types.UnionType) and type(None) in typing.get_args(annotation)


def _unknown_keys(
    kind: type, table: Mapping[str, Any], where: str, key: str, hidden: frozenset[str] | set[str] = frozenset()
) -> typing.Iterator[Problem]:
    fields = {name: hint for name, hint in _fields(kind).items() if name not in hidden}
    for name, value in table.items():
        if name not in fields:
            yield Problem(where, f"{key}.{name}", f"unknown key {name!r}", did_you_mean(name, fields))
            continue
        nested = _nested(fields[name])
        if nested is None:
            continue
        rows = value if isinstance(value, list) else [value]
        for index, row in enumerate(rows):
            if isinstance(row, Mapping):
                place = f"{key}.{name}[{index}]" if isinstance(value, list) else f"{key}.{name}"
                yield from _unknown_keys(nested, row, where, place)


def _overlay(kind: type, base: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    """Put `table` over `base`: inner tables key by key, lists as a whole, `off` as None where a rule can be off."""
    merged = dict(base)
    for name, value in table.items():
        annotation = _fields(kind)[name]
        nested = _nested(annotation)
        if nested is not None and isinstance(value, Mapping) and isinstance(base.get(name), Mapping):
            merged[name] = _overlay(nested, base[name], value)
        elif nested is not None and isinstance(value, list):
            merged[name] = [_overlay(nested, {}, row) if isinstance(row, Mapping) else row for row in value]
        elif value == OFF and _is_optional(annotation):
            merged[name] = None
        else:
            merged[name] = value
    return merged
