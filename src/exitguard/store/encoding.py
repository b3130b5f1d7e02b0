"""JSON for the ledger: one encoder that never fails on a payload, one decoder that never guesses (F18, F63, T18).

Evidence (event data, features, details, payloads) may hold anything; it is encoded totally and bounded in size.
Typed fields are checked instead: a naive time is an error here and not a wrong hour in the database (F71).
"""

import types
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints
from uuid import UUID

import orjson

from exitguard.core import records
from exitguard.core.errors import InvalidInput
from exitguard.core.records import Batch, Operation
from exitguard.store.port import StoreRejected

# One event's evidence is bounded, so that neither the journal nor the table grows without limit.
MAX_PAYLOAD_BYTES = 65_536
_KEPT_OF_LARGE = 4_096
_MAX_DEPTH = 60
_OPTIONS = orjson.OPT_NON_STR_KEYS
_INT_LIMIT = 2**63

_T = TypeVar("_T")


class InvalidRecord(StoreRejected, InvalidInput):
    """A record with a field that is not what its type says; names the field and the value. Nothing was written."""


OPERATIONS: dict[str, type[Any]] = {
    "put_position": records.PutPosition,
    "put_fill": records.PutFill,
    "append_event": records.AppendEvent,
    "put_intent": records.PutIntent,
    "put_history": records.PutHistory,
    "put_execution": records.PutExecution,
    "set_recommendation": records.SetRecommendation,
    "raise_alarm": records.RaiseAlarm,
    "clear_alarm": records.ClearAlarm,
    "finish_command": records.FinishCommand,
    "set_aside": records.SetAside,
}
_NAMES = {kind: name for name, kind in OPERATIONS.items()}
# Fields whose content comes from outside or is evidence: encoded totally, bounded.
_EVIDENCE = frozenset({"data", "features", "details", "payload", "request", "answer"})
# Fields that events and journals of older builds do not have; the field's default stands.
_ADDED_LATER = frozenset({"restatements"})


# Encoding -------------------------------------------------------------------------------------------------------------


def encode_json(value: object) -> bytes:
    """Encode anything. What JSON has no form for becomes text; NaN and infinity become null or text."""
    try:
        encoded = orjson.dumps(value, default=_as_json, option=_OPTIONS)
    except (TypeError, ValueError, RecursionError):
        # Lone surrogates, huge integers, deep or circular structures: the slow way is total.
        return orjson.dumps(_plain(value, 0), option=_OPTIONS)
    if b"\\u0000" in encoded:  # PostgreSQL's text has no NUL
        return orjson.dumps(_plain(value, 0), option=_OPTIONS)
    return encoded


def encode_operations(batch: Batch) -> bytes:
    """The operations of a batch as the JSON array that the stored function takes. Raises InvalidRecord."""
    return encode_json([_operation(operation) for operation in batch.operations])


def encode_batch(batch: Batch, operations: bytes | None = None) -> bytes:
    """A whole batch; `operations` when they have been encoded before. Raises InvalidRecord."""
    inner = encode_operations(batch) if operations is None else operations
    head = {"id": batch.id, "account_name": batch.account_name, "epoch": batch.epoch, "at": _aware(batch.at, "at")}
    return orjson.dumps(head)[:-1] + b',"operations":' + inner + b"}"


def encode_record(record: Any) -> dict[str, Any]:
    """One record as a dictionary ready for `encode_json`. Raises InvalidRecord."""
    row: dict[str, Any] = {}
    kind: Any = type(record)
    for name in _field_names(kind):
        value = getattr(record, name)
        if isinstance(value, datetime):
            _aware(value, name)
        elif name in _EVIDENCE:
            value = _bounded(value)
        row[name] = value
    return row


def _operation(operation: Operation) -> dict[str, Any]:
    name = _NAMES.get(type(operation))
    if name is None:
        raise InvalidRecord(f"{type(operation).__name__} is not an operation of a batch")
    encoded = encode_record(operation)
    for key, value in encoded.items():
        if is_dataclass(value):
            encoded[key] = encode_record(value)
    encoded["op"] = name
    return encoded


def _bounded(value: object) -> object:
    encoded = encode_json(value)
    if len(encoded) <= MAX_PAYLOAD_BYTES:
        return orjson.Fragment(encoded)
    head = encoded[:_KEPT_OF_LARGE].decode("utf-8", errors="ignore")
    return {"truncated": True, "bytes": len(encoded), "head": head}


def _aware(moment: datetime, name: str) -> datetime:
    if moment.tzinfo is None or moment.utcoffset() is None:
        raise InvalidRecord(f"{name} must be an aware time, was {moment.isoformat()} without a zone")
    return moment


def _as_json(value: object) -> object:
    """What orjson does not know by itself."""
    if isinstance(value, (Decimal, UUID)):  # a UUID here is asyncpg's own kind of it
        return str(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=_described)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).decode("utf-8", errors="replace")
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Mapping):
        return dict(value)
    return _described(value)


def _described(value: object) -> str:
    try:
        return repr(value)[:2000]
    except Exception as error:  # a broken __repr__ of evidence must not stop an exit (T18)
        return f"<{type(value).__name__} without a description: {type(error).__name__}>"


def _plain(value: object, depth: int) -> object:
    """A copy that consists of what JSON and PostgreSQL both accept."""
    if depth > _MAX_DEPTH:
        return "…"
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, Enum):
        return _plain(value.value, depth + 1)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return value if -_INT_LIMIT <= value < _INT_LIMIT else str(value)
    if isinstance(value, (datetime, date, time, UUID)):
        return value.isoformat() if not isinstance(value, UUID) else str(value)
    if isinstance(value, orjson.Fragment):
        return value
    if isinstance(value, Mapping):
        return {_text(_key(key)): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, depth + 1) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(getattr(value, name), depth + 1) for name in _field_names(type(value))}
    return _plain(_as_json(value), depth + 1)


