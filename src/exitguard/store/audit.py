"""Proof that nobody changed the ledger behind its own back: chain, sequence, and tables against events (I6, I10).

Everything is read in one snapshot, as the operator who sees all accounts, so that managers may go on writing.
"""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from exitguard.core.chain import Break, ChainCheck, Head, StoredEvent
from exitguard.core.orders import Fill
from exitguard.core.records import (
    AppendEvent,
    EventType,
    ExecutionRecord,
    HistoryRecord,
    IntentRecord,
    Operation,
    PositionRecord,
)
from exitguard.core.replay import (
    SET_ASIDE_BY_CLAIM,
    TABLES,
    AlarmRow,
    AnswerRow,
    BindingRow,
    Difference,
    FillRow,
    Kind,
    Replay,
    SetAsideRow,
    SignalRow,
    Tables,
    contradictions,
    differences,
    numbered,
)
from exitguard.store.encoding import InvalidRecord, decode_operation, decode_record
from exitguard.store.operator import Operator
from exitguard.store.queries import query

_PART = 500
_KEYS = {
    "active_positions": "id",
    "position_fills": "execution_id",
    "order_intents": "client_order_id",
    "dispatch_executions": "execution_id",
    "position_history": "position_id",
    "commands": "id",
    "dispatch_recommendations": "id",
    "accounts": "account_name",
}
_NUMBERED = {"alarms": "key", "set_aside": "kind"}
_KINDS: dict[str, type[Any]] = {
    "active_positions": PositionRecord,
    "order_intents": IntentRecord,
    "dispatch_executions": ExecutionRecord,
    "position_history": HistoryRecord,
    "alarms": AlarmRow,
    "commands": AnswerRow,
    "dispatch_recommendations": SignalRow,
    "set_aside": SetAsideRow,
    "accounts": BindingRow,
}
# Rows of the other tables are made by statements; events only decide about them.
_ALWAYS_EVENTED = frozenset(TABLES) - {"commands", "dispatch_recommendations", "accounts"}
# An intent's created_at is the venue's time, a field of the record like the others.
_TIMED_BY_US = _ALWAYS_EVENTED - {"order_intents"}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as the events made it, and what to do about it."""

    kind: str
    table: str
    row: str
    field: str | None
    expected: str | None
    found: str | None
    text: str
    advice: str

    def body(self) -> dict[str, str | None]:
        """As JSON: stable names."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(slots=True)
