"""One market data connection for all accounts of a process that share the data credential."""

import asyncio
from collections.abc import Collection, Sequence

from exitguard.broker.market_data import StatusSink
from exitguard.broker.port import MarketData, StreamDown, StreamUp, Tick, TickSink


class MarketDataHub:
    """Fans one MarketData out. The venue allows one connection an endpoint a user, not an account.

    The source runs while at least one subscription runs. A sink that raises ends its own subscription only; a
    source that fails ends them all.
    """

    def __init__(self, source: MarketData) -> None:
        self._source = source
        self._running: list[HubSubscription] = []
        self._up: dict[str, StreamUp] = {}
        self._task: asyncio.Task[None] | None = None

    def subscribe(self) -> "HubSubscription":
        """Make a subscription with a watch set of its own; it is a MarketData itself."""
        return HubSubscription(self)

    def update_watch(self) -> None:
        """Ask the source for what all running subscriptions want together."""
        self._source.watch(frozenset().union(*(s.symbols for s in self._running)))

    def unheard(self) -> frozenset[str]:
        """Symbols of connections that are up and tell nothing."""
        return self._source.unheard()

    def missed(self, symbols: Collection[str]) -> None:
        """Tell the source what REST told first."""
        self._source.missed(symbols)

    def join(self, subscription: "HubSubscription") -> None:
        """Start delivering to a subscription."""
        self._running.append(subscription)
        self.update_watch()
        for up in self._up.values():
            subscription.tell(up)
        if self._task is None:
            self._task = asyncio.create_task(self._source.run(self._on_ticks, self._on_status), name="market-data-hub")
            self._task.add_done_callback(self._ended)

    async def leave(self, subscription: "HubSubscription") -> None:
        """Stop delivering to a subscription; the last one stops the source."""
        if subscription in self._running:
            self._running.remove(subscription)
        self.update_watch()
        if not self._running and self._task is not None:
            task, self._task = self._task, None
            self._up.clear()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _on_ticks(self, ticks: Sequence[Tick]) -> None:
        for subscription in tuple(self._running):
            subscription.deliver(ticks)

    def _on_status(self, status: StreamUp | StreamDown) -> None:
        if isinstance(status, StreamUp):
            self._up[status.stream] = status
        else:
            self._up.pop(status.stream, None)
        for subscription in tuple(self._running):
            subscription.tell(status)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self._task is task:
            self._task = None
        error = None if task.cancelled() else task.exception()
        for subscription in tuple(self._running):
            subscription.end(error or RuntimeError("the shared market data connection was stopped"))


class HubSubscription:
    """One account's share of a hub; implements `broker.port.MarketData`."""

    def __init__(self, hub: MarketDataHub) -> None:
        self._hub = hub
        self.symbols: frozenset[str] = frozenset()
        self._on_ticks: TickSink | None = None
        self._on_status: StatusSink | None = None
        self._failure: asyncio.Future[None] | None = None

    def watch(self, symbols: Collection[str]) -> None:
        """Set the symbols to receive."""
        self.symbols = frozenset(symbols)
        self._hub.update_watch()

    async def run(self, on_ticks: TickSink, on_status: StatusSink) -> None:
        """Deliver this subscription's ticks until cancelled. Raises what the sinks or the source raise."""
        self._on_ticks = on_ticks
        self._on_status = on_status
        self._failure = asyncio.get_running_loop().create_future()
        self._hub.join(self)
        try:
            await self._failure
        finally:
            await self._hub.leave(self)

    def unheard(self) -> frozenset[str]:
        """Symbols of this watch set on connections that are up and tell nothing."""
        return self._hub.unheard() & self.symbols

    def missed(self, symbols: Collection[str]) -> None:
        """Tell the shared connections what REST told first."""
        self._hub.missed(symbols)

    def deliver(self, ticks: Sequence[Tick]) -> None:
        """Pass on the ticks of symbols in this watch set."""
        mine = [tick for tick in ticks if tick.symbol in self.symbols]
        if mine and self._on_ticks is not None and self._failure is not None and not self._failure.done():
            try:
                self._on_ticks(mine)
            except Exception as error:  # it comes out of this subscription's run(); the others go on
                self.end(error)

    def tell(self, status: StreamUp | StreamDown) -> None:
        """Pass a status on."""
        if self._on_status is not None and self._failure is not None and not self._failure.done():
            try:
                self._on_status(status)
            except Exception as error:  # as above
                self.end(error)

    def end(self, error: BaseException) -> None:
        """Make `run` raise `error`."""
        if self._failure is not None and not self._failure.done():
            self._failure.set_exception(error)
