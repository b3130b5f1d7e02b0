"""Finds out that the trade stream is deaf: connected, answering pings, and silent about what REST tells (F45, F98).

A socket that is silent proves nothing, because nothing may have happened. But what REST tells of an order, the stream
has to tell too: while it owes that for several looks, it is not listening, whatever it says.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from exitguard.core.orders import BrokerOrder, OrderStatus

# Looks (about a second each) for which the stream may owe what REST told first: both are asked at the same moment.
# Looks, and not seconds: a process that stood still reads what waits in the socket before it judges.
PATIENCE = 4
# Looks between two reconnects: a stream that is opened anew too often looks like an attack to the broker.
RECONNECT_LOOKS = 60
# What changed around the moment of (re)connecting may have been told to nobody (venue time).
MARGIN = timedelta(seconds=2)
_MOST_OWED = 1000
# What every venue tells of an order that was working; the end of one that it held back may go untold.
_TOLD = frozenset({OrderStatus.FILLED, OrderStatus.CANCELED, OrderStatus.EXPIRED, OrderStatus.REJECTED})


@dataclass(slots=True)
class StreamEar:
    """What REST told and the stream has not. `deaf` is the order that proves it; None while nothing does."""

    deaf: str | None = None
    _up_since: datetime | None = None
    # Looks since REST told of it, by order id.
    _owed: dict[str, int] = field(default_factory=dict)
    _looks_to_wait: int = 0

    def up(self, now: datetime) -> None:
        """The stream listens (again); it owes nothing of what was before."""
        self._up_since = now
        self._owed.clear()
        self.deaf = None

    def down(self) -> None:
        """The stream says itself that it does not listen: nothing is expected of it."""
        self._up_since = None
        self._owed.clear()
        self.deaf = None

    def heard(self, known: BrokerOrder | None, order: BrokerOrder) -> None:
        """The stream told of this order; `known` is what was known of it before. Old news pay no debt."""
        behind = known is not None and (
            order.filled_qty < known.filled_qty or (known.status.is_terminal and not order.status.is_terminal)
        )
        if not behind:
            self._owed.pop(order.id, None)

    def told_elsewhere(self, known: BrokerOrder | None, order: BrokerOrder) -> None:
        """REST describes this order; `known` is what was known of it before, from wherever."""
        if self._up_since is None or len(self._owed) >= _MOST_OWED or not _is_news(known, order):
            return
        at = order.filled_at if order.status is OrderStatus.FILLED else order.updated_at
        if at is not None and at > self._up_since + MARGIN:
            self._owed.setdefault(order.id, 0)

    def look(self) -> None:
        """Count one look; `deaf` is set when something is owed for too long."""
        self._looks_to_wait = max(0, self._looks_to_wait - 1)
        for order_id in self._owed:
            self._owed[order_id] += 1
            if self._owed[order_id] >= PATIENCE and self.deaf is None:
                self.deaf = order_id

    def may_reconnect(self) -> bool:
        """Whether the stream may be opened anew now; if so, it may not again for `RECONNECT_LOOKS` looks."""
        if self._looks_to_wait:
            return False
        self._looks_to_wait = RECONNECT_LOOKS
        return True


def _is_news(known: BrokerOrder | None, order: BrokerOrder) -> bool:
    """Whether something happened to the order that a listening stream tells."""
    if known is None:
        return order.filled_qty > 0
    if order.filled_qty > known.filled_qty:
        return True
    return known.is_open and known.status is not OrderStatus.HELD and order.status in _TOLD
