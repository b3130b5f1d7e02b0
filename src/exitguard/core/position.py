"""Positions as folds of fills, and of the splits between them (I5). Quantity comes from fills, never from hope."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from exitguard.core.errors import ExitguardError
from exitguard.core.instrument import Instrument, parse_instrument
from exitguard.core.orders import Fill, OrderSide, PositionIntent
from exitguard.core.restatement import Restatement, terms_of

ZERO = Decimal(0)


class PositionSide(StrEnum):
    """Long or short: the direction of the instrument held, never of a view (F6, F47)."""

    LONG = "long"
    SHORT = "short"

    @property
    def sign(self) -> int:
        """+1 long, -1 short."""
        return 1 if self is PositionSide.LONG else -1

    @property
    def opening(self) -> OrderSide:
        """The order side that adds to the position."""
        return OrderSide.BUY if self is PositionSide.LONG else OrderSide.SELL

    @property
    def closing(self) -> OrderSide:
        """The order side that reduces the position."""
        return self.opening.opposite

    @property
    def closing_intent(self) -> PositionIntent:
        """The intent that makes the broker refuse anything but a reduction."""
        return PositionIntent.SELL_TO_CLOSE if self is PositionSide.LONG else PositionIntent.BUY_TO_CLOSE


class CrossesZero(ExitguardError):
    """A closing fill larger than what is held: the broker filled more than the position had."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What the fills of one episode add up to: from flat to open to flat again.

    Quantities in shares or contracts, prices in dollars a share, money in dollars.
    `entry_value` and `exit_value` are sums of qty x price, so that averages never lose a cent to rounding; a split does
    not change them. `fills` are in the terms in which they came, quantities in those of the last of `restatements`.
    """

    instrument: Instrument
    side: PositionSide
    opened_qty: Decimal = ZERO
    closed_qty: Decimal = ZERO
    entry_value: Decimal = ZERO
    exit_value: Decimal = ZERO
    opened_at: datetime | None = None
    last_fill_at: datetime | None = None
    seen: frozenset[str] = frozenset()
    fills: tuple[Fill, ...] = field(default=(), compare=False, repr=False)
    restatements: tuple[Restatement, ...] = ()

    @property
    def qty(self) -> Decimal:
        """Quantity held now, never negative."""
        return self.opened_qty - self.closed_qty

    @property
    def is_flat(self) -> bool:
        """Whether everything that was opened has been closed."""
        return self.opened_qty > 0 and self.qty == 0

    @property
    def entry_price(self) -> Decimal:
        """Average price of the opening fills; 0 before the first."""
        return self.entry_value / self.opened_qty if self.opened_qty else ZERO

    @property
    def exit_price(self) -> Decimal | None:
        """Average price of the closing fills; None before the first (F58: fills only, never marks)."""
        return self.exit_value / self.closed_qty if self.closed_qty else None

    @property
    def realised_pnl(self) -> Decimal:
        """Dollars earned by what was closed, at average entry price."""
        if not self.closed_qty:
            return ZERO
        gain = self.exit_value - self.entry_value * self.closed_qty / self.opened_qty
        return gain * self.instrument.multiplier * self.side.sign


def apply_fill(holding: Holding, fill: Fill) -> Holding:
    """Fold one fill in. A fill seen before changes nothing (F45).

    Raises CrossesZero when a closing fill exceeds what is held, ValueError for another instrument's fill
    or a quantity or price that is not positive.
    """
    if fill.execution_id in holding.seen:
        return holding
    symbol, qty = terms_of(fill, holding.restatements)
    if symbol != holding.instrument.symbol:
        raise ValueError(f"fill of {fill.symbol} offered to a holding of {holding.instrument.symbol}")
    if not (fill.qty.is_finite() and fill.price.is_finite() and qty > 0 and fill.price >= 0):
        raise ValueError(f"fill {fill.execution_id} must have qty > 0 and price >= 0, was {fill.qty} at {fill.price}")
    last_fill_at = fill.at if holding.last_fill_at is None else max(holding.last_fill_at, fill.at)
    holding = replace(
        holding,
        last_fill_at=last_fill_at,
        seen=holding.seen | {fill.execution_id},
        fills=(*holding.fills, fill),
    )
    if fill.side is holding.side.opening:
        opened_at = fill.at if holding.opened_at is None else min(holding.opened_at, fill.at)
        return replace(
            holding,
            opened_qty=holding.opened_qty + qty,
            entry_value=holding.entry_value + fill.qty * fill.price,
            opened_at=opened_at,
        )
    if qty > holding.qty:
        raise CrossesZero(f"fill {fill.execution_id} closes {qty} {symbol} but {holding.qty} are held: reconcile")
    return replace(
        holding,
        closed_qty=holding.closed_qty + qty,
        exit_value=holding.exit_value + fill.qty * fill.price,
    )


def closable(holding: Holding, fill: Fill) -> Decimal:
    """How much of a closing fill is held, in the fill's own terms: a split may have come between."""
    units = terms_of(fill, holding.restatements)[1]
    return fill.qty if units <= holding.qty else holding.qty * fill.qty / units


def fold(
    instrument: Instrument, side: PositionSide, fills: Iterable[Fill], restatements: tuple[Restatement, ...] = ()
) -> Holding:
    """Fold fills, whatever their order: what opened first, then what closed; see `apply_fill` for errors.

    Not in order of time: a fill found late may carry a later moment than the one that closed it, and the sums are
    the same.
    """
    holding = Holding(instrument, side, restatements=restatements)
    for fill in sorted(fills, key=lambda f: (f.side is not side.opening, f.at, f.execution_id)):
        holding = apply_fill(holding, fill)
    return holding


def restate(holding: Holding, restatement: Restatement) -> Holding:
    """The same position in the terms that a corporate action gave it: what was paid and received stays as it is."""
    instrument = parse_instrument(restatement.after)
    return fold(instrument, holding.side, holding.fills, (*holding.restatements, restatement))


@dataclass(frozen=True, slots=True)
class Pnl:
    """Unrealised profit or loss: dollars, and percent of what was paid."""

    dollars: Decimal
    percent: Decimal


def pnl(instrument: Instrument, side: PositionSide, qty: Decimal, entry: Decimal, mark: Decimal) -> Pnl:
    """P&L of `qty` at `mark`.

    Dollars = (mark - entry) x qty x multiplier x (+1 long, -1 short); percent = that over
    (entry x qty x multiplier) x 100. Percent is 0 when entry is 0 (a contract received for nothing).
    """
    dollars = instrument.notional(qty, mark - entry) * side.sign
    percent = (mark - entry) / entry * 100 * side.sign if entry else ZERO
    return Pnl(dollars, percent)
