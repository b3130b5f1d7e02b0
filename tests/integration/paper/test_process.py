"""`serve` as a process of its own: its first line, its exit codes, its signals; and the documented example."""

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support.waiting import PATIENCE

ROOT = Path(__file__).parents[3]
PROGRAM = """
import json, sys
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from exitguard.paper.server.main import serve
given = json.loads(sys.argv[1])
given["accounts"] = {name: Decimal(cash) for name, cash in given["accounts"].items()}
if "start" in given:
    given["start"] = datetime.fromisoformat(given["start"])
if "replay" in given:
    given["replay"] = Path(given["replay"])
raise SystemExit(serve(**given))
"""


def start(**given: Any) -> "subprocess.Popen[str]":
    given = {"accounts": {"demo": "100000"}, "json": True, **given}
    command = [sys.executable, "-c", PROGRAM, json.dumps(given)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONWARNINGS": "error"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@contextmanager
def running(**given: Any) -> Iterator[dict[str, Any]]:
    """A process that has said its first line; stopped by SIGTERM with exit code 0 and a silent stderr."""
    process = start(**given)
    try:
        assert process.stdout is not None
        yield {**json.loads(process.stdout.readline()), "process": process}
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (0, "")


def test_the_first_line_is_the_contract_and_it_starts_quickly() -> None:
    begun = worked()
    with running(generate=7, start="2026-11-18T10:00:00-05:00") as said:
        assert set(said) == {
            "rest", "stream", "data", "data_stream", "option_stream", "admin", "accounts", "process",
        }  # fmt: skip
        assert set(said["accounts"]["demo"]) == {"key", "secret", "account_number"}
        request = urllib.request.Request(
            said["rest"] + "/v2/clock",
            headers={
                "APCA-API-KEY-ID": said["accounts"]["demo"]["key"],
                "APCA-API-SECRET-KEY": said["accounts"]["demo"]["secret"],
            },
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            assert json.load(answer)["timestamp"].startswith("2026-11-18T10:00")
    assert worked() - begun < 10, "one second on a usual machine; the bound only catches a collapse"


def worked() -> float:
    """Processor seconds of all processes that have ended: what else the machine does is not in them."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_the_same_seed_gives_the_same_keys() -> None:
    with running(generate=7) as first, running(generate=7) as second, running(generate=8) as other:
        assert first["accounts"] == second["accounts"] != other["accounts"]


def test_people_get_a_readable_announcement_and_interrupts_end_it() -> None:
    process = start(json=False)
    assert process.stdout is not None
    assert "Paper exchange on http://127.0.0.1:" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    rest = process.stdout.read()
    _, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (0, "")
    assert "account demo" in rest


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        ({"replay": "/nonexistent"}, 2, "does not exist"),
        ({"accounts": {}}, 2, "at least one account"),
        ({"start": "2026-11-18T10:00:00"}, 2, "time zone"),
        ({"speed": 0}, 2, "speed"),
        ({"host": "192.0.2.1"}, 73, "cannot listen"),
    ],
)
def test_wrong_settings_are_one_line_and_an_exit_code(given: dict[str, Any], code: int, words: str) -> None:
    process = start(**given)
    said, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, said) == (code, "")
    assert errors.count("\n") == 1
    assert words in errors


def test_a_used_port_is_exit_code_73() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = start(port=taken.getsockname()[1])
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 73
    assert "choose another port" in errors
    assert errors.count("\n") == 1


def test_the_documented_example_runs_as_printed() -> None:
    page = (ROOT / "docs" / "exchange.md").read_text()
    example = next(block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "TradingClient(" in block)
    with running(generate=7, start="2026-11-18T10:00:00-05:00") as said:
        account = said["accounts"]["demo"]
        environment = {
            **os.environ,
            "PAPER_URL": said["rest"],
            "PAPER_KEY": account["key"],
            "PAPER_SECRET": account["secret"],
        }
        done = subprocess.run(
            [sys.executable, "-c", example],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env=environment,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == "AAPL 10 bracket"
    assert second.endswith("True")
