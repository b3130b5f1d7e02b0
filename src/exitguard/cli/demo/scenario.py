"""The demo's day as data: which signals come when, and what is done to the accounts behind their managers' backs.

One seed decides everything. Each signal names how far its stop and target lie from the market, so that prices of any
seed meet some of them; each position gets out within the day, by one rule or another.
"""

import random
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

LARGE, TINY = "large", "tiny"
CASH = {LARGE: Decimal(100_000), TINY: Decimal(1_000)}
SYMBOLS = ("AAPL", "AMD", "AMZN", "F", "IBM", "META", "MSFT", "NVDA", "SPY", "TSLA")
DAY_TRADE, SWING, SCALP = "day_trade", "swing", "scalp"


class Expiry(StrEnum):
    """Which expiry of the chain: the nearest after today, which the policy gets out of today, or the one after it."""

    NEAR = "near"
    NEXT = "next"


@dataclass(frozen=True, slots=True)
class SignalPlan:
    """One signal, `minute` minutes after the open. Levels in percent of the price then; None means the policy's."""

    minute: int
    account: str
    action: str
    ticker: str
    strategy: str = DAY_TRADE
    stop_percent: Decimal | None = None
    target_percent: Decimal | None = None
    max_hold_minutes: int | None = None
    expiry: Expiry | None = None
    qty: Decimal | None = None

    @property
    def is_option(self) -> bool:
        """Whether a contract has to be chosen."""
        return self.expiry is not None


class Trouble(StrEnum):
    """What is done behind the managers' backs."""

    CANCEL_LEG = "cancel_leg"
    REFUSE_RESTORE = "refuse_restore"
    EXTERNAL_CLOSE = "external_close"
    MANUAL_CLOSE = "manual_close"
    LOSE_ANSWER = "lose_answer"
    CUT_STREAM = "cut_stream"
    BAD_QUOTES = "bad_quotes"


TROUBLE_IN_WORDS = {
    Trouble.CANCEL_LEG: "somebody cancels the stop of {symbol} at the broker",
    Trouble.REFUSE_RESTORE: "the stop of {symbol} is cancelled and the broker rejects the next two",
    Trouble.EXTERNAL_CLOSE: "somebody closes {symbol} on the broker's dashboard",
    Trouble.MANUAL_CLOSE: "an operator asks to close {symbol}",
    Trouble.LOSE_ANSWER: "the broker accepts the next order, its answer is lost (504)",
    Trouble.CUT_STREAM: "the trade stream is cut",
    Trouble.BAD_QUOTES: "crossed quotes of {symbol} on the feed",
}


@dataclass(frozen=True, slots=True)
class Provocation:
    """One piece of trouble, `minute` minutes after the open; it hits the first of `symbols` that is held."""

    minute: int
    account: str
    trouble: Trouble
    symbols: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Day:
    """Everything that happens, in order of time."""

    signals: tuple[SignalPlan, ...]
    provocations: tuple[Provocation, ...]


def make_day(seed: int, minutes: int) -> Day:
    """Plan a session of `minutes` minutes. The first hour is the same for every seed, what follows is drawn."""
    signals = [*_opening(minutes), *_bad_rows()]
    signals += _drawn(seed, minutes)
    signals.sort(key=lambda s: (s.minute, s.account, s.ticker, s.action))
    provocations = [
        Provocation(20, LARGE, Trouble.LOSE_ANSWER),
        Provocation(35, LARGE, Trouble.CANCEL_LEG, ("IBM", "META", "AMZN")),
        Provocation(48, LARGE, Trouble.BAD_QUOTES, ("MSFT",)),
        Provocation(55, LARGE, Trouble.REFUSE_RESTORE, ("SPY", "NVDA", "AMD")),
        Provocation(70, LARGE, Trouble.EXTERNAL_CLOSE, ("AMZN", "META")),
        Provocation(80, TINY, Trouble.CUT_STREAM),
        Provocation(95, LARGE, Trouble.MANUAL_CLOSE, ("META", "NVDA")),
        Provocation(120, TINY, Trouble.MANUAL_CLOSE, ("IBM", "AAPL", "AMD")),
    ]
    last = minutes - 30
    return Day(
        tuple(s for s in signals if s.minute < last),
        tuple(sorted((p for p in provocations if p.minute < last), key=lambda p: p.minute)),
    )


def _percent(text: str) -> Decimal:
    return Decimal(text)


