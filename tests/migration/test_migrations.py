"""The schema comes from numbered SQL files and from nothing else."""

import asyncio
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest
from tests.support.postgres import Databases

from exitguard.core import instrument, orders, position, records
from exitguard.store.migrate import Migration, MigrationFailed, load_migrations, migrate
from exitguard.store.port import SchemaMismatch, StoreUnavailable
from exitguard.store.repository import PgAccountStore
from exitguard.store.schema import check_schema, expected_schema_version


def rows(url: str, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(statement.encode(), parameters).fetchall()


def execute(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


def test_an_empty_database_gets_every_version_and_a_second_run_changes_nothing(empty_database_url: str) -> None:
    first = migrate(empty_database_url)
    assert first.applied == tuple(range(1, expected_schema_version() + 1))
    assert first.version == expected_schema_version()
    second = migrate(empty_database_url)
    assert (second.applied, second.version) == ((), expected_schema_version())


async def test_concurrent_starts_migrate_once(empty_database_url: str) -> None:
    results = await asyncio.gather(*(asyncio.to_thread(migrate, empty_database_url) for _ in range(4)))
    assert sorted(len(result.applied) for result in results) == [0, 0, 0, expected_schema_version()]
    assert {result.version for result in results} == {expected_schema_version()}


def test_tables_are_made_in_public_whatever_the_login_is_called(empty_database_url: str) -> None:
    execute(empty_database_url, "CREATE SCHEMA exitguard_owner")
    migrate(empty_database_url)
    assert rows(empty_database_url, "SELECT schemaname FROM pg_tables WHERE tablename = 'active_positions'") == [
        ("public",)
    ]


def extended(text: str, postcondition: str = "SELECT true") -> tuple[Migration, ...]:
    released = load_migrations()
    version = len(released) + 1
    return (*released, Migration(version, "extra", text, postcondition, Path(f"{version:04d}_extra.sql")))


@pytest.mark.parametrize(
    ("text", "postcondition", "complaint"),
    [
        ("CREATE TABLE half (a int); SELECT 1 / 0", "SELECT true", "division by zero"),
        ("CREATE TABLE half (a int)", "SELECT false", "postcondition does not hold"),
        ("CREATE TABLE half (a int)", "SELECT missing FROM half", "missing"),
    ],
)
def test_f66_a_failed_migration_is_named_and_leaves_nothing(
    database_url: str, text: str, postcondition: str, complaint: str
) -> None:
    with pytest.raises(MigrationFailed, match=f"_extra.sql.*{complaint}"):
        migrate(database_url, extended(text, postcondition))
    assert rows(database_url, "SELECT to_regclass('half')") == [(None,)]
    assert rows(database_url, "SELECT max(version) FROM exitguard.migrations") == [(expected_schema_version(),)]
    assert migrate(database_url).version == expected_schema_version()


def test_f67_a_file_that_was_changed_after_it_was_applied_is_refused(database_url: str) -> None:
    first, *others = load_migrations()
    changed = (replace(first, text=first.text + "\n-- later thought"), *others)
    with pytest.raises(SchemaMismatch, match=r"0001_roles_and_types\.sql was changed"):
        migrate(database_url, changed)


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["0001_a.sql", "0003_b.sql"], "without gaps"),
        (["0001_a.sql", "0001_b.sql"], "without gaps"),
        (["1_a.sql"], "must be named like"),
        ([], "found none"),
    ],
)
def test_f67_numbers_are_linear(tmp_path: Path, names: list[str], complaint: str) -> None:
    for name in names:
        (tmp_path / name).write_text("SELECT 1;\n--! SELECT true\n")
    with pytest.raises(MigrationFailed, match=complaint):
        load_migrations(tmp_path)


def test_f66_a_migration_without_postcondition_is_refused(tmp_path: Path) -> None:
    (tmp_path / "0001_a.sql").write_text("SELECT 1;\n")
    with pytest.raises(MigrationFailed, match="no postcondition"):
        load_migrations(tmp_path)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("DELETE FROM exitguard.migrations WHERE version = (SELECT max(version) FROM exitguard.migrations)", -1),
        ("INSERT INTO exitguard.migrations (version, name, checksum) SELECT max(version) + 1, 'x', repeat('0', 64) "
         "FROM exitguard.migrations", 1),
    ],
)  # fmt: skip
async def test_f61_another_schema_version_is_refused_naming_both(
    own_database_url: str, change: str, found: int
) -> None:
    await asyncio.to_thread(execute, own_database_url, change)
    expected = expected_schema_version()
    with pytest.raises(SchemaMismatch, match=f"schema version {expected + found}, this build needs {expected}"):
        await PgAccountStore.connect(own_database_url, "large")


async def test_f61_an_empty_database_is_refused(empty_database_url: str) -> None:
    connection = await asyncpg.connect(empty_database_url)
    try:
        with pytest.raises(SchemaMismatch, match=r"schema version 0.*exitguard db migrate"):
            await check_schema(connection)
    finally:
        await connection.close()


def test_a_newer_database_is_not_migrated_backwards(database_url: str) -> None:
    with pytest.raises(SchemaMismatch, match="deploy a build that knows this schema"):
        migrate(database_url, load_migrations()[:-1])


def test_an_unreachable_database_is_said_in_one_line() -> None:
    with pytest.raises(StoreUnavailable, match="cannot be reached") as caught:
        migrate("postgresql://nobody@127.0.0.1:1/none")
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def schema_url(databases: Databases) -> Iterator[str]:
    """A migrated database that the tests below only look at."""
    url = databases.fresh()
    yield url
    databases.drop(url)


# What the code believes and what the schema says ----------------------------------------------------------------------

