"""Whether resting orders at the broker protect a stock position: a live stop and a live target for all of it."""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from exitguard.core.evaluate import Bracket
from exitguard.core.instrument import Instrument
from exitguard.core.orders import BrokerOrder, OrderType
from exitguard.core.position import PositionSide

STOP_TYPES = frozenset({OrderType.STOP, OrderType.STOP_LIMIT, OrderType.TRAILING_STOP})


@dataclass(frozen=True, slots=True)
class BracketView:
    """State of the protection, and the ids of the orders that give it."""

    state: Bracket
    stop_order_id: str | None = None
    target_order_id: str | None = None


def view_bracket(
    instrument: Instrument, side: PositionSide, held: Decimal, open_orders: Iterable[BrokerOrder]
) -> BracketView:
    """Look at the open orders of one contract.

    Options and fractional quantities cannot carry brackets at Alpaca. While an opening order is still working its
    legs are held back by the broker, so nothing is missing yet: the manager's own evaluation protects the filled
    part. A leg that waits as `held` behind its sibling counts as live.
    """
    if instrument.is_option or held != held.to_integral_value() or held <= 0:
        return BracketView(Bracket.NOT_NEEDED)
    stops: list[BrokerOrder] = []
    targets: list[BrokerOrder] = []
    for order in open_orders:
        if order.symbol != instrument.symbol or not order.is_open:
            continue
        if order.side is side.opening:
            return BracketView(Bracket.NOT_NEEDED)
        if order.type in STOP_TYPES:
            stops.append(order)
        elif order.type is OrderType.LIMIT:
            targets.append(order)
    stop_id = stops[0].id if stops else None
    target_id = targets[0].id if targets else None
    covered = _remaining(stops) >= held and _remaining(targets) >= held
    return BracketView(Bracket.COMPLETE if covered else Bracket.MISSING, stop_id, target_id)


def _remaining(orders: Iterable[BrokerOrder]) -> Decimal:
    return sum((order.qty - order.filled_qty for order in orders), Decimal(0))
