"""The ledger of one account in PostgreSQL. A session is bound to its account: the database shows it no other rows."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, Self

import asyncpg
import orjson

from exitguard.core.orders import Fill
from exitguard.core.reconcile import KnownOrder
from exitguard.core.records import (
    Batch,
    CommandRecord,
    ExecutionRecord,
    Heartbeat,
    IntentRecord,
    LedgerState,
    Mark,
    PositionRecord,
    RecommendationRecord,
)
from exitguard.store.connection import Link, translating
from exitguard.store.elapsed import elapsed
from exitguard.store.encoding import decode_record, encode_json, encode_operations, encode_record
from exitguard.store.port import SURE_SHARE, Lease, LeaseLost, SchemaMismatch, StoreRejected, StoreUnavailable
from exitguard.store.queries import query
from exitguard.store.schema import check_schema

CONNECT_TIMEOUT = 5.0
COMMIT_TIMEOUT = 5.0
WORK_TIMEOUT = 30.0
_RECONNECT_FIRST = 0.1
_RECONNECT_LAST = 5.0
_ROLE = "exitguard_app"
_CHANNELS = ("commands", "recommendations")
# The generation of a connection, and the moment until which its lease is beyond doubt.
_NEVER = (0, 0.0)


async def prepare_session(connection: Any) -> None:
    """Teach a connection that our jsonb is already encoded on the way in and wanted decoded on the way out."""
    await connection.set_type_codec(
        "jsonb", encoder=_json_text, decoder=orjson.loads, schema="pg_catalog", format="text"
    )


def _json_text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else encode_json(value).decode()


class PgAccountStore:
    """`AccountStore` on PostgreSQL.

    Three connections: one for commits alone, so that the record of an exit never queues behind a sweep; one for
    everything else; one, opened when needed, whose session holds the lease and listens for notifications.
    """

    def __init__(self, url: str, account_name: str, *, component: str = "manager") -> None:
        self._account = account_name
        self._component = component
        self._leases: dict[int, tuple[str, int]] = {}
        self._epoch: int | None = None
        self._sure = _NEVER
        settings = {
            "role": _ROLE,
            "app.account": account_name,
            "search_path": "public",
            "application_name": f"exitguard {component} {account_name}"[:63],
            "timezone": "UTC",
            "idle_in_transaction_session_timeout": "30000",
            "tcp_keepalives_idle": "15",
            "tcp_keepalives_interval": "5",
            "tcp_keepalives_count": "3",
        }

        def link(command_timeout: float) -> Link:
            # The server gives up a little earlier than the client, so that a timeout normally has a known outcome.
            limit = str(int(command_timeout * 900))
            return Link(
                url,
                {**settings, "statement_timeout": limit, "lock_timeout": limit},
                connect_timeout=CONNECT_TIMEOUT,
                command_timeout=command_timeout,
                on_connect=self._own_session,
            )

        self._commits = link(COMMIT_TIMEOUT)
        self._work = link(WORK_TIMEOUT)
        self._watch = link(WORK_TIMEOUT)

    @classmethod
    async def connect(cls, url: str, account_name: str, *, component: str = "manager") -> Self:
        """Connect and check the schema version. Raises StoreUnavailable, SchemaMismatch."""
        store = cls(url, account_name, component=component)
        try:
            async with store._work.use() as connection:
                await check_schema(connection)
            async with store._commits.use():
                pass  # the first exit must not wait for a login
        except BaseException:
            await store.close()
            raise
        return store

    @property
    def account_name(self) -> str:
        """The account that every statement is scoped to."""
        return self._account

    async def _own_session(self, connection: Any) -> None:
        """Prove that the session is the account's: what stands between may have dropped its settings (I4)."""
        role, account = await connection.fetchrow("SELECT current_user, current_setting('app.account', true)")
        if (role, account) != (_ROLE, self._account):
            raise SchemaMismatch(
                f"the database gave a session of role {role} and account {account or 'none'} instead of {_ROLE} and"
                f" {self._account}: a connection pool drops the session's settings; connect to PostgreSQL itself"
            )
        await prepare_session(connection)

    # Lease -----------------------------------------------------------------------------------------------------------

    async def acquire_lease(self, holder: str, ttl: timedelta, component: str = "manager") -> Lease:
        """Become the one live process of this component for the account. Raises LeaseHeld."""
        asked = elapsed()
        async with self._watch.use() as connection:
            row = await connection.fetchrow(query("acquire_lease"), self._account, component, holder, ttl)
        self._leases[row["epoch"]] = (component, self._watch.generation)
        self._epoch = row["epoch"]
        self._confirm(asked, ttl)
        return Lease(self._account, holder, row["epoch"], row["expires_at"])

    async def lease_holder(self, component: str = "manager") -> Lease | None:
        """Who keeps others from acquiring the lease now; None when nobody does. Cheap: nothing waits for it."""
        rows = await self._fetch("lease_holder", component)
        if not rows:
            return None
        return Lease(self._account, rows[0]["holder"], rows[0]["epoch"], rows[0]["expires_at"])

    async def renew_lease(self, lease: Lease, ttl: timedelta) -> Lease:
        """Extend the lease. Raises LeaseLost."""
        component, generation = self._lease_of(lease)
        asked = elapsed()
        async with self._watch.use() as connection:
            relock = generation != self._watch.generation
            row = await connection.fetchrow(query("renew_lease"), self._account, component, lease.epoch, ttl, relock)
        if row["locked"]:
            self._leases[lease.epoch] = (component, self._watch.generation)
            self._confirm(asked, ttl)
        return Lease(self._account, lease.holder, lease.epoch, row["expires_at"])

    def _confirm(self, asked: float, ttl: timedelta) -> None:
        """Remember that the lease was ours at `asked`, and until when that is beyond doubt."""
        self._sure = (self._watch.generation, asked + ttl.total_seconds() * SURE_SHARE)

    def surely_leased(self) -> bool:
        """Whether nobody else can hold the lease now, as far as can be known without asking; False when in doubt.

        The server frees the lock of a lease when its session ends, which this side sees too, and gives the lease away
        when its time is up.
        """
        generation, until = self._sure
        return self._watch.is_open and self._watch.generation == generation and elapsed() < until

    async def release_lease(self, lease: Lease) -> None:
        """Give the lease back at an orderly stop."""
        component, _ = self._lease_of(lease)
        async with self._watch.use() as connection:
            self._sure = _NEVER
            await connection.fetchval(query("release_lease"), self._account, component, lease.epoch)
        del self._leases[lease.epoch]

    def _lease_of(self, lease: Lease) -> tuple[str, int]:
        known = self._leases.get(lease.epoch)
        if known is None or lease.account_name != self._account:
            raise LeaseLost(f"epoch {lease.epoch} of account {lease.account_name} is not a lease of this process")
        return known

    async def bind_account_number(self, number: str, tier: str, mode: str) -> None:
        """Bind the broker's account number to the name at the first run. Raises AccountMismatch later."""
        async with self._work.use() as connection:
            await connection.execute(query("bind_account"), self._account, number, tier, mode)

    # Reading ---------------------------------------------------------------------------------------------------------

    async def load(self) -> LedgerState:
        """Read everything unfinished in one snapshot: positions with their fills, live and armed intents, alarms."""
        async with self._work.use() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
            positions = await connection.fetch(query("live_positions"), self._account)
            fills = await connection.fetch(query("live_fills"), self._account)
            intents = await connection.fetch(query("live_intents"), self._account)
            alarms = await connection.fetch(query("active_alarms"), self._account)
            next_id = await connection.fetchval(query("next_position_id"), self._account)
            booked = await connection.fetch(query("booked_orders"), self._account)
        by_position: dict[int, list[Fill]] = {row["id"]: [] for row in positions}
        for row in fills:
            by_position[row["position_id"]].append(decode_record(Fill, row))
        return LedgerState(
            positions=tuple(decode_record(PositionRecord, row) for row in positions),
            fills={position: tuple(found) for position, found in by_position.items()},
            live_intents=tuple(decode_record(IntentRecord, row) for row in intents),
            active_alarms=frozenset(row["key"] for row in alarms),
            next_position_id=next_id,
            booked={row["order_id"]: (row["qty"], row["value"]) for row in booked},
        )

    async def unlinked_executions(self, limit: int = 500) -> list[ExecutionRecord]:
        """Entries that may have fills but no position yet: an anti-join without a time window (F32)."""
        rows = await self._fetch("unlinked_executions", limit)
        return [decode_record(ExecutionRecord, row) for row in rows]

    async def open_executions(self) -> list[ExecutionRecord]:
        """Entries whose order is not terminal yet (intended, unknown, accepted, partially filled)."""
        return [decode_record(ExecutionRecord, row) for row in await self._fetch("open_executions")]

    async def own_orders(self, ids: Sequence[str]) -> list[KnownOrder]:
        """What the books know of these order ids and client order ids, also of orders that ended long ago."""
        return [KnownOrder(**row) for row in await self._fetch("own_orders", list(ids))]

    async def intent(self, client_order_id: str) -> IntentRecord | None:
        """Read one intent of this account."""
        rows = await self._fetch("intent", client_order_id)
        return decode_record(IntentRecord, rows[0]) if rows else None

    async def pending_commands(self) -> list[CommandRecord]:
        """Requests of people not answered yet."""
        return [decode_record(CommandRecord, row) for row in await self._fetch("pending_commands")]

    async def _fetch(self, name: str, *arguments: object) -> list[Any]:
        async with self._work.use() as connection:
            rows: list[Any] = await connection.fetch(query(name), self._account, *arguments)
            return rows

    # Writing ---------------------------------------------------------------------------------------------------------

    async def commit(self, batch: Batch) -> None:
        """Apply a batch in one transaction, once. Raises StoreUnavailable, StoreRejected, LeaseLost."""
        await self.commit_encoded(batch, encode_operations(batch))

    async def commit_encoded(self, batch: Batch, operations: bytes, *, journaled_epoch: int | None = None) -> None:
        """Apply a batch whose operations are encoded already.

        `journaled_epoch`: the epoch under which a process that is gone wrote the batch to its journal; `batch.epoch`
        is then that of the lease held now. Raises LeaseLost when another holder has written since.
        """
        if batch.account_name != self._account:
            raise StoreRejected(f"a batch of account {batch.account_name} was offered to {self._account} (F25)")
        arguments = (self._account, batch.epoch, batch.id, batch.at, operations)
        async with self._commits.use() as connection:
            if journaled_epoch is None:
                await connection.fetchval(query("apply_batch"), *arguments)
            else:
                await connection.fetchval(query("replay_batch"), *arguments, journaled_epoch)

    async def write_marks(self, marks: Sequence[Mark], epoch: int) -> int:
        """Write the marks of a sweep in one statement; returns rows changed. Raises LeaseLost."""
        if not marks:
            return 0
        columns = list(
            zip(
                *(
                    (
                        mark.position_id,
                        mark.price,
                        mark.pnl_dollars,
                        mark.pnl_percent,
                        mark.best_price,
                        mark.worst_price,
                        mark.marked_at,
                        mark.checked_at,
                        mark.protection.value,
                        mark.protection_since,
                    )
                    for mark in marks
                ),
                strict=True,
            )
        )
        async with self._work.use() as connection:
            tag = await connection.execute(query("write_marks"), self._account, epoch, *columns)
            changed = int(tag.rsplit(" ", 1)[1])
            if changed == 0 and not await connection.fetchval(query("holds_lease"), self._account, epoch):
                raise LeaseLost(f"epoch {epoch} does not hold account {self._account} any longer: no mark was written")
            return changed

    async def beat(self, heartbeat: Heartbeat, epoch: int) -> None:
        """Record progress, build, policy hash and broker account number. Raises LeaseLost."""
        body = encode_json(encode_record(heartbeat))
        async with self._work.use() as connection:
            await connection.execute(query("beat"), self._account, epoch, body)

    async def save_policy(self, policy_hash: str, name: str, body: dict[str, Any]) -> None:
        """Keep a version of a policy under its hash; a known hash changes nothing."""
        async with self._work.use() as connection:
            await connection.execute(query("save_policy"), policy_hash, name, encode_json(body))

    # Signals ---------------------------------------------------------------------------------------------------------

    async def claim_recommendations(self, now: datetime, limit: int = 20) -> list[RecommendationRecord]:
        """Claim pending, unexpired signals of this account, newest first; expire old ones (F41, F105).

        Signals that a holder of the lease before us claimed, and that have no execution, are claimed again (T7).
        Signals whose numbers cannot be read are set aside with the reason in the same transaction.
        """
        claimed: list[RecommendationRecord] = []
        async with self._work.use() as connection, connection.transaction():
            await connection.execute(query("expire_recommendations"), self._account, now, self._epoch)
            rows = await connection.fetch(query("claim_recommendations"), self._account, now, limit, self._epoch)
            for row in sorted(rows, key=lambda found: (found["created_at"], found["id"]), reverse=True):
                problems: list[str] = []
                record = _recommendation(row, problems)
                if not problems:
                    claimed.append(record)
                    continue
                reason = "; ".join(problems)[:2000]
                await connection.execute(query("set_aside_recommendation"), self._account, row["id"], reason, now)
                body = encode_json(dict(row))
                await connection.execute(query("insert_set_aside"), self._account, "recommendation", reason, body, now)
        return claimed

    # Notifications ---------------------------------------------------------------------------------------------------

    async def notifications(self) -> AsyncIterator[str]:
        """Yield the channel suffix (`commands`, `recommendations`) whenever somebody inserted one for this account.

        Both are yielded after each (re)connection, because something may have come while nobody listened. Never ends
        by itself; a lost connection is opened again.
        """
        wait = _RECONNECT_FIRST
        while True:
            inbox: asyncio.Queue[str | None] = asyncio.Queue(maxsize=1000)
            try:
                async with self._watch.use() as connection:
                    channel = await connection.fetchval(query("channel"), self._account)
                    remove = await _listen(connection, channel, inbox)
            except StoreUnavailable:
                if self._watch.is_closed:
                    return
                await asyncio.sleep(wait)
                wait = min(wait * 2, _RECONNECT_LAST)
                continue
            wait = _RECONNECT_FIRST
            try:
                for name in _CHANNELS:
                    yield name
                while (name_or_end := await inbox.get()) is not None:
                    yield name_or_end
            finally:
                await remove()

    async def close(self) -> None:
        """Release connections."""
        for link in (self._watch, self._commits, self._work):
            await link.close()


