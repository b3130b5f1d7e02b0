"""`exitguard db`: what operators' scripts rely on."""

import json
import subprocess
import sys

import psycopg
import pytest
from tests.integration.cli.conftest import Program


@pytest.fixture
def desk(program: Program, database_url: str) -> Program:
    program.environment["DATABASE_URL"] = database_url
    return program


def test_a_query_is_a_list_of_objects_on_one_line(desk: Program) -> None:
    rows = desk.json("db", "query", "SELECT 1 AS one, 2.50::numeric AS two, NULL AS none, 'a'||chr(10)||'b' AS text")
    assert rows == [{"one": 1, "two": "2.50", "none": None, "text": "a\nb"}]
    assert desk.json("db", "query", "SELECT 1 AS n WHERE false") == []
    table = desk.run("db", "query", "SELECT 'x' AS letter")
    assert "letter" in table.stdout
    assert table.stderr == "1 row\n"


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT * FROM nowhere", 'relation "nowhere" does not exist'),
        ("SELEKT 1", "syntax error"),
        ("SELECT 1; SELECT 2", "multiple commands"),
        ("DELETE FROM position_events", "read-only"),
        ("CREATE TABLE t (x int)", "read-only"),
        ("SET ROLE exitguard_writer; DELETE FROM alarms", "multiple commands"),
        ("WITH off AS (SELECT set_config('transaction_read_only', 'off', false)) SELECT * FROM off", "read-write mode"),
        (" ; ", "no statement"),
    ],
)
def test_one_statement_that_only_reads(desk: Program, sql: str, expected: str) -> None:
    line = desk.fails(1, "db", "query", sql)
    assert expected in line


def test_the_operator_sees_every_account(desk: Program) -> None:
    with psycopg.connect(desk.environment["DATABASE_URL"], autocommit=True) as connection:
        connection.execute("INSERT INTO accounts (account_name) VALUES ('large'), ('tiny')")
    rows = desk.json("db", "query", "SELECT account_name FROM accounts ORDER BY 1")
    assert rows == [{"account_name": "large"}, {"account_name": "tiny"}]


def test_the_day_is_the_trading_day(desk: Program) -> None:
    (row,) = desk.json("db", "query", "SELECT current_setting('timezone') AS zone")
    assert row == {"zone": "America/New_York"}


def test_every_look_works_on_an_empty_ledger(desk: Program) -> None:
    assert desk.json("positions") == []
    assert desk.json("positions", "--closed") == []
    assert desk.json("events") == []
    health = desk.json("health")
    assert health["healthy"] is True
    assert health["positions"]["open_positions"] == 0
    assert desk.json("close", "--all") == {"requests": [], "accounts_without_manager": []}


def test_url_names_the_database_and_psql_speaks_to_it(desk: Program) -> None:
    url = desk.run("db", "url").stdout.strip()
    assert url == desk.environment["DATABASE_URL"]
    assert desk.json("db", "status")["running"] is True
    assert "stop our server" in desk.fails(78, "db", "stop")


def test_the_embedded_server_comes_and_goes(program: Program) -> None:
    assert program.json("db", "status", expect=1)["running"] is False
    # A single question starts it, makes the ledger, and stops it again.
    assert program.json("positions") == []
    assert program.json("db", "status", expect=1)["running"] is False
    try:
        done = program.run("db", "url")
        assert done.returncode == 0, done.stderr
        assert "exitguard db stop" in done.stderr
        with psycopg.connect(done.stdout.strip()) as connection:
            assert connection.execute("SELECT count(*) FROM active_positions").fetchone() == (0,)
        status = program.json("db", "status")
        assert status["schema_version"] == status["needed_schema_version"]
        asked = program.run("db", "psql", "-At", "-c", "SELECT current_user, 1 + 1")
        assert asked.stdout == "exitguard_operator|2\n", asked.stderr
        refused = program.run("db", "psql", "-c", "DELETE FROM active_positions")
        assert refused.returncode == 1
        assert program.json("db", "start")["running"] is True
    finally:
        stopped = program.run("db", "stop", "--json")
    assert json.loads(stopped.stdout) == {"running": False, "stopped": True}
    assert program.json("db", "stop") == {"running": False, "stopped": False}
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(done.stdout.strip(), connect_timeout=2).close()


def test_a_reader_that_goes_away_is_no_error(desk: Program) -> None:
    command = '"$0" -m exitguard.cli.main db query "SELECT generate_series(1, 200000)" --json | head -c 10'
    done = subprocess.run(
        ["/bin/sh", "-c", command, sys.executable],
        capture_output=True,
        text=True,
        cwd=desk.folder,
        env=desk.environment,
        timeout=60,
    )
    assert done.stderr == ""
