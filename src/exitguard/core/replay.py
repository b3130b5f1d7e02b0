"""The tables derived from the events alone, and compared with what is in them (I10).

Pure: the same code serves `exitguard audit verify` on PostgreSQL and the simulator on its ledger in memory.

Two questions are kept apart. `differences` asks whether a row is what the events made it. `contradictions` asks
whether what the events say can be true at all: a position is the fold of its fills (I5), and its history row follows
from both (F58, F62).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Any
from uuid import UUID

from exitguard.core.errors import InvalidInput
from exitguard.core.instrument import parse_instrument
from exitguard.core.orders import Fill
from exitguard.core.position import CrossesZero, Holding, PositionSide, fold
from exitguard.core.records import (
    AppendEvent,
    ClearAlarm,
    EventType,
    ExecutionRecord,
    FinishCommand,
    HistoryRecord,
    IntentRecord,
    Operation,
    Outcome,
    PositionRecord,
    PositionStatus,
    PutExecution,
    PutFill,
    PutHistory,
    PutIntent,
    PutPosition,
    RaiseAlarm,
    RecommendationStatus,
    SetAside,
    SetRecommendation,
)

# What a sweep measures of a live position is written without an event for each minute: it is not derived.
MEASURED = frozenset(
    {
        "current_price",
        "current_pnl_dollars",
        "current_pnl_percent",
        "marked_at",
        "last_checked_at",
        "best_price",
        "worst_price",
        "protection",
        "protection_since",
    }
)
# A row is written in the same transaction as its event, a moment before it.
WRITTEN_WITHIN = timedelta(minutes=2)
# Only a batch puts a signal into these states.
_DECIDED = frozenset(
    {
        RecommendationStatus.EXECUTED,
        RecommendationStatus.SKIPPED,
        RecommendationStatus.REJECTED,
        RecommendationStatus.FAILED,
    }
)
# Signals that cannot be read are set aside by a statement of their own when they are claimed.
SET_ASIDE_BY_CLAIM = "recommendation"
_NOTE = 8000
_LABEL = 200


@dataclass(frozen=True, slots=True)
class FillRow:
    """One row of `position_fills`."""

    position_id: int
    fill: Fill
    source: str


@dataclass(frozen=True, slots=True)
class AlarmRow:
    """One row of `alarms`."""

    key: str
    kind: str
    message: str
    position_id: int | None
    details: dict[str, Any]
    raised_at: datetime
    refreshed_at: datetime
    times: int
    cleared_at: datetime | None


@dataclass(frozen=True, slots=True)
class AnswerRow:
    """The answered part of one row of `commands`."""

    ok: bool | None
    result: str | None
    finished_at: datetime | None
    answer: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class SignalRow:
    """The decided part of one row of `dispatch_recommendations`."""

    status: RecommendationStatus
    reason: str | None


@dataclass(frozen=True, slots=True)
class SetAsideRow:
    """One row of `set_aside`."""

    kind: str
    reason: str
    payload: dict[str, Any]
    at: datetime


@dataclass(frozen=True, slots=True)
class BindingRow:
    """The bound number of one row of `accounts`."""

    account_number: str | None


@dataclass(slots=True)
class Tables:
    """The rows of one account by table, each by its key as text.

    Alarms and rows set aside have no key of their own that an event could know: they count up by key or kind.
    `written` is when the database wrote a row down, by (table, key), where that is known.
    """

    active_positions: dict[str, PositionRecord] = field(default_factory=dict)
    position_fills: dict[str, FillRow] = field(default_factory=dict)
    order_intents: dict[str, IntentRecord] = field(default_factory=dict)
    dispatch_executions: dict[str, ExecutionRecord] = field(default_factory=dict)
    position_history: dict[str, HistoryRecord] = field(default_factory=dict)
    alarms: dict[str, AlarmRow] = field(default_factory=dict)
    commands: dict[str, AnswerRow] = field(default_factory=dict)
    dispatch_recommendations: dict[str, SignalRow] = field(default_factory=dict)
    set_aside: dict[str, SetAsideRow] = field(default_factory=dict)
    accounts: dict[str, BindingRow] = field(default_factory=dict)
    written: dict[tuple[str, str], datetime] = field(default_factory=dict)


TABLES = tuple(each.name for each in fields(Tables) if each.name != "written")


def _cut(text: str | None) -> str | None:
    """As much of a note as the database keeps."""
    return None if text is None else text[:_NOTE]


def numbered(name: str, count: int) -> str:
    """Key of the `count`-th row (from 1) of an alarm's key or a kind of row set aside."""
    return f"{name} #{count}"


