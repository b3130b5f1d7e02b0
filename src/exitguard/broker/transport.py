"""HTTP to one venue for one credential: timeouts on everything, typed errors, never a second POST, PATCH or DELETE."""

import asyncio
import math
import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from http import HTTPStatus
from typing import Any

import aiohttp
import orjson
from yarl import URL

from exitguard.broker.budget import RequestBudget
from exitguard.broker.decoding import excerpt, parse_json
from exitguard.broker.port import (
    BrokerError,
    BrokerRateLimited,
    BrokerRefused,
    BrokerUnauthorised,
    BrokerUnavailable,
    Priority,
)

# A full page of nested orders is some megabytes, the list of all assets below ten.
MAX_BODY_BYTES = 64 * 1024 * 1024
MAX_CONNECTIONS = 100
READ_ATTEMPTS = 3
# An exit that waits for an answer has better things to do than to ask for the third time.
EXIT_READ_ATTEMPTS = 2
# A venue that asks for more patience than this within a read gets an error instead, and the caller decides.
MAX_RETRY_DELAY = 2.0
_JSON_BODY = {"Content-Type": "application/json"}


@lru_cache(maxsize=64)
def _parsed(url: str) -> URL:
    """Addresses are few and asked again and again."""
    return URL(url, encoded=True)


