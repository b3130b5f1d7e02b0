"""What an account is worth and what it may still spend."""

from collections import defaultdict
from dataclasses import dataclass
from decimal import Decimal

from exitguard.paper.engine.model import ZERO, Account, Asset, Position

_HALF = Decimal("0.5")
_MAINTENANCE = Decimal("0.3")


@dataclass(frozen=True, slots=True)
class Balances:
    """Dollars of an account at the newest prices. Buying powers are floored at zero."""

    equity: Decimal
    long_market_value: Decimal
    short_market_value: Decimal
    initial_margin: Decimal
    maintenance_margin: Decimal
    buying_power: Decimal
    regt_buying_power: Decimal
    options_buying_power: Decimal


def balances(account: Account) -> Balances:
    """Value an account.

    The base of all buying power is equity without options, less what open option orders and short options tie up; a
    multiple of it may be spent on stock (Alpaca's 4 x within the day, 2 x Reg T), the cash part of it on options.
    """
    longs = shorts = gross = options = ZERO
    has_short_option = False
    for position in account.positions.values():
        value = position.market_value
        if position.qty > 0:
            longs += value
        else:
            shorts += value
        if position.asset.is_option:
            options += value
            has_short_option = has_short_option or position.qty < 0
        else:
            gross += abs(value)
    equity = account.cash + longs + shorts
    tied = short_option_requirement(account) if has_short_option else ZERO
    base = equity - options - account.option_reserve - tied
    multiplier = Decimal(account.configurations["max_margin_multiplier"])
    used = gross + account.stock_reserve
    share = _HALF if multiplier > 1 else Decimal(1)
    return Balances(
        equity=equity,
        long_market_value=longs,
        short_market_value=shorts,
        initial_margin=gross * _HALF + max(options, ZERO),
        maintenance_margin=gross * _MAINTENANCE + max(options, ZERO),
        buying_power=max(multiplier * base - used, ZERO),
        regt_buying_power=max(min(multiplier, Decimal(2)) * base - used, ZERO),
        options_buying_power=max(base - used * share, ZERO),
    )


def equity(account: Account) -> Decimal:
    """Cash and positions at the newest prices."""
    return account.cash + sum((position.market_value for position in account.positions.values()), ZERO)


def short_option_requirement(account: Account, extra: dict[Asset, Decimal] | None = None) -> Decimal:
    """Dollars that short options tie up: the worst value at expiry of all options of an underlying together.

    This is the universal spread rule: a spread costs its width, a cash-secured put its strike. Calls covered by
    shares need none. `extra` adds hypothetical contracts. A long option that expires before a short one covers nothing.
    """
    by_underlying: dict[str, dict[Asset, Decimal]] = defaultdict(dict)
    for position in account.positions.values():
        if position.asset.is_option and position.asset.underlying is not None:
            by_underlying[position.asset.underlying.symbol][position.asset] = position.qty
    for asset, qty in (extra or {}).items():
        if asset.underlying is not None:
            legs = by_underlying[asset.underlying.symbol]
            legs[asset] = legs.get(asset, ZERO) + qty
    total = ZERO
    for symbol, legs in by_underlying.items():
        if any(qty < 0 for qty in legs.values()):
            total += _worst_value(legs, max(account.position_qty(symbol), ZERO))
    return total


def _worst_value(legs: dict[Asset, Decimal], shares: Decimal) -> Decimal:
    latest_short = max((asset.expiry for asset, qty in legs.items() if qty < 0 and asset.expiry), default=None)
    counted = {a: q for a, q in legs.items() if q < 0 or (a.expiry and latest_short and a.expiry >= latest_short)}
    uncovered = max(-net_calls(counted), ZERO)
    covered = min(uncovered, shares // 100)
    points = [ZERO, *sorted({asset.strike for asset in counted})]
    points.append(points[-1] * 2)
    worst = ZERO
    for price in points:
        value = sum((qty * asset.multiplier * intrinsic(asset, price) for asset, qty in counted.items()), ZERO)
        # Shares behind a covered call make good exactly what the call loses.
        lowest_call = min((a.strike for a, q in counted.items() if a.right == "call" and q < 0), default=ZERO)
        value += covered * 100 * max(price - lowest_call, ZERO)
        worst = min(worst, value)
    return -worst


def net_calls(legs: dict[Asset, Decimal]) -> Decimal:
    """Long minus short calls: negative when calls are uncovered by calls."""
    return sum((qty for asset, qty in legs.items() if asset.right == "call"), ZERO)


def intrinsic(asset: Asset, price: Decimal) -> Decimal:
    """What an option is worth a share at expiry with its underlying at `price`."""
    return max(price - asset.strike, ZERO) if asset.right == "call" else max(asset.strike - price, ZERO)


def locked_shares(account: Account, underlying: str) -> Decimal:
    """Shares that cover short calls and cannot be sold."""
    legs = {
        position.asset: position.qty
        for position in account.positions.values()
        if position.asset.underlying is not None and position.asset.underlying.symbol == underlying
    }
    if not legs:
        return ZERO
    return min(max(-net_calls(legs), ZERO) * 100, max(account.position_qty(underlying), ZERO))


def available_quantity(account: Account, position: Position) -> Decimal:
    """Quantity of a position that no open order and no short call ties up; positive for long and short alike."""
    symbol = position.asset.symbol
    free = abs(position.qty) - account.holds.get(symbol, ZERO)
    if not position.asset.is_option and position.qty > 0:
        free -= locked_shares(account, symbol)
    return max(free, ZERO)
