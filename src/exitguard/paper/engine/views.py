"""The JSON that the venue shows. Built afresh on every answer: the wire owns no state."""

from decimal import Decimal
from typing import Any

from exitguard.paper.engine.balances import available_quantity, balances
from exitguard.paper.engine.model import NO_ASSET_ID, ZERO, Account, Asset, Order, Position
from exitguard.paper.engine.wire import money, text, text_or_none, timestamp, timestamp_or_none

Json = dict[str, Any]
_RATIO = Decimal("0.0000000001")
_PRICE = Decimal("0.000001")


def order_json(order: Order, nested: bool = False) -> Json:
    """One order; its legs too when `nested`, and always those of a multi-leg order."""
    asset = order.asset
    average = order.average_price
    created = timestamp(order.created)
    view: Json = {
        "id": order.id,
        "client_order_id": order.client_order_id,
        "created_at": created,
        "updated_at": timestamp(order.updated),
        "submitted_at": created if order.submitted == order.created else timestamp(order.submitted),
        "filled_at": timestamp_or_none(order.filled),
        "expired_at": timestamp_or_none(order.expired),
        "expires_at": timestamp_or_none(order.expires),
        "canceled_at": timestamp_or_none(order.canceled),
        "failed_at": timestamp_or_none(order.failed),
        "replaced_at": timestamp_or_none(order.replaced),
        "replaced_by": order.replaced_by,
        "replaces": order.replaces,
        "asset_id": NO_ASSET_ID if asset is None else asset.id,
        "symbol": order.symbol,
        "asset_class": "" if asset is None else asset.asset_class,
        "notional": text_or_none(order.notional),
        "qty": text_or_none(order.qty),
        "filled_qty": text(order.filled_qty),
        "filled_avg_price": None if average is None else text(average.quantize(_PRICE)),
        "order_class": order.order_class,
        "order_type": order.type,
        "type": order.type,
        "side": order.side,
        "position_intent": order.intent,
        "time_in_force": order.time_in_force,
        "limit_price": text_or_none(order.limit_price),
        "stop_price": text_or_none(order.stop_price),
        "status": order.status,
        "extended_hours": order.extended_hours,
        "legs": [order_json(leg) for leg in order.legs]
        if order.legs and (nested or order.order_class == "mleg")
        else None,
        "trail_percent": text_or_none(order.trail_percent),
        "trail_price": text_or_none(order.trail_price),
        "hwm": text_or_none(order.high_water_mark),
        "subtag": None,
        "source": None,
    }
    if order.ratio is not None:
        view["ratio_qty"] = str(order.ratio)
    if order.group is not None and order.group_role is not None:
        view["group_id"] = order.group.id
        view["group_role"] = order.group_role
    return view


def position_json(account: Account, position: Position, today: str) -> Json:
    """One position at the newest price."""
    asset = position.asset
    price = asset.price
    value = position.market_value
    cost = position.cost_basis
    profit = value - cost
    lastday = asset.lastday_price
    opened_today = position.opened.isoformat() == today
    base = cost if opened_today else position.qty * lastday * asset.multiplier
    intraday = value - base
    return {
        "asset_id": asset.id,
        "symbol": asset.symbol,
        "exchange": "" if asset.is_option else asset.exchange,
        "asset_class": asset.asset_class,
        "asset_marginable": asset.marginable and not asset.is_option,
        "qty": text(position.qty),
        "qty_available": text(available_quantity(account, position).copy_sign(position.qty)),
        "avg_entry_price": text(position.average.quantize(_PRICE)),
        "side": "long" if position.qty > 0 else "short",
        "market_value": text(value),
        "cost_basis": text(cost),
        "unrealized_pl": text(profit),
        "unrealized_plpc": _ratio(profit, cost),
        "unrealized_intraday_pl": text(intraday),
        "unrealized_intraday_plpc": _ratio(intraday, base),
        "current_price": text(price),
        "lastday_price": text(lastday),
        "change_today": _ratio(price - lastday, lastday),
    }


def _ratio(part: Decimal, whole: Decimal) -> str:
    return text((part / abs(whole)).quantize(_RATIO)) if whole else "0"


