"""A request budget for each account, off unless a host asks for it."""

import time
from collections.abc import Hashable


class RateLimit:
    """A token bucket: `per_minute` requests, refilled evenly over wall time."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._buckets: dict[Hashable, tuple[float, float]] = {}

    def take(self, bucket: Hashable) -> tuple[bool, int, float]:
        """Take one request; whether it is allowed, how many remain, and seconds until one more is free."""
        now = time.monotonic()
        tokens, at = self._buckets.get(bucket, (float(self.per_minute), now))
        tokens = min(float(self.per_minute), tokens + (now - at) * self.per_minute / 60.0)
        allowed = tokens >= 1.0
        if allowed:
            tokens -= 1.0
        self._buckets[bucket] = (tokens, now)
        wait = 0.0 if tokens >= 1.0 else (1.0 - tokens) * 60.0 / self.per_minute
        return allowed, int(tokens), wait