async def _listen(connection: Any, channel: str, inbox: "asyncio.Queue[str | None]") -> Any:
    """Feed notifications into `inbox`, None at the end of the connection; returns how to stop."""

    def offer(item: str | None) -> None:
        # A full inbox already says "look"; its reader will find everything in the tables.
        with contextlib.suppress(asyncio.QueueFull):
            inbox.put_nowait(item)

    def on_notify(_connection: Any, _pid: int, _channel: str, payload: str) -> None:
        if payload in _CHANNELS:
            offer(payload)

    def on_end(_connection: Any) -> None:
        while inbox.full():
            inbox.get_nowait()
        offer(None)

    await connection.add_listener(channel, on_notify)
    connection.add_termination_listener(on_end)

    async def remove() -> None:
        if connection.is_closed():
            return
        connection.remove_termination_listener(on_end)
        with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError), translating():
            await connection.remove_listener(channel, on_notify)

    return remove


def _recommendation(row: Any, problems: list[str]) -> RecommendationRecord:
    """Read a signal's loosely typed columns; what cannot be read is named in `problems`."""
    hold = _number(row, "max_hold_minutes", problems)
    if hold is not None and hold != hold.to_integral_value():
        problems.append(f"max_hold_minutes must be whole, was {hold}")
    features = row["features"]
    if features is not None and not isinstance(features, dict):
        problems.append(f"features must be an object, was {type(features).__name__}")
        features = None
    return RecommendationRecord(
        account_name=row["account_name"],
        id=row["id"],
        ticker=row["ticker"] or "",
        option_symbol=row["option_symbol"],
        action=row["action"] or "",
        strategy_type=row["strategy_type"] or "",
        qty=_number(row, "qty", problems),
        stop_loss=_number(row, "stop_loss", problems),
        take_profit=_number(row, "take_profit", problems),
        max_hold_minutes=None if hold is None else int(hold),
        confidence=_number(row, "confidence", problems),
        features=features or {},
        created_at=row["created_at"],
        expires_at=row["expires_at"],
    )


def _number(row: Any, name: str, problems: list[str]) -> Decimal | None:
    text = row[name]
    if text is None:
        return None
    try:
        value = Decimal(text.strip())
    except InvalidOperation:
        problems.append(f"{name} is not a number: {text[:60]!r}")
        return None
    if not value.is_finite() or abs(value) >= Decimal(10) ** 15:
        problems.append(f"{name} is not a usable number: {text[:60]!r}")
        return None
    return value
