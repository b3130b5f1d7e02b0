"""What one account's manager is told at its start."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from exitguard.core.instrument import Instrument
from exitguard.core.policy import Policy
from exitguard.manager.vitals import Vitals, WatchLimits


@dataclass(frozen=True, slots=True)
class ManagerOptions:
    """Identity, policies and rhythms of one account's manager.

    `select_policy` chooses by strategy and instrument. `holder` names this process in the lease. `poll_seconds` is the
    rhythm of broker polls between sweeps on a real clock; on a stepped clock each sweep polls. `vitals` is written by
    the watchdog, for whoever watches the process.
    """

    account_name: str
    tier: str
    mode: str
    select_policy: Callable[[str, Instrument], Policy]
    holder: str
    build: str
    policy_hash: str
    config_hash: str
    expected_account_number: str | None = None
    once: bool = False
    stepped: bool = False
    lease_ttl: timedelta = field(default=timedelta(seconds=15))
    poll_seconds: float = 5.0
    skew_alarm: timedelta = field(default=timedelta(seconds=2))
    limits: WatchLimits = field(default_factory=WatchLimits)
    vitals: Vitals = field(default_factory=Vitals)
