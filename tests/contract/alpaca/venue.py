"""A paper exchange in a thread of its own, with an account that has something of everything."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any, TypeVar

from exitguard.core.quote import Quote
from exitguard.paper.engine import Account, ApiError
from exitguard.paper.server.app import PaperServer
from exitguard.paper.server.settings import PaperSettings

START = datetime(2026, 11, 18, 15, 0, tzinfo=UTC)
STOCKS = {"AAPL": Decimal(190), "F": Decimal("11.50"), "MSFT": Decimal(410)}
CENT = Decimal("0.01")
_WAIT = 20.0

T = TypeVar("T")


class Venue:
    """The exchange as tests see it: everything that touches it runs in its own loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, server: PaperServer) -> None:
        self.loop = loop
        self._numbers = count(1)
        self.server = server
        self.url = server.rest_url
        expiry = date(2026, 11, 20)
        self.option = f"AAPL{expiry:%y%m%d}C00190000"
        self.put = f"AAPL{expiry:%y%m%d}P00190000"

    def run(self, act: Callable[[], T]) -> T:
        """Do something in the exchange's loop and wait for its result."""

        async def carry_out() -> T:
            return act()

        return asyncio.run_coroutine_threadsafe(carry_out(), self.loop).result(_WAIT)

    def settle(self) -> None:
        """Wait until no order is in flight."""
        asyncio.run_coroutine_threadsafe(self.server.host.settle(), self.loop).result(_WAIT)

    def open_account(self) -> Account:
        """An account of its own for one test."""
        number = next(self._numbers)
        return self.run(lambda: self.server.exchange.create_account(f"account{number}", Decimal(10_000_000)))

    def refill(self, account: Account) -> "Known":
        """See to it that the account has positions, orders of every class and state, watchlists and activities."""
        if self.run(lambda: self._buy_what_is_missing(account)):
            self.settle()
        if self.run(lambda: self._order_what_is_missing(account)):
            self.settle()
        self.run(lambda: self._list_what_is_missing(account))
        return self.run(lambda: Known(self, account))

    def _submit(self, account: Account, **order: Any) -> None:
        self.server.host.need_contracts([order.get("symbol", ""), *(leg["symbol"] for leg in order.get("legs", ()))])
        # What the fuzzer left behind may stand in the way (a wash trade, no trading): it is its account.
        with suppress(ApiError):
            self.server.exchange.submit_order(account, {"time_in_force": "day", **order})

    def _buy_what_is_missing(self, account: Account) -> bool:
        wanted = dict.fromkeys(("AAPL", "F"), 100) | {self.option: 2}
        missing = {symbol: qty for symbol, qty in wanted.items() if symbol not in account.positions}
        for symbol, qty in missing.items():
            self._submit(account, symbol=symbol, qty=qty, side="buy", type="market")
        return bool(missing)

    def _order_what_is_missing(self, account: Account) -> bool:
        if len(account.open) >= 8:
            return False
        exits = {"take_profit": {"limit_price": "16"}, "stop_loss": {"stop_price": "9"}}
        self._submit(account, symbol="AAPL", qty=1, side="sell", type="limit", limit_price="250")
        self._submit(account, symbol="AAPL", qty=1, side="sell", type="stop", stop_price="150")
        self._submit(account, symbol="AAPL", qty=1, side="sell", type="trailing_stop", trail_percent="5")
        self._submit(account, symbol="MSFT", qty=1, side="buy", type="limit", limit_price="300", order_class="bracket",
                     take_profit={"limit_price": "500"}, stop_loss={"stop_price": "200"})  # fmt: skip
        self._submit(account, symbol="F", qty=1, side="sell", type="limit", order_class="oco", **exits)
        self._submit(account, symbol="MSFT", notional="1000", side="buy", type="limit", limit_price="300")
        self._submit(account, qty=1, type="limit", limit_price="0.01", order_class="mleg", legs=[
            {"symbol": self.option, "ratio_qty": 1, "side": "buy", "position_intent": "buy_to_open"},
            {"symbol": self.put, "ratio_qty": 1, "side": "buy", "position_intent": "buy_to_open"},
        ])  # fmt: skip
        if not account.activities or account.activities[-1][1]["activity_type"] == "FILL":
            self._post_option_activity(account)
        return True

    def _list_what_is_missing(self, account: Account) -> None:
        """A watchlist to which something can be added."""
        exchange = self.server.exchange
        found = next((one for one in account.watchlists.values() if one["name"] == "mine"), None)
        if found is None and len(account.watchlists) < 100:
            exchange.create_watchlist(account, {"name": "mine", "symbols": ["AAPL"]})
        elif found is not None and len(found["symbols"]) > 1:
            exchange.update_watchlist(account, found["id"], {"symbols": ["AAPL"]})

    def _post_option_activity(self, account: Account) -> None:
        """An assignment's activity, as the morning after would post it."""
        settlement = self.server.exchange._settlement
        settlement.remember(account, "OPEXP", self.option, Decimal(-1), "Option Expiry")
        settlement.post_activities()


