"""uvicorn's HTTP protocol with bounds: how long a request's head may be, and how long it may take to arrive.

And with answers that leave in one piece: uvicorn writes head and body one after the other, which costs a system call
more, and wakes every client twice.
"""

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from exitguard.paper.server.settings import SocketLimits


class CorkedTransport:
    """A transport that can hold writes back and let them go as one; everything else is the transport's own."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._held: list[bytes] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def cork(self) -> None:
        """Hold writes back from now on."""
        self._held = []

    def uncork(self) -> None:
        """Write what was held back."""
        held, self._held = self._held, None
        if held:
            self._transport.write(b"".join(held))

    def write(self, data: bytes) -> None:
        """Write, or keep for later."""
        if self._held is None:
            self._transport.write(data)
        else:
            self._held.append(data)

    def close(self) -> None:
        """Close after what is held back was written."""
        self.uncork()
        self._transport.close()


class BoundedHttp(HttpToolsProtocol):
    """One HTTP connection.

    A client that trickles a head, sends one without end, or connects and says nothing is hung up on: the parser itself
    would keep what comes for ever.
    """

    limits = SocketLimits()
    _head_bytes = 0
    _in_head = True
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request, but not for ever."""
        # A stand-in for a transport, with every attribute of one.
        super().connection_made(cast(asyncio.Transport, CorkedTransport(transport)))
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._forget_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what belongs to a head, and let the parser read."""
        if self._in_head:
            self._head_bytes += len(data)
            # A head that is complete with this piece has its end in it; what follows the end is no head.
            if self._head_bytes > self.limits.head_bytes and b"\r\n\r\n" not in data:
                self.send_400_response("request head is too large")
                return
        if self._deadline is None and self._in_head:
            self._expect_head()
        super().data_received(data)

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._in_head = False
        self._head_bytes = 0
        self._forget_deadline()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is there; another may follow."""
        self._in_head = True
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        """The connection goes on as a socket, which has its own bounds."""
        self._forget_deadline()
        super().handle_websocket_upgrade()

    def _expect_head(self) -> None:
        self._deadline = self.loop.call_later(self.limits.head_seconds, self._give_up)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        self.transport.abort()


def bounded(limits: SocketLimits) -> type[BoundedHttp]:
    """The protocol with an exchange's own limits."""
    attributes: dict[str, Any] = {"limits": limits}
    return type("BoundedHttp", (BoundedHttp,), attributes)
