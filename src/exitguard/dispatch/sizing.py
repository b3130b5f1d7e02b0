"""How much: the largest whole quantity inside every limit, or nothing and the reason (F129, F131).

All dollars come from `Instrument.notional`, so that a contract counts a hundredfold (F51). Limits are shares of the
broker's equity. A limit that cannot be checked declines: nothing here fails open (F126).
"""

from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from typing import Protocol

from exitguard.core.instrument import Instrument
from exitguard.core.orders import BrokerAccount
from exitguard.core.position import PositionSide

# Alpaca reserves buying power for a short at the ask plus 3 %.
SHORT_MARGIN = Decimal("1.03")
# Below this level the broker takes no order that opens a long option.
LONG_OPTION_LEVEL = 2


class Limits(Protocol):
    """What an account allows; `config.settings.RiskSettings` is one."""

    @property
    def max_position_fraction(self) -> Decimal:
        """Largest share of equity for one new position."""
        ...

    @property
    def max_open_positions(self) -> int:
        """Most positions at one time, entries on their way included."""
        ...

    @property
    def max_total_exposure_fraction(self) -> Decimal:
        """Largest share of equity for all positions and entries together."""
        ...

    @property
    def allow_short(self) -> bool:
        """Whether stocks may be sold short."""
        ...

    @property
    def allow_options(self) -> bool:
        """Whether options may be bought."""
        ...


@dataclass(frozen=True, slots=True)
class Commitment:
    """Money at work in one instrument: a position, or an entry order on its way. `dollars` is never negative."""

    symbol: str
    dollars: Decimal
    what: str


@dataclass(frozen=True, slots=True)
class Book:
    """What the account already has, the ledger and the broker together: whoever knows more counts (F30)."""

    commitments: tuple[Commitment, ...]
    # Cost of entries that the broker's figures below do not know yet.
    unseen_cost: Decimal = Decimal(0)

    @property
    def symbols(self) -> frozenset[str]:
        """Every instrument held or on its way."""
        return frozenset(c.symbol for c in self.commitments)

    @property
    def exposure(self) -> Decimal:
        """Dollars at work."""
        return sum((c.dollars for c in self.commitments), Decimal(0))


@dataclass(frozen=True, slots=True)
class Sized:
    """A quantity to send. `cost` is the most that it may cost in dollars; `bound` names the limit that decided."""

    qty: Decimal
    cost: Decimal
    bound: str


@dataclass(frozen=True, slots=True)
class Declined:
    """No order, and why."""

    reason: str


def size_entry(
    instrument: Instrument,
    side: PositionSide,
    limit_price: Decimal,
    account: BrokerAccount,
    book: Book,
    limits: Limits,
    max_qty: Decimal | None = None,
) -> Sized | Declined:
    """Find the largest whole quantity whose cost at `limit_price` (dollars a share) fits every limit.

    `max_qty` of the signal is an upper bound, never a demand. Raises nothing for any finite input.
    """
    refusal = _forbidden(instrument, side, account, limits) or _no_room(instrument, book, limits)
    if refusal is not None:
        return Declined(refusal)
    if account.equity <= 0 or limit_price <= 0:
        return Declined(f"equity {account.equity} and limit price {limit_price} must be positive")
    price = limit_price * SHORT_MARGIN if side is PositionSide.SHORT else limit_price
    unit = instrument.notional(Decimal(1), price)
    power = account.options_buying_power if instrument.is_option else account.buying_power
    if power is None:
        return Declined("the broker reports no options buying power")
    rooms = {
        "max_position_fraction": account.equity * limits.max_position_fraction,
        "max_total_exposure_fraction": account.equity * limits.max_total_exposure_fraction - book.exposure,
        "buying power": power - book.unseen_cost,
    }
    bound = min(rooms, key=lambda name: rooms[name])
    room = rooms[bound]
    qty = max((room / unit).to_integral_value(ROUND_FLOOR), Decimal(0))
    if max_qty is not None and max_qty < qty:
        qty, bound = max_qty.to_integral_value(ROUND_FLOOR), "qty of the signal"
    if qty < 1:
        return Declined(f"one {instrument.symbol} costs {unit:.2f} $, {bound} leaves {max(room, Decimal(0)):.2f} $")
    return Sized(qty, qty * unit, bound)


def _forbidden(instrument: Instrument, side: PositionSide, account: BrokerAccount, limits: Limits) -> str | None:
    if account.trading_blocked:
        return "the broker has blocked trading for this account"
    if instrument.is_option:
        if side is PositionSide.SHORT:
            return "options are never sold short"
        if not limits.allow_options:
            return "allow_options is false for this account"
        if account.options_trading_level < LONG_OPTION_LEVEL:
            return f"options level {account.options_trading_level} does not allow buying options"
    elif side is PositionSide.SHORT:
        if not limits.allow_short:
            return "allow_short is false for this account"
        if not account.shorting_enabled:
            return "the broker does not allow short sales in this account"
    return None


def _no_room(instrument: Instrument, book: Book, limits: Limits) -> str | None:
    if instrument.symbol in book.symbols:
        held = next(c for c in book.commitments if c.symbol == instrument.symbol)
        return f"{instrument.symbol} is taken already: {held.what}"
    if len(book.symbols) + 1 > limits.max_open_positions:
        return f"{len(book.symbols)} positions and entries are open, max_open_positions is {limits.max_open_positions}"
    return None
