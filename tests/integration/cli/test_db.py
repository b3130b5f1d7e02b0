"""`exitguard db`: what operators' scripts rely on."""

import json
import subprocess
import sys
from urllib.parse import urlsplit

import psycopg
import pytest
from tests.integration.cli.conftest import Program
from tests.support.waiting import PATIENCE


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
        ("SET timezone = 'UTC'", "read-only"),
        ("SELECT $1::int", "write the values"),
        ("SELECT pg_read_file('/etc/passwd')", "permission denied"),
        ("SELECT 1 / (n - 700) FROM generate_series(1, 1000) n", "division by zero"),
        (" ; ", "no statement"),
    ],
)
def test_one_statement_that_only_reads(desk: Program, sql: str, expected: str) -> None:
    line = desk.fails(1, "db", "query", sql)
    assert expected in line


def test_an_answer_of_any_length_is_whole_or_an_error(desk: Program) -> None:
    rows = desk.json("db", "query", "SELECT n, 'x' AS x FROM generate_series(1, 100001) n")
    assert [row["n"] for row in rows] == list(range(1, 100_002))
    assert "more than 100000 rows" in desk.fails(1, "db", "query", "SELECT generate_series(1, 100001)")


def test_an_answer_that_breaks_off_is_no_json(desk: Program) -> None:
    sql = "SELECT 1 / (n - 1700) AS n FROM generate_series(1, 2000) n"
    done = desk.run("db", "query", sql, "--json")
    assert done.returncode == 1
    assert done.stderr == "exitguard: PostgreSQL says: division by zero\n"
    with pytest.raises(json.JSONDecodeError):
        json.loads(done.stdout)


def test_values_are_what_they_are(desk: Program) -> None:
    (row,) = desk.json(
        *("db", "query"),
        "SELECT 'infinity'::timestamptz AS never, '-infinity'::date AS always, '2024-03-08'::date AS day,"
        " '2024-03-08 17:00+00'::timestamptz AS at, int4range(1, 5) AS range, '{\"a\": [1]}'::json AS object,"
        " array['a', null] AS list, ROW(1, 2.50) AS pair, 'x'::\"char\" AS letter, pg_lsn '0/10' AS place,"
        " 'NaN'::numeric AS nothing",
    )
    assert row == {
        "never": "infinity",
        "always": "-infinity",
        "at": "2024-03-08T17:00:00+00:00",
        "day": "2024-03-08",
        "range": "[1, 5)",
        "object": {"a": [1]},
        "list": ["a", None],
        "pair": [1, "2.50"],
        "letter": "x",
        "place": "0/10",
        "nothing": "NaN",
    }
    assert "cast it to text" in desk.fails(1, "db", "query", "SELECT '0044-01-01 BC'::date")


def test_a_login_that_is_no_operator_is_told_the_grant(desk: Program) -> None:
    owner = desk.environment["DATABASE_URL"]
    parts = urlsplit(owner)
    server = f"{parts.hostname}:{parts.port}{parts.path}"
    # The name is unique, because roles are shared by all databases of the server.
    login = f"stranger_{parts.path.removeprefix('/')}"
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {login} LOGIN PASSWORD 'sesame'".encode())
        try:
            line = desk.fails(69, "positions", DATABASE_URL=f"postgresql://{login}:sesame@{server}")
            assert f"GRANT exitguard_operator TO {login}" in line
            line = desk.fails(69, "positions", DATABASE_URL=f"postgresql://{login}:wrong@{server}")
            assert f"the database at {server} refuses the connection" in line
        finally:
            connection.execute(f"DROP ROLE {login}".encode())


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
    health = desk.json("health", expect=1)
    assert health["problems"] == ["no account is known, so nothing is watched"]
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
        timeout=PATIENCE,
    )
    assert done.stderr == ""
