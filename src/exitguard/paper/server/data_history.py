"""History of what was played: quotes, trades, bars and auctions of stocks and options, in pages."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from exitguard.core.session import NEW_YORK
from exitguard.paper.market.tape import Bar, Tape
from exitguard.paper.server.data_fields import bad_request, check_words, symbols_of
from exitguard.paper.server.data_frames import bar_fields, iso, quote_fields, trade_fields
from exitguard.paper.server.data_paging import Row, Window, aggregate, page, parse_timeframe, window_of
from exitguard.paper.server.host import Host
from exitguard.paper.server.wire import Request, Response, json_response

_ADJUSTMENTS = ("raw", "split", "dividend", "spin-off", "all")
# Sale conditions of the official opening and closing price.
_OFFICIAL_OPEN, _OFFICIAL_CLOSE = "Q", "M"


def bar_json(bar: Bar | None) -> dict[str, Any] | None:
    """A bar with its time."""
    return None if bar is None else {"t": iso(bar.start), **bar_fields(bar)}


class History:
    """Answers from the tape. Adjustments are not made: prices are those that were shown."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._tape: Tape = host.player.tape

    def answer(self, request: Request, kind: str, symbol: str | None, *, option: bool = False) -> Response:
        """One page of `kind` (quotes, trades, bars, auctions), of one stock or of the `symbols` of the query.

        Raises ApiError 400.
        """
        symbols = [symbol] if symbol is not None else symbols_of(request)
        check_words(request, "adjustment", _ADJUSTMENTS)
        now = self._host.now()
        midnight = now.astimezone(NEW_YORK).replace(hour=0, minute=0, second=0, microsecond=0)
        window = window_of(request.query, default_start=midnight, now=now)
        look = self._look(request, kind, option=option)
        rows: list[Row] = []
        for one in sorted(symbols):
            rows.extend(sorted(look(one, window), key=lambda row: row.at, reverse=window.descending))
        chosen, token = page(rows, window)
        grouped: dict[str, list[dict[str, Any]]] = {}
        for row in chosen:
            grouped.setdefault(row.symbol, []).append(row.fields)
        if symbol is not None:
            return json_response({"symbol": symbol, kind: grouped.get(symbol, []), "next_page_token": token})
        return json_response({kind: grouped, "next_page_token": token})

    def _look(self, request: Request, kind: str, *, option: bool) -> Callable[[str, Window], Sequence[Row]]:
        if kind == "quotes":
            return self._quotes
        if kind == "trades":
            return lambda symbol, window: self._trades(symbol, window, option=option)
        if kind == "auctions":
            return self._auctions
        timeframe = request.query.get("timeframe")
        if not timeframe:
            raise bad_request("timeframe is required")
        count, unit = parse_timeframe(timeframe)
        return lambda symbol, window: self._bars(symbol, window, count, unit)

    def _quotes(self, symbol: str, window: Window) -> list[Row]:
        quotes = self._tape.shown_quotes(symbol, window.start, window.end)
        return [Row(symbol, q.at, {"t": iso(q.at), **quote_fields(q, option=False)}) for q in quotes]

    def _trades(self, symbol: str, window: Window, *, option: bool) -> list[Row]:
        trades = self._tape.prints(symbol, window.start, window.end)
        return [Row(symbol, t.at, {"t": iso(t.at), **trade_fields(t, option=option)}) for t in trades]

    def _bars(self, symbol: str, window: Window, count: int, unit: str) -> list[Row]:
        daily = unit in ("Day", "Week", "Month")
        # Start a bucket early: the first bucket of a window is whole, as on the real service.
        lead = timedelta(0) if daily else timedelta(hours=count if unit == "Hour" else 1)
        source = self._tape.days if daily else self._tape.minutes
        bars = aggregate(source(symbol, _earlier(window.start, lead), window.end), count, unit)
        return [Row(symbol, bar.start, bar_json(bar) or {}) for bar in bars if window.start <= bar.start <= window.end]

    def _auctions(self, symbol: str, window: Window) -> list[Row]:
        """Each day's official open and, once the day is over, its official close, from the daily bars."""
        rows = []
        for bar in self._tape.days(symbol, window.start, window.end):
            day = bar.start.astimezone(NEW_YORK).date()
            session = self._host.calendar.on(day)
            if session is None:
                continue
            opening = _auction(session.open, bar.open, _OFFICIAL_OPEN)
            over = self._host.now() >= session.close
            closing = [_auction(session.close, bar.close, _OFFICIAL_CLOSE)] if over else []
            rows.append(Row(symbol, bar.start, {"d": day.isoformat(), "o": [opening], "c": closing}))
        return rows


def _auction(at: datetime, price: float, condition: str) -> dict[str, Any]:
    return {"t": iso(at), "x": "V", "p": price, "c": condition}


def _earlier(at: datetime, lead: timedelta) -> datetime:
    """`at` less `lead`, as far as the calendar of Python reaches."""
    floor = datetime.min.replace(tzinfo=at.tzinfo)
    return at - lead if at - floor > lead else floor
