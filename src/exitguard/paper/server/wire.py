"""HTTP as the exchange needs it: small request and response values over ASGI.

Requests go through a table lookup instead of a router with middleware: on two cores the exchange is to spend its time
on orders. uvicorn hands over its own `send`, through which a connection can be cut on purpose.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import parse_qsl

import orjson

from exitguard.paper.engine import Account, ApiError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MAX_BODY_BYTES = 1 << 20
_LISTS = frozenset(
    {
        "activity_types",
        "asset_class",
        "attributes",
        "ca_types",
        "cashflow_types",
        "symbols",
        "types",
        "underlying_symbols",
    }
)
_JSON = (b"content-type", b"application/json; charset=UTF-8")


@dataclass(slots=True)
class Request:
    """One HTTP request, its body read.

    `query` holds the last value of each name (of a list all values, with commas), `headers` lower-case names.
    """

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = b""
    account: Account | None = None
    _parsed: dict[str, Any] | None = None

    def json(self) -> dict[str, Any]:
        """The body as a JSON object, parsed once. Raises ApiError 400 when it is none."""
        if self._parsed is None:
            try:
                value = orjson.loads(self.body)
            except orjson.JSONDecodeError as error:
                raise ApiError(400, {"code": 40010000, "message": "request body format is invalid"}) from error
            if not isinstance(value, dict):
                raise ApiError(400, {"code": 40010000, "message": "request body format is invalid"})
            self._parsed = value
        return self._parsed

    def optional_json(self) -> dict[str, Any]:
        """The body as a JSON object, empty when there is no body."""
        return self.json() if self.body.strip() else {}


@dataclass(slots=True)
class Response:
    """What goes back; `body` is ready bytes."""

    status: int = 200
    body: bytes = b""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)


def json_response(value: Any, status: int = 200) -> Response:
    """A JSON answer."""
    return Response(status, orjson.dumps(value), [_JSON])


def error_response(error: ApiError) -> Response:
    """A refusal with its body."""
    return Response(error.status, orjson.dumps(error.body), [_JSON])


def html_response(page: str, status: int = 200) -> Response:
    """An HTML page."""
    return Response(status, page.encode(), [(b"content-type", b"text/html; charset=utf-8")])


def is_true(text: str | None) -> bool:
    """A boolean of a query string, in every spelling that clients send."""
    return text is not None and text.strip().lower() in ("true", "1", "t", "yes")


def headers_of(scope: Scope) -> dict[str, str]:
    """Headers with lower-case names; the last one of a name counts."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def query_of(scope: Scope) -> dict[str, str]:
    """The query string's values; a `+` that a client left unescaped in a time offset is kept a plus."""
    text = scope["query_string"].decode("latin-1")
    if not text:
        return {}
    query: dict[str, str] = {}
    for name, value in parse_qsl(text.replace("+", "%2B") if _has_bare_offset(text) else text, keep_blank_values=True):
        # Lists come as one comma-separated value or as the same name again and again.
        query[name] = f"{query[name]},{value}" if name in query and name in _LISTS else value
    return query


def _has_bare_offset(text: str) -> bool:
    """Whether a `+` stands in a timestamp such as 2026-11-20T10:00:00+00:00 rather than for a blank."""
    index = text.find("+")
    return index > 9 and text[index - 1].isdigit() and text[index + 1 : index + 3].isdigit()


class ClientGone(Exception):
    """The client closed the connection before its request was complete."""


async def read_body(scope: Scope, receive: Receive, seconds: float) -> bytes:
    """Read the body. Raises ApiError 413 beyond MAX_BODY_BYTES, ClientGone when it does not come within `seconds`."""
    declared = next((value for name, value in scope["headers"] if name == b"content-length"), None)
    if declared is not None and declared.isdigit() and int(declared) > MAX_BODY_BYTES:
        raise _too_large()
    if not getattr(getattr(receive, "__self__", None), "more_body", True):
        # uvicorn has all of it already, as with nearly every request: there is nothing to wait for.
        return await _read_body(receive)
    try:
        async with asyncio.timeout(seconds):
            return await _read_body(receive)
    except TimeoutError:
        raise ClientGone from None


async def _read_body(receive: Receive) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part = message.get("body", b"")
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise _too_large()
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large() -> ApiError:
    return ApiError(413, {"code": 41310000, "message": f"request body is larger than {MAX_BODY_BYTES} bytes"})


async def send_response(send: Send, response: Response) -> None:
    """Send a whole answer with its length, head and body in one piece."""
    headers = [*response.headers, (b"content-length", str(len(response.body)).encode())]
    if response.status == 204:
        headers = list(response.headers)
    transport = cast(Any, transport_of(send))
    transport.cork()
    try:
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": response.body})
    finally:
        transport.uncork()


async def hang_up(receive: Receive, send: Send) -> None:
    """Cut the connection without an answer, and see it gone: uvicorn complains of handlers that leave before."""
    transport_of(send).abort()
    while (await receive())["type"] != "http.disconnect":
        pass


def transport_of(send: Send) -> asyncio.Transport:
    """The connection under an ASGI `send` of uvicorn, for faults that cut it and for the size of its backlog."""
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    # uvloop's transports behave like asyncio.Transport without being one.
    if not all(hasattr(transport, name) for name in ("abort", "get_write_buffer_size")):
        raise TypeError("the exchange needs to be served by uvicorn: its send has no transport")
    return cast(asyncio.Transport, transport)
