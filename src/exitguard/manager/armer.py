"""Commits the close of every open position before anything has breached, so that a breach has nothing to wait for.

An armed intent is the whole order of the next attempt, under the id that this attempt has anyway. At the breach the
order leaves first and its record follows; whoever finds an armed intent after a crash knows the only id under which an
order can have left, and the broker takes that id once (I2, I3).
"""

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from exitguard.core import closing
from exitguard.core.evaluate import Action, Bracket, evaluate
from exitguard.core.marks import QuoteView, WideStreak, judge
from exitguard.core.orders import BrokerOrder, OrderRequest
from exitguard.core.quote import Quote, QuoteState
from exitguard.core.records import (
    AppendEvent,
    CloseReason,
    EventType,
    IntentPurpose,
    IntentRecord,
    IntentStatus,
    Operation,
    PositionStatus,
    PutIntent,
    PutPosition,
)
from exitguard.manager.context import AccountContext
from exitguard.manager.orders import request_data
from exitguard.manager.tracked import Tracked
from exitguard.store.port import StoreRejected, StoreUnavailable

# Armed in one batch at most: the intent of a breach meanwhile waits for no more than these.
BATCH = 50
# What changes within this many seconds is armed together.
PAUSE_SECONDS = 0.05
RETRY_SECONDS = 1.0


class Armer:
    """Keeps the armed intents of one account's open positions at what they hold."""

    def __init__(self, context: AccountContext) -> None:
        self._context = context

    async def follow(self) -> None:
        """Arm whatever changed, until cancelled. Raises LeaseLost."""
        context, told = self._context, False
        while True:
            await context.unarmed_news.wait()
            context.unarmed_news.clear()
            try:
                await self.arm()
                told = False
            except StoreUnavailable as error:
                if not told:
                    context.log.warning("positions not armed, trying again until they are", reason=str(error))
                told = True
                context.unarmed_news.set()
                await asyncio.sleep(RETRY_SECONDS)
            await asyncio.sleep(PAUSE_SECONDS)

    async def arm(self) -> None:
        """Commit what the changed positions need. Raises StoreUnavailable and LeaseLost; then they stay to be armed."""
        context = self._context
        while context.unarmed:
            self._require_database()
            chosen = [context.unarmed.popitem()[1] for _ in range(min(BATCH, len(context.unarmed)))]
            operations: list[Operation] = []
            requests: list[tuple[Tracked, OrderRequest]] = []
            for tracked in chosen:
                request = self._wanted(tracked)
                if request is not None:
                    operations += self._arming(tracked, request)
                    requests.append((tracked, request))
            if not operations:
                continue
            try:
                await context.ledger.commit(*operations)
                self._require_database()
            except StoreUnavailable:
                context.unarmed.update({tracked.record.id: tracked for tracked in chosen})
                raise
            except StoreRejected as error:
                await self._arm_singly(requests, error)
                continue
            for tracked, request in requests:
                # Unless something has come between, which arms it anew or sends that id another way.
                if tracked.armed is not None and tracked.armed.client_order_id == request.client_order_id:
                    tracked.armed_request = request

    def _require_database(self) -> None:
        """Raises StoreUnavailable while what is committed may get no further than the journal: it arms nothing."""
        if not self._context.ledger.store.surely_leased():
            raise StoreUnavailable("the lease is in doubt, or the database is away")

    async def _arm_singly(self, requests: list[tuple[Tracked, OrderRequest]], cause: StoreRejected) -> None:
        """One position that the database refuses must not keep its neighbours unarmed (F60)."""
        context = self._context
        for tracked, request in requests:
            armed = tracked.armed
            if armed is None or armed.client_order_id != request.client_order_id:
                continue
            try:
                await context.ledger.commit(PutIntent(armed))
                self._require_database()
                if tracked.armed is armed:
                    tracked.armed_request = request
            except StoreRejected:
                context.log.error(
                    "position cannot be armed, its close is committed first",
                    position=tracked.record.id,
                    reason=str(cause),
                )

    def _wanted(self, tracked: Tracked) -> OrderRequest | None:
        """The order that should be armed; None when it is, and for a position that is closing or closed."""
        record, holding = tracked.record, tracked.holding
        if tracked.is_closing or record.id not in self._context.positions or holding.qty <= 0:
            return None
        if tracked.bracket is not Bracket.NOT_NEEDED:
            return None  # its resting orders have to go first, so that nothing would be gained
        request = closing.plain_request(record.account_name, record.uid, holding, record.close_attempt + 1)
        return None if request == tracked.armed_request else request

    def _arming(self, tracked: Tracked, request: OrderRequest) -> list[Operation]:
        """Note and return what arms a position anew."""
        context, record = self._context, tracked.record
        operations = disarm(tracked, but=request.client_order_id)
        tracked.armed = IntentRecord(
            account_name=context.name,
            client_order_id=request.client_order_id,
            purpose=IntentPurpose.CLOSE,
            symbol=request.symbol,
            side=request.side,
            qty=request.qty,
            status=IntentStatus.ARMED,
            attempt=record.close_attempt + 1,
            created_at=context.clock.now(),
            position_id=record.id,
            request=request_data(request),
        )
        return [*operations, PutIntent(tracked.armed)]


