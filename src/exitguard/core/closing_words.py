"""What the closing procedure remembers, what it asks of its shell, and what the shell can have seen.

The words only; `core.closing` decides with them.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from exitguard.core.instrument import Instrument
from exitguard.core.orders import BrokerOrder, BrokerPosition, OrderRequest
from exitguard.core.policy import Policy
from exitguard.core.position import PositionSide
from exitguard.core.quote import Quote
from exitguard.core.records import CloseReason

ZERO = Decimal(0)


class Phase(StrEnum):
    """Where a close stands."""

    CLEARING = "clearing"
    CHECKING = "checking"
    SENDING = "sending"
    RESOLVING = "resolving"
    WORKING = "working"
    CANCELLING = "cancelling"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class ClosingState:
    """A close in progress. `keep_qty` is what a reduction leaves (0 for a close); waits are seconds of real time.

    `futile` counts attempts in a row that came to nothing; it slows the next ones. `held_before` is the fold when the
    attempt was sent, None after a restart. `ceiling`: the broker's word on our own order proves that no more is left.
    `repair_due`, `repairing`: fills must be read before the next attempt; the reading is under way. `duplicate`: the
    broker knows the attempt's id, so that a 404 for it proves nothing.
    """

    account: str
    uid: str
    instrument: Instrument
    side: PositionSide
    reason: CloseReason
    started_at: datetime
    deadline: datetime
    keep_qty: Decimal = ZERO
    attempt: int = 0
    step: int = 0
    phase: Phase = Phase.CLEARING
    request: OrderRequest | None = None
    # The id of an attempt that provably never arrived: the next one carries it again, and no other id.
    unused_id: str | None = None
    order_id: str | None = None
    sent_at: datetime | None = None
    absences: int = 0
    failures: int = 0
    disagreements: int = 0
    looks: int = 0
    futile: int = 0
    held_before: Decimal | None = None
    ceiling: Decimal | None = None
    repair_due: bool = False
    repairing: bool = False
    duplicate: bool = False

    @property
    def is_reduction(self) -> bool:
        """Whether something is to be left."""
        return self.keep_qty > 0


@dataclass(frozen=True, slots=True)
class Context:
    """What the machine may know besides what it saw.

    `held` is the fold of fills. `quote` is the latest usable quote or None. `can_trade`: an order sent now acts now.
    `clear` is True when the shell's own books prove that nothing rests on the contract and that the broker held exactly
    `held` moments ago: then the first attempt needs no questions.
    """

    now: datetime
    held: Decimal
    quote: Quote | None
    can_trade: bool
    extended_hours: bool
    policy: Policy
    clear: bool = False


# What the shell is asked to do ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ListOrders:
    """List all open orders of the contract."""


@dataclass(frozen=True, slots=True)
class CancelOrders:
    """Ask for the cancellation of these orders."""

    order_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AskPosition:
    """Ask the broker what it holds of the contract."""


@dataclass(frozen=True, slots=True)
class RepairFills:
    """Read the contract's recent orders and fold what our books missed."""


@dataclass(frozen=True, slots=True)
class Submit:
    """Commit the intent, then send the order once."""

    request: OrderRequest
    attempt: int


@dataclass(frozen=True, slots=True)
class Lookup:
    """Ask for the order of a client order id."""

    client_order_id: str


@dataclass(frozen=True, slots=True)
class Poll:
    """Ask for an order."""

    order_id: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait `seconds` of real time, until the venue's `until`, or until news of the contract: what comes first.

    The shell answers OrderSeen when the news is about the working order, else Done. With `full` nothing cuts the wait
    short: it is part of a proof.
    """

    seconds: float
    until: datetime | None = None
    full: bool = False


@dataclass(frozen=True, slots=True)
class Finish:
    """Nothing is left to do: the fold of fills says so."""


Effect = ListOrders | CancelOrders | AskPosition | RepairFills | Submit | Lookup | Poll | Wait | Finish


# What the shell saw ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OrdersListed:
    """Open orders of the contract, legs included."""

    orders: tuple[BrokerOrder, ...]


@dataclass(frozen=True, slots=True)
class PositionSeen:
    """The broker's answer; None means that it holds none."""

    position: BrokerPosition | None


@dataclass(frozen=True, slots=True)
class OrderSeen:
    """An order of ours as the broker describes it now."""

    order: BrokerOrder


@dataclass(frozen=True, slots=True)
class OrderAbsent:
    """404 for the client order id."""


class RefusalKind(StrEnum):
    """Why the broker refused an order, as far as the procedure cares."""

    DUPLICATE = "duplicate"
    RECONCILE = "reconcile"
    BUSY = "busy"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class SendRefused:
    """The broker proved that it does not have the order, except for DUPLICATE, which proves that it does."""

    kind: RefusalKind
    detail: str
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class SendUnknown:
    """The order may or may not have arrived."""

    detail: str


@dataclass(frozen=True, slots=True)
class Done:
    """A cancel request, a repair or a wait is over; its consequences show in the context or in the next answer."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A question got no usable answer: nothing is known."""

    detail: str


Observation = OrdersListed | PositionSeen | OrderSeen | OrderAbsent | SendRefused | SendUnknown | Done | Failed
