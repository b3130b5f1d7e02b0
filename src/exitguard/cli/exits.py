"""Exit codes, and the one line that each kind of failure gets."""

import errno
from enum import IntEnum

from exitguard.config.errors import ConfigError
from exitguard.config.paths import StateDirectoryError
from exitguard.config.redaction import redact
from exitguard.core.errors import ExitguardError

MAX_LINE_LENGTH = 500


class Exit(IntEnum):
    """What a command's exit code means; scripts rely on these numbers."""

    OK = 0
    WRONG = 1
    USAGE = 2
    UNAVAILABLE = 69
    UNEXPECTED = 70
    CANNOT_WRITE = 73
    TEMPORARY = 75
    CONFIG = 78
    INTERRUPTED = 130


class CommandFailed(ExitguardError):
    """A command ends here: one line for the person, and an exit code for the script."""

    def __init__(self, message: str, code: Exit = Exit.WRONG) -> None:
        super().__init__(message)
        self.code = code


def one_line(text: str) -> str:
    """Text as one bounded line without secrets and control characters."""
    flat = " ".join(redact(text).split())
    clean = "".join(each if each.isprintable() else "?" for each in flat)
    return clean if len(clean) <= MAX_LINE_LENGTH else clean[: MAX_LINE_LENGTH - 1] + "…"


def first_cause(error: BaseException) -> BaseException:
    """The first error inside groups of errors: tasks that run together fail together, one of them first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def exit_code_of(error: BaseException) -> Exit | None:
    """The exit code of an error that we foresaw; None for one that we did not."""
    if isinstance(error, CommandFailed):
        return error.code
    if isinstance(error, ConfigError):
        return Exit.CONFIG
    if isinstance(error, StateDirectoryError):
        return Exit.CANNOT_WRITE
    if isinstance(error, ExitguardError):
        return _of_service(error)
    if isinstance(error, OSError):
        return _of_system(error)
    return None


def _of_service(error: ExitguardError) -> Exit:
    # Imported late: only a failure needs them, and most commands never touch a broker or a store.
    from exitguard.broker.port import BrokerError
    from exitguard.store import embedded_place
    from exitguard.store.journal import JournalError, JournalInUse
    from exitguard.store.port import AccountMismatch, LeaseHeld, LeaseLost, SchemaMismatch, StoreUnavailable

    if isinstance(error, LeaseHeld | LeaseLost | JournalInUse):
        return Exit.TEMPORARY
    if isinstance(error, AccountMismatch):
        return Exit.CONFIG
    if isinstance(error, embedded_place.StateDirectoryError | embedded_place.PortInUse | JournalError):
        return Exit.CANNOT_WRITE
    if isinstance(error, BrokerError | StoreUnavailable | SchemaMismatch | embedded_place.EmbeddedServerError):
        return Exit.UNAVAILABLE
    return Exit.WRONG


def _of_system(error: OSError) -> Exit | None:
    if error.errno in (errno.EADDRINUSE, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return Exit.CANNOT_WRITE
    return None
