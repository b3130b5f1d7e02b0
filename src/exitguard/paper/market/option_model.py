"""A model of option prices: Black-Scholes over the underlying, with a smile, a term structure, spreads and depth.

No recording of US option quotes can be shipped, so every option quote of the exchange comes from here, and
`docs/exchange.md` says so. All arithmetic is binary floating point: it is a price model, not a ledger; what leaves
`OptionModel.quote` are Decimals on the contract's tick.

Implied volatility of strike K at T years: atm(T) * (1 + skew * x + smile * x * x), x = ln(K / S) / (atm(T) * sqrt(T))
in standard deviations, clamped to three; atm(T) = base * (1 + front * exp(-T / 0.05)): near expiries carry more.
"""

import math
import zlib
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache

from exitguard.core.instrument import Instrument, InstrumentType
from exitguard.core.quote import Quote
from exitguard.core.session import SessionCalendar, make_session
from exitguard.paper.market.ticks import cents

_SECONDS_A_YEAR = 365.0 * 86400.0
# No option is worth less time than this: keeps the formulas finite on the last second.
_SHORTEST_YEARS = 60.0 / _SECONDS_A_YEAR
_SQRT_TWO = math.sqrt(2.0)
_SQRT_TWO_PI = math.sqrt(2.0 * math.pi)
# Contracts that tick 0.01 at every price (penny program); the others tick 0.05 from 3 dollars up.
_PENNY_EVERYWHERE = frozenset({"SPY", "QQQ", "IWM"})


@dataclass(frozen=True, slots=True)
class OptionModelSettings:
    """Shape of the model. Fractions, not percent; `rate` is the yearly riskless rate."""

    rate: float = 0.04
    skew: float = -0.05
    smile: float = 0.025
    front: float = 0.25
    spread_fraction: float = 0.025
    spread_floor: float = 0.02
    expiry_day_widening: float = 1.5
    edge_of_day_widening: float = 1.8
    fast_market_widening: float = 4.0
    zero_bid_below: float = 0.02


@dataclass(frozen=True, slots=True)
class OptionValue:
    """Fair value in dollars a share, implied volatility, and greeks (theta a day, vega and rho a point)."""

    price: float
    volatility: float
    delta: float
    gamma: float
    theta: float
    vega: float
    rho: float


@dataclass(frozen=True, slots=True)
class UnderlyingState:
    """What the model needs of the underlying: price, base volatility, and how hard it moved lately.

    `stress` is the recent move in units of what the volatility leads one to expect; about 1 is a normal market.
    """

    spot: float
    volatility: float
    stress: float = 1.0


def _normal_cdf(x: float) -> float:
    return 0.5 * (1.0 + math.erf(x / _SQRT_TWO))


@lru_cache(maxsize=65536)
def _depth_of(symbol: str) -> int:
    """A contract's own depth, from its name: the same in every run."""
    return 5 + zlib.crc32(symbol.encode()) % 60


