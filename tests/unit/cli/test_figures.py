"""The figures of docs/guarantees.md: rendered from kept answers, and in agreement with them."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from exitguard.cli import figures as command_line
from exitguard.cli.exits import CommandFailed, Exit
from exitguard.cli.figures.kept import write_json
from exitguard.cli.figures.page import BLOCK, block
from exitguard.cli.marked_block import marks
from exitguard.cli.soak.report import SoakResult

ROOT = Path(__file__).parents[3]
SOAK = SoakResult(accounts=2, positions=8, minutes=3, processes=1, seed=1, played=3, faults={"http_500": 4}).body()


def keep(folder: Path, name: str, result: dict[str, Any]) -> None:
    write_json(folder / f"{name}.json", {"build": "0.0+abc", "machine": "one processor", "result": result})


def document(folder: Path) -> Path:
    path = folder / "guarantees.md"
    path.write_text("before\n\n" + "\n".join(marks(BLOCK, "make figures")) + "\n\nafter\n", encoding="utf-8")
    return path


def test_the_page_says_what_the_kept_answers_say() -> None:
    first, last = marks(BLOCK, "make figures")
    page = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    shown = page.partition(first)[2].partition(last)[0].strip()
    assert shown == block(ROOT / "docs" / "figures"), 'render it anew: make figures ARGS="--render"'


def test_what_was_never_measured_is_said_with_its_command(tmp_path: Path) -> None:
    text = block(tmp_path)
    assert text.count("Not measured yet") == len(command_line.COMMANDS)
    assert "exitguard figures soak" in text


def test_each_answer_becomes_a_table_with_build_and_machine(tmp_path: Path) -> None:
    keep(tmp_path, "soak", SOAK)
    keep(
        tmp_path,
        "simulation",
        {
            "seeds": 10_000, "first_seed": 0, "simulated_days": 12.5, "faults_injected": {"crash": 3, "halt": 4},
            "positions_closed": 5, "failed_seeds": [{"seed": 77}], "violations": 1,
            "simulated_seconds_per_wall_second": 2_000, "wall_seconds": 60.0, "elapsed_seconds": 31.0,
        },
    )  # fmt: skip
    mutants = [
        {"name": "one", "about": "a | b", "breaks": "I1", "bound": 20, "found_in_seeds": 3, "violation": "I1"},
        {"name": "two", "about": "c", "breaks": "I9", "bound": 20, "found_in_seeds": None, "violation": None},
    ]
    keep(tmp_path, "planted", {"planted": 2, "found": 1, "mutants": mutants})
    row = {"value": 1.5, "unit": "s", "baseline": None, "target": "value < 2", "holds": True}
    keep(tmp_path, "speed", {"recovery": row, "takeover_hang": {**row, "value": None, "holds": False}})
    text = block(tmp_path)
    for part in (
        "| accounts | 2 |", "| faults injected | 4 |", "| faults injected | 7 of 2 kinds |",
        "Seeds with a violation: 77.", "1 of 2 planted bugs", "| two | c | I9 | **not found** | 20 | - |",
        "| one | a / b | I1 | 3 | 20 | I1 |", "| recovery | 1.5 s | - | value < 2 | yes |",
        "| takeover_hang | - | - | value < 2 | **no** |", "exitguard 0.0+abc on one processor",
    ):  # fmt: skip
        assert part in text


def test_an_answer_can_be_taken_from_a_file(tmp_path: Path) -> None:
    answer = tmp_path / "answer.json"
    answer.write_bytes(orjson.dumps(SOAK))
    page, kept = document(tmp_path), tmp_path / "figures"
    assert command_line.figures("soak", docs=page, kept=kept, take=answer) == Exit.OK
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before")
    assert text.endswith("after\n")
    assert "| positions at the start | 8 |" in text
    before = text
    assert command_line.figures(docs=page, kept=kept, render=True) == Exit.OK
    assert page.read_text(encoding="utf-8") == before


@pytest.mark.parametrize("content", [b"{", b"[]"])
def test_a_kept_file_that_is_no_answer_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "soak.json").write_bytes(content)
    with pytest.raises(CommandFailed, match=r"soak\.json cannot be read as figures"):
        block(tmp_path)


def test_wrong_usage_is_said() -> None:
    with pytest.raises(CommandFailed, match="expected"):
        command_line.figures("soka")
    with pytest.raises(CommandFailed, match="exactly one"):
        command_line.figures(take=Path("x"))
    with pytest.raises(CommandFailed, match="--render"):
        command_line.figures("soak", render=True)
