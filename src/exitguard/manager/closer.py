"""Drives the closing state machine of one position: performs its effects, one at a time, and feeds back what was seen.

The intent of every attempt is committed before the order leaves (I3); each answer is folded into the position before
the machine looks at it. Crash-safe: a restart finds the position `closing` with its live intent and resumes by client
order id.
"""

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, assert_never

from exitguard.broker.port import (
    Accepted,
    BrokerError,
    BrokerIncomplete,
    BrokerRateLimited,
    BrokerRefused,
    Priority,
    Refused,
    SubmitResult,
)
from exitguard.core import closing
from exitguard.core.closing import ClosingState, Context, Effect, Observation, RefusalKind
from exitguard.core.evaluate import Decision
from exitguard.core.marks import WideStreak, judge
from exitguard.core.orders import BrokerOrder, BrokerPosition, OrderRequest
from exitguard.core.records import (
    AppendEvent,
    CloseReason,
    EventType,
    IntentPurpose,
    IntentRecord,
    IntentStatus,
    PositionStatus,
    PutPosition,
)
from exitguard.manager.armer import disarm
from exitguard.manager.context import AccountContext
from exitguard.manager.corporate import CorporateActions
from exitguard.manager.launcher import Launch, Launcher, is_armed
from exitguard.manager.lifecycle import Lifecycle
from exitguard.manager.orders import request_data
from exitguard.manager.tracked import Tracked
from exitguard.store.port import LeaseLost, StoreError, StoreRejected

# A broker answer about the quantity is good for the unquestioned first attempt for this long (venue or real seconds).
CLEAR_FOR = timedelta(seconds=15)
CLEAR_FOR_STEPPED = timedelta(seconds=90)
# An order that is armed has this many seconds to get on its way before its record is written.
HEAD_START = 0.001
_NO_STREAK = WideStreak()


