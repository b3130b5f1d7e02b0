"""Our records against the broker's: one comparison for the manager and for `exitguard sync`.

A comparison only names what it sees. Whether a finding is acted on is decided with patience elsewhere: positions lag
fills by up to ten seconds (Alpaca-API#276), and one answer is never a verdict (I11).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

ZERO = Decimal(0)


class FindingKind(StrEnum):
    """How our record and the broker's relate."""

    MATCHED = "matched"
    PHANTOM = "phantom"
    UNTRACKED = "untracked"
    QUANTITY = "quantity"
    SIDE = "side"


@dataclass(frozen=True, slots=True)
class Finding:
    """One contract: signed quantities in our ledger and at the broker."""

    kind: FindingKind
    symbol: str
    ours: Decimal
    theirs: Decimal


def compare(ours: Mapping[str, Decimal], theirs: Mapping[str, Decimal]) -> list[Finding]:
    """Compare signed quantities by contract symbol, sorted by symbol; zero counts as absent on either side."""
    findings = []
    for symbol in sorted(ours.keys() | theirs.keys()):
        mine, broker = ours.get(symbol, ZERO), theirs.get(symbol, ZERO)
        if mine == 0 and broker == 0:
            continue
        findings.append(Finding(_kind(mine, broker), symbol, mine, broker))
    return findings


def _kind(ours: Decimal, theirs: Decimal) -> FindingKind:
    if ours == theirs:
        return FindingKind.MATCHED
    if theirs == 0:
        return FindingKind.PHANTOM
    if ours == 0:
        return FindingKind.UNTRACKED
    return FindingKind.SIDE if (ours > 0) != (theirs > 0) else FindingKind.QUANTITY


def changes_too_much(
    findings: Iterable[Finding], tracked: int, share: Decimal = Decimal("0.30"), floor: int = 3
) -> bool:
    """Whether acting on all phantoms would change more than a bounded share of positions: stop and ask (F142, I11)."""
    gone = sum(1 for finding in findings if finding.kind is FindingKind.PHANTOM)
    return gone > max(floor, int(tracked * share))
