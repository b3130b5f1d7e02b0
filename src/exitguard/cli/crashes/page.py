"""The crash table as Markdown, for its block in docs/guarantees.md."""

from collections.abc import Sequence

from exitguard.cli.crashes.stories import Outcome
from exitguard.config.build import build_info

BLOCK = "crashes"


def table(outcomes: Sequence[Outcome]) -> str:
    """One row a point: what reached the exchange, what was written, and how long it took."""
    kept = sum(outcome.kept for outcome in outcomes)
    rows = [
        f"| {each.point} | {each.left or '-'} | {each.sent} | {each.filled} | {each.recorded} | {_seconds(each)}"
        f" | {_verdict(each)} |"
        for each in outcomes
    ]
    return "\n".join(
        [
            f"{kept} of {len(outcomes)} stories kept every guarantee, with exitguard {build_info().label}.",
            "",
            "| killed or restarted | what that left of a close | closing orders sent | of these filled | history rows"
            " | finished after | |",
            "|---|---|---|---|---|---|---|",
            *rows,
        ]
    )


def _seconds(outcome: Outcome) -> str:
    return f"{outcome.seconds:.1f} s" if outcome.kept else "-"


def _verdict(outcome: Outcome) -> str:
    if outcome.failure is None:
        return "kept"
    return f"**broken**: {outcome.failure.splitlines()[0].replace('|', '/')[:200]}"
