"""Follows one account's streams, and believes none of them: what REST tells decides whether they listen (F45, F98)."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta

from exitguard.broker.port import MarketData, StreamDown, StreamUp, TradeStream, Unparsed
from exitguard.core.instrument import InvalidSymbol, parse_instrument
from exitguard.core.orders import TradeUpdate
from exitguard.core.quote import Quote
from exitguard.core.records import SetAside
from exitguard.manager.context import AccountContext
from exitguard.manager.ear import MARGIN
from exitguard.manager.lifecycle import Lifecycle
from exitguard.manager.tracked import Tracked
from exitguard.manager.watcher import Watcher

TRADES = "trade_updates"
_FEEDS = {False: "stock", True: "option"}
STREAM_ALARM_SECONDS = 60


class Streams:
    """Trade updates and quotes of one account. `request_poll` asks for a look at the broker soon."""

    def __init__(
        self,
        context: AccountContext,
        lifecycle: Lifecycle,
        watcher: Watcher,
        trade_stream: TradeStream,
        market_data: MarketData,
        request_poll: Callable[[], None],
    ) -> None:
        self._context = context
        self._lifecycle = lifecycle
        self._watcher = watcher
        self._trade_stream = trade_stream
        self._market_data = market_data
        self._request_poll = request_poll
        self._watched: frozenset[str] = frozenset()
        self._down_since: datetime | None = None
        # Since when each quote socket says that it listens.
        self._feed_up_since: dict[str, datetime] = {}

    # Trade updates ----------------------------------------------------------------------------------------------

    async def follow_trades(self) -> None:
        """Fold every trade update; repair over REST after each (re)connection."""
        context = self._context
        async for event in self._trade_stream.events():
            now = context.clock.now()
            match event:
                case TradeUpdate():
                    self._on_trade_update(event)
                case StreamUp():
                    context.stream_ready.set()
                    context.stream_told.set()
                    context.ear.up(now)
                    self._down_since = None
                    context.alarms.clear("trade_stream", now)
                    self._note_up(event, now)
                    self._request_poll()
                case StreamDown():
                    context.stream_ready.clear()
                    context.stream_told.set()
                    context.ear.down()
                    self._down_since = self._down_since or now
                    self._note_down(event, now)
                case Unparsed():
                    context.log.warning("trade stream message set aside", reason=event.reason)
                    context.ledger.post(SetAside("trade_update", event.reason[:500], {"raw": event.raw[:4000]}, now))

    def _on_trade_update(self, update: TradeUpdate) -> None:
        context = self._context
        context.clock.observe(update.at, authoritative=False)
        now = context.clock.now()
        try:
            parse_instrument(update.order.symbol)
        except InvalidSymbol as error:
            context.ledger.post(SetAside("trade_update", str(error), {"raw": str(update.order.raw)[:4000]}, now))
            return
        touched = self._lifecycle.apply_order(update.order, update.fill, now, "stream")
        if not touched and update.order.filled_qty > 0:
            self._request_poll()  # a fill of something that we do not manage yet: find out what it is
        for tracked in touched:
            if tracked.holding.is_flat and tracked.closer is None:
                context.spawn(self._finish_foreign(tracked), f"finish {tracked.record.id}")
                continue
            marks = context.marks.get(tracked.record.symbol)
            if marks is not None:
                self._watcher.look(marks, now)

    async def _finish_foreign(self, tracked: Tracked) -> None:
        if not await self._lifecycle.finish_foreign(tracked):
            self._request_poll()

    async def follow_ear(self) -> None:
        """Look about once a second whether the trade stream owes what REST told; open it anew when it does."""
        while True:
            await asyncio.sleep(self._context.options.limits.look_seconds)
            self.listen()

    def listen(self) -> None:
        """One look. A stream that is deaf counts as down at once; it is opened anew as often as the broker bears it."""
        context, ear = self._context, self._context.ear
        ear.look()
        if ear.deaf is None:
            return
        now = context.clock.now()
        reason = f"order {ear.deaf} changed, REST tells it and the stream does not"
        if context.stream_up:
            context.stream_ready.clear()
            self._down_since = self._down_since or now
            self._tell_deaf(TRADES, reason, now)
            self._request_poll()
        if ear.may_reconnect():
            self._trade_stream.reconnect(f"deaf: {reason}")

    # Quotes -----------------------------------------------------------------------------------------------------

    async def follow_market(self) -> None:
        """Take quotes in; a stream that is down shows as blindness, and REST is asked in every sweep."""
        await self._market_data.run(self._watcher.on_ticks, self._on_market_status)

    def _on_market_status(self, status: StreamUp | StreamDown) -> None:
        now = self._context.clock.now()
        if isinstance(status, StreamDown):
            self._feed_up_since.pop(status.stream, None)
            self._note_down(status, now)
        else:
            self._feed_up_since[status.stream] = now
            self._note_up(status, now)
            self._context.log.info("stream up", stream=status.stream)

    def watch_symbols(self) -> None:
        """Ask for the quotes of what is held."""
        wanted = frozenset(self._context.marks.symbols)
        if wanted != self._watched:
            self._watched = wanted
            self._market_data.watch(wanted)

    def unheard(self, now: datetime) -> Collection[str]:
        """Symbols of quote sockets that are up and silent while there should be quotes: REST is to be asked."""
        session = self._context.session(now)
        if session is None or not session.contains_extended(now):
            return ()
        return self._market_data.unheard()

    def compare_quotes(self, quotes: Mapping[str, Quote], now: datetime) -> None:
        """Take note of quotes that REST told: those that a socket should have told before make it suspect."""
        missed = set()
        for symbol, quote in quotes.items():
            marks = self._context.marks.get(symbol)
            up_since = self._feed_up_since.get(_FEEDS[parse_instrument(symbol).is_option])
            if marks is None or up_since is None or not up_since + MARGIN < quote.at <= now:
                continue
            if marks.quote is None or quote.at > marks.quote.at:
                missed.add(symbol)
        if missed:
            self._market_data.missed(missed)

    # What a person must know --------------------------------------------------------------------------------------

    def tell_long_down(self) -> None:
        """Raise the alarm for a trade stream that does not come back."""
        context, now = self._context, self._context.clock.now()
        if self._down_since is not None and now - self._down_since >= timedelta(seconds=STREAM_ALARM_SECONDS):
            context.alarms.raise_alarm(
                "trade_stream",
                "trade_stream_down",
                f"no trade updates since {self._down_since:%H:%M:%S} UTC; orders are followed over REST",
                now,
            )

    def _note_up(self, status: StreamUp, now: datetime) -> None:
        stream = status.stream or TRADES
        self._context.alarms.clear(f"stream:{stream}", now)
        self._context.alarms.clear(f"stream_deaf:{stream}", now)

    def _note_down(self, status: StreamDown, now: datetime) -> None:
        """Say it; a cause that a person must act on (wrong keys, connection limit) is an alarm at once."""
        stream = status.stream or TRADES
        self._context.log.warning("stream down", stream=stream, reason=status.reason)
        if status.error is not None:
            self._context.alarms.raise_alarm(
                f"stream:{stream}", "stream_refused", f"the broker refuses the {stream} stream: {status.error}", now
            )
        if status.deaf:
            self._tell_deaf(stream, status.reason, now)

    def _tell_deaf(self, stream: str, reason: str, now: datetime) -> None:
        message = f"the {stream} stream is connected but deaf: {reason}; it is opened anew, REST fills the gap"
        self._context.alarms.raise_alarm(f"stream_deaf:{stream}", "stream_deaf", message, now)
