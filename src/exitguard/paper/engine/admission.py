"""Which well-formed orders an account may send: the venue's rules, and its refusals word for word."""

from dataclasses import dataclass
from decimal import Decimal

from exitguard.core.instrument import price_tick
from exitguard.core.session import NEW_YORK
from exitguard.paper.engine.balances import available_quantity, balances, locked_shares
from exitguard.paper.engine.denials import Denials
from exitguard.paper.engine.errors import (
    forbidden,
    insufficient_buying_power,
    insufficient_cash_for_put,
    insufficient_options_buying_power,
    insufficient_quantity,
    insufficient_underlying,
    invalid,
    no_quote,
    unprocessable,
    wash_trade,
)
from exitguard.paper.engine.model import COMPLEX, ONE, ZERO, Account, Asset, Order
from exitguard.paper.engine.request import Draft
from exitguard.paper.engine.sessions import LIQUIDATION_LEAD, REGULAR
from exitguard.paper.engine.venue import Venue
from exitguard.paper.engine.wire import CENT, text

_FIFTY = Decimal(50)
_MINIMAL_AMOUNT = ONE
_EXEMPT_CLASSES = COMPLEX | {"mleg"}


@dataclass(frozen=True, slots=True)
class Terms:
    """What an admitted order is and ties up: `unit_cost` dollars of buying power a unit, `cost` for all of it."""

    intent: str
    unit_cost: Decimal
    cost: Decimal

    @property
    def is_closing(self) -> bool:
        """Whether it reduces a position."""
        return self.intent.endswith("_to_close")


def infer_intent(account: Account, symbol: str, side: str) -> str:
    """What an order of this side does to the account's position in `symbol`."""
    held = account.position_qty(symbol)
    closes = held < 0 if side == "buy" else held > 0
    return f"{side}_to_{'close' if closes else 'open'}"


