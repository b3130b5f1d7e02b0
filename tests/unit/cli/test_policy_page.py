"""F144: the document is what the code does."""

from dataclasses import replace
from pathlib import Path

from exitguard.cli.main import main
from exitguard.cli.policy_page import policy_page
from exitguard.core.evaluate import RULES
from exitguard.core.policy import DEFAULT_POLICY, Levels

PAGE = Path(__file__).parents[3] / "docs" / "policy.md"


def test_f144_the_page_in_docs_is_the_rendered_one() -> None:
    assert PAGE.read_text(encoding="utf-8") == policy_page(), "run: exitguard policy --docs docs/policy.md"


def test_every_rule_that_decides_is_on_the_page_in_order() -> None:
    lines = [line for line in policy_page().splitlines() if line.startswith("| ")][1:]
    names = [line.split("|")[1].strip() for line in lines]
    assert names[: len(RULES)] == [rule.reason.value for rule in RULES]


def test_the_numbers_are_those_of_the_policy() -> None:
    text = policy_page(replace(DEFAULT_POLICY, options=Levels(None, None), trailing_stop=True, max_hold_minutes=77))
    assert "P&L <= never (off) (options), -2 % (stocks)" in text
    assert "(77 minutes unless the signal says otherwise)" in text


def test_check_compares_and_docs_writes(tmp_path: Path) -> None:
    page = tmp_path / "policy.md"
    assert main(["policy", "--docs", str(page)]) == 0
    assert main(["policy", "--check", str(page)]) == 0
    page.write_text(page.read_text().replace("-40", "-60"))
    assert main(["policy", "--check", str(page)]) == 1
    assert main(["policy", "--docs", str(tmp_path / "absent" / "x.md")]) == 73
