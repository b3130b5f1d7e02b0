"""The page at `/`: what the exchange is doing, for people."""

import html
from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from itertools import islice
from typing import Any

from exitguard.core.session import NEW_YORK
from exitguard.paper.server.host import Host

_STYLE = (
    ":root{color-scheme:light dark;--ink:#1d2733;--line:#dde3ea;--code:#f1f4f7;--bad:#b3261e}"
    "@media(prefers-color-scheme:dark){:root{--ink:#dfe6ee;--line:#37424f;--code:#26303b;--bad:#ff8a80}}"
    "body{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:var(--ink)}"
    "div{overflow-x:auto;margin:.5rem 0 1.5rem}table{border-collapse:collapse;width:100%;"
    "font-variant-numeric:tabular-nums}td,th{text-align:left;padding:.25rem .6rem;white-space:nowrap;"
    "border-bottom:1px solid var(--line)}td.n,th.n{text-align:right}h2{margin:1.2rem 0 .2rem}b{color:var(--bad)}"
    "code{background:var(--code);padding:.1rem .3rem;border-radius:3px}"
)
# Rows of a table: a page for people, not an export.
_ROWS = 40
_STOCKS = 200
_NEWEST = 10
Row = Sequence[Any]


def status_page(host: Host, streams: dict[str, int], data_sessions: int) -> str:
    """Clock, accounts, positions, orders, fills, prices, faults. Keys and secrets are not shown."""
    exchange = host.exchange
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><meta http-equiv='refresh' content='2'>"
        "<meta name='viewport' content='width=device-width'>"
        f"<title>exitguard paper exchange</title><style>{_STYLE}</style></head><body>"
        "<h1>Paper exchange</h1>"
        + _headline(host, data_sessions)
        + _section(
            "Accounts",
            ["account", "number", "#equity", "#cash", "#positions", "#open orders", "#trade streams", ""],
            _accounts(host, streams),
        )
        + _section(
            "Positions",
            ["account", "symbol", "#quantity", "#free", "#average", "#price", "#value", "#profit"],
            _positions(host),
        )
        + _section(
            "Open orders",
            ["account", "symbol", "side", "type", "#quantity", "#filled", "#limit", "#stop", "until", "status"],
            _orders(host),
        )
        + _section("Newest fills", ["at", "account", "symbol", "side", "#quantity", "#price"], _fills(host), _NEWEST)
        + _section("Stocks", ["symbol", "#bid", "#ask", "at", ""], _stocks(host), _STOCKS)
        + _section(
            "Faults switched on",
            ["#id", "kind", "hits", "#probability", "#injected", "#at most"],
            (
                [one["id"], one["kind"], _target(one), one["probability"], one["injected"], one["count"] or ""]
                for one in exchange.faults.to_json()["faults"]
            ),
        )
        + _section("Newest of what was injected", ["at", "kind", "hit"], _injected(host), _NEWEST)
        + "<p>Option quotes are computed by a model, not recorded. Admin API: <code>/admin/clock</code> "
        "<code>/admin/advance</code> <code>/admin/quote</code> <code>/admin/halt</code> <code>/admin/faults</code> "
        "<code>/admin/state</code> <code>/admin/fills</code></p></body></html>"
    )


def _headline(host: Host, data_sessions: int) -> str:
    clock = host.clock
    now = host.now().astimezone(NEW_YORK)
    running = "paused" if clock.paused else f"running at {clock.speed:g}x"
    state = "open" if host.calendar.is_open(now) else "closed"
    return (
        f"<p>{now:%A %Y-%m-%d %H:%M:%S} New York, market {state}, clock {running}, seed {host.exchange.seed}, "
        f"{host.player.rounds_played:,} rounds of quotes played, {data_sessions} data connections.</p>"
    )


