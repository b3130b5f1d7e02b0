"""The page at `/`: what the exchange is doing, for people."""

import html
from typing import Any

from exitguard.core.session import NEW_YORK
from exitguard.paper.server.host import Host

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1d2733}"
    "table{border-collapse:collapse;width:100%;margin:.5rem 0 1.5rem}td,th{text-align:right;padding:.25rem .6rem;"
    "border-bottom:1px solid #dde3ea}td:first-child,th:first-child{text-align:left}h2{margin:1.2rem 0 .2rem}"
    "code{background:#f1f4f7;padding:.1rem .3rem;border-radius:3px}"
)


def _table(titles: list[str], rows: list[list[Any]]) -> str:
    head = "".join(f"<th>{html.escape(title)}</th>" for title in titles)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def status_page(host: Host, streams: dict[str, int], data_sessions: int) -> str:
    """Clock, accounts, prices, switched-on faults. Keys and secrets are not shown."""
    clock, exchange, tape = host.clock, host.exchange, host.player.tape
    now = host.now().astimezone(NEW_YORK)
    running = "paused" if clock.paused else f"running at {clock.speed:g}x"
    state = "open" if host.calendar.is_open(now) else "closed"
    accounts = []
    for name, account in host.accounts.items():
        figures = exchange.account_json(account)
        positions = len(exchange.list_positions(account))
        orders = len(exchange.list_orders(account, {"status": "open", "limit": "500"}))
        row = [
            name,
            account.account_number,
            figures["equity"],
            figures["cash"],
            positions,
            orders,
            streams.get(name, 0),
        ]
        accounts.append(row)
    prices = [
        [symbol, quote.bid, quote.ask, f"{quote.at.astimezone(NEW_YORK):%H:%M:%S}"]
        for symbol in host.symbols()[:200]
        if (quote := tape.quotes.get(symbol)) is not None
    ]
    faults = [
        [fault["id"], fault["kind"], fault["probability"], fault["injected"]]
        for fault in exchange.faults.to_json()["faults"]
    ]
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><meta http-equiv='refresh' content='2'>"
        f"<title>exitguard paper exchange</title><style>{_STYLE}</style></head><body>"
        "<h1>Paper exchange</h1>"
        f"<p>{now:%Y-%m-%d %H:%M:%S} New York, market {state}, clock {running}, seed {exchange.seed}, "
        f"{host.player.rounds_played} rounds of quotes played, {data_sessions} data connections.</p>"
        "<h2>Accounts</h2>"
        + _table(["account", "number", "equity", "cash", "positions", "open orders", "trade streams"], accounts)
        + "<h2>Stocks</h2>"
        + _table(["symbol", "bid", "ask", "at"], prices)
        + "<h2>Faults switched on</h2>"
        + (_table(["id", "kind", "probability", "injected"], faults) if faults else "<p>None.</p>")
        + "<p>Option quotes are computed by a model, not recorded. Admin API: <code>/admin/clock</code>, "
        "<code>/admin/advance</code>, <code>/admin/quote</code>, <code>/admin/faults</code>, "
        "<code>/admin/state</code>, <code>/admin/fills</code>.</p></body></html>"
    )
