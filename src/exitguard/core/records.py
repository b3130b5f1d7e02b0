"""Rows of the ledger as values, and the operations that change it.

Everything that one account's processes write is a `Batch` of operations applied in one transaction. The same bytes
can lie in the on-disk journal while the database is away and be applied later, once (the batch id makes it so).
Money in dollars, prices in dollars a share, times timezone-aware, UTC.
"""

from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

from exitguard.core.instrument import InstrumentType
from exitguard.core.orders import Fill, OrderSide
from exitguard.core.position import PositionSide
from exitguard.core.restatement import Restatement


class PositionStatus(StrEnum):
    """The coarse state that operators know; finer ones are columns of their own."""

    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class Protection(StrEnum):
    """What stands between the position and a loss; one at a time, the worst wins."""

    PROTECTED = "protected"
    NAKED = "naked"
    BLIND = "blind"
    STUCK = "stuck"
    UNMANAGED = "unmanaged"


class CloseReason(StrEnum):
    """Why a position was closed: every rule of the policy, and what comes from outside."""

    MANUAL_CLOSE = "manual_close"
    KILL_SWITCH = "kill_switch"
    CATASTROPHIC_STOP = "catastrophic_stop"
    STOP_LOSS = "stop_loss"
    TAKE_PROFIT = "take_profit"
    TRAILING_STOP = "trailing_stop"
    BREAKEVEN_STOP = "breakeven_stop"
    MISSING_BRACKET = "missing_bracket"
    DAY_TRADE_CLOSE = "day_trade_close"
    EXPIRATION_RISK = "expiration_risk"
    OVERNIGHT = "overnight"
    MAX_HOLD_TIME = "max_hold_time"
    THETA_DECAY = "theta_decay"
    PROFIT_SCALING = "profit_scaling"
    # Closed by somebody or something else; booked from the broker's evidence.
    BRACKET_STOP = "bracket_stop"
    BRACKET_TARGET = "bracket_target"
    EXTERNAL_CLOSE = "external_close"
    BROKER_LIQUIDATION = "broker_liquidation"
    EXPIRED = "expired"
    EXERCISED = "exercised"
    ASSIGNED = "assigned"
    RECONCILED = "reconciled"


class EventType(StrEnum):
    """The vocabulary of `position_events`."""

    CREATED = "created"
    ADOPTED = "adopted"
    PRICE_UPDATE = "price_update"
    PARTIAL_FILL = "partial_fill"
    FILL = "fill"
    EXIT_TRIGGERED = "exit_triggered"
    EXIT_HELD = "exit_held"
    EXIT_PENDING = "exit_pending"
    CLOSE_SUBMITTED = "close_submitted"
    CLOSE_FAILED = "close_failed"
    CLOSED = "closed"
    REDUCED = "reduced"
    RECONCILED = "reconciled"
    PROTECTION_CHANGED = "protection_changed"
    BRACKET_RESTORED = "bracket_restored"
    BRACKET_FAILED = "bracket_failed"
    ALARM_RAISED = "alarm_raised"
    ALARM_CLEARED = "alarm_cleared"
    FOREIGN_ORDER = "foreign_order"
    MANAGER_STARTED = "manager_started"
    MANAGER_STOPPED = "manager_stopped"
    ACCOUNT_BOUND = "account_bound"
    COMMAND = "command"
    ENTRY_SUBMITTED = "entry_submitted"
    ENTRY_REFUSED = "entry_refused"
    # What corporate actions did to a position (see `core.restatement`).
    SPLIT = "split"
    SYMBOL_CHANGED = "symbol_changed"
    CONTRACT_ADJUSTED = "contract_adjusted"
    # Written by the store alone, for changes of rows that no event of their batch tells of.
    RECORDED = "recorded"


class IntentStatus(StrEnum):
    """Life of an order of ours. UNKNOWN is not failed: only the broker's evidence ends it.

    ARMED is the close of a position that is open: committed in advance, so that a breach has nothing to wait for.
    """

    ARMED = "armed"
    INTENDED = "intended"
    UNKNOWN = "unknown"
    WORKING = "working"
    FILLED = "filled"
    CANCELED = "canceled"
    EXPIRED = "expired"
    REJECTED = "rejected"

    @property
    def is_live(self) -> bool:
        """Whether the broker may still act on it."""
        return self in (IntentStatus.INTENDED, IntentStatus.UNKNOWN, IntentStatus.WORKING)


class IntentPurpose(StrEnum):
    """What an order is for."""

    ENTRY = "entry"
    CLOSE = "close"
    REDUCE = "reduce"
    RESTORE = "restore"


class ExecutionMode(StrEnum):
    """Where an execution happened. A live broker never falls back to a simulation (F35)."""

    ALPACA_PAPER = "ALPACA_PAPER"
    LIVE = "LIVE"


class ExecutionStatus(StrEnum):
    """State of an entry order, derived from the broker's state and never guessed (F36)."""

    INTENDED = "intended"
    UNKNOWN = "unknown"
    ACCEPTED = "accepted"
    PARTIALLY_FILLED = "partially_filled"
    FILLED = "filled"
    CANCELED = "canceled"
    EXPIRED = "expired"
    REJECTED = "rejected"


