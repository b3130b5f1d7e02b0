"""Refusals, with the status codes and bodies that Alpaca sends (reference/alpaca.md 1.5 and 2)."""

from decimal import Decimal
from typing import Any

from exitguard.paper.engine.wire import text


class ApiError(Exception):
    """A request that the venue refuses: HTTP status and JSON body."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(f"{status} {body}")
        self.status = status
        self.body = body


def invalid(message: str) -> ApiError:
    """A request whose shape is wrong: a missing, malformed or surplus field."""
    return ApiError(422, {"code": 40010001, "message": message})


def unprocessable(message: str, **extra: Any) -> ApiError:
    """A well-formed request that the venue's rules exclude."""
    return ApiError(422, {"code": 42210000, "message": message, **extra})


def forbidden(message: str, **extra: Any) -> ApiError:
    """A request that the account's state excludes."""
    return ApiError(403, {"code": 40310000, "message": message, **extra})


def not_found(message: str) -> ApiError:
    """Something that does not exist for this account."""
    return ApiError(404, {"code": 40410000, "message": message})


def insufficient_quantity(symbol: str, requested: Decimal, existing: Decimal, held: Decimal) -> ApiError:
    """More is to be closed than is held and free."""
    available = max(existing - held, Decimal(0))
    return ApiError(
        403,
        {
            "available": text(available),
            "code": 40310000,
            "existing_qty": text(existing),
            "held_for_orders": text(held),
            "message": f"insufficient qty available for order (requested: {text(requested)}, "
            f"available: {text(available)})",
            "symbol": symbol,
        },
    )


def wash_trade(existing_order_id: str, existing_type: str) -> ApiError:
    """The order could trade against an open order of the same account."""
    kind = "market/stop" if existing_type in ("market", "stop") else "limit"
    return ApiError(
        403,
        {
            "code": 40310000,
            "existing_order_id": existing_order_id,
            "message": "potential wash trade detected. use complex orders",
            "reject_reason": f"opposite side {kind} order exists",
        },
    )


def insufficient_buying_power(buying_power: Decimal, cost_basis: Decimal) -> ApiError:
    """A stock order costs more than the account may spend."""
    return forbidden("insufficient buying power", buying_power=text(buying_power), cost_basis=text(cost_basis))


def insufficient_options_buying_power(buying_power: Decimal, cost_basis: Decimal) -> ApiError:
    """An option order costs more than the account may spend."""
    return forbidden(
        "insufficient options buying power", options_buying_power=text(buying_power), cost_basis=text(cost_basis)
    )


def insufficient_cash_for_put(buying_power: Decimal, required: Decimal) -> ApiError:
    """A cash-secured put needs its strike in cash."""
    return forbidden(
        "insufficient options buying power for cash-secured put "
        f"(required: {text(required)}, available: {text(buying_power)})",
        buying_power=text(buying_power),
        required_options_buying_power=text(required),
    )


def insufficient_underlying(symbol: str, asset_id: str, required: Decimal, available: Decimal) -> ApiError:
    """A covered call needs its shares."""
    return forbidden(
        "insufficient underlying qty available for covered call "
        f"(required: {text(required)}, available: {text(available)})",
        available_qty=text(available),
        required_qty=text(required),
        symbol=symbol,
        underlying_asset_id=asset_id,
    )


def assignment_lock(symbol: str) -> ApiError:
    """Short contracts are being assigned, and the long ones that cover them have to stay."""
    return forbidden(f"active assignment lock on {symbol}, cannot close all long options")


def expiring_limit(requested: Decimal, taken: Decimal, limit: Decimal) -> ApiError:
    """The broker bounds what an account may have in contracts on their last day."""
    return forbidden(
        "exceeded account limit for contracts expiring today "
        f"(requested: {text(requested)}, held+open: {text(taken)}, limit: {text(limit)})"
    )


def trading_halted(symbol: str) -> ApiError:
    """Trading in the symbol is halted. The code is Alpaca's; nobody has written its words down."""
    return ApiError(403, {"code": 40310010, "message": f'trading in "{symbol}" is halted'})


def day_trade_denied() -> ApiError:
    """Sent until pattern day trading rules ended in June 2026."""
    return ApiError(403, {"code": 40310100, "message": "trade denied due to pattern day trading protection"})


def no_quote() -> ApiError:
    """A market order costs what a quote says, and there is none."""
    return forbidden("order has been rejected due to no available quote for symbol. please reenter with a limit")


def already_in_state(status: str) -> ApiError:
    """The order has ended."""
    return unprocessable(f'order is already in "{status}" state')
