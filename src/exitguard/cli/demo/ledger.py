"""The demo's view of the ledger: as an operator who reads all accounts and inserts signals and requests."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Self

import asyncpg
import orjson

from exitguard.store.port import StoreUnavailable

_POSITIONS = """
SELECT account_name, id, symbol, ticker, instrument_type, side, quantity, entry_price, current_price,
    current_pnl_dollars, current_pnl_percent, status, protection, stop_loss, take_profit, max_hold_deadline,
    strategy_type, expiration_date, entry_time, close_reason, multiplier, original_quantity, realised_pnl
FROM active_positions WHERE status IN ('open', 'closing') ORDER BY account_name, id
"""
_EVENTS = """
SELECT account_name, seq, event_type, position_id, at, event_data FROM position_events
WHERE event_type = ANY($1) ORDER BY id DESC LIMIT $2
"""
_HISTORY = """
SELECT account_name, position_id, symbol, ticker, side, quantity, multiplier, entry_price, exit_price, entry_time,
    closed_at, realised_pnl, close_reason, trigger_price, trigger_at FROM position_history ORDER BY closed_at
"""
_SIGNAL = """
INSERT INTO dispatch_recommendations (account_name, ticker, option_symbol, action, strategy_type, qty, stop_loss,
    take_profit, max_hold_minutes, features, created_at, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) RETURNING id
"""
_HEARTBEATS = "SELECT account_name, component, venue_time, details FROM heartbeats"


@dataclass(frozen=True, slots=True)
class Beat:
    """The newest heartbeat of one component of one account."""

    venue_time: datetime
    details: dict[str, Any]


@dataclass(frozen=True, slots=True)
class NewSignal:
    """A row to insert."""

    account: str
    ticker: str
    option_symbol: str | None
    action: str
    strategy: str
    qty: Decimal | None
    stop_loss: Decimal | None
    take_profit: Decimal | None
    max_hold_minutes: int | None
    created_at: datetime
    expires_at: datetime


class OperatorLedger:
    """One connection. Use as an async context manager."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: Any = None

    async def __aenter__(self) -> Self:
        """Connect. Raises StoreUnavailable."""
        try:
            self._connection = await asyncpg.connect(self._url, timeout=15, command_timeout=30)
            await self._connection.set_type_codec(
                "jsonb", encoder=_encode, decoder=orjson.loads, schema="pg_catalog", format="text"
            )
            await self._connection.execute("SET ROLE exitguard_desk")
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise StoreUnavailable(f"the demo's database cannot be reached: {error}") from error
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Disconnect."""
        if self._connection is not None and not self._connection.is_closed():
            await self._connection.close(timeout=5)

    async def _rows(self, statement: str, *arguments: object) -> list[dict[str, Any]]:
        try:
            return [dict(row) for row in await self._connection.fetch(statement, *arguments)]
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise StoreUnavailable(f"the demo's database broke off: {error}") from error

    async def heartbeats(self) -> dict[tuple[str, str], Beat]:
        """Newest heartbeat by account and component."""
        rows = await self._rows(_HEARTBEATS)
        return {(r["account_name"], r["component"]): Beat(r["venue_time"], r["details"]) for r in rows}

    async def open_positions(self) -> list[dict[str, Any]]:
        """Positions open or closing."""
        return await self._rows(_POSITIONS)

    async def events(self, types: Sequence[str], limit: int) -> list[dict[str, Any]]:
        """Newest events of these types, newest first."""
        return await self._rows(_EVENTS, list(types), limit)

    async def history(self) -> list[dict[str, Any]]:
        """Closed positions."""
        return await self._rows(_HISTORY)

    async def opened(self) -> dict[str, int]:
        """Positions ever opened, by account."""
        rows = await self._rows("SELECT account_name, count(*) AS n FROM active_positions GROUP BY account_name")
        return {row["account_name"]: row["n"] for row in rows}

    async def signals(self) -> dict[str, dict[str, int]]:
        """Signals by account and status."""
        rows = await self._rows(
            "SELECT account_name, status, count(*) AS n FROM dispatch_recommendations GROUP BY 1, 2 ORDER BY 1, 2"
        )
        found: dict[str, dict[str, int]] = {}
        for row in rows:
            found.setdefault(row["account_name"], {})[row["status"]] = row["n"]
        return found

    async def unsettled(self) -> list[dict[str, Any]]:
        """Executions, intents and signals that have no end yet."""
        return await self._rows(
            "SELECT account_name, 'execution' AS kind, client_order_id AS name, status FROM dispatch_executions"
            " WHERE status IN ('intended', 'unknown', 'accepted', 'partially_filled')"
            " UNION ALL SELECT account_name, 'intent', client_order_id, status FROM order_intents"
            " WHERE status IN ('intended', 'unknown', 'working')"
            " UNION ALL SELECT account_name, 'signal', id::text, status FROM dispatch_recommendations"
            " WHERE status IN ('pending', 'claimed')"
        )

    async def event_counts(self) -> dict[str, dict[str, int]]:
        """Events by account and type."""
        rows = await self._rows("SELECT account_name, event_type, count(*) AS n FROM position_events GROUP BY 1, 2")
        found: dict[str, dict[str, int]] = {}
        for row in rows:
            found.setdefault(row["account_name"], {})[row["event_type"]] = row["n"]
        return found

    async def alarms(self) -> list[dict[str, Any]]:
        """Alarms that are still active."""
        return await self._rows("SELECT account_name, kind, message FROM alarms WHERE cleared_at IS NULL ORDER BY 1, 2")

    async def insert_signal(self, signal: NewSignal) -> int:
        """Insert a signal as any program may; returns its id."""

        def text(value: object) -> str | None:
            return None if value is None else str(value)

        rows = await self._rows(
            _SIGNAL, signal.account, signal.ticker, signal.option_symbol, signal.action, signal.strategy,
            text(signal.qty), text(signal.stop_loss), text(signal.take_profit), text(signal.max_hold_minutes),
            {"source": "demo"}, signal.created_at, signal.expires_at,
        )  # fmt: skip
        return int(rows[0]["id"])

    async def ask_to_close(self, account: str, position_id: int, symbol: str) -> None:
        """Ask the running manager to close a position, as `exitguard close` does."""
        await self._rows(
            "INSERT INTO commands (account_name, verb, position_id, symbol, requested_by)"
            " VALUES ($1, 'close', $2, $3, 'demo')",
            account,
            position_id,
            symbol,
        )


def _encode(value: object) -> str:
    return orjson.dumps(value).decode()
