"""The entry point: whatever happens, an exit code and at most one line on stderr, never a traceback."""

import sys
from pathlib import Path

import pytest
from cyclopts import App

from exitguard.cli import app as app_module
from exitguard.cli import main as main_module
from exitguard.cli.main import main
from exitguard.store.port import LeaseHeld


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXITGUARD_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    for name in ("EXITGUARD_CONFIG", "DATABASE_URL", "ACCOUNT_NAME", "ACCOUNT_TIER", "RUN_MODE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["nonsense"], "nonsense"),
        (["version", "--jsn"], "--jsn"),
        (["events", "--limit", "many"], "many"),
        (["db", "nonsense"], "nonsense"),
        (["db", "query"], "sql"),
        (["close"], "say what to close"),
        (["close", "AAPL", "--all"], "say what to close"),
        (["paper", "--account", "large"], "NAME:CASH"),
        (["paper", "--account", "large:1", "large:2"], "given twice"),
        (["paper", "--speed", "0"], "--speed must be positive"),
        (["paper", "--port", "70000"], "--port must lie in 0..65535"),
        (["paper", "--start", "noon"], "--start must be an ISO time"),
        (["paper", "--replay", "/nonexistent"], "no such file or folder"),
        (["policy", "nonsense"], "no policy 'nonsense'"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(
    tokens: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(tokens) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("exitguard: ")
    assert expected.lower() in line.lower()


@pytest.mark.parametrize("tokens", [["--help"], ["-h"], ["db", "--help"], ["run", "--help"], []])
def test_help_fits_a_screen(tokens: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(tokens) == 0
    text = capsys.readouterr().out
    assert "Usage: exitguard" in text
    assert len(text.splitlines()) <= 50


def test_the_exchange_is_explained_on_a_screen_of_thirty_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["paper", "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 80


def test_every_command_has_help_and_takes_json(capsys: pytest.CaptureFixture[str]) -> None:
    without_result = {"run"}
    for name, target, line, _ in app_module._COMMANDS:
        assert line
        if target.split(":")[0] in ("exitguard.cli.demo", "exitguard.cli.bench"):
            continue  # made elsewhere, with tests of their own
        assert main([name, "--help"]) == 0
        text = capsys.readouterr().out
        assert "Usage:" in text
        if name not in without_result and name not in ("db", "audit"):  # groups of commands
            assert "--json" in text, name


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def command() -> None:
        raise error

    app = App(
        name="exitguard",
        print_error=False,
        exit_on_error=False,
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    app.command(command, name="version")
    monkeypatch.setattr(app_module, "build_app", lambda: app)


def test_an_unexpected_error_is_one_line_and_its_traceback_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    failing(monkeypatch, KeyError("quantity"))
    assert main(["version"]) == 70
    (line,) = capsys.readouterr().err.splitlines()
    assert "unexpected KeyError: 'quantity'" in line
    log = tmp_path / "state" / "errors.log"
    assert str(log) in line
    assert "Traceback" in log.read_text()


def test_details_go_to_stderr_when_the_state_directory_cannot_take_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EXITGUARD_STATE_DIR", str(tmp_path / "file"))
    failing(monkeypatch, KeyError("quantity"))
    assert main(["version"]) == 70
    assert "Traceback" in capsys.readouterr().err


def test_a_foreseen_error_inside_a_group_keeps_its_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, ExceptionGroup("tasks", [LeaseHeld("another process holds large")]))
    assert main(["version"]) == 75
    assert capsys.readouterr().err == "exitguard: another process holds large\n"


def test_an_interrupt_ends_quietly(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    failing(monkeypatch, KeyboardInterrupt())
    assert main(["version"]) == 130
    assert capsys.readouterr().err == "exitguard: interrupted\n"


def test_the_error_log_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main_module, "_LARGEST_ERROR_LOG", 100)
    for _ in range(3):
        assert main_module._write_details("x" * 200) is not None
    names = sorted(path.name for path in (tmp_path / "state").iterdir())
    assert names == ["errors.log", "errors.log.1"]
    assert (tmp_path / "state" / "errors.log").stat().st_size < 1000


def test_missing_configuration_says_what_to_write(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sync"]) == 78
    (line,) = capsys.readouterr().err.splitlines()
    assert "no configuration file" in line
    assert "exitguard init" in line


def test_all_problems_of_a_configuration_are_kept_in_the_error_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "exitguard.toml").write_text("[logg]\n[databse]\n[accounts.X]\n")
    assert main(["sync"]) == 78
    (line,) = capsys.readouterr().err.splitlines()
    assert "(and 2 more problems" in line
    kept = (tmp_path / "state" / "errors.log").read_text()
    assert all(word in kept for word in ("logg", "databse", "accounts.X"))


def test_init_writes_once_and_overwrites_only_by_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init"]) == 0
    written = (tmp_path / "exitguard.toml").read_text()
    (tmp_path / "exitguard.toml").write_text("mine")
    assert main(["init"]) == 73
    assert (tmp_path / "exitguard.toml").read_text() == "mine"
    assert main(["init", "--force"]) == 0
    assert (tmp_path / "exitguard.toml").read_text() == written
    assert main(["init", "/nonexistent/x.toml"]) == 73
    assert "cannot write" in capsys.readouterr().err


def test_stdout_stays_clean_for_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version", "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert len(captured.out.splitlines()) == 1
    assert sys.exc_info() == (None, None, None)
