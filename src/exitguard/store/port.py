"""The store port: what one account's processes may read and write, and nothing of any other account."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from exitguard.core.errors import ExitguardError
from exitguard.core.reconcile import KnownOrder
from exitguard.core.records import (
    Batch,
    CommandRecord,
    ExecutionRecord,
    Heartbeat,
    IntentRecord,
    LedgerState,
    Mark,
    RecommendationRecord,
)

# A lease is beyond doubt for this share of its life after it was confirmed: the rest is for clocks that do not agree.
SURE_SHARE = 0.75


class StoreError(ExitguardError):
    """The ledger could not do what was asked."""


class StoreUnavailable(StoreError):
    """The database cannot be reached, or the connection broke: whether a write landed is unknown until repeated."""


class StoreRejected(StoreError):
    """The database refused the write (constraint, row-level security): a defect of ours, nothing was written."""


class LeaseLost(StoreError):
    """A newer epoch owns the account: this process must stop acting at once (I12)."""


class LeaseHeld(StoreError):
    """Another live process manages the account."""


class AccountMismatch(StoreError):
    """The broker account number differs from the one bound to this name: wrong keys (F27)."""


class SchemaMismatch(StoreError):
    """The database has another schema version than this build needs (F61)."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to act for one account. Every batch carries `epoch`; the database refuses an older one."""

    account_name: str
    holder: str
    epoch: int
    expires_at: datetime


class AccountStore(Protocol):
    """The ledger of one account."""

    @property
    def account_name(self) -> str:
        """The account that every statement is scoped to."""
        ...

    async def acquire_lease(self, holder: str, ttl: timedelta, component: str = "manager") -> Lease:
        """Become the one live process of this component for the account. Raises LeaseHeld."""
        ...

    async def renew_lease(self, lease: Lease, ttl: timedelta) -> Lease:
        """Extend the lease. Raises LeaseLost."""
        ...

    def surely_leased(self) -> bool:
        """Whether nobody else can hold the lease now, as far as can be known without asking; False when in doubt.

        The session that holds its lock stands, and the lease was confirmed a shorter time ago than it lives.
        """
        ...

    async def release_lease(self, lease: Lease) -> None:
        """Give the lease back at an orderly stop."""
        ...

    async def bind_account_number(self, number: str, tier: str, mode: str) -> None:
        """Bind the broker's account number to the name at the first run. Raises AccountMismatch later."""
        ...

    async def load(self) -> LedgerState:
        """Read everything unfinished: positions open or closing with fills, live and armed intents, alarms."""
        ...

    async def commit(self, batch: Batch) -> None:
        """Apply a batch in one transaction, once. Raises StoreUnavailable, StoreRejected, LeaseLost."""
        ...

    async def write_marks(self, marks: Sequence[Mark], epoch: int) -> int:
        """Write the marks of a sweep in one statement; returns rows changed."""
        ...

    async def beat(self, heartbeat: Heartbeat, epoch: int) -> None:
        """Record progress, build, policy hash and broker account number."""
        ...

    async def unlinked_executions(self, limit: int = 500) -> list[ExecutionRecord]:
        """Entries that may have fills but no position yet: an anti-join without a time window (F32)."""
        ...

    async def open_executions(self) -> list[ExecutionRecord]:
        """Entries whose order is not terminal yet (intended, unknown, accepted, partially filled)."""
        ...

    async def own_orders(self, ids: Sequence[str]) -> list[KnownOrder]:
        """What the books know of these order ids and client order ids, also of orders that ended long ago.

        Ids that no order of ours has are not in the answer.
        """
        ...

    async def intent(self, client_order_id: str) -> IntentRecord | None:
        """Read one intent of this account."""
        ...

    async def claim_recommendations(self, now: datetime, limit: int = 20) -> list[RecommendationRecord]:
        """Claim pending, unexpired signals of this account, newest first; expire old ones (F41, F105).

        Signals that a holder of the lease before us claimed, and that have no execution, are claimed again (T7).
        """
        ...

    async def pending_commands(self) -> list[CommandRecord]:
        """Requests of people not answered yet."""
        ...

    def notifications(self) -> AsyncIterator[str]:
        """Yield the channel suffix (`commands`, `recommendations`) whenever somebody inserted one for this account."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...
