"""The market data REST API: stocks under /v2/stocks, options under /v1beta1/options, and what belongs to both."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from exitguard.core.session import NEW_YORK
from exitguard.paper.engine import ApiError
from exitguard.paper.server.data_corporate import corporate_actions
from exitguard.paper.server.data_fields import bad_request, check_words, symbols_of
from exitguard.paper.server.data_frames import iso, quote_fields, trade_fields
from exitguard.paper.server.data_history import History, bar_json
from exitguard.paper.server.data_paging import moment_of
from exitguard.paper.server.data_reference import Screener, conditions, exchanges
from exitguard.paper.server.host import Host
from exitguard.paper.server.option_data import OptionData
from exitguard.paper.server.trading_api import method_not_allowed, not_found
from exitguard.paper.server.wire import Request, Response, json_response

_STOCKS = "/v2/stocks/"
_OPTIONS = "/v1beta1/options/"
_SCREENER = "/v1beta1/screener/"
_CORPORATE_ACTIONS = "/v1/corporate-actions"
_STOCK_FEEDS = ("iex", "sip", "delayed_sip", "otc", "boats", "overnight")
_OPTION_FEEDS = ("opra", "indicative")
_CURRENCIES = ("USD",)
_WITHHELD_FOR = timedelta(minutes=15)
_HISTORIES = ("quotes", "trades", "bars", "auctions")


def is_data_path(path: str) -> bool:
    """Whether a path belongs to the data API."""
    return path.startswith((_STOCKS, _OPTIONS, _SCREENER, _CORPORATE_ACTIONS))


class DataApi:
    """Answers from the tape; option data from the option board."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._tape = host.player.tape
        self._history = History(host)
        self._options = OptionData(host, self._history)
        self._screener = Screener(host)
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
        check_words(request, "currency", _CURRENCIES)
        if path == _CORPORATE_ACTIONS:
            today = self._host.now().astimezone(NEW_YORK).date()
            return json_response(corporate_actions(self._host.exchange.announced(), request.query, today))
        if path.startswith(_SCREENER):
            return self._screener.handle(request, path[len(_SCREENER) :].split("/"))
        if path.startswith(_OPTIONS):
            self._check_feed(request, _OPTION_FEEDS)
            return self._options.handle(request, path[len(_OPTIONS) :].split("/"))
        if path.startswith(_STOCKS):
            self._check_feed(request, _STOCK_FEEDS)
            return self._stocks(request, path[len(_STOCKS) :].split("/"))
        raise not_found()

    def _stocks(self, request: Request, parts: list[str]) -> Response:
        if parts[0] == "meta":
            return _reference(request, parts[1:])
        if parts == ["snapshots"]:
            found = {symbol: self._snapshot(symbol) for symbol in symbols_of(request)}
            return json_response({symbol: snapshot for symbol, snapshot in found.items() if snapshot})
        if len(parts) == 2 and parts[1] == "latest" and parts[0] in self._latest:
            _, look = self._latest[parts[0]]
            found = {symbol: look(symbol) for symbol in symbols_of(request)}
            return json_response({parts[0]: {symbol: one for symbol, one in found.items() if one}})
        if len(parts) == 1 and parts[0] in _HISTORIES:
            return self._history.answer(request, parts[0], None)
        if len(parts) == 2 and parts[1] == "snapshot":
            return json_response({"symbol": parts[0], **_found(self._snapshot(parts[0]), parts[0])})
        if len(parts) == 2 and parts[1] in _HISTORIES:
            return self._history.answer(request, parts[1], parts[0])
        if len(parts) == 3 and parts[2] == "latest" and parts[1] in self._latest:
            name, look = self._latest[parts[1]]
            return json_response({"symbol": parts[0], name: _found(look(parts[0]), parts[0])})
        raise not_found()

    def _check_feed(self, request: Request, feeds: Sequence[str]) -> None:
        """The feed exists and is subscribed to; of a withheld one only what is a quarter of an hour old may be seen."""
        feed = request.query.get("feed")
        if feed and feed not in feeds:
            raise bad_request(f"invalid feed: {feed[:40]}")
        if not feed or feed not in self._host.settings.feeds_withheld:
            return
        end = request.query.get("end")
        is_old = end is not None and moment_of(end, "end", end_of_day=True) <= self._host.now() - _WITHHELD_FOR
        if not is_old or request.path.endswith(("/latest", "snapshot", "snapshots")):
            message = f"subscription does not permit querying recent {feed.upper()} data"
            raise ApiError(403, {"code": 42210000, "message": message})

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


def _reference(request: Request, parts: list[str]) -> Response:
    if parts == ["exchanges"]:
        return exchanges(option=False)
    if len(parts) == 2 and parts[0] == "conditions":
        return conditions(request, parts[1], option=False)
    raise not_found()


def _found(value: dict[str, Any] | None, symbol: str) -> dict[str, Any]:
    if value is None:
        raise ApiError(404, {"code": 40410000, "message": f"no data found for {symbol[:40]}"})
    return value
