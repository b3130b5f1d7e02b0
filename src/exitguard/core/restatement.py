"""Corporate actions that change the terms of what is held: splits, new symbols, adjusted contracts.

Nothing is traded and nothing is earned: the quantity is multiplied, prices are divided, money stays as it is. Fills
keep the terms in which the broker reported them; a position remembers what restated it, and its fold applies it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction

from exitguard.core.orders import Fill

# Alpaca keeps quantities with nine decimals.
_UNIT = Decimal("0.000000001")
_PRICE = Decimal("0.00000001")
# A ratio that companies choose has small numbers: 2:1, 3:2, 1:25, a stock dividend of 5 % (21:20).
MAX_RATE = 200
# How far the broker's average may lie from the exact one: it is rounded, and its fees may differ.
_TOLERANCE = Fraction(1, 1000)
_CENT = Fraction(1, 100)


class RestatementKind(StrEnum):
    """What happened; the names are those of the events."""

    SPLIT = "split"
    SYMBOL_CHANGED = "symbol_changed"
    CONTRACT_ADJUSTED = "contract_adjusted"


@dataclass(frozen=True, slots=True)
class Restatement:
    """`old_rate` units of `before` became `new_rate` units of `after`; fills from `at` on are in the new terms."""

    kind: RestatementKind
    at: datetime
    before: str
    after: str
    old_rate: Decimal
    new_rate: Decimal

    def covers(self, symbol: str, at: datetime) -> bool:
        """Whether a fill of that symbol and moment is in the old terms."""
        return symbol == self.before and (self.after != self.before or at < self.at)

    def qty(self, qty: Decimal) -> Decimal:
        """A quantity in the new terms, to the broker's nine decimals."""
        return self._exact(qty * self.new_rate / self.old_rate, _UNIT)

    def price(self, price: Decimal | None) -> Decimal | None:
        """A price in the new terms."""
        return None if price is None else self._exact(price * self.old_rate / self.new_rate, _PRICE)

    @staticmethod
    def _exact(value: Decimal, unit: Decimal) -> Decimal:
        rounded = value.quantize(unit)
        return value if rounded == value else rounded


def terms_of(fill: Fill, restatements: Iterable[Restatement]) -> tuple[str, Decimal]:
    """Symbol and quantity of a fill in the newest terms."""
    symbol, qty = fill.symbol, fill.qty
    for each in restatements:
        if each.covers(symbol, fill.at):
            symbol, qty = each.after, each.qty(qty)
    return symbol, qty


def split_ratio(ours: tuple[Decimal, Decimal], theirs: tuple[Decimal, Decimal]) -> Fraction | None:
    """New units for one old unit when (quantity, average price) of both sides differ by a split alone; else None.

    The evidence is that nothing was paid and nothing received: the quantity has changed by a plain ratio, and the
    average price by its inverse. A fraction of a share that a reverse split left over may have been paid out: then
    whole shares are held, and the averages alone give the ratio.
    """
    qty, average = (abs(Fraction(part)) for part in ours)
    their_qty, their_average = (abs(Fraction(part)) for part in theirs)
    if not qty or not average or not their_qty or not their_average or qty == their_qty:
        return None
    if _is_average(their_average, average):
        return None  # a part was closed: of a cheap contract a few per cent are within what averages are rounded to
    ratio = their_qty / qty
    if _is_plain(ratio) and _is_average(their_average, average / ratio):
        return ratio
    ratio = (average / their_average).limit_denominator(MAX_RATE)
    left_over = qty * ratio - their_qty
    whole = their_qty.denominator == 1
    if whole and 0 < left_over < 1 and ratio < 1 and _is_plain(ratio) and _is_average(their_average, average / ratio):
        return ratio
    return None


def split_before(
    ours: tuple[Decimal, Decimal], later: Iterable[tuple[Decimal, Decimal]], theirs: tuple[Decimal, Decimal]
) -> Fraction | None:
    """The ratio of a split after which so much was traded: `later` are units in the new terms, negative ones closed.

    Each of `later` has its price. What was added has changed the average, so the cost of everything must be right.
    """
    trades = [(Fraction(units), Fraction(price)) for units, price in later]
    then = abs(Fraction(theirs[0])) - sum(units for units, _ in trades)
    if then <= 0 or not ours[0]:
        return None
    if all(units < 0 for units, _ in trades):
        return split_ratio(ours, (_decimal(then), theirs[1]))
    ratio, held, cost = then / abs(Fraction(ours[0])), then, abs(Fraction(ours[0])) * Fraction(ours[1])
    for units, price in trades:
        if held + units <= 0:
            return None
        cost = cost + units * price if units > 0 else cost * (held + units) / held
        held += units
    return ratio if _is_plain(ratio) and _is_average(Fraction(theirs[1]), cost / held) else None


def _decimal(value: Fraction) -> Decimal:
    return Decimal(value.numerator) / Decimal(value.denominator)


def _is_plain(ratio: Fraction) -> bool:
    return ratio != 1 and ratio > 0 and max(ratio.numerator, ratio.denominator) <= MAX_RATE


def _is_average(found: Fraction, expected: Fraction) -> bool:
    return abs(found - expected) <= max(_TOLERANCE * expected, _CENT / 2)
