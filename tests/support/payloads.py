"""Alpaca payloads, in the vendor's form, for tests."""

from typing import Any


def order_json(id: str = "o1", **changes: Any) -> dict[str, Any]:
    """A simple order as the paper API sends it."""
    return {
        "id": id,
        "client_order_id": f"client-{id}",
        "created_at": "2026-10-08T14:00:00.000000001Z",
        "updated_at": "2026-10-08T14:00:00.24010802Z",
        "submitted_at": "2026-10-08T14:00:00.24010802Z",
        "filled_at": None,
        "asset_id": "b0b6dd9d-8b9b-48a9-ba46-b9d54906e415",
        "symbol": "AAPL",
        "asset_class": "us_equity",
        "notional": None,
        "qty": "10",
        "filled_qty": "0",
        "filled_avg_price": None,
        "order_class": "",
        "order_type": "market",
        "type": "market",
        "side": "buy",
        "position_intent": "buy_to_open",
        "time_in_force": "day",
        "limit_price": None,
        "stop_price": None,
        "status": "new",
        "extended_hours": False,
        "legs": None,
        "replaced_by": None,
        "replaces": None,
        "subtag": None,
        "source": None,
        **changes,
    }


def position_json(symbol: str = "AAPL", **changes: Any) -> dict[str, Any]:
    """A long position."""
    return {
        "asset_id": "b0b6dd9d-8b9b-48a9-ba46-b9d54906e415",
        "symbol": symbol,
        "exchange": "NASDAQ",
        "asset_class": "us_equity",
        "avg_entry_price": "100.5",
        "qty": "10",
        "qty_available": "10",
        "side": "long",
        "market_value": "1010",
        "cost_basis": "1005",
        "unrealized_pl": "5",
        "current_price": "101",
        **changes,
    }


def account_json(**changes: Any) -> dict[str, Any]:
    """An account after the fields of pattern day trading went away (July 2026)."""
    return {
        "id": "e6fe16f3-64a4-4921-8928-cadf02f92f98",
        "account_number": "PA0123456789",
        "status": "ACTIVE",
        "currency": "USD",
        "cash": "100005.82",
        "equity": "100005.82",
        "last_equity": "99788.5123456",
        "buying_power": "400023.28",
        "options_buying_power": "99788.51",
        "options_trading_level": 3,
        "shorting_enabled": True,
        "trading_blocked": False,
        "account_blocked": False,
        **changes,
    }


def fill_json(number: int = 1, **changes: Any) -> dict[str, Any]:
    """A FILL activity."""
    return {
        "activity_type": "FILL",
        "id": f"20261008100000{number:03d}::execution-{number}",
        "cum_qty": "10",
        "leaves_qty": "0",
        "order_id": "o1",
        "order_status": "filled",
        "price": "101.25",
        "qty": "10",
        "side": "buy",
        "symbol": "AAPL",
        "transaction_time": f"2026-10-08T14:00:00.{number:06d}Z",
        "type": "fill",
        **changes,
    }


def update_json(event: str = "new", order: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """A message of the trade stream."""
    data = {"event": event, "timestamp": "2026-10-08T14:00:01.123456789Z", "order": order or order_json(), **changes}
    return {"stream": "trade_updates", "data": data}


def fill_update(qty: str = "10", execution_id: str = "execution-1", **changes: Any) -> dict[str, Any]:
    """A fill on the trade stream."""
    order = order_json(status="filled", filled_qty=qty, filled_avg_price="101.25")
    fields = {"execution_id": execution_id, "price": "101.25", "qty": qty, "position_qty": qty, **changes}
    return update_json("fill", order, **fields)


def clock_json(now: str = "2026-10-08T10:00:00.5-04:00", **changes: Any) -> dict[str, Any]:
    """The venue's clock."""
    return {
        "timestamp": now,
        "is_open": True,
        "next_open": "2026-10-09T09:30:00-04:00",
        "next_close": "2026-10-08T16:00:00-04:00",
        **changes,
    }