class NotSent(BrokerUnavailable):
    """No connection could be made: not one byte of the request has left."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. `total` bounds a call that has its token, `exit_total` one of priority EXIT or PROTECT.

    `budget` and `exit_budget` bound the wait for a token before it. `retry` is the pause before a failed read is
    tried again; it doubles.
    """

    connect: float = 3.0
    total: float = 10.0
    exit_total: float = 5.0
    budget: float = 30.0
    exit_budget: float = 5.0
    retry: float = 0.2


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP answer, whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport:
    """One pooled session, made on first use inside the running event loop."""

    def __init__(
        self,
        headers: Mapping[str, str],
        timeouts: Timeouts,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._headers = {**headers, "Accept": "application/json"}
        self._timeouts = timeouts
        self._limits = aiohttp.ClientTimeout(total=timeouts.total, connect=timeouts.connect)
        self._urgent_limits = aiohttp.ClientTimeout(total=timeouts.exit_total, connect=timeouts.connect)
        self._sleep = sleep
        self._jitter = jitter
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def read(
        self,
        url: str,
        params: Mapping[str, str],
        priority: Priority,
        budget: RequestBudget,
        attempts: int | None = None,
    ) -> Any:
        """GET and parse. Tries again after failures that prove nothing, a bounded number of times.

        Raises BrokerUnavailable, BrokerRateLimited, BrokerUnauthorised or BrokerRefused.
        """
        left = attempts or (EXIT_READ_ATTEMPTS if priority <= Priority.PROTECT else READ_ATTEMPTS)
        delay = self._timeouts.retry
        while True:
            left -= 1
            try:
                return judge(await self.send("GET", url, priority, budget, params=params))
            except BrokerRateLimited as error:
                # After the venue's 429 the budget makes everybody wait, so going round again is enough. Without a
                # time it is our own budget that is used up, and asking again would only wait as long once more.
                if left <= 0 or error.retry_after is None or error.retry_after > MAX_RETRY_DELAY:
                    raise
            except BrokerUnavailable:
                if left <= 0:
                    raise
                await self._sleep(delay * (0.5 + self._jitter()))
                delay = min(delay * 2, MAX_RETRY_DELAY)

    async def send(
        self,
        method: str,
        url: str,
        priority: Priority,
        budget: RequestBudget,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Response:
        """Send one request, once, and read the whole answer.

        Raises NotSent when no connection was made, BrokerUnavailable for everything else that went wrong on the
        wire, BrokerRateLimited when the budget gave no token (nothing was sent) or the venue answered 429.
        """
        urgent = priority <= Priority.PROTECT
        await budget.acquire(priority, self._timeouts.exit_budget if urgent else self._timeouts.budget)
        limits = self._urgent_limits if urgent else self._limits
        try:
            response = await self._exchange(method, url, params, body, limits)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise NotSent(f"{_name(method, url)}: no connection to {URL(url).authority}: {_cause(error)}") from error
        except TimeoutError as error:
            raise BrokerUnavailable(f"{_name(method, url)}: no answer within {limits.total:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise BrokerUnavailable(f"{_name(method, url)}: connection failed: {_cause(error)}") from error
        self._account_for(response, budget, method, url)
        return response

    async def close(self) -> None:
        """Release the connections; a later call is NotSent."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def _exchange(
        self,
        method: str,
        url: str,
        params: Mapping[str, str] | None,
        body: Mapping[str, Any] | None,
        limits: aiohttp.ClientTimeout,
    ) -> Response:
        # A redirect is refused: it would carry the credential to another host and turn a POST into a GET.
        async with self._ensure_session().request(
            method,
            _parsed(url),
            params=params or None,
            data=None if body is None else orjson.dumps(body),
            headers=None if body is None else _JSON_BODY,
            timeout=limits,
            allow_redirects=False,
        ) as response:
            return Response(response.status, response.headers, await _bounded(response))

    def _ensure_session(self) -> aiohttp.ClientSession:
        if self._closed:
            raise NotSent("this broker connection has been closed")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers=self._headers,
                connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS, ttl_dns_cache=60),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
            # aiohttp would send a DELETE again by itself when a kept-alive connection turns out dead, and offers
            # no public way to say no. A test pins that exactly one arrives.
            self._session._retry_connection = False
        return self._session

    def _account_for(self, response: Response, budget: RequestBudget, method: str, url: str) -> None:
        if response.status == HTTPStatus.TOO_MANY_REQUESTS:
            pause = budget.rate_limited(retry_after(response.headers))
            said = f"{_name(method, url)}: HTTP 429: {excerpt(response.body)}"
            raise BrokerRateLimited(f"{said}; pausing for {pause:.1f} s", pause)
        budget.succeeded()
        remaining = response.headers.get("X-RateLimit-Remaining", "")
        if remaining.isdecimal():
            budget.limit_to(int(remaining[:9]))


def judge(response: Response) -> Any:
    """The parsed body of a success; the typed error of everything else."""
    status = response.status
    if 200 <= status < 300:
        try:
            return parse_json(response.body)
        except ValueError as error:
            raise BrokerUnavailable(f"HTTP {status} without JSON: {excerpt(response.body)!r}") from error
    raise refusal(response)


def refusal(response: Response) -> BrokerError:
    """The typed error for an answer that is no success.

    A 4xx is a refusal only if the venue itself says so in JSON: a proxy's HTML page proves nothing.
    """
    status = response.status
    try:
        parsed = parse_json(response.body)
    except ValueError:
        parsed = None
    message = str(parsed.get("message") or "")[:1000] if isinstance(parsed, dict) else ""
    if status == HTTPStatus.UNAUTHORIZED or (
        status == HTTPStatus.FORBIDDEN and message.strip().rstrip(".").lower() == "forbidden"
    ):
        return BrokerUnauthorised(
            f"HTTP {status}: {message or excerpt(response.body)}: the key does not belong to this host or is wrong"
        )
    if not 400 <= status < 500 or status == HTTPStatus.REQUEST_TIMEOUT or not isinstance(parsed, dict):
        return BrokerUnavailable(f"HTTP {status}: {excerpt(response.body)!r}")
    code = parsed.get("code")
    extras = {key: value for key, value in parsed.items() if key not in ("code", "message")}
    return BrokerRefused(status, code if isinstance(code, int) else None, message, extras)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds until the venue wants to be asked again, from Retry-After or X-RateLimit-Reset; None if it says none.

    X-RateLimit-Reset is in Unix seconds of the venue's clock, so it is compared with the Date header if there is one.
    """
    now = _http_date(headers.get("Date", "")) or time.time()
    given = headers.get("Retry-After", "")
    seconds = _finite(given)
    if seconds is None:
        at = _http_date(given) or _finite(headers.get("X-RateLimit-Reset", ""))
        seconds = at - now if at is not None else None
    return None if seconds is None else max(seconds, 0.0)


def _finite(given: str) -> float | None:
    try:
        value = float(given)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _http_date(given: str) -> float | None:
    try:
        at = parsedate_to_datetime(given)
    except (TypeError, ValueError):
        return None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() if isinstance(at, datetime) else None


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    if response.content_length is not None and response.content_length <= MAX_BODY_BYTES:
        return await response.read()
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise aiohttp.ClientPayloadError(f"answer is larger than {MAX_BODY_BYTES} bytes")
    return bytes(body)


def _name(method: str, url: str) -> str:
    return f"{method} {URL(url).path}"


def _cause(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.errno and error.os_error.errno > 0:
        # The system's own words: the library's name its classes, and the place a second time.
        return os.strerror(error.os_error.errno)
    return f"{type(error).__name__}: {excerpt(error)}" if str(error) else type(error).__name__
