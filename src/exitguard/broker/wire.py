"""What both kinds of websocket share: frames, opening a connection, and how long to wait before the next one."""

import random
from collections.abc import Callable
from typing import Any

import msgspec
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from exitguard.broker.decoding import excerpt, parse_json
from exitguard.broker.port import BrokerError, BrokerRateLimited, BrokerUnauthorised, BrokerUnavailable
from exitguard.broker.transport import retry_after

FIRST_DELAY = 1.0
MAX_DELAY = 30.0
# The venue keeps a dead session for about 90 s and refuses a second one meanwhile: no point in asking every second.
BUSY_DELAY = 5.0
# A connection that held this long was a good one, and the next failure starts from the first delay again.
STABLE_SECONDS = 30.0
AUTHENTICATION_ATTEMPTS = 3
REPLY_TIMEOUT = 10.0
MAX_FRAME_BYTES = 16 * 1024 * 1024
# Frames that may wait for a slow reader; beyond it the socket stops reading, and TCP holds the rest back.
MAX_QUEUED_FRAMES = 1024

# What ends a connection without being a bug of ours.
CONNECTION_ERRORS = (ConnectionClosed, InvalidHandshake, InvalidURI, OSError, TimeoutError, BrokerError)

MSGPACK = msgspec.msgpack.Decoder()


class Backoff:
    """Delays before reconnecting: 1 s doubling to 30 s, plus up to a quarter at random. Never zero."""

    def __init__(
        self,
        first: float = FIRST_DELAY,
        maximum: float = MAX_DELAY,
        busy: float = BUSY_DELAY,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._first = first
        self._maximum = maximum
        self._busy = busy
        self._jitter = jitter
        self._next = first
        self._refused = 0

    def after(self, error: Exception | None, connected_seconds: float) -> float:
        """Seconds to wait after a connection that held `connected_seconds` (0 if it never stood)."""
        if connected_seconds >= STABLE_SECONDS:
            self._next = self._first
        if isinstance(error, BrokerRateLimited):
            self._next = min(max(self._next, self._busy, error.retry_after or 0.0), self._maximum)
        delay = self._next * (1 + self._jitter() / 4)
        self._next = min(self._next * 2, self._maximum)
        return delay

    def type_of(self, error: Exception | None) -> BrokerError | None:
        """The error that a person must act on, else None: a connection that ends, or a venue that restarts, is none.

        Failed authentication counts from the third in a row on.
        """
        if isinstance(error, BrokerUnauthorised):
            self._refused += 1
            return error if self._refused >= AUTHENTICATION_ATTEMPTS else None
        return error if isinstance(error, BrokerError) and not isinstance(error, BrokerUnavailable) else None

    def accepted(self) -> None:
        """Note that the credential was accepted and the subscription granted."""
        self._refused = 0


def decode_frame(frame: bytes) -> Any:
    """Read a frame by its first byte: JSON text (in text and binary frames alike) or MessagePack. Raises ValueError."""
    if frame[:1] in (b"{", b"[") or frame[:1].isspace():
        return parse_json(frame)
    try:
        return MSGPACK.decode(frame)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"neither JSON nor MessagePack: {error}") from error


def messages_in(decoded: object) -> list[dict[str, Any]]:
    """The messages of a frame: one object, or an array of them. Raises ValueError."""
    found: list[dict[str, Any]] = []
    for message in decoded if isinstance(decoded, list) else [decoded]:
        if not isinstance(message, dict):
            raise ValueError(f"expected objects, found {excerpt(message)!r}")
        found.append(message)
    return found


def open_socket(url: str, headers: dict[str, str] | None = None) -> connect:
    """Prepare a connection: bounded buffers, pings every 10 s, dead after 20 s without a pong."""
    return connect(
        url,
        additional_headers=headers,
        compression=None,
        proxy=None,
        open_timeout=REPLY_TIMEOUT,
        ping_interval=10.0,
        ping_timeout=20.0,
        close_timeout=1.0,
        max_size=MAX_FRAME_BYTES,
        max_queue=MAX_QUEUED_FRAMES,
    )


def explain(error: Exception) -> BrokerError:
    """A connection's end as a typed error whose text a person can act on."""
    if isinstance(error, BrokerError):
        return error
    if isinstance(error, InvalidStatus):
        status = error.response.status_code
        message = f"the socket was refused with HTTP {status}: {excerpt(error.response.body or b'')}"
        if status in (401, 403):
            return BrokerUnauthorised(message)
        if status == 429:
            return BrokerRateLimited(
                f"{message}; another session of this account may still be open (for about 90 s after a crash)",
                retry_after(error.response.headers),
            )
        return BrokerUnavailable(message)
    if isinstance(error, ConnectionClosed):
        return BrokerUnavailable(f"the connection closed: {error}")
    if isinstance(error, TimeoutError):
        return BrokerUnavailable(str(error) or "the socket did not open or answer in time")
    return BrokerUnavailable(f"{type(error).__name__}: {excerpt(error)}")
