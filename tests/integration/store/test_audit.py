"""Tampering by somebody with the rights of the owner is found and named (I6, I10), on real PostgreSQL."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import psycopg
import pytest
from tests.support.ledger import NOON, batch, event, execution, fill, history, intent, position
from tests.support.postgres import StoreMaker

from exitguard.core.orders import OrderSide
from exitguard.core.records import (
    ClearAlarm,
    CloseReason,
    CommandVerb,
    EventType,
    FinishCommand,
    IntentStatus,
    Mark,
    PositionStatus,
    Protection,
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
from exitguard.store.audit import AccountAudit, audit_account, audit_accounts
from exitguard.store.operator import Operator

ENTRY = execution("large")
OPEN = position("large", execution_id=ENTRY.execution_id, best_price=Decimal(102), worst_price=Decimal(99))
HELD = position("large", 2, "SPY261218C00600000", stop_loss=None, take_profit=None, best_price=Decimal("100.25"))
SOLD = fill("fill-3", order_id="order-3", side=OrderSide.SELL, price=Decimal("98.20"), at=NOON + timedelta(minutes=30))
CLOSED = replace(
    OPEN,
    status=PositionStatus.CLOSED,
    quantity=Decimal(0),
    exit_price=Decimal("98.20"),
    realised_pnl=Decimal("-20.50"),
    close_reason=CloseReason.STOP_LOSS,
    closed_at=SOLD.at,
    features={"score": 0.25, "nested": {"a": [1, 2.50]}},
)
PAST = history(CLOSED, best_price=OPEN.best_price, worst_price=OPEN.worst_price, features=CLOSED.features)


@pytest.fixture
async def operator(database_url: str, make_store: StoreMaker) -> AsyncIterator[Operator]:
    """A ledger with a closed and an open position, and rows in every table that events make."""
    store, lease = await make_store.leased("large")
    await store.bind_account_number("PA1", "large", "paper")
    async with await Operator.connect(database_url) as found:
        (signal,) = await found.insert_recommendations([{"account_name": "large", "ticker": "AAPL", "action": "HOLD"}])
        request = await found.insert_command("large", CommandVerb.CLOSE, requested_by="tester", position_id=1)
        order = intent("large", 1)
        told = PutExecution(ENTRY), event(EventType.MANAGER_STARTED, None, broker_account_number="PA1")
        await store.commit(batch("large", lease.epoch, *told))
        opened = PutPosition(OPEN), PutFill(1, fill(), "orders"), event(), PutPosition(HELD)
        second = PutFill(2, fill("fill-2", order_id="order-2", symbol=HELD.symbol), "orders")
        await store.commit(batch("large", lease.epoch, *opened, second, event(position_id=2)))
        await store.write_marks([_mark(1, "101"), _mark(2, "103")], lease.epoch)
        await store.commit(batch("large", lease.epoch, PutIntent(order)))
        await store.commit(
            batch(
                "large",
                lease.epoch,
                RaiseAlarm("stuck:1", "stuck", NOON, "a close does not end" * 500, 1),
                event(EventType.ALARM_RAISED),
                PutFill(1, SOLD, "stream"),
                PutIntent(replace(order, status=IntentStatus.FILLED)),
                PutPosition(CLOSED),
                PutHistory(PAST),
                event(EventType.CLOSED, price=1.50),
                ClearAlarm("stuck:1", NOON + timedelta(minutes=31)),
                FinishCommand(request, True, "closed", NOON, {"closed": ["AAPL"]}),
                SetRecommendation(signal, RecommendationStatus.SKIPPED, "hold", NOON),
                SetAside("position", "unreadable", {"symbol": "?", "qty": 1.0}, NOON),
            )
        )
        yield found


def _mark(number: int, price: str) -> Mark:
    value, at = Decimal(price), NOON + timedelta(minutes=1)
    best = max(value, Decimal(102))
    return Mark(number, value, Decimal(1), Decimal(1), best, Decimal(99), at, at, Protection.NAKED, at)


async def tamper(url: str, statement: str) -> None:
    def run() -> None:
        with psycopg.connect(url) as owner:
            owner.execute("SET session_replication_role = replica")  # no trigger, no foreign key
            assert owner.execute(statement.encode()).rowcount != 0, "the statement changed nothing"

    await asyncio.to_thread(run)


async def found_in(operator: Operator) -> tuple[AccountAudit, set[tuple[str, str, str, str | None]]]:
    audit = await audit_account(operator, "large")
    return audit, {(each.kind, each.table, each.row, each.field) for each in audit.findings}


async def test_i10_an_untouched_ledger_verifies_and_its_marks_are_free(operator: Operator) -> None:
    audit, _ = await found_in(operator)
    assert (audit.findings, audit.verified, audit.uncovered) == ([], True, 0)
    assert audit.events == 6
    assert {name for name, count in audit.rows.items() if count} == set(audit.rows), "every table is part of it"
    assert await audit_accounts(operator) == ["large"]
    assert json.dumps(audit.body())


async def test_i10_a_batch_without_events_leaves_one_all_the_same(operator: Operator) -> None:
    events = await operator.query("SELECT seq, event_type, changes FROM position_events ORDER BY seq")
    kinds = [(seq, kind, [each["op"] for each in changes]) for seq, kind, changes in events.rows]
    assert kinds == [
        (1, "manager_started", ["put_execution"]),
        (2, "created", ["put_position", "put_fill"]),
        (3, "created", ["put_position", "put_fill"]),
        (4, "recorded", ["put_intent"]),
        (5, "alarm_raised", ["raise_alarm"]),
        (6, "closed", ["put_fill", "put_intent", "put_position", "put_history", "clear_alarm", "finish_command",
                       "set_recommendation", "set_aside"]),
    ]  # fmt: skip


EVENTS = [
    ("UPDATE position_events SET event_data = event_data || '{\"n\": 9}' WHERE seq = 2", "seq 2", "hash"),
    ("UPDATE position_events SET changes = '[]' WHERE seq = 4", "seq 4", "hash"),
    ("UPDATE position_events SET changes = NULL WHERE seq = 6", "seq 6", "changes"),
    ("UPDATE position_events SET changes = '[{\"op\": \"?\"}]' WHERE seq = 6", "seq 6", "changes"),
    ("UPDATE position_events SET at = at + interval '1 microsecond' WHERE seq = 3", "seq 3", "hash"),
    ("UPDATE position_events SET created_at = created_at - interval '1 day' WHERE seq = 3", "seq 3", "hash"),
    ("UPDATE position_events SET event_type = 'fill' WHERE seq = 2", "seq 2", "hash"),
    ("UPDATE position_events SET position_id = 2 WHERE seq = 2", "seq 2", "hash"),
    ("UPDATE position_events SET previous_hash = repeat('0', 64) WHERE seq = 5", "seq 5", "previous_hash"),
    ("UPDATE position_events SET hash = repeat('0', 64) WHERE seq = 5", "seq 5", "hash"),
    ("DELETE FROM position_events WHERE seq = 3", "seq 4", "seq"),
    ("DELETE FROM position_events WHERE seq = 6", "head", "seq"),
    ("DELETE FROM event_heads", "head", "seq"),
    ("UPDATE event_heads SET hash = repeat('0', 64)", "head", "hash"),
    ("INSERT INTO position_events (account_name, seq, event_type, at, event_data, changes, previous_hash, hash) "
     "SELECT account_name, 7, event_type, at, event_data, changes, hash, hash FROM position_events WHERE seq = 6",
     "head", "seq"),
]  # fmt: skip


@pytest.mark.parametrize(("statement", "row", "field"), EVENTS)
async def test_i6_tampering_with_an_event_is_found_and_named(
    operator: Operator, database_url: str, statement: str, row: str, field: str
) -> None:
    await tamper(database_url, statement)
    audit, found = await found_in(operator)
    table = "event_heads" if row == "head" else "position_events"
    assert ("chain", table, row, field) in found, audit.findings
    assert all(each.advice and each.text for each in audit.findings)


ROWS = [
    ("UPDATE active_positions SET quantity = 5 WHERE id = 2", "changed", "active_positions", "2", "quantity"),
    ("UPDATE active_positions SET stop_loss = 1 WHERE id = 1", "changed", "active_positions", "1", "stop_loss"),
    ("UPDATE active_positions SET current_price = 1 WHERE id = 1", "changed", "active_positions", "1", "current_price"),
    ("UPDATE active_positions SET best_price = 100 WHERE id = 2", "changed", "active_positions", "2", "best_price"),
    ("UPDATE active_positions SET status = 'closing' WHERE id = 2", "changed", "active_positions", "2", "status"),
    ("UPDATE active_positions SET features = '{}' WHERE id = 1", "changed", "active_positions", "1", "features"),
    ("UPDATE active_positions SET created_at = created_at - interval '1 h' WHERE id = 1",
     "changed", "active_positions", "1", "created_at"),
    ("DELETE FROM active_positions WHERE id = 2", "missing", "active_positions", "2", None),
    ("INSERT INTO active_positions SELECT (r).* FROM (SELECT jsonb_populate_record(p, '{\"id\": 9, \"uid\": \"u\", "
     "\"execution_id\": null, \"symbol\": \"F\", \"ticker\": \"F\"}') AS r FROM active_positions p WHERE id = 1) t",
     "unexpected", "active_positions", "9", None),
    ("UPDATE position_history SET realised_pnl = 20.5, outcome = 'win'",
     "changed", "position_history", "1", "realised_pnl"),
    ("UPDATE position_history SET policy_hash = 'better'", "changed", "position_history", "1", "policy_hash"),
    ("DELETE FROM position_history", "missing", "position_history", "1", None),
    ("UPDATE position_fills SET price = 101 WHERE execution_id = 'fill-3'",
     "changed", "position_fills", "fill-3", "price"),
    ("DELETE FROM position_fills WHERE execution_id = 'fill-1'", "missing", "position_fills", "fill-1", None),
    ("INSERT INTO position_fills SELECT (r).* FROM (SELECT jsonb_populate_record(f, '{\"execution_id\": \"forged\"}') "
     "AS r FROM position_fills f LIMIT 1) t", "unexpected", "position_fills", "forged", None),
    ("UPDATE order_intents SET qty = 20", "changed", "order_intents", "", "qty"),
    ("UPDATE order_intents SET request = '{}'", "changed", "order_intents", "", "request"),
    ("DELETE FROM order_intents", "missing", "order_intents", "", None),
    ("UPDATE dispatch_executions SET avg_fill_price = 1", "changed", "dispatch_executions", "", "avg_fill_price"),
    ("DELETE FROM dispatch_executions", "missing", "dispatch_executions", "", None),
    ("UPDATE alarms SET cleared_at = NULL", "changed", "alarms", "stuck:1 #1", "cleared_at"),
    ("DELETE FROM alarms", "missing", "alarms", "stuck:1 #1", None),
    ("UPDATE commands SET result = 'refused'", "changed", "commands", "", "result"),
    ("INSERT INTO commands (account_name, verb, requested_by, ok, finished_at) VALUES "
     "('large', 'kill_switch', 'nobody', true, now())", "unexpected", "commands", "", None),
    ("UPDATE dispatch_recommendations SET status = 'executed'",
     "changed", "dispatch_recommendations", "", "status"),
    ("UPDATE set_aside SET reason = 'fine'", "changed", "set_aside", "position #1", "reason"),
    ("UPDATE accounts SET account_number = 'PA2'", "changed", "accounts", "large", "account_number"),
]  # fmt: skip


@pytest.mark.parametrize(("statement", "kind", "table", "row", "field"), ROWS)
async def test_i10_tampering_with_a_row_is_found_and_named(
    operator: Operator, database_url: str, statement: str, kind: str, table: str, row: str, field: str | None
) -> None:
    await tamper(database_url, statement)
    audit, found = await found_in(operator)
    matching = [each for each in found if (each[0], each[1], each[3]) == (kind, table, field)]
    assert matching, audit.findings
    assert not row or matching[0][2] == row
    assert {each[1] for each in found} == {table}, "no other table is accused"
    named = next(each for each in audit.findings if each.field == field)
    assert named.expected != named.found


async def test_i10_a_row_that_was_forged_together_with_its_event_still_breaks_the_chain(
    operator: Operator, database_url: str
) -> None:
    await tamper(database_url, "UPDATE position_fills SET price = 101 WHERE execution_id = 'fill-3'")
    await tamper(
        database_url,
        "UPDATE position_events SET changes = replace(changes::text, '98.20', '101')::jsonb WHERE seq = 6",
    )
    audit, found = await found_in(operator)
    assert ("chain", "position_events", "seq 6", "hash") in found
    assert not audit.verified


async def test_i10_rows_from_before_events_carried_changes_are_counted_and_not_accused(
    operator: Operator, database_url: str, make_store: StoreMaker
) -> None:
    """An upgraded ledger: its first events have no changes, and their hash is the one of the older schema."""
    await tamper(database_url, _AS_OLDER_SCHEMA)
    audit, found = await found_in(operator)
    assert found == set()
    assert audit.uncovered == 4
    store = await make_store("large")
    lease = await store.acquire_lease("later", timedelta(seconds=30), "later")
    await store.commit(batch("large", lease.epoch, PutPosition(replace(HELD, stop_loss=Decimal(3))), event()))
    audit, found = await found_in(operator)
    assert (found, audit.uncovered) == (set(), 3)
    await tamper(database_url, "UPDATE active_positions SET stop_loss = 9 WHERE id = 2")
    _, found = await found_in(operator)
    assert found == {("changed", "active_positions", "2", "stop_loss")}


# What the schema before 0008 would have left: no changes up to event 4, and everything hashed anew.
_AS_OLDER_SCHEMA = """
DO $$
DECLARE
    v_event position_events%ROWTYPE;
    v_previous text := repeat('0', 64);