class Replay:
    """Folds operations, in the order in which they were written, into the tables that they make."""

    def __init__(self, account_name: str) -> None:
        self.account_name = account_name
        self.tables = Tables()
        self._alarms: dict[str, int] = {}
        self._set_aside: dict[str, int] = {}

    def take(self, operation: Operation, recorded_at: datetime | None = None) -> None:
        """Apply one operation; `recorded_at`: when the database wrote the event that carries it."""
        tables = self.tables
        match operation:
            case PutPosition(row):
                key = str(row.id)
                known = tables.active_positions.get(key)
                created = row.created_at if known is None else known.created_at or row.created_at
                self._put("active_positions", key, replace(row, created_at=created), recorded_at)
            case PutFill(position_id, fill, source):
                if fill.execution_id not in tables.position_fills:
                    self._put("position_fills", fill.execution_id, FillRow(position_id, fill, source), recorded_at)
            case PutIntent(row):
                self._put("order_intents", row.client_order_id, replace(row, detail=_cut(row.detail)), recorded_at)
            case PutHistory(row):
                self._put("position_history", str(row.position_id), row, recorded_at)
            case PutExecution(row):
                made = replace(row, reason=_cut(row.reason))
                self._put("dispatch_executions", str(row.execution_id), made, recorded_at)
            case SetRecommendation(id=number, status=status, reason=reason):
                tables.dispatch_recommendations[str(number)] = SignalRow(status, _cut(reason))
            case RaiseAlarm():
                self._raise(operation, recorded_at)
            case ClearAlarm(key=name, at=at):
                self._clear(name, at)
            case FinishCommand(id=number, ok=ok, result=result, at=at, answer=answer):
                tables.commands.setdefault(str(number), AnswerRow(ok, _cut(result), at, answer))
            case SetAside(kind=kind, reason=reason, payload=payload, at=at):
                self._keep_aside(SetAsideRow(kind[:_LABEL], reason[:_NOTE], payload, at), recorded_at)
            case AppendEvent(type=EventType.MANAGER_STARTED, data=data):
                tables.accounts[self.account_name] = BindingRow(str(data["broker_account_number"]))
            case AppendEvent():
                pass

    def _put(self, table: str, key: str, row: Any, recorded_at: datetime | None) -> None:
        getattr(self.tables, table)[key] = row
        if recorded_at is not None:
            self.tables.written.setdefault((table, key), recorded_at)

    def _raise(self, alarm: RaiseAlarm, recorded_at: datetime | None) -> None:
        alarms = self.tables.alarms
        count = self._alarms.get(alarm.key, 0)
        known = alarms.get(numbered(alarm.key, count))
        message = alarm.message[:_NOTE]
        if known is not None and known.cleared_at is None:
            alarms[numbered(alarm.key, count)] = replace(
                known,
                kind=alarm.kind,
                message=message,
                position_id=alarm.position_id,
                details=alarm.details,
                refreshed_at=alarm.at,
                times=known.times + 1,
            )
            return
        self._alarms[alarm.key] = count + 1
        row = AlarmRow(
            alarm.key,
            alarm.kind,
            message,
            alarm.position_id,
            alarm.details,
            alarm.at,
            alarm.at,
            times=1,
            cleared_at=None,
        )
        self._put("alarms", numbered(alarm.key, count + 1), row, recorded_at)

    def _clear(self, name: str, at: datetime) -> None:
        key = numbered(name, self._alarms.get(name, 0))
        known = self.tables.alarms.get(key)
        if known is not None and known.cleared_at is None:
            self.tables.alarms[key] = replace(known, cleared_at=at)

    def _keep_aside(self, row: SetAsideRow, recorded_at: datetime | None) -> None:
        if row.kind == SET_ASIDE_BY_CLAIM:
            return
        count = self._set_aside[row.kind] = self._set_aside.get(row.kind, 0) + 1
        self._put("set_aside", numbered(row.kind, count), row, recorded_at)


