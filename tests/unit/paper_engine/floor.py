"""A trading floor for tests: an exchange with a market clock and a wall clock that only the test moves."""

import heapq
import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from exitguard.core.quote import Quote
from exitguard.core.session import NEW_YORK, table_calendar
from exitguard.paper.engine import Account, ApiError, Exchange, ExchangeSettings

CALENDAR = table_calendar()
# A Thursday, an hour and a half after the open.
START = datetime(2026, 10, 8, 11, 0, tzinfo=NEW_YORK).astimezone(UTC)


class Floor:
    """One exchange with the stock KO at 50.00 and two accounts; `run` lets everything scheduled happen."""

    def __init__(self, *, seed: int = 7, at: datetime = START, cash: str = "100000", **settings: Any) -> None:
        self.now = at
        self.wall = 0.0
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.exchange = Exchange(
            CALENDAR, seed, now=lambda: self.now, schedule=self._schedule, settings=ExchangeSettings(**settings)
        )
        self.account = self.exchange.create_account("large", Decimal(cash))
        self.other = self.exchange.create_account("tiny", Decimal(1000))
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.exchange.trade_update_listeners.append(lambda account, data: self.events.append((account.name, data)))
        self.exchange.add_stock("KO", Decimal(50))
        self.quote("KO", "49.99", "50.01")

    def _schedule(self, delay: float, function: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (self.wall + delay, next(self._order), function))

    def run(self, seconds: float = 0.5) -> None:
        """Let `seconds` of wall time pass."""
        until = self.wall + seconds
        while self._agenda and self._agenda[0][0] <= until:
            self.wall, _, function = heapq.heappop(self._agenda)
            function()
        self.wall = until

    def to(self, clock: str, days: int = 0) -> None:
        """Move the market to a New York wall time, today or `days` later."""
        hour, minute = (int(part) for part in clock.split(":"))
        local = self.now.astimezone(NEW_YORK) + timedelta(days=days)
        self.now = local.replace(hour=hour, minute=minute, second=0, microsecond=0).astimezone(UTC)
        self.exchange.advance_to(self.now)

    def quote(self, symbol: str, bid: str, ask: str, *, bid_size: int = 100, ask_size: int = 100) -> None:
        self.exchange.on_quotes([Quote(symbol, Decimal(bid), Decimal(ask), self.now, bid_size, ask_size)])

    def order(self, account: Account | None = None, **fields: Any) -> dict[str, Any]:
        """Submit an order; a day order to buy KO unless told otherwise."""
        body = {"symbol": "KO", "side": "buy", "type": "market", "time_in_force": "day", "qty": "10", **fields}
        return self.exchange.submit_order(
            account or self.account, {name: value for name, value in body.items() if value is not None}
        )

    def bracket(self, **fields: Any) -> dict[str, Any]:
        """Submit a bracket around 50: target 53, stop 48."""
        return self.order(
            **{
                "order_class": "bracket",
                "take_profit": {"limit_price": "53"},
                "stop_loss": {"stop_price": "48"},
                **fields,
            }
        )

    def hold(self, qty: str, symbol: str = "KO", side: str = "buy") -> None:
        """Have a position."""
        self.order(symbol=symbol, qty=qty, side=side)
        self.run()

    def get(self, order: dict[str, Any], nested: bool = False) -> dict[str, Any]:
        return self.exchange.get_order(self.account, order["id"], nested)

    def qty(self, symbol: str = "KO") -> Decimal:
        return self.account.position_qty(symbol)

    def names(self) -> list[str]:
        """The kinds of events so far, and forget them."""
        names = [data["event"] for _, data in self.events]
        self.events.clear()
        return names


def refusal(call: Callable[[], Any]) -> tuple[int, dict[str, Any]]:
    """Status and body with which a call is refused."""
    try:
        call()
    except ApiError as error:
        return error.status, error.body
    raise AssertionError("the call was not refused")
