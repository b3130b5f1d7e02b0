"""Logs: one bounded line for each event, whatever is thrown at them, and never an exception."""

import io
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import orjson
import pytest
import structlog

from exitguard.config import logs


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    logs.setup("info", "json", stream)
    yield stream
    structlog.reset_defaults()
    root = logging.getLogger()
    for handler in list(root.handlers):
        if type(handler).__name__ == "_Bridge":
            root.removeHandler(handler)
    root.setLevel(logging.WARNING)
    logging.captureWarnings(False)


def records(stream: io.StringIO) -> list[dict[str, object]]:
    return [orjson.loads(line) for line in stream.getvalue().splitlines()]


def test_a_record_has_time_level_phrase_and_fields(stream: io.StringIO) -> None:
    structlog.get_logger().bind(account="tiny").info("Position closed successfully", position=7, pnl=Decimal("1.50"))
    (record,) = records(stream)
    assert list(record)[:3] == ["time", "level", "event"]
    assert record["event"] == "Position closed successfully"
    assert (record["account"], record["position"], record["pnl"]) == ("tiny", 7, "1.50")


def test_f18_any_value_can_be_logged(stream: io.StringIO) -> None:
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    odd = {"raw": b"\xff", "none": None, "nested": {"s": {1, 2}}, "thing": object()}
    structlog.get_logger().info("odd", uuid=UUID(int=1), at=moment, **odd)
    (record,) = records(stream)
    assert record["uuid"] == str(UUID(int=1))
    assert record["at"] == "2026-01-02T00:00:00+00:00"


def test_fields_are_bounded(stream: io.StringIO) -> None:
    structlog.get_logger().info(
        "x" * 10_000, long="y" * 10_000, many=list(range(1000)), **{f"f{i}": i for i in range(200)}
    )
    (record,) = records(stream)
    assert len(stream.getvalue()) < 10_000
    assert len(str(record["event"])) == logs.MAX_FIELD_LENGTH
    assert record["fields_dropped"] == 152


def test_a_line_break_from_outside_cannot_forge_a_record(stream: io.StringIO) -> None:
    structlog.get_logger().info('a\n{"event": "forged"}')
    assert len(stream.getvalue().splitlines()) == 1


def test_levels_filter_and_setup_may_be_called_again(stream: io.StringIO) -> None:
    logger = structlog.get_logger()
    logger.debug("not shown")
    logs.setup("error", "json", stream)
    logger.warning("not shown")
    logging.getLogger("library").warning("not shown")
    logger.error("shown")
    assert [record["event"] for record in records(stream)] == ["shown"]


def test_a_closed_stream_never_stops_the_caller(stream: io.StringIO) -> None:
    before = logs.LineWriter.dropped
    stream.close()
    structlog.get_logger().info("lost")
    assert logs.LineWriter.dropped == before + 1


def test_the_readable_format_has_no_colour_codes() -> None:
    text = io.StringIO()
    logs.setup("info", "console", text)
    structlog.get_logger().info("Position Manager starting", account="large")
    structlog.reset_defaults()
    assert "Position Manager starting" in text.getvalue()
    assert "\x1b" not in text.getvalue()


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="no such log level"):
        logs.setup("loud")
