"""Our records against the broker's: one comparison for the manager and for `exitguard sync`.

A comparison only names what it sees. Whether a finding is acted on is decided with patience elsewhere: positions lag
fills by up to ten seconds (Alpaca-API#276), and one answer is never a verdict (I11).
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum

from exitguard.core.orders import BrokerOrder, OrderSide

ZERO = Decimal(0)


class FindingKind(StrEnum):
    """How our record and the broker's relate."""

    MATCHED = "matched"
    PHANTOM = "phantom"
    UNTRACKED = "untracked"
    QUANTITY = "quantity"
    SIDE = "side"
    # Open orders at the broker: one of ours that nothing needs any longer, and one that somebody else sent.
    ORPHAN_ORDER = "orphan_order"
    FOREIGN_ORDER = "foreign_order"

    @property
    def is_order(self) -> bool:
        """Whether it is about an order and not about a position."""
        return self in (FindingKind.ORPHAN_ORDER, FindingKind.FOREIGN_ORDER)


@dataclass(frozen=True, slots=True)
class Finding:
    """One contract: signed quantities in our ledger and at the broker. Of an order: what of it is still to fill."""

    kind: FindingKind
    symbol: str
    ours: Decimal
    theirs: Decimal
    order_id: str | None = None
    client_order_id: str | None = None

    def body(self) -> dict[str, str | None]:
        """As JSON: stable names, quantities as text."""
        body: dict[str, str | None] = {
            "kind": self.kind.value,
            "symbol": self.symbol,
            "database": str(self.ours),
            "broker": str(self.theirs),
        }
        if self.order_id is not None:
            body |= {"order_id": self.order_id, "client_order_id": self.client_order_id}
        return body


@dataclass(frozen=True, slots=True)
class KnownOrder:
    """What the ledger says of one of our orders: its ids, and whether it still has a purpose of its own.

    A leg, which the broker named, has no client order id or that of the entry that it belongs to.
    """

    order_id: str | None
    client_order_id: str | None
    wanted: bool


@dataclass(frozen=True, slots=True)
class OwnOrders:
    """What our books know of orders.

    `prefix` begins every client order id of the account. `order_ids` are the broker's ids of our orders and of their
    legs, which have client order ids of the broker's making. `wanted` are client order ids of orders that still have
    a purpose of their own, entries above all.
    """

    prefix: str
    order_ids: Collection[str] = ()
    wanted: Collection[str] = ()

    def with_known(self, known: Iterable[KnownOrder]) -> "OwnOrders":
        """The same with what the ledger says."""
        rows = list(known)
        return replace(
            self,
            order_ids={*self.order_ids, *(row.order_id for row in rows if row.order_id is not None)},
            wanted={*self.wanted, *(row.client_order_id for row in rows if row.wanted and row.client_order_id)},
        )


def compare(ours: Mapping[str, Decimal], theirs: Mapping[str, Decimal]) -> list[Finding]:
    """Compare signed quantities by contract symbol, sorted by symbol; zero counts as absent on either side."""
    findings = []
    for symbol in sorted(ours.keys() | theirs.keys()):
        mine, broker = ours.get(symbol, ZERO), theirs.get(symbol, ZERO)
        if mine == 0 and broker == 0:
            continue
        findings.append(Finding(_kind(mine, broker), symbol, mine, broker))
    return findings


def order_prefix(account_name: str) -> str:
    """How every client order id of an account begins."""
    return f"xg-{account_name[:64]}-"


def compare_orders(orders: Iterable[BrokerOrder], own: OwnOrders, held: Collection[str]) -> list[Finding]:
    """Name open orders that are nobody's business or somebody else's, sorted by symbol and id.

    `held` are contracts that we or the broker hold: an order of ours on one of them may protect or close it. Every
    other order of ours without a purpose is an orphan: it could only open something.
    """
    findings: dict[str, Finding] = {}
    for order in orders:
        ours = any(_is_ours(member, own) for member in order.family())
        for member in order.family():
            if not member.is_open:
                continue
            if not ours:
                findings[member.id] = _order_finding(FindingKind.FOREIGN_ORDER, member)
            elif member.symbol not in held and not any(each.client_order_id in own.wanted for each in order.family()):
                findings[member.id] = _order_finding(FindingKind.ORPHAN_ORDER, member)
    return sorted(findings.values(), key=lambda found: (found.symbol, found.order_id or ""))


def names_of(orders: Iterable[BrokerOrder]) -> list[str]:
    """Every id under which the ledger may know these orders and their legs."""
    members = [member for order in orders for member in order.family()]
    return sorted({name for each in members for name in (each.id, each.client_order_id, each.replaces) if name})


def _is_ours(order: BrokerOrder, own: OwnOrders) -> bool:
    return order.client_order_id.startswith(own.prefix) or order.id in own.order_ids or order.replaces in own.order_ids


def _order_finding(kind: FindingKind, order: BrokerOrder) -> Finding:
    left = order.qty - order.filled_qty
    signed = left if order.side is OrderSide.BUY else -left
    return Finding(kind, order.symbol, ZERO, signed, order.id, order.client_order_id)


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