class Admission:
    """The checks of an order against account, asset, session and the account's other orders."""

    def __init__(self, venue: Venue) -> None:
        self._venue = venue
        self._denials = Denials(venue)

    def check(self, account: Account, draft: Draft, asset: Asset) -> Terms:
        """Admit an order. Raises ApiError with the venue's own words."""
        if not draft.by_broker:
            self.check_account(account, draft.client_order_id)
        if asset.is_option:
            self._check_option(draft, asset)
        else:
            self._check_stock(account, draft, asset)
        self._check_ticks(draft, asset)
        intent = infer_intent(account, asset.symbol, draft.side)
        if draft.intent is not None and draft.intent != intent:
            raise unprocessable(f"position intent mismatch, inferred: {intent}, specified: {draft.intent}")
        closing = intent.endswith("_to_close")
        self._check_class(draft, asset, closing)
        if closing:
            self.check_quantity(account, draft, asset)
        else:
            self.check_expiring(asset)
            self._check_opening(account, draft, asset, intent)
        self.check_wash_trade(account, asset.symbol, draft)
        if not draft.by_broker:
            self.check_denied(account, asset, intent, draft.qty or ZERO)
        if closing:
            return Terms(intent, ZERO, ZERO)
        if asset.is_option:
            return self._option_cost(account, draft, asset, intent)
        unit = self.stock_unit_cost(draft, asset)
        cost = draft.notional if draft.notional is not None else unit * (draft.qty or ZERO)
        available = balances(account).buying_power
        if cost > available:
            raise insufficient_buying_power(available, cost)
        return Terms(intent, unit, cost)

    # Account and asset ----------------------------------------------------------------------------------------------

    def check_account(self, account: Account, client_order_id: str | None) -> None:
        """The account may trade, and the client's id is new."""
        if account.trading_blocked or account.configurations["suspend_trade"]:
            blocked = account.trading_blocked
            raise forbidden("account is blocked from trading" if blocked else "new orders are rejected by user request")
        if client_order_id is not None and client_order_id in account.by_client_id:
            raise invalid("client_order_id must be unique")
        if len(account.open) >= self._venue.settings.maximum_open_orders:
            raise forbidden(f"too many open orders (limit: {self._venue.settings.maximum_open_orders})")

    def _check_stock(self, account: Account, draft: Draft, asset: Asset) -> None:
        if not asset.tradable or asset.status != "active":
            raise unprocessable(f"asset {asset.symbol} is not tradable")
        if draft.extended_hours and (draft.type != "limit" or draft.time_in_force not in ("day", "gtc")):
            raise unprocessable("extended hours order must be DAY or GTC limit orders")
        if draft.type == "trailing_stop" and draft.time_in_force not in ("day", "gtc"):
            raise unprocessable("trailing stop orders must be DAY or GTC orders")
        if draft.time_in_force in ("opg", "cls"):
            self._check_auction(draft)
        if not draft.has_fraction:
            return
        if not asset.fractionable or not account.configurations["fractional_trading"]:
            raise forbidden(f'asset "{asset.symbol}" is not fractionable')
        if draft.is_complex:
            raise unprocessable("fractional orders must be simple orders")
        if draft.time_in_force != "day":
            raise unprocessable("fractional orders must be DAY orders")
        if draft.type == "trailing_stop":
            raise unprocessable("fractional orders must be market, limit, stop or stop_limit orders")

    def _check_auction(self, draft: Draft) -> None:
        opening = draft.time_in_force == "opg"
        if draft.type not in ("market", "limit"):
            raise unprocessable(f"{draft.time_in_force} orders must be market or limit orders")
        if not self._venue.sessions.takes_auction(self._venue.moment(), opening):
            until = "9:28am" if opening else "3:50pm"
            raise forbidden(f"{draft.time_in_force} orders must be submitted after 7:00pm and before {until}")

    def _check_ticks(self, draft: Draft, asset: Asset) -> None:
        for name, price in (
            ("limit_price", draft.limit_price),
            ("stop_price", draft.stop_price),
            ("take_profit.limit_price", draft.target),
            ("stop_loss.stop_price", draft.stop_loss),
            ("stop_loss.limit_price", draft.stop_loss_limit),
        ):
            check_tick(name, price, asset.is_option)

    def _check_class(self, draft: Draft, asset: Asset, closing: bool) -> None:
        if not draft.is_complex:
            return
        kind = draft.order_class
        if kind == "oco" and not closing:
            raise unprocessable("oco orders must be exit orders")
        if kind != "oco" and closing:
            raise unprocessable(f"{kind} orders must be entry orders")
        if draft.time_in_force not in ("day", "gtc"):
            raise unprocessable(f"{kind} orders must be DAY or GTC orders")
        if draft.extended_hours:
            raise unprocessable(f"extended hours is not supported for {kind} orders")
        if draft.type == "trailing_stop":
            raise unprocessable(f"invalid order type for {kind} orders")
        base = draft.limit_price if kind != "oco" and draft.limit_price is not None else asset.price
        exit_side = draft.side if kind == "oco" else ("sell" if draft.side == "buy" else "buy")
        check_exit_prices(exit_side, base, None if kind == "oco" else draft.target, draft.stop_loss)
        check_exits_apart(exit_side, draft.target, draft.stop_loss)

    def check_denied(self, account: Account, asset: Asset, intent: str, qty: Decimal) -> None:
        """No fault refuses what the rules allow. Raises ApiError."""
        self._denials.check(account, asset, intent, qty)

    # Positions and other orders ---------------------------------------------------------------------------------------

    def check_quantity(self, account: Account, draft: Draft, asset: Asset, own: Decimal = ZERO) -> None:
        """A closing order finds its quantity free; `own` is what the order it replaces ties up."""
        position = account.positions[asset.symbol]
        wanted = draft.qty if draft.qty is not None else (draft.notional or ZERO) / (asset.price or ONE)
        existing = abs(position.qty)
        if wanted > available_quantity(account, position) + own:
            held = account.holds.get(asset.symbol, ZERO) - own
            if not asset.is_option and position.qty > 0:
                held += locked_shares(account, asset.symbol)
            raise insufficient_quantity(asset.symbol, wanted, existing, held)

    def _check_opening(self, account: Account, draft: Draft, asset: Asset, intent: str) -> None:
        opposite = account.opposite_open(asset.symbol, draft.side)
        if any(not order.is_closing for order in opposite):
            if draft.side == "buy":
                raise forbidden("cannot open a long buy while a short sell order is open")
            raise forbidden("cannot open a short sell while a long buy order is open")
        if draft.notional is not None:
            if draft.notional < _MINIMAL_AMOUNT:
                raise forbidden(
                    f"cost basis must be >= minimal amount of order {text(_MINIMAL_AMOUNT)}",
                    cost_basis=text(draft.notional),
                )
            if opposite:
                raise unprocessable("unable to open new notional orders while having open closing position orders")
        if intent != "sell_to_open" or asset.is_option:
            return
        if draft.has_fraction:
            raise unprocessable("fractional orders cannot be sold short")
        configurations = account.configurations
        if configurations["no_shorting"] or not configurations["shorting_enabled"]:
            raise forbidden("account is not allowed to short")
        if not asset.shortable:
            raise unprocessable(f'asset "{asset.symbol}" cannot be sold short')
        if not asset.easy_to_borrow and draft.time_in_force == "gtc":
            raise unprocessable(f'asset "{asset.symbol}" is hard to borrow, only DAY orders can be sold short')

    def check_wash_trade(self, account: Account, symbol: str, draft: Draft, ignore: Order | None = None) -> None:
        """The order could not trade against another order of its own account."""
        if draft.is_complex or draft.type == "trailing_stop":
            return
        for other in account.opposite_open(symbol, draft.side):
            if other is ignore or other.order_class in _EXEMPT_CLASSES or other.type == "trailing_stop":
                continue
            if draft.type in ("market", "stop") or other.type in ("market", "stop"):
                raise wash_trade(other.id, other.type)
            buy, sell = (draft, other) if draft.side == "buy" else (other, draft)
            if (buy.limit_price or ZERO) >= (sell.limit_price or ZERO):
                raise wash_trade(other.id, other.type)

    # Cost -------------------------------------------------------------------------------------------------------------

    def stock_unit_cost(self, draft: Draft, asset: Asset) -> Decimal:
        """Dollars of buying power that one share ties up: limit, else the far side with a collar; more for a short."""
        settings = self._venue.settings
        quote = asset.good
        ask = quote.ask if quote is not None and quote.ask else asset.price
        if draft.side == "sell":
            return max(draft.limit_price or ZERO, ask * settings.short_margin)
        if draft.limit_price is not None:
            return draft.limit_price
        base = draft.stop_price if draft.stop_price is not None else ask
        return base * (settings.market_collar_below_50 if base < _FIFTY else settings.market_collar)

    def option_unit_cost(self, draft: Draft, asset: Asset) -> Decimal:
        """Dollars of premium that one bought contract ties up."""
        quote = asset.good
        ask = quote.ask if quote is not None else asset.price
        price = draft.limit_price or draft.stop_price or ask
        if not price:
            raise no_quote()
        return price * asset.multiplier

    def _option_cost(self, account: Account, draft: Draft, asset: Asset, intent: str) -> Terms:
        configurations = account.configurations
        level = min(configurations["max_options_trading_level"], configurations["options_approved_level"])
        qty = draft.qty or ZERO
        available = balances(account).options_buying_power
        if level < 1:
            raise forbidden("account not authorized to trade options")
        if intent == "buy_to_open":
            if level < 2:
                raise forbidden("account not eligible for level2 options trading")
            unit = self.option_unit_cost(draft, asset)
            if unit * qty > available:
                raise insufficient_options_buying_power(available, unit * qty)
            return Terms(intent, unit, unit * qty)
        if asset.right == "call":
            self._check_covered_call(account, asset, qty)
            return Terms(intent, ZERO, ZERO)
        unit = asset.strike * asset.multiplier
        if unit * qty > available:
            raise insufficient_cash_for_put(available, unit * qty)
        return Terms(intent, unit, unit * qty)

    def _check_covered_call(self, account: Account, asset: Asset, qty: Decimal) -> None:
        underlying = asset.underlying
        position = account.positions.get(underlying.symbol) if underlying is not None else None
        if underlying is None or position is None or position.qty <= 0:
            raise forbidden("account not eligible to trade uncovered option contracts")
        waiting = sum(
            (
                order.remaining * asset.multiplier
                for order in account.open.values()
                if order.asset is not None
                and order.asset.underlying is underlying
                and order.asset.right == "call"
                and order.intent == "sell_to_open"
            ),
            ZERO,
        )
        available = max(available_quantity(account, position) - waiting, ZERO)
        if qty * asset.multiplier > available:
            raise insufficient_underlying(underlying.symbol, underlying.id, qty * asset.multiplier, available)

    # Options ----------------------------------------------------------------------------------------------------------

    def _check_option(self, draft: Draft, asset: Asset) -> None:
        if draft.is_complex:
            raise unprocessable("complex orders not supported for options trading")
        if draft.extended_hours:
            raise unprocessable("extended hours is not supported for options trading")
        if draft.notional is not None:
            raise unprocessable("notional orders are not supported for options trading")
        if draft.has_fraction:
            raise unprocessable("qty must be integer for options trading")
        if draft.time_in_force not in ("day", "gtc"):
            raise unprocessable("invalid option time_in_force")
        if draft.type == "trailing_stop":
            raise unprocessable("invalid order type for options trading")
        self.check_contract(asset)
        now = self._venue.moment()
        if draft.type == "market" and self._venue.sessions.phase(now) != REGULAR:
            raise unprocessable("options market orders are only allowed during market hours")

    def check_contract(self, asset: Asset) -> None:
        """A contract is still traded. Raises ApiError."""
        today = self._venue.moment().astimezone(NEW_YORK).date()
        if asset.last_session is not None and asset.last_session < today:
            raise unprocessable(f'contract "{asset.symbol}" is expired')
        if asset.status != "active":
            raise unprocessable(f'contract "{asset.symbol}" is not active')
        if not asset.tradable:
            raise unprocessable(f'contract "{asset.symbol}" is not tradable')

    def check_expiring(self, asset: Asset) -> None:
        """From 15:30 on its last day a contract takes no opening orders. Raises ApiError."""
        if not asset.is_option:
            return
        now = self._venue.moment()
        session = self._venue.sessions.calendar.current(now)
        if session is not None and session.day == asset.last_session and now >= session.close - LIQUIDATION_LEAD:
            raise unprocessable(f'contract "{asset.symbol}" expires soon, unable to open new positions')