def take_over(tracked: Tracked, armed: IntentRecord) -> None:
    """Take over what an earlier process armed; where it is what the position holds, nothing is written again."""
    tracked.armed = armed
    record = tracked.record
    if tracked.holding.qty <= 0:
        return
    request = closing.plain_request(record.account_name, record.uid, tracked.holding, record.close_attempt + 1)
    if request.client_order_id == armed.client_order_id and _as_text(request_data(request)) == _as_text(armed.request):
        tracked.armed_request = request


def _as_text(request: dict[str, Any]) -> dict[str, str]:
    """An order's fields, whatever kept them: numbers come back from the ledger as text."""
    return {name: str(value) for name, value in request.items()}


def disarm(tracked: Tracked, *, but: str | None = None) -> list[Operation]:
    """Forget the armed intent; returns what records that its order is never sent, unless it is sent: `but` that id."""
    armed, tracked.armed, tracked.armed_request = tracked.armed, None, None
    if armed is None or armed.client_order_id == but:
        return []
    return [PutIntent(replace(armed, status=IntentStatus.CANCELED, detail="not needed, never sent"))]


def recognise(context: AccountContext, tracked: Tracked, order: BrokerOrder, now: datetime) -> None:
    """Follow an order that is still armed in the books, and is at the broker: a process that has ended sent it.

    Its reason went with that process, and is what the rules say of the price at which it filled, or of the mark.
    """
    armed = tracked.armed
    if armed is None or armed.client_order_id != order.client_order_id:
        return
    tracked.armed, tracked.armed_request = None, None
    context.ledger.post(context.put_intent(replace(armed, status=IntentStatus.WORKING, broker_order_id=order.id)))
    if tracked.is_closing:
        # That close has begun anew meanwhile, and takes the order for its own.
        tracked.record = replace(
            tracked.record,
            close_attempt=max(tracked.record.close_attempt, armed.attempt),
            close_client_order_id=armed.client_order_id,
        )
        return
    reason = _reason(context, tracked, order, now)
    tracked.record = replace(
        tracked.record,
        status=PositionStatus.CLOSING,
        close_reason=reason,
        close_started_at=now,
        close_deadline=now + timedelta(seconds=tracked.policy.close_deadline_seconds),
        close_attempt=armed.attempt,
        close_client_order_id=armed.client_order_id,
    )
    facts = {"rule": reason, "found": "at the broker", "order_id": order.id, "client_order_id": order.client_order_id}
    context.ledger.post(
        PutPosition(tracked.record),
        AppendEvent(EventType.EXIT_TRIGGERED, now, facts, tracked.record.id),
    )
    context.log.warning(
        "a close of an earlier process is at the broker, following it",
        position=tracked.record.id,
        client_order_id=order.client_order_id,
        reason=reason.value,
    )


def _reason(context: AccountContext, tracked: Tracked, order: BrokerOrder, now: datetime) -> CloseReason:
    at, price = order.submitted_at or now, order.filled_avg_price
    if price is not None:
        view = QuoteView(Quote(order.symbol, price, price, at), QuoteState.LIVE, usable=True)
    else:
        marks = context.marks.get(order.symbol)
        view, _ = judge(marks.quote if marks is not None else None, now, tracked.policy, WideStreak())
    decision = evaluate(tracked.watched(), view, at, context.session(at), tracked.policy)
    return decision.rule if decision.action is Action.CLOSE and decision.rule else CloseReason.RECONCILED