def _key(key: object) -> str:
    if isinstance(key, Enum):
        return str(key.value)
    if isinstance(key, (datetime, date, time)):
        return key.isoformat()
    return str(key)


def _text(value: str) -> str:
    return value.replace("\x00", "\ufffd").encode("utf-8", errors="replace").decode("utf-8")


@lru_cache(maxsize=64)
def _field_names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


# Decoding -------------------------------------------------------------------------------------------------------------


def decode_batch(encoded: bytes) -> Batch:
    """Read a batch back. Raises InvalidRecord when it is not one."""
    try:
        body = orjson.loads(encoded)
        operations = tuple(decode_operation(operation) for operation in body["operations"])
        return Batch(UUID(body["id"]), body["account_name"], int(body["epoch"]), _moment(body["at"], "at"), operations)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidRecord(f"this is not a batch: {type(error).__name__} {error}") from error


def decode_operation(body: dict[str, Any]) -> Operation:
    """Read one operation of a batch back. Raises InvalidRecord."""
    kind = OPERATIONS.get(body.get("op", ""))
    if kind is None:
        raise InvalidRecord(f"unknown operation {str(body.get('op'))[:100]!r}, expected one of {', '.join(OPERATIONS)}")
    decoded: Operation = decode_record(kind, {key: value for key, value in body.items() if key != "op"})
    return decoded


def decode_record(kind: type[_T], row: Mapping[str, Any]) -> _T:
    """Make a record from JSON values or from a database row. Keys that it does not have are ignored.

    Raises InvalidRecord naming the field: absent, of another type, or an enum value that this build does not know.
    """
    values: dict[str, Any] = {}
    hashable: Any = kind
    for name, convert in _converters(hashable).items():
        if name not in row:
            if name in _ADDED_LATER:
                continue
            raise InvalidRecord(f"{kind.__name__}.{name} is missing")
        try:
            values[name] = convert(row[name], name)
        except InvalidRecord:
            raise
        except (TypeError, ValueError, ArithmeticError) as error:
            raise InvalidRecord(
                f"{kind.__name__}.{name} cannot be {str(row[name])[:200]!r}: {type(error).__name__} {error}"
            ) from error
    return kind(**values)


_Converter = Callable[[Any, str], Any]


@lru_cache(maxsize=64)
def _converters(kind: Any) -> dict[str, _Converter]:
    hints = get_type_hints(kind)
    return {name: _converter(hints[name]) for name in _field_names(kind)}


def _converter(hint: Any) -> _Converter:
    if hint is Any:
        return lambda value, _: value
    if get_origin(hint) in (Union, types.UnionType):
        inner = [argument for argument in get_args(hint) if argument is not type(None)]
        if len(inner) != 1:
            raise TypeError(f"cannot decode {hint}")
        convert = _converter(inner[0])
        return lambda value, name: None if value is None else convert(value, name)
    if get_origin(hint) is dict:
        return _dictionary
    if get_origin(hint) is tuple:
        member = _converter(get_args(hint)[0])
        return lambda value, name: tuple(member(each, name) for each in _list(value, name))
    if is_dataclass(hint) and isinstance(hint, type):
        return lambda value, _: decode_record(hint, value)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return lambda value, name: _member(hint, value, name)
    return _SIMPLE[hint]


def _member(kind: type[Enum], value: Any, name: str) -> Enum:
    try:
        return kind(value)
    except ValueError as error:
        known = ", ".join(str(member.value) for member in kind)
        raise InvalidRecord(f"{name} has the unknown value {str(value)[:100]!r}, expected one of {known}") from error


def _dictionary(value: Any, name: str) -> dict[str, Any]:
    if isinstance(value, str):  # a jsonb column without a codec
        value = orjson.loads(value)
    if not isinstance(value, dict):
        raise InvalidRecord(f"{name} must be an object, was {type(value).__name__}")
    return value


def _list(value: Any, name: str) -> list[Any]:
    if isinstance(value, str):  # a jsonb column without a codec
        value = orjson.loads(value)
    if not isinstance(value, (list, tuple)):
        raise InvalidRecord(f"{name} must be a list, was {type(value).__name__}")
    return list(value)


def _number(value: Any, name: str) -> Decimal:
    if isinstance(value, (bool, float)):
        raise InvalidRecord(f"{name} must be an exact number, was {value!r}")
    return Decimal(value)


def _whole(value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidRecord(f"{name} must be a whole number, was {str(value)[:100]!r}")
    return value


def _string(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise InvalidRecord(f"{name} must be text, was {type(value).__name__}")
    return value


def _truth(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidRecord(f"{name} must be true or false, was {str(value)[:100]!r}")
    return value


def _moment(value: Any, name: str) -> datetime:
    return _aware(value if isinstance(value, datetime) else datetime.fromisoformat(value), name)


def _day(value: Any, _: str) -> date:
    return value if isinstance(value, date) else date.fromisoformat(value)


def _identifier(value: Any, _: str) -> UUID:
    return value if type(value) is UUID else UUID(str(value))


_SIMPLE: dict[Any, _Converter] = {
    Decimal: _number,
    int: _whole,
    str: _string,
    bool: _truth,
    datetime: _moment,
    date: _day,
    UUID: _identifier,
}
