"""Time that passes whatever happens to this machine: for promises that end by themselves, like a lease."""

import time

# Where there is one, the clock that goes on while the machine sleeps: a laptop that wakes up must not trust a lease.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def elapsed() -> float:
    """Seconds since some moment in the past."""
    return time.clock_gettime(_CLOCK)
