"""Waits beside the process that holds an account's lease.

A standby takes over the moment the manager dies or hangs (I12). Everybody waits for a visitor: a person's command that
works on the books for a few seconds while nobody manages the account.
"""

import asyncio
import contextlib
import time
from typing import Any

from exitguard.store.port import Lease, StoreUnavailable
from exitguard.store.repository import PgAccountStore

# How often the lease is looked at: a dead holder's is free at once, so this is what a take-over waits for at most.
LOOK_SECONDS = 0.2
SAY_AGAIN_SECONDS = 60.0
# How the holder of a visit's lease begins.
_VISIT = "visit:"


def visitor(holder: str) -> str:
    """The name under which a command holds a lease, so that a manager that starts meanwhile waits for it."""
    return _VISIT + holder


async def until_free(store: PgAccountStore, stop: asyncio.Event, log: Any) -> bool:
    """Wait until nobody holds the account's lease; False when told to stop before. The caller then acquires it.

    A database that does not answer is waited for: it gives the lease to nobody else either.
    """
    said_at: float | None = None
    holder: Lease | None = None
    while not stop.is_set():
        try:
            found = await store.lease_holder()
        except StoreUnavailable as error:
            log.warning("standing by, the database does not answer", reason=str(error))
        else:
            if found is None:
                if holder is not None and not _is_visit(holder):
                    log.warning(f"Taking over account {store.account_name}", holder=holder.holder, epoch=holder.epoch)
                return True
            news = holder is None or holder.epoch != found.epoch
            holder = found
            if news or said_at is None or time.monotonic() - said_at >= SAY_AGAIN_SECONDS:
                said_at = time.monotonic()
                who = "a command works on the books of" if _is_visit(found) else "another process manages"
                log.info(f"Standing by: {who} account {store.account_name}", holder=found.holder, epoch=found.epoch)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), LOOK_SECONDS)
    return False


async def outwait_visit(store: PgAccountStore, stop: asyncio.Event, log: Any) -> bool:
    """Wait while a visitor holds the account's lease; False when somebody else does. Also ends when told to stop.

    Raises StoreUnavailable.
    """
    said_at: float | None = None
    while not stop.is_set():
        found = await store.lease_holder()
        if found is None or not _is_visit(found):
            return found is None
        if said_at is None or time.monotonic() - said_at >= SAY_AGAIN_SECONDS:
            said_at = time.monotonic()
            log.warning(
                f"A command works on the books of account {store.account_name}: the manager starts once it is done",
                holder=found.holder,
            )
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), LOOK_SECONDS)
    return True


def _is_visit(lease: Lease) -> bool:
    return lease.holder.startswith(_VISIT)
