"""Statements that operators keep, and every statement of the code, on real PostgreSQL."""

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import asyncpg
import psycopg
import pytest
from tests.support.ledger import NOON, batch, closed, event, execution, heartbeat, history, position
from tests.support.postgres import StoreMaker

from exitguard.core.records import (
    CloseReason,
    EventType,
    ExecutionMode,
    PositionStatus,
    PutExecution,
    PutHistory,
    PutPosition,
)
from exitguard.store.operator import Operator
from exitguard.store.port import StoreRejected
from exitguard.store.queries import all_queries

CALL = "AAPL240315C00100000"

# Word for word from the specification's "What operators keep from the predecessor".
OPERATOR_STATEMENTS = [
    "SELECT * FROM v_position_health_check;",
    "SELECT ticker, instrument_type, strategy_type, entry_price, current_price, current_pnl_dollars, "
    "current_pnl_percent, hold_minutes, hours_to_expiration, bracket_order_accepted "
    "FROM v_open_positions_summary ORDER BY entry_time DESC;",
    """SELECT ticker, instrument_type, outcome, final_pnl_dollars, final_pnl_percent, hold_minutes, close_reason
  FROM v_position_performance WHERE closed_at >= CURRENT_DATE ORDER BY closed_at DESC;""",
    """SELECT execution_id, ticker, instrument_type, execution_mode FROM dispatch_executions
 WHERE execution_mode IN ('ALPACA_PAPER', 'LIVE') ORDER BY simulated_ts DESC LIMIT 5;""",
    "SELECT ap.*, de.execution_mode FROM active_positions ap JOIN dispatch_executions de "
    "ON de.execution_id = ap.execution_id ORDER BY ap.created_at DESC;",
    "SELECT id, ticker, option_symbol, status, created_at FROM active_positions "
    "WHERE created_at > NOW() - INTERVAL '1 hour' ORDER BY created_at DESC;",
    """SELECT event_data->>'account_name' as account, COUNT(*) FROM position_events
 WHERE event_type = 'created' AND created_at > NOW() - INTERVAL '1 hour' GROUP BY account;""",
    "SELECT * FROM position_events ORDER BY created_at DESC LIMIT 20;",
]
HEALTH, SUMMARY, PERFORMANCE, EXECUTIONS, JOINED, RECENT, CREATED, EVENTS = OPERATOR_STATEMENTS


@pytest.fixture
async def operator(database_url: str) -> AsyncIterator[Operator]:
    async with await Operator.connect(database_url) as found:
        yield found


@pytest.mark.parametrize("role", ["exitguard_app", "exitguard_operator", "exitguard_desk", "owner"])
async def test_t14_f68_f136_every_statement_prepares_on_an_empty_migrated_database(
    database_url: str, role: str
) -> None:
    connection = await asyncpg.connect(database_url, server_settings={"search_path": "public"})
    try:
        if role != "owner":
            await connection.execute(f"SET ROLE {role}")
        for name, statement in all_queries().items():
            try:
                await connection.prepare(statement)
            except asyncpg.PostgresError as error:
                pytest.fail(f"sql/{name}.sql does not prepare as {role}: {error}")
    finally:
        await connection.close()


async def test_f39_what_a_function_calls_a_conflict_is_unique_in_its_table(database_url: str) -> None:
    """PostgreSQL looks for the unique index only when such a statement is planned, long after the function was made."""
    inserted = re.compile(r"INSERT INTO (\S+) [^;]*?ON CONFLICT (\([^)]*\)(?: WHERE [^;]*?(?= DO ))?)")
    connection = await asyncpg.connect(database_url, server_settings={"search_path": "public"})
    try:
        functions = await connection.fetch(
            "SELECT proname, regexp_replace(prosrc, '\\s+', ' ', 'g') AS source FROM pg_proc"
            " WHERE pronamespace = 'exitguard'::regnamespace"
        )
        found = [(row["proname"], *each) for row in functions for each in inserted.findall(row["source"])]
        assert len(found) >= 8
        assert len(found) == sum(row["source"].count("ON CONFLICT (") for row in functions)
        for name, table, columns in found:
            try:
                await connection.execute(f"EXPLAIN INSERT INTO {table} DEFAULT VALUES ON CONFLICT {columns} DO NOTHING")
            except asyncpg.PostgresError as error:
                pytest.fail(f"{name}, ON CONFLICT {columns} in {table}: {error}")
    finally:
        await connection.close()


