"""Bad input of every kind: one clear line, the right exit code, nothing lost (issue: bad input; F73, F74, T13)."""

import socket
from pathlib import Path

import pytest
from tests.integration.cli.conftest import Program

CONFIG = Path(__file__).parents[2] / "unit" / "config"


def test_t13_no_configuration(program: Program) -> None:
    line = program.fails(78, "run")
    assert "no configuration file" in line
    assert "exitguard init" in line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("confidence: 0.55\n", "found no TOML"),
        ("[log]\nlevel = 'loud'\n", "log.level"),
        ("[accounts.large]\n", "accounts.large.tier"),
        ("[databse]\n", "did you mean 'database'?"),
        ("[policies.default]\nmax_hold_minuts = 5\n", "did you mean 'max_hold_minutes'?"),
    ],
)
def test_f73_a_broken_configuration_is_fatal(program: Program, text: str, expected: str) -> None:
    (program.folder / "exitguard.toml").write_text(text)
    assert expected in program.fails(78, "run")
    assert expected in program.fails(78, "positions")


def test_t13_each_problem_is_a_structured_line_of_the_log(program: Program) -> None:
    (program.folder / "exitguard.toml").write_text("[logg]\n[databse]\n")
    done = program.run("run")
    assert done.returncode == 78
    assert sum('"event":"Configuration error"' in line for line in done.stderr.splitlines()) == 2


def test_t13_a_secret_that_is_missing_is_named(program: Program) -> None:
    template = program.run("init")
    assert template.returncode == 0
    line = program.fails(78, "sync")
    assert "env:ALPACA_LARGE_KEY: found no such environment variable" in line


@pytest.mark.parametrize("command", [("run",), ("positions",), ("db", "migrate")])
def test_an_unreachable_database(program: Program, command: tuple[str, ...]) -> None:
    program.run("init")
    environment = {
        "DATABASE_URL": "postgresql://me:top-secret-pw@127.0.0.1:9/ledger",
        "ALPACA_LARGE_KEY": "key-of-large",
        "ALPACA_LARGE_SECRET": "secret-of-large",
    }
    line = program.fails(69, *command, **environment)
    assert "the database at 127.0.0.1:9/ledger cannot be reached" in line
    assert "top-secret-pw" not in line


def test_a_database_of_another_schema_version_is_not_touched(program: Program, empty_database_url: str) -> None:
    program.run("init")
    environment = {
        "DATABASE_URL": empty_database_url,
        "ALPACA_LARGE_KEY": "key-of-large",
        "ALPACA_LARGE_SECRET": "secret-of-large",
    }
    for command in ("run", "positions"):
        assert "exitguard db migrate" in program.fails(69, command, **environment)
    assert program.json("db", "migrate", DATABASE_URL=empty_database_url)["applied"][0] == 1
    assert program.json("db", "migrate", DATABASE_URL=empty_database_url)["applied"] == []
    assert program.json("positions", DATABASE_URL=empty_database_url) == []


@pytest.mark.parametrize(
    "command",
    [("positions",), ("positions", "--closed"), ("events",), ("health",), ("alarms",), ("close", "--all")],
)
def test_a_mistyped_account_never_reads_as_nothing_there(
    program: Program, database_url: str, command: tuple[str, ...]
) -> None:
    program.run("init")
    line = program.fails(2, *command, "--account", "lagre", DATABASE_URL=database_url)
    assert "no account 'lagre' in the settings or in the ledger; known: large" in line


def test_the_health_of_an_account_that_never_ran_is_bad(program: Program, database_url: str) -> None:
    program.run("init")
    body = program.json("health", "--account", "large", expect=1, DATABASE_URL=database_url)
    assert body["problems"] == ["large: no manager has ever run"]


def test_without_settings_nothing_there_says_where_it_looked(program: Program, database_url: str) -> None:
    done = program.run("positions")
    assert done.returncode == 0
    assert f"no open positions in the embedded ledger of {program.state}; no settings file was found" in done.stderr
    assert program.run("positions", DATABASE_URL=database_url).stderr == "no open positions\n"


def test_health_without_any_account_is_bad(program: Program, database_url: str) -> None:
    body = program.json("health", expect=1, DATABASE_URL=database_url)
    assert body["problems"] == ["no account is known, so nothing is watched"]


def test_a_used_port(program: Program) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = program.run("paper", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 73
    (line,) = done.stderr.splitlines()
    assert "in use" in line


@pytest.mark.parametrize("command", [("run",), ("db", "url")])
def test_a_state_directory_that_cannot_be_written(program: Program, command: tuple[str, ...]) -> None:
    program.run("init")
    (program.folder / "file").write_text("")
    environment = {
        "EXITGUARD_STATE_DIR": str(program.folder / "file"),
        "ALPACA_LARGE_KEY": "key-of-large",
        "ALPACA_LARGE_SECRET": "secret-of-large",
    }
    line = program.fails(73, *command, **environment)
    assert "set EXITGUARD_STATE_DIR" in line


def test_a_full_state_directory(program: Program) -> None:
    program.run("init")
    environment = {
        "EXITGUARD_STATE_DIR": "/dev/full",
        "ALPACA_LARGE_KEY": "key-of-large",
        "ALPACA_LARGE_SECRET": "secret-of-large",
    }
    assert "set EXITGUARD_STATE_DIR" in program.fails(73, "run", **environment)


def test_f78_account_name_and_tier_that_differ(program: Program) -> None:
    program.run("init")
    line = program.fails(78, "run", ACCOUNT_NAME="large", ACCOUNT_TIER="tiny")
    assert "set one of them, or both alike" in line


def test_f77_an_unknown_run_mode(program: Program) -> None:
    program.run("init")
    assert "expected LOOP or ONCE" in program.fails(78, "run", RUN_MODE="FOREVER")
