"""`exitguard demo` as a person starts it: real processes, sockets and PostgreSQL, one whole (short) day."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.waiting import PATIENCE

from exitguard.cli.demo.children import leftovers

# The Friday after Thanksgiving 2025 closes at 13:00: a whole day in half the time, and an early close.
DAY = "2025-11-28"
# Half a minute on a machine that does nothing else.
pytestmark = pytest.mark.timeout(600)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "exitguard.cli.main", *arguments]


def environment(state_dir: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("EXITGUARD_") and k != "DATABASE_URL"}
    # A name of another account in the environment must not reach the children.
    return {**kept, "EXITGUARD_STATE_DIR": str(state_dir), "ACCOUNT_NAME": "elsewhere"}


def run(state_dir: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command(*arguments), env=environment(state_dir), capture_output=True, text=True, timeout=500, check=False,
        cwd=state_dir,
    )  # fmt: skip


def answer(state_dir: Path, *arguments: str) -> Any:
    settings = state_dir / "demo" / "exitguard.toml"
    env = {k: v for k, v in environment(state_dir).items() if k != "ACCOUNT_NAME"}
    done = subprocess.run(
        command(*arguments, "--json", "--config", str(settings)), env=env, capture_output=True, text=True,
        timeout=PATIENCE, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


def query(state_dir: Path, sql: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = answer(state_dir, "db", "query", sql)
    return found


def test_f148_a_whole_day_in_two_accounts_misses_nothing(state_dir: Path) -> None:
    done = run(state_dir, "demo", "--headless", "--json", "--seed", "3", "--day", DAY)
    body = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0, (body.get("problems"), body.get("failure"), done.stderr[-2000:])
    assert (body["missed_exits"], body["duplicates"], body["rows_left_open"]) == (0, 0, 0)
    assert body["market_minutes"] == 210
    for name in ("large", "tiny"):
        account = body["accounts"][name]
        assert account["opened"] == account["closed"] == sum(account["exit_reasons"].values()) > 3
        assert account["left_open"] == 0
        assert account["realised_pnl"] == account["cash_change"]
    reasons = set(body["accounts"]["large"]["exit_reasons"])
    assert {"day_trade_close", "manual_close", "external_close", "stop_loss"} <= reasons
    assert leftovers(state_dir / "demo") == []
    # The data stays readable afterwards.
    rows = query(state_dir, "SELECT account_name, count(*) AS n FROM v_position_performance GROUP BY 1 ORDER BY 1")
    assert {r["account_name"]: r["n"] for r in rows} == {n: body["accounts"][n]["closed"] for n in ("large", "tiny")}
    (health,) = query(state_dir, "SELECT * FROM v_position_health_check")
    assert (health["open_positions"], health["closing_positions"]) == (0, 0)
    types = query(state_dir, "SELECT DISTINCT instrument_type || ' ' || side AS k FROM position_history")
    assert {"STOCK long", "STOCK short", "CALL long", "PUT long"} <= {row["k"] for row in types}
    # And whoever doubts the tables can derive them from the events again (I6, I10).
    audited = answer(state_dir, "audit", "verify")["accounts"]
    assert {name: (each["findings"], each["rows"]["position_history"]) for name, each in audited.items()} == {
        name: ([], body["accounts"][name]["closed"]) for name in ("large", "tiny")
    }


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Programs that a test starts listen to SIGINT, also when the tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_demo_cleans_up_and_the_next_one_starts(state_dir: Path) -> None:
    demo = subprocess.Popen(
        command("demo", "--headless", "--json", "--day", DAY), env=environment(state_dir), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, cwd=state_dir,
    )  # fmt: skip
    try:
        started = state_dir / "demo" / "tiny.log"
        _until(lambda: started.exists() and b"Position Manager starting" in started.read_bytes(), "a manager starts")
        children = leftovers(state_dir / "demo")
        assert {one.name for one in children} == {"paper", "large", "tiny"}
        demo.send_signal(signal.SIGINT)
        out, err = demo.communicate(timeout=PATIENCE)
    finally:
        demo.kill()
        demo.wait()
    assert demo.returncode == 130, err
    assert out == b""
    assert len(err.decode().strip().splitlines()) <= 2
    assert leftovers(state_dir / "demo") == []
    # A demo that was killed outright leaves its children; the next start finds and stops them.
    second = subprocess.Popen(
        command("demo", "--headless", "--day", DAY), env=environment(state_dir), stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, cwd=state_dir,
    )  # fmt: skip
    try:
        _until(lambda: len(leftovers(state_dir / "demo")) == 3, "all children run")
        assert run(state_dir, "demo", "--headless").returncode == 75
    finally:
        second.kill()
        second.wait()
    stopped = run(state_dir, "demo", "--stop")
    assert stopped.returncode == 0
    assert "paper, large, tiny" in stopped.stdout
    # The managers were the last users of the embedded server, so it went with them.
    assert not list(state_dir.rglob("postmaster.pid"))
    assert leftovers(state_dir / "demo") == []


def _until(condition: Any, what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--day", "yesterday"], 2, "YYYY-MM-DD"),
        (["--speed", "0"], 2, "--speed"),
        (["--seed", "x"], 2, "seed"),
    ],
)
def test_wrong_usage_gets_one_line(state_dir: Path, arguments: list[str], code: int, says: str) -> None:
    done = run(state_dir, "demo", "--headless", *arguments)
    assert done.returncode == code
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_an_unwritable_state_directory_gets_one_line(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    done = subprocess.run(
        command("demo", "--headless"), env={**environment(tmp_path), "EXITGUARD_STATE_DIR": str(blocked)},
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 73
    assert len(done.stderr.strip().splitlines()) == 1