def _section(title: str, titles: Sequence[str], rows: Iterator[Row], most: int = _ROWS) -> str:
    """A table; a title with # in front is a column of numbers. Nothing to show is said in a word."""
    shown = list(islice(rows, most))
    rest = sum(1 for _ in rows)
    heading = f"<h2>{html.escape(title)}</h2>"
    if not shown:
        return f"{heading}<p>None.</p>"
    kinds = [" class='n'" if one.startswith("#") else "" for one in titles]
    head = "".join(f"<th{kind}>{html.escape(one.lstrip('#'))}</th>" for kind, one in zip(kinds, titles, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{_cell(cell)}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in shown
    )
    more = f"<p>And {rest:,} more.</p>" if rest else ""
    return f"{heading}<div><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{more}"


def _cell(value: Any) -> str:
    """Text from outside, escaped; what needs attention comes as a one-item tuple."""
    if isinstance(value, tuple):
        return f"<b>{html.escape(str(value[0]))}</b>"
    return "" if value is None else html.escape(str(value)[:128])


def _dollars(text: str | Decimal) -> str:
    return f"{Decimal(text):,.2f}"


def _plain(number: Decimal | None) -> str | None:
    """As a person writes it: clients send 10.000000000."""
    return None if number is None else f"{number.normalize():f}"


def _clock(stamp: str) -> str:
    return f"{datetime.fromisoformat(stamp).astimezone(NEW_YORK):%Y-%m-%d %H:%M:%S}"


def _accounts(host: Host, streams: dict[str, int]) -> Iterator[Row]:
    for name, account in host.accounts.items():
        figures = host.exchange.account_json(account)
        yield (
            name, account.account_number, _dollars(figures["equity"]), _dollars(figures["cash"]),
            len(account.positions), len(account.open), streams.get(name, 0),
            ("blocked",) if account.trading_blocked else "",
        )  # fmt: skip


def _positions(host: Host) -> Iterator[Row]:
    for name, account in host.accounts.items():
        for one in host.exchange.list_positions(account):
            yield (
                name, one["symbol"], one["qty"], one["qty_available"], one["avg_entry_price"], one["current_price"],
                _dollars(one["market_value"]), _dollars(one["unrealized_pl"]),
            )  # fmt: skip


def _orders(host: Host) -> Iterator[Row]:
    for name, account in host.accounts.items():
        for order in reversed(account.open.values()):
            if order.order_class == "mleg" and order.parent is not None:
                continue
            symbol = order.symbol or " / ".join(leg.symbol for leg in order.legs)
            kind = f"{order.type or 'leg'} {order.order_class}".rstrip()
            quantity = _plain(order.qty) if order.qty is not None else f"${_plain(order.notional)}"
            yield (
                name, symbol, order.side, kind, quantity, _plain(order.filled_qty), _plain(order.limit_price),
                _plain(order.stop_price), order.time_in_force, order.status,
            )  # fmt: skip


def _fills(host: Host) -> Iterator[Row]:
    for one in reversed(host.exchange.fills_json(_NEWEST)):
        yield _clock(one["at"]), one["account"], one["symbol"], one["side"], one["qty"], one["price"]


def _stocks(host: Host) -> Iterator[Row]:
    for symbol in host.symbols():
        quote = host.player.tape.quotes.get(symbol)
        if quote is not None:
            at = f"{quote.at.astimezone(NEW_YORK):%H:%M:%S}"
            yield symbol, quote.bid, quote.ask, at, ("halted",) if host.exchange.is_halted(symbol) else ""


def _target(one: dict[str, Any]) -> str:
    named = [str(one[field]) for field in ("account", "symbol", "endpoint") if one.get(field) is not None]
    return ", ".join(named) or "anything"


def _injected(host: Host) -> Iterator[Row]:
    for one in islice(reversed(host.exchange.faults.log), _NEWEST):
        hit = _target(one)
        yield _clock(one["at"]), one["kind"], (f"{hit}: {one['failed']}",) if "failed" in one else hit
