"""Writes the exchange's state down at the right moments: after each change, before anybody hears of it."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from exitguard.core.quote import Quote
from exitguard.paper.engine import Account, Exchange
from exitguard.paper.server.state import StateError, StateFile


class Keeper:
    """Does nothing without a state file. A state that cannot be written any more ends the exchange: see `failed`."""

    def __init__(self, state: StateFile | None) -> None:
        self._state = state
        self._exchange: Exchange | None = None
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def is_on(self) -> bool:
        """Whether anything is kept."""
        return self._state is not None

    def market_time(self) -> datetime | None:
        """Where the market's time had got to; None for a new exchange."""
        return None if self._state is None else self._state.market_time()

    def market_terms(self) -> dict[str, Any]:
        """What `begin` was given to write of splits and new names."""
        return {} if self._state is None else self._state.market_terms()

    def prices(self) -> dict[str, Decimal]:
        """The kept price of each stock by its present symbol."""
        return {} if self._state is None else self._state.prices()

    def restore(self, exchange: Exchange) -> None:
        """Fill a new exchange with what was kept. Raises StateError."""
        if self._state is not None:
            self._state.restore(exchange.keeping)

    def begin(self, exchange: Exchange, now: Callable[[], datetime], market_terms: Callable[[], Any]) -> None:
        """Write everything now; changes from here on."""
        self._exchange = exchange
        if self._state is not None:
            self._state.keep(exchange.keeping, now, market_terms)

    def save(self) -> None:
        """Write what has changed; called wherever the exchange may have been changed, and cheap when it was not.

        A failure is told through `failed` alone: whoever changed something here is no client that waits.
        """
        if self._state is not None:
            with contextlib.suppress(StateError):
                self._guarded(self._state.flush)

    def save_prices(self) -> None:
        """Write prices and the market's time too: once a wall second."""
        if self._state is not None:
            with contextlib.suppress(StateError):
                self._guarded(self._state.save_prices)

    def after_request(self, account: Account) -> None:
        """A client's request that may have changed its account was carried out. Raises StateError."""
        if self._state is not None and self._exchange is not None:
            self._exchange.keeping.note_account(account)
            self._guarded(self._state.flush)

    def after_intervention(self) -> None:
        """Somebody used the admin API. Raises StateError."""
        if self._state is not None and self._exchange is not None:
            self._exchange.keeping.note_everything()
            self._guarded(self._state.flush)

    def close(self) -> None:
        """Write the last state and let go of the folder."""
        if self._state is not None:
            state, self._state = self._state, None
            state.close(write=not self.failed.done())
        if not self.failed.done():
            self.failed.cancel()
        elif not self.failed.cancelled():
            # Whoever waits has seen it; whoever does not must not be told at the garbage collector's leisure.
            self.failed.exception()

    def _guarded(self, write: Callable[[], None]) -> None:
        try:
            write()
        except StateError as error:
            if not self.failed.done():
                self.failed.set_exception(error)
            raise


class KeptVenue:
    """The exchange as the market's player drives it, written down after each step."""

    def __init__(self, exchange: Exchange, keeper: Keeper) -> None:
        self._exchange = exchange
        self._keeper = keeper
        self.next_boundary = exchange.next_boundary
        self.halt = exchange.halt
        self.resume = exchange.resume

    def on_quotes(self, quotes: Sequence[Quote]) -> None:
        """Take quotes and match."""
        self._exchange.on_quotes(quotes)
        self._keeper.save()

    def on_sound_quotes(self, quotes: Sequence[Quote]) -> None:
        """Take the option model's quotes and match."""
        self._exchange.on_sound_quotes(quotes)
        self._keeper.save()

    def on_trade(self, symbol: str, price: Decimal, at: datetime) -> None:
        """Take a print."""
        self._exchange.on_trade(symbol, price, at)
        self._keeper.save()

    def advance_to(self, now: datetime) -> None:
        """Do what session boundaries demand."""
        self._exchange.advance_to(now)
        self._keeper.save()
