"""From the broker's reports to fills, once each.

Every report of an order carries its cumulative filled quantity. The tally of what is booked for that order makes any
report idempotent: duplicates and late ones add nothing, a gap is closed by the difference at the price that the
average implies. So a stream that loses, repeats or reorders messages, and REST answers in between, all fold to the
same position (F40, F45).
"""

from datetime import datetime
from decimal import Decimal

from exitguard.core.orders import BrokerOrder, Fill
from exitguard.manager.context import AccountContext, Counted, Tally

_PRICE_DIGITS = Decimal("0.00000001")


def new_fill(context: AccountContext, order: BrokerOrder, reported: Fill | None, at: datetime) -> Fill | None:
    """The part of `order` that is not booked yet, as one fill; None when nothing is new. Books it in the tally.

    `reported` is the single execution of a stream message; it is used as it stands when it is exactly what is missing.
    Otherwise the fill is derived from the order's cumulative quantity and average price, under a deterministic id.
    """
    tally = context.tally(order.id)
    qty = order.filled_qty - tally.qty
    if qty <= 0:
        return None
    if reported is not None and reported.qty == qty:
        fill = reported
    else:
        if order.filled_avg_price is None:
            return None  # a quantity without a price: wait for a report that has both
        price = order.filled_avg_price
        if tally.qty:
            price = ((price * order.filled_qty - tally.value) / qty).quantize(_PRICE_DIGITS)
        moment = order.filled_at or order.updated_at or at
        fill = Fill(
            execution_id=derived_id(order.id, order.filled_qty),
            order_id=order.id,
            client_order_id=order.client_order_id,
            symbol=order.symbol,
            side=order.side,
            qty=qty,
            price=max(price, Decimal(0)),
            at=moment,
        )
    tally.add(fill.qty, fill.price)
    return fill


def derived_id(order_id: str, filled: Decimal) -> str:
    """Id of a fill that no single execution stands for: its order, and how much of the order it accounts for."""
    return f"{order_id}@{filled.normalize():f}"


def part_id(order_id: str, begun: Decimal, filled: Decimal) -> str:
    """Id of the part of an order's fills between two of its cumulative quantities.

    Never the id of what was booked up to either: the part before it may be found, and booked, later.
    """
    return f"{order_id}@{begun.normalize():f}..{filled.normalize():f}"


def unbooked_part(tally: Tally, fill: Fill) -> Counted | None:
    """What a recorded fill accounts for beyond itself: of an order that turned a position only a part is recorded."""
    order_id, _, filled = fill.execution_id.partition("@")
    if order_id != fill.order_id or not filled:
        return None
    missing = Decimal(filled.rpartition("..")[2]) - tally.qty
    return Counted(order_id, fill.symbol, fill.at, missing, missing * fill.price) if missing > 0 else None
