"""A model of option prices: Black-Scholes over the underlying, with a smile, a term structure, spreads and depth.

No recording of US option quotes can be shipped, so every option quote of the exchange comes from here, and
`docs/exchange.md` says so. All arithmetic is binary floating point: it is a price model, not a ledger; what leaves
`OptionModel.quote` are Decimals on the contract's tick.

Implied volatility of strike K at T years: atm(T) * (1 + skew * x + smile * x * x), x = ln(K / S) / (atm(T) * sqrt(T))
in standard deviations, clamped to three; atm(T) = base * (1 + front * exp(-T / 0.05)): near expiries carry more.
"""

import math
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from math import ceil, floor
from typing import NamedTuple

from exitguard.core.instrument import Instrument, InstrumentType
from exitguard.core.quote import Quote
from exitguard.core.session import SessionCalendar, make_session
from exitguard.paper.market.ticks import CENTS

_SECONDS_A_YEAR = 365.0 * 86400.0
# No option is worth less time than this: keeps the formulas finite on the last second.
_SHORTEST_YEARS = 60.0 / _SECONDS_A_YEAR
_ONE_DAY_YEARS = 1.0 / 365.0
_SQRT_TWO = math.sqrt(2.0)
_ROOT_HALF = math.sqrt(0.5)
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


class ModelContract(NamedTuple):
    """A contract as the model needs it: strike in dollars, expiry in Unix time, tick from 3 dollars up in cents."""

    symbol: str
    is_call: bool
    strike: float
    expires_at: float
    log_strike: float
    large_tick: int
    depth: int


@dataclass(frozen=True, slots=True)
class _Terms:
    """What all contracts of one underlying and expiry share at one moment."""

    years: float
    root: float
    atm: float
    discount: float


def _normal_cdf(x: float) -> float:
    return 0.5 * (1.0 + math.erf(x / _SQRT_TWO))


