"""JSON for the ledger: total for evidence, strict for typed fields."""

import string
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any, get_type_hints
from uuid import UUID, uuid4

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.ledger import NOON, batch, intent, position

from exitguard.core.instrument import InstrumentType
from exitguard.core.records import AppendEvent, Batch, EventType, IntentRecord, PositionRecord, PutPosition, SetAside
from exitguard.store.encoding import (
    MAX_PAYLOAD_BYTES,
    OPERATIONS,
    InvalidRecord,
    decode_batch,
    decode_record,
    encode_batch,
    encode_json,
    encode_operations,
    encode_record,
)
from exitguard.store.port import StoreRejected

# Strategies from the records' own annotations, so that a new field or operation is covered when it appears ----------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(string.printable, max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(string.ascii_letters, max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
moments = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
SIMPLE: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30),
    int: st.integers(-(2**62), 2**62),
    bool: st.booleans(),
    Decimal: st.decimals(allow_nan=False, allow_infinity=False),
    datetime: moments,
    date: st.dates(),
    UUID: st.uuids(),
}


def of_type(hint: Any) -> st.SearchStrategy[Any]:
    if hint in SIMPLE:
        return SIMPLE[hint]
    if isinstance(hint, type) and issubclass(hint, Enum):
        return st.sampled_from(list(hint))
    if isinstance(hint, type) and hasattr(hint, "__dataclass_fields__"):
        return record_of(hint)
    if getattr(hint, "__origin__", None) is dict:
        return st.dictionaries(st.text(string.ascii_letters, max_size=8), json_values, max_size=3)
    if getattr(hint, "__origin__", None) is tuple:
        return st.lists(of_type(hint.__args__[0]), max_size=3).map(tuple)
    inner = [each for each in hint.__args__ if each is not type(None)]
    assert len(inner) == 1, hint
    return st.none() | of_type(inner[0])


def record_of(kind: type[Any]) -> st.SearchStrategy[Any]:
    hints = get_type_hints(kind)
    return st.builds(kind, **{field.name: of_type(hints[field.name]) for field in fields(kind)})


batches = st.builds(
    Batch,
    id=st.uuids(),
    account_name=st.sampled_from(["large", "tiny"]),
    epoch=st.integers(1, 2**40),
    at=moments,
    operations=st.lists(st.one_of(*(record_of(kind) for kind in OPERATIONS.values())), max_size=3).map(tuple),
)


@settings(max_examples=120, deadline=None)
@given(batches)
def test_f18_f63_a_batch_comes_back_as_it_went(given_batch: Batch) -> None:
    encoded = encode_batch(given_batch)
    assert decode_batch(encoded) == given_batch
    assert encode_batch(decode_batch(encoded)) == encoded


@settings(max_examples=100, deadline=None)
@given(record_of(PositionRecord) | record_of(IntentRecord))
def test_a_record_comes_back_from_its_json(record: Any) -> None:
    assert decode_record(type(record), orjson.loads(encode_json(encode_record(record)))) == record


class Colour(Enum):
    RED = 1


class Unhelpful:
    def __repr__(self) -> str:
        raise RuntimeError("no description")


@dataclass(slots=True)
class Node:
    name: str
    child: Any = None


anything = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(max_size=20), st.decimals(),
        st.datetimes(), st.dates(), st.times(), st.timedeltas(), st.uuids(), st.complex_numbers(),
        st.sampled_from([Colour.RED, EventType.CLOSED, object(), ValueError("x"), object, len, ...]),
        st.text(st.characters(categories=["Cs", "Cc"]), max_size=5),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner),
        st.builds(Node, st.text(), inner),
        st.dictionaries(
            st.one_of(st.text(), st.integers(), st.none(), st.booleans(), st.dates(), st.uuids(),
                      st.decimals(allow_nan=False), st.binary(max_size=3), st.just(Colour.RED)),
            inner, max_size=3,
        ),
        st.frozensets(st.integers() | st.text(max_size=3), max_size=3),
    ),
    max_leaves=10,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(anything)
def test_t18_evidence_of_any_kind_is_encoded(value: Any) -> None:
    encoded = encode_json({"evidence": value})
    decoded = orjson.loads(encoded)
    assert set(decoded) == {"evidence"}
    assert "\x00" not in str(decoded)


def test_t18_evidence_without_a_description_is_encoded() -> None:
    assert b"without a description" in encode_json({"evidence": Unhelpful(), "set": {Unhelpful()}})


