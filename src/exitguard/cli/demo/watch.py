"""An independent reading of every minute: which open positions ought to have been closed by now.

It shares no code with the manager's evaluation on purpose: plain arithmetic on the exchange's quotes and the demo's own
numbers. A position in breach that is not even being closed two market minutes later is a missed exit.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from exitguard.core.quote import Quote

PATIENCE = timedelta(minutes=2)
# A close that is under way may take longer: a halt, a partial fill, a lost answer.
CLOSING_PATIENCE = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Numbers:
    """The demo's policy in percent of the entry price, and its times."""

    min_hold: timedelta = timedelta(minutes=10)
    option_stop: Decimal = Decimal(-22)
    option_catastrophe: Decimal = Decimal(-30)
    option_target: Decimal = Decimal(45)
    stock_stop: Decimal = Decimal("-1.5")
    stock_target: Decimal = Decimal(2)
    largest_age: timedelta = timedelta(seconds=60)
    largest_spread: Decimal = Decimal("0.10")
    spread_floor: Decimal = Decimal("0.05")
    before_close: timedelta = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Missed:
    """A position that should have been closed and was not."""

    account: str
    symbol: str
    position_id: int
    why: str
    since: datetime


@dataclass(slots=True)
class BreachWatch:
    """Looks at all positions once a market minute."""

    session_close: datetime
    numbers: Numbers = field(default_factory=Numbers)
    missed: dict[tuple[str, int], Missed] = field(default_factory=dict)
    _since: dict[tuple[str, int], tuple[datetime, str]] = field(default_factory=dict)
    _closing: dict[tuple[str, int], datetime] = field(default_factory=dict)

    def look(self, positions: Iterable[Mapping[str, Any]], quotes: Mapping[str, Quote], now: datetime) -> None:
        """Take one minute's positions and quotes, of contracts and of their underlyings."""
        seen = set()
        for row in positions:
            key = (row["account_name"], row["id"])
            seen.add(key)
            quote = quotes.get(row["symbol"])
            if not self.usable(quotes.get(row["ticker"]), now):
                # A halt: the exchange still prices contracts on demand, and nothing trades.
                quote = None
            why = self.breach(row, quote, now)
            if row["status"] == "closing":
                self._since.pop(key, None)
                started = self._closing.setdefault(key, now)
                if quote is None:
                    self._closing[key] = now
                elif now - started >= CLOSING_PATIENCE and self.usable(quote, now):
                    self._miss(row, "its close does not finish", started)
                continue
            self._closing.pop(key, None)
            if why is None:
                self._since.pop(key, None)
                continue
            began, _ = self._since.setdefault(key, (now, why))
            if now - began >= PATIENCE:
                self._miss(row, why, began)
        for gone in (set(self._since) | set(self._closing)) - seen:
            self._since.pop(gone, None)
            self._closing.pop(gone, None)

    def _miss(self, row: Mapping[str, Any], why: str, since: datetime) -> None:
        key = (row["account_name"], row["id"])
        self.missed.setdefault(key, Missed(row["account_name"], row["symbol"], row["id"], why, since))

    def usable(self, quote: Quote | None, now: datetime) -> bool:
        """Whether a price may be read from the quote at all."""
        if quote is None or now - quote.at > self.numbers.largest_age or quote.at > now + timedelta(seconds=5):
            return False
        bid, ask = quote.bid, quote.ask
        if not (bid.is_finite() and ask.is_finite()) or bid <= 0 or ask < bid:
            return False
        spread = ask - bid
        return spread <= self.numbers.spread_floor or spread <= (bid + ask) / 2 * self.numbers.largest_spread

    def breach(self, row: Mapping[str, Any], quote: Quote | None, now: datetime) -> str | None:
        """Why the position ought to be out, None when it may stay."""
        if now >= self.session_close:
            return None
        if now >= row["max_hold_deadline"]:
            return "its deadline has passed"
        if row["strategy_type"] == "day_trade" and now >= self.session_close - self.numbers.before_close:
            return "a day trade at the end of the day"
        if quote is None or not self.usable(quote, now):
            return None
        return self._price_breach(row, (quote.bid + quote.ask) / 2, now)

    def _price_breach(self, row: Mapping[str, Any], mid: Decimal, now: datetime) -> str | None:
        numbers, option = self.numbers, row["instrument_type"] != "STOCK"
        sign = 1 if row["side"] == "long" else -1
        entry = row["entry_price"]
        gain = (mid - entry) / entry * 100 * sign
        if option and gain <= numbers.option_catastrophe:
            return f"{gain:.1f} %, catastrophic stop {numbers.option_catastrophe} %"
        if now < row["entry_time"] + numbers.min_hold:
            return None
        stop = row["stop_loss"]
        if stop is not None:
            if (mid - stop) * sign <= 0:
                return f"price {mid} beyond its stop {stop}"
        elif gain <= (numbers.option_stop if option else numbers.stock_stop):
            return f"{gain:.1f} %, beyond the policy's stop"
        target = row["take_profit"]
        if target is not None:
            return f"price {mid} beyond its target {target}" if (mid - target) * sign >= 0 else None
        if gain >= (numbers.option_target if option else numbers.stock_target):
            return f"{gain:.1f} %, beyond the policy's target"
        return None
