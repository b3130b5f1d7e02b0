"""Tables derived from what events carry, and what does not match them (I10)."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import fields, replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from tests.support.ledger import NOON, event, execution, fill, history, intent, position

from exitguard.core.orders import OrderSide
from exitguard.core.position import PositionSide
from exitguard.core.records import (
    ClearAlarm,
    CloseReason,
    EventType,
    FinishCommand,
    IntentStatus,
    Operation,
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
from exitguard.core.replay import (
    MEASURED,
    AnswerRow,
    Kind,
    SignalRow,
    Tables,
    contradictions,
    differences,
    numbered,
    replay,
)

ENTRY = execution("large")
ORDER = intent("large", 1)
OPEN = position("large", execution_id=ENTRY.execution_id, best_price=Decimal(102), worst_price=Decimal(99))
SOLD = fill("fill-2", order_id="order-2", side=OrderSide.SELL, price=Decimal("98.20"), at=NOON + timedelta(minutes=30))
CLOSED = replace(
    OPEN,
    status=PositionStatus.CLOSED,
    quantity=Decimal(0),
    exit_price=Decimal("98.20"),
    realised_pnl=Decimal("-20.50"),
    close_reason=CloseReason.STOP_LOSS,
    closed_at=SOLD.at,
)
PAST = history(CLOSED, best_price=OPEN.best_price, worst_price=OPEN.worst_price)

OPENING: list[Operation] = [
    PutExecution(ENTRY),
    event(EventType.MANAGER_STARTED, None, broker_account_number="PA1"),
    PutPosition(OPEN),
    PutFill(1, fill(), "orders"),
    event(),
]
CLOSING: list[Operation] = [
    PutIntent(ORDER),
    RaiseAlarm("stuck:1", "stuck", NOON, "a close does not end", 1),
    PutFill(1, SOLD, "stream"),
    PutFill(1, SOLD, "orders"),
    PutIntent(replace(ORDER, status=IntentStatus.FILLED)),
    PutPosition(CLOSED),
    PutHistory(PAST),
    event(EventType.CLOSED),
    ClearAlarm("stuck:1", NOON + timedelta(minutes=31)),
    FinishCommand(1, True, "closed", NOON),
    SetRecommendation(1, RecommendationStatus.EXECUTED, None, NOON),
    SetAside("position", "unreadable", {"symbol": "?"}, NOON),
]


def whole() -> Tables:
    return replay("large", [*OPENING, *CLOSING])


def test_i10_the_tables_of_one_life_follow_from_its_events() -> None:
    tables = whole()
    assert tables.active_positions == {"1": CLOSED}
    assert tables.position_history == {"1": PAST}
    assert tables.position_fills["fill-2"].source == "stream", "the first report of a fill counts"
    assert tables.order_intents[ORDER.client_order_id].status is IntentStatus.FILLED
    assert tables.alarms["stuck:1 #1"].cleared_at == NOON + timedelta(minutes=31)
    assert tables.commands == {"1": AnswerRow(True, "closed", NOON, None)}
    assert tables.accounts["large"].account_number == "PA1"
    assert list(differences(tables, deepcopy(tables))) == []
    assert list(contradictions(tables)) == []
    assert list(contradictions(replay("large", OPENING))) == []


def test_i10_an_alarm_that_comes_back_is_a_row_of_its_own() -> None:
    raised = RaiseAlarm("broker", "broker_unreachable", NOON, "no answer")
    later = replace(raised, at=NOON + timedelta(minutes=5), message="still none")
    tables = replay("large", [raised, later, ClearAlarm("broker", NOON), ClearAlarm("broker", later.at), raised])
    first, second = tables.alarms[numbered("broker", 1)], tables.alarms[numbered("broker", 2)]
    assert (first.times, first.refreshed_at, first.message, first.cleared_at) == (2, later.at, "still none", NOON)
    assert (second.times, second.cleared_at) == (1, None)


def test_i10_the_first_answer_to_a_request_stands() -> None:
    tables = replay("large", [FinishCommand(7, True, "done", NOON), FinishCommand(7, False, "no", NOON)])
    assert tables.commands["7"].ok is True


def other(value: Any) -> Any:
    """A value of the same kind that differs."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (Decimal, int)):
        return value + 1
    if isinstance(value, dict):
        return {**value, "tampered": True}
    if value is None:
        return "tampered"
    if isinstance(value, str) and type(value) is not str:
        kind: Any = type(value)
        return next(member for member in kind if member is not value)
    return f"{value}!" if isinstance(value, str) else value + timedelta(days=1) if hasattr(value, "day") else "tampered"


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ("active_positions", "1"),
        ("position_fills", "fill-1"),
        ("order_intents", ORDER.client_order_id),
        ("dispatch_executions", str(ENTRY.execution_id)),
        ("position_history", "1"),
        ("alarms", "stuck:1 #1"),
        ("commands", "1"),
        ("dispatch_recommendations", "1"),
        ("set_aside", "position #1"),
        ("accounts", "large"),
    ],
)
def test_i10_each_field_of_each_table_is_compared(table: str, key: str) -> None:
    made = whole()
    row = getattr(made, table)[key]
    for each in fields(row):
        if each.name == "created_at" and table == "active_positions":
            continue  # the database's own, compared with when the event was written
        if each.name == "fill":
            changed, names = replace(row, fill=replace(row.fill, qty=Decimal(3))), ["qty"]
        else:
            changed, names = replace(row, **{each.name: other(getattr(row, each.name))}), [each.name]
        found = deepcopy(made)
        getattr(found, table)[key] = changed
        wrong = list(differences(made, found))
        assert [(d.kind, d.table, d.row, d.field) for d in wrong] == [(Kind.CHANGED, table, key, names[0])], each.name
        assert wrong[0].expected != wrong[0].found


