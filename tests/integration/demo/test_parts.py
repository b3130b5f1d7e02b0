"""The demo's smaller parts: its plan, its settings, its children, its summary."""

import json
import os
import signal
import subprocess
import sys
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from tests.support.postgres import StoreMaker
from tests.support.waiting import PATIENCE

from exitguard.cli.demo.children import Children, leftovers, start_time, stop_leftovers, tail
from exitguard.cli.demo.database import demo_database
from exitguard.cli.demo.play import demo_session, only_demo
from exitguard.cli.demo.report import Summary
from exitguard.cli.demo.scenario import CASH, LARGE, TINY, Trouble, make_day
from exitguard.cli.demo.settings_file import expiration_hours, write_settings
from exitguard.cli.demo.venue import Addresses, Credential, VenueFailed
from exitguard.cli.demo.verify import AccountReport, Verdict
from exitguard.cli.exits import CommandFailed, Exit
from exitguard.config.loading import load_settings
from exitguard.core.session import make_session, table_calendar

ADDRESSES = Addresses(
    "http://127.0.0.1:9", "ws://127.0.0.1:9/stream", "http://127.0.0.1:9", "ws://127.0.0.1:9/v2/iex",
    "ws://127.0.0.1:9/v1beta1/indicative",
    {name: Credential(f"key-{name}", f"secret-{name}", f"PA{name}") for name in CASH},
)  # fmt: skip


# The plan


def test_the_same_seed_gives_the_same_day_and_another_seed_another() -> None:
    assert make_day(7, 390) == make_day(7, 390)
    assert make_day(7, 390) != make_day(8, 390)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("minutes", [390, 210])
def test_every_planned_position_gets_out_within_the_day(seed: int, minutes: int) -> None:
    day = make_day(seed, minutes)
    for plan in day.signals:
        ends_by_deadline = plan.max_hold_minutes is not None and plan.minute + plan.max_hold_minutes < minutes - 5
        leaves_before_expiry = plan.expiry is not None and plan.expiry.value == "near"
        asks_for_nothing = plan.action in ("HOLD", "CALL", "SELL_CALL")
        assert (
            plan.strategy == "day_trade"
            or ends_by_deadline
            or leaves_before_expiry
            or asks_for_nothing
            or (minutes < 390 and plan.max_hold_minutes is not None)
        ), plan
    assert {plan.account for plan in day.signals} == {LARGE, TINY}
    assert {Trouble.LOSE_ANSWER, Trouble.REFUSE_RESTORE, Trouble.MANUAL_CLOSE} <= {
        each.trouble for each in day.provocations
    }


# The settings


def test_the_settings_file_loads_and_its_secrets_are_private(tmp_path: Path) -> None:
    path = write_settings(tmp_path, ADDRESSES, "embedded:exitguard_demo", 26)
    settings = load_settings(path, environ={})
    assert set(settings.accounts) == {LARGE, TINY}
    policy = settings.policy_of(settings.account(TINY))
    assert (policy.expiration_hours, policy.trailing_stop, policy.name) == (26, True, "demo")
    assert settings.account(LARGE).clock == "stepped"
    for name in ("exitguard.toml", "large.key", "tiny.secret"):
        assert (tmp_path / name).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("day", "near", "hours"),
    [
        (date(2025, 3, 3), date(2025, 3, 4), 26),
        (date(2025, 3, 7), date(2025, 3, 14), 169),  # the clocks change on the Sunday in between
        (date(2025, 3, 3), date(2025, 3, 28), 240),
    ],
)
def test_the_nearest_expiry_is_left_two_hours_before_todays_close(day: date, near: date, hours: int) -> None:
    assert expiration_hours(make_session(day), near) == hours


def test_a_day_without_a_session_means_the_next_one() -> None:
    assert demo_session(date(2025, 11, 29)).day == date(2025, 12, 1)
    assert demo_session(date(2999, 1, 1)).day == table_calendar().last_day
    assert demo_session(date(2025, 11, 28)).is_early_close


@pytest.mark.parametrize("line", [b"", b"hello", b"{}", b'{"rest": 1, "accounts": []}'])
def test_an_exchange_that_does_not_introduce_itself_is_an_error(line: bytes) -> None:
    with pytest.raises(VenueFailed, match="introduced itself"):
        Addresses.read(line)


# Children


def _sleeper() -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])


