"""Options at the end of their life: the 15:30 liquidation, exercise, assignment, expiry.

Positions and cash change at once and no trade update tells of it; the activities (OPEXC, OPASN, OPEXP, OPTRD) appear on
the next session's morning, as on Alpaca's paper venue.
"""

from datetime import date
from decimal import Decimal

from exitguard.core.session import NEW_YORK
from exitguard.paper.engine.balances import available_quantity, balances, intrinsic
from exitguard.paper.engine.errors import ApiError, forbidden, not_found, unprocessable
from exitguard.paper.engine.ledger import Ledger
from exitguard.paper.engine.lifecycle import Lifecycle
from exitguard.paper.engine.model import ZERO, Account, Asset, Position
from exitguard.paper.engine.positions import Positions
from exitguard.paper.engine.venue import Venue
from exitguard.paper.engine.views import Json
from exitguard.paper.engine.wire import activity_id, money, new_york_date, text, timestamp

_EXCHANGES = {"NC": "Name Change", "OPCA": "Option Contract Adjustment"}
EXERCISE_THRESHOLD = Decimal("0.01")


class Settlement:
    """Exercises, assigns, expires and liquidates option positions, and posts the activities of all that."""

    def __init__(self, venue: Venue, ledger: Ledger, lifecycle: Lifecycle, positions: Positions) -> None:
        self._venue = venue
        self._ledger = ledger
        self._lifecycle = lifecycle
        self._positions = positions

    # End of the last session ------------------------------------------------------------------------------------------

    def liquidate_expiring(self, day: date) -> None:
        """From 15:30 on the last day: sell out long options in the money whose exercise the account cannot bear."""
        for account, position in self._expiring(day):
            asset = position.asset
            if position.qty <= 0 or not self._is_in_the_money(asset) or asset.symbol in account.do_not_exercise:
                continue
            if not self._can_exercise(account, asset, position.qty):
                self.liquidate(account, position)

    def liquidate(self, account: Account, position: Position) -> None:
        """The broker closes a position with an order of its own, after cancelling what stands in the way."""
        symbol = position.asset.symbol
        standing = [order for order in account.open.values() if order.symbol == symbol]
        if any(order.client_order_id.startswith("liquidation-") for order in standing):
            return
        for order in standing:
            self._lifecycle.finish(order, "canceled")
        own_id = f"liquidation-{account.identifiers.uuid()}"
        self._positions.close_quantity(account, position, abs(position.qty), own_id)

    def settle_expired(self, day: date) -> None:
        """After the close of the last session: exercise what is in the money, assign shorts, let the rest expire."""
        for account, position in self._expiring(day):
            asset = position.asset
            qty = position.qty
            if not self._is_in_the_money(asset):
                self.expire(account, asset)
            elif qty < 0:
                self.assign(account, asset, -qty)
            elif asset.symbol not in account.do_not_exercise and self._can_exercise(account, asset, qty):
                self.exercise_contracts(account, asset, qty)
            else:
                self.expire(account, asset)
        for asset in self._venue.assets.values():
            if asset.last_session == day:
                asset.status = "inactive"
                asset.tradable = False

    def _expiring(self, day: date) -> list[tuple[Account, Position]]:
        return [
            (account, position)
            for account in self._venue.accounts.values()
            for position in list(account.positions.values())
            if position.asset.last_session == day
        ]

    @staticmethod
    def _is_in_the_money(asset: Asset) -> bool:
        return asset.underlying is not None and intrinsic(asset, asset.underlying.price) >= EXERCISE_THRESHOLD

    @staticmethod
    def _can_exercise(account: Account, asset: Asset, qty: Decimal) -> bool:
        """A call needs its strike in buying power, a put its shares free."""
        underlying = asset.underlying
        if underlying is None:
            return False
        if asset.right == "call":
            return asset.strike * asset.multiplier * qty <= balances(account).buying_power
        position = account.positions.get(underlying.symbol)
        return position is not None and available_quantity(account, position) >= asset.multiplier * qty

    @staticmethod
    def _cannot_exercise(account: Account, asset: Asset, qty: Decimal) -> ApiError:
        underlying = asset.underlying
        if asset.right == "call" or underlying is None:
            required = text(asset.strike * asset.multiplier * qty)
            available = text(balances(account).buying_power)
            return forbidden(f"insufficient cash available (required: {required}, available: {available})")
        position = account.positions.get(underlying.symbol)
        free = ZERO if position is None else available_quantity(account, position)
        return forbidden(
            f"insufficient underlying qty available for deliverable: {underlying.symbol} "
            f"(requested: {text(asset.multiplier * qty)}, available: {text(free)})"
        )

    # Movements --------------------------------------------------------------------------------------------------------

    def exercise_contracts(self, account: Account, asset: Asset, qty: Decimal) -> None:
        """Turn long options into a trade of the underlying at the strike."""
        group = self._remove(account, asset, -qty, "OPEXC", "Option Exercise")
        self._trade_underlying(account, asset, qty if asset.right == "call" else -qty, group)

    def assign(self, account: Account, asset: Asset, qty: Decimal) -> None:
        """Somebody exercises against short options."""
        group = self._remove(account, asset, qty, "OPASN", "Option Assignment")
        self._trade_underlying(account, asset, -qty if asset.right == "call" else qty, group)

    def expire(self, account: Account, asset: Asset) -> None:
        """Let a position expire worthless."""
        self._remove(account, asset, -account.position_qty(asset.symbol), "OPEXP", "Option Expiry")

    def _remove(self, account: Account, asset: Asset, change: Decimal, kind: str, what: str) -> str:
        """Take contracts off a position; the id of the group of activities that this begins."""
        for order in [order for order in account.open.values() if order.symbol == asset.symbol]:
            self._lifecycle.finish(order, "canceled")
        self._ledger.move(account, asset, change, ZERO)
        group = account.identifiers.uuid()
        self._remember(account, kind, asset.symbol, change, ZERO, ZERO, f"{what} {asset.symbol}", group)
        return group

    def _trade_underlying(self, account: Account, asset: Asset, contracts: Decimal, group: str) -> None:
        underlying = asset.underlying
        if underlying is None:
            return
        shares = contracts * asset.multiplier
        self._ledger.move(account, underlying, shares, asset.strike)
        net = -shares * asset.strike
        what = f"Option Trade {asset.symbol}"
        self._remember(account, "OPTRD", underlying.symbol, shares, asset.strike, net, what, group)

    @staticmethod
    def _remember(
        account: Account,
        kind: str,
        symbol: str,
        qty: Decimal,
        price: Decimal,
        net: Decimal,
        description: str,
        group: str,
    ) -> None:
        account.pending_activities.append(
            {
                "activity_type": kind,
                "activity_sub_type": "",
                "net_amount": money(net),
                "symbol": symbol,
                "qty": text(qty),
                "price": text(price),
                "per_share_amount": text(price),
                "description": description,
                "status": "executed",
                "group_id": group,
                "currency": "USD",
            }
        )

    def remember(self, account: Account, kind: str, symbol: str, qty: Decimal, description: str) -> None:
        """Note a non-trade activity without money, to be posted on the next morning."""
        self._remember(account, kind, symbol, qty, ZERO, ZERO, description, account.identifiers.uuid())

    def remember_exchange(
        self, account: Account, kind: str, old: tuple[str, Decimal], new: tuple[str, Decimal]
    ) -> None:
        """Note that a holding became another one: both sides of it, in one group."""
        group = account.identifiers.uuid()
        description = f"{_EXCHANGES[kind]} {old[0]} to {new[0]}"
        self._remember(account, kind, old[0], -old[1], ZERO, ZERO, description, group)
        self._remember(account, kind, new[0], new[1], ZERO, ZERO, description, group)

    def post_activities(self) -> None:
        """The morning after: yesterday's non-trade activities appear."""
        for account in self._venue.accounts.values():
            pending, account.pending_activities = account.pending_activities, []
            for activity in pending:
                stamp = self._venue.stamp()
                account.add_activity(
                    stamp,
                    {
                        "id": activity_id(stamp, account.identifiers.uuid()),
                        "date": new_york_date(stamp),
                        "created_at": timestamp(stamp),
                        **activity,
                    },
                )

    # On request -------------------------------------------------------------------------------------------------------

    def request_exercise(self, account: Account, symbol_or_id: str) -> Json:
        """POST …/exercise: all contracts that are held and free. Raises ApiError."""
        position = self._option_position(account, symbol_or_id)
        asset = position.asset
        now = self._venue.moment()
        session = self._venue.sessions.calendar.current(now)
        if session is not None and now >= session.close:
            raise forbidden("exercise requests are not accepted after market close until midnight")
        qty = available_quantity(account, position)
        if qty <= 0:
            raise forbidden("no qty available to exercise")
        if asset.symbol in account.do_not_exercise:
            raise forbidden("cannot exercise position marked as do-not-exercise")
        if not self._is_in_the_money(asset):
            raise forbidden(
                "you are attempting to exercise an out of the money option contract, "
                "please contact support@alpaca.markets to complete this request"
            )
        if not self._can_exercise(account, asset, qty):
            raise self._cannot_exercise(account, asset, qty)
        remaining = position.qty - qty
        if remaining:
            self._ledger.move(account, asset, -qty, ZERO)
            group = account.identifiers.uuid()
            self._remember(account, "OPEXC", asset.symbol, -qty, ZERO, ZERO, f"Option Exercise {asset.symbol}", group)
            self._trade_underlying(account, asset, qty if asset.right == "call" else -qty, group)
        else:
            self.exercise_contracts(account, asset, qty)
        return {"qty_exercised": text(qty), "qty_remaining": text(remaining)}

    def request_no_exercise(self, account: Account, symbol_or_id: str) -> Json:
        """POST …/do-not-exercise: only on the last day. Raises ApiError."""
        position = self._option_position(account, symbol_or_id)
        now = self._venue.moment()
        session = self._venue.sessions.calendar.current(now)
        if session is None or session.day != position.asset.last_session:
            raise forbidden("dne requests are only accepted on the expiration day of the option contract")
        if now >= session.close:
            close = session.close.astimezone(NEW_YORK)
            raise forbidden(f"dne requests are not accepted after {close:%H:%M}")
        account.do_not_exercise.add(position.asset.symbol)
        return {}

    def _option_position(self, account: Account, symbol_or_id: str) -> Position:
        asset = self._venue.asset(symbol_or_id)
        if asset is not None and not asset.is_option:
            raise unprocessable("only option positions can be exercised")
        position = account.positions.get(asset.symbol) if asset is not None else None
        if position is None or position.qty <= 0:
            raise not_found(f"long position not found: {symbol_or_id[:64]}")
        return position
