"""The list of alarms is what the code does (F98, F144)."""

import ast
from pathlib import Path

import exitguard.manager
from exitguard.cli.alarms import BLOCK, COMMAND, alarm_table
from exitguard.cli.marked_block import marks
from exitguard.config.settings import WatchSettings
from exitguard.manager.alarm_list import ALARM_KINDS, kind_of
from exitguard.manager.vitals import WatchLimits

ROOMS = Path(exitguard.manager.__file__).parent
PAGE = Path(__file__).parents[3] / "docs" / "operations.md"
KINDS = {each.kind for each in ALARM_KINDS}


def _said(path: Path) -> set[str]:
    """Every text constant of a module, without its docstrings' prose."""
    return {
        node.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value
    }


def _raised(path: Path) -> set[str]:
    """The kinds that a module raises by their plain name."""
    calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    raising = (
        c for c in calls if isinstance(c.func, ast.Attribute) and c.func.attr == "raise_alarm" and len(c.args) > 1
    )
    return {c.args[1].value for c in raising if isinstance(c.args[1], ast.Constant)}


def test_f144_every_alarm_that_is_raised_is_in_the_list() -> None:
    raised = set().union(*(_raised(path) for path in ROOMS.glob("*.py")))
    assert len(raised) > 10
    assert raised <= KINDS


def test_f144_every_alarm_in_the_list_is_raised_somewhere() -> None:
    said = set().union(*(_said(path) for path in ROOMS.glob("*.py") if path.name != "alarm_list.py"))
    computed = {"unexplained_phantom", "unexplained_quantity", "unexplained_side", "orphan_order", "foreign_order"}
    assert KINDS - computed <= said


def test_f144_the_list_in_docs_is_the_rendered_one_with_thresholds_that_exist() -> None:
    first, last = marks(BLOCK, COMMAND)
    page = PAGE.read_text(encoding="utf-8")
    assert page.partition(first)[2].partition(last)[0].strip() == alarm_table(), f"run: {COMMAND}"


def test_an_alarm_that_an_earlier_process_left_on_is_known_by_its_key() -> None:
    assert kind_of("stuck:17") == "stuck"
    assert kind_of("silence:sweeps") == "silence"
    assert kind_of("stream:stock") == "stream_refused"
    assert kind_of("stream_deaf:stock") == "stream_deaf"
    assert kind_of("broker") == "broker_unreachable"


def test_the_managers_own_defaults_are_those_of_the_settings() -> None:
    watch, limits = WatchSettings(), WatchLimits()
    assert limits.sweep_silence.total_seconds() == watch.sweep_silence_seconds
    assert limits.poll_silence.total_seconds() == watch.poll_silence_seconds
    assert limits.ledger_silence.total_seconds() == watch.ledger_silence_seconds
    assert limits.stale.total_seconds() == watch.stale_position_seconds
    assert limits.creations_a_minute == watch.creations_a_minute
