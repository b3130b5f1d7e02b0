"""The closing procedure as a state machine: (state, what was seen, context) -> (state, next effect).

One effect at a time; the shell performs it and comes back with what it saw. The machine never assumes: an unknown
outcome is resolved by the client order id, a quantity comes from the broker's answer, a remainder is closed by a
further attempt, and only the broker's evidence ends it (spec: closing, step by step; F2, F18, F20, F21, F43; I1-I3).
"""

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

from exitguard.core.closing_words import (
    AskPosition,
    CancelOrders,
    ClosingState,
    Context,
    Done,
    Effect,
    Failed,
    Finish,
    ListOrders,
    Lookup,
    Observation,
    OrderAbsent,
    OrderSeen,
    OrdersListed,
    Phase,
    Poll,
    PositionSeen,
    RefusalKind,
    RepairFills,
    SendRefused,
    SendUnknown,
    Submit,
    Wait,
)
from exitguard.core.evolve import evolve
from exitguard.core.instrument import Instrument, round_to_tick
from exitguard.core.orders import (
    BrokerOrder,
    OrderRequest,
    OrderSide,
    OrderStatus,
    OrderType,
    TimeInForce,
)
from exitguard.core.policy import CloseStyle
from exitguard.core.position import Holding

__all__ = [
    "ABSENCE_PROOFS",
    "RETRY_WAIT_MAX",
    "AskPosition",
    "CancelOrders",
    "ClosingState",
    "Context",
    "Done",
    "Effect",
    "Failed",
    "Finish",
    "ListOrders",
    "Lookup",
    "Observation",
    "OrderAbsent",
    "OrderSeen",
    "OrdersListed",
    "Phase",
    "Poll",
    "PositionSeen",
    "RefusalKind",
    "RepairFills",
    "SendRefused",
    "SendUnknown",
    "Submit",
    "Wait",
    "advance",
    "begin",
    "client_order_id",
    "close_request",
    "goes_plain",
    "plain_request",
    "sent",
]

ZERO = Decimal(0)
# A 404 for a client order id right after a send is no proof: look this often, with growing waits between the looks.
ABSENCE_PROOFS = 3
RETRY_WAIT_MIN = 0.25
RETRY_WAIT_MAX = 30.0
# Pace past the deadline, and while the venue takes no orders: the request budget is for positions that can be helped.
SLOW_WAIT = 5.0
# A cancel can be lost: ask again after this many looks that still found the order open.
CANCEL_EVERY = 4
# Positions lag fills by up to ten seconds (Alpaca-API#276): so many looks before a difference is taken at its word.
LAG_LOOKS = 6
# A limit in extended hours cannot end at market: it is brought back to the far side this often.
EXTENDED_REPRICE = timedelta(seconds=30)


def client_order_id(account: str, uid: str, purpose: str, attempt: int) -> str:
    """The id of one attempt: derived, so that a restart finds the order again. At most 128 characters (Alpaca)."""
    return f"xg-{account[:64]}-{uid}-{purpose}{attempt}"


def begin(state: ClosingState, context: Context) -> tuple[ClosingState, Effect]:
    """First effect of a new close, or of one that a restart found.

    An attempt that may be live is followed up before anything else, even when nothing seems to be left.
    """
    if state.request is not None and state.phase in (Phase.SENDING, Phase.RESOLVING):
        return replace(state, phase=Phase.RESOLVING, absences=0), Lookup(state.request.client_order_id)
    if state.request is not None and state.order_id is not None and state.phase in (Phase.WORKING, Phase.CANCELLING):
        return state, Poll(state.order_id)
    if context.clear and context.held <= state.keep_qty:
        return replace(state, phase=Phase.DONE), Finish()
    if context.clear and state.attempt == 0 and _can_send(state, context):
        return _send(state, context, context.held - state.keep_qty)
    # Nothing proves that our books are up to date: a leg may have filled unseen while the position still lags.
    return replace(state, phase=Phase.CLEARING, repair_due=True), ListOrders()