def check_tick(name: str, price: Decimal | None, is_option: bool) -> None:
    """A price lies on the grid: cents from a dollar up and for every option, hundredths of a cent below."""
    if price is None:
        return
    step = CENT if is_option else price_tick(price)
    if price != price.quantize(step):
        raise unprocessable(
            f"invalid {name} {text(price)}. sub-penny increment does not fulfill minimum pricing criteria"
        )


def check_exit_prices(exit_side: str, base: Decimal, target: Decimal | None, stop: Decimal | None) -> None:
    """Target and stop lie on their sides of the base price, at least a cent away. Raises ApiError."""
    extra = {"base_price": text(base)}
    if exit_side == "sell":
        if target is not None and target < base + CENT:
            raise unprocessable("take_profit.limit_price must be >= base_price + 0.01", **extra)
        if stop is not None and stop > base - CENT:
            raise unprocessable("stop_loss.stop_price must be <= base_price - 0.01", **extra)
        return
    if target is not None and target > base - CENT:
        raise unprocessable("take_profit.limit_price must be <= base_price - 0.01", **extra)
    if stop is not None and stop < base + CENT:
        raise unprocessable("stop_loss.stop_price must be >= base_price + 0.01", **extra)


def check_exits_apart(exit_side: str, target: Decimal | None, stop: Decimal | None) -> None:
    """Target and stop do not cross each other. Raises ApiError."""
    if target is None or stop is None:
        return
    if exit_side == "sell" and target <= stop:
        raise unprocessable("take_profit.limit_price must be > stop_loss.stop_price")
    if exit_side == "buy" and target >= stop:
        raise unprocessable("take_profit.limit_price must be < stop_loss.stop_price")