def account_json(account: Account) -> Json:
    """The account with its balances at the newest prices."""
    now = balances(account)
    configurations = account.configurations
    level = min(configurations["max_options_trading_level"], configurations["options_approved_level"])
    return {
        "id": account.id,
        "account_number": account.account_number,
        "status": "ACTIVE",
        "crypto_status": "INACTIVE",
        "crypto_tier": 0,
        "currency": "USD",
        "cash": money(account.cash),
        "portfolio_value": text(now.equity),
        "equity": text(now.equity),
        "last_equity": text(account.last_equity),
        "long_market_value": text(now.long_market_value),
        "short_market_value": text(now.short_market_value),
        "position_market_value": text(now.long_market_value - now.short_market_value),
        "buying_power": text(now.buying_power),
        "effective_buying_power": text(now.buying_power),
        "regt_buying_power": text(now.regt_buying_power),
        "options_buying_power": text(now.options_buying_power),
        "non_marginable_buying_power": text(now.options_buying_power),
        "initial_margin": text(now.initial_margin),
        "maintenance_margin": text(now.maintenance_margin),
        "last_maintenance_margin": text(account.last_maintenance_margin),
        "sma": "0",
        "multiplier": configurations["max_margin_multiplier"],
        "accrued_fees": "0",
        "intraday_adjustments": "0",
        "pending_reg_taf_fees": "0",
        "pending_transfer_in": "0",
        "pending_transfer_out": "0",
        "balance_asof": account.balance_date,
        "trading_blocked": account.trading_blocked,
        "transfers_blocked": False,
        "account_blocked": False,
        "trade_suspended_by_user": configurations["suspend_trade"],
        "shorting_enabled": configurations["shorting_enabled"] and not configurations["no_shorting"],
        "options_approved_level": configurations["options_approved_level"],
        "options_trading_level": level,
        "created_at": timestamp(account.created),
        "admin_configurations": {},
        "user_configurations": None,
    }


_CONFIGURATION_FIELDS = (
    "disable_overnight_trading",
    "fractional_trading",
    "max_margin_multiplier",
    "max_options_trading_level",
    "no_shorting",
    "ptp_no_exception_entry",
    "suspend_trade",
    "trade_confirm_email",
)


def configurations_json(account: Account) -> Json:
    """The account's configurations, with the two retired fields that alpaca-py 0.44 still requires."""
    view = {name: account.configurations[name] for name in _CONFIGURATION_FIELDS}
    return {**view, "dtbp_check": "entry", "pdt_check": "entry"}


def asset_json(asset: Asset) -> Json:
    """An asset, stock or option, with `easy_to_borrow`, which alpaca-py requires though it is retired."""
    return {
        "id": asset.id,
        "class": asset.asset_class,
        "exchange": "" if asset.is_option else asset.exchange,
        "symbol": asset.symbol,
        "name": asset.name,
        "status": asset.status,
        "tradable": asset.tradable,
        "marginable": asset.marginable,
        "maintenance_margin_requirement": 100 if asset.is_option else 30,
        "margin_requirement_long": "100" if asset.is_option else "30",
        "margin_requirement_short": "100" if asset.is_option else "30",
        "shortable": asset.shortable,
        "easy_to_borrow": asset.easy_to_borrow,
        "borrow_status": "easy_to_borrow" if asset.easy_to_borrow else "hard_to_borrow",
        "fractionable": asset.fractionable,
        "attributes": asset.attributes,
        "cusip": None,
    }


def contract_json(asset: Asset, show_deliverables: bool = False) -> Json:
    """An option contract."""
    underlying = asset.underlying
    known_close = asset.lastday is not None and asset.lastday_price > ZERO
    lastday = asset.lastday.isoformat() if asset.lastday is not None else None
    view: Json = {
        "id": asset.id,
        "symbol": asset.symbol,
        "name": asset.name,
        "status": asset.status,
        "tradable": asset.tradable,
        "expiration_date": asset.expiry.isoformat() if asset.expiry else None,
        "root_symbol": asset.root,
        "underlying_symbol": underlying.symbol if underlying else None,
        "underlying_asset_id": underlying.id if underlying else None,
        "type": asset.right,
        "style": "american",
        "strike_price": text(asset.strike),
        "multiplier": text(asset.multiplier),
        "size": text(asset.multiplier),
        "open_interest": str(asset.open_interest),
        "open_interest_date": lastday,
        "close_price": text(asset.lastday_price) if known_close else None,
        "close_price_date": lastday if known_close else None,
        "ppind": True,
    }
    if show_deliverables and underlying is not None:
        view["deliverables"] = [
            {
                "type": "equity",
                "symbol": underlying.symbol,
                "asset_id": underlying.id,
                "amount": text(asset.multiplier),
                "allocation_percentage": "100",
                "settlement_type": "T+1",
                "settlement_method": "CCC",
                "delayed_settlement": False,
            }
        ]
    return view