def advance(state: ClosingState, seen: Observation, context: Context) -> tuple[ClosingState, Effect]:
    """Next effect, given what the shell saw."""
    if state.phase is Phase.DONE:
        return state, Finish()
    handler = _HANDLERS[state.phase]
    return handler(state, seen, context)


def _retry_wait(failures: int) -> float:
    wait: float = min(RETRY_WAIT_MAX, RETRY_WAIT_MIN * 2.0 ** min(failures, 10))
    return wait


def _pace(state: ClosingState, context: Context) -> float:
    """Wait between two looks at something that takes its time; slower once the close is past its deadline."""
    return RETRY_WAIT_MIN if context.now <= state.deadline else SLOW_WAIT


def _can_send(state: ClosingState, context: Context) -> bool:
    """Whether an order sent now would act now; in extended hours only a limit does, and a limit needs a quote."""
    return context.can_trade and not (context.extended_hours and _limit_price(state, context) is None)


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
        if context.held <= state.keep_qty:
            return replace(state, phase=Phase.DONE), Finish()
        return _ask(replace(state, phase=Phase.CHECKING, failures=0, looks=0), context)
    if context.held > state.keep_qty and not context.can_trade:
        # No order of ours could follow: leave the resting protection where it is until one can.
        return state, Wait(SLOW_WAIT)
    to_cancel = tuple(order.id for order in open_orders if order.status is not OrderStatus.PENDING_CANCEL)
    # Cancels are asynchronous, and a leg may fill first: ask, look again, and read the fills once nothing rests.
    ask = bool(to_cancel) and state.looks % CANCEL_EVERY == 0
    state = replace(state, looks=state.looks + 1, repair_due=True)
    return state, CancelOrders(to_cancel) if ask else Wait(_pace(state, context))


def _own_attempt(state: ClosingState, orders: Collection[BrokerOrder]) -> BrokerOrder | None:
    if state.request is None:
        return None
    return next((o for o in orders if o.client_order_id == state.request.client_order_id), None)


def _ask(state: ClosingState, context: Context) -> tuple[ClosingState, Effect]:
    """The next question of the check: missed fills first where they are due, then the broker's position."""
    if not context.can_trade:
        return state, Wait(SLOW_WAIT)
    if state.repair_due:
        return replace(state, repairing=True), RepairFills()
    return state, AskPosition()


def _checking(state: ClosingState, seen: Observation, context: Context) -> tuple[ClosingState, Effect]:
    if context.held <= state.keep_qty:
        return replace(state, phase=Phase.DONE), Finish()
    if isinstance(seen, Failed):
        state = replace(state, failures=state.failures + 1, repairing=False)
        return state, Wait(_retry_wait(state.failures))
    if not isinstance(seen, PositionSeen):
        if state.repairing:
            state = replace(state, repair_due=False, repairing=False)
        return _ask(state, context)
    held = ZERO if seen.position is None else seen.position.qty * state.side.sign
    free = ZERO if seen.position is None else abs(seen.position.qty_available)
    if state.ceiling is not None and context.held > state.ceiling:
        # The order itself said that it filled more than our books have: never sell that part again.
        state = replace(state, disagreements=state.disagreements + 1)
        if state.disagreements <= LAG_LOOKS:
            return _look_again(state, context)
        state = replace(state, ceiling=None)
    if held != context.held:
        # Our books and the broker differ: read what we missed, then look again. Positions lag fills by seconds.
        state = replace(state, disagreements=state.disagreements + 1)
        if held <= 0 or state.disagreements <= 2:
            return _look_again(state, context)
    if free < held and state.disagreements <= LAG_LOOKS:
        # Something still holds a part: clear again before sending less than everything.
        state = replace(state, phase=Phase.CLEARING, disagreements=state.disagreements + 1, failures=0)
        return state, Wait(_retry_wait(state.disagreements))
    # The smaller of both words: an answer that lags can never make us sell what is gone (I1).
    qty = min(free, min(held, context.held) - state.keep_qty)
    if qty <= 0:
        return replace(state, phase=Phase.CLEARING), Wait(min(SLOW_WAIT, _retry_wait(state.disagreements)))
    if not _can_send(state, context):
        return state, Wait(SLOW_WAIT)
    return _send(replace(state, disagreements=0), context, qty)


