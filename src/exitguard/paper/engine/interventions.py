"""Event faults: what people and the broker do to an account behind its owner's back."""

from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from exitguard.paper.engine.corporate import CorporateActions
from exitguard.paper.engine.desk import Desk
from exitguard.paper.engine.errors import unprocessable
from exitguard.paper.engine.faults import EventTarget, Fault
from exitguard.paper.engine.lifecycle import Lifecycle
from exitguard.paper.engine.model import ONE, Account, Asset, Order, Position
from exitguard.paper.engine.positions import Positions
from exitguard.paper.engine.request import Draft
from exitguard.paper.engine.settlement import Settlement
from exitguard.paper.engine.venue import Venue

_FLIP_TRIES = 1_000
# Events that need a position, and which positions they can hit.
_ON_POSITIONS: dict[str, Callable[[Position], bool]] = {
    "external_close": lambda position: True,
    "external_add": lambda position: True,
    "external_flip": lambda position: not position.asset.is_option,
    "liquidation": lambda position: True,
    "assignment": lambda position: position.asset.is_option and position.qty < 0,
    "exercise": lambda position: position.asset.is_option and position.qty > 0,
}


class Interventions:
    """Carries out event faults; each needs the account and symbol that it names, and fails loudly without them."""

    def __init__(
        self,
        venue: Venue,
        desk: Desk,
        lifecycle: Lifecycle,
        positions: Positions,
        settlement: Settlement,
        corporate: CorporateActions,
    ) -> None:
        self._venue = venue
        self._desk = desk
        self._lifecycle = lifecycle
        self._positions = positions
        self._settlement = settlement
        self._corporate = corporate

    def happen(self, fault: Fault) -> None:
        """Carry an event fault out. Raises ApiError 422 when it names nothing that exists."""
        act = getattr(self, f"_{fault.kind}")
        act(fault)

    def targets(self, fault: Fault) -> list[EventTarget]:
        """Everything that an event could hit now, within the account and the symbol that it may name."""
        kind = fault.kind
        found: list[EventTarget]
        if kind in _ON_POSITIONS:
            held = (
                (account.name, position)
                for account in self._venue.accounts.values()
                for position in account.positions.values()
            )
            found = [(name, position.asset.symbol) for name, position in held if _ON_POSITIONS[kind](position)]
        elif kind in ("account_block", "account_unblock"):
            blocked = kind == "account_unblock"
            found = [(one.name, None) for one in self._venue.accounts.values() if one.trading_blocked == blocked]
        else:
            stocks = [asset for asset in self._venue.assets.values() if not asset.is_option]
            if kind in ("halt", "resume"):
                stocks = [asset for asset in stocks if asset.halted == (kind == "resume")]
            found = [(None, asset.symbol) for asset in stocks]
        return [
            (account, symbol)
            for account, symbol in found
            if fault.account in (None, account) and fault.symbol in (None, symbol)
        ]

    # An account's orders and positions --------------------------------------------------------------------------------

    def _external_close(self, fault: Fault) -> None:
        account, position = self._held(fault)
        self._close_by_hand(account, position)

    def _close_by_hand(self, account: Account, position: Position) -> Order:
        symbol = position.asset.symbol
        for order in [order for order in account.open.values() if order.symbol == symbol]:
            self._lifecycle.finish(order, "canceled")
        return self._positions.close_quantity(account, position, abs(position.qty))

    def _external_add(self, fault: Fault) -> None:
        account, position = self._held(fault)
        side = "buy" if position.qty > 0 else "sell"
        self._open_by_hand(account, position.asset, side, self._number(fault, "qty", ONE))

    def _external_flip(self, fault: Fault) -> None:
        account, position = self._held(fault)
        asset = position.asset
        if asset.is_option:
            raise unprocessable("an option position cannot be flipped: there are no uncovered options here")
        qty = self._number(fault, "qty", abs(position.qty).to_integral_value() or ONE)
        side = "sell" if position.qty > 0 else "buy"
        closing = self._close_by_hand(account, position)
        self._after(closing, lambda: self._open_by_hand(account, asset, side, qty), _FLIP_TRIES)

    def _after(self, order: Order, act: Callable[[], None], tries: int) -> None:
        """Act once an order is filled; give up when it ends otherwise or takes for ever."""

        def look() -> None:
            if order.status == "filled":
                act()
            elif order.is_open and tries > 0:
                self._after(order, act, tries - 1)

        self._venue.schedule(max(self._venue.settings.accept_delay, 0.001), look)

    def _open_by_hand(self, account: Account, asset: Asset, side: str, qty: Decimal) -> None:
        """A person's market order; standing orders of the other side would make it a wash trade and are cancelled."""
        draft = Draft(asset.symbol, side, "market", "day", qty)
        for other in account.opposite_open(asset.symbol, side):
            self._lifecycle.finish(other, "canceled")
        self._desk.submit_draft(account, draft)

    def _liquidation(self, fault: Fault) -> None:
        account, position = self._held(fault)
        self._settlement.liquidate(account, position)

    def _assignment(self, fault: Fault) -> None:
        account, position = self._held(fault)
        if not position.asset.is_option or position.qty >= 0:
            raise unprocessable("only a short option position can be assigned")
        self._settlement.assign(account, position.asset, -position.qty)

    def _exercise(self, fault: Fault) -> None:
        account, position = self._held(fault)
        if not position.asset.is_option or position.qty <= 0:
            raise unprocessable("only a long option position can be exercised")
        self._settlement.exercise_contracts(account, position.asset, position.qty)

    def _account_block(self, fault: Fault) -> None:
        self._account(fault).trading_blocked = True

    def _account_unblock(self, fault: Fault) -> None:
        self._account(fault).trading_blocked = False

    # Symbols ----------------------------------------------------------------------------------------------------------

    def _halt(self, fault: Fault) -> None:
        self.halt(self._asset(fault).symbol)

    def _resume(self, fault: Fault) -> None:
        self.resume(self._asset(fault).symbol)

    def halt(self, symbol: str) -> None:
        """Stop trading in a symbol, and in its options."""
        for asset in self._with_options(symbol):
            asset.halted = True

    def resume(self, symbol: str) -> None:
        """Let a symbol and its options trade again; the next quote matches."""
        for asset in self._with_options(symbol):
            asset.halted = False

    def _with_options(self, symbol: str) -> list[Asset]:
        asset = self._venue.assets.get(symbol)
        if asset is None:
            raise unprocessable(f"asset not found for {symbol[:64]}")
        return [asset, *(other for other in self._venue.assets.values() if other.underlying is asset)]

    def _split(self, fault: Fault) -> None:
        stock = self._stock(fault)
        self._corporate.split(stock, self._number(fault, "ratio", Decimal(2)))

    def _symbol_change(self, fault: Fault) -> None:
        new = fault.parameters.get("new_symbol")
        if not isinstance(new, str):
            raise unprocessable("symbol_change needs parameters.new_symbol")
        self._corporate.rename(self._stock(fault), new)

    def _trade_correction(self, fault: Fault) -> None:
        # Prints are the market's: the host takes them back. Nothing that was traded here is undone.
        self._stock(fault)

    def _trade_cancel(self, fault: Fault) -> None:
        self._stock(fault)

    # Arguments --------------------------------------------------------------------------------------------------------

    def _account(self, fault: Fault) -> Account:
        account = self._venue.accounts.get(fault.account or "")
        if account is None:
            known = sorted(self._venue.accounts)
            raise unprocessable(f"{fault.kind} needs an account, one of {known}, was {fault.account!r}")
        return account

    def _asset(self, fault: Fault) -> Asset:
        asset = self._venue.assets.get(fault.symbol or "")
        if asset is None:
            raise unprocessable(f"{fault.kind} needs a listed symbol, was {fault.symbol!r}")
        return asset

    def _stock(self, fault: Fault) -> Asset:
        asset = self._asset(fault)
        if asset.is_option:
            raise unprocessable(f"{fault.kind} needs a stock, {asset.symbol} is an option contract")
        return asset

    def _held(self, fault: Fault) -> tuple[Account, Position]:
        account = self._account(fault)
        position = account.positions.get(self._asset(fault).symbol)
        if position is None:
            raise unprocessable(f"account {account.name} holds no {fault.symbol}")
        return account, position

    @staticmethod
    def _number(fault: Fault, name: str, default: Decimal) -> Decimal:
        return read_number(fault.parameters, name, default)


def read_number(parameters: Mapping[str, Any], name: str, default: Decimal) -> Decimal:
    """A positive numeric parameter. Raises ApiError 422."""
    try:
        number = Decimal(str(parameters.get(name, default)))
    except InvalidOperation:
        raise unprocessable(f"parameters.{name} must be a number") from None
    if not number.is_finite() or number <= 0:
        raise unprocessable(f"parameters.{name} must be a number above zero")
    return number