class OptionModel:
    """Prices contracts. One instance serves every underlying."""

    def __init__(self, calendar: SessionCalendar, settings: OptionModelSettings | None = None) -> None:
        self._calendar = calendar
        self._settings = settings or OptionModelSettings()
        self._contracts: dict[str, ModelContract] = {}

    def contract(self, instrument: Instrument) -> ModelContract:
        """The model's view of an option; an expiry without a session ends with the session before it."""
        known = self._contracts.get(instrument.symbol)
        if known is not None:
            return known
        assert instrument.expiry is not None, instrument.symbol
        assert instrument.strike is not None, instrument.symbol
        beyond = instrument.expiry > self._calendar.last_day
        session = make_session(instrument.expiry) if beyond else self._calendar.session_on_or_before(instrument.expiry)
        made = ModelContract(
            symbol=instrument.symbol,
            is_call=instrument.type is InstrumentType.CALL,
            strike=float(instrument.strike),
            log_strike=math.log(float(instrument.strike)),
            expires_at=session.close.timestamp(),
            large_tick=1 if instrument.underlying in _PENNY_EVERYWHERE else 5,
            # A contract's own depth, from its name: the same in every run.
            depth=5 + zlib.crc32(instrument.symbol.encode()) % 60,
        )
        self._contracts[instrument.symbol] = made
        return made

    def forget_contracts(self) -> None:
        """Drop what was kept of contracts, so that expired ones do not pile up."""
        self._contracts.clear()

    def years_left(self, instrument: Instrument, at: datetime) -> float:
        """Years to the close of the expiry's session, at least a minute."""
        return _years(self.contract(instrument).expires_at, at.timestamp())

    def volatility(self, instrument: Instrument, state: UnderlyingState, years: float) -> float:
        """Implied volatility of a contract with `years` to live."""
        return self._volatility(self.contract(instrument), state.spot, self._terms(years, state))

    def fair(self, instrument: Instrument, state: UnderlyingState, at: datetime) -> float:
        """Fair value, dollars a share; never below what exercising now would give."""
        terms = self._terms(self.years_left(instrument, at), state)
        price, _, _ = self._price(self.contract(instrument), state.spot, terms)
        return price

    def value(self, instrument: Instrument, state: UnderlyingState, at: datetime) -> OptionValue:
        """Fair value with greeks."""
        contract = self.contract(instrument)
        terms = self._terms(_years(contract.expires_at, at.timestamp()), state)
        price, d1, sigma = self._price(contract, state.spot, terms)
        d2 = d1 - sigma * terms.root
        density = math.exp(-0.5 * d1 * d1) / _SQRT_TWO_PI
        rate = self._settings.rate
        discounted = contract.strike * terms.discount
        sign = 1.0 if contract.is_call else -1.0
        decay = -state.spot * density * sigma / (2.0 * terms.root) - sign * rate * discounted * _normal_cdf(sign * d2)
        return OptionValue(
            price=price,
            volatility=sigma,
            delta=_normal_cdf(d1) if contract.is_call else _normal_cdf(d1) - 1.0,
            gamma=density / (state.spot * sigma * terms.root),
            theta=decay / 365.0,
            vega=state.spot * density * terms.root / 100.0,
            rho=sign * discounted * terms.years * _normal_cdf(sign * d2) / 100.0,
        )

    def quote(self, instrument: Instrument, state: UnderlyingState, at: datetime, edge: float) -> Quote:
        """Bid and ask at `at`; `edge` from 0 (middle of the day) to 1 (opening or closing minute)."""
        (made,) = self.quotes([self.contract(instrument)], state, at, edge)
        return made

    def quotes(
        self, contracts: Iterable[ModelContract], state: UnderlyingState, at: datetime, edge: float
    ) -> list[Quote]:
        """Bids and asks of contracts of one underlying: this is what runs for each of its quotes."""
        shape, now, spot = self._settings, at.timestamp(), state.spot
        stress = max(0.0, state.stress - 1.5)
        widening = 1.0 + (shape.edge_of_day_widening - 1.0) * edge
        widening *= 1.0 + (shape.fast_market_widening - 1.0) * (1.0 - math.exp(-0.5 * stress))
        # Depth thins in the wings, near the edges of the day and in fast markets.
        thinning = (1.0 + edge) * (1.0 + stress)
        least, fraction, zero_below = shape.spread_floor * 50.0, shape.spread_fraction * 50.0, shape.zero_bid_below
        rate, skew, smile, log_spot, erf = shape.rate, shape.skew, shape.smile, math.log(spot), math.erf
        prices, none = CENTS, CENTS[0]
        made: list[Quote] = []
        expires_at = years = root = atm = discount = wide = 0.0
        # The arithmetic of `_price`, `_volatility` and `_on_ticks` in one piece: hundred thousands go by in a second
        # of a market at full speed, and each call would cost as much as what it does.
        for symbol, is_call, strike, expires, log_strike, large_tick, depth in contracts:
            if expires != expires_at:
                expires_at = expires
                terms = self._terms(_years(expires, now), state)
                years, root, atm, discount = terms.years, terms.root, terms.atm, terms.discount
                wide = widening * (shape.expiry_day_widening if years < _ONE_DAY_YEARS else 1.0)
            away = log_strike - log_spot
            x = away / (atm * root)
            if x > 3.0:
                x = 3.0
            elif x < -3.0:
                x = -3.0
            sigma = atm * (1.0 + skew * x + smile * x * x)
            if sigma > 5.0:
                sigma = 5.0
            elif sigma < 0.03:
                sigma = 0.03
            width = sigma * root
            d1 = ((rate + 0.5 * sigma * sigma) * years - away) / width
            discounted = strike * discount
            fair = 0.5 * (spot * (1.0 + erf(d1 * _ROOT_HALF)) - discounted * (1.0 + erf((d1 - width) * _ROOT_HALF)))
            if is_call:
                inner = spot - strike
            else:
                fair += discounted - spot
                inner = strike - spot
            if fair < inner:
                fair = inner
            if fair < 0.0:
                fair = 0.0
            half = (least + fraction * fair) * wide
            # In cents: the bid down and the ask up to the contract's tick; no bid where it is all but worthless.
            tick = 1 if fair < 3.0 else large_tick
            middle = fair * 100.0
            ask = ceil((middle + half) / tick - 1e-9) * tick
            if ask < tick:
                ask = tick
            bid = floor((middle - half) / tick + 1e-9) * tick
            size = int(depth / ((1.0 + (d1 if d1 > 0.0 else -d1)) * thinning)) or 1
            if bid < 1 or fair < zero_below:
                made.append(Quote(symbol, none, prices[ask], at, 0, size))
            else:
                if ask <= bid:
                    ask = bid + tick
                made.append(Quote(symbol, prices[bid], prices[ask], at, size, size))
        return made

    def _terms(self, years: float, state: UnderlyingState) -> _Terms:
        atm = state.volatility * (1.0 + self._settings.front * math.exp(-years / 0.05))
        return _Terms(years, math.sqrt(years), atm, math.exp(-self._settings.rate * years))

    def _volatility(self, contract: ModelContract, spot: float, terms: _Terms) -> float:
        x = math.log(contract.strike / spot) / (terms.atm * terms.root)
        x = 3.0 if x > 3.0 else -3.0 if x < -3.0 else x
        sigma = terms.atm * (1.0 + self._settings.skew * x + self._settings.smile * x * x)
        return 5.0 if sigma > 5.0 else 0.03 if sigma < 0.03 else sigma

    def _price(self, contract: ModelContract, spot: float, terms: _Terms) -> tuple[float, float, float]:
        """Fair value, d1 and volatility."""
        strike = contract.strike
        sigma = self._volatility(contract, spot, terms)
        width = sigma * terms.root
        d1 = (math.log(spot / strike) + (self._settings.rate + 0.5 * sigma * sigma) * terms.years) / width
        discounted = strike * terms.discount
        call = spot * _normal_cdf(d1) - discounted * _normal_cdf(d1 - width)
        if contract.is_call:
            return max(call, spot - strike, 0.0), d1, sigma
        return max(call - spot + discounted, strike - spot, 0.0), d1, sigma


def _years(expires_at: float, now: float) -> float:
    return max(_SHORTEST_YEARS, (expires_at - now) / _SECONDS_A_YEAR)