class Known:
    """Identifiers that exist, by the name of the parameter that takes them."""

    def __init__(self, venue: Venue, account: Account) -> None:
        orders = list(account.orders.values())[-30:]
        symbols = ["AAPL", venue.option, "F", venue.server.exchange.get_asset("AAPL")["id"]]
        announcements = list(venue.server.exchange._extras._announcements)
        self.values: dict[str, list[str]] = {
            "order_id": [order.id for order in account.open.values()] + [order.id for order in orders],
            "before_order_id": [order.id for order in orders],
            "after_order_id": [order.id for order in orders],
            "client_order_id": [order.client_order_id for order in orders],
            "symbol_or_asset_id": symbols,
            "symbol_or_contract_id": [venue.option, venue.put],
            "symbol_or_id": [venue.option, venue.put],
            "symbol": ["AAPL", "F", "MSFT"],
            "symbols": ["AAPL,F", "AAPL", f"{venue.option},{venue.put}"],
            "underlying_symbol": ["AAPL"],
            "underlying_symbols": ["AAPL,MSFT", "AAPL"],
            "watchlist_id": list(account.watchlists),
            "name": [watchlist["name"] for watchlist in account.watchlists.values()],
            "activity_type": ["FILL", "OPEXP", "FILL,DIV"],
            "page_token": [activity["id"] for _, activity in account.activities[-5:]],
            "id": announcements,
            "ticktype": ["trade", "quote"],
            "tape": ["A", "B", "C"],
            "market_type": ["stocks"],
            "market": ["NYSE", "XNAS", "OPRA"],
            "markets": ["NYSE,OPRA", "IEX"],
            "period": ["1D", "1M", "1A"],
            "timeframe": ["1Min", "1D", "5Min"],
            "start": ["2026-11-17T00:00:00Z", "2026-11-18"],
            "end": ["2026-11-18T23:00:00Z", "2026-11-19"],
            "since": ["2026-11-01"],
            "until": ["2026-11-18T15:02:00Z"],
            "ca_types": ["split,dividend"],
            "types": ["forward_split,cash_dividend"],
        }


@contextmanager
def running_venue() -> Iterator[Venue]:
    """Start the exchange in a thread, let some market pass, and stop it at the end."""
    settings = PaperSettings(accounts={"first": Decimal(100_000)}, manual=STOCKS, start=START, paused=True)
    server = PaperServer(settings)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="exchange", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(_WAIT)
        venue = Venue(loop, server)
        _let_the_market_pass(venue)
        yield venue
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(_WAIT)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_WAIT)
        loop.close()


def _let_the_market_pass(venue: Venue) -> None:
    """Quotes, trades and a corporate action, so that the answers have something to say."""
    host = venue.server.host
    for minute in range(1, 4):
        venue.run(lambda passed=minute: [_trade(venue, symbol, price + passed) for symbol, price in STOCKS.items()])
        to = START + timedelta(minutes=minute)
        asyncio.run_coroutine_threadsafe(host.player.advance(to), venue.loop).result(_WAIT)
    venue.run(lambda: host.add_fault({"kind": "split", "symbol": "MSFT", "parameters": {"ratio": 2}}))


def _trade(venue: Venue, symbol: str, price: Decimal) -> None:
    host = venue.server.host
    quote = Quote(symbol, price - CENT, price + CENT, host.now(), 100, 100, price)
    host.player.publish(quote, trade_size=100)
