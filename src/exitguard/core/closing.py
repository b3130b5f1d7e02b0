"""The closing procedure as a state machine: (state, what was seen, context) -> (state, next effect).

One effect at a time; the shell performs it and comes back with what it saw. The machine never assumes: an unknown
outcome is resolved by the client order id, a quantity comes from the broker's answer, a remainder is closed by a
further attempt, and only the broker's evidence ends it (spec: closing, step by step; F2, F18, F20, F21, F43; I1-I3).
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum

from exitguard.core.instrument import Instrument, round_to_tick
from exitguard.core.orders import BrokerOrder, BrokerPosition, OrderRequest, OrderSide, OrderType, TimeInForce
from exitguard.core.policy import CloseStyle, Policy
from exitguard.core.position import PositionSide
from exitguard.core.quote import Quote
from exitguard.core.records import CloseReason

ZERO = Decimal(0)
# A 404 for a client order id right after a send is no proof: look this often, over at least this long (seconds).
ABSENCE_PROOFS = 3
RETRY_WAIT_MIN = 0.25
RETRY_WAIT_MAX = 30.0


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
    """A close in progress. `keep_qty` is what a reduction leaves (0 for a close); waits are seconds of real time."""

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
    order_id: str | None = None
    sent_at: datetime | None = None
    absences: int = 0
    failures: int = 0
    disagreements: int = 0

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

    The shell answers OrderSeen when the news is about the working order, else Done.
    """

    seconds: float
    until: datetime | None = None


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


def client_order_id(account: str, uid: str, purpose: str, attempt: int) -> str:
    """The id of one attempt: derived, so that a restart finds the order again. At most 128 characters (Alpaca)."""
    return f"xg-{account[:64]}-{uid}-{purpose}{attempt}"


def begin(state: ClosingState, context: Context) -> tuple[ClosingState, Effect]:
    """First effect of a new close, or of one that a restart found."""
    if context.held <= state.keep_qty:
        return replace(state, phase=Phase.DONE), Finish()
    if state.phase is Phase.RESOLVING and state.request is not None:
        return state, Lookup(state.request.client_order_id)
    if context.clear and context.can_trade and state.attempt == 0:
        return _send(state, context, context.held - state.keep_qty)
    return replace(state, phase=Phase.CLEARING), ListOrders()


def advance(state: ClosingState, seen: Observation, context: Context) -> tuple[ClosingState, Effect]:
    """Next effect, given what the shell saw."""
    if context.held <= state.keep_qty and state.phase in (Phase.CLEARING, Phase.CHECKING):
        return replace(state, phase=Phase.DONE), Finish()
    handler = _HANDLERS[state.phase]
    return handler(state, seen, context)


def _retry_wait(failures: int) -> float:
    wait: float = min(RETRY_WAIT_MAX, RETRY_WAIT_MIN * 2.0 ** min(failures, 10))
    return wait


def _clearing(state: ClosingState, seen: Observation, context: Context) -> tuple[ClosingState, Effect]:
    if isinstance(seen, Failed):
        state = replace(state, failures=state.failures + 1)
        return state, Wait(_retry_wait(state.failures))
    if not isinstance(seen, OrdersListed):
        return state, ListOrders()
    open_orders = [order for parent in seen.orders for order in parent.family() if order.is_open]
    mine = _own_attempt(state, open_orders)
    if mine is not None:
        state = replace(state, phase=Phase.WORKING, order_id=mine.id, sent_at=state.sent_at or context.now)
        return _working(state, OrderSeen(mine), context)
    if not open_orders:
        return replace(state, phase=Phase.CHECKING, failures=0), AskPosition()
    to_cancel = tuple(order.id for order in open_orders if order.status.value != "pending_cancel")
    state = replace(state, failures=state.failures + 1)
    # Cancels are asynchronous: ask, then look again; asked again only because a cancel can be lost.
    return state, CancelOrders(to_cancel) if to_cancel and state.failures % 4 == 1 else Wait(_retry_wait(0))


def _own_attempt(state: ClosingState, orders: Collection[BrokerOrder]) -> BrokerOrder | None:
    if state.request is None:
        return None
    return next((o for o in orders if o.client_order_id == state.request.client_order_id), None)