class Closer:
    """Closes and reduces positions of one account."""

    def __init__(self, context: AccountContext, lifecycle: Lifecycle, corporate: CorporateActions) -> None:
        self._context = context
        self._lifecycle = lifecycle
        self._corporate = corporate
        self._launcher = Launcher(context)

    def start(self, tracked: Tracked, decision: Decision) -> None:
        """Begin a close or a reduction that `evaluate` decided; nothing happens when one is under way (I2)."""
        if tracked.is_closing or decision.rule is None:
            return
        now = self._context.clock.now()
        keep = Decimal(0)
        if decision.reduce_qty is not None:
            keep = tracked.holding.qty - decision.reduce_qty
        tracked.trigger_price, tracked.trigger_at = decision.price, now
        if keep == 0 and is_armed(tracked):
            launch = self._launcher.launch(tracked, decision, self._view(tracked, first=True))
            if launch is not None:
                tracked.launched = True
                tracked.closer = self._context.spawn(self._follow(tracked, launch), f"close {tracked.record.id}")
                return
        self._begin(tracked, decision, keep, now)
        self._tell(tracked, decision, tracked.holding.qty - keep, now)
        self._spawn(tracked, self._state(tracked, decision.rule, keep))

    def _begin(self, tracked: Tracked, decision: Decision, keep: Decimal, now: datetime) -> None:
        """Say in the row what has begun."""
        tracked.record = replace(
            tracked.record,
            status=PositionStatus.CLOSING if keep == 0 else tracked.record.status,
            close_reason=decision.rule,
            close_started_at=now,
            close_deadline=now + timedelta(seconds=tracked.policy.close_deadline_seconds),
        )

    async def _follow(self, tracked: Tracked, launch: Launch) -> None:
        """Drive a close whose order is on its way."""
        await asyncio.sleep(HEAD_START)  # ended here, a successor finds the order as if this process had crashed
        self._begin(tracked, launch.decision, Decimal(0), launch.at)
        reason = tracked.record.close_reason or CloseReason.MANUAL_CLOSE
        state = closing.sent(self._state(tracked, reason, Decimal(0)), launch.request, launch.view)
        tracked.record = replace(
            tracked.record, close_attempt=state.attempt, close_client_order_id=launch.request.client_order_id
        )
        tracked.launched = False
        self._say(tracked, launch.decision, launch.request.qty)
        await self._guard(tracked, state, launch)

    async def _landed(self, tracked: Tracked, launch: Launch) -> Observation:
        result = await self._launcher.land(tracked, launch)
        if result is None:
            return closing.Failed(self._context.withdraw(launch.intent))
        return self._answer(tracked, launch.intent, result)

    # Telling ------------------------------------------------------------------------------------------------------

    def _tell(self, tracked: Tracked, decision: Decision, qty: Decimal, at: datetime) -> None:
        self._context.ledger.post(
            PutPosition(tracked.record),
            AppendEvent(EventType.EXIT_TRIGGERED, at, decision.explain(), tracked.record.id),
        )
        self._say(tracked, decision, qty)

    def _say(self, tracked: Tracked, decision: Decision, qty: Decimal) -> None:
        if decision.rule is None:
            raise AssertionError("a close without a rule")
        self._context.log.warning(
            f"EXIT TRIGGERED: {decision.rule.value}",
            position=tracked.record.id,
            symbol=tracked.record.symbol,
            price=str(decision.price),
            quantity=str(qty),
        )

    def take_over(self, tracked: Tracked, decision: Decision) -> None:
        """Turn a reduction that is under way into a close: it must not keep a breach waiting."""
        if not tracked.is_reducing or decision.rule is None:
            return
        now = self._context.clock.now()
        tracked.trigger_price, tracked.trigger_at = decision.price, now
        tracked.record = replace(
            tracked.record,
            status=PositionStatus.CLOSING,
            close_reason=decision.rule,
            close_started_at=now,
            close_deadline=now + timedelta(seconds=tracked.policy.close_deadline_seconds),
        )
        self._tell(tracked, decision, tracked.holding.qty, now)
        tracked.news.set()

    def resume(self, tracked: Tracked, live: IntentRecord | None) -> None:
        """Go on with a close that an earlier process began; `live` is its intent without a proven end, if any.

        Nothing happens when a breach has begun one since the start (I2).
        """
        if tracked.closer is not None:
            return
        reason = tracked.record.close_reason or CloseReason.MANUAL_CLOSE
        state = self._state(tracked, reason, Decimal(0))
        if live is not None:
            request = self._request_from(tracked, live)
            state = replace(state, phase=closing.Phase.RESOLVING, attempt=live.attempt, request=request)
        self._spawn(tracked, state)

    def _spawn(self, tracked: Tracked, state: ClosingState) -> None:
        name = f"close {tracked.record.account_name}/{tracked.record.id}"
        tracked.closer = self._context.spawn(self._guard(tracked, state), name)

    def _state(self, tracked: Tracked, reason: CloseReason, keep: Decimal) -> ClosingState:
        record, now = tracked.record, self._context.clock.now()
        return ClosingState(
            account=record.account_name,
            uid=record.uid,
            instrument=tracked.holding.instrument,
            side=record.side,
            reason=reason,
            started_at=record.close_started_at or now,
            deadline=record.close_deadline or now,
            keep_qty=keep,
            attempt=record.close_attempt,
        )

    def _request_from(self, tracked: Tracked, live: IntentRecord) -> OrderRequest:
        return replace(
            closing.close_request(
                self._state(tracked, CloseReason.MANUAL_CLOSE, Decimal(0)),
                live.attempt,
                live.qty,
                self._view(tracked, first=False),
            ),
            client_order_id=live.client_order_id,
        )

    # Driving ----------------------------------------------------------------------------------------------------

    async def _guard(self, tracked: Tracked, state: ClosingState, launch: Launch | None = None) -> None:
        """Drive to the end. A defect of ours is an alarm and a new try; the close is never given up."""
        failures = 0
        try:
            while True:
                try:
                    await self._drive(tracked, state, launch)
                    self._context.alarms.clear(
                        f"closer:{tracked.record.id}", self._context.clock.now(), tracked.record.id
                    )
                    return
                except LeaseLost:
                    raise
                except Exception as error:
                    failures += 1
                    now = self._context.clock.now()
                    self._context.log.exception("close failed unexpectedly", position=tracked.record.id)
                    self._context.alarms.raise_alarm(
                        f"closer:{tracked.record.id}",
                        "closer_failed",
                        f"close of {tracked.record.symbol} failed unexpectedly and is tried again: {error!r}",
                        now,
                        tracked.record.id,
                    )
                launch = None
                await asyncio.sleep(min(30.0, 0.5 * 2.0 ** min(failures, 6)))
                intent = self._context.intents.get(tracked.record.close_client_order_id or "")
                if intent is not None:
                    request = self._request_from(tracked, intent)
                    state = replace(
                        state, phase=closing.Phase.RESOLVING, attempt=intent.attempt, request=request, absences=0
                    )
                else:
                    state = replace(state, phase=closing.Phase.CLEARING, attempt=tracked.record.close_attempt)
        finally:
            tracked.closer = None

    async def _drive(self, tracked: Tracked, state: ClosingState, launch: Launch | None) -> None:
        if tracked.restorer is not None:
            tracked.hurry.set()
            await asyncio.wait([tracked.restorer])  # its order must not appear behind our back
        while True:
            if launch is not None:
                seen, launch = await self._landed(tracked, launch), None
                state, effect = closing.advance(state, seen, self._view(tracked, first=False))
            else:
                state, effect = closing.begin(state, self._view(tracked, first=True))
            while not isinstance(effect, closing.Finish):
                seen = await self._perform(tracked, state, effect)
                state = self._taken_over(tracked, replace(state, instrument=tracked.holding.instrument))
                state = self._recognised(tracked, state)
                state, effect = closing.advance(state, seen, self._view(tracked, first=False))
            await self._finish(tracked, state)
            if not state.is_reduction or tracked.record.status is not PositionStatus.CLOSING:
                return
            # A breach came while the end of the reduction was recorded.
            state = self._state(tracked, tracked.record.close_reason or state.reason, Decimal(0))

    def _recognised(self, tracked: Tracked, state: ClosingState) -> ClosingState:
        """Take an order that an earlier process left armed, and was just seen at the broker, for this close's own."""
        record = tracked.record
        if state.request is not None or state.unused_id is not None or record.close_attempt <= state.attempt:
            return state
        intent = self._context.intents.get(record.close_client_order_id or "")
        request = None if intent is None else self._request_from(tracked, intent)
        return replace(state, attempt=record.close_attempt, request=request)

    def _taken_over(self, tracked: Tracked, state: ClosingState) -> ClosingState:
        record = tracked.record
        if not state.is_reduction or record.status is not PositionStatus.CLOSING:
            return state
        return replace(
            state,
            keep_qty=Decimal(0),
            reason=record.close_reason or state.reason,
            started_at=record.close_started_at or state.started_at,
            deadline=record.close_deadline or state.deadline,
        )

    async def _finish(self, tracked: Tracked, state: ClosingState) -> None:
        context, now = self._context, self._context.clock.now()
        if not state.is_reduction:
            await self._lifecycle.finish(tracked, now)
            return
        if tracked.holding.is_flat:
            await self._lifecycle.finish(tracked, now)
            return
        tracked.record = replace(tracked.record, scaled_out=True)
        if tracked.record.status is PositionStatus.OPEN:
            tracked.record = replace(tracked.record, close_reason=None, close_started_at=None, close_deadline=None)
        self._lifecycle.refresh_bracket(tracked, now)
        context.ledger.post(
            PutPosition(tracked.record),
            AppendEvent(
                EventType.REDUCED, now, {"reason": state.reason, "left": tracked.holding.qty}, tracked.record.id
            ),
        )
        context.log.info("Position reduced", position=tracked.record.id, left=str(tracked.holding.qty))
        context.changed(tracked)

    def _view(self, tracked: Tracked, *, first: bool) -> Context:
        context, now = self._context, self._context.clock.now()
        marks = context.marks.get(tracked.record.symbol)
        quote = marks.quote if marks is not None else None
        view, _ = judge(quote, now, tracked.policy, marks.streak if marks is not None else _NO_STREAK)
        session = context.session(now)
        regular = session is not None and session.contains(now)
        return Context(
            now=now,
            held=tracked.holding.qty,
            quote=view.quote if view.state.value in ("live", "wide") else None,
            can_trade=context.can_trade(tracked.holding.instrument, now, tracked.policy),
            extended_hours=not regular,
            policy=tracked.policy,
            clear=first and self._is_clear(tracked),
        )

    def _is_clear(self, tracked: Tracked) -> bool:
        """Whether our own books prove that nothing rests on the contract and the broker holds what we think."""
        context = self._context
        if not context.stream_up or tracked.broker_seen_at is None or tracked.restorer is not None:
            return False
        if tracked.broker_qty != tracked.signed_qty or context.open_orders_on(tracked.record.symbol):
            return False
        since_fill = tracked.holding.last_fill_at
        if since_fill is not None and since_fill > tracked.broker_seen_at:
            return False
        # A stepped venue is polled once a sweep, that is once a minute of its time.
        good_for = CLEAR_FOR_STEPPED if context.options.stepped else CLEAR_FOR
        return context.clock.now() - tracked.broker_seen_at <= good_for

    # Effects ----------------------------------------------------------------------------------------------------

    async def _perform(self, tracked: Tracked, state: ClosingState, effect: Effect) -> Observation:
        try:
            match effect:
                case closing.Submit():
                    return await self._submit(tracked, effect.request, effect.attempt)
                case closing.Wait():
                    return await self._wait(tracked, state, effect)
                case closing.ListOrders():
                    orders = await self._listed(tracked)
                    for order in orders:
                        self._fold(tracked, order, "orders")
                    return closing.OrdersListed(tuple(orders))
                case closing.CancelOrders():
                    for order_id in effect.order_ids:
                        await self._context.broker.cancel(order_id, Priority.EXIT)
                    return closing.Done()
                case closing.AskPosition():
                    return closing.PositionSeen(await self._held(tracked))
                case closing.Lookup():
                    found = await self._context.broker.order_by_client_id(effect.client_order_id)
                    return closing.OrderAbsent() if found is None else self._seen(tracked, found)
                case closing.Poll():
                    polled = await self._context.broker.order(effect.order_id)
                    return closing.OrderAbsent() if polled is None else self._seen(tracked, polled)
                case closing.RepairFills():
                    await self._repair(tracked)
                    return closing.Done()
                case closing.Finish():
                    raise AssertionError("Finish is not performed")
                case _:
                    assert_never(effect)
        except LeaseLost:
            raise
        except (BrokerError, StoreError) as error:
            self._context.log.warning(
                "close step failed, trying again",
                position=tracked.record.id,
                step=type(effect).__name__,
                reason=str(error),
            )
            return closing.Failed(str(error))

    async def _wait(self, tracked: Tracked, state: ClosingState, effect: closing.Wait) -> Observation:
        if effect.full:
            await asyncio.sleep(effect.seconds)
            return closing.Done()
        if not tracked.news.is_set():  # what arrived while the last question was asked counts too
            await self._sleep_until_news(tracked, effect)
        tracked.news.clear()
        if state.phase in (closing.Phase.WORKING, closing.Phase.CANCELLING) and state.order_id is not None:
            known = self._context.orders.get(state.order_id)
            if known is not None and not known.is_open and self._context.tally(known.id).qty >= known.filled_qty:
                return closing.OrderSeen(known)
        return closing.Done()

    async def _sleep_until_news(self, tracked: Tracked, effect: closing.Wait) -> None:
        waits: list[asyncio.Task[Any]] = [asyncio.create_task(tracked.news.wait())]
        if effect.until is not None:
            waits.append(asyncio.create_task(self._context.clock.sleep_until(effect.until)))
        try:
            await asyncio.wait(waits, timeout=effect.seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()

    def _fold(self, tracked: Tracked, order: BrokerOrder, source: str) -> None:
        """Fold an answer to our own question: that is no news to wake up for."""
        had_news = tracked.news.is_set()
        self._lifecycle.apply_order(order, None, self._context.clock.now(), source)
        if not had_news:
            tracked.news.clear()

    def _seen(self, tracked: Tracked, order: BrokerOrder) -> Observation:
        self._fold(tracked, order, "orders")
        return closing.OrderSeen(order)

    async def _held(self, tracked: Tracked) -> BrokerPosition | None:
        """What the broker holds. A split that its answers show restates ours first: all of it is to be closed."""
        held = await self._context.broker.position(tracked.record.symbol)
        if held is not None and held.qty != tracked.signed_qty:
            await self._corporate.split(tracked, held)
        return held

    async def _repair(self, tracked: Tracked) -> None:
        """Read the contract's orders since shortly before the entry and fold what was missed."""
        since = tracked.record.entry_time - timedelta(minutes=5)
        try:
            orders = await self._context.broker.orders_since(since, [tracked.record.symbol])
        except BrokerIncomplete as error:
            orders = self._readable(tracked, error)
        for order in orders:
            self._fold(tracked, order, "orders")

    async def _listed(self, tracked: Tracked) -> list[BrokerOrder]:
        try:
            return await self._context.broker.open_orders([tracked.record.symbol], Priority.EXIT)
        except BrokerIncomplete as error:
            return self._readable(tracked, error)

    def _readable(self, tracked: Tracked, error: BrokerIncomplete) -> list[BrokerOrder]:
        """Go on with the orders that could be read: how much may be sold is asked of the position in any case."""
        self._context.log.error("orders partly unreadable", position=tracked.record.id, reason=str(error))
        return [row for row in error.rows if isinstance(row, BrokerOrder)]

    async def _submit(self, tracked: Tracked, request: OrderRequest, attempt: int) -> Observation:
        context, now = self._context, self._context.clock.now()
        purpose = IntentPurpose.CLOSE if tracked.record.status is PositionStatus.CLOSING else IntentPurpose.REDUCE
        intent = IntentRecord(
            account_name=context.name,
            client_order_id=request.client_order_id,
            purpose=purpose,
            symbol=request.symbol,
            side=request.side,
            qty=request.qty,
            status=IntentStatus.INTENDED,
            attempt=attempt,
            created_at=now,
            position_id=tracked.record.id,
            request=request_data(request),
        )
        tracked.record = replace(tracked.record, close_attempt=attempt, close_client_order_id=request.client_order_id)
        armed = tracked.armed
        try:
            await context.ledger.commit(
                *disarm(tracked, but=request.client_order_id), PutPosition(tracked.record), context.put_intent(intent)
            )
        except StoreRejected:
            tracked.armed = armed  # as it still is in the ledger
            raise
        if tracked.holding.qty < request.qty:
            return closing.Failed(context.withdraw(intent))  # the quantity is asked for anew (I1)
        if context.intents.get(intent.client_order_id) is not intent:
            return closing.SendUnknown("the broker told of the order while its intent was written again")
        result = await context.broker.submit(request, Priority.EXIT)
        return self._answer(tracked, intent, result)

    def _answer(self, tracked: Tracked, intent: IntentRecord, result: SubmitResult) -> Observation:
        context, now = self._context, self._context.clock.now()
        facts = {"client_order_id": intent.client_order_id, "attempt": intent.attempt, "quantity": intent.qty}
        if isinstance(result, Accepted):
            order = result.order
            context.ledger.post(
                AppendEvent(EventType.CLOSE_SUBMITTED, now, {**facts, "order_id": order.id}, tracked.record.id),
            )
            context.log.info("close submitted", position=tracked.record.id, order_id=order.id, **_text(facts))
            return self._seen(tracked, order)
        if isinstance(result, Refused):
            observation = refusal(result.error)
            kept = IntentStatus.UNKNOWN if observation.kind is RefusalKind.DUPLICATE else IntentStatus.REJECTED
            status, detail = kept, observation.detail
        else:
            observation, status, detail = None, IntentStatus.UNKNOWN, result.reason
        if context.intents.get(intent.client_order_id) is intent:  # else an update was faster, and knows better
            context.ledger.post(context.put_intent(replace(intent, status=status, detail=detail[:500])))
        context.ledger.post(
            AppendEvent(EventType.CLOSE_FAILED, now, {**facts, "outcome": status, "detail": detail}, tracked.record.id),
        )
        context.log.warning(
            "close not confirmed", position=tracked.record.id, outcome=status.value, detail=detail, **_text(facts)
        )
        return observation if observation is not None else closing.SendUnknown(detail)


def refusal(error: BrokerError) -> closing.SendRefused:
    """Translate a broker's refusal into what the procedure does about it."""
    if isinstance(error, BrokerRateLimited):
        return closing.SendRefused(RefusalKind.BUSY, str(error), error.retry_after or 1.0)
    if isinstance(error, BrokerRefused):
        if error.is_duplicate_client_order_id:
            return closing.SendRefused(RefusalKind.DUPLICATE, str(error))
        if error.is_insufficient_quantity or error.is_intent_mismatch:
            return closing.SendRefused(RefusalKind.RECONCILE, str(error))
    return closing.SendRefused(RefusalKind.OTHER, str(error))


def _text(facts: dict[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in facts.items()}
