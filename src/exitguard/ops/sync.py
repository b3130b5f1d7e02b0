"""Our records against the broker's positions, account by account, as `exitguard sync` shows it."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from exitguard.broker.port import Broker, BrokerError
from exitguard.core.reconcile import Finding, FindingKind, compare


@dataclass(frozen=True, slots=True)
class AccountComparison:
    """One account compared. `error` says why there is no comparison: then nothing is known, and nothing matches."""

    account_name: str
    account_number: str | None
    findings: tuple[Finding, ...] = ()
    error: str | None = None

    @property
    def in_sync(self) -> bool:
        """Whether everything that is held is recorded, with the same side and quantity, and nothing else is."""
        return self.error is None and all(finding.kind is FindingKind.MATCHED for finding in self.findings)

    @property
    def held(self) -> int:
        """Number of contracts that the broker holds."""
        return sum(finding.theirs != 0 for finding in self.findings)

    @property
    def recorded(self) -> int:
        """Number of contracts that our records hold."""
        return sum(finding.ours != 0 for finding in self.findings)

    def count(self, kind: FindingKind) -> int:
        """Number of findings of one kind."""
        return sum(finding.kind is kind for finding in self.findings)

    def body(self) -> dict[str, Any]:
        """The comparison as JSON: stable names, quantities as text."""
        return {
            "account_number": self.account_number,
            "in_sync": self.in_sync,
            "broker_positions": self.held,
            "database_positions": self.recorded,
            **{kind.value: self.count(kind) for kind in FindingKind},
            "differences": [
                {
                    "kind": finding.kind.value,
                    "symbol": finding.symbol,
                    "database": str(finding.ours),
                    "broker": str(finding.theirs),
                }
                for finding in self.findings
                if finding.kind is not FindingKind.MATCHED
            ],
            "error": self.error,
        }


async def compare_account(
    account_name: str, records: Mapping[str, Decimal], broker: Broker, bound_number: str | None
) -> AccountComparison:
    """Ask the broker and compare. A failed answer is an error of this account, never an empty position list (F142).

    `records` are signed quantities by contract symbol; `bound_number` is the broker account number that the ledger
    knows under this name: keys of another account are reported, not compared (F27).
    """
    try:
        account = await broker.account()
        if bound_number is not None and account.account_number != bound_number:
            error = f"the keys belong to broker account {account.account_number}, the ledger knows {bound_number}"
            return AccountComparison(account_name, account.account_number, error=error)
        held = await broker.positions()
    except BrokerError as error:
        return AccountComparison(account_name, None, error=str(error))
    findings = compare(records, {position.symbol: position.qty for position in held})
    return AccountComparison(account_name, account.account_number, tuple(findings))


def render(comparison: AccountComparison) -> str:
    """The block that operators know, and one line for each difference below it."""
    lines = [f"{comparison.account_name.capitalize()} Account:"]
    if comparison.error is not None:
        return "\n".join([*lines, f"  Error: {comparison.error}"])
    whole = max(comparison.held, comparison.recorded)
    lines += [
        f"  Alpaca: {comparison.held} positions",
        f"  Database: {comparison.recorded} positions",
        f"  Matched: {comparison.count(FindingKind.MATCHED)}/{whole}",
        f"  Phantom: {comparison.count(FindingKind.PHANTOM)}",
    ]
    for finding in comparison.findings:
        if finding.kind is not FindingKind.MATCHED:
            lines.append(
                f"  {finding.kind.value.capitalize()}: {finding.symbol}"
                f" (Alpaca {finding.theirs}, database {finding.ours})"
            )
    return "\n".join(lines)