def replay(account_name: str, operations: Iterable[Operation]) -> Tables:
    """The tables that these operations of one account make, in their order."""
    made = Replay(account_name)
    for operation in operations:
        made.take(operation)
    return made.tables


# Comparing ------------------------------------------------------------------------------------------------------------


class Kind(StrEnum):
    """How a row disagrees."""

    CHANGED = "changed"
    MISSING = "missing"
    UNEXPECTED = "unexpected"
    CONTRADICTION = "contradiction"


@dataclass(frozen=True, slots=True)
class Difference:
    """One field of one row that is not what it must be; `field` is None when it is the whole row."""

    kind: Kind
    table: str
    row: str
    field: str | None
    expected: str | None
    found: str | None


def differences(expected: Tables, found: Tables) -> Iterator[Difference]:
    """Compare the tables that the events make with those that are there, field by field.

    Left out is what no event decides: the marks of live positions (see `MEASURED`), requests without an answer, and
    signals that nothing was decided about.
    """
    for table in TABLES:
        made, there = getattr(expected, table), getattr(found, table)
        for key in [*made, *(key for key in there if key not in made)]:
            yield from _compare(table, key, made.get(key), there.get(key))
    for (table, key), recorded_at in expected.written.items():
        moment = found.written.get((table, key))
        if moment is not None and not recorded_at - WRITTEN_WITHIN <= moment <= recorded_at + WRITTEN_WITHIN:
            yield Difference(Kind.CHANGED, table, key, "created_at", f"about {recorded_at.isoformat()}", _text(moment))


def _compare(table: str, key: str, made: Any, there: Any) -> Iterator[Difference]:
    if made is None:
        if _needs_event(table, there):
            yield Difference(Kind.UNEXPECTED, table, key, None, None, _summary(there))
        return
    if table == "dispatch_recommendations" and made.status not in _DECIDED:
        return  # given back or claimed: statements go on from there
    if there is None:
        yield Difference(Kind.MISSING, table, key, None, _summary(made), None)
        return
    for name, (mine, theirs) in _unequal(made, there).items():
        yield Difference(Kind.CHANGED, table, key, name, _text(mine), _text(theirs))


def _needs_event(table: str, row: Any) -> bool:
    match row:
        case AnswerRow(ok=ok):
            return ok is not None
        case SignalRow(status=status):
            return status in _DECIDED
        case _:
            return table != "accounts"  # an account may be known before its first manager


def _unequal(made: Any, there: Any) -> dict[str, tuple[Any, Any]]:
    """Fields that differ, by name."""
    mine, theirs = _flat(made), _flat(there)
    live = isinstance(made, PositionRecord) and made.status is not PositionStatus.CLOSED
    wrong = {name: (value, theirs[name]) for name, value in mine.items() if value != theirs[name]}
    if isinstance(made, PositionRecord):
        if made.created_at is None:
            wrong.pop("created_at", None)
        if live:
            wrong = {name: pair for name, pair in wrong.items() if name not in MEASURED or _fell_back(made, name, pair)}
    return wrong


def _fell_back(made: PositionRecord, name: str, pair: tuple[Any, Any]) -> bool:
    """Whether an extreme is less extreme than an event says: a sweep may only go on from there (F55)."""
    mine, theirs = pair
    if name not in ("best_price", "worst_price") or mine is None:
        return False
    if theirs is None:
        return True
    rising = (name == "best_price") == (made.side is PositionSide.LONG)
    return bool(theirs < mine) if rising else bool(theirs > mine)


