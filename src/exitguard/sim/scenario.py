"""What a seed makes of a day: accounts, policy, sessions, prices, entries and requests. Times in virtual seconds."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from random import Random

from exitguard.core.instrument import InstrumentType, format_occ
from exitguard.core.policy import CloseStyle, Policy, validate_policy
from exitguard.core.position import PositionSide
from exitguard.core.session import NEW_YORK, Session, make_session
from exitguard.sim.numbers import numbers

DAY = date(2026, 3, 17)
# Sessions are moved around midnight, so that a night takes half an hour and not seventeen.
LATE = make_session(DAY, time(10), time(23, 45), time(9), time(23, 55))
EARLY = make_session(DAY + timedelta(days=1), time(0, 15), time(23, 50), time(0, 5), time(23, 55))
STOCKS = ("AAPL", "MSFT", "NVDA")
# Nobody tells us of positions in it.
STRANGER = "TSLA"


@dataclass(frozen=True, slots=True)
class PricePath:
    """A symbol's price: `base` dollars, then steps by factors of it at their seconds. Noise comes on top."""

    symbol: str
    base: Decimal
    steps: tuple[tuple[float, Decimal], ...]
    noise: Decimal

    def at(self, seconds: float) -> Decimal:
        """The price without noise."""
        factor = Decimal(1)
        for start, reached in self.steps:
            if start <= seconds:
                factor = reached
        return self.base * factor

    @property
    def settled_at(self) -> float:
        """When the last step was taken."""
        return self.steps[-1][0] if self.steps else 0.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One position to be opened, as the dispatcher does. `name` identifies it when a failure is made smaller."""

    name: str
    account: str
    symbol: str
    side: PositionSide
    qty: int
    at: float
    bracket: bool
    strategy: str
    max_hold_minutes: int | None


@dataclass(frozen=True, slots=True)
class Request:
    """A person asks for a close."""

    name: str
    account: str
    symbol: str
    at: float


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everything of a run but the faults. `storm` is how long faults go on; `shuffle` drives the event loop."""

    seed: int
    start: datetime
    sessions: tuple[Session, ...]
    policy: Policy
    accounts: tuple[str, ...]
    paths: tuple[PricePath, ...]
    entries: tuple[Entry, ...]
    requests: tuple[Request, ...]
    storm: float
    shuffle: float

    @property
    def names(self) -> tuple[str, ...]:
        """What can be left out."""
        return (*(entry.name for entry in self.entries), *(request.name for request in self.requests))


def make_scenario(seed: int, without: frozenset[str] = frozenset()) -> Scenario:
    """Draw a scenario; the parts named in `without` are left out, and nothing else changes."""
    rng = numbers(seed, "scenario")
    crossing = rng.random() < 0.25
    start = LATE.close - timedelta(minutes=rng.uniform(8, 20)) if crossing else _moment(time(11))
    storm = rng.uniform(500, 1500)
    if crossing:
        # The storm goes on over the night and some minutes into the next session.
        storm = (EARLY.open - start).total_seconds() + rng.uniform(120, 500)
    accounts = ("large",) if rng.random() < 0.7 else ("large", "tiny")
    options = _option_symbols(rng, crossing)
    symbols = (*rng.sample(STOCKS, rng.randint(1, 2)), *options)
    entries, requests = [], []
    for account in accounts:
        for symbol in symbols:
            entry = _entry(numbers(seed, f"entry {account} {symbol}"), account, symbol, storm)
            if entry is not None:
                entries.append(entry)
        own = numbers(seed, f"requests {account}")
        if own.random() < 0.3:
            requests.append(Request(f"{account}:close", account, own.choice(symbols), own.uniform(60, storm)))
    return Scenario(
        seed=seed,
        start=start,
        sessions=(LATE, EARLY),
        policy=_policy(numbers(seed, "policy")),
        accounts=accounts,
        paths=tuple(_path(numbers(seed, f"path {symbol}"), symbol, storm) for symbol in (*symbols, STRANGER)),
        entries=tuple(e for e in entries if e.name not in without),
        requests=tuple(r for r in requests if r.name not in without),
        storm=storm,
        shuffle=rng.choice((0.0, 0.5, 1.0)),
    )


def _moment(at: time) -> datetime:
    return datetime.combine(DAY, at, NEW_YORK).astimezone(UTC)


def _option_symbols(rng: Random, crossing: bool) -> tuple[str, ...]:
    expiry = date(2026, 6, 19)
    if crossing and rng.random() < 0.5:
        expiry = EARLY.day  # its last hours begin in the night
    kind = rng.choice((InstrumentType.CALL, InstrumentType.PUT))
    symbol = format_occ(rng.choice(STOCKS), expiry, kind, Decimal(rng.choice((100, 150))))
    return (symbol,) if rng.random() < 0.75 else ()


def _entry(rng: Random, account: str, symbol: str, storm: float) -> Entry | None:
    if rng.random() < 0.2:
        return None
    is_option = len(symbol) > 6
    short = rng.random() < (0.15 if is_option else 0.4)
    return Entry(
        name=f"{account}:{symbol}",
        account=account,
        symbol=symbol,
        side=PositionSide.SHORT if short else PositionSide.LONG,
        qty=rng.choice((1, 2, 5, 10, 33, 100)),
        at=rng.uniform(1, min(200.0, storm / 4)),
        bracket=not is_option and rng.random() < 0.6,
        strategy=rng.choice(("swing", "swing", "day_trade")),
        max_hold_minutes=rng.choice((None, None, 4, 9, 25)),
    )


def _path(rng: Random, symbol: str, storm: float) -> PricePath:
    is_option = len(symbol) > 6
    base = Decimal(rng.choice((2, 5, 12))) if is_option else Decimal(rng.choice((40, 100, 250)))
    fall, rise = (Decimal("0.35"), Decimal("2.2")) if is_option else (Decimal("0.92"), Decimal("1.09"))
    kind = rng.choice(("flat", "fall", "fall", "rise", "there and back"))
    turn = rng.uniform(0.2, 0.8) * storm
    if symbol == STRANGER:
        kind = rng.choice(("flat", "fall"))
    steps: tuple[tuple[float, Decimal], ...] = ()
    if kind in ("fall", "rise"):
        end = fall if kind == "fall" else rise
        steps = ((turn, (1 + end) / 2), (turn + rng.uniform(5, 60), end))
    elif kind == "there and back":
        steps = ((turn, fall), (turn + rng.uniform(10, 120), Decimal(1)))
    # In a market that stands still no quote gives a reason to look: what is due must be seen all the same.
    noise = Decimal(0) if rng.random() < 0.2 else Decimal("0.0005")
    return PricePath(symbol, base, steps, noise)


def _policy(rng: Random) -> Policy:
    policy = Policy(
        min_hold_minutes=rng.choice((0, 0, 1, 3)),
        max_hold_minutes=rng.choice((12, 60, 240)),
        missing_bracket=rng.random() < 0.6,
        trailing_stop=rng.random() < 0.2,
        profit_scaling=rng.random() < 0.3,
        stock_close_style=rng.choice((CloseStyle.MARKET, CloseStyle.MARKET, CloseStyle.ADAPTIVE)),
        option_close_style=rng.choice((CloseStyle.ADAPTIVE, CloseStyle.MARKET)),
        adaptive_tight_spread_percent=rng.choice((Decimal("0.01"), Decimal(3))),
        extended_hours=rng.random() < 0.15,
    )
    problems = validate_policy(policy)
    if problems:
        raise AssertionError(f"the simulator drew an impossible policy: {problems}")
    return policy
