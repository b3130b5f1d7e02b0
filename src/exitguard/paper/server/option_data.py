"""The option half of the data API: latest quotes and trades, snapshots, chains, bars."""

from collections.abc import Mapping
from typing import Any

from exitguard.paper.engine import ApiError
from exitguard.paper.server.data_fields import bad_request, symbols_of, whole_number
from exitguard.paper.server.data_frames import iso, quote_fields, trade_fields
from exitguard.paper.server.data_history import History, bar_json
from exitguard.paper.server.data_paging import moment_of, offset_token, token_offset
from exitguard.paper.server.data_reference import conditions, exchanges
from exitguard.paper.server.host import Host
from exitguard.paper.server.wire import Request, Response, json_response

_DEFAULT_CHAIN = 100
_LARGEST_CHAIN = 1000
_MOST_SYMBOLS = 100
_CHAIN_FILTERS = {
    "type": "type",
    "strike_price_gte": "strike_price_gte",
    "strike_price_lte": "strike_price_lte",
    "expiration_date": "expiration_date",
    "expiration_date_gte": "expiration_date_gte",
    "expiration_date_lte": "expiration_date_lte",
    "root_symbol": "root_symbol",
}


class OptionData:
    """Model quotes of the option board in the data API's envelopes."""

    def __init__(self, host: Host, history: History) -> None:
        self._host = host
        self._history = history

    def handle(self, request: Request, parts: list[str]) -> Response:
        """Answer a request below /v1beta1/options/. Raises ApiError."""
        if parts == ["quotes", "latest"]:
            return json_response({"quotes": self._each(request, self._quote)})
        if parts == ["trades", "latest"]:
            return json_response({"trades": self._each(request, self._trade)})
        if parts == ["snapshots"]:
            listed = [symbol for symbol in symbols_of(request, _MOST_SYMBOLS) if self._host.is_listed_option(symbol)]
            return self._snapshots(request, sorted(listed))
        if len(parts) == 2 and parts[0] == "snapshots":
            return self._chain(request, parts[1])
        if parts in (["bars"], ["trades"]):
            # The model's contracts never trade by themselves: history is what an operator printed.
            symbols_of(request, _MOST_SYMBOLS)
            return self._history.answer(request, parts[0], None, option=True)
        if parts == ["meta", "exchanges"]:
            return exchanges(option=True)
        if len(parts) == 3 and parts[:2] == ["meta", "conditions"]:
            return conditions(request, parts[2], option=True)
        raise ApiError(404, {"code": 40410000, "message": "endpoint not found."})

    def _each(self, request: Request, look: Any) -> dict[str, Any]:
        listed = [symbol for symbol in symbols_of(request, _MOST_SYMBOLS) if self._host.is_listed_option(symbol)]
        found = {symbol: look(symbol) for symbol in listed}
        return {symbol: one for symbol, one in found.items() if one is not None}

    def _quote(self, symbol: str) -> dict[str, Any] | None:
        quote = self._host.player.look_at_option(symbol)
        return None if quote is None else {"t": iso(quote.at), **quote_fields(quote, option=True)}

    def _trade(self, symbol: str) -> dict[str, Any] | None:
        trade = self._host.player.tape.trades.get(symbol)
        return None if trade is None else {"t": iso(trade.at), **trade_fields(trade, option=True)}

    def _snapshot(self, symbol: str) -> dict[str, Any] | None:
        quote = self._quote(symbol)
        if quote is None:
            return None
        snapshot: dict[str, Any] = {"latestQuote": quote}
        trade = self._trade(symbol)
        if trade is not None:
            snapshot["latestTrade"] = trade
        tape = self._host.player.tape
        for name, bars in (
            ("minuteBar", tape.minute_bars),
            ("dailyBar", tape.daily_bars),
            ("prevDailyBar", tape.previous_daily_bars),
        ):
            if symbol in bars:
                snapshot[name] = bar_json(bars[symbol])
        value = self._host.player.board.value(symbol, self._host.now())
        if value is not None:
            snapshot["impliedVolatility"] = round(value.volatility, 4)
            snapshot["greeks"] = {
                "delta": round(value.delta, 4),
                "gamma": round(value.gamma, 4),
                "rho": round(value.rho, 4),
                "theta": round(value.theta, 4),
                "vega": round(value.vega, 4),
            }
        return snapshot

    def _chain(self, request: Request, underlying: str) -> Response:
        return self._snapshots(request, self._chain_symbols(underlying, request.query))

    def _snapshots(self, request: Request, symbols: list[str]) -> Response:
        """One page of the contracts' snapshots. Raises ApiError 400."""
        begin = token_offset(request.query.get("page_token"))
        end = begin + whole_number(request.query, "limit", _DEFAULT_CHAIN, _LARGEST_CHAIN)
        updated_since = request.query.get("updated_since")
        since = iso(moment_of(updated_since, "updated_since")) if updated_since else ""
        snapshots = {symbol: self._snapshot(symbol) for symbol in symbols[begin:end]}
        shown = {symbol: one for symbol, one in snapshots.items() if one and one["latestQuote"]["t"] >= since}
        token = offset_token(end) if end < len(symbols) else None
        return json_response({"snapshots": shown, "next_page_token": token})

    def _chain_symbols(self, underlying: str, query: Mapping[str, str]) -> list[str]:
        filters = {ours: query[theirs] for theirs, ours in _CHAIN_FILTERS.items() if query.get(theirs)}
        # Without a date filter the contract list would end at the next weekend; a chain does not.
        if not any(name.startswith("expiration_date") for name in filters):
            filters["expiration_date_gte"] = self._host.now().date().isoformat()
        symbols: list[str] = []
        token: str | None = None
        while True:
            asked = {"underlying_symbols": underlying, "limit": "10000", **filters}
            try:
                answer = self._host.exchange.list_option_contracts(
                    {**asked, **({"page_token": token} if token else {})}
                )
            except ApiError as refusal:
                # The same filters, refused with the data API's status.
                raise bad_request(refusal.body["message"]) from refusal
            symbols.extend(contract["symbol"] for contract in answer["option_contracts"])
            token = answer.get("next_page_token")
            if not token:
                return sorted(symbols)