def _look_again(state: ClosingState, context: Context) -> tuple[ClosingState, Effect]:
    """Read the fills at every other look, wait at the others."""
    if state.disagreements % 2:
        return _ask(replace(state, repair_due=True), context)
    return state, Wait(min(SLOW_WAIT, _retry_wait(state.disagreements)))


def _send(state: ClosingState, context: Context, qty: Decimal) -> tuple[ClosingState, Effect]:
    attempt = state.attempt + 1
    request = close_request(state, attempt, qty, context)
    return _sent(state, request, attempt, context), Submit(request, attempt)


def _sent(state: ClosingState, request: OrderRequest, attempt: int, context: Context) -> ClosingState:
    return evolve(
        state,
        phase=Phase.SENDING,
        attempt=attempt,
        request=request,
        unused_id=None,
        order_id=None,
        sent_at=context.now,
        absences=0,
        held_before=context.held,
        ceiling=None,
        duplicate=False,
    )


def close_request(state: ClosingState, attempt: int, qty: Decimal, context: Context) -> OrderRequest:
    """The order of one attempt: exactly `qty`, with the intent that lets the broker refuse all but a reduction.

    An attempt that never arrived is sent again under its own id, also when a reduction became a close meanwhile: should
    it arrive after all, the broker refuses one of both, and the ledger knows one live intent (I2).
    """
    limit = _limit_price(state, context)
    purpose = "r" if state.is_reduction else "c"
    return OrderRequest(
        client_order_id=state.unused_id or client_order_id(state.account, state.uid, purpose, attempt),
        symbol=state.instrument.symbol,
        side=state.side.closing,
        qty=qty,
        type=OrderType.MARKET if limit is None else OrderType.LIMIT,
        time_in_force=TimeInForce.DAY,
        position_intent=state.side.closing_intent,
        limit_price=limit,
        extended_hours=context.extended_hours,
    )


def plain_request(account: str, uid: str, holding: Holding, attempt: int) -> OrderRequest:
    """The order of a close that finds a tight market in regular hours: everything that is held, at market."""
    return OrderRequest(
        client_order_id=client_order_id(account, uid, "c", attempt),
        symbol=holding.instrument.symbol,
        side=holding.side.closing,
        qty=holding.qty,
        type=OrderType.MARKET,
        time_in_force=TimeInForce.DAY,
        position_intent=holding.side.closing_intent,
    )


def goes_plain(instrument: Instrument, context: Context) -> bool:
    """Whether `begin` would send `plain_request` for a close that has made no attempt yet, and nothing else."""
    if not context.clear or not context.can_trade or context.extended_hours or context.held <= 0:
        return False
    return _is_market(instrument, context)


def _is_market(instrument: Instrument, context: Context) -> bool:
    """Whether a first order in regular hours goes at market: by its style, or because the market is tight."""
    policy, quote = context.policy, context.quote
    if quote is None or quote.bid <= 0 or quote.ask <= 0:
        return True
    style = policy.option_close_style if instrument.is_option else policy.stock_close_style
    if style is CloseStyle.MARKET or policy.adaptive_steps <= 0:
        return True
    return quote.relative_spread * 100 <= policy.adaptive_tight_spread_percent


def sent(state: ClosingState, request: OrderRequest, context: Context) -> ClosingState:
    """The state of a close whose first order, a plain one, is on its way."""
    return _sent(state, request, state.attempt + 1, context)


