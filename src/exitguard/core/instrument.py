"""Instruments: what is held, named by the contract symbol that the broker knows.

The type follows from the symbol and from nothing else (F37); the underlying is a label for people
and never reaches an order (F1, F46).
"""

import re
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache

from exitguard.core.errors import InvalidInput

OPTION_MULTIPLIER = 100
# Largest plausible symbol; text from outside is bounded before it is looked at.
MAX_SYMBOL_LENGTH = 32

# A root has at most six characters, the digit of an adjusted contract included; OSI pads it with spaces to six.
_OCC = re.compile(r"(?P<root>[A-Z]{1,6}|[A-Z]{1,5}[0-9]) {0,5}(?P<ymd>[0-9]{6})(?P<right>[CP])(?P<strike>[0-9]{8})")
_ROOT = re.compile(r"[A-Z]{1,6}|[A-Z]{1,5}[0-9]")
_STOCK = re.compile(r"[A-Z]{1,6}([./][A-Z]{1,4})?")

# OCC roots drop the dot of a share class, and index weeklies have roots of their own.
_UNDERLYING_OF_ROOT = {
    "BRKB": "BRK.B",
    "BFB": "BF.B",
    "SPXW": "SPX",
    "NDXP": "NDX",
    "RUTW": "RUT",
    "VIXW": "VIX",
    "XSPW": "XSP",
}
# Indices: their options are settled in cash, no shares come or go.
CASH_SETTLED = frozenset({"SPX", "NDX", "RUT", "VIX", "XSP", "DJX"})


class InvalidSymbol(InvalidInput):
    """A symbol that is neither a US stock nor an OCC option contract."""


class InstrumentType(StrEnum):
    """The three kinds of instrument, as stored in `instrument_type`."""

    STOCK = "STOCK"
    CALL = "CALL"
    PUT = "PUT"


@dataclass(frozen=True, slots=True)
class Instrument:
    """One tradable thing.

    `symbol` is the contract symbol and the only field that may face the broker; `underlying` is the
    ticker that people read. `strike` is in dollars a share, `multiplier` in shares a contract.
    """

    symbol: str
    underlying: str
    type: InstrumentType
    multiplier: int = 1
    expiry: date | None = None
    strike: Decimal | None = None

    @property
    def is_option(self) -> bool:
        """Whether this is a call or a put."""
        return self.type is not InstrumentType.STOCK

    @property
    def option_symbol(self) -> str | None:
        """The contract symbol of an option, None for a stock."""
        return self.symbol if self.is_option else None

    @property
    def asset_class(self) -> str:
        """Alpaca's asset class."""
        return "us_option" if self.is_option else "us_equity"

    def notional(self, qty: Decimal, price: Decimal) -> Decimal:
        """Dollars that `qty` units at `price` a share stand for (F51: the multiplier is here only)."""
        return qty * price * self.multiplier


@lru_cache(maxsize=65536)
def parse_instrument(symbol: str) -> Instrument:
    """Read an instrument from its contract symbol.

    Accepts US stocks (`AAPL`, `BRK.B`, `BRK/B`) and OCC option symbols (`AAPL240223C00095000`, adjusted
    roots such as `AAPL1…`, padded OSI forms). Raises InvalidSymbol.

    Source of the format: OCC Options Symbology Initiative, 21-character key; Alpaca leaves the root unpadded.
    """
    if not isinstance(symbol, str) or not symbol or len(symbol) > MAX_SYMBOL_LENGTH:
        raise InvalidSymbol(f"symbol must be 1 to {MAX_SYMBOL_LENGTH} characters, was {str(symbol)[:40]!r}")
    match = _OCC.fullmatch(symbol)
    if match is not None:
        return _option(symbol, symbol.replace(" ", ""), match)
    if _STOCK.fullmatch(symbol):
        name = symbol.replace("/", ".")
        return Instrument(name, name, InstrumentType.STOCK)
    raise InvalidSymbol(
        f"symbol {symbol!r} is neither a US stock (AAPL, BRK.B) nor an OCC option (AAPL240223C00095000)"
    )


def _option(given: str, compact: str, match: re.Match[str]) -> Instrument:
    ymd = match["ymd"]
    try:
        expiry = date(2000 + int(ymd[:2]), int(ymd[2:4]), int(ymd[4:]))
    except ValueError as error:
        raise InvalidSymbol(f"option symbol {given!r} names no calendar day: {ymd!r}") from error
    strike = Decimal(match["strike"]).scaleb(-3)
    if strike <= 0:
        raise InvalidSymbol(f"option symbol {given!r} has strike 0")
    root = match["root"]
    bare = root.rstrip("0123456789")
    kind = InstrumentType.CALL if match["right"] == "C" else InstrumentType.PUT
    underlying = _UNDERLYING_OF_ROOT.get(bare, bare)
    return Instrument(compact, underlying, kind, OPTION_MULTIPLIER, expiry, strike)


def format_occ(root: str, expiry: date, kind: InstrumentType, strike: Decimal) -> str:
    """Build the OCC symbol of a contract; `strike` in dollars with at most three decimals."""
    if kind is InstrumentType.STOCK:
        raise InvalidSymbol("an OCC symbol needs CALL or PUT, was STOCK")
    if _ROOT.fullmatch(root) is None:
        raise InvalidSymbol(f"an OCC root has 1 to 6 capital letters, the last may be a digit, was {root[:40]!r}")
    thousandths = strike.scaleb(3)
    if thousandths != thousandths.to_integral_value() or not 0 < thousandths < 10**8:
        raise InvalidSymbol(f"strike must be positive with at most 3 decimals, was {strike}")
    return f"{root}{expiry:%y%m%d}{kind.value[0]}{int(thousandths):08d}"


def price_tick(price: Decimal, *, is_option: bool = False) -> Decimal:
    """Smallest price step at `price`: 0.01 from one dollar up, 0.0001 below (SEC Rule 612; F7).

    Options use 0.01 at every level: Alpaca accepts penny prices for all listed contracts.
    """
    return Decimal("0.01") if is_option or abs(price) >= 1 else Decimal("0.0001")


def round_to_tick(price: Decimal, *, up: bool, is_option: bool = False) -> Decimal:
    """Round a limit price to a legal tick, toward the more (`up`) or less expensive side."""
    rounding = "ROUND_CEILING" if up else "ROUND_FLOOR"
    return price.quantize(price_tick(price, is_option=is_option), rounding=rounding)
