"""Looks for open orders that should not be there: ours without a purpose, and those of somebody else.

A finding that stands through several polls is an event with its evidence and an alarm. Nothing is cancelled here: an
order of somebody else is never ours to touch, and one of ours goes when a person asks (`exitguard sync --repair`).
"""

from collections.abc import Collection
from datetime import datetime

from exitguard.core.reconcile import Finding, FindingKind, OwnOrders, compare_orders, order_prefix
from exitguard.core.records import AppendEvent, EventType
from exitguard.manager.context import AccountContext
from exitguard.store.port import StoreUnavailable

# Polls in a row in which an order must be there before it is told: most are filled or cancelled by then.
STRIKES = 3
_EVENTS = {FindingKind.ORPHAN_ORDER: EventType.RECONCILED, FindingKind.FOREIGN_ORDER: EventType.FOREIGN_ORDER}
_MESSAGES = {
    FindingKind.ORPHAN_ORDER: "an order of ours on {symbol} has no position and no purpose left ({name}): exitguard"
    " sync --repair cancels it",
    FindingKind.FOREIGN_ORDER: "an order that exitguard did not send rests on {symbol} ({name}): it is left alone, look"
    " at the broker's dashboard",
}


class OrderWatch:
    """The open orders of one account that nobody here wants. `findings` is what the last look saw."""

    def __init__(self, context: AccountContext) -> None:
        self._context = context
        self._strikes: dict[str, int] = {}
        self.findings: list[Finding] = []

    async def look(self, held: Collection[str], now: datetime) -> None:
        """Compare the open orders that are known with our books. `held`: contracts that we or the broker hold."""
        self.findings = await self._compare(held)
        self._strikes = {_key(found): self._strikes.get(_key(found), 0) + 1 for found in self.findings}
        for finding in self.findings:
            if self._strikes[_key(finding)] == STRIKES:
                self._tell(finding, now)
        prefixes = tuple(f"{kind.value}:" for kind in _EVENTS)
        for key in sorted(self._context.alarms.active):
            if key.startswith(prefixes) and key not in self._strikes:
                self._context.alarms.clear(key, now)

    async def _compare(self, held: Collection[str]) -> list[Finding]:
        context = self._context
        orders = context.open_orders()
        prefix = order_prefix(context.name)
        legs = {
            leg.id
            for order in context.orders.values()
            if order.client_order_id.startswith(prefix)
            for leg in order.legs
        }
        resting = {
            order_id
            for tracked in context.positions.values()
            for order_id in (tracked.record.stop_order_id, tracked.record.target_order_id)
            if order_id is not None
        }
        own = OwnOrders(prefix, legs | resting, context.intents.keys())
        findings = compare_orders(orders, own, held)
        if not any(found.kind is FindingKind.ORPHAN_ORDER for found in findings):
            return findings
        try:
            entries = {execution.client_order_id for execution in await context.ledger.store.open_executions()}
        except StoreUnavailable as error:
            context.log.warning("entries cannot be read, orders without a purpose unknown", reason=str(error))
            return [found for found in findings if found.kind is not FindingKind.ORPHAN_ORDER]
        return compare_orders(orders, OwnOrders(prefix, own.order_ids, {*context.intents, *entries}), held)

    def _tell(self, finding: Finding, now: datetime) -> None:
        context = self._context
        message = _MESSAGES[finding.kind].format(
            symbol=finding.symbol, name=finding.client_order_id or finding.order_id
        )
        evidence = {"finding": finding.kind, "symbol": finding.symbol, "polls": STRIKES, "left_to_fill": finding.theirs}
        order = context.orders.get(finding.order_id or "")
        if order is not None:
            evidence |= {
                "order_id": order.id,
                "client_order_id": order.client_order_id,
                "type": order.type,
                "status": order.status,
                "submitted_at": order.submitted_at,
            }
        tracked = context.on_symbol(finding.symbol)
        number = None if tracked is None else tracked.record.id
        context.ledger.post(AppendEvent(_EVENTS[finding.kind], now, evidence, number))
        context.alarms.raise_alarm(_key(finding), finding.kind.value, message, now, order_id=finding.order_id)


def _key(finding: Finding) -> str:
    # Not ending in the id alone: alarms that end in a number belong to the position of that number.
    return f"{finding.kind.value}:{finding.order_id}:order"
