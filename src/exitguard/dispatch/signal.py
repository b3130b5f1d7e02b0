"""Reading signals: a row of `dispatch_recommendations` becomes a `Signal`, or a `Flaw` that says why not.

Rows come from people and other programs, so nothing in them is trusted. One bad row is set aside with its reason and
never stops its neighbours (F60, F70). The type follows from the contract symbol (F37), and no action can open an option
short (F4).
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from exitguard.core.instrument import Instrument, InstrumentType, InvalidSymbol, parse_instrument
from exitguard.core.position import PositionSide
from exitguard.core.records import Action, RecommendationRecord, RecommendationStatus

MAX_TEXT = 200
MAX_STRATEGY = 64
SMALLEST_NUMBER, LARGEST_NUMBER = Decimal("0.0001"), Decimal(1_000_000_000)
MAX_HOLD_MINUTES = 1_000_000
# A level further away than this factor is in another unit: dollars of the underlying for an option, or a percentage.
_STOCK_UNIT_FACTOR = Decimal(4)
_OPTION_UNIT_FACTOR = Decimal(12)

_TYPE_OF_ACTION = {
    Action.BUY_STOCK: InstrumentType.STOCK,
    Action.SELL_STOCK: InstrumentType.STOCK,
    Action.BUY_CALL: InstrumentType.CALL,
    Action.BUY_PUT: InstrumentType.PUT,
}


class FlawKind(StrEnum):
    """What becomes of a row that is not sent."""

    SET_ASIDE = "set_aside"
    SKIPPED = "skipped"
    EXPIRED = "expired"

    @property
    def status(self) -> RecommendationStatus:
        """The row's final status."""
        return RecommendationStatus(self.value)


@dataclass(frozen=True, slots=True)
class Flaw:
    """Why a row is not sent. SET_ASIDE: it makes no sense. SKIPPED: it does, and is not for us to send."""

    kind: FlawKind
    reason: str


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal that can be sent. Levels in dollars a share of the instrument held: premium for an option (F5, F6)."""

    recommendation_id: int
    action: Action
    instrument: Instrument
    side: PositionSide
    strategy: str
    max_qty: Decimal | None
    stop_loss: Decimal | None
    take_profit: Decimal | None
    max_hold_minutes: int | None
    features: dict[str, Any]


def read_signal(row: RecommendationRecord, now: datetime) -> Signal | Flaw:
    """Check everything that needs no market price. Never raises for what a row contains."""
    if row.expires_at is not None and row.expires_at <= now:
        return Flaw(FlawKind.EXPIRED, f"expired at {row.expires_at:%Y-%m-%d %H:%M:%S} UTC")
    action = _action(row.action)
    if isinstance(action, Flaw):
        return action
    if action is Action.HOLD:
        return Flaw(FlawKind.SKIPPED, "HOLD asks for nothing")
    instrument = _instrument(row, action)
    if isinstance(instrument, Flaw):
        return instrument
    problem = _number_problem(row) or _text_problem(row)
    if problem is not None:
        return _aside(problem)
    return Signal(
        recommendation_id=row.id,
        action=action,
        instrument=instrument,
        side=PositionSide.SHORT if action is Action.SELL_STOCK else PositionSide.LONG,
        strategy=row.strategy_type,
        max_qty=row.qty,
        stop_loss=row.stop_loss,
        take_profit=row.take_profit,
        max_hold_minutes=row.max_hold_minutes,
        features=row.features,
    )


def level_problem(signal: Signal, price: Decimal) -> str | None:
    """Say what is wrong with the signal's stop or target when the instrument costs `price` dollars a share.

    A stop at or beyond the price, or a target at or before it, would close the position at once (F5, F6, T3).
    """
    sign = signal.side.sign
    factor = _OPTION_UNIT_FACTOR if signal.instrument.is_option else _STOCK_UNIT_FACTOR
    unit = "premium" if signal.instrument.is_option else "price"
    for name, level, direction in (("stop_loss", signal.stop_loss, -1), ("take_profit", signal.take_profit, 1)):
        if level is None:
            continue
        if (level - price) * sign * direction <= 0:
            where = "above" if sign * direction > 0 else "below"
            return f"{name} {level} must lie {where} the {unit} {price} of a {signal.side} {signal.instrument.symbol}"
        if level > price * factor or (not signal.instrument.is_option and level * factor < price):
            return f"{name} {level} is in another unit than the {unit} {price} of {signal.instrument.symbol}"
    return None


def _aside(reason: str) -> Flaw:
    return Flaw(FlawKind.SET_ASIDE, reason)


def _action(text: object) -> Action | Flaw:
    if not isinstance(text, str):
        return _aside(f"action must be text, was {type(text).__name__}")
    try:
        return Action(text)
    except ValueError:
        known = ", ".join(Action)
        if text.upper().startswith("SELL") and any(kind in text.upper() for kind in ("CALL", "PUT", "OPTION")):
            return _aside(f"action {text[:40]!r} would open an option short, which is never done; known: {known}")
        return _aside(f"unknown action {text[:40]!r}; known: {known}")


def _instrument(row: RecommendationRecord, action: Action) -> Instrument | Flaw:
    wanted = _TYPE_OF_ACTION[action]
    option = wanted is not InstrumentType.STOCK
    if option and not row.option_symbol:
        return _aside(f"{action} needs an option_symbol: the contract is never chosen here")
    if not option and row.option_symbol:
        return _aside(f"{action} is for stocks but names the contract {row.option_symbol[:40]!r}")
    try:
        instrument = parse_instrument(row.option_symbol or row.ticker)
        ticker = parse_instrument(row.ticker)
    except InvalidSymbol as error:
        return _aside(str(error)[:MAX_TEXT])
    if instrument.type is not wanted:
        return _aside(f"{action} asks for a {wanted} but {instrument.symbol} is a {instrument.type}")
    if ticker.is_option or (option and ticker.symbol != instrument.underlying):
        return _aside(f"ticker {row.ticker!r} is not the underlying {instrument.underlying} of {instrument.symbol}")
    return instrument


def _number_problem(row: RecommendationRecord) -> str | None:
    for name in ("qty", "stop_loss", "take_profit"):
        value: Decimal | None = getattr(row, name)
        if value is None:
            continue
        if not value.is_finite():
            return f"{name} must be a number, was {value}"
        if value <= 0:
            return f"{name} must be positive, was {value}"
        if not SMALLEST_NUMBER <= value <= LARGEST_NUMBER:
            return f"{name} must lie in {SMALLEST_NUMBER}..{LARGEST_NUMBER}, was {value:.3E}"
    if row.qty is not None and row.qty < 1:
        return f"qty must be at least one whole unit, was {row.qty}"
    if row.confidence is not None and not row.confidence.is_finite():
        return f"confidence must be a number, was {row.confidence}"
    if row.max_hold_minutes is not None and not 0 < row.max_hold_minutes <= MAX_HOLD_MINUTES:
        return f"max_hold_minutes must lie in 1..{MAX_HOLD_MINUTES}, was {row.max_hold_minutes}"
    return None


def _text_problem(row: RecommendationRecord) -> str | None:
    strategy = row.strategy_type
    if not isinstance(strategy, str) or not strategy or len(strategy) > MAX_STRATEGY or not strategy.isprintable():
        return f"strategy_type must be 1 to {MAX_STRATEGY} printable characters, was {str(strategy)[:40]!r}"
    return None
