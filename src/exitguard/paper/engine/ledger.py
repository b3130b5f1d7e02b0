"""Fills: what an execution does to its order, the position, the cash and the activities."""

from decimal import Decimal

from exitguard.core.session import NEW_YORK
from exitguard.paper.engine.model import ZERO, Account, Asset, Execution, Order, Position
from exitguard.paper.engine.venue import Venue
from exitguard.paper.engine.views import position_json
from exitguard.paper.engine.wire import activity_id, text, timestamp

_LAG_SECONDS = 10.0


class Ledger:
    """Books executions and movements without an order."""

    def __init__(self, venue: Venue) -> None:
        self._venue = venue

    def move(self, account: Account, asset: Asset, change: Decimal, price: Decimal) -> Decimal:
        """Change a position by `change` units at `price` dollars a share, and pay for it; answers the new quantity.

        The average price moves when a position grows or turns, and stays when it shrinks.
        """
        self._show_late(account, asset)
        self._venue.note_account(account)
        account.cash -= change * price * asset.multiplier
        position = account.positions.get(asset.symbol)
        if position is None:
            today = self._venue.moment().astimezone(NEW_YORK).date()
            account.positions[asset.symbol] = Position(asset, change, price, today)
            return change
        before = position.qty
        after = before + change
        if not after:
            del account.positions[asset.symbol]
            return ZERO
        if (before > 0) == (change > 0):
            position.average = (position.average * before + price * change) / after
        elif (before > 0) != (after > 0):
            position.average = price
            position.opened = self._venue.moment().astimezone(NEW_YORK).date()
        position.qty = after
        return after

    def _show_late(self, account: Account, asset: Asset) -> None:
        """The positions_lag fault: GET positions goes on showing what was there before this change."""
        venue = self._venue
        symbol = asset.symbol
        fault = venue.faults.strike("positions_lag", account=account.name, symbol=symbol)
        if fault is None or symbol in account.lagging:
            return
        position = account.positions.get(symbol)
        account.lagging[symbol] = None if position is None else position_json(account, position, venue.today())

        def catch_up() -> None:
            account.lagging.pop(symbol, None)

        venue.schedule(fault.seconds(_LAG_SECONDS), catch_up)

    def book(self, order: Order, asset: Asset, qty: Decimal, price: Decimal) -> Execution:
        """Book one execution of an order; whoever calls tells the listeners and looks after the order's group."""
        venue = self._venue
        account = order.account
        self.move(account, asset, qty if order.side == "buy" else -qty, price)
        stamp = venue.stamp()
        order.updated = stamp
        order.filled_qty += qty
        order.filled_value += qty * price
        complete = order.qty is None or order.filled_qty >= order.qty
        if complete:
            order.status = "filled"
            order.filled = stamp
            venue.retire(order)
        else:
            venue.note(order)
            if order.status in ("new", "accepted"):
                order.status = "partially_filled"
            if order.held:
                venue.hold(order, max(order.held - qty, ZERO))
            venue.reserve(order, order.unit_cost * order.remaining)
        execution = Execution(
            account.name,
            order.id,
            order.client_order_id,
            account.identifiers.uuid(),
            asset.symbol,
            order.side,
            qty,
            price,
            stamp,
        )
        venue.executions.append(execution)
        self._record(order, execution, complete)
        return execution

    def _record(self, order: Order, execution: Execution, complete: bool) -> None:
        leaves = ZERO if order.qty is None else max(order.qty - order.filled_qty, ZERO)
        account = order.account
        opens_short = order.intent == "sell_to_open" and order.asset is not None and not order.asset.is_option
        account.add_activity(
            execution.at,
            {
                "id": activity_id(execution.at, account.identifiers.uuid()),
                "activity_type": "FILL",
                "transaction_time": timestamp(execution.at),
                "type": "fill" if complete else "partial_fill",
                "price": text(execution.price),
                "qty": text(execution.qty),
                "side": "sell_short" if opens_short else order.side,
                "symbol": execution.symbol,
                "leaves_qty": text(leaves),
                "order_id": order.id,
                "cum_qty": text(order.filled_qty),
                "order_status": order.status,
            },
        )