class RecommendationStatus(StrEnum):
    """State of a signal for one account."""

    PENDING = "pending"
    CLAIMED = "claimed"
    EXECUTED = "executed"
    SKIPPED = "skipped"
    REJECTED = "rejected"
    EXPIRED = "expired"
    FAILED = "failed"
    SET_ASIDE = "set_aside"


class Action(StrEnum):
    """What a signal asks for. HOLD is stored with its reason, never sent (F63, F119)."""

    BUY_STOCK = "BUY_STOCK"
    SELL_STOCK = "SELL_STOCK"
    BUY_CALL = "BUY_CALL"
    BUY_PUT = "BUY_PUT"
    HOLD = "HOLD"


class Outcome(StrEnum):
    """Result of a closed position by the sign of its realised P&L."""

    WIN = "win"
    LOSS = "loss"
    FLAT = "flat"

    @classmethod
    def of(cls, realised: Decimal) -> "Outcome":
        """Name the sign of `realised` dollars."""
        if realised > 0:
            return cls.WIN
        return cls.LOSS if realised < 0 else cls.FLAT


class CommandVerb(StrEnum):
    """What a person may ask of a running manager."""

    CLOSE = "close"
    KILL_SWITCH = "kill_switch"
    SYNC_REPAIR = "sync_repair"
    ADOPT = "adopt"
    FORGET = "forget"


@dataclass(frozen=True, slots=True)
class PositionRecord:
    """One row of `active_positions`. Keyed by (account_name, id); `uid` goes into client order ids.

    `max_hold_deadline` is a moment, not minutes (F53). `best_price` and `worst_price` are the most and the least
    favourable marks so far, persisted so that a restart does not forget a trail (F55). `restatements` are the splits
    and new symbols since the entry: quantities and prices of the row are in the terms of the last one.
    """

    account_name: str
    id: int
    uid: str
    execution_id: UUID | None
    symbol: str
    ticker: str
    option_symbol: str | None
    instrument_type: InstrumentType
    strategy_type: str
    side: PositionSide
    quantity: Decimal
    original_quantity: Decimal
    entry_price: Decimal
    entry_time: datetime
    stop_loss: Decimal | None
    take_profit: Decimal | None
    max_hold_deadline: datetime
    expiration_date: date | None
    strike_price: Decimal | None
    multiplier: int
    policy_name: str
    status: PositionStatus = PositionStatus.OPEN
    protection: Protection = Protection.PROTECTED
    protection_since: datetime | None = None
    bracket_order_accepted: bool = False
    stop_order_id: str | None = None
    target_order_id: str | None = None
    current_price: Decimal | None = None
    current_pnl_dollars: Decimal | None = None
    current_pnl_percent: Decimal | None = None
    marked_at: datetime | None = None
    last_checked_at: datetime | None = None
    best_price: Decimal | None = None
    worst_price: Decimal | None = None
    scaled_out: bool = False
    adopted: bool = False
    close_reason: CloseReason | None = None
    close_attempt: int = 0
    close_client_order_id: str | None = None
    close_started_at: datetime | None = None
    close_deadline: datetime | None = None
    exit_price: Decimal | None = None
    realised_pnl: Decimal = Decimal(0)
    closed_at: datetime | None = None
    features: dict[str, Any] = field(default_factory=dict)
    created_at: datetime | None = None
    restatements: tuple[Restatement, ...] = ()


