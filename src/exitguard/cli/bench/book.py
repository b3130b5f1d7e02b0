"""The book that is measured: stocks with resting brackets and option contracts on the same underlyings.

Made the same in every process from its sizes alone, so that venue and ledger agree without talking.
"""

import string
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import islice, product

from exitguard.core.instrument import InstrumentType, format_occ, parse_instrument
from exitguard.core.orders import Fill
from exitguard.core.position import PositionSide
from exitguard.core.records import Operation, PositionRecord, PutFill, PutPosition
from exitguard.core.session import NEW_YORK, Session, table_calendar

STOCK_PRICE = Decimal(100)
PREMIUM = Decimal(5)
# A loss of 44 %: beyond the default policy's stop for options, and not yet beyond its catastrophic one.
BREACHED_PREMIUM = Decimal("2.80")
STOCK_QTY = 100
OPTION_QTY = 2
HELD_FOR = timedelta(hours=1)
_FIRST_STRIKE = 50


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large the book is and how often it is breached.

    `positions` are open at any time on `underlyings` symbols: each underlying is held as a stock, the rest are options.
    One option more is held at the start for each breach of `warmup` and `rounds`.
    """

    underlyings: int = 200
    positions: int = 1000
    rounds: int = 400
    warmup: int = 40

    def __post_init__(self) -> None:
        if not 0 < self.underlyings <= self.positions or self.rounds < 1 or self.warmup < 0:
            raise ValueError(f"impossible sizes: {self}")

    @property
    def options(self) -> int:
        """Option positions at the start."""
        return self.positions - self.underlyings + self.rounds + self.warmup


@dataclass(frozen=True, slots=True)
class Held:
    """One position of the book."""

    symbol: str
    underlying: str
    is_option: bool
    qty: int
    price: Decimal


def trading_day() -> Session:
    """The newest session whose next weeks the shipped calendar knows; its day need not be today."""
    calendar = table_calendar()
    today = min(datetime.now(UTC).date(), calendar.last_day - timedelta(days=60))
    return calendar.session_on_or_before(today)


def opening_time(session: Session) -> datetime:
    """Venue time at which the measurement starts: 11:00 in New York."""
    return datetime(session.day.year, session.day.month, session.day.day, 11, tzinfo=NEW_YORK).astimezone(UTC)


def make_book(sizes: Sizes, day: date) -> list[Held]:
    """Stocks first, then options, as many on each underlying."""
    letters = product(string.ascii_uppercase, repeat=3)
    names = ["X" + "".join(each) for each in islice(letters, sizes.underlyings)]
    stocks = [Held(name, name, False, STOCK_QTY, STOCK_PRICE) for name in names]
    expiry = day + timedelta(days=45)
    options = []
    for number in range(sizes.options):
        name = names[number % len(names)]
        strike = Decimal(_FIRST_STRIKE + number // len(names))
        symbol = format_occ(name, expiry, InstrumentType.CALL, strike)
        options.append(Held(symbol, name, True, OPTION_QTY, PREMIUM))
    return stocks + options


def ledger_operations(
    account: str, held: Held, number: int, now: datetime, *, held_for: timedelta = HELD_FOR, order: str | None = None
) -> tuple[Operation, ...]:
    """A position as an earlier process of the manager would have left it: opened a while ago, with its fill.

    `order` is the broker's id of the order that opened it, where there is one.
    """
    instrument = parse_instrument(held.symbol)
    opened = now - held_for
    qty = Decimal(held.qty)
    record = PositionRecord(
        account_name=account,
        id=number,
        uid=f"bench{number:07d}",
        execution_id=None,
        symbol=instrument.symbol,
        ticker=instrument.underlying,
        option_symbol=instrument.option_symbol,
        instrument_type=instrument.type,
        strategy_type="swing",
        side=PositionSide.LONG,
        quantity=qty,
        original_quantity=qty,
        entry_price=held.price,
        entry_time=opened,
        stop_loss=None,
        take_profit=None,
        max_hold_deadline=opened + timedelta(hours=4),
        expiration_date=instrument.expiry,
        strike_price=instrument.strike,
        multiplier=instrument.multiplier,
        policy_name="default",
        best_price=held.price,
        worst_price=held.price,
        adopted=True,
        created_at=opened,
    )
    order = order or f"opening-{number}"
    fill = Fill(f"{order}-fill", order, None, instrument.symbol, PositionSide.LONG.opening, qty, held.price, opened)
    return PutPosition(record), PutFill(number, fill, "bench")