def _flat(row: Any) -> dict[str, Any]:
    """A row's columns: a fill's are columns of its own row."""
    flat = {each.name: getattr(row, each.name) for each in fields(row)}
    if isinstance(row, FillRow):
        del flat["fill"]
        flat |= _flat(row.fill)
    return flat


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, Decimal):
        return f"{value:f}"
    return str(value)[:500] if isinstance(value, (str, UUID, dict, bool, int)) else repr(value)[:500]


_TELLING = ("symbol", "status", "quantity", "qty", "price", "purpose", "exit_price", "kind", "message", "result")


def _summary(row: Any) -> str:
    flat = _flat(row)
    told = [f"{name} {_text(flat[name])}" for name in _TELLING if flat.get(name) is not None]
    return ", ".join(told)[:300]


# Contradictions -------------------------------------------------------------------------------------------------------


def contradictions(tables: Tables) -> Iterator[Difference]:
    """What cannot be true together in the tables that the events make: rows against fills, history against both."""
    fills: dict[str, list[Fill]] = {}
    for key, row in tables.position_fills.items():
        if str(row.position_id) not in tables.active_positions:
            yield _contradiction("position_fills", key, "position_id", "a position", str(row.position_id))
        fills.setdefault(str(row.position_id), []).append(row.fill)
    for key, position in tables.active_positions.items():
        yield from _position_contradictions(key, position, fills.get(key, []), tables.position_history.get(key))
    for key in tables.position_history:
        owner = tables.active_positions.get(key)
        if owner is None or owner.status is not PositionStatus.CLOSED:
            status = "none" if owner is None else owner.status.value
            yield _contradiction("position_history", key, "position_id", "a closed position", f"position {status}")


def _position_contradictions(
    key: str, position: PositionRecord, fills: list[Fill], history: HistoryRecord | None
) -> Iterator[Difference]:
    try:
        holding = fold(parse_instrument(position.symbol), position.side, fills, position.restatements)
    except (CrossesZero, InvalidInput, ValueError) as error:
        yield _contradiction("position_fills", f"of position {key}", "qty", "fills that fold", str(error))
        return
    derived: dict[str, object] = {
        "quantity": holding.qty,
        "original_quantity": holding.opened_qty,
        "entry_price": holding.entry_price,
        "exit_price": holding.exit_price,
        "realised_pnl": holding.realised_pnl,
    }
    yield from _against(derived, "active_positions", key, position)
    if position.status is not PositionStatus.CLOSED:
        return
    if not holding.is_flat:
        yield _contradiction("active_positions", key, "status", "open or closing: fills leave a quantity", "closed")
    if history is None:
        yield _contradiction("position_history", key, None, "a row for the closed position", "none")
        return
    yield from _against(_history_of(position, holding), "position_history", key, history)


def _history_of(position: PositionRecord, holding: Holding) -> Mapping[str, object]:
    return {
        **{
            name: getattr(position, name)
            for name in (
                *("account_name", "execution_id", "symbol", "ticker", "option_symbol", "instrument_type"),
                *("strategy_type", "side", "multiplier", "entry_time", "closed_at", "close_reason", "best_price"),
                *("worst_price", "features"),
            )
        },
        "quantity": holding.closed_qty,
        "entry_price": holding.entry_price,
        "exit_price": holding.exit_price,
        "realised_pnl": holding.realised_pnl,
        "outcome": Outcome.of(holding.realised_pnl),
    }


def _against(derived: Mapping[str, object], table: str, key: str, row: Any) -> Iterator[Difference]:
    for name, value in derived.items():
        if getattr(row, name) != value:
            yield _contradiction(table, key, name, _text(value), _text(getattr(row, name)))


def _contradiction(table: str, row: str, name: str | None, expected: str, found: str) -> Difference:
    return Difference(Kind.CONTRADICTION, table, row, name, expected, found)