def test_i10_rows_that_are_gone_or_come_from_nowhere_are_named() -> None:
    made, found = whole(), whole()
    del found.position_history["1"]
    found.order_intents["xg-forged"] = replace(ORDER, client_order_id="xg-forged")
    found.commands["2"] = AnswerRow(None, None, None, None)  # asked, and not answered yet
    found.dispatch_recommendations["2"] = SignalRow(RecommendationStatus.CLAIMED, None)
    found.dispatch_recommendations["3"] = SignalRow(RecommendationStatus.EXECUTED, None)
    wrong = {(d.kind, d.table, d.row) for d in differences(made, found)}
    assert wrong == {
        (Kind.MISSING, "position_history", "1"),
        (Kind.UNEXPECTED, "order_intents", "xg-forged"),
        (Kind.UNEXPECTED, "dispatch_recommendations", "3"),
    }


@pytest.mark.parametrize("name", sorted(MEASURED))
def test_i10_marks_of_a_live_position_are_measured_and_of_a_closed_one_final(name: str) -> None:
    value = Decimal(105) if name == "best_price" else Decimal(90) if name == "worst_price" else None
    for operations, allowed in ((OPENING, True), ([*OPENING, *CLOSING], False)):
        made, found = replay("large", operations), replay("large", operations)
        row = found.active_positions["1"]
        changed = value if value is not None else other(getattr(row, name))
        change: dict[str, Any] = {name: changed}
        found.active_positions["1"] = replace(row, **change)
        assert (list(differences(made, found)) == []) is allowed


@pytest.mark.parametrize(
    ("side", "name", "price"),
    [
        (PositionSide.LONG, "best_price", Decimal(101)),
        (PositionSide.LONG, "worst_price", Decimal(100)),
        (PositionSide.SHORT, "best_price", Decimal(103)),
        (PositionSide.SHORT, "worst_price", Decimal(98)),
        (PositionSide.LONG, "best_price", None),
    ],
)
def test_f55_an_extreme_that_fell_back_is_found(side: PositionSide, name: str, price: Decimal | None) -> None:
    made = Tables(active_positions={"1": replace(OPEN, side=side)})
    change: dict[str, Any] = {name: price}
    found = Tables(active_positions={"1": replace(OPEN, side=side, **change)})
    assert [d.field for d in differences(made, found)] == [name]


def test_i10_a_row_that_was_written_at_another_time_than_its_event_is_found() -> None:
    made, found = whole(), whole()
    made.written["position_history", "1"] = NOON
    found.written["position_history", "1"] = NOON - timedelta(seconds=1)
    assert list(differences(made, found)) == []
    found.written["position_history", "1"] = NOON - timedelta(days=1)
    assert [(d.table, d.field) for d in differences(made, found)] == [("position_history", "created_at")]


Change = Callable[[Tables], None]


def without_history(tables: Tables) -> None:
    del tables.position_history["1"]


def wrong_exit(tables: Tables) -> None:
    tables.position_history["1"] = replace(PAST, exit_price=Decimal(99))


def closed_too_early(tables: Tables) -> None:
    del tables.position_fills["fill-2"]


def overfilled(tables: Tables) -> None:
    row = tables.position_fills["fill-2"]
    tables.position_fills["fill-2"] = replace(row, fill=replace(row.fill, qty=Decimal(20)))


def history_of_an_open_one(tables: Tables) -> None:
    tables.active_positions["1"] = OPEN
    del tables.position_fills["fill-2"]


def fill_of_nobody(tables: Tables) -> None:
    row = tables.position_fills["fill-1"]
    tables.position_fills["fill-9"] = replace(row, position_id=9)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (without_history, ("position_history", "1", None)),
        (wrong_exit, ("position_history", "1", "exit_price")),
        (closed_too_early, ("active_positions", "1", "status")),
        (overfilled, ("position_fills", "of position 1", "qty")),
        (history_of_an_open_one, ("position_history", "1", "position_id")),
        (fill_of_nobody, ("position_fills", "fill-9", "position_id")),
    ],
)
def test_i5_events_that_cannot_be_true_together_are_named(
    change: Change, expected: tuple[str, str, str | None]
) -> None:
    tables = whole()
    change(tables)
    found = list(contradictions(tables))
    assert {each.kind for each in found} == {Kind.CONTRADICTION}
    assert expected in {(each.table, each.row, each.field) for each in found}
