"""Questions about positions, and closing them."""

from collections.abc import Mapping
from decimal import ROUND_DOWN, Decimal
from typing import Any

from exitguard.paper.engine.balances import available_quantity
from exitguard.paper.engine.desk import Desk
from exitguard.paper.engine.errors import ApiError, insufficient_quantity, invalid, not_found, unprocessable
from exitguard.paper.engine.fields import decimal_field, flag_field, quantity_field
from exitguard.paper.engine.lifecycle import Lifecycle
from exitguard.paper.engine.model import Account, Order, Position
from exitguard.paper.engine.request import Draft
from exitguard.paper.engine.venue import Venue
from exitguard.paper.engine.views import Json, order_json, position_json

_HUNDRED = Decimal(100)
_STEP = Decimal("0.000000001")


class Positions:
    """The positions of an account as REST shows and closes them."""

    def __init__(self, venue: Venue, desk: Desk, lifecycle: Lifecycle) -> None:
        self._venue = venue
        self._desk = desk
        self._lifecycle = lifecycle

    def list_all(self, account: Account) -> list[Json]:
        """GET /v2/positions; the positions_lag fault shows an older state."""
        today = self._venue.today()
        lagging = account.lagging
        shown = [
            position_json(account, position, today)
            for symbol, position in account.positions.items()
            if symbol not in lagging
        ]
        return shown + [view for view in lagging.values() if view is not None]

    def find(self, account: Account, symbol_or_id: str) -> Position:
        """A position by symbol or asset id. Raises ApiError 404."""
        asset = self._venue.asset(symbol_or_id.replace("/", "."))
        position = account.positions.get(asset.symbol) if asset is not None else None
        if position is None:
            raise not_found("position does not exist")
        return position

    def get(self, account: Account, symbol_or_id: str) -> Json:
        """GET /v2/positions/{symbol or asset id}. Raises ApiError 404."""
        asset = self._venue.asset(symbol_or_id.replace("/", "."))
        if asset is not None and asset.symbol in account.lagging:
            view = account.lagging[asset.symbol]
            if view is None:
                raise not_found("position does not exist")
            return view
        return position_json(account, self.find(account, symbol_or_id), self._venue.today())

    def close(self, account: Account, symbol_or_id: str, params: Mapping[str, Any]) -> Order:
        """DELETE /v2/positions/{symbol or asset id}: a market order for all, `qty` or `percentage`. Raises ApiError."""
        position = self.find(account, symbol_or_id)
        qty = quantity_field(params, "qty")
        percentage = decimal_field(params, "percentage")
        if qty is not None and percentage is not None:
            raise invalid("only one of qty and percentage is accepted")
        if percentage is not None:
            qty = _share(position, percentage)
        return self.close_quantity(account, position, qty if qty is not None else abs(position.qty))

    def close_quantity(
        self, account: Account, position: Position, qty: Decimal, client_order_id: str | None = None
    ) -> Order:
        """Send the market order that closes `qty` of a position. Raises ApiError.

        With a client order id the order is the broker's own.
        """
        asset = position.asset
        if qty > available_quantity(account, position):
            held = abs(position.qty) - available_quantity(account, position)
            raise insufficient_quantity(asset.symbol, qty, abs(position.qty), held)
        side = "sell" if position.qty > 0 else "buy"
        draft = Draft(asset.symbol, side, "market", "day", qty, client_order_id=client_order_id)
        draft.by_broker = client_order_id is not None
        return self._desk.submit_draft(account, draft)

    def close_all(self, account: Account, params: Mapping[str, Any]) -> list[Json]:
        """DELETE /v2/positions: one item a position, each with its own status; shorts first, they free the margin."""
        if flag_field(params, "cancel_orders"):
            for order in list(account.open.values()):
                self._lifecycle.finish(order, "canceled")
        items = []
        for position in sorted(account.positions.values(), key=lambda position: position.qty > 0):
            symbol = position.asset.symbol
            try:
                order = self.close_quantity(account, position, abs(position.qty))
                items.append({"symbol": symbol, "status": 200, "body": order_json(order)})
            except ApiError as refusal:
                items.append({"symbol": symbol, "status": refusal.status, "body": refusal.body})
        return items


def _share(position: Position, percentage: Decimal) -> Decimal:
    if not 0 < percentage <= _HUNDRED:
        raise invalid("percentage must be > 0 and <= 100")
    qty = abs(position.qty) * percentage / _HUNDRED
    qty = qty.to_integral_value(ROUND_DOWN) if position.asset.is_option else qty.quantize(_STEP, ROUND_DOWN)
    if not qty:
        raise unprocessable("percentage of the position is less than one contract or share")
    return qty
