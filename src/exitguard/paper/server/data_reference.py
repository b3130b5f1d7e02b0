"""What the data API knows beside prices: exchange and condition codes, the screener, corporate actions."""

from typing import Any

from exitguard.paper.engine import ApiError
from exitguard.paper.server.data_fields import bad_request, check_words, whole_number
from exitguard.paper.server.data_frames import iso
from exitguard.paper.server.host import Host
from exitguard.paper.server.wire import Request, Response, json_response

# The codes that this exchange's own quotes and trades carry, and their neighbours on the real tapes.
STOCK_EXCHANGES = {
    "A": "NYSE American (AMEX)",
    "D": "FINRA ADF",
    "K": "Cboe EDGX",
    "N": "New York Stock Exchange",
    "P": "NYSE Arca",
    "Q": "NASDAQ",
    "V": "IEX",
    "Z": "Cboe BZ",
}
OPTION_EXCHANGES = {"A": "AMEX - NYSE American", "C": "CBOE - Cboe Options Exchange", "N": "NYSE - NYSE Arca"}
_STOCK_CONDITIONS = {
    "trade": {"@": "Regular Sale", "I": "Odd Lot Trade", "M": "Market Center Official Close", "T": "Form T",
              "Q": "Market Center Official Open"},
    "quote": {"R": "Regular, Two Sided Open"},
}  # fmt: skip
_OPTION_CONDITIONS = {
    "trade": {"I": "AUTO - Electronic trade", "a": "SLAN - Single leg auction, not ISO"},
    "quote": {"A": "Regular trading", " ": "Regular trading"},
}
_TAPES = ("A", "B", "C")
_MOST_ACTIVE = 100
_MOST_MOVED = 50


def exchanges(*, option: bool) -> Response:
    """GET …/meta/exchanges."""
    return json_response(OPTION_EXCHANGES if option else STOCK_EXCHANGES)


def conditions(request: Request, tick: str, *, option: bool) -> Response:
    """GET …/meta/conditions/{trade or quote}; stocks ask for a tape too. Raises ApiError 400."""
    found = (_OPTION_CONDITIONS if option else _STOCK_CONDITIONS).get(tick)
    if found is None:
        raise bad_request(f"invalid ticktype: {tick[:40]}")
    if not option:
        if not request.query.get("tape"):
            raise bad_request("tape is required")
        if request.query["tape"] not in _TAPES:
            raise bad_request(f"invalid tape: {request.query['tape'][:40]}")
    return json_response(found)


class Screener:
    """Which stocks are traded most and have moved most today, from the daily bars."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._tape = host.player.tape

    def handle(self, request: Request, parts: list[str]) -> Response:
        """Answer a request below /v1beta1/screener/. Raises ApiError."""
        if parts == ["stocks", "most-actives"]:
            return self._most_actives(request)
        if len(parts) == 2 and parts[1] == "movers":
            return self._movers(request, parts[0])
        raise ApiError(404, {"code": 40410000, "message": "endpoint not found."})

    def _most_actives(self, request: Request) -> Response:
        check_words(request, "by", ("volume", "trades"))
        top = whole_number(request.query, "top", 10, _MOST_ACTIVE)
        rows: list[dict[str, Any]] = [
            {"symbol": symbol, "volume": bar.volume, "trade_count": bar.trades}
            for symbol, bar in self._tape.daily_bars.items()
        ]
        by = "trade_count" if request.query.get("by") == "trades" else "volume"
        rows.sort(key=lambda row: (-row[by], row["symbol"]))
        return json_response({"most_actives": rows[:top], "last_updated": iso(self._host.now())})

    def _movers(self, request: Request, market: str) -> Response:
        if market not in ("stocks", "crypto"):
            raise bad_request(f"invalid market type: {market[:40]}")
        top = whole_number(request.query, "top", 10, _MOST_MOVED)
        rows = sorted(self._changes() if market == "stocks" else [], key=lambda row: row["percent_change"])
        return json_response(
            {
                "gainers": [row for row in reversed(rows) if row["change"] > 0][:top],
                "losers": [row for row in rows if row["change"] < 0][:top],
                "market_type": market,
                "last_updated": iso(self._host.now()),
            }
        )

    def _changes(self) -> list[dict[str, Any]]:
        """Each stock's move since yesterday's close, or since today's open on the first day."""
        rows = []
        for symbol, bar in self._tape.daily_bars.items():
            before = self._tape.previous_daily_bars.get(symbol)
            base = before.close if before is not None else bar.open
            change = bar.close - base
            percent = round(change / base * 100, 2)
            rows.append({"symbol": symbol, "percent_change": percent, "change": round(change, 4), "price": bar.close})
        return rows
