"""The hash chain of an account's events, checked without trusting the database that keeps it (I6).

Each event's hash covers its content and the hash of the event before it, so that a change, a removal or an insertion
anywhere breaks the chain at a sequence number that can be named.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

# What the first event follows.
GENESIS = "0" * 64
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """One row of `position_events`. `data` and `changes` are the exact texts that the database has of them.

    `changes` is None in events of a schema that did not keep them; created_at is in the hash of the others only.
    """

    account_name: str
    seq: int
    id: int
    type: str
    position_id: int | None
    at: datetime
    data: str
    changes: str | None
    created_at: datetime
    previous_hash: str
    hash: str


@dataclass(frozen=True, slots=True)
class Head:
    """The newest event as `event_heads` names it."""

    seq: int
    hash: str


@dataclass(frozen=True, slots=True)
class Break:
    """Where the chain does not hold: `field` of the event `seq`, or of the head when `seq` is None."""

    seq: int | None
    field: str
    expected: str
    found: str
    text: str


def event_hash(event: StoredEvent) -> str:
    """SHA-256, hexadecimal, of the event's content and `previous_hash`; the same rule as the database function's."""
    parts = [
        event.previous_hash,
        event.account_name,
        str(event.seq),
        event.type,
        "-" if event.position_id is None else str(event.position_id),
        str(_microseconds(event.at)),
        event.data,
    ]
    if event.changes is not None:
        parts += [event.changes, str(_microseconds(event.created_at))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


class ChainCheck:
    """Follows one account's events in the order of their sequence. `breaks` is what did not hold so far."""

    def __init__(self) -> None:
        self.breaks: list[Break] = []
        self._last: StoredEvent | None = None

    def take(self, event: StoredEvent) -> None:
        """Check one event against the one before it."""
        self.breaks += self._breaks_of(event)
        self._last = event

    def _breaks_of(self, event: StoredEvent) -> Iterator[Break]:
        last = self._last
        expected = 1 if last is None else last.seq + 1
        before = GENESIS if last is None else last.hash
        if event.seq != expected:
            lost = str(expected) if event.seq == expected + 1 else f"{expected} to {event.seq - 1}"
            yield Break(event.seq, "seq", str(expected), str(event.seq), f"events are missing before it: {lost}")
        elif event.previous_hash != before:
            place = "the first event" if last is None else f"event {last.seq}"
            text = f"it does not follow {place} as that is now: one of the two was replaced"
            yield Break(event.seq, "previous_hash", before, event.previous_hash, text)
        if (own := event_hash(event)) != event.hash:
            yield Break(event.seq, "hash", own, event.hash, "its content is not what was recorded")
        if last is not None and event.id <= last.id:
            yield Break(event.seq, "id", f"above {last.id}", str(event.id), "it was not written where it stands")
        if last is not None and last.changes is not None and event.changes is None:
            yield Break(event.seq, "changes", "what it changed", "nothing", "what it changed was removed")

    def finish(self, head: Head | None) -> None:
        """Check that the head names the last event."""
        seq, digest = (0, GENESIS) if self._last is None else (self._last.seq, self._last.hash)
        if head is None:
            if self._last is not None:
                self.breaks.append(Break(None, "seq", str(seq), "no row", "the account's head was removed"))
            return
        if head.seq != seq:
            text = "events were removed at the end" if head.seq > seq else "events were added at the end"
            self.breaks.append(Break(None, "seq", str(seq), str(head.seq), text))
        elif head.hash != digest:
            self.breaks.append(Break(None, "hash", digest, head.hash, "it does not name the last event"))


def check_chain(events: Iterable[StoredEvent], head: Head | None) -> list[Break]:
    """Everything that does not hold in one account's events, oldest first; empty when sequence and chain verify."""
    check = ChainCheck()
    for event in events:
        check.take(event)
    check.finish(head)
    return check.breaks