BEGIN
    FOR v_event IN SELECT * FROM position_events ORDER BY seq LOOP
        IF v_event.seq <= 4 THEN
            v_event.changes := NULL;
        END IF;
        v_event.hash := exitguard.event_hash(v_previous, v_event.account_name, v_event.seq, v_event.event_type,
            v_event.position_id, v_event.at, v_event.event_data, v_event.changes, v_event.created_at);
        UPDATE position_events SET changes = v_event.changes, previous_hash = v_previous, hash = v_event.hash
            WHERE account_name = v_event.account_name AND seq = v_event.seq;
        v_previous := v_event.hash;
    END LOOP;
    UPDATE event_heads SET hash = v_previous;
END
$$
"""


async def test_i10_a_ledger_is_verified_as_of_one_moment_while_it_is_written(
    operator: Operator, make_store: StoreMaker
) -> None:
    store = await make_store("large")
    lease = await store.acquire_lease("dispatcher", timedelta(seconds=30), "dispatcher")
    stop = asyncio.Event()

    async def write() -> int:
        number = 0
        while not stop.is_set():
            number += 1
            order = intent("large", None, client_order_id=f"entry-{number}")
            await store.commit(batch("large", lease.epoch, PutIntent(order)))
        return number

    writing = asyncio.create_task(write())
    audits = [await audit_account(operator, "large") for _ in range(5)]
    stop.set()
    assert await writing > 0
    assert all(audit.verified for audit in audits), audits[-1].findings
    assert audits[-1].events > audits[0].events