@dataclass(frozen=True, slots=True)
class IntentRecord:
    """One order of ours, committed before it is sent (I3, F33, F43). Keyed by (account_name, client_order_id)."""

    account_name: str
    client_order_id: str
    purpose: IntentPurpose
    symbol: str
    side: OrderSide
    qty: Decimal
    status: IntentStatus
    attempt: int
    created_at: datetime
    position_id: int | None = None
    execution_id: UUID | None = None
    broker_order_id: str | None = None
    request: dict[str, Any] = field(default_factory=dict)
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class HistoryRecord:
    """One row of `position_history`: a closed position, at fill prices."""

    account_name: str
    position_id: int
    execution_id: UUID | None
    symbol: str
    ticker: str
    option_symbol: str | None
    instrument_type: InstrumentType
    strategy_type: str
    side: PositionSide
    quantity: Decimal
    multiplier: int
    entry_price: Decimal
    exit_price: Decimal
    entry_time: datetime
    closed_at: datetime
    realised_pnl: Decimal
    realised_pnl_percent: Decimal
    outcome: Outcome
    close_reason: CloseReason
    hold_minutes: Decimal
    best_price: Decimal | None
    worst_price: Decimal | None
    trigger_price: Decimal | None
    trigger_at: datetime | None
    build: str
    policy_hash: str
    features: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ExecutionRecord:
    """One row of `dispatch_executions`: an entry order of one account."""

    account_name: str
    execution_id: UUID
    recommendation_id: int | None
    symbol: str
    ticker: str
    option_symbol: str | None
    instrument_type: InstrumentType
    strategy_type: str
    action: Action
    side: OrderSide
    qty: Decimal
    execution_mode: ExecutionMode
    status: ExecutionStatus
    client_order_id: str
    simulated_ts: datetime
    stop_loss: Decimal | None = None
    take_profit: Decimal | None = None
    max_hold_minutes: int | None = None
    broker_order_id: str | None = None
    stop_order_id: str | None = None
    target_order_id: str | None = None
    filled_qty: Decimal = Decimal(0)
    avg_fill_price: Decimal | None = None
    executed_at: datetime | None = None
    reason: str | None = None
    features: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RecommendationRecord:
    """One row of `dispatch_recommendations`: a signal addressed to one account (F41).

    Kept as loosely typed as it came: the dispatcher validates, and sets aside what does not hold.
    """

    account_name: str
    id: int
    ticker: str
    option_symbol: str | None
    action: str
    strategy_type: str
    qty: Decimal | None
    stop_loss: Decimal | None
    take_profit: Decimal | None
    max_hold_minutes: int | None
    confidence: Decimal | None
    features: dict[str, Any]
    created_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class CommandRecord:
    """A person's request to a running manager."""

    account_name: str
    id: int
    verb: CommandVerb
    position_id: int | None
    symbol: str | None
    requested_by: str
    requested_at: datetime
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Mark:
    """One position's mark of one sweep, written with all others in one statement."""

    position_id: int
    price: Decimal | None
    pnl_dollars: Decimal | None
    pnl_percent: Decimal | None
    best_price: Decimal | None
    worst_price: Decimal | None
    marked_at: datetime | None
    checked_at: datetime
    protection: Protection
    protection_since: datetime


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Progress of one component of one account; silence is a failure."""

    account_name: str
    component: str
    build: str
    policy_hash: str
    config_hash: str
    broker_account_number: str
    venue_time: datetime
    open_positions: int
    closing_positions: int
    details: dict[str, Any] = field(default_factory=dict)


# Operations of a batch ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PutPosition:
    """Insert or overwrite one `active_positions` row."""

    row: PositionRecord


@dataclass(frozen=True, slots=True)
class PutFill:
    """Record a fill of a position; a known execution id changes nothing. `source` is stream, orders or activities."""

    position_id: int
    fill: Fill
    source: str


@dataclass(frozen=True, slots=True)
class AppendEvent:
    """Append to `position_events`. The store adds sequence and hash, `account_name` to `data`, and what it changed.

    An event carries the operations since the event before it in its batch; the last one also those that follow it
    (see `core.replay`).
    """

    type: EventType
    at: datetime
    data: dict[str, Any]
    position_id: int | None = None


@dataclass(frozen=True, slots=True)
class PutIntent:
    """Insert or overwrite one `order_intents` row."""

    row: IntentRecord


@dataclass(frozen=True, slots=True)
class PutHistory:
    """Insert the one `position_history` row of a closed position."""

    row: HistoryRecord


@dataclass(frozen=True, slots=True)
class PutExecution:
    """Insert or overwrite one `dispatch_executions` row."""

    row: ExecutionRecord


@dataclass(frozen=True, slots=True)
class SetRecommendation:
    """Move one signal of this account on; exactly one row must change (F42)."""

    id: int
    status: RecommendationStatus
    reason: str | None
    at: datetime


@dataclass(frozen=True, slots=True)
class RaiseAlarm:
    """Raise an alarm, or refresh it when `key` is already active. `key` is unique within the account."""

    key: str
    kind: str
    at: datetime
    message: str
    position_id: int | None = None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClearAlarm:
    """Clear an active alarm; clearing an inactive one changes nothing."""

    key: str
    at: datetime


@dataclass(frozen=True, slots=True)
class FinishCommand:
    """Answer a person's request: `result` is for people, `answer` for programs."""

    id: int
    ok: bool
    result: str
    at: datetime
    answer: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class SetAside:
    """Keep a bad row, symbol or message with the reason why it was not used."""

    kind: str
    reason: str
    payload: dict[str, Any]
    at: datetime


Operation = (
    PutPosition
    | PutFill
    | AppendEvent
    | PutIntent
    | PutHistory
    | PutExecution
    | SetRecommendation
    | RaiseAlarm
    | ClearAlarm
    | FinishCommand
    | SetAside
)


@dataclass(frozen=True, slots=True)
class Batch:
    """Operations that become true together. Applying the same `id` twice changes nothing."""

    id: UUID
    account_name: str
    epoch: int
    at: datetime
    operations: tuple[Operation, ...]


@dataclass(frozen=True, slots=True)
class LedgerState:
    """What a starting manager reads back: everything not yet finished.

    `booked` is what the recent fills of each order add up to, closed positions included: order id to (quantity,
    quantity x price), so that an order read again after a restart is never booked twice (F45).
    """

    positions: tuple[PositionRecord, ...]
    fills: dict[int, tuple[Fill, ...]]
    live_intents: tuple[IntentRecord, ...]
    active_alarms: frozenset[str]
    next_position_id: int
    booked: dict[str, tuple[Decimal, Decimal]] = field(default_factory=dict)
