"""The request budget of one account: a token bucket whose last tokens belong to exits.

Time here is the machine's monotonic clock: the venue counts real seconds, whatever the market's clock says.
"""

import asyncio
import time
from bisect import insort
from collections.abc import Callable
from itertools import count

from exitguard.broker.port import BrokerRateLimited, Priority
from exitguard.core.errors import InvalidInput

MIN_REQUESTS_PER_MINUTE = 10
# After a 429 without a date everybody waits this long, doubling up to the maximum; exits probe sooner.
FIRST_PAUSE = 1.0
MAX_PAUSE = 60.0
MAX_EXIT_PAUSE = 1.0


class TokenBucket:
    """Tokens as a pure function of the times passed in, in seconds.

    A burst of 40 % of the minute's requests, the rest spread evenly: never more than `requests_per_minute` in any
    60 seconds. Below `reserve` tokens only exits are served.
    """

    def __init__(self, requests_per_minute: int, now: float) -> None:
        if requests_per_minute < MIN_REQUESTS_PER_MINUTE:
            raise InvalidInput(
                f"requests_per_minute must be at least {MIN_REQUESTS_PER_MINUTE}, was {requests_per_minute}"
            )
        self.capacity = requests_per_minute * 2 // 5
        self.reserve = self.capacity // 4
        self._per_second = (requests_per_minute - self.capacity) / 60
        self._tokens = float(self.capacity)
        self._at = now
        self._paused_until = now
        self._exits_paused_until = now
        self._next_pause = FIRST_PAUSE

    def wait_for(self, priority: Priority, now: float) -> float:
        """Seconds until a request of this priority may go; 0 for at once."""
        self._refill(now)
        is_exit = priority is Priority.EXIT
        needed = 1.0 if is_exit else 1.0 + self.reserve
        paused = (self._exits_paused_until if is_exit else self._paused_until) - now
        # A hair of a token is forgiven, so that waiting exactly as long as told is long enough.
        missing = needed - self._tokens
        return max(missing / self._per_second if missing > 1e-6 else 0.0, paused, 0.0)

    def take(self, priority: Priority, now: float) -> bool:
        """Take a token if this priority may have one now."""
        if self.wait_for(priority, now) > 0:
            return False
        self._tokens -= 1
        return True

    def give_back(self) -> None:
        """Return a token that was not used."""
        self._tokens = min(self._tokens + 1, self.capacity)

    def pause(self, retry_after: float | None, now: float) -> float:
        """Stop after a 429: for as long as the venue says, else for longer each time. Tells the pause in seconds."""
        pause = self._next_pause if retry_after is None else min(max(retry_after, 0.0), MAX_PAUSE)
        self._next_pause = min(self._next_pause * 2, MAX_PAUSE)
        self._paused_until = max(self._paused_until, now + pause)
        self._exits_paused_until = max(self._exits_paused_until, now + min(pause, MAX_EXIT_PAUSE))
        return pause

    def succeed(self) -> None:
        """Forget the growth of pauses: the venue answers again."""
        self._next_pause = FIRST_PAUSE

    def limit_to(self, remaining: int) -> None:
        """Believe the venue when it has fewer requests left for us: another process may share the account."""
        self._tokens = min(self._tokens, float(max(remaining, 0)))

    def _refill(self, now: float) -> None:
        if now > self._at:
            self._tokens = min(self._tokens + (now - self._at) * self._per_second, self.capacity)
            self._at = now


class RequestBudget:
    """Hands out permission to send one request, the most urgent first, inside one event loop.

    Share one instance among everything that uses the same account in a process.
    """

    def __init__(
        self,
        requests_per_minute: int = 200,
        *,
        max_waiting: int = 500,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now = now
        self._bucket = TokenBucket(requests_per_minute, now())
        self._max_waiting = max_waiting
        self._order = count()
        self._waiting: list[tuple[Priority, int, asyncio.Future[None]]] = []
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many callers wait."""
        return len(self._waiting)

    async def acquire(self, priority: Priority, timeout: float) -> None:
        """Wait for permission, at most `timeout` seconds.

        Raises BrokerRateLimited when none came, or when the queue is full of callers who are at least as urgent:
        in both cases nothing was sent.
        """
        first_in_line = not self._waiting or self._waiting[0][0] > priority
        if first_in_line and self._bucket.take(priority, self._now()):
            return
        if len(self._waiting) >= self._max_waiting:
            self._make_room(priority)
        loop = asyncio.get_running_loop()
        entry = (priority, next(self._order), loop.create_future())
        insort(self._waiting, entry, key=lambda e: e[:2])
        self._serve()
        try:
            async with asyncio.timeout(timeout):
                await entry[2]
        except TimeoutError as error:
            self._forget(entry)
            raise BrokerRateLimited(
                f"no request budget for {priority.name} within {timeout:g} s; the request was not sent"
            ) from error
        except asyncio.CancelledError:
            self._forget(entry)
            raise

    def rate_limited(self, retry_after: float | None) -> float:
        """Pause after a 429; tells for how many seconds."""
        return self._bucket.pause(retry_after, self._now())

    def succeeded(self) -> None:
        """Note an answer that was no 429."""
        self._bucket.succeed()

    def limit_to(self, remaining: int) -> None:
        """Note how many requests the venue says are left."""
        self._bucket.limit_to(remaining)

    def _make_room(self, priority: Priority) -> None:
        worst = self._waiting[-1]
        if worst[0] <= priority:
            raise BrokerRateLimited(
                f"{len(self._waiting)} requests wait for budget already; this one ({priority.name}) was not sent"
            )
        self._waiting.pop()
        if not worst[2].done():
            worst[2].set_exception(BrokerRateLimited("gave way to a more urgent request; this one was not sent"))

    def _forget(self, entry: tuple[Priority, int, asyncio.Future[None]]) -> None:
        if entry in self._waiting:
            self._waiting.remove(entry)
        elif entry[2].done() and not entry[2].cancelled() and entry[2].exception() is None:
            self._bucket.give_back()
        self._serve()

    def _serve(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting:
            priority, _, future = self._waiting[0]
            if not future.done():
                wait = self._bucket.wait_for(priority, self._now())
                if wait > 0:
                    self._timer = asyncio.get_running_loop().call_later(wait, self._serve)
                    return
                self._bucket.take(priority, self._now())
                future.set_result(None)
            self._waiting.pop(0)
