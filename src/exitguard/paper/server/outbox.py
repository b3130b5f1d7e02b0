"""One websocket client's outgoing queue: bounded, never blocking whoever publishes."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from exitguard.paper.server.wire import Send, transport_of

_MESSAGES_A_FRAME = 512
_GOODBYE_SECONDS = 2.0


class Outbox:
    """Frames and chunks on their way to one client.

    A chunk is several encoded messages; `join` makes one frame of chunks and the number of messages in them (data
    messages travel as arrays). A client whose backlog grows beyond
    `limit` bytes is slow: `put` answers False from then on, and the owner says goodbye.
    """

    def __init__(self, send: Send, limit: int, *, text: bool, join: Callable[[Sequence[bytes], int], bytes]) -> None:
        self._send = send
        self._transport = transport_of(send)
        self._limit = limit
        self._text = text
        self._join = join
        # Content and number of messages; 0 for a complete frame.
        self._queue: deque[tuple[bytes, int]] = deque()
        self._waiting_bytes = 0
        self._wake = asyncio.Event()
        self._sending = False
        self._closing: tuple[int, str] | None = None
        self.overflowed = False

    @property
    def pending(self) -> bool:
        """Whether something waits that the connection would take at once; a clogged client does not count."""
        return bool(self._queue) and not self._sending

    def put_frame(self, frame: bytes) -> bool:
        """Queue a frame of its own."""
        return self._put(frame, 0)

    def put_chunk(self, chunk: bytes, messages: int) -> bool:
        """Queue messages that may share their frame with their neighbours."""
        return self._put(chunk, messages)

    def _put(self, content: bytes, messages: int) -> bool:
        if self.overflowed or self._closing is not None:
            return False
        self._waiting_bytes += len(content)
        if self._waiting_bytes > self._limit:
            self.overflowed = True
            return False
        self._queue.append((content, messages))
        self._wake.set()
        return True

    def close(self, code: int, reason: str, last_frame: bytes | None = None) -> None:
        """Send what waits (only `last_frame` for an overflowed client), then close; cut the line if that takes long."""
        if self._closing is not None:
            return
        if self.overflowed:
            self._queue.clear()
        if last_frame is not None:
            self._queue.append((last_frame, 0))
        self._closing = (code, reason)
        self._wake.set()
        asyncio.get_running_loop().call_later(_GOODBYE_SECONDS, self._transport.abort)

    def cut(self) -> None:
        """Break the connection without a goodbye."""
        self._transport.abort()

    async def run(self) -> None:
        """Send until closed or cancelled."""
        while True:
            while self._queue:
                frame = self._next_frame()
                self._sending = True
                message = {"type": "websocket.send", "text": frame.decode()} if self._text else None
                await self._send(message or {"type": "websocket.send", "bytes": frame})
                self._sending = False
            if self._closing is not None:
                code, reason = self._closing
                await self._send({"type": "websocket.close", "code": code, "reason": reason})
                return
            self._wake.clear()
            await self._wake.wait()

    def _next_frame(self) -> bytes:
        content, messages = self._queue.popleft()
        self._waiting_bytes -= len(content)
        if messages == 0:
            return content
        chunks = [content]
        while self._queue and 0 < self._queue[0][1] <= _MESSAGES_A_FRAME - messages:
            content, more = self._queue.popleft()
            self._waiting_bytes -= len(content)
            messages += more
            chunks.append(content)
        return self._join(chunks, messages)
