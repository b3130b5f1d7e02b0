"""What a market source produces: rounds of ticks at one instant, and prices on legal ticks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Protocol

import msgspec

from exitguard.core.quote import Quote

_PRICES_KEPT = 1 << 14


class Tick(msgspec.Struct, gc=False):
    """One instrument's new quote, with the trade that came with it.

    `quote` is what orders match against, `quote.last` the price of the trade when `trade_size` (shares) is positive.
    `shown` replaces the quote on the data feed where the feed is to be wrong (a bad quote), else None.
    """

    quote: Quote
    trade_size: int = 0
    shown: Quote | None = None


@dataclass(frozen=True, slots=True)
class Print:
    """A trade on its own: dollars a share, shares or contracts, the venue's time of it."""

    symbol: str
    price: Decimal
    size: int
    at: datetime


@dataclass(frozen=True, slots=True)
class StatusChange:
    """A trading halt or its end."""

    symbol: str
    halted: bool
    reason: str = "T1"


@dataclass(slots=True)
class Round:
    """Everything that happens in the market at one instant: statuses first, then prints, then ticks."""

    at: datetime
    ticks: list[Tick] = field(default_factory=list)
    statuses: list[StatusChange] = field(default_factory=list)
    prints: list[Print] = field(default_factory=list)


class Source(Protocol):
    """Rounds in time order, from recorded data or from a generator."""

    def symbols(self) -> Sequence[str]:
        """The stocks that this source quotes."""
        ...

    def first_at(self) -> datetime | None:
        """When the source begins, None where it can begin at any time."""
        ...

    def last_at(self) -> datetime | None:
        """When the source ends, None where it does not."""
        ...

    def opening_price(self, symbol: str) -> Decimal:
        """A price to introduce the stock with, before its first quote."""
        ...

    def peek(self) -> datetime | None:
        """Time of the next round, None when there is none."""
        ...

    def take(self) -> Round:
        """The next round; only after `peek` returned a time."""
        ...

    def seek(self, moment: datetime) -> None:
        """Skip to the first round at or after `moment`; never backwards."""
        ...


class _Prices(dict[int, Decimal]):
    """Prices by their number of ticks. The same ones come again and again; a full table is begun anew.

    It holds what a market of hundreds of stocks moves between, not every price that it will ever have had: a day
    needs a few thousand at a time.
    """

    def __init__(self, exponent: int) -> None:
        super().__init__()
        self._exponent = exponent

    def __missing__(self, amount: int) -> Decimal:
        if len(self) >= _PRICES_KEPT:
            self.clear()
        price = self[amount] = Decimal(amount).scaleb(self._exponent)
        return price


# An amount of cents as dollars with two decimals, of 0.0001 dollars with four.
CENTS = _Prices(-2)
TEN_THOUSANDTHS = _Prices(-4)


def stock_price(value: float) -> Decimal:
    """Round dollars to a stock's tick: 0.01 from one dollar up, 0.0001 below; never under one tick."""
    if value >= 1:
        return CENTS[round(value * 100)]
    return TEN_THOUSANDTHS[max(1, round(value * 10_000))]


def quoted_around(value: float, spread_fraction: float) -> tuple[Decimal, Decimal, Decimal]:
    """Bid, price and ask around `value` dollars, the price exactly in the middle.

    Half the spread is `spread_fraction` / 2 of the price in whole ticks, at least one tick.
    """
    if value >= 1:
        middle = round(value * 100)
        half = max(1, round(middle * spread_fraction / 2))
        return CENTS[max(1, middle - half)], CENTS[middle], CENTS[middle + half]
    middle = max(2, round(value * 10_000))
    half = max(1, min(middle - 1, round(middle * spread_fraction / 2)))
    return TEN_THOUSANDTHS[middle - half], TEN_THOUSANDTHS[middle], TEN_THOUSANDTHS[middle + half]