async def test_children_are_logged_watched_and_stopped(tmp_path: Path) -> None:
    children = Children(tmp_path, os.environ)
    child = children.start("version", ["version", "--json"])
    line = json.loads(await children.first_line(child, PATIENCE))
    assert "version" in line
    child.process.wait(PATIENCE)
    with pytest.raises(Exception, match="version ended with exit code 0"):
        children.check()
    await children.stop()
    assert not (tmp_path / "children.json").exists()


def test_what_a_killed_demo_left_is_stopped_and_nothing_else(tmp_path: Path) -> None:
    ours, stranger = _sleeper(), _sleeper()
    try:
        record = [
            {"name": "paper", "pid": ours.pid, "started": start_time(ours.pid)},
            # The number was given to another process meanwhile: it started at another time.
            {"name": "large", "pid": stranger.pid, "started": "12345"},
        ]
        (tmp_path / "children.json").write_text(json.dumps(record))
        assert [one.name for one in leftovers(tmp_path)] == ["paper"]
        assert stop_leftovers(tmp_path) == ["paper"]
        assert ours.wait(PATIENCE) == -signal.SIGTERM
        assert stranger.poll() is None
        assert stop_leftovers(tmp_path) == []
    finally:
        for process in (ours, stranger):
            process.kill()
            process.wait()


@pytest.mark.parametrize("text", ["", "{", '[{"pid": "x"}]', "null"])
def test_a_torn_list_of_children_signals_nobody(tmp_path: Path, text: str) -> None:
    (tmp_path / "children.json").write_text(text)
    assert leftovers(tmp_path) == []


def test_the_tail_of_a_log_is_bounded(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("first\n" + "y" * 200_000 + "\nlast\n")
    assert tail(log, 2).endswith("\nlast")
    assert len(tail(log)) < 10_000
    assert tail(tmp_path / "absent.log") == "(no log)"


def test_one_demo_at_a_time_plays_in_a_state_directory(tmp_path: Path) -> None:
    with (
        only_demo(tmp_path),
        pytest.raises(CommandFailed, match="another demo is playing") as caught,
        only_demo(tmp_path),
    ):
        raise AssertionError("never reached")
    assert caught.value.code is Exit.TEMPORARY
    with only_demo(tmp_path):
        pass


# The database of DATABASE_URL


async def test_a_database_with_real_accounts_is_never_wiped(
    monkeypatch: pytest.MonkeyPatch, database_url: str, make_store: StoreMaker
) -> None:
    store = await make_store("large")
    await store.bind_account_number("PA3REAL00001", "large", "paper")
    monkeypatch.setenv("DATABASE_URL", database_url)
    with pytest.raises(CommandFailed, match="no demo's \\(large") as caught:
        async with demo_database(frozenset({"PA3DEMO00001"}), keep=False):
            raise AssertionError("never reached")
    assert caught.value.code is Exit.CONFIG
    assert database_url not in str(caught.value)
    assert (await store.load()).next_position_id == 1


async def test_a_database_of_an_earlier_demo_is_used_again(
    monkeypatch: pytest.MonkeyPatch, database_url: str, make_store: StoreMaker
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    for number in ("PA3DEMO00001", "PA3DEMO00002"):
        async with demo_database(frozenset({number}), keep=False) as database:
            assert database.setting == "env:DATABASE_URL"
            store = await make_store("large")
            await store.bind_account_number(number, "large", "paper")
            await store.close()


# The summary


def test_the_summary_keeps_its_contract() -> None:
    report = AccountReport(opened=3, closed=3, realised_pnl=Decimal("-1.005"))
    report.exit_reasons.update(["stop_loss", "take_profit", "stop_loss"])
    summary = Summary(Verdict({"large": report}), 7, date(2025, 3, 3), 390, 31.234)
    body = json.loads(json.dumps(summary.to_json()))
    assert body["accounts"]["large"]["exit_reasons"] == {"stop_loss": 2, "take_profit": 1}
    assert body["accounts"]["large"]["realised_pnl"] == "-1.00"
    assert {"opened", "closed", "left_open"} <= set(body["accounts"]["large"])
    wanted = {"missed_exits", "duplicates", "rows_left_open", "market_minutes", "wall_seconds"}
    assert wanted <= set(body)
    assert summary.ok
    assert not Summary(Verdict({}, missed_exits=1), 7, date(2025, 3, 3), 390, 31.2).ok
    assert not Summary(Verdict({}), 7, date(2025, 3, 3), 390, 31.2, failure="stood still").ok