def _limit_price(state: ClosingState, context: Context) -> Decimal | None:
    """None for a market order; a wide spread is crossed by a limit at the far side, re-priced, before the market is."""
    policy, quote = context.policy, context.quote
    selling = state.side.closing is OrderSide.SELL
    if quote is None or quote.bid <= 0 or quote.ask <= 0:
        return None
    if not context.extended_hours and (state.step >= policy.adaptive_steps or _is_market(state.instrument, context)):
        return None
    far_side = round_to_tick(quote.bid if selling else quote.ask, up=not selling, is_option=state.instrument.is_option)
    return far_side if far_side > 0 else None


def _sending(state: ClosingState, seen: Observation, context: Context) -> tuple[ClosingState, Effect]:
    request = state.request
    if request is None:
        raise AssertionError("sending without a request")
    if isinstance(seen, OrderSeen):
        return _working(_accepted(state, seen.order, context), seen, context)
    if isinstance(seen, SendRefused) and seen.kind is not RefusalKind.DUPLICATE:
        state = replace(
            state,
            phase=Phase.CLEARING,
            futile=state.futile + 1,
            looks=0,
            # "Insufficient quantity" and "intent mismatch" mean that our books are behind.
            repair_due=state.repair_due or seen.kind is RefusalKind.RECONCILE,
        )
        wait = _retry_wait(state.futile)
        if seen.retry_after is not None and seen.retry_after > wait:
            wait = min(seen.retry_after, RETRY_WAIT_MAX)
        return state, Wait(wait)
    if isinstance(seen, Failed):
        # The intent was not committed, or fills overtook it, so nothing was sent: the same attempt, its quantity anew.
        state = replace(
            state,
            phase=Phase.CLEARING,
            attempt=state.attempt - 1,
            request=None,
            unused_id=request.client_order_id,
            repair_due=True,
            futile=state.futile + 1,
        )
        return state, Wait(_retry_wait(state.futile))
    state = replace(state, phase=Phase.RESOLVING, absences=0, duplicate=isinstance(seen, SendRefused))
    return state, Lookup(request.client_order_id)


def _accepted(state: ClosingState, order: BrokerOrder, context: Context) -> ClosingState:
    sent_at = state.sent_at if state.sent_at is not None else context.now
    return replace(state, phase=Phase.WORKING, order_id=order.id, sent_at=sent_at, failures=0, looks=0)


def _resolving(state: ClosingState, seen: Observation, context: Context) -> tuple[ClosingState, Effect]:
    request = state.request
    if request is None:
        raise AssertionError("resolving without a request")
    if isinstance(seen, OrderSeen):
        return _working(_accepted(state, seen.order, context), seen, context)
    if isinstance(seen, OrderAbsent):
        state = replace(state, absences=state.absences + 1)
        if state.absences < ABSENCE_PROOFS:
            return state, Wait(_retry_wait(state.absences + 1), full=True)
        if state.duplicate:
            # The id is used, and the order cannot be fetched: the list of open orders says whether it is live. The
            # next attempt gets an id of its own.
            state = replace(state, phase=Phase.CLEARING, futile=state.futile + 1, repair_due=True, looks=0)
            return state, Wait(_retry_wait(state.futile))
        # Proven absent: this attempt's id is free again, and only it; the quantity is asked for anew.
        state = replace(
            state,
            phase=Phase.CLEARING,
            attempt=state.attempt - 1,
            request=None,
            unused_id=request.client_order_id,
            absences=0,
            looks=0,
        )
        return state, ListOrders()
    if isinstance(seen, Failed):
        state = replace(state, failures=state.failures + 1)
        return state, Wait(_retry_wait(state.failures))
    return state, Lookup(request.client_order_id)


