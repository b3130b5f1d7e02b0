"""Streams of a `FakeBroker`: trade updates and quotes, delivered through queues, with gaps on demand."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence

from tests.support.fake_broker import FakeBroker

from exitguard.broker.port import StreamDown, StreamUp, Tick, TickSink, TradeStreamEvent
from exitguard.core.orders import TradeUpdate
from exitguard.core.quote import Quote


class FakeTradeStream:
    """The account's `trade_updates`. While `mute`, what happens is lost, as on a real socket."""

    def __init__(self, broker: FakeBroker) -> None:
        self._queue: asyncio.Queue[TradeStreamEvent] = asyncio.Queue()
        self.mute = False
        self.reconnects: list[str] = []
        broker.update_sinks.append(self._on_update)
        self._queue.put_nowait(StreamUp(time.monotonic()))

    def _on_update(self, update: TradeUpdate) -> None:
        if not self.mute:
            self._queue.put_nowait(update)

    def push(self, event: TradeStreamEvent) -> None:
        """Deliver anything: a duplicate, a late message, a break."""
        self._queue.put_nowait(event)

    def drop(self, reason: str = "connection lost") -> None:
        """Break the stream and stay silent."""
        self.mute = True
        self._queue.put_nowait(StreamDown(reason))

    def reconnect(self, reason: str) -> None:
        """Remember that the manager takes it for deaf; a test decides when it comes back."""
        self.reconnects.append(reason)
        self._queue.put_nowait(StreamDown(reason, deaf=True))

    def restore(self) -> None:
        """Come back; what happened in between is not replayed."""
        self.mute = False
        self._queue.put_nowait(StreamUp(time.monotonic()))

    async def events(self) -> AsyncIterator[TradeStreamEvent]:
        """Yield events for ever."""
        while True:
            yield await self._queue.get()
            self._queue.task_done()

    async def delivered(self) -> None:
        """Wait until everything that happened so far has been folded."""
        await self._queue.join()


class FakeMarketData:
    """Quote stream of a `FakeBroker` for the symbols watched."""

    def __init__(self, broker: FakeBroker) -> None:
        self._broker = broker
        self.watched: frozenset[str] = frozenset()
        self.mute = False
        # What `unheard` answers, and what `missed` was told.
        self.quiet: frozenset[str] = frozenset()
        self.suspected: set[str] = set()
        self._queue: asyncio.Queue[Tick | StreamUp | StreamDown] = asyncio.Queue()
        broker.quote_sinks.append(self._on_quote)

    def watch(self, symbols: Collection[str]) -> None:
        """Set the symbols to receive; a new one gets its newest quote at once."""
        new = frozenset(symbols) - self.watched
        self.watched = frozenset(symbols)
        for symbol in sorted(new):
            if symbol in self._broker.quotes:
                self._on_quote(self._broker.quotes[symbol])

    def unheard(self) -> frozenset[str]:
        """Symbols of connections that tell nothing, as the test says."""
        return self.quiet

    def missed(self, symbols: Collection[str]) -> None:
        """Remember what REST told first."""
        self.suspected.update(symbols)

    def _on_quote(self, quote: Quote) -> None:
        if not self.mute and quote.symbol in self.watched:
            at_ns = int(quote.at.timestamp() * 1_000_000) * 1000
            tick = Tick(quote.symbol, float(quote.bid), float(quote.ask), quote.bid_size, quote.ask_size, at_ns)
            self._queue.put_nowait(tick)

    def push(self, event: Tick | StreamUp | StreamDown) -> None:
        """Deliver anything."""
        self._queue.put_nowait(event)

    async def delivered(self) -> None:
        """Wait until everything published so far has been looked at."""
        await self._queue.join()

    async def run(self, on_ticks: TickSink, on_status: Callable[[StreamUp | StreamDown], None]) -> None:
        """Deliver ticks until cancelled."""
        on_status(StreamUp(time.monotonic()))
        while True:
            event = await self._queue.get()
            if isinstance(event, Tick):
                ticks: Sequence[Tick] = [event]
                on_ticks(ticks)
            else:
                on_status(event)
            self._queue.task_done()
