"""What one account's dispatcher is told at its start."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from exitguard.core.instrument import Instrument
from exitguard.core.policy import Policy
from exitguard.dispatch.entries import EntryTiming
from exitguard.dispatch.pricing import Caps


@dataclass(frozen=True, slots=True)
class DispatcherOptions:
    """Identity, policies and rhythms of one account's dispatcher.

    `select_policy` chooses by strategy and instrument, as the manager's does. `holder` names this process in the lease.
    `poll_seconds` (venue time) is the rhythm of the loop when nothing wakes it; `patience` (venue time) is how long a
    claimed signal may wait for a usable quote or a broker that answers.
    """

    select_policy: Callable[[str, Instrument], Policy]
    holder: str
    build: str
    policy_hash: str
    config_hash: str
    lease_ttl: timedelta = field(default=timedelta(seconds=15))
    poll_seconds: float = 2.0
    patience: timedelta = field(default=timedelta(seconds=120))
    claim_limit: int = 20
    timing: EntryTiming = field(default_factory=EntryTiming)
    caps: Caps = field(default_factory=Caps)
