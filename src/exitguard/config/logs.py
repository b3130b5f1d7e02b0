"""Structured logs: one JSON object a line (or a readable line) on stderr, with bounded fields and no secrets (F82).

The message (`event`) is one of the phrases that operators search for, where one applies; everything else is a field:
account, position, build. The standard library's loggers come out the same way. Nothing happens until `setup` is called.
"""

import logging
import sys
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any, TextIO

import orjson
import structlog

from exitguard.config.redaction import HIDDEN, is_sensitive_name, redact

MAX_FIELD_LENGTH = 2000
MAX_TRACEBACK_LENGTH = 16_000
MAX_FIELDS = 50
MAX_ITEMS = 50
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
# Their chatter below a warning says nothing about positions.
_QUIET_LIBRARIES = (
    "asyncio",
    "aiohttp",
    "asyncpg",
    "websockets",
    "uvicorn",
    "alembic",
    "sqlalchemy",
    "boto3",
    "botocore",
)

_ALWAYS = frozenset({"time", "level", "event", "exception"})

Event = MutableMapping[str, Any]


class LineWriter:
    """Writes one line at a time. A log that cannot be written never stops an exit: the line is counted as dropped."""

    dropped = 0

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        """Write a line to the stream, which is stderr as it is now unless another was given."""
        stream = sys.stderr if self._stream is None else self._stream
        try:
            stream.write(line + "\n")
            stream.flush()
        except (OSError, ValueError):  # ValueError: the stream is closed
            LineWriter.dropped += 1

    log = debug = info = warn = warning = error = critical = exception = fatal = failure = err = msg


def setup(level: str = "info", format: str = "json", stream: TextIO | None = None) -> None:
    """Send all logs of this process to stderr (or `stream`). May be called again to change level or format."""
    if level not in _LEVELS or format not in ("json", "console"):
        raise ValueError(f"no such log level or format: {level!r}, {format!r}")
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _add_time,
        structlog.processors.format_exc_info,
        bound_and_redact,
    ]
    processors.append(_render_json if format == "json" else structlog.dev.ConsoleRenderer(colors=False))
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=lambda *_: LineWriter(stream),
        # Loggers made at import must follow a later setup.
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for handler in [each for each in root.handlers if isinstance(each, _Bridge)]:
        root.removeHandler(handler)
    root.addHandler(_Bridge())
    root.setLevel(_LEVELS[level])
    for name in _QUIET_LIBRARIES:
        logging.getLogger(name).setLevel(max(_LEVELS[level], logging.WARNING))
    logging.captureWarnings(True)


class _Bridge(logging.Handler):
    """Hands records of the standard library to the same processors."""

    def emit(self, record: logging.LogRecord) -> None:
        logger = structlog.get_logger()
        fields: dict[str, Any] = {"logger": record.name}
        if record.exc_info:
            fields["exc_info"] = record.exc_info
        logger.log(record.levelno, _message(record), **fields)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError):  # a library passed arguments that do not fit its own format
        return f"{record.msg!s} {record.args!r}"


def _add_time(_: object, __: str, event: Event) -> Event:
    event["time"] = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return event


def bound_and_redact(_: object, __: str, event: Event) -> Event:
    """Bound every field, hide secrets, and keep the number of fields finite."""
    extra = [name for name in event if name not in _ALWAYS][MAX_FIELDS:]
    for name in extra:
        del event[name]
    if extra:
        event["fields_dropped"] = len(extra)
    for name, value in event.items():
        limit = MAX_TRACEBACK_LENGTH if name == "exception" else MAX_FIELD_LENGTH
        event[name] = HIDDEN if is_sensitive_name(name) else _safe(value, limit, 0)
    return event


def _safe(value: Any, limit: int, depth: int) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if depth < 4 and isinstance(value, dict):
        return {
            str(name)[:100]: HIDDEN if is_sensitive_name(str(name)) else _safe(inner, limit, depth + 1)
            for name, inner in list(value.items())[:MAX_ITEMS]
        }
    if depth < 4 and isinstance(value, list | tuple | set | frozenset):
        return [_safe(inner, limit, depth + 1) for inner in list(value)[:MAX_ITEMS]]
    if isinstance(value, datetime):
        return value.isoformat()
    text = redact(value if isinstance(value, str) else str(value))
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _render_json(_: object, __: str, event: Event) -> str:
    ordered = {"time": event.pop("time"), "level": event.pop("level"), "event": event.pop("event"), **event}
    return orjson.dumps(ordered, default=str).decode("utf-8", "replace")
