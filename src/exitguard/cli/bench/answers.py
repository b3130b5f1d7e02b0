"""What the measuring venue answers: Alpaca's shapes for one account that holds the book, and nothing that trades."""

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import uuid4

import orjson

from exitguard.cli.bench.book import Held
from exitguard.core.session import Session, table_calendar

ACCOUNT_NUMBER = "PABENCH00001"
_NOT_FOUND = {"code": 40410000, "message": "not found"}
_TARGET = Decimal("1.03")
_STOP = Decimal("0.98")
# How far quiet prices swing around the entry, as a share of it: nowhere near a stop or a target.
_SWING_OPTION = 0.04
_SWING_STOCK = 0.01


def iso(at: datetime) -> str:
    """RFC 3339 in UTC."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Answers:
    """The venue's books: what is held, which orders exist. `now` tells the venue's time."""

    def __init__(self, book: list[Held], session: Session, now: Callable[[], datetime]) -> None:
        self._session = session
        self._now = now
        self._held = {held.symbol: held for held in book}
        # Encoded once: the account is polled while latencies are measured.
        self._positions = {held.symbol: orjson.dumps(_position(held)) for held in book}
        brackets = [_bracket(held, iso(now() - timedelta(hours=1))) for held in book if not held.is_option]
        self._resting = orjson.dumps(brackets)
        self._orders: dict[str, dict[str, Any]] = {}
        self._by_client_id: dict[str, str] = {}
        self.position_polls = 0

    def answer(self, method: str, target: bytes, body: bytes) -> tuple[int, bytes]:
        """Answer a request with a status and a JSON body."""
        url = urlsplit(target.decode())
        path = url.path
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        if method == "POST" and path == "/v2/orders":
            return 200, orjson.dumps(self.accept(orjson.loads(body)))
        if method == "GET":
            return self._read(path, query)
        return 404, orjson.dumps(_NOT_FOUND)

    def _read(self, path: str, query: Mapping[str, str]) -> tuple[int, bytes]:
        if path == "/v2/positions":
            self.position_polls += 1
            return 200, b"[" + b",".join(self._positions.values()) + b"]"
        if path == "/v2/orders":
            return 200, self._listed(query)
        if path == "/v2/clock":
            return 200, orjson.dumps(self._clock())
        if path.endswith("/quotes/latest"):
            symbols = query.get("symbols", "").split(",")
            return 200, orjson.dumps({"quotes": {symbol: self._quote(symbol) for symbol in symbols}})
        if path == "/v2/account":
            return 200, orjson.dumps(_ACCOUNT)
        if path == "/v2/calendar":
            return 200, orjson.dumps(_calendar(query["start"], query["end"]))
        if path.startswith("/v2/account/activities"):
            return 200, b"[]"
        return self._one(path, query)

    def _one(self, path: str, query: Mapping[str, str]) -> tuple[int, bytes]:
        """A single position or order, or the proof that it does not exist."""
        name = unquote(path.rpartition("/")[2])
        if path.startswith("/v2/positions/") and name in self._positions:
            return 200, self._positions[name]
        if path == "/v2/orders:by_client_order_id":
            name = self._by_client_id.get(query.get("client_order_id", ""), "")
        order = self._orders.get(name)
        return (200, orjson.dumps(order)) if order is not None else (404, orjson.dumps(_NOT_FOUND))

    def _listed(self, query: Mapping[str, str]) -> bytes:
        symbols = query.get("symbols")
        if query.get("status") == "open" and symbols is None:
            return self._resting
        chosen = symbols.split(",") if symbols else []
        return orjson.dumps([order for order in self._orders.values() if order["symbol"] in chosen])

    def accept(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Take an order."""
        order = _order(str(uuid4()), body, "accepted", iso(self._now()))
        self._orders[order["id"]] = order
        self._by_client_id[order["client_order_id"]] = order["id"]
        return order

    def update(self, client_order_id: str, event: str, price: Decimal | None = None) -> bytes:
        """Move an order on, and describe that as a frame of the trade stream. A fill at `price` closes the position."""
        order = self._orders[self._by_client_id[client_order_id]]
        at = iso(self._now())
        order |= {"status": "filled" if price is not None else "new", "updated_at": at}
        data: dict[str, Any] = {"event": event, "execution_id": str(uuid4()), "timestamp": at, "order": order}
        if price is not None:
            self._positions.pop(order["symbol"], None)
            order |= {"filled_qty": order["qty"], "filled_avg_price": str(price), "filled_at": at}
            data |= {"price": str(price), "qty": order["qty"], "position_qty": "0"}
        return orjson.dumps({"stream": "trade_updates", "data": data})

    def _clock(self) -> dict[str, Any]:
        session, now = self._session, self._now()
        return {
            "timestamp": iso(now),
            "is_open": session.contains(now),
            "next_open": iso(table_calendar().next_open(now)),
            "next_close": iso(session.close),
        }

    def _quote(self, symbol: str) -> dict[str, Any]:
        bid, ask = quiet_prices(self._held[symbol])
        return {"t": iso(self._now()), "bp": bid, "ap": ask, "bs": 10, "as": 10, "bx": "C", "ax": "C"}


