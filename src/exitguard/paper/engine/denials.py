"""Refusals that a real broker sends rarely and on no rule that a client can foresee: faults switch them on."""

from decimal import Decimal

from exitguard.core.session import NEW_YORK
from exitguard.paper.engine.errors import assignment_lock, day_trade_denied, expiring_limit, trading_halted
from exitguard.paper.engine.faults import Fault
from exitguard.paper.engine.model import ZERO, Account, Asset
from exitguard.paper.engine.venue import Venue

_KINDS = ("halt_refused", "assignment_lock", "expiring_limit", "day_trade_denied")


class Denials:
    """Asks the faults of a venue whether an order that its rules allow is refused all the same."""

    def __init__(self, venue: Venue) -> None:
        self._venue = venue

    def check(self, account: Account, asset: Asset, intent: str, qty: Decimal) -> None:
        """Let an order, or a leg of one, pass. Raises ApiError with Alpaca's words."""
        faults = self._venue.faults
        if not any(map(faults.is_on, _KINDS)):
            return
        name, symbol = account.name, asset.symbol
        if asset.halted and faults.strike("halt_refused", account=name, symbol=symbol):
            raise trading_halted(symbol)
        today = self._venue.moment().astimezone(NEW_YORK).date()
        if not intent.endswith("_to_close"):
            if asset.is_option and asset.last_session == today:
                self._check_limit(account, asset, qty)
            return
        position = account.positions[symbol]
        if (
            asset.is_option
            and 0 < position.qty <= qty
            and faults.strike("assignment_lock", account=name, symbol=symbol)
        ):
            raise assignment_lock(symbol)
        if position.opened == today and faults.strike("day_trade_denied", account=name, symbol=symbol):
            raise day_trade_denied()

    def _check_limit(self, account: Account, asset: Asset, qty: Decimal) -> None:
        """Contracts that expire today, held and waiting to be bought or sold to open, of any underlying."""
        taken = sum(
            (abs(one.qty) for one in account.positions.values() if one.asset.last_session == asset.last_session), ZERO
        )
        for order in account.open.values():
            if order.asset is not None and order.asset.last_session == asset.last_session and not order.is_closing:
                taken += order.remaining

        def exceeded(fault: Fault) -> bool:
            return taken + qty > _limit(fault)

        fault = self._venue.faults.strike("expiring_limit", account=account.name, symbol=asset.symbol, applies=exceeded)
        if fault is not None:
            raise expiring_limit(qty, taken, _limit(fault))


def _limit(fault: Fault) -> Decimal:
    return Decimal(int(fault.number("limit", 0.0)))