def _checking(state: ClosingState, seen: Observation, context: Context) -> tuple[ClosingState, Effect]:
    if isinstance(seen, Failed):
        state = replace(state, failures=state.failures + 1)
        return state, Wait(_retry_wait(state.failures))
    if not isinstance(seen, PositionSeen):
        return state, AskPosition()
    if not context.can_trade:
        return state, Wait(5.0)
    held = ZERO if seen.position is None else seen.position.qty * state.side.sign
    free = ZERO if seen.position is None else abs(seen.position.qty_available)
    if held != context.held:
        # Our books and the broker differ: read what we missed, then look again. Positions lag fills by seconds.
        state = replace(state, disagreements=state.disagreements + 1)
        if held <= 0 or state.disagreements <= 2:
            wait = Wait(min(5.0, _retry_wait(state.disagreements)))
            return state, RepairFills() if state.disagreements % 2 else wait
    if free < held and state.disagreements <= 6:
        # Something still holds a part: clear again before sending less than everything.
        state = replace(state, phase=Phase.CLEARING, disagreements=state.disagreements + 1, failures=0)
        return state, Wait(_retry_wait(state.disagreements))
    # The smaller of both words: an answer that lags can never make us sell what is gone (I1).
    qty = min(free, held, context.held) - state.keep_qty
    if qty <= 0:
        return replace(state, phase=Phase.CLEARING), Wait(min(5.0, _retry_wait(state.disagreements)))
    return _send(replace(state, disagreements=0), context, qty)


def _send(state: ClosingState, context: Context, qty: Decimal) -> tuple[ClosingState, Effect]:
    attempt = state.attempt + 1
    request = close_request(state, attempt, qty, context)
    state = replace(
        state, phase=Phase.SENDING, attempt=attempt, request=request, order_id=None, sent_at=context.now, absences=0
    )
    return state, Submit(request, attempt)


def close_request(state: ClosingState, attempt: int, qty: Decimal, context: Context) -> OrderRequest:
    """The order of one attempt: exactly `qty`, with the intent that lets the broker refuse all but a reduction."""
    limit = _limit_price(state, context)
    purpose = "r" if state.is_reduction else "c"
    return OrderRequest(
        client_order_id=client_order_id(state.account, state.uid, purpose, attempt),
        symbol=state.instrument.symbol,
        side=state.side.closing,
        qty=qty,
        type=OrderType.MARKET if limit is None else OrderType.LIMIT,
        time_in_force=TimeInForce.DAY,
        position_intent=state.side.closing_intent,
        limit_price=limit,
        extended_hours=context.extended_hours,
    )


def _limit_price(state: ClosingState, context: Context) -> Decimal | None:
    """None for a market order; a wide spread is crossed by a limit at the far side, re-priced, before the market is."""
    policy, quote = context.policy, context.quote
    selling = state.side.closing is OrderSide.SELL
    if quote is None or quote.bid <= 0 or quote.ask <= 0:
        return None
    far_side = quote.bid if selling else quote.ask
    if context.extended_hours:
        return round_to_tick(far_side, up=not selling)
    style = policy.option_close_style if state.instrument.is_option else policy.stock_close_style
    if style is CloseStyle.MARKET or state.step >= policy.adaptive_steps:
        return None
    if quote.relative_spread * 100 <= policy.adaptive_tight_spread_percent:
        return None
    return round_to_tick(far_side, up=not selling)


def _sending(state: ClosingState, seen: Observation, context: Context) -> tuple[ClosingState, Effect]:
    request = state.request
    if request is None:
        raise AssertionError("sending without a request")
    if isinstance(seen, OrderSeen):
        state = replace(state, phase=Phase.WORKING, order_id=seen.order.id, failures=0)
        return _working(state, seen, context)
    if isinstance(seen, SendUnknown) or (isinstance(seen, SendRefused) and seen.kind is RefusalKind.DUPLICATE):
        return replace(state, phase=Phase.RESOLVING, absences=0), Lookup(request.client_order_id)
    if isinstance(seen, SendRefused):
        state = replace(state, phase=Phase.CLEARING, failures=state.failures + 1)
        return state, Wait(seen.retry_after if seen.retry_after is not None else _retry_wait(state.failures))
    # The intent could not be committed: nothing was sent, the same attempt may go out later.
    if context.held <= state.keep_qty:
        return replace(state, phase=Phase.DONE), Finish()
    state = replace(state, failures=state.failures + 1)
    return state, Submit(request, state.attempt) if isinstance(seen, Done) else Wait(_retry_wait(state.failures))


