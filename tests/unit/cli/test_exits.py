"""Every foreseen failure has one exit code and one line."""

import errno

import pytest

from exitguard.broker.port import BrokerRefused, BrokerUnauthorised, BrokerUnavailable
from exitguard.cli.exits import MAX_LINE_LENGTH, CommandFailed, Exit, exit_code_of, first_cause, one_line
from exitguard.config.errors import ConfigError, Problem, SecretError
from exitguard.config.paths import StateDirectoryError
from exitguard.config.redaction import remember_secret
from exitguard.store import embedded_place
from exitguard.store.journal import JournalError, JournalInUse
from exitguard.store.port import AccountMismatch, LeaseHeld, SchemaMismatch, StoreRejected, StoreUnavailable


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CommandFailed("x", Exit.USAGE), 2),
        (CommandFailed("x"), 1),
        (ConfigError([Problem("f", "k", "a", "b")]), 78),
        (SecretError("env:X", "nothing", "a value"), 78),
        (AccountMismatch("x"), 78),
        (StateDirectoryError("x"), 73),
        (embedded_place.StateDirectoryError("x"), 73),
        (embedded_place.PortInUse("x"), 73),
        (JournalError("x"), 73),
        (embedded_place.EmbeddedServerError("x"), 69),
        (StoreUnavailable("x"), 69),
        (SchemaMismatch("x"), 69),
        (BrokerUnavailable("x"), 69),
        (BrokerUnauthorised("x"), 69),
        (BrokerRefused(422, 1, "x"), 69),
        (LeaseHeld("x"), 75),
        (JournalInUse("x"), 75),
        (StoreRejected("x"), 1),
        (OSError(errno.EADDRINUSE, "in use"), 73),
        (OSError(errno.ENOSPC, "full"), 73),
        (OSError(errno.EIO, "broken"), None),
        (ValueError("a defect"), None),
    ],
)
def test_exit_codes_are_those_of_the_documentation(error: BaseException, code: int | None) -> None:
    assert exit_code_of(error) == code


def test_the_first_error_of_nested_groups_is_the_cause() -> None:
    cause = LeaseHeld("held")
    group = ExceptionGroup("tasks", [ExceptionGroup("inner", [cause, ValueError()]), ValueError()])
    assert first_cause(group) is cause


def test_f82_a_line_is_one_line_bounded_and_without_secrets() -> None:
    remember_secret("hunter2-hunter2")
    line = one_line("first\nsecond\x1b[31m hunter2-hunter2 postgresql://u:secretpw@h/d " + "x" * 2000)
    assert "\n" not in line
    assert "\x1b" not in line
    assert "hunter2" not in line
    assert "secretpw" not in line
    assert len(line) == MAX_LINE_LENGTH
