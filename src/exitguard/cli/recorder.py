"""Writes what the data sockets of an Alpaca-compatible venue say into a recording for the paper exchange."""

import asyncio
import gzip
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import IO, Any, cast

import msgspec
from websockets.asyncio.client import ClientConnection

from exitguard.broker.port import BrokerError, BrokerUnauthorised, BrokerUnavailable
from exitguard.broker.wire import (
    CONNECTION_ERRORS,
    REPLY_TIMEOUT,
    Backoff,
    decode_frame,
    explain,
    messages_in,
    open_socket,
)
from exitguard.core.quote import Quote
from exitguard.paper.market.recording import COLUMNS, text_of
from exitguard.paper.market.ticks import Print, StatusChange

_FLUSH_SECONDS = 1.0
# Trading status codes of both tapes: 2 and H stop trading, 3 and T let it go on; the others change nothing here.
_HALTED = {"H": True, "2": True, "T": False, "3": False}
_MSGPACK = {"Content-Type": "application/msgpack"}
_BAD_CREDENTIALS = frozenset({401, 402})
_pack = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True)
class Feed:
    """One data socket and what is wanted from it, by channel."""

    url: str
    wanted: dict[str, list[str]]


@dataclass(slots=True)
class Recording:
    """An open recording and what it holds so far."""

    path: Path
    file: IO[str]
    events: int = 0
    symbols: set[str] = field(default_factory=set)

    @classmethod
    def create(cls, path: Path) -> "Recording":
        """Make a new file with its header; one that exists is not touched. Raises OSError."""
        opened: IO[str]
        if path.suffix == ".gz":
            opened = cast(IO[str], gzip.open(path, "xt", encoding="utf-8"))  # noqa: SIM115 - closed by its owner
        else:
            opened = path.open("x", encoding="utf-8")
        opened.write(",".join(COLUMNS) + "\n")
        opened.flush()
        return cls(path, opened)

    def add(self, message: dict[str, Any]) -> None:
        """Write one data message; others are left out. Raises ValueError or KeyError for one that makes no sense."""
        item = item_of(message)
        if item is not None:
            self.file.write(text_of(item, _time(message["t"])))
            self.events += 1
            self.symbols.add(item.symbol)

    async def flush_for_ever(self) -> None:
        """Write out once a second what was heard: a recorder that is killed loses no more than that."""
        while True:
            await asyncio.sleep(_FLUSH_SECONDS)
            self.file.flush()


def item_of(message: dict[str, Any]) -> Quote | Print | StatusChange | None:
    """A quote, trade or status message of a data socket; None for every other."""
    kind, symbol = message.get("T"), message.get("S")
    if not isinstance(symbol, str):
        return None
    if kind == "q":
        at = _time(message["t"])
        sizes = int(message.get("bs") or 0), int(message.get("as") or 0)
        return Quote(symbol, _price(message["bp"]), _price(message["ap"]), at, *sizes)
    if kind == "t":
        return Print(symbol, _price(message["p"]), int(message["s"]), _time(message["t"]))
    if kind == "s" and message.get("sc") in _HALTED:
        return StatusChange(symbol, _HALTED[message["sc"]])
    return None


def _price(value: Any) -> Decimal:
    """The shortest decimal that is this number, as the venue meant it."""
    return Decimal(str(value))


def _time(value: Any) -> datetime:
    """A message's time: msgpack's timestamp, or text with up to nanoseconds, of which microseconds are kept."""
    if isinstance(value, datetime):
        return value
    return msgspec.convert(value, datetime)


async def record(
    feeds: Collection[Feed],
    key: str,
    secret: str,
    recording: Recording,
    *,
    say: Callable[[str], None],
    on_listening: Callable[[], None] = lambda: None,
    backoff: Callable[[], Backoff] = Backoff,
) -> None:
    """Record until cancelled. Connections that end are opened again; what was said meanwhile is lost, and `say` tells.

    Raises BrokerError for keys and subscriptions that the venue refuses.
    """
    heard = _Heard(len(feeds), on_listening)
    tasks = [asyncio.ensure_future(_listen(feed, key, secret, recording, say, heard, backoff())) for feed in feeds]
    tasks.append(asyncio.ensure_future(recording.flush_for_ever()))
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError, BrokerError):
                await task


@dataclass(slots=True)
class _Heard:
    """Counts feeds until all of them listen."""

    missing: int
    then: Callable[[], None]

    def one_more(self) -> None:
        self.missing -= 1
        if self.missing == 0:
            self.then()


async def _listen(
    feed: Feed,
    key: str,
    secret: str,
    recording: Recording,
    say: Callable[[str], None],
    heard: _Heard,
    backoff: Backoff,
) -> None:
    while True:
        begun = time.monotonic()
        try:
            async with open_socket(feed.url, _MSGPACK) as socket:
                await _subscribe(socket, feed, key, secret)
                heard.one_more()
                while True:
                    for message in messages_in(decode_frame(await socket.recv(decode=False))):
                        recording.add(message)
        except (_Refused, BrokerUnauthorised):
            raise
        except (*CONNECTION_ERRORS, ValueError, KeyError, TypeError) as error:
            ended = explain(error)
            if isinstance(ended, BrokerUnauthorised):
                raise ended from error
            delay = backoff.after(ended, time.monotonic() - begun)
            say(f"{feed.url}: {ended}; nothing is recorded from it until it is back, next try in {delay:.0f} s")
            await asyncio.sleep(delay)


class _Refused(BrokerUnavailable):
    """The venue will not send what is wanted, however often it is asked."""


async def _subscribe(socket: ClientConnection, feed: Feed, key: str, secret: str) -> None:
    await _answer(socket, feed, "success")
    await socket.send(_pack({"action": "auth", "key": key, "secret": secret}))
    await _answer(socket, feed, "success")
    await socket.send(_pack({"action": "subscribe", **feed.wanted}))
    await _answer(socket, feed, "subscription")


async def _answer(socket: ClientConnection, feed: Feed, kind: str) -> None:
    """Wait for one control message."""
    async with asyncio.timeout(REPLY_TIMEOUT):
        while True:
            for message in messages_in(decode_frame(await socket.recv(decode=False))):
                if message.get("T") == "error":
                    text = f"{feed.url}: {message.get('msg')} (code {message.get('code')})"
                    if message.get("code") in _BAD_CREDENTIALS:
                        raise BrokerUnauthorised(text)
                    if message.get("code") == 406:
                        raise BrokerUnavailable(text)
                    raise _Refused(text)
                if message.get("T") == kind:
                    return
