"""The entry point: runs a command and turns whatever happens into an exit code and at most one line on stderr."""

import os
import sys
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from exitguard.cli.exits import Exit, exit_code_of, first_cause, one_line
from exitguard.config.errors import ConfigError, did_you_mean
from exitguard.config.paths import state_dir
from exitguard.config.redaction import redact

# The file of error details is started again beyond this size; one older file is kept.
_LARGEST_ERROR_LOG = 5_000_000


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. Never raises, never shows a traceback."""
    # Imported here, so that even an import that fails becomes one line.
    tokens = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(tokens)
    except SystemExit as request:
        return request.code if isinstance(request.code, int) else Exit.WRONG
    except KeyboardInterrupt:
        _complain("interrupted")
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # The reader went away (`| head`); keep the interpreter from complaining again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except BaseException as error:
        return _fail(error)


def _run(tokens: list[str]) -> int:
    from cyclopts import CycloptsError

    from exitguard.cli.app import build_app, command_names

    if tokens and not tokens[0].startswith("-") and tokens[0] not in command_names():
        # Answered here: cyclopts would import every command for its suggestion.
        expected = did_you_mean(tokens[0], command_names(), what="command")
        _complain(f"unknown command {tokens[0]!r}, expected {expected}; see: exitguard --help")
        return Exit.USAGE
    try:
        result = build_app()(tokens)
    except CycloptsError as error:
        command = " ".join(["exitguard", *(error.command_chain or ())])
        error.verbose = False
        _complain(f"{one_line(str(error)).rstrip('.')}; see: {command} --help")
        return Exit.USAGE
    sys.stdout.flush()
    return int(result) if isinstance(result, int) else Exit.OK


def _fail(error: BaseException) -> int:
    cause = first_cause(error)
    code = exit_code_of(cause)
    if code is not None:
        if isinstance(cause, ConfigError) and len(cause.problems) > 1:
            where = _write_details("\n".join(str(problem) for problem in cause.problems))
            _complain(f"{cause}" + (f": {where}" if where else ""))
        else:
            _complain(str(cause) or type(cause).__name__)
        return code
    where = _write_details("".join(traceback.format_exception(error)))
    what = f"unexpected {type(cause).__name__}: {cause}"
    _complain(f"{what}; this is a defect of exitguard; " + (f"details: {where}" if where else "details follow"))
    if where is None:
        sys.stderr.write(redact("".join(traceback.format_exception(error))))
    return Exit.UNEXPECTED


def _complain(text: str) -> None:
    try:
        sys.stderr.write(f"exitguard: {one_line(text)}\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        # Nobody listens on stderr; the exit code still tells.
        return


def _write_details(text: str) -> Path | None:
    """Append details to STATE_DIR/errors.log; None when that cannot be written."""
    path = state_dir() / "errors.log"
    entry = (
        f"--- {datetime.now(UTC).isoformat(timespec='seconds')} {' '.join(sys.argv)[:200]}\n{redact(text).rstrip()}\n"
    )
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > _LARGEST_ERROR_LOG:
            path.replace(path.with_suffix(".log.1"))
        with path.open("a", encoding="utf-8") as file:
            file.write(entry)
    except OSError:
        return None
    return path


if __name__ == "__main__":
    sys.exit(main())
