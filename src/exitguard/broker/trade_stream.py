"""The account's `trade_updates` socket: every order event and fill, as long as it lives.

The venue promises neither order nor delivery and replays nothing: after each StreamUp everything is to be repaired
over REST, and a socket that is silent is not proof of anything.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

import orjson
import structlog
from websockets.asyncio.client import ClientConnection

from exitguard.broker.decoding import (
    Unreadable,
    as_row,
    decimal,
    decimal_or_none,
    decode_order,
    excerpt,
    make_fill,
    moment_or_none,
    text,
    text_or,
)
from exitguard.broker.port import (
    BrokerRateLimited,
    BrokerUnauthorised,
    BrokerUnavailable,
    StreamDown,
    StreamUp,
    TradeStreamEvent,
    Unparsed,
)
from exitguard.broker.wire import (
    CONNECTION_ERRORS,
    REPLY_TIMEOUT,
    Backoff,
    decode_frame,
    explain,
    messages_in,
    open_socket,
)
from exitguard.core.orders import BrokerOrder, Fill, TradeUpdate

NAME = "trade_updates"
_FILL_EVENTS = frozenset({"fill", "partial_fill"})
# Updates that may arrive between the request to listen and its acknowledgement.
MAX_EARLY = 10_000

log = structlog.get_logger()


class AlpacaTradeStream:
    """Implements `broker.port.TradeStream` for one credential. One connection an account: do not make two."""

    def __init__(
        self,
        url: str,
        key: str,
        secret: str,
        *,
        backoff: Backoff | None = None,
        reply_timeout: float = REPLY_TIMEOUT,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._key = key
        self._secret = secret
        self._backoff = backoff or Backoff()
        self._reply_timeout = reply_timeout
        self._sleep = sleep
        self._monotonic = monotonic
        self._socket: ClientConnection | None = None
        # Why the present connection is given up, and the task that closes it.
        self._given_up: str | None = None
        self._closing: asyncio.Task[None] | None = None

    def reconnect(self, reason: str) -> None:
        """Give up the present connection, which is deaf; a StreamDown follows. Does nothing while there is none.

        It is closed in order: the venue keeps a session that was only dropped for about 90 s.
        """
        if self._socket is None or self._given_up is not None:
            return
        self._given_up = reason
        self._closing = asyncio.get_running_loop().create_task(self._socket.close(), name="close a deaf trade stream")

    async def events(self) -> AsyncIterator[TradeStreamEvent]:
        """Yield events for ever, reconnecting with back-off; ends when the caller stops.

        Each end of a connection, and each failure to open one, is a StreamDown before the wait. Failed
        authentication is retried slowly and carries BrokerUnauthorised in StreamDown.error from the third time on.
        """
        while True:
            up_at: float | None = None
            ended: Exception
            try:
                async with open_socket(self._url) as socket:
                    early = await self._open(socket)
                    up_at = self._monotonic()
                    self._backoff.accepted()
                    self._socket = socket
                    yield StreamUp(up_at, NAME)
                    for event in early:
                        yield event
                    while True:
                        for event in read_events(await socket.recv(decode=False)):
                            yield event
            except CONNECTION_ERRORS as error:
                ended = explain(error)
            finally:
                self._socket = None
            deaf, self._given_up = self._given_up, None
            if deaf is not None:
                ended = BrokerUnavailable(deaf)
            held = 0.0 if up_at is None else self._monotonic() - up_at
            yield StreamDown(str(ended), NAME, self._backoff.type_of(ended), deaf=deaf is not None)
            await self._sleep(self._backoff.after(ended, held))

    async def _open(self, socket: ClientConnection) -> list[TradeStreamEvent]:
        """Authenticate and listen; returns what arrived before the acknowledgement."""
        credentials = {"key_id": self._key, "secret_key": self._secret}
        await socket.send(orjson.dumps({"action": "authenticate", "data": credentials}).decode())
        early: list[TradeStreamEvent] = []
        await self._reply(socket, "the answer to authentication", _is_authorised, early)
        await socket.send(orjson.dumps({"action": "listen", "data": {"streams": [NAME]}}).decode())
        await self._reply(socket, "the answer to listen", _is_listening, early)
        return early

    async def _reply(
        self,
        socket: ClientConnection,
        what: str,
        accept: Callable[[dict[str, Any]], bool],
        early: list[TradeStreamEvent],
    ) -> None:
        try:
            async with asyncio.timeout(self._reply_timeout):
                while True:
                    frame = await socket.recv(decode=False)
                    try:
                        answered = [m for m in messages_in(decode_frame(frame)) if accept(m)]
                    except ValueError:
                        answered = []
                    if answered:
                        return
                    if len(early) < MAX_EARLY:
                        early.extend(read_events(frame))
        except TimeoutError as error:
            raise BrokerUnavailable(f"{what} did not come within {self._reply_timeout:g} s") from error


def _is_authorised(message: dict[str, Any]) -> bool:
    """Recognise both answers to authentication. Raises BrokerUnauthorised for a refusal."""
    data = message.get("data")
    if message.get("stream") == "authorization":
        status = data.get("status") if isinstance(data, dict) else None
        if status == "authorized":
            return True
        raise BrokerUnauthorised(f"the trade stream refused the credential: {excerpt(data)}")
    if message.get("T") == "success" and message.get("msg") == "authenticated":
        return True
    _raise_error(message)
    return False


def _is_listening(message: dict[str, Any]) -> bool:
    if message.get("stream") == "authorization":
        return _is_authorised(message) and False
    if message.get("stream") != "listening":
        _raise_error(message)
        return False
    data = message.get("data")
    streams = data.get("streams") if isinstance(data, dict) else None
    if not isinstance(streams, list) or NAME not in streams:
        raise BrokerUnauthorised(f"the venue does not grant {NAME}: it listens to {excerpt(streams)}")
    return True


def _raise_error(message: dict[str, Any]) -> None:
    if message.get("action") == "error" or message.get("T") == "error":
        data = message.get("data")
        said = data.get("error_message") if isinstance(data, dict) else message.get("msg")
        reason = f"the trade stream reports an error: {excerpt(said)}"
        # There is no code to go by here.
        if "connection limit" in str(said).lower() or "too many" in str(said).lower():
            raise BrokerRateLimited(reason)
        raise BrokerUnavailable(reason)


def read_events(frame: bytes) -> list[TradeStreamEvent]:
    """Read a frame. Never raises for what is in it: what cannot be read becomes Unparsed, its neighbours survive."""
    try:
        messages = messages_in(decode_frame(frame))
    except ValueError as error:
        return [Unparsed(excerpt(frame), str(error))]
    events: list[TradeStreamEvent] = []
    for message in messages:
        stream = message.get("stream")
        if stream == NAME:
            events += _read_update(message.get("data"))
        elif stream not in ("authorization", "listening"):
            events.append(Unparsed(excerpt(message), "not a message of this stream"))
    return events


def _read_update(data: object) -> list[TradeStreamEvent]:
    try:
        row = as_row(data, "trade update")
        update = _decode_update(row)
    except Unreadable as error:
        return [Unparsed(excerpt(data), str(error))]
    if update.event not in _FILL_EVENTS:
        return [update]
    legs = row.get("legs")
    if isinstance(legs, list) and legs:
        return [event for leg in legs for event in _read_leg_fill(update, leg, row.get("position_qtys"))]
    try:
        return [replace(update, fill=_decode_fill(row, update.order, update.at))]
    except Unreadable as error:
        # The order's state is still worth having; the fill itself must come over REST.
        return [update, Unparsed(excerpt(data), f"{update.event} without a readable fill: {error}")]


def _decode_update(row: dict[str, Any]) -> TradeUpdate:
    order = decode_order(row.get("order"))
    at = moment_or_none(row, "timestamp") or moment_or_none(row, "at") or order.updated_at
    if at is None:
        raise Unreadable("a trade update needs a timestamp")
    return TradeUpdate(text(row, "event"), order, at, position_qty=decimal_or_none(row, "position_qty"))


def _decode_fill(row: dict[str, Any], order: BrokerOrder, at: datetime) -> Fill:
    return make_fill(
        execution_id=text(row, "execution_id"),
        order_id=order.id,
        client_order_id=order.client_order_id or None,
        symbol=order.symbol,
        side=order.side,
        qty=decimal(row, "qty"),
        price=decimal(row, "price"),
        at=moment_or_none(row, "timestamp") or at,
    )


def _read_leg_fill(parent: TradeUpdate, raw: object, position_qtys: object) -> list[TradeStreamEvent]:
    """One fill of a multi-leg order: an update of the leg's own order."""
    try:
        leg = as_row(raw, "leg")
        order = next((o for o in parent.order.legs if o.id == text_or(leg, "order_id")), None)
        if order is None:
            raise Unreadable(f"leg of unknown order {excerpt(leg.get('order_id'))!r}")
        held = decimal_or_none(position_qtys, order.symbol) if isinstance(position_qtys, dict) else None
        return [replace(parent, order=order, fill=_decode_fill(leg, order, parent.at), position_qty=held)]
    except Unreadable as error:
        return [parent, Unparsed(excerpt(raw), f"multi-leg {parent.event} without a readable fill: {error}")]
