"""One process's sockets: trade updates and quotes, with messages lost, repeated, late, unreadable, and wrong."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from random import Random

from exitguard.broker.port import QUIET_SECONDS, StreamDown, StreamUp, Tick, TickSink, TradeStreamEvent, Unparsed
from exitguard.core.orders import TradeUpdate
from exitguard.core.quote import Quote
from exitguard.sim.exchange import SimExchange, Surroundings
from exitguard.sim.loop import Process

NAN = float("nan")


class SimTradeStream:
    """The account's `trade_updates`. While `mute` or broken, what happens is lost, as on a real socket."""

    def __init__(self, world: Surroundings, exchange: SimExchange, process: Process, rng: Random) -> None:
        self._world = world
        self._exchange = exchange
        self._process = process
        self._rng = rng
        self._queue: asyncio.Queue[TradeStreamEvent] = asyncio.Queue()
        self._latest = 0.0
        self._loop = asyncio.get_running_loop()
        self.mute = True
        world.later(rng.uniform(0.02, 0.5), self.come_up)

    def come_up(self) -> None:
        """Be connected; what happened before is not replayed."""
        if not self._process.alive:
            return
        if self._on_update not in self._exchange.update_sinks:
            self._exchange.update_sinks.append(self._on_update)
        self.mute = False
        self._queue.put_nowait(StreamUp(self._loop.time(), "trade_updates"))

    def break_off(self) -> None:
        """Lose the connection."""
        self.mute = True
        self._queue.put_nowait(StreamDown("connection lost", "trade_updates"))

    def reconnect(self, reason: str) -> None:
        """Be closed because the manager takes the connection for deaf, and come back after a while."""
        if self._on_update not in self._exchange.update_sinks:
            return
        self.mute = True
        self._queue.put_nowait(StreamDown(reason, "trade_updates", deaf=True))
        self._world.later(self._rng.uniform(1.0, 3.0), self.come_up)

    def refuse(self) -> None:
        """Be turned away again: the broker believes that the old session lives."""
        if self.mute and self._process.alive:
            self._queue.put_nowait(StreamDown("connection limit exceeded", "trade_updates"))

    def detach(self) -> None:
        """The process ended."""
        if self._on_update in self._exchange.update_sinks:
            self._exchange.update_sinks.remove(self._on_update)

    def babble(self, update: TradeUpdate | None) -> None:
        """Deliver something that nobody can read, or that concerns nobody."""
        self._deliver(Unparsed('{"data":{"event":"fi', "unexpected end of data") if update is None else update)

    def _on_update(self, update: TradeUpdate) -> None:
        faults = self._world.faults
        if self.mute or faults.hit("stream_drop"):
            return
        times = 2 if faults.hit("stream_duplicate") else 1
        for number in range(times):
            if number or faults.hit("stream_late"):
                self._world.later(faults.rng("stream_late").uniform(0.1, 20.0), self._deliver, update)
                continue
            # Honest messages keep their order.
            self._latest = max(self._latest, self._loop.time() + self._rng.uniform(0.003, 0.08))
            self._world.later(self._latest - self._loop.time(), self._deliver, update)

    def _deliver(self, event: TradeStreamEvent) -> None:
        if self._process.alive and not self.mute:
            self._queue.put_nowait(event)

    async def events(self) -> AsyncIterator[TradeStreamEvent]:
        """Yield events for ever."""
        while True:
            event = await self._queue.get()
            self._process.require_alive()
            yield event


class SimMarketData:
    """Quotes of the symbols watched, as they arrive at one process."""

    def __init__(self, world: Surroundings, process: Process, rng: Random) -> None:
        self._world = world
        self._process = process
        self._rng = rng
        self._watched: frozenset[str] = frozenset()
        self._queue: asyncio.Queue[Tick] = asyncio.Queue()
        self._past: dict[str, Quote] = {}
        self._heard_at = 0.0
        self._loop = asyncio.get_running_loop()
        self.mute = False

    def watch(self, symbols: Collection[str]) -> None:
        """Set the symbols to receive."""
        self._watched = frozenset(symbols)

    def unheard(self) -> frozenset[str]:
        """Symbols watched, when none was told of for seconds."""
        return self._watched if self._loop.time() - self._heard_at >= QUIET_SECONDS else frozenset()

    def missed(self, symbols: Collection[str]) -> None:
        """Come back from silence: the manager found it out."""
        if self.mute and not self._watched.isdisjoint(symbols):
            self._world.later(self._rng.uniform(2.0, 5.0), self._open_anew)

    def _open_anew(self) -> None:
        self.mute = False

    def publish(self, quote: Quote) -> None:
        """The market has a new quote."""
        if self.mute or quote.symbol not in self._watched or not self._process.alive:
            return
        wrong = self._spoiled(quote)
        self._past.setdefault(quote.symbol, quote)
        for sent in (wrong, tick_of(quote)) if wrong is not None else (tick_of(quote),):
            self._world.later(self._rng.uniform(0.003, 0.08), self._queue.put_nowait, sent)

    def _spoiled(self, quote: Quote) -> Tick | None:
        """A wrong quote that comes along with the right one, if any does."""
        faults = self._world.faults
        tick = tick_of(quote)
        if faults.hit("quote_stale"):
            return tick_of(self._past.get(quote.symbol, quote))
        if faults.hit("quote_one_sided"):
            bidless = faults.rng("quote_one_sided").random() < 0.5
            return _tick(tick, 0.0, tick.ask) if bidless else _tick(tick, tick.bid, 0.0)
        if faults.hit("quote_zero"):
            return _tick(tick, 0.0, 0.0)
        if faults.hit("quote_crossed"):
            return _tick(tick, tick.ask * 1.5, tick.bid * 0.5)
        if faults.hit("quote_nan"):
            return _tick(tick, NAN, tick.ask)
        if faults.hit("quote_wild"):
            return _tick(tick, 0.01, tick.ask * 3)
        return None

    async def run(self, on_ticks: TickSink, on_status: Callable[[StreamUp | StreamDown], None]) -> None:
        """Deliver ticks until cancelled."""
        on_status(StreamUp(0.0, "stock"))
        while True:
            tick = await self._queue.get()
            self._process.require_alive()
            self._heard_at = self._loop.time()
            on_ticks([tick])


def _tick(like: Tick, bid: float, ask: float) -> Tick:
    return Tick(like.symbol, bid, ask, like.bid_size, like.ask_size, like.at_ns)


def tick_of(quote: Quote) -> Tick:
    """The quote as the wire has it."""
    at_ns = int(quote.at.timestamp() * 1_000_000) * 1000
    return Tick(quote.symbol, float(quote.bid), float(quote.ask), quote.bid_size, quote.ask_size, at_ns)
