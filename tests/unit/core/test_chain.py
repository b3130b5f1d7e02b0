"""The hash chain of events, computed apart from the database (I6)."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from exitguard.core.chain import GENESIS, Head, StoredEvent, check_chain, event_hash

NOON = datetime(2024, 3, 8, 17, 0, tzinfo=UTC)


def chained(count: int) -> list[StoredEvent]:
    events: list[StoredEvent] = []
    for seq in range(1, count + 1):
        previous = events[-1].hash if events else GENESIS
        event = StoredEvent(
            account_name="large",
            seq=seq,
            id=seq * 3,
            type="created",
            position_id=seq if seq % 2 else None,
            at=NOON + timedelta(seconds=seq),
            data=f'{{"n": {seq}}}',
            changes="[]",
            created_at=NOON + timedelta(seconds=seq, microseconds=1),
            previous_hash=previous,
            hash="",
        )
        events.append(replace(event, hash=event_hash(event)))
    return events


def head_of(events: list[StoredEvent]) -> Head:
    return Head(events[-1].seq, events[-1].hash)


def test_i6_a_chain_that_nobody_touched_verifies() -> None:
    events = chained(5)
    assert check_chain(events, head_of(events)) == []
    assert check_chain([], None) == []


@pytest.mark.parametrize(
    "change",
    [
        {"data": '{"n": 9}'},
        {"changes": '[{"op": "put_fill"}]'},
        {"type": "closed"},
        {"position_id": 77},
        {"position_id": None},
        {"at": NOON},
        {"created_at": NOON},
        {"account_name": "tiny"},
        {"changes": None},
    ],
    ids=lambda change: next(iter(change)),
)
def test_i6_a_changed_event_is_named(change: dict[str, object]) -> None:
    events = chained(5)
    events[2] = replace(events[2], **change)  # type: ignore[arg-type]
    found = check_chain(events, head_of(events))
    assert {(each.seq, each.field) for each in found} >= {(3, "hash")}
    assert {each.seq for each in found} == {3}, "the neighbours are not accused"


def test_i6_an_event_that_was_replaced_with_a_fitting_hash_is_found_by_the_next_one() -> None:
    events = chained(5)
    changed = replace(events[2], data='{"n": 9}')
    events[2] = replace(changed, hash=event_hash(changed))
    (found,) = check_chain(events, head_of(events))
    assert (found.seq, found.field) == (4, "previous_hash")
    assert "event 3" in found.text


@pytest.mark.parametrize(
    ("gone", "text"), [((2,), "before it: 3"), ((1, 2), "before it: 2 to 3"), ((0,), "before it: 1")]
)
def test_i6_removed_events_are_named(gone: tuple[int, ...], text: str) -> None:
    events = chained(5)
    left = [event for index, event in enumerate(events) if index not in gone]
    (found,) = check_chain(left, head_of(events))
    assert found.field == "seq"
    assert found.text.endswith(text)


def test_i6_events_that_end_too_early_or_go_on_too_long_are_found_by_the_head() -> None:
    events = chained(5)
    (short,) = check_chain(events[:4], head_of(events))
    assert (short.seq, short.field, short.text) == (None, "seq", "events were removed at the end")
    (long,) = check_chain(events, head_of(events[:4]))
    assert long.text == "events were added at the end"
    (wrong,) = check_chain(events, Head(5, "f" * 64))
    assert (wrong.field, wrong.expected) == ("hash", events[-1].hash)
    (lost,) = check_chain(events, None)
    assert lost.text == "the account's head was removed"


def test_i6_an_event_that_was_written_elsewhere_and_moved_is_found() -> None:
    events = chained(5)
    events[4] = replace(events[4], id=1)
    assert [(each.seq, each.field) for each in check_chain(events, head_of(events))] == [(5, "id")]


def test_i6_events_of_an_older_schema_verify_and_newer_ones_cannot_pass_for_them() -> None:
    older = [replace(event, changes=None) for event in chained(2)]
    previous = GENESIS
    for index, event in enumerate(older):
        linked = replace(event, previous_hash=previous)
        older[index] = replace(linked, hash=event_hash(linked))
        previous = older[index].hash
    assert check_chain(older, head_of(older)) == []
    events = chained(3)
    stripped = replace(events[2], changes=None)
    events[2] = replace(stripped, hash=event_hash(stripped))
    assert [each.field for each in check_chain(events, head_of(events))] == ["changes"]
