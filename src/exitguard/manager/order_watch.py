"""Looks for open orders that should not be there: ours without a purpose, and those of somebody else.

A finding that stands through several polls is an event with its evidence and an alarm. Nothing is cancelled here: an
order of somebody else is never ours to touch, and one of ours goes when a person asks (`exitguard sync --repair`).
"""

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime

from exitguard.core.orders import BrokerOrder
from exitguard.core.reconcile import Finding, FindingKind, OwnOrders, compare_orders, names_of, order_prefix
from exitguard.core.records import AppendEvent, EventType
from exitguard.manager.context import AccountContext
from exitguard.manager.pieces import in_pieces
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
        """Compare the open orders that are known with our books. `held`: contracts that we or the broker hold.

        Only the ledger knows all that was ever ours. While it does not answer nothing new is told, and what was told
        stands as long as its order rests.
        """
        suspects, own = await self._suspects(held)
        undecided: set[str] = set()
        try:
            self.findings = await self._judge(suspects, own, held)
        except StoreUnavailable as error:
            self._context.log.warning("whose the open orders are cannot be read", reason=str(error))
            resting = {member.id for order in suspects for member in order.family()}
            self.findings = [found for found in self.findings if found.order_id in resting]
            self._strikes = {_key(found): self._strikes[_key(found)] for found in self.findings}
            undecided = {_name(kind, order_id) for kind in _EVENTS for order_id in resting}
        else:
            self._strikes = {_key(found): self._strikes.get(_key(found), 0) + 1 for found in self.findings}
            for finding in self.findings:
                if self._strikes[_key(finding)] == STRIKES:
                    self._tell(finding, now)
        prefixes = tuple(f"{kind.value}:" for kind in _EVENTS)
        for key in sorted(self._context.alarms.active):
            if key.startswith(prefixes) and key not in self._strikes and key not in undecided:
                self._context.alarms.clear(key, now)

    async def _suspects(self, held: Collection[str]) -> tuple[list[BrokerOrder], OwnOrders]:
        """Open orders that by themselves and our memory seem to be nobody's or somebody else's, and what we remember.

        A leg is looked at with the order that it belongs to: alone it has no purpose and a strange name.
        """
        context = self._context
        legs: set[str] = set()
        resting: set[str] = set()
        async for orders in in_pieces(context.open_orders()):
            legs.update(leg.id for order in orders for leg in order.legs)
        async for positions in in_pieces(list(context.positions.values())):
            rows = (tracked.record for tracked in positions)
            resting.update(leg for row in rows for leg in (row.stop_order_id, row.target_order_id) if leg is not None)
        own = OwnOrders(order_prefix(context.name), resting, set(context.intents))
        suspects: list[BrokerOrder] = []
        async for orders in in_pieces(context.open_orders()):
            suspects += [o for o in orders if o.id not in legs and compare_orders([o], own, held)]
        return suspects, own

    async def _judge(self, suspects: list[BrokerOrder], own: OwnOrders, held: Collection[str]) -> list[Finding]:
        """What is wrong with the suspects once all is known. Raises StoreUnavailable."""
        if not suspects:
            return []
        context = self._context
        legs: set[str] = set()
        async for orders in in_pieces(list(context.orders.values())):
            legs.update(leg.id for o in orders if o.client_order_id.startswith(own.prefix) for leg in o.legs)
        known = await context.ledger.store.own_orders(names_of(suspects))
        told = replace(own, order_ids={*own.order_ids, *legs}).with_known(known)
        findings: list[Finding] = []
        async for orders in in_pieces(suspects):
            findings += compare_orders(orders, told, held)
        return sorted(findings, key=lambda found: (found.symbol, found.order_id or ""))

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


def _key(found: Finding) -> str:
    return _name(found.kind, found.order_id)


def _name(kind: FindingKind, order_id: str | None) -> str:
    # Not ending in the id alone: alarms that end in a number belong to the position of that number.
    return f"{kind.value}:{order_id}:order"
