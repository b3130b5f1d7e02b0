"""Quotes that the data feeds show wrong. Orders still match against the true ones."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Protocol

from exitguard.core.quote import Quote
from exitguard.paper.market.generated import BadQuoteKind, make_bad
from exitguard.paper.market.ticks import stock_price


class FaultLike(Protocol):
    """A switched-on fault, as far as quotes care."""

    def seconds(self, default: float) -> float:
        """The parameter `seconds`."""
        ...

    def number(self, name: str, default: float) -> float:
        """A numeric parameter."""
        ...


class FaultSource(Protocol):
    """Where faults are asked for."""

    def is_on(self, kind: str) -> bool:
        """Whether any fault of the kind is on."""
        ...

    def strike(self, kind: str, *, symbol: str | None = None) -> FaultLike | None:
        """Whether one hits this symbol now."""
        ...


def _stale(quote: Quote, fault: FaultLike) -> Quote:
    at = quote.at - timedelta(seconds=fault.seconds(300.0))
    return Quote(quote.symbol, quote.bid, quote.ask, at, quote.bid_size, quote.ask_size, quote.last)


def _nan(quote: Quote, _: FaultLike) -> Quote:
    nan = Decimal("NaN")
    return Quote(quote.symbol, nan, nan, quote.at, quote.bid_size, quote.ask_size, quote.last)


def _wild(quote: Quote, fault: FaultLike) -> Quote:
    factor = fault.number("factor", 3.0)
    bid, ask = stock_price(float(quote.bid) * factor), stock_price(float(quote.ask) * factor)
    return Quote(quote.symbol, bid, ask, quote.at, quote.bid_size, quote.ask_size, quote.last)


def _one_sided(quote: Quote, fault: FaultLike) -> Quote:
    return make_bad(quote, BadQuoteKind.NO_ASK if fault.number("ask", 0.0) else BadQuoteKind.NO_BID, 0.0)


_DISTORTIONS: Mapping[str, Callable[[Quote, FaultLike], Quote | None]] = {
    "quote_drop": lambda quote, fault: None,
    "quote_stale": _stale,
    "quote_one_sided": _one_sided,
    "quote_zero": lambda quote, fault: make_bad(quote, BadQuoteKind.ZERO, 0.0),
    "quote_crossed": lambda quote, fault: make_bad(quote, BadQuoteKind.CROSSED, 0.5),
    "quote_nan": _nan,
    "quote_wild": _wild,
}


class FeedFaults:
    """Distorts shown quotes by the faults that are on."""

    def __init__(self, faults: FaultSource) -> None:
        self._faults = faults

    def active(self) -> list[str]:
        """The quote faults that are on; empty almost always."""
        return [kind for kind in _DISTORTIONS if self._faults.is_on(kind)]

    def distort(self, quote: Quote, kinds: list[str]) -> Quote | None:
        """What the feed shows instead of a quote: another one, itself, or None for nothing."""
        for kind in kinds:
            fault = self._faults.strike(kind, symbol=quote.symbol)
            if fault is not None:
                return _DISTORTIONS[kind](quote, fault)
        return quote