def test_t18_circular_and_bottomless_evidence_is_encoded() -> None:
    circle: dict[str, Any] = {}
    circle["again"] = circle
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    assert orjson.loads(encode_json({"circle": circle, "deep": deep}))


def test_evidence_is_bounded_and_says_so() -> None:
    kept = orjson.loads(
        encode_operations(batch("large", 1, AppendEvent(EventType.CLOSED, NOON, {"body": "ä" * 200_000})))
    )
    (operation,) = kept
    assert operation["data"]["truncated"] is True
    assert operation["data"]["bytes"] > 400_000
    assert len(orjson.dumps(operation)) < MAX_PAYLOAD_BYTES


def test_evidence_just_inside_the_bound_is_kept_whole() -> None:
    payload = {"body": "a" * (MAX_PAYLOAD_BYTES - 20)}
    (operation,) = orjson.loads(encode_operations(batch("large", 1, SetAside("message", "bad", payload, NOON))))
    assert operation["payload"] == payload


def test_f71_a_time_without_a_zone_is_refused_by_name() -> None:
    naive = datetime(2024, 3, 8, 12, 0)  # noqa: DTZ001
    with pytest.raises(InvalidRecord, match="entry_time must be an aware time"):
        encode_operations(batch("large", 1, PutPosition(position("large", entry_time=naive))))
    with pytest.raises(StoreRejected):
        encode_batch(batch("large", 1, at=naive))


def test_a_time_in_another_zone_is_the_same_moment() -> None:
    tokyo = NOON.astimezone(timezone(timedelta(hours=9)))
    given_batch = batch("large", 1, PutPosition(position("large", entry_time=tokyo)))
    assert decode_batch(encode_batch(given_batch)) == given_batch


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("status", "sleeping", "status has the unknown value 'sleeping', expected one of open, closing, closed"),
        ("instrument_type", "FUTURE", "expected one of STOCK, CALL, PUT"),
        ("quantity", "ten", "quantity cannot be 'ten'"),
        ("quantity", 1.5, "quantity must be an exact number"),
        ("quantity", None, "quantity"),
        ("entry_time", "2024-03-08T12:00:00", "entry_time must be an aware time"),
        ("entry_time", "noon", "entry_time cannot be 'noon'"),
        ("multiplier", "100", "multiplier must be a whole number"),
        ("multiplier", True, "multiplier must be a whole number"),
        ("adopted", 1, "adopted must be true or false"),
        ("symbol", 5, "symbol must be text"),
        ("execution_id", "not-a-uuid", "execution_id cannot be"),
        ("features", "[1]", "features must be an object"),
    ],
)
def test_a_value_of_another_kind_is_refused_by_name(field: str, value: object, complaint: str) -> None:
    row = orjson.loads(encode_json(encode_record(position("large"))))
    with pytest.raises(InvalidRecord, match=complaint):
        decode_record(PositionRecord, {**row, field: value})


def test_a_missing_field_is_refused_and_an_unknown_one_ignored() -> None:
    row = orjson.loads(encode_json(encode_record(position("large"))))
    assert decode_record(PositionRecord, {**row, "added_later": 1}) == position("large")
    del row["symbol"]
    with pytest.raises(InvalidRecord, match=r"PositionRecord\.symbol is missing"):
        decode_record(PositionRecord, row)


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"[]", b"null", b'{"id": 1}', b"<html>", encode_batch(batch("a", 1))[:-9]]
)
def test_what_is_not_a_batch_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidRecord):
        decode_batch(text)


def test_an_unknown_operation_is_refused_by_name() -> None:
    body = orjson.loads(encode_batch(batch("large", 1, PutPosition(position("large")))))
    body["operations"][0]["op"] = "sell_everything"
    with pytest.raises(InvalidRecord, match="unknown operation 'sell_everything'"):
        decode_batch(orjson.dumps(body))
    with pytest.raises(InvalidRecord, match="str is not an operation"):
        encode_operations(Batch(uuid4(), "large", 1, NOON, ("sell",)))  # type: ignore[arg-type]


def test_money_is_never_a_binary_float() -> None:
    (operation,) = orjson.loads(encode_operations(batch("large", 1, PutPosition(position("large")))))
    assert operation["row"]["entry_price"] == "100.25"
    assert operation["row"]["instrument_type"] == InstrumentType.STOCK.value
    assert orjson.loads(encode_json(encode_record(intent("large", 1))))["qty"] == "10"
