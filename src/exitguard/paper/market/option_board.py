"""Keeps the option quotes that somebody needs fresh, and prices any other contract when it is asked for."""

import math
from collections.abc import Iterable
from datetime import date, datetime
from decimal import Decimal

from exitguard.core.instrument import Instrument, parse_instrument
from exitguard.core.quote import Quote
from exitguard.core.session import Session, SessionCalendar
from exitguard.paper.market.option_model import ModelContract, OptionModel, OptionValue, UnderlyingState

# Half-lives of the two averages of the underlying's moves whose ratio is the market's stress, in seconds.
_FAST_HALF_LIFE = 60.0
_SLOW_HALF_LIFE = 1800.0
# Minutes over which the widening at the open and before the close fades.
_EDGE_MINUTES = 5.0
_FALLBACK_VOLATILITY = 0.35


class _Underlying:
    """Price and recent moves of one stock."""

    __slots__ = ("at", "fast", "slow", "spot", "volatility")

    def __init__(self, spot: float, volatility: float, at: datetime) -> None:
        self.spot = spot
        self.volatility = volatility
        self.at = at
        # Variance a second, as the volatility leads one to expect; the ratio of the two averages starts at one.
        self.fast = self.slow = volatility * volatility / (252.0 * 6.5 * 3600.0)

    def move(self, spot: float, at: datetime) -> None:
        seconds = (at - self.at).total_seconds()
        if 0.0 < seconds <= 600.0:
            change = math.log(spot / self.spot)
            pace = change * change / seconds
            self.fast += (pace - self.fast) * (1.0 - 0.5 ** (seconds / _FAST_HALF_LIFE))
            self.slow += (pace - self.slow) * (1.0 - 0.5 ** (seconds / _SLOW_HALF_LIFE))
        self.spot = spot
        self.at = at

    def state(self) -> UnderlyingState:
        stress = math.sqrt(self.fast / self.slow) if self.slow > 0.0 else 1.0
        return UnderlyingState(self.spot, self.volatility, stress)


class _Followed:
    """The followed contracts of one stock."""

    __slots__ = ("_day", "_live", "contracts")

    def __init__(self) -> None:
        self.contracts: dict[str, tuple[date, ModelContract]] = {}
        self._day: date | None = None
        self._live: list[ModelContract] = []

    def add(self, symbol: str, expiry: date, contract: ModelContract) -> None:
        self.contracts[symbol] = expiry, contract
        self._day = None

    def remove(self, symbol: str) -> None:
        self.contracts.pop(symbol, None)
        self._day = None

    def live(self, day: date) -> list[ModelContract]:
        """Those that have not expired before `day`, by expiry: what an expiry's contracts share is worked out once."""
        if day != self._day:
            self._day = day
            self._live = [contract for expiry, contract in self.contracts.values() if expiry >= day]
            self._live.sort(key=lambda contract: contract.expires_at)
        return self._live


class OptionBoard:
    """Option quotes over the stocks of the market.

    A contract that is followed (subscribed, held, ordered) gets a new quote with each quote of its underlying in
    regular hours. Any contract of a known underlying can be priced on demand.
    """

    def __init__(self, calendar: SessionCalendar, model: OptionModel, volatilities: dict[str, float]) -> None:
        self._calendar = calendar
        self._model = model
        self._volatilities = volatilities
        self._underlyings: dict[str, _Underlying] = {}
        self._followed: dict[str, _Followed] = {}
        self._session: Session | None = None
        self._session_until: datetime | None = None

    def on_underlying(self, symbol: str, mid: Decimal, at: datetime) -> None:
        """Learn the underlying's true price."""
        spot = float(mid)
        if spot <= 0.0:
            return
        known = self._underlyings.get(symbol)
        if known is None:
            volatility = self._volatilities.get(symbol, _FALLBACK_VOLATILITY)
            self._underlyings[symbol] = _Underlying(spot, volatility, at)
        else:
            known.move(spot, at)

    def follow(self, symbol: str) -> bool:
        """Keep a contract's quotes fresh from now on; True when it was not followed before."""
        contract = parse_instrument(symbol)
        followed = self._followed.setdefault(contract.underlying, _Followed())
        if symbol in followed.contracts:
            return False
        assert contract.expiry is not None, symbol
        followed.add(symbol, contract.expiry, self._model.contract(contract))
        return True

    def followed(self) -> set[str]:
        """All contracts followed."""
        return {symbol for followed in self._followed.values() for symbol in followed.contracts}

    def unfollow(self, symbols: Iterable[str]) -> None:
        """Stop following contracts."""
        self._model.forget_contracts()
        for symbol in symbols:
            underlying = parse_instrument(symbol).underlying
            followed = self._followed.get(underlying)
            if followed is not None:
                followed.remove(symbol)
                if not followed.contracts:
                    del self._followed[underlying]

    def requote(self, underlyings: Iterable[str], at: datetime) -> list[Quote]:
        """New quotes of the followed contracts of these underlyings; none outside regular hours."""
        session = self._session_at(at)
        if session is None or not session.contains(at):
            return []
        edge = _edge(session, at)
        quotes: list[Quote] = []
        for underlying in underlyings:
            followed = self._followed.get(underlying)
            if followed is not None:
                state = self._underlyings[underlying].state()
                quotes.extend(self._model.quotes(followed.live(session.day), state, at, edge))
        return quotes

    def price(self, symbol: str, now: datetime) -> Quote | None:
        """A quote on demand: stamped now in regular hours, else at the last close. None without an underlying price."""
        contract = parse_instrument(symbol)
        underlying = self._underlyings.get(contract.underlying)
        if underlying is None or not contract.is_option:
            return None
        session = self._session_at(now)
        if session is not None and session.contains(now):
            at, edge = now, _edge(session, now)
        else:
            at, edge = min(now, self._last_close(now)), 1.0
        if session is not None and self._expired(contract, session):
            return None
        return self._model.quote(contract, underlying.state(), at, edge)

    def value(self, symbol: str, now: datetime) -> OptionValue | None:
        """Fair value and greeks on demand; None without an underlying price."""
        contract = parse_instrument(symbol)
        underlying = self._underlyings.get(contract.underlying)
        if underlying is None or not contract.is_option:
            return None
        return self._model.value(contract, underlying.state(), now)

    def _expired(self, contract: Instrument, session: Session) -> bool:
        assert contract.expiry is not None, contract.symbol
        return contract.expiry < session.day

    def _session_at(self, at: datetime) -> Session | None:
        if self._session_until is None or at >= self._session_until or (self._session and at < self._session.pre_open):
            self._session = self._calendar.current(at)
            self._session_until = self._session.post_close if self._session else None
        return self._session

    def _last_close(self, now: datetime) -> datetime:
        session = self._calendar.current(now)
        if session is not None and now >= session.close:
            return session.close
        earlier = now.date() if session is None else session.day
        previous = self._calendar.between(self._calendar.first_day, earlier)
        closes = [one.close for one in previous[-2:] if one.close <= now]
        return closes[-1] if closes else now


def _edge(session: Session, at: datetime) -> float:
    since = (at - session.open).total_seconds() / 60.0
    left = (session.close - at).total_seconds() / 60.0
    return max(math.exp(-max(0.0, since) / _EDGE_MINUTES), math.exp(-max(0.0, left) / _EDGE_MINUTES))
