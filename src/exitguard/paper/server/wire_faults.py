"""Faults around a request: what the network and the broker's gateway do to it, before and after it is carried out."""

import asyncio
import time
from collections.abc import Callable
from enum import Enum

from exitguard.paper.engine import ApiError, Fault, Faults
from exitguard.paper.server.wire import Receive, Request, Response, json_response

# How long an unanswered request is held when its client does not give up; then its connection is cut.
_LONGEST_SILENCE = 300.0
_HTML = (
    b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n"
    b"<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
)


class Broken(Enum):
    """Endings of a request that are no answer."""

    RESET = "reset"
    SILENCE = "silence"


class WireFaults:
    """Asks the engine's faults about one request after the other."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    async def around(
        self, request: Request, carry_out: Callable[[], Response], on_delay: Callable[[], None]
    ) -> Response | Broken:
        """Carry a request out with whatever faults strike. `on_delay` is called before a deliberate wait."""
        account = request.account.name if request.account else None
        endpoint = f"{request.method} {request.path}"
        symbol = _symbol_of(request)

        def strike(kind: str) -> Fault | None:
            return self._faults.strike(kind, account=account, symbol=symbol, endpoint=endpoint)

        instead = _instead(strike)
        if instead is not None:
            return instead
        try:
            response = carry_out()
        except ApiError as refusal:
            response = json_response(refusal.body, refusal.status)
        if strike("http_504_after"):
            return _gateway_timeout()
        if strike("timeout_after"):
            return Broken.SILENCE
        if strike("reset_after"):
            return Broken.RESET
        if response.body[:1] == b"[" and strike("empty_list"):
            response.body = b"[]"
        if response.body and strike("malformed_body"):
            response.body = response.body[: len(response.body) // 2]
        slow = strike("slow_response")
        if slow is not None:
            on_delay()
            await asyncio.sleep(slow.seconds(1.0))
        return response


def _instead(strike: Callable[[str], Fault | None]) -> Response | Broken | None:
    """What happens in place of the request, None when it is carried out."""
    limited = strike("rate_limit")
    if limited is not None:
        return rate_limited(limit=int(limited.number("limit", 200)), reset_in=limited.seconds(60.0))
    if strike("http_500"):
        return json_response({"code": 50010000, "message": "internal server error occurred"}, 500)
    if strike("html_error"):
        return Response(502, _HTML, [(b"content-type", b"text/html")])
    if strike("http_504_before"):
        return _gateway_timeout()
    if strike("timeout_before"):
        return Broken.SILENCE
    if strike("reset_before"):
        return Broken.RESET
    return None


def _gateway_timeout() -> Response:
    return json_response({"code": 50410000, "message": "gateway timeout"}, 504)


def rate_limited(*, limit: int, reset_in: float) -> Response:
    """429 with the headers that the data and broker APIs document."""
    response = json_response({"code": 42910000, "message": "rate limit exceeded"}, 429)
    response.headers = [*response.headers, *rate_headers(limit, 0, reset_in)]
    return response


def rate_headers(limit: int, remaining: int, reset_in: float) -> list[tuple[bytes, bytes]]:
    """X-RateLimit headers; the reset is a Unix time in wall seconds."""
    return [
        (b"x-ratelimit-limit", str(limit).encode()),
        (b"x-ratelimit-remaining", str(remaining).encode()),
        (b"x-ratelimit-reset", str(int(time.time() + reset_in)).encode()),
    ]


async def hold_silent(receive: Receive, stopping: asyncio.Event) -> None:
    """Leave a request without an answer until its client gives up or the exchange stops."""

    async def until_gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    waits = {asyncio.ensure_future(until_gone()), asyncio.ensure_future(stopping.wait())}
    try:
        await asyncio.wait(waits, timeout=_LONGEST_SILENCE, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def _symbol_of(request: Request) -> str | None:
    """The symbol that a request is about, where it says so."""
    if request.path.startswith("/v2/positions/"):
        return request.path.split("/")[3]
    if request.method == "POST" and request.path == "/v2/orders":
        try:
            symbol = request.json().get("symbol")
        except ApiError:
            # A body that is no JSON is refused by the handler.
            return None
        return symbol if isinstance(symbol, str) else None
    return None