def _opening(minutes: int) -> list[SignalPlan]:
    """Signals that every seed has: each kind of instrument and side, in both accounts, for each rule of the policy."""
    wide, far = _percent("9"), _percent("12")
    tight_stop, tight_target = _percent("0.6"), _percent("0.9")
    near, later = Expiry.NEAR, Expiry.NEXT
    return [
        # Brackets that the market reaches.
        SignalPlan(1, LARGE, "BUY_STOCK", "AAPL", DAY_TRADE, tight_stop, tight_target),
        SignalPlan(1, LARGE, "SELL_STOCK", "TSLA", DAY_TRADE, _percent("1.0"), _percent("1.4")),
        SignalPlan(2, LARGE, "BUY_STOCK", "F", DAY_TRADE, _percent("0.8"), _percent("1.2")),
        SignalPlan(2, TINY, "BUY_STOCK", "F", DAY_TRADE, _percent("0.8"), _percent("1.2")),
        # Options: stop, target, trail, catastrophe as the premium moves; one expires too soon.
        SignalPlan(2, LARGE, "BUY_CALL", "NVDA", SCALP, expiry=later, max_hold_minutes=300),
        SignalPlan(2, LARGE, "BUY_PUT", "NVDA", SCALP, expiry=later, max_hold_minutes=300),
        SignalPlan(30, LARGE, "BUY_CALL", "F", SCALP, expiry=later, max_hold_minutes=240),
        SignalPlan(30, TINY, "BUY_CALL", "F", SCALP, expiry=later, max_hold_minutes=240),
        SignalPlan(31, TINY, "BUY_PUT", "F", SCALP, expiry=later, max_hold_minutes=180),
        SignalPlan(4, LARGE, "BUY_PUT", "TSLA", SCALP, expiry=later, max_hold_minutes=330),
        SignalPlan(4, LARGE, "BUY_CALL", "AMD", SCALP, expiry=later, max_hold_minutes=330),
        SignalPlan(5, LARGE, "BUY_CALL", "MSFT", SWING, expiry=near, max_hold_minutes=2000),
        SignalPlan(minutes - 165, LARGE, "BUY_CALL", "AAPL", SWING, expiry=near, max_hold_minutes=2000),
        SignalPlan(minutes - 155, LARGE, "BUY_PUT", "IBM", SWING, expiry=near, max_hold_minutes=2000),
        SignalPlan(minutes - 150, LARGE, "BUY_CALL", "SPY", SWING, expiry=near, max_hold_minutes=2000),
        SignalPlan(5, LARGE, "BUY_PUT", "META", DAY_TRADE, expiry=later, max_hold_minutes=400),
        # Held to a deadline, or to the end of the day.
        SignalPlan(6, LARGE, "BUY_STOCK", "IBM", DAY_TRADE, wide, far, 400),
        SignalPlan(6, LARGE, "SELL_STOCK", "MSFT", DAY_TRADE, wide, far, 400),
        SignalPlan(7, TINY, "BUY_STOCK", "IBM", DAY_TRADE, wide, far, 400),
        SignalPlan(8, LARGE, "BUY_STOCK", "AMZN", SWING, wide, far, 240),
        SignalPlan(9, LARGE, "BUY_STOCK", "META", SWING, wide, far, 240),
        SignalPlan(10, LARGE, "BUY_STOCK", "AMD", SWING, wide, far, 60),
        SignalPlan(21, LARGE, "BUY_STOCK", "NVDA", SWING, wide, far, minutes // 2),
        SignalPlan(22, LARGE, "BUY_STOCK", "SPY", DAY_TRADE, wide, far, 400),
        SignalPlan(24, TINY, "SELL_STOCK", "NVDA", DAY_TRADE, tight_stop, tight_target),
    ]


def _bad_rows() -> list[SignalPlan]:
    """Rows that make no sense or ask for nothing: set aside or skipped, beside their neighbours."""
    return [
        SignalPlan(2, LARGE, "SELL_CALL", "AAPL", expiry=Expiry.NEXT),
        SignalPlan(4, TINY, "CALL", "AAPL"),
        SignalPlan(6, TINY, "HOLD", "SPY"),
        # The tiny account cannot pay for one contract: declined, never "at least one".
        SignalPlan(9, TINY, "BUY_CALL", "META", expiry=Expiry.NEXT),
    ]


def _drawn(seed: int, minutes: int) -> list[SignalPlan]:
    """Further signals through the day, drawn by the seed; every one is out by its deadline or the day's end."""
    chance = random.Random(f"demo:{seed}")  # noqa: S311 - a scenario, not a secret
    found = []
    minute = 60
    while minute < minutes - 45:
        account = TINY if chance.random() < 0.25 else LARGE
        ticker = chance.choice(("F", "AMD", "NVDA", "AAPL", "AMZN", "TSLA") if account == TINY else SYMBOLS)
        stop = Decimal(chance.randint(4, 15)) / 10
        target = Decimal(chance.randint(5, 20)) / 10
        # Deadlines make room: an instrument that is held is not bought again.
        hold = chance.choice((45, 90, 400))
        if chance.random() < 0.5 and (account == LARGE or ticker == "F"):
            action = chance.choice(("BUY_CALL", "BUY_PUT"))
            found.append(SignalPlan(minute, account, action, ticker, DAY_TRADE, None, None, hold, Expiry.NEXT))
        else:
            action = "SELL_STOCK" if account == LARGE and chance.random() < 0.4 else "BUY_STOCK"
            found.append(SignalPlan(minute, account, action, ticker, DAY_TRADE, stop, target, hold))
        minute += chance.randint(6, 14)
    return found
