"""docs/failures.md: each failure of the predecessor, what makes it impossible here, and the tests that pin it.

The wording is kept by hand in failures.toml; the tests are found by the numbers in their names (test_f20_…, test_t1_…),
so that the page cannot name a test that does not exist. `make failures` writes the page; a unit test compares it.
"""

import ast
import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "tools" / "failures.toml"
PAGE = ROOT / "docs" / "failures.md"
# Every number that must be answered.
NUMBERS = tuple([f"F{n}" for n in range(1, 149)] + [f"T{n}" for n in range(1, 21)])
_NUMBER = re.compile(r"(?<=_)[ft]\d+(?=_|$)")
_FIELDS = {"failure", "guard", "open"}

_COLUMNS = ("| | what went wrong | impossible or loud because | pinned by |", "|---|---|---|---|")
_HEAD = """# Failures

<!-- Made by: make failures. Do not edit; a test compares it. -->

exitguard follows a system that ran for five weeks and failed in {failures} ways. Each has a number here, in our words,
with what makes it impossible or at least loud, and the tests whose names carry the number. The scenarios T1 to
T{scenarios} follow from them. *Open* says what no test pins yet, and which part will.

Of {total} numbers {pinned} are pinned by a test, {partly} of these in part. {unpinned} are not: most wait for a part
that is not built yet. {tests} tests carry a number.
"""


@dataclass(frozen=True, slots=True, order=True)
class Pin:
    """A test function: the file that it stands in, from the root of the repository, and its name."""

    path: str
    name: str


@dataclass(frozen=True, slots=True)
class Failure:
    """One line of the table. `open` is None where the tests pin all of it."""

    number: str
    failure: str
    guard: str
    open: str | None


@dataclass(frozen=True, slots=True)
class Section:
    """A group of failures under one title."""

    title: str
    failures: tuple[Failure, ...]


def read_table(path: Path = TABLE) -> tuple[Section, ...]:
    """The hand-kept table. Raises ValueError that names a line with a missing or unknown field."""
    sections = []
    for letter, group in tomllib.loads(path.read_text(encoding="utf-8")).items():
        title = group.pop("title")
        failures = []
        for number, fields in group.items():
            unknown = set(fields) - _FIELDS
            if unknown or not fields.get("failure"):
                raise ValueError(f"{path.name}: {number} needs a failure, and knows no {sorted(unknown)}")
            failures.append(Failure(number, fields["failure"], fields.get("guard", ""), fields.get("open")))
        sections.append(Section(f"{letter}. {title}", tuple(failures)))
    return tuple(sections)


def find_tests(folder: Path = ROOT / "tests") -> dict[str, list[Pin]]:
    """All tests below `folder` that carry numbers, by number, in order of file and line."""
    found: dict[str, list[Pin]] = {}
    for path in sorted(folder.rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        for function in sorted(functions, key=lambda node: node.lineno):
            if not function.name.startswith("test_"):
                continue
            test = Pin(path.relative_to(folder.parent).as_posix(), function.name)
            for number in dict.fromkeys(_NUMBER.findall(function.name)):
                found.setdefault(number.upper(), []).append(test)
    return found


def problems(sections: tuple[Section, ...], tests: dict[str, list[Pin]]) -> list[str]:
    """What is wrong with table and tests together: numbers that nothing answers, and numbers that do not exist."""
    listed = [failure.number for section in sections for failure in section.failures]
    wrong = [f"{number} is missing in {TABLE.name}" for number in NUMBERS if number not in listed]
    wrong += [f"{number} in {TABLE.name} is no known number" for number in listed if number not in NUMBERS]
    wrong += [
        f"{test.path}: {test.name} carries {number}, which is no known number"
        for number in tests
        if number not in NUMBERS
        for test in tests[number]
    ]
    for failure in (failure for section in sections for failure in section.failures):
        pinned = failure.number in tests
        if not pinned and not failure.open:
            wrong.append(f"{failure.number} has neither a test (test_{failure.number.lower()}_…) nor a reason (open)")
        if pinned and not failure.guard:
            wrong.append(f"{failure.number} has a test and no guard: say what makes it impossible")
    return wrong


def render(sections: tuple[Section, ...], tests: dict[str, list[Pin]]) -> str:
    """The page, in Markdown."""
    every = [failure for section in sections for failure in section.failures]
    pinned = [failure for failure in every if failure.number in tests]
    head = _HEAD.format(
        failures=sum(failure.number.startswith("F") for failure in every),
        scenarios=sum(failure.number.startswith("T") for failure in every),
        total=len(every),
        pinned=len(pinned),
        partly=sum(failure.open is not None for failure in pinned),
        unpinned=len(every) - len(pinned),
        tests=len({test for named in tests.values() for test in named}),
    )
    return head + "".join(_section(section, tests) for section in sections)


def _section(section: Section, tests: dict[str, list[Pin]]) -> str:
    lines = [f"\n## {section.title}\n", *_COLUMNS]
    for failure in section.failures:
        links = [_link(test) for test in tests.get(failure.number, [])]
        if failure.open is not None:
            links.append(f"*Open:* {failure.open}")
        lines.append(f"| {failure.number} | {failure.failure} | {failure.guard} | {'<br>'.join(links)} |")
    return "\n".join(lines) + "\n"


def _link(test: Pin) -> str:
    return f"[{test.name.removeprefix('test_')}](../{test.path})"


def main() -> int:
    """Write the page; 1 and the problems on stderr when a number is not answered."""
    sections, tests = read_table(), find_tests()
    wrong = problems(sections, tests)
    for line in wrong:
        print(line, file=sys.stderr)
    if not wrong:
        PAGE.write_text(render(sections, tests), encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