class AccountAudit:
    """What was checked of one account, and what was found.

    `head_hash` names the whole history up to `events`: who keeps it elsewhere can prove later that nobody rewrote it.
    `uncovered` counts rows that are older than the events that carry changes.
    """

    account_name: str
    events: int = 0
    head_hash: str | None = None
    rows: dict[str, int] = field(default_factory=dict)
    uncovered: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def verified(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def body(self) -> dict[str, Any]:
        """As JSON: stable names."""
        return {
            "verified": self.verified,
            "events": self.events,
            "head_hash": self.head_hash,
            "rows": self.rows,
            "uncovered_rows": self.uncovered,
            "findings": [finding.body() for finding in self.findings],
        }


async def audit_accounts(operator: Operator) -> list[str]:
    """Names of all accounts of which the ledger has anything."""
    async with operator.snapshot() as connection:
        return [row["account_name"] for row in await connection.fetch(query("audit_account_names"))]


async def audit_account(operator: Operator, account: str) -> AccountAudit:
    """Verify one account in one snapshot. Raises StoreUnavailable."""
    audit = AccountAudit(account)
    async with operator.snapshot() as connection:
        replayed, covered_from = await _replay(connection, account, audit)
        found = await _tables(connection, account, audit)
    if covered_from is not None:
        _leave_out_older(replayed, found, covered_from, audit)
    audit.findings += [_of_difference(each) for each in differences(replayed, found)]
    if covered_from is None:
        audit.findings += [_of_difference(each) for each in contradictions(replayed)]
    return audit


async def _replay(connection: Any, account: str, audit: AccountAudit) -> tuple[Tables, datetime | None]:
    """Check the chain and fold what the events carry.

    Also returns since when events carry changes, None when all do.
    """
    check, made = ChainCheck(), Replay(account)
    covered_from: datetime | None = None
    plain = 0
    async for row in _events(connection, account):
        event = StoredEvent(
            *(row[name] for name in ("account_name", "seq", "id", "event_type", "position_id", "at", "data")),
            *(row[name] for name in ("changes", "created_at", "previous_hash", "hash")),
        )
        check.take(event)
        audit.events += 1
        if event.changes is None:
            plain += 1
        elif covered_from is None and plain:
            covered_from = event.created_at
        try:
            for operation in _operations(event):
                made.take(operation, event.created_at)
        except (InvalidRecord, KeyError, TypeError, ValueError, AttributeError) as error:
            # Whatever somebody wrote there: the event is named, and the others are still checked.
            text = f"what it carries cannot be read: {type(error).__name__} {error}"[:500]
            check.breaks.append(Break(event.seq, "changes", "operations", "something else", text))
    if plain and covered_from is None:
        covered_from = datetime.max.replace(tzinfo=UTC)
    head = await connection.fetchrow(query("audit_head"), account)
    check.finish(None if head is None else Head(head["seq"], head["hash"]))
    audit.head_hash = None if head is None else head["hash"]
    audit.findings += [_of_break(each) for each in check.breaks]
    return made.tables, covered_from


async def _events(connection: Any, account: str) -> AsyncIterator[Any]:
    statement = await connection.prepare(query("audit_events"))
    cursor = await statement.cursor(account)
    while rows := await cursor.fetch(_PART):
        for row in rows:
            yield row


def _operations(event: StoredEvent) -> list[Operation]:
    carried = [] if event.changes is None else [decode_operation(each) for each in _loads(event.changes)]
    return [*carried, AppendEvent(EventType(event.type), event.at, _loads(event.data), event.position_id)]


def _loads(text: str) -> Any:
    """JSON with exact numbers: the texts of a row and of an event give the same values."""
    return json.loads(text, parse_float=Decimal)


async def _tables(connection: Any, account: str, audit: AccountAudit) -> Tables:
    """The rows that are there."""
    tables = Tables()
    for name in TABLES:
        counts: dict[str, int] = {}
        statement = await connection.prepare(query(f"audit_{name}"))
        cursor = await statement.cursor(account)
        kept = getattr(tables, name)
        while rows := await cursor.fetch(_PART):
            for body in (_loads(row["body"]) for row in rows):
                if name == "set_aside" and body["kind"] == SET_ASIDE_BY_CLAIM:
                    continue
                key = _key(name, body, counts)
                if name in _TIMED_BY_US:
                    tables.written[name, key] = datetime.fromisoformat(body["created_at"])
                try:
                    kept[key] = _row(name, body)
                except InvalidRecord as error:
                    audit.findings.append(_unreadable(name, key, error))
        audit.rows[name] = len(kept)
    return tables


def _key(table: str, body: Mapping[str, Any], counts: dict[str, int]) -> str:
    if table not in _NUMBERED:
        return str(body[_KEYS[table]])
    name = str(body[_NUMBERED[table]])
    counts[name] = counts.get(name, 0) + 1
    return numbered(name, counts[name])


def _row(table: str, body: Mapping[str, Any]) -> Any:
    if table == "position_fills":
        return FillRow(body["position_id"], decode_record(Fill, body), body["source"])
    return decode_record(_KINDS[table], body)


def _leave_out_older(replayed: Tables, found: Tables, covered_from: datetime, audit: AccountAudit) -> None:
    """Rows from before events carried changes, and not changed since, cannot be derived: they are counted."""
    for table in _ALWAYS_EVENTED:
        there, made = getattr(found, table), getattr(replayed, table)
        for key in [key for key in there if key not in made and _born(found, table, key) < covered_from]:
            del there[key]
            audit.uncovered += 1


def _born(found: Tables, table: str, key: str) -> datetime:
    moment = found.written.get((table, key))
    return found.order_intents[key].created_at if moment is None else moment


# In words -------------------------------------------------------------------------------------------------------------

_KEEP = "keep a dump of this database, and find out who was connected as its owner"


def _of_break(found: Break) -> Finding:
    table, row = ("position_events", f"seq {found.seq}") if found.seq is not None else ("event_heads", "head")
    advice = f"{_KEEP}; a backup of before shows what the event said"
    return Finding("chain", table, row, found.field, found.expected, found.found, found.text, advice)


_TEXTS: dict[Kind, tuple[str, str]] = {
    Kind.CHANGED: (
        "the row is not what the events made it",
        f"{_KEEP}; set the field back to what is expected when nobody can explain it",
    ),
    Kind.MISSING: (
        "the events made a row that is not there",
        f"{_KEEP}; the row can be written again from its newest event",
    ),
    Kind.UNEXPECTED: (
        "there is a row that no event made",
        f"{_KEEP}; compare with the broker: exitguard sync",
    ),
    Kind.CONTRADICTION: (
        "the events contradict each other",
        f"{_KEEP}; compare with the broker's orders and activities, then report a defect",
    ),
}


def _of_difference(each: Difference) -> Finding:
    text, advice = _TEXTS[each.kind]
    return Finding(each.kind.value, each.table, each.row, each.field, each.expected, each.found, text, advice)


def _unreadable(table: str, key: str, error: InvalidRecord) -> Finding:
    text = f"the row cannot be read: {error}"[:500]
    return Finding(Kind.CHANGED.value, table, key, None, None, None, text, _KEEP)