def _working(state: ClosingState, seen: Observation, context: Context) -> tuple[ClosingState, Effect]:
    order_id, request = state.order_id, state.request
    if order_id is None or request is None:
        raise AssertionError("working without an order")
    if isinstance(seen, Failed):
        state = replace(state, failures=state.failures + 1)
        return state, Wait(_retry_wait(state.failures))
    if isinstance(seen, OrderAbsent):
        return replace(state, phase=Phase.RESOLVING, absences=0), Lookup(request.client_order_id)
    if not isinstance(seen, OrderSeen):
        return state, Poll(order_id)
    if not seen.order.is_open:
        return _ended(state, seen.order, context)
    if context.held <= state.keep_qty:
        # Something else closed it while our order rests: take the order back before anything is called done.
        return _take_back(state)
    if seen.order.status is OrderStatus.DONE_FOR_DAY:
        # It would rest until the session ends, and fill no more.
        return _take_back(state)
    reprice_at = _reprice_at(state, seen.order.type or request.type, request.extended_hours, context)
    if reprice_at is None:
        return state, Wait(1.0 if context.now < state.deadline else SLOW_WAIT)
    return _take_back(state) if context.now >= reprice_at else (state, Wait(1.0, reprice_at))


def _take_back(state: ClosingState) -> tuple[ClosingState, Effect]:
    if state.order_id is None:
        raise AssertionError("cancelling without an order")
    return replace(state, phase=Phase.CANCELLING, looks=1), CancelOrders((state.order_id,))


def _reprice_at(state: ClosingState, kind: OrderType, extended: bool, context: Context) -> datetime | None:
    """When a resting limit is brought back to the market; None for a market order."""
    if kind is not OrderType.LIMIT or state.sent_at is None:
        return None
    if not extended:
        return state.sent_at + timedelta(seconds=context.policy.adaptive_step_seconds)
    # Regular hours have better prices and market orders: a limit of the extended session does not outlive it.
    return state.sent_at + EXTENDED_REPRICE if context.extended_hours else context.now


def _cancelling(state: ClosingState, seen: Observation, context: Context) -> tuple[ClosingState, Effect]:
    order_id, request = state.order_id, state.request
    if order_id is None or request is None:
        raise AssertionError("cancelling without an order")
    if isinstance(seen, Failed):
        state = replace(state, failures=state.failures + 1)
        return state, Wait(_retry_wait(state.failures))
    if isinstance(seen, OrderAbsent):
        return replace(state, phase=Phase.RESOLVING, absences=0), Lookup(request.client_order_id)
    if not isinstance(seen, OrderSeen):
        return state, Poll(order_id)
    if not seen.order.is_open:
        return _ended(state, seen.order, context)
    # A cancel can be lost: ask again now and then.
    ask = state.looks % CANCEL_EVERY == 0
    state = replace(state, looks=state.looks + 1)
    return state, CancelOrders((order_id,)) if ask else Wait(_pace(state, context))


def _ended(state: ClosingState, order: BrokerOrder, context: Context) -> tuple[ClosingState, Effect]:
    """The attempt is proven terminal: either everything is closed, or a further attempt takes the remainder."""
    if order.status is OrderStatus.REPLACED:
        # Somebody replaced our order: its successor lives under another id and must go first.
        return replace(state, phase=Phase.CLEARING, order_id=None, looks=0, repair_due=True), ListOrders()
    if context.held <= state.keep_qty:
        return replace(state, phase=Phase.DONE), Finish()
    taken_back = state.phase is Phase.CANCELLING
    state = replace(state, phase=Phase.CHECKING, step=state.step + 1, order_id=None, failures=0, looks=0)
    if state.held_before is None:
        state = replace(state, repair_due=True)  # a restart forgot what was held: nothing to compare with
    elif context.held > state.held_before - order.filled_qty:
        # Our books lack fills that the order itself reports (hummingbot sold 170 of 100 here).
        state = replace(state, ceiling=state.held_before - order.filled_qty, repair_due=True)
    if order.filled_qty > 0 or taken_back:
        return _ask(replace(state, futile=0), context)
    # Accepted, then ended by the venue without a fill: not at once again, and ever slower.
    state = replace(state, futile=state.futile + 1)
    return state, Wait(_retry_wait(state.futile))


_HANDLERS = {
    Phase.CLEARING: _clearing,
    Phase.CHECKING: _checking,
    Phase.SENDING: _sending,
    Phase.RESOLVING: _resolving,
    Phase.WORKING: _working,
    Phase.CANCELLING: _cancelling,
}