ENUM_CHECKS = [
    ("active_positions", "status", records.PositionStatus),
    ("active_positions", "protection", records.Protection),
    ("active_positions", "close_reason", records.CloseReason),
    ("active_positions", "side", position.PositionSide),
    ("active_positions", "instrument_type", instrument.InstrumentType),
    ("position_history", "close_reason", records.CloseReason),
    ("position_history", "outcome", records.Outcome),
    ("position_history", "side", position.PositionSide),
    ("position_history", "instrument_type", instrument.InstrumentType),
    ("position_events", "event_type", records.EventType),
    ("position_fills", "side", orders.OrderSide),
    ("order_intents", "status", records.IntentStatus),
    ("order_intents", "purpose", records.IntentPurpose),
    ("order_intents", "side", orders.OrderSide),
    ("dispatch_executions", "status", records.ExecutionStatus),
    ("dispatch_executions", "action", records.Action),
    ("dispatch_executions", "execution_mode", records.ExecutionMode),
    ("dispatch_executions", "side", orders.OrderSide),
    ("dispatch_executions", "instrument_type", instrument.InstrumentType),
    ("dispatch_recommendations", "status", records.RecommendationStatus),
    ("commands", "verb", records.CommandVerb),
]


@pytest.mark.parametrize(("table", "column", "kind"), ENUM_CHECKS, ids=lambda value: getattr(value, "__name__", value))
def test_f63_a_check_lists_exactly_the_values_of_the_enum(
    schema_url: str, table: str, column: str, kind: type[Any]
) -> None:
    found = rows(
        schema_url,
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = %s::regclass AND contype = 'c' "
        "AND conkey = ARRAY[(SELECT attnum FROM pg_attribute WHERE attrelid = conrelid AND attname = %s)]",
        table,
        column,
    )
    assert len(found) == 1, f"{table}.{column} has {len(found)} checks"
    assert set(re.findall(r"'([^']*)'", found[0][0])) == {member.value for member in kind}


RECORD_TABLES = [
    (records.PositionRecord, "active_positions"),
    (records.IntentRecord, "order_intents"),
    (records.HistoryRecord, "position_history"),
    (records.ExecutionRecord, "dispatch_executions"),
    (records.RecommendationRecord, "dispatch_recommendations"),
    (records.CommandRecord, "commands"),
    (records.Heartbeat, "heartbeats"),
    (orders.Fill, "position_fills"),
]


@pytest.mark.parametrize(("record", "table"), RECORD_TABLES, ids=lambda value: getattr(value, "__name__", value))
def test_f62_f64_f65_every_field_of_a_record_is_a_column(schema_url: str, record: type[Any], table: str) -> None:
    columns = {
        name
        for (name,) in rows(
            schema_url, "SELECT column_name FROM information_schema.columns WHERE table_name = %s", table
        )
    }
    assert {field.name for field in fields(record)} - columns == set()


@pytest.mark.parametrize(
    ("function", "record"),
    [
        ("put_position", records.PositionRecord),
        ("put_intent", records.IntentRecord),
        ("put_history", records.HistoryRecord),
        ("put_execution", records.ExecutionRecord),
        ("put_fill", orders.Fill),
        ("beat", records.Heartbeat),
    ],
)
def test_f62_a_writing_function_writes_every_field(schema_url: str, function: str, record: type[Any]) -> None:
    ((source,),) = rows(schema_url, "SELECT prosrc FROM pg_proc WHERE proname = %s", function)
    assert {field.name for field in fields(record)} - set(re.findall(r"\br\.(\w+)", source)) == set()


def test_f71_every_timestamp_has_a_time_zone(schema_url: str) -> None:
    assert (
        rows(
            schema_url,
            "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema IN "
            "('public', 'exitguard') AND data_type IN ('timestamp without time zone', 'time without time zone')",
        )
        == []
    )


def test_f59_no_text_or_number_has_a_length_that_can_overflow(schema_url: str) -> None:
    assert (
        rows(
            schema_url,
            "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public' AND "
            "(data_type IN ('character varying', 'character', 'real', 'double precision') OR numeric_precision = 16) "
            "AND table_name NOT LIKE 'v\\_%%'",
        )
        == []
    )


def test_f29_account_name_is_in_every_key_without_a_default(schema_url: str) -> None:
    tables = {name for (name,) in rows(schema_url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}
    nullable = rows(
        schema_url,
        "SELECT table_name FROM information_schema.columns WHERE table_schema = 'public' AND column_name = "
        "'account_name' AND (is_nullable = 'YES' OR column_default IS NOT NULL) AND table_name NOT LIKE 'v\\_%%'",
    )
    keyed = {
        name
        for (name,) in rows(
            schema_url,
            "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_attribute a "
            "ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey) WHERE i.indisprimary AND a.attname = 'account_name'",
        )
    }
    assert nullable == []
    assert tables - keyed == {"policies"}, "a policy belongs to no account"


def test_i4_every_account_table_has_row_level_security(schema_url: str) -> None:
    open_tables = rows(
        schema_url,
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' "
        "AND NOT relrowsecurity",
    )
    assert open_tables == [("policies",)]


def test_the_schema_needs_no_server_newer_than_15() -> None:
    newer = re.compile(
        r"\b(JSON_TABLE|JSON_EXISTS|JSON_VALUE|JSON_QUERY|ANY_VALUE|MERGE\s+INTO[^;]+RETURNING|"
        r"random_normal|uuidv7|WITHOUT\s+OVERLAPS|IS\s+JSON|RETURNING\s+(OLD|NEW)\b|VIRTUAL)",
        re.IGNORECASE,
    )
    for migration in load_migrations():
        assert newer.search(migration.text) is None, migration.path.name