def quiet_prices(held: Held, swing: float = 0.0) -> tuple[float, float]:
    """Bid and ask at which nothing happens to a position; `swing` from -1 to 1 moves them through the quiet range."""
    share = _SWING_OPTION if held.is_option else _SWING_STOCK
    cents = round(float(held.price) * (1 + share * swing) * 100)
    return (cents - 1) / 100, (cents + 1) / 100


_ACCOUNT = {
    "id": "b0000000-0000-4000-8000-000000000001",
    "account_number": ACCOUNT_NUMBER,
    "status": "ACTIVE",
    "currency": "USD",
    "equity": "1000000",
    "last_equity": "1000000",
    "cash": "500000",
    "buying_power": "1000000",
    "options_buying_power": "500000",
    "options_trading_level": 3,
    "shorting_enabled": True,
    "trading_blocked": False,
    "account_blocked": False,
}


def _calendar(start: str, end: str) -> list[dict[str, str]]:
    sessions = table_calendar().between(date.fromisoformat(start), date.fromisoformat(end))
    return [
        {"date": each.day.isoformat(), "open": "09:30", "close": "13:00" if each.is_early_close else "16:00"}
        for each in sessions
    ]


def _position(held: Held) -> dict[str, Any]:
    price, qty = str(held.price), str(held.qty)
    value = str(held.price * held.qty * (100 if held.is_option else 1))
    return {
        "asset_id": f"asset-{held.symbol}",
        "symbol": held.symbol,
        "exchange": "",
        "asset_class": "us_option" if held.is_option else "us_equity",
        "asset_marginable": not held.is_option,
        "qty": qty,
        "qty_available": qty if held.is_option else "0",
        "avg_entry_price": price,
        "side": "long",
        "market_value": value,
        "cost_basis": value,
        "unrealized_pl": "0",
        "unrealized_plpc": "0",
        "unrealized_intraday_pl": "0",
        "unrealized_intraday_plpc": "0",
        "current_price": price,
        "lastday_price": price,
        "change_today": "0",
    }


def _order(order_id: str, body: Mapping[str, Any], status: str, at: str, **more: Any) -> dict[str, Any]:
    return {
        "id": order_id,
        "client_order_id": body["client_order_id"],
        "created_at": at,
        "updated_at": at,
        "submitted_at": at,
        "filled_at": None,
        "expired_at": None,
        "canceled_at": None,
        "failed_at": None,
        "replaced_at": None,
        "replaced_by": None,
        "replaces": None,
        "asset_id": f"asset-{body['symbol']}",
        "symbol": body["symbol"],
        "asset_class": "us_option" if len(body["symbol"]) > 12 else "us_equity",
        "notional": None,
        "qty": body["qty"],
        "filled_qty": "0",
        "filled_avg_price": None,
        "order_class": "simple",
        "order_type": body["type"],
        "type": body["type"],
        "side": body["side"],
        "position_intent": body["position_intent"],
        "time_in_force": body["time_in_force"],
        "limit_price": body.get("limit_price"),
        "stop_price": body.get("stop_price"),
        "status": status,
        "extended_hours": False,
        "legs": None,
        "trail_percent": None,
        "trail_price": None,
        "hwm": None,
        "subtag": None,
        "source": None,
    } | more


def _bracket(held: Held, at: str) -> dict[str, Any]:
    """A target with its stop: the two orders that rest on a stock."""

    def leg(kind: str, **price: str) -> dict[str, Any]:
        return {
            "client_order_id": f"bracket-{held.symbol}-{kind}",
            "symbol": held.symbol,
            "qty": str(held.qty),
            "side": "sell",
            "type": kind,
            "time_in_force": "gtc",
            "position_intent": "sell_to_close",
            **price,
        }

    stop = _order(f"stop-{held.symbol}", leg("stop", stop_price=str(held.price * _STOP)), "held", at, order_class="oco")
    target = leg("limit", limit_price=str(held.price * _TARGET))
    return _order(f"target-{held.symbol}", target, "new", at, order_class="oco", legs=[stop])