class OptionModel:
    """Prices contracts. One instance serves every underlying."""

    def __init__(self, calendar: SessionCalendar, settings: OptionModelSettings | None = None) -> None:
        self._calendar = calendar
        self._settings = settings or OptionModelSettings()
        self._expiry_moments: dict[date, float] = {}

    def years_left(self, contract: Instrument, at: datetime) -> float:
        """Years to the close of the expiry's session, at least a minute."""
        return max(_SHORTEST_YEARS, (self._expires_at(contract) - at.timestamp()) / _SECONDS_A_YEAR)

    def volatility(self, contract: Instrument, state: UnderlyingState, years: float) -> float:
        """Implied volatility of a contract."""
        shape = self._settings
        atm = state.volatility * (1.0 + shape.front * math.exp(-years / 0.05))
        x = math.log(_strike(contract) / state.spot) / (atm * math.sqrt(years))
        x = max(-3.0, min(3.0, x))
        return min(5.0, max(0.03, atm * (1.0 + shape.skew * x + shape.smile * x * x)))

    def fair(self, contract: Instrument, state: UnderlyingState, at: datetime) -> float:
        """Fair value, dollars a share; never below what exercising now would give."""
        years = self.years_left(contract, at)
        price, _, _ = self._price(contract, state, years)
        return price

    def _price(self, contract: Instrument, state: UnderlyingState, years: float) -> tuple[float, float, float]:
        """Fair value, d1 and volatility."""
        spot, strike = state.spot, _strike(contract)
        sigma = self.volatility(contract, state, years)
        width = sigma * math.sqrt(years)
        d1 = (math.log(spot / strike) + (self._settings.rate + 0.5 * sigma * sigma) * years) / width
        discounted = strike * math.exp(-self._settings.rate * years)
        call = spot * _normal_cdf(d1) - discounted * _normal_cdf(d1 - width)
        if contract.type is InstrumentType.CALL:
            return max(call, spot - strike, 0.0), d1, sigma
        return max(call - spot + discounted, strike - spot, 0.0), d1, sigma

    def value(self, contract: Instrument, state: UnderlyingState, at: datetime) -> OptionValue:
        """Fair value with greeks."""
        years = self.years_left(contract, at)
        price, d1, sigma = self._price(contract, state, years)
        root = math.sqrt(years)
        d2 = d1 - sigma * root
        density = math.exp(-0.5 * d1 * d1) / _SQRT_TWO_PI
        rate = self._settings.rate
        discounted = _strike(contract) * math.exp(-rate * years)
        sign = 1.0 if contract.type is InstrumentType.CALL else -1.0
        decay = -state.spot * density * sigma / (2.0 * root) - sign * rate * discounted * _normal_cdf(sign * d2)
        return OptionValue(
            price=price,
            volatility=sigma,
            delta=_normal_cdf(d1) if sign > 0 else _normal_cdf(d1) - 1.0,
            gamma=density / (state.spot * sigma * root),
            theta=decay / 365.0,
            vega=state.spot * density * root / 100.0,
            rho=sign * discounted * years * _normal_cdf(sign * d2) / 100.0,
        )

    def quote(self, contract: Instrument, state: UnderlyingState, at: datetime, edge: float) -> Quote:
        """Bid and ask at `at`; `edge` from 0 (middle of the day) to 1 (opening or closing minute)."""
        shape = self._settings
        years = self.years_left(contract, at)
        fair, d1, _ = self._price(contract, state, years)
        spread = shape.spread_floor + shape.spread_fraction * fair
        if years < 1.0 / 365.0:
            spread *= shape.expiry_day_widening
        spread *= 1.0 + (shape.edge_of_day_widening - 1.0) * edge
        stress = max(0.0, state.stress - 1.5)
        spread *= 1.0 + (shape.fast_market_widening - 1.0) * (1.0 - math.exp(-0.5 * stress))
        bid, ask = _on_ticks(fair, spread, contract, shape.zero_bid_below)
        # Depth thins in the wings, near the edges of the day and in fast markets.
        depth = _depth_of(contract.symbol) / ((1.0 + abs(d1)) * (1.0 + edge) * (1.0 + stress))
        size = max(1, int(depth))
        return Quote(contract.symbol, bid, ask, at, size if bid else 0, size)

    def _expires_at(self, contract: Instrument) -> float:
        assert contract.expiry is not None, contract.symbol
        moment = self._expiry_moments.get(contract.expiry)
        if moment is None:
            beyond = contract.expiry > self._calendar.last_day
            session = make_session(contract.expiry) if beyond else self._calendar.session_on_or_before(contract.expiry)
            moment = session.close.timestamp()
            self._expiry_moments[contract.expiry] = moment
        return moment


@lru_cache(maxsize=65536)
def _strike(contract: Instrument) -> float:
    assert contract.strike is not None, contract.symbol
    return float(contract.strike)


def _on_ticks(fair: float, spread: float, contract: Instrument, zero_bid_below: float) -> tuple[Decimal, Decimal]:
    """Bid rounded down and ask rounded up to the contract's tick; a bid of 0 where it is all but worthless."""
    tick = 1 if fair < 3.0 or contract.underlying in _PENNY_EVERYWHERE else 5
    half = spread * 50.0
    middle = fair * 100.0
    ask = max(tick, math.ceil((middle + half) / tick - 1e-9) * tick)
    bid = math.floor((middle - half) / tick + 1e-9) * tick
    if bid < 1 or fair < zero_bid_below:
        return cents(0), cents(ask)
    return cents(bid), cents(max(ask, bid + tick))
