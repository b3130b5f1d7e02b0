"""The real program as a user runs it: processes, files, exit codes, two streams."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.support.waiting import PATIENCE

# The open of the session that these tests play in, whatever day it is: a Wednesday, half past nine in New York.
SESSION = datetime(2026, 11, 18, 14, 30, tzinfo=UTC)
ACCOUNT = """
[accounts.{name}]
tier = "{name}"
mode = "paper"
rest_url = "{rest}"
trade_stream_url = "{stream}"
data_url = "{data}"
stock_stream_url = "{data_stream}"
option_stream_url = "{option_stream}"
key = "env:{upper}_KEY"
secret = "env:{upper}_SECRET"
clock = "stepped"
requests_per_minute = 100000
"""
RISK = """
[accounts.{name}.risk]
max_position_fraction = "0.10"
max_open_positions = 20
max_total_exposure_fraction = "0.80"
allow_short = true
allow_options = true
"""


def wait_for(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """Ask until the answer is true; its value."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.05)


@dataclass
class Running:
    """A process of ours that runs, with what it has written so far."""

    process: "subprocess.Popen[str]"
    out: list[str] = field(default_factory=list)
    err: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._readers = [
            threading.Thread(target=self._read, args=(stream, lines))
            for stream, lines in ((self.process.stdout, self.out), (self.process.stderr, self.err))
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(stream: Any, lines: list[str]) -> None:
        for line in stream:
            lines.append(line.rstrip("\n"))
        stream.close()

    def events(self) -> list[str]:
        """Messages of its log."""
        return [json.loads(line)["event"] for line in list(self.err) if line.startswith("{")]

    def logged(self, phrase: str, **fields: Any) -> bool:
        """Whether a line with this phrase and these fields was logged."""
        for line in list(self.err):
            if line.startswith("{"):
                record = json.loads(line)
                if phrase in record["event"] and all(record.get(name) == value for name, value in fields.items()):
                    return True
        return False

    def wait_for(self, phrase: str, **fields: Any) -> None:
        def seen() -> bool:
            if self.logged(phrase, **fields):
                return True
            assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.err[-5:]}"
            return False

        wait_for(seen, f"log line {phrase!r} {fields}; last lines: {self.err[-3:]}")

    def end(self, number: int = signal.SIGTERM, seconds: float = PATIENCE) -> int:
        """Ask it to stop; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"does not stop; last lines: {self.err[-8:]}") from None
        for reader in self._readers:
            reader.join()
        return code


class Program:
    """Runs `exitguard`. Every process gets the same small environment and nothing of the developer's."""

    def __init__(self, folder: Path, state: Path) -> None:
        self.folder = folder
        self.state = state
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "EXITGUARD_STATE_DIR": str(state),
            "PYTHONWARNINGS": "error",
            "COLUMNS": "200",
        }
        self._running: list[Running] = []

    def _command(self, arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "exitguard.cli.main", *arguments]

    def run(self, *arguments: str, timeout: float = PATIENCE, **environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self._command(arguments),
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=self.environment | environment,
            timeout=timeout,
        )

    def json(self, *arguments: str, expect: int = 0, **environment: str) -> Any:
        """Run with --json; exactly one line on stdout, and nothing that looks like a crash."""
        done = self.run(*arguments, "--json", **environment)
        assert done.returncode == expect, done.stderr
        (line,) = done.stdout.splitlines()
        return json.loads(line)

    def fails(self, code: int, *arguments: str, **environment: str) -> str:
        """Run a command that must fail; the one line that it says, which is the last of stderr."""
        done = self.run(*arguments, **environment)
        assert done.returncode == code, (done.returncode, done.stdout[-500:], done.stderr[-2000:])
        lines = done.stderr.splitlines()
        said = [line for line in lines if not line.startswith("{")]
        assert len(said) == 1, lines
        assert said[0] == lines[-1]
        assert said[0].startswith("exitguard: ")
        assert "Traceback" not in done.stderr
        return said[0]

    def start(self, *arguments: str, **environment: str) -> Running:
        process = subprocess.Popen(
            self._command(arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=self.environment | environment,
        )
        running = Running(process)
        self._running.append(running)
        return running

    def end_all(self) -> None:
        for running in reversed(self._running):
            with contextlib.suppress(ProcessLookupError):
                running.end()


@pytest.fixture
def program(tmp_path: Path, state_dir: Path) -> Iterator[Program]:
    """The program with a folder and a state directory of its own, and no configuration."""
    found = Program(tmp_path, state_dir)
    yield found
    found.end_all()


class Venue:
    """A running paper exchange, asked over HTTP as anybody would."""

    def __init__(self, description: Mapping[str, Any]) -> None:
        self.description = description

    def ask(self, method: str, path: str, account: str | None = None, body: Any = None) -> Any:
        headers = {"Content-Type": "application/json"}
        if account is not None:
            keys = self.description["accounts"][account]
            headers |= {"APCA-API-KEY-ID": keys["key"], "APCA-API-SECRET-KEY": keys["secret"]}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.description["rest"] + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{method} {path}: {error.code} {error.read()[:300]!r}") from error

    def buy(self, account: str, symbol: str, qty: int, side: str = "buy") -> None:
        order = {"symbol": symbol, "qty": str(qty), "side": side, "type": "market", "time_in_force": "day"}
        placed = self.ask("POST", "/v2/orders", account, order)
        wait_for(lambda: self.ask("GET", f"/v2/orders/{placed['id']}", account)["status"] == "filled", "the fill")

    def advance(self, seconds: float) -> None:
        self.ask("POST", "/admin/advance", body={"seconds": seconds})

    def keys(self) -> dict[str, str]:
        """Environment variables with the keys of all accounts."""
        found: dict[str, str] = {}
        for name, keys in self.description["accounts"].items():
            found |= {f"{name.upper()}_KEY": keys["key"], f"{name.upper()}_SECRET": keys["secret"]}
        return found


@pytest.fixture
def venue(program: Program) -> Venue:
    """`exitguard paper` with the accounts large and tiny, its clock standing still in an open market."""
    running = program.start(
        *("paper", "--account", "large:100000", "tiny:1000", "--generate", "7", "--symbols", "AAPL", "F"),
        *("--start", SESSION.isoformat(), "--paused", "--json"),
    )

    def announced() -> bool:
        assert running.process.poll() is None, running.err
        return bool(running.out)

    wait_for(announced, "the exchange's first line")
    found = Venue(json.loads(running.out[0]))
    found.advance(90)  # past the open: every stock has quotes
    return found


def settings_text(description: Mapping[str, Any], *, risk: bool = False, **changes: Mapping[str, str]) -> str:
    """A settings file for the accounts of an exchange; `changes` replace values of single accounts."""
    parts = []
    for name in description["accounts"]:
        text = ACCOUNT.format(
            name=name, upper=name.upper(), **{k: v for k, v in description.items() if k != "accounts"}
        )
        for key, value in changes.get(name, {}).items():
            kept = [line for line in text.splitlines() if not line.startswith(f"{key} =")]
            text = "\n".join([*kept, f"{key} = {value}", ""])
        parts.append(text + (RISK.format(name=name) if risk else ""))
    return "".join(parts)


@pytest.fixture
def ready(program: Program, venue: Venue, database_url: str) -> Program:
    """The program with a migrated database, an exchange, and a settings file for both accounts."""
    (program.folder / "exitguard.toml").write_text(settings_text(venue.description))
    program.environment |= {"DATABASE_URL": database_url, **venue.keys()}
    return program