def _resolving(state: ClosingState, seen: Observation, context: Context) -> tuple[ClosingState, Effect]:
    request = state.request
    if request is None:
        raise AssertionError("resolving without a request")
    if isinstance(seen, OrderSeen):
        state = replace(state, phase=Phase.WORKING, order_id=seen.order.id, failures=0)
        return _working(state, seen, context)
    if isinstance(seen, OrderAbsent):
        state = replace(state, absences=state.absences + 1)
        if state.absences >= ABSENCE_PROOFS:
            # Proven absent: this attempt's id is free again, and only it; the quantity is asked for anew.
            if context.held <= state.keep_qty:
                return replace(state, phase=Phase.DONE), Finish()
            state = replace(state, phase=Phase.CLEARING, attempt=state.attempt - 1, request=None, absences=0)
            return state, ListOrders()
        return state, Wait(_retry_wait(state.absences + 1))
    if isinstance(seen, Failed):
        state = replace(state, failures=state.failures + 1)
        return state, Wait(_retry_wait(state.failures))
    return state, Lookup(request.client_order_id)


def _working(state: ClosingState, seen: Observation, context: Context) -> tuple[ClosingState, Effect]:
    order_id, request = state.order_id, state.request
    if order_id is None or request is None:
        raise AssertionError("working without an order")
    if isinstance(seen, Done):
        return state, Poll(order_id)
    if isinstance(seen, Failed):
        state = replace(state, failures=state.failures + 1)
        return state, Wait(_retry_wait(state.failures))
    if isinstance(seen, OrderSeen) and not seen.order.is_open:
        return _ended(state, context)
    if context.held <= state.keep_qty:
        # Something else closed it while our order rests: take the order back before anything is called done.
        return replace(state, phase=Phase.CANCELLING), CancelOrders((order_id,))
    if request.type is OrderType.LIMIT and not request.extended_hours and state.sent_at is not None:
        reprice_at = state.sent_at + timedelta(seconds=context.policy.adaptive_step_seconds)
        if context.now >= reprice_at:
            return replace(state, phase=Phase.CANCELLING), CancelOrders((order_id,))
        return state, Wait(1.0, reprice_at)
    return state, Wait(1.0 if context.now < state.deadline else 5.0)


def _cancelling(state: ClosingState, seen: Observation, context: Context) -> tuple[ClosingState, Effect]:
    order_id = state.order_id
    if order_id is None:
        raise AssertionError("cancelling without an order")
    if isinstance(seen, OrderSeen):
        if not seen.order.is_open:
            return _ended(state, context)
        state = replace(state, failures=state.failures + 1)
        # A cancel can be lost: ask again now and then.
        return state, CancelOrders((order_id,)) if state.failures % 8 == 0 else Wait(RETRY_WAIT_MIN)
    if isinstance(seen, Failed):
        state = replace(state, failures=state.failures + 1)
        return state, Wait(_retry_wait(state.failures))
    return state, Poll(order_id)


def _ended(state: ClosingState, context: Context) -> tuple[ClosingState, Effect]:
    """The attempt is proven terminal: either everything is closed, or a further attempt takes the remainder."""
    if context.held <= state.keep_qty:
        return replace(state, phase=Phase.DONE), Finish()
    state = replace(state, phase=Phase.CHECKING, step=state.step + 1, order_id=None, failures=0)
    return state, AskPosition()


_HANDLERS = {
    Phase.CLEARING: _clearing,
    Phase.CHECKING: _checking,
    Phase.SENDING: _sending,
    Phase.RESOLVING: _resolving,
    Phase.WORKING: _working,
    Phase.CANCELLING: _cancelling,
}
