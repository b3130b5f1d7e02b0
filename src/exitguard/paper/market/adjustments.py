"""Splits and new names of stocks while their source plays on under the old terms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from exitguard.core.quote import Quote
from exitguard.paper.market.ticks import Print, Round, StatusChange, Tick, stock_price


@dataclass(slots=True)
class _Terms:
    """The stock's present name, and what its source's prices are divided by."""

    symbol: str
    divisor: Decimal = Decimal(1)


class Adjustments:
    """Translates rounds from the sources' terms into the market's."""

    def __init__(self) -> None:
        self._terms: dict[str, _Terms] = {}

    def rename(self, old: str, new: str) -> None:
        """The stock that the market calls `old` is called `new` from now on."""
        self._of(old).symbol = new

    def split(self, symbol: str, ratio: Decimal) -> None:
        """One share becomes `ratio` shares: prices are divided by it from now on."""
        self._of(symbol).divisor *= ratio

    def name_of(self, symbol: str) -> str:
        """What the market calls the stock that its source calls `symbol`."""
        terms = self._terms.get(symbol)
        return symbol if terms is None else terms.symbol

    def source_price(self, symbol: str, price: Decimal) -> Decimal:
        """A market price of the stock that its source calls `symbol`, in the source's terms."""
        terms = self._terms.get(symbol)
        return price if terms is None else price * terms.divisor

    def to_json(self) -> dict[str, list[str]]:
        """Each adjusted source's present name and divisor, for a keeper."""
        return {source: [terms.symbol, str(terms.divisor)] for source, terms in self._terms.items()}

    def restore(self, kept: Mapping[str, Sequence[str]]) -> None:
        """Take over what `to_json` gave."""
        for source, (symbol, divisor) in kept.items():
            self._terms[source] = _Terms(symbol, Decimal(divisor))

    def _of(self, symbol: str) -> _Terms:
        found = next((terms for terms in self._terms.values() if terms.symbol == symbol), None)
        return found or self._terms.setdefault(symbol, _Terms(symbol))

    def translate(self, one: Round) -> Round:
        """The round in the market's terms; the same object when nothing was adjusted."""
        if not self._terms:
            return one
        ticks = [self._tick(tick) for tick in one.ticks]
        statuses = [
            StatusChange(terms.symbol, change.halted, change.reason)
            if (terms := self._terms.get(change.symbol))
            else change
            for change in one.statuses
        ]
        return Round(one.at, ticks, statuses, [self._print(each) for each in one.prints])

    def _print(self, one: Print) -> Print:
        terms = self._terms.get(one.symbol)
        if terms is None:
            return one
        price = stock_price(float(one.price / terms.divisor))
        return Print(terms.symbol, price, round(one.size * terms.divisor), one.at)

    def _tick(self, tick: Tick) -> Tick:
        terms = self._terms.get(tick.quote.symbol)
        if terms is None:
            return tick
        shown = None if tick.shown is None else _adjusted(tick.shown, terms)
        return Tick(_adjusted(tick.quote, terms), round(tick.trade_size * terms.divisor), shown)


def _adjusted(quote: Quote, terms: _Terms) -> Quote:
    def price(value: Decimal) -> Decimal:
        return stock_price(float(value / terms.divisor)) if value > 0 else value

    bid, ask = price(quote.bid), price(quote.ask)
    if quote.bid < quote.ask and bid >= ask:
        ask = bid + (Decimal("0.01") if bid >= 1 else Decimal("0.0001"))
    last = None if quote.last is None else price(quote.last)
    return Quote(terms.symbol, bid, ask, quote.at, quote.bid_size, quote.ask_size, last)
