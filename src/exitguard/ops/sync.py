"""Our records against the broker's positions, account by account, as `exitguard sync` shows it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from exitguard.broker.port import Broker, BrokerError
from exitguard.core.orders import BrokerOrder
from exitguard.core.reconcile import (
    Finding,
    FindingKind,
    KnownOrder,
    OwnOrders,
    compare,
    compare_orders,
    names_of,
    order_prefix,
)


@dataclass(frozen=True, slots=True)
class AccountComparison:
    """One account compared. `error` says why there is no comparison: then nothing is known, and nothing matches."""

    account_name: str
    account_number: str | None
    findings: tuple[Finding, ...] = ()
    error: str | None = None

    @property
    def in_sync(self) -> bool:
        """Whether what is held is recorded, with the same side and quantity, and no order rests without our purpose."""
        return self.error is None and all(finding.kind is FindingKind.MATCHED for finding in self.findings)

    @property
    def held(self) -> int:
        """Number of contracts that the broker holds."""
        return sum(finding.theirs != 0 for finding in self.findings if not finding.kind.is_order)

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
            "differences": [finding.body() for finding in self.findings if finding.kind is not FindingKind.MATCHED],
            "error": self.error,
        }


# What the ledger knows of orders by their ids and client order ids.
KnownOrders = Callable[[list[str]], Awaitable[Sequence[KnownOrder]]]


async def compare_account(
    account_name: str,
    records: Mapping[str, Decimal],
    broker: Broker,
    bound_number: str | None,
    known_orders: KnownOrders,
) -> AccountComparison:
    """Ask the broker and compare. A failed answer is an error of this account, never an empty position list (F142).

    `records` are signed quantities by contract symbol; `bound_number` is the broker account number that the ledger
    knows under this name: keys of another account are reported, not compared (F27). `known_orders` asks the ledger
    about the broker's open orders.
    """
    try:
        account = await broker.account()
        if bound_number is not None and account.account_number != bound_number:
            error = f"the keys belong to broker account {account.account_number}, the ledger knows {bound_number}"
            return AccountComparison(account_name, account.account_number, error=error)
        held = await broker.positions()
        orders = await broker.open_orders()
    except BrokerError as error:
        return AccountComparison(account_name, None, error=str(error))
    theirs = {position.symbol: position.qty for position in held}
    resting = await _compare_orders(account_name, orders, {*records, *theirs}, known_orders)
    return AccountComparison(account_name, account.account_number, (*compare(records, theirs), *resting))


async def _compare_orders(
    account_name: str, orders: list[BrokerOrder], held: set[str], known_orders: KnownOrders
) -> list[Finding]:
    if not orders:
        return []
    own = OwnOrders(order_prefix(account_name)).with_known(await known_orders(names_of(orders)))
    return compare_orders(orders, own, held)


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
            lines.append(f"  {describe(finding)}")
    return "\n".join(lines)


def describe(finding: Finding) -> str:
    """One difference in one line."""
    kind = finding.kind.value.replace("_", " ").capitalize()
    if finding.kind.is_order:
        return f"{kind}: {finding.symbol} ({finding.theirs} to fill, {finding.client_order_id or finding.order_id})"
    return f"{kind}: {finding.symbol} (Alpaca {finding.theirs}, database {finding.ours})"
