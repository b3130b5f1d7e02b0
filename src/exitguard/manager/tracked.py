"""One live position in memory: its row, its fold of fills, and what the manager remembers between looks."""

import asyncio
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal

from exitguard.core.evaluate import Bracket, Watched
from exitguard.core.orders import OrderRequest
from exitguard.core.policy import Policy
from exitguard.core.position import Holding
from exitguard.core.records import CloseReason, IntentRecord, PositionRecord, PositionStatus, Protection


@dataclass(slots=True, eq=False)
class Tracked:
    """A position under management.

    `news` is set whenever something about the contract arrives (fill, order update); closers wait on it.
    `hurry` is set when a close waits for a restoration.
    `armed` is the intent of the next close as it is, or will be, in the ledger; `armed_request` is its order, once the
    ledger has it.
    `asset_id` is the broker's id of the asset, which survives a new symbol.
    `launched` while an armed order is on its way and the row does not say so yet.
    `trigger_price` and `trigger_at` are the mark and the moment of the breach, for measuring slippage.
    """

    record: PositionRecord
    holding: Holding
    policy: Policy
    expires_at: datetime | None
    bracket: Bracket = Bracket.NOT_NEEDED
    bracket_missing_since: datetime | None = None
    bracket_complete_since: datetime | None = None
    command: CloseReason | None = None
    command_ids: list[int] = field(default_factory=list)
    blind_since: datetime | None = None
    unevaluated: bool = False
    diverged_since: datetime | None = None
    broker_mark: Decimal | None = None
    broker_qty: Decimal | None = None
    broker_seen_at: datetime | None = None
    asset_id: str | None = None
    held_reported: CloseReason | None = None
    pending_reported: CloseReason | None = None
    trigger_price: Decimal | None = None
    trigger_at: datetime | None = None
    last_event_percent: Decimal | None = None
    closer: asyncio.Task[None] | None = None
    restorer: asyncio.Task[None] | None = None
    armed: IntentRecord | None = None
    armed_request: OrderRequest | None = None
    launched: bool = False
    news: asyncio.Event = field(default_factory=asyncio.Event)
    hurry: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_closing(self) -> bool:
        """Whether a close or a reduction is under way."""
        return self.closer is not None or self.record.status is PositionStatus.CLOSING

    @property
    def is_reducing(self) -> bool:
        """Whether a reduction is under way."""
        return self.closer is not None and self.record.status is PositionStatus.OPEN and not self.launched

    @property
    def signed_qty(self) -> Decimal:
        """Quantity held, negative when short."""
        return self.holding.qty * self.record.side.sign

    def watched(self) -> Watched:
        """The view that `evaluate` takes."""
        record = self.record
        return Watched(
            instrument=self.holding.instrument,
            side=record.side,
            qty=self.holding.qty,
            original_qty=record.original_quantity,
            entry_price=record.entry_price,
            opened_at=record.entry_time,
            strategy=record.strategy_type,
            max_hold_deadline=record.max_hold_deadline,
            stop_loss=record.stop_loss,
            take_profit=record.take_profit,
            best_price=record.best_price,
            scaled_out=record.scaled_out,
            expires_at=self.expires_at,
            bracket=self.bracket,
            bracket_missing_since=self.bracket_missing_since,
            command=self.command,
        )

    def protection(self, now: datetime) -> Protection:
        """The worst thing that is true of it now."""
        record = self.record
        if self.is_closing and record.close_deadline is not None and now > record.close_deadline:
            return Protection.STUCK
        if self.blind_since is not None:
            return Protection.BLIND
        if self.bracket is Bracket.MISSING:
            return Protection.NAKED
        return Protection.PROTECTED

    def refresh_from_holding(self) -> None:
        """Carry the fold of fills into the row."""
        holding = self.holding
        self.record = replace(
            self.record,
            quantity=holding.qty,
            original_quantity=holding.opened_qty,
            entry_price=holding.entry_price,
            exit_price=holding.exit_price,
            realised_pnl=holding.realised_pnl,
            restatements=holding.restatements,
        )
