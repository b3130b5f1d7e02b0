"""The market data REST API: stocks under /v2/stocks, options under /v1beta1/options."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from exitguard.core.session import NEW_YORK
from exitguard.paper.engine import ApiError
from exitguard.paper.market.tape import Bar
from exitguard.paper.server.data_frames import bar_fields, iso, quote_fields, trade_fields
from exitguard.paper.server.data_paging import Row, Window, aggregate, page, parse_timeframe, window_of
from exitguard.paper.server.host import Host
from exitguard.paper.server.option_data import OptionData
from exitguard.paper.server.trading_api import method_not_allowed, not_found
from exitguard.paper.server.wire import Request, Response, json_response

_STOCKS = "/v2/stocks/"
_OPTIONS = "/v1beta1/options/"
_MOST_SYMBOLS = 10_000
_STOCK_FEEDS = ("iex", "sip", "delayed_sip", "otc", "boats", "overnight")
_OPTION_FEEDS = ("opra", "indicative")


def is_data_path(path: str) -> bool:
    """Whether a path belongs to the data API."""
    return path.startswith((_STOCKS, _OPTIONS))


def bad_request(message: str) -> ApiError:
    """The data API's refusal of a parameter."""
    return ApiError(400, {"code": 40010000, "message": message})


def symbols_of(request: Request) -> list[str]:
    """The `symbols` parameter. Raises ApiError 400 when it is missing or too long."""
    symbols = [symbol.strip() for symbol in request.query.get("symbols", "").split(",") if symbol.strip()]
    if not symbols:
        raise bad_request("symbols is required")
    if len(symbols) > _MOST_SYMBOLS:
        raise bad_request(f"too many symbols: at most {_MOST_SYMBOLS}")
    return list(dict.fromkeys(symbols))


class DataApi:
    """Answers from the tape; option data from the option board."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._tape = host.player.tape
        self._options = OptionData(host)
        self._latest: dict[str, tuple[str, Callable[[str], dict[str, Any] | None]]] = {
            "quotes": ("quote", self._latest_quote),
            "trades": ("trade", self._latest_trade),
            "bars": ("bar", self._latest_bar),
        }

    def handle(self, request: Request) -> Response:
        """Answer one request. Raises ApiError for every refusal."""
        if request.method != "GET":
            raise method_not_allowed()
        path = request.path.rstrip("/")
        if path.startswith(_OPTIONS):
            _check_feed(request, _OPTION_FEEDS)
            return self._options.handle(request, path[len(_OPTIONS) :].split("/"))
        _check_feed(request, _STOCK_FEEDS)
        return self._stocks(request, path[len(_STOCKS) :].split("/"))

    def _stocks(self, request: Request, parts: list[str]) -> Response:
        if parts == ["snapshots"]:
            found = {symbol: self._snapshot(symbol) for symbol in symbols_of(request)}
            return json_response({symbol: snapshot for symbol, snapshot in found.items() if snapshot})
        if len(parts) == 2 and parts[1] == "latest" and parts[0] in self._latest:
            _, look = self._latest[parts[0]]
            found = {symbol: look(symbol) for symbol in symbols_of(request)}
            return json_response({parts[0]: {symbol: one for symbol, one in found.items() if one}})
        if len(parts) == 1 and parts[0] in self._latest:
            return self._history(request, parts[0], symbols_of(request), single=False)
        if len(parts) == 2 and parts[1] == "snapshot":
            return json_response({"symbol": parts[0], **_found(self._snapshot(parts[0]), parts[0])})
        if len(parts) == 2 and parts[1] in self._latest:
            return self._history(request, parts[1], [parts[0]], single=True)
        if len(parts) == 3 and parts[2] == "latest" and parts[1] in self._latest:
            name, look = self._latest[parts[1]]
            return json_response({"symbol": parts[0], name: _found(look(parts[0]), parts[0])})
        raise not_found()

    # Latest
    def _latest_quote(self, symbol: str) -> dict[str, Any] | None:
        quote = self._tape.quotes.get(symbol)
        return None if quote is None else {"t": iso(quote.at), **quote_fields(quote, option=False)}

    def _latest_trade(self, symbol: str) -> dict[str, Any] | None:
        trade = self._tape.trades.get(symbol)
        return None if trade is None else {"t": iso(trade.at), **trade_fields(trade, option=False)}

    def _latest_bar(self, symbol: str) -> dict[str, Any] | None:
        return bar_json(self._tape.minute_bars.get(symbol))

    def _snapshot(self, symbol: str) -> dict[str, Any] | None:
        if symbol not in self._tape.quotes:
            return None
        parts = {
            "latestTrade": self._latest_trade(symbol),
            "latestQuote": self._latest_quote(symbol),
            "minuteBar": self._latest_bar(symbol),
            "dailyBar": bar_json(self._tape.daily_bars.get(symbol)),
            "prevDailyBar": bar_json(self._tape.previous_daily_bars.get(symbol)),
        }
        return {name: part for name, part in parts.items() if part is not None}

    # History
    def _history(self, request: Request, kind: str, symbols: Sequence[str], *, single: bool) -> Response:
        now = self._host.now()
        midnight = now.astimezone(NEW_YORK).replace(hour=0, minute=0, second=0, microsecond=0)
        window = window_of(request.query, default_start=midnight, now=now)
        rows: list[Row] = []
        for symbol in sorted(symbols):
            found = self._rows(request, kind, symbol, window)
            rows.extend(sorted(found, key=lambda row: row.at, reverse=window.descending))
        chosen, token = page(rows, window)
        grouped: dict[str, list[dict[str, Any]]] = {}
        for row in chosen:
            grouped.setdefault(row.symbol, []).append(row.fields)
        if single:
            return json_response({"symbol": symbols[0], kind: grouped.get(symbols[0], []), "next_page_token": token})
        return json_response({kind: grouped, "next_page_token": token})

    def _rows(self, request: Request, kind: str, symbol: str, window: Window) -> list[Row]:
        start, end = window.start, window.end
        if kind == "quotes":
            quotes = self._tape.shown_quotes(symbol, start, end)
            return [Row(symbol, q.at, {"t": iso(q.at), **quote_fields(q, option=False)}) for q in quotes]
        if kind == "trades":
            trades = self._tape.prints(symbol, start, end)
            return [Row(symbol, t.at, {"t": iso(t.at), **trade_fields(t, option=False)}) for t in trades]
        count, unit = parse_timeframe(request.query.get("timeframe", "1Min"))
        daily = unit in ("Day", "Week", "Month")
        # Start a bucket early: the first bucket of a window is whole, as on the real service.
        lead = timedelta(0) if daily else timedelta(hours=count if unit == "Hour" else 1)
        source = self._tape.days if daily else self._tape.minutes
        bars = aggregate(source(symbol, start - lead, end), count, unit)
        return [Row(symbol, bar.start, bar_json(bar) or {}) for bar in bars if start <= bar.start <= end]


def bar_json(bar: Bar | None) -> dict[str, Any] | None:
    """A bar with its time."""
    return None if bar is None else {"t": iso(bar.start), **bar_fields(bar)}


def _found(value: dict[str, Any] | None, symbol: str) -> dict[str, Any]:
    if value is None:
        raise ApiError(404, {"code": 40410000, "message": f"no data found for {symbol[:40]}"})
    return value


def _check_feed(request: Request, feeds: Sequence[str]) -> None:
    feed = request.query.get("feed")
    if feed and feed not in feeds:
        raise bad_request(f"invalid feed: {feed[:40]}")