def test_t14_no_statement_hides_in_the_python_code() -> None:
    folder = Path(__file__).parents[3] / "src" / "exitguard"
    statement = re.compile(r"""["'](SELECT\s.+\sFROM|INSERT INTO|UPDATE\s+\w+\s+SET|DELETE FROM)\s""")
    # The runner of the migrations works below the schema that the files need; the embedded server asks about itself.
    allowed = {"migrate.py", "schema.py", "embedded.py", "embedded_process.py"}
    found = [
        f"{path.relative_to(folder)}: {match.group(0)}"
        for package in ("store", "manager", "dispatch", "broker", "core", "cli", "ops")
        for path in (folder / package).rglob("*.py")
        # The beds of crashes and measurements look at the ledger from outside, as witnesses that share nothing with it.
        if path.name not in allowed and path.parent.name not in {"crashes", "bench"}
        for match in statement.finditer(path.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize("statement", OPERATOR_STATEMENTS, ids=range(len(OPERATOR_STATEMENTS)))
async def test_operator_statements_run_on_an_empty_ledger(operator: Operator, statement: str) -> None:
    found = await operator.query(statement)
    assert found.columns
    assert len(found.rows) == (1 if statement is HEALTH else 0)


async def test_operator_statements_tell_the_truth_about_all_accounts(
    operator: Operator, make_store: StoreMaker
) -> None:
    now = datetime.now(UTC)
    today = now + timedelta(hours=1)  # and not yesterday, should midnight pass meanwhile
    entries = {}
    for account, symbol, mode in (("large", "AAPL", ExecutionMode.ALPACA_PAPER), ("tiny", CALL, ExecutionMode.LIVE)):
        store, lease = await make_store.leased(account)
        entry = execution(account, symbol, execution_mode=mode, simulated_ts=now)
        held = position(account, 1, symbol, execution_id=entry.execution_id, entry_time=now - timedelta(minutes=10),
                        strategy_type="day_trade", current_pnl_dollars=Decimal("1.005"))  # fmt: skip
        gone = position(account, 2, "MSFT", entry_time=now - timedelta(minutes=40))
        await store.commit(
            batch(
                account,
                lease.epoch,
                PutExecution(entry),
                PutPosition(held),
                event(EventType.CREATED, 1),
                PutPosition(replace(closed(gone), closed_at=today)),
                PutHistory(history(gone, Decimal("-20.5"), closed_at=today)),
                event(EventType.CLOSED, 2),
            )
        )
        await store.beat(heartbeat(account, venue_time=now), lease.epoch)
        entries[account] = entry
    health = (await operator.query(HEALTH)).dictionaries()
    assert health == [
        {
            "open_positions": 2,
            "closing_positions": 0,
            "stale_positions": 0,
            "missing_brackets": 1,
            "open_day_trades": 2,
            "expiring_soon": 1,
        }
    ]
    summary = (await operator.query(SUMMARY)).dictionaries()
    assert {(row["ticker"], row["instrument_type"], float(row["hold_minutes"])) for row in summary} == {
        ("AAPL", "STOCK", 10.0),
        ("AAPL", "CALL", 10.0),
    }
    assert {row["hours_to_expiration"] is None for row in summary if row["instrument_type"] == "STOCK"} == {True}
    performance = (await operator.query(PERFORMANCE)).dictionaries()
    assert [(row["ticker"], row["outcome"], row["final_pnl_dollars"]) for row in performance] == [
        ("MSFT", "loss", Decimal("-20.50"))
    ] * 2
    assert {row["execution_id"] for row in (await operator.query(EXECUTIONS)).dictionaries()} == {
        entry.execution_id for entry in entries.values()
    }
    joined = (await operator.query(JOINED)).dictionaries()
    assert {(row["account_name"], row["execution_mode"]) for row in joined} == {
        ("large", "ALPACA_PAPER"),
        ("tiny", "LIVE"),
    }
    assert len((await operator.query(RECENT)).rows) == 4
    assert sorted((await operator.query(CREATED)).rows) == [("large", 1), ("tiny", 1)]
    events = (await operator.query(EVENTS)).dictionaries()
    assert [(row["account_name"], row["event_type"]) for row in events] == [
        ("tiny", "closed"),
        ("tiny", "created"),
        ("large", "closed"),
        ("large", "created"),
    ]


async def test_f132_the_health_view_counts_positions_of_every_age_and_nothing_unknown_as_healthy(
    operator: Operator, make_store: StoreMaker, database_url: str
) -> None:
    store, lease = await make_store.leased("large")
    now = datetime.now(UTC)
    soon = f"AAPL{now + timedelta(hours=1):%y%m%d}C00100000"
    await store.commit(
        batch(
            "large",
            lease.epoch,
            PutPosition(position("large", 1, "AAPL", last_checked_at=now, bracket_order_accepted=True)),
            PutPosition(position("large", 2, "MSFT")),  # never checked, no bracket
            PutPosition(position("large", 3, soon, last_checked_at=now)),
            PutPosition(
                position(
                    "large",
                    4,
                    "IBM",
                    status=PositionStatus.CLOSING,
                    close_reason=CloseReason.STOP_LOSS,
                    last_checked_at=now,
                    strategy_type="day_trade",
                )
            ),
        )
    )
    with psycopg.connect(database_url, autocommit=True) as owner:
        # Years go by for a position that nobody looked at.
        owner.execute("UPDATE active_positions SET created_at = now() - interval '3 years' WHERE id = 2")
    assert await operator.health() == {
        "open_positions": 3,
        "closing_positions": 1,
        "stale_positions": 1,
        "missing_brackets": 1,
        "open_day_trades": 1,
        "expiring_soon": 1,
    }


async def test_a_position_is_stale_by_the_venues_clock_or_by_ours(
    operator: Operator, make_store: StoreMaker, database_url: str
) -> None:
    store, lease = await make_store.leased("large")
    checked = position("large", 1, last_checked_at=NOON)
    await store.commit(batch("large", lease.epoch, PutPosition(checked)))
    await store.beat(heartbeat("large", venue_time=NOON + timedelta(minutes=4)), lease.epoch)
    assert (await operator.health())["stale_positions"] == 0, "a replayed day is not stale because it is long ago"
    await store.beat(heartbeat("large", venue_time=NOON + timedelta(minutes=5)), lease.epoch)
    assert (await operator.health())["stale_positions"] == 1, "the venue's time went on without a check"
    await store.commit(
        batch("large", lease.epoch, PutPosition(replace(checked, last_checked_at=NOON + timedelta(minutes=5))))
    )
    assert (await operator.health())["stale_positions"] == 0
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("UPDATE active_positions SET check_recorded_at = now() - interval '5 minutes'")
    assert (await operator.health())["stale_positions"] == 1, "a venue that stands still hides no dead manager"


async def test_the_views_tell_time_as_the_venue_has_it(operator: Operator, make_store: StoreMaker) -> None:
    store, lease = await make_store.leased("large")
    await store.commit(
        batch("large", lease.epoch, PutPosition(position("large", 1, CALL, entry_time=NOON - timedelta(minutes=30))))
    )
    await store.beat(heartbeat("large", venue_time=NOON), lease.epoch)
    (row,) = await operator.positions()
    assert row["hold_minutes"] == 30
    # From noon on Friday 8 March (17:00 UTC) to 16:00 New York on Friday 15 March, after the clocks changed.
    assert row["hours_to_expiration"] == 7 * 24 + 3
    assert (await operator.health())["expiring_soon"] == 0


@pytest.mark.parametrize(
    ("realised", "outcome"), [(Decimal("0.01"), "win"), (Decimal("-0.01"), "loss"), (Decimal(0), "flat")]
)
@pytest.mark.parametrize("reason", [CloseReason.TAKE_PROFIT, CloseReason.STOP_LOSS, CloseReason.RECONCILED])
async def test_t20_the_outcome_follows_the_sign_of_the_realised_result(
    operator: Operator, make_store: StoreMaker, realised: Decimal, outcome: str, reason: CloseReason
) -> None:
    store, lease = await make_store.leased("large")
    row = closed(position("large"), reason)
    await store.commit(batch("large", lease.epoch, PutPosition(row), PutHistory(history(row, realised))))
    found = await operator.query("SELECT outcome, close_reason FROM v_position_performance")
    assert found.rows == ((outcome, reason.value),)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM active_positions RETURNING id",
        "INSERT INTO commands (account_name, verb, requested_by) VALUES ('large', 'close', 'x') RETURNING id",
        "SELECT 1; SELECT 2",
        "SELECT 1; DROP TABLE active_positions",
        "DROP TABLE active_positions",
        "SELECT exitguard.apply_batch('large', 1, gen_random_uuid(), now(), '[]')",
        "SELECT * FROM no_such_table",
        "SELECT pg_read_file('/etc/passwd')",
        "  ; ",
        "",
        "SELECT",
    ],
)
async def test_an_operators_statement_reads_and_is_one(operator: Operator, statement: str) -> None:
    with pytest.raises(StoreRejected):
        await operator.query(statement)
    assert (await operator.query("SELECT 1 AS one")).dictionaries() == [{"one": 1}]


async def test_today_is_the_trading_day(operator: Operator) -> None:
    assert (await operator.query("SHOW timezone")).rows == (("America/New_York",),)
