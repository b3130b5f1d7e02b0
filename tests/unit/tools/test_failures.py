"""docs/failures.md says what the tests say, and every number is answered."""

from pathlib import Path

import pytest
from tools.failures import NUMBERS, PAGE, Failure, Pin, Section, find_tests, problems, read_table, render

# What concerns orders, ledger, prices, time and the running process must be pinned and not explained.
PINNED = frozenset(
    [f"F{n}" for n in (*range(1, 12), *range(13, 69), *range(70, 75), *range(93, 100), *range(101, 116))]
    + [f"F{n}" for n in (77, 78, 80, 82, 86, 87, 90, 125, 126, 127, 129, 131, 132, 135, 136, 138, 142, 145, 148)]
    + [f"T{n}" for n in range(1, 21)]
)


def test_the_page_in_docs_is_the_rendered_one() -> None:
    sections, tests = read_table(), find_tests()
    assert problems(sections, tests) == []
    assert PAGE.read_text(encoding="utf-8") == render(sections, tests), "run: make failures"


def test_what_a_position_depends_on_is_pinned_by_a_test() -> None:
    assert set(NUMBERS) >= PINNED
    assert PINNED - set(find_tests()) == set()


def test_every_link_of_the_page_leads_to_the_test_that_it_names() -> None:
    for tests in find_tests().values():
        for test in tests:
            path = PAGE.parent / ".." / test.path
            assert f"def {test.name}(" in path.read_text(encoding="utf-8")


def whole(**changed: Failure) -> tuple[Section, ...]:
    """A table in which everything is explained, with some lines replaced."""
    plain = {number: Failure(number, "it broke", "", "not built yet") for number in NUMBERS}
    return (Section("A. All", tuple({**plain, **changed}.values())),)


TEST = Pin("tests/test_it.py", "test_f20_it_holds")


@pytest.mark.parametrize(
    ("sections", "tests", "says"),
    [
        (whole(), {}, []),
        (whole(F20=Failure("F20", "rows", "an index", None)), {"F20": [TEST]}, []),
        (whole(F20=Failure("F20", "rows", "an index", None)), {}, ["F20 has neither a test"]),
        (whole(F20=Failure("F20", "rows", "", "half of it")), {"F20": [TEST]}, ["F20 has a test and no guard"]),
        (whole(), {"F149": [TEST]}, ["tests/test_it.py: test_f20_it_holds carries F149"]),
        (whole(F149=Failure("F149", "more", "", "later")), {}, ["F149 in failures.toml is no known number"]),
        ((Section("A", whole()[0].failures[1:]),), {}, ["F1 is missing in failures.toml"]),
    ],
)
def test_a_number_that_nothing_answers_is_named(
    sections: tuple[Section, ...], tests: dict[str, list[Pin]], says: list[str]
) -> None:
    found = problems(sections, tests)
    assert len(found) == len(says)
    assert all(line.startswith(start) for line, start in zip(found, says, strict=True)), found


def test_tests_are_found_by_every_number_in_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "tests" / "unit"
    folder.mkdir(parents=True)
    (folder / "test_some.py").write_text(
        "def test_f20_t7_both_numbers_of_f46(): ...\n"
        "async def test_what_ends_with_its_number_f33(): ...\n"
        "class TestMore:\n    def test_f1_inside_a_class(self): ...\n"
        "def f99_no_test(): ...\n"
        "def test_f12a_and_pdf99_are_words(): ...\n"
        "def test_i4_invariants_are_listed_elsewhere(): ...\n"
    )
    (folder / "helper.py").write_text("def test_f2_in_no_test_file(): ...\n")
    found = find_tests(tmp_path / "tests")
    assert set(found) == {"F20", "T7", "F46", "F33", "F1"}
    assert found["F33"] == [Pin("tests/unit/test_some.py", "test_what_ends_with_its_number_f33")]


def test_a_line_with_an_unknown_field_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "failures.toml"
    path.write_text('[A]\ntitle = "x"\nF1 = { failure = "y", gaurd = "z" }\n')
    with pytest.raises(ValueError, match="F1 needs a failure, and knows no"):
        read_table(path)
