"""Takes a position under management that nobody told us of, with its true entry where the broker's fills show it."""

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

from exitguard.core.orders import BrokerPosition, Fill, OrderSide
from exitguard.core.position import PositionSide
from exitguard.manager.context import AccountContext, Tally
from exitguard.manager.fills import part_id
from exitguard.manager.lapses import Lapses
from exitguard.manager.opening import Opening

# How far back fills are read for the true entry of an untracked position.
ADOPTION_HISTORY = timedelta(days=90)
# Fills older than this are in every answer about positions, slow ones included (they lag by ten seconds at most).
POSITIONS_LAG = timedelta(seconds=30)


class Adoption:
    """Adopts positions of one account."""

    def __init__(self, context: AccountContext, opening: Opening, lapses: Lapses) -> None:
        self._context = context
        self._opening = opening
        self._lapses = lapses

    async def adopt(self, symbol: str, theirs: BrokerPosition, now: datetime, *, unproven: bool) -> None:
        """Adopt on the evidence of fills; without it (`unproven`) only once the position has stood for long.

        Positions lag fills by seconds: while both disagree about the last moments, the next answers may agree. Raises
        BrokerError.
        """
        side = PositionSide.LONG if theirs.qty > 0 else PositionSide.SHORT
        history = [f for f in await self._context.broker.fills(after=now - ADOPTION_HISTORY) if f.symbol == symbol]
        await self._lapses.note_earlier(symbol, now)
        if self._context.on_symbol(symbol) is not None:
            return  # discovered while we asked
        agreed = theirs.qty == sum((f.qty if f.side is OrderSide.BUY else -f.qty for f in history), Decimal(0))
        if not agreed and any(now - fill.at < POSITIONS_LAG for fill in history):
            return
        fills = opening_fills(history, symbol, theirs.qty)
        if not self._are_unbooked(fills, history):
            fills = []  # they belong to a position that is closed: the answer lags
        fills = self._at_what_is_left(fills, history)
        evidence = "fill activities"
        if not fills:
            if history and not unproven:
                return
            fills = [
                Fill(
                    f"adopted:{symbol}:{now.isoformat()}",
                    f"adopted:{symbol}:{now.isoformat()}",
                    None,
                    symbol,
                    side.opening,
                    abs(theirs.qty),
                    theirs.avg_entry_price,
                    now,
                )
            ]
            evidence = "broker position; no fills found, entry time unknown"
        self._opening.adopt(symbol, side, fills, history, now, evidence)

    def _at_what_is_left(self, chosen: list[Fill], history: list[Fill]) -> list[Fill]:
        """The chosen fills, the first at the price that an order which is booked in part leaves for it (F58).

        What was booked may have been derived from the order's average, in which the rest of its fills is counted too.
        """
        if not chosen:
            return chosen
        first, tally = chosen[0], self._context.tally(chosen[0].order_id)
        whole = _sums(history, first.order_id)
        wanted = _sums(chosen, first.order_id)
        if not tally.qty or tally.qty + wanted.qty != whole.qty:
            return chosen
        off = whole.value - tally.value - wanted.value
        return [replace(first, price=max(first.price + off / first.qty, Decimal(0))), *chosen[1:]]

    def _are_unbooked(self, chosen: list[Fill], history: list[Fill]) -> bool:
        """Whether the books have room for these fills: what was booked of each order and they are at most its fills."""
        for order_id in {fill.order_id for fill in chosen}:
            wanted = _sums(chosen, order_id).qty
            if self._context.tally(order_id).qty + wanted > _sums(history, order_id).qty:
                return False
        return True


def _sums(fills: list[Fill], order_id: str) -> Tally:
    """What the fills of one order add up to."""
    total = Tally()
    for fill in fills:
        if fill.order_id == order_id:
            total.add(fill.qty, fill.price)
    return total


def opening_fills(fills: list[Fill], symbol: str, qty: Decimal) -> list[Fill]:
    """The fills since the contract was last flat, when they add up to the signed quantity `qty`; else none.

    Reads backwards from now: the running quantity before each fill must reach zero where the episode began. A fill
    that turned the position around belongs to it with the part that opened it, under an id that says how much of its
    order is accounted for.
    """
    mine = sorted((f for f in fills if f.symbol == symbol), key=lambda f: (f.at, f.execution_id))
    left = qty
    for index in range(len(mine) - 1, -1, -1):
        fill = mine[index]
        left -= fill.qty if fill.side is OrderSide.BUY else -fill.qty
        if left == 0:
            return mine[index:]
        if (left > 0) != (qty > 0):
            filled = sum((f.qty for f in mine[: index + 1] if f.order_id == fill.order_id), Decimal(0))
            opened = fill.qty - abs(left)
            turned = replace(fill, qty=opened, execution_id=part_id(fill.order_id, filled - opened, filled))
            return [turned, *mine[index + 1 :]] if opened > 0 else []
    return []
