"""Waits beside the process that manages an account, ready to take over the moment it dies or hangs (I12)."""

import asyncio
import time
from typing import Any

from exitguard.store.port import Lease, StoreUnavailable
from exitguard.store.repository import PgAccountStore

# How often the lease is looked at: a dead holder's is free at once, so this is what a take-over waits for at most.
LOOK_SECONDS = 0.2
SAY_AGAIN_SECONDS = 60.0


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
                if holder is not None:
                    log.warning(f"Taking over account {store.account_name}", holder=holder.holder, epoch=holder.epoch)
                return True
            news = holder is None or holder.epoch != found.epoch
            holder = found
            if news or said_at is None or time.monotonic() - said_at >= SAY_AGAIN_SECONDS:
                said_at = time.monotonic()
                log.info(
                    f"Standing by: another process manages account {store.account_name}",
                    holder=found.holder,
                    epoch=found.epoch,
                )
        try:
            await asyncio.wait_for(stop.wait(), LOOK_SECONDS)
        except TimeoutError:
            continue
    return False
