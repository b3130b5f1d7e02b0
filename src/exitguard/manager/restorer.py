"""Puts a missing bracket back: one OCO for exactly the quantity held, with its intent committed first.

`evaluate` decides that it is due (RESTORE) and, when the broker does not accept it within the grace, that the
position is closed instead. Whatever still rests of the old bracket is cleared first: it holds the quantity (peers 3.2).
"""

import asyncio
import contextlib
from dataclasses import replace
from decimal import Decimal

from exitguard.broker.port import Accepted, BrokerError, Priority, Unknown
from exitguard.core.closing import client_order_id
from exitguard.core.evaluate import Bracket, effective_stop, effective_target
from exitguard.core.instrument import round_to_tick
from exitguard.core.orders import OrderClass, OrderRequest, OrderType, TimeInForce
from exitguard.core.position import PositionSide
from exitguard.core.records import (
    AppendEvent,
    EventType,
    IntentPurpose,
    IntentRecord,
    IntentStatus,
    PutPosition,
)
from exitguard.manager.context import AccountContext
from exitguard.manager.corporate import CorporateActions
from exitguard.manager.lifecycle import Lifecycle
from exitguard.manager.orders import request_data
from exitguard.manager.tracked import Tracked
from exitguard.store.port import LeaseLost, StoreError

CLEAR_ATTEMPTS = 20
CLEAR_WAIT = 0.1
RETRY_WAIT = 1.0
LOOKUPS = 5


class Restorer:
    """Restores brackets of one account."""

    def __init__(self, context: AccountContext, lifecycle: Lifecycle, corporate: CorporateActions) -> None:
        self._context = context
        self._lifecycle = lifecycle
        self._corporate = corporate
        self._count = 0

    def start(self, tracked: Tracked) -> None:
        """Begin a restoration; nothing happens when one, or a close, is under way."""
        if tracked.restorer is not None or tracked.is_closing:
            return
        if tracked.bracket_missing_since is None:
            tracked.bracket_missing_since = self._context.clock.now()  # it was lost while no orders were taken
        tracked.hurry.clear()
        name = f"restore {tracked.record.account_name}/{tracked.record.id}"
        tracked.restorer = self._context.spawn(self._guard(tracked), name)

    async def _guard(self, tracked: Tracked) -> None:
        try:
            await self._restore(tracked)
        except LeaseLost:
            raise
        except (BrokerError, StoreError) as error:
            self._failed(tracked, str(error))
        except Exception as error:
            self._context.log.exception("restoration failed unexpectedly", position=tracked.record.id)
            self._failed(tracked, repr(error))
        finally:
            # The next look decides: covered, another try, or (past the grace) a close.
            if tracked.bracket is Bracket.MISSING:
                await self._pause(tracked, RETRY_WAIT)
            tracked.restorer = None
            if tracked.record.id in self._context.positions:
                self._context.marks.attach(tracked)  # the band opens: the next quote decides anew

    async def _pause(self, tracked: Tracked, seconds: float) -> None:
        """Wait, but not while a close waits for us."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(tracked.hurry.wait(), seconds)

    async def _restore(self, tracked: Tracked) -> None:
        context = self._context
        if not await self._clear(tracked):
            self._failed(tracked, "resting orders of the contract did not end in time")
            return
        if tracked.hurry.is_set():
            return  # a close waits for us
        if not await self._are_terms_right(tracked):
            self._failed(tracked, "the broker's position looks like a split of ours, which is not confirmed yet")
            return
        if tracked.bracket is not Bracket.MISSING or tracked.is_closing or tracked.holding.qty <= 0:
            return
        request = self._request(tracked)
        if request is None:
            self._failed(tracked, "the policy gives no stop or no target to restore")
            return
        now = context.clock.now()
        intent = IntentRecord(
            account_name=context.name,
            client_order_id=request.client_order_id,
            purpose=IntentPurpose.RESTORE,
            symbol=request.symbol,
            side=request.side,
            qty=request.qty,
            status=IntentStatus.INTENDED,
            attempt=self._count,
            created_at=now,
            position_id=tracked.record.id,
            request=request_data(request),
        )
        await context.ledger.commit(context.put_intent(intent))
        if tracked.holding.qty < request.qty:
            self._failed(tracked, context.withdraw(intent))
            return
        result = await context.broker.submit(request, Priority.PROTECT)
        if isinstance(result, Unknown):
            await self._resolve(tracked, intent)
        elif isinstance(result, Accepted):
            self._accepted(tracked, result)
        else:
            detail = str(result.error)[:500]
            context.ledger.post(context.put_intent(replace(intent, status=IntentStatus.REJECTED, detail=detail)))
            self._failed(tracked, detail)

    def _accepted(self, tracked: Tracked, result: Accepted) -> None:
        context, now, order = self._context, self._context.clock.now(), result.order
        self._lifecycle.apply_order(order, None, now, "orders")
        context.ledger.post(
            PutPosition(tracked.record),
            AppendEvent(
                EventType.BRACKET_RESTORED, now, {"order_id": order.id, "quantity": order.qty}, tracked.record.id
            ),
        )
        context.log.info("bracket restored", position=tracked.record.id, order_id=order.id)

    async def _resolve(self, tracked: Tracked, intent: IntentRecord) -> None:
        """An unknown outcome: look the id up until the broker proves one or the other."""
        for lookup in range(LOOKUPS):
            await self._pause(tracked, 0.2 * 2**lookup)
            order = await self._context.broker.order_by_client_id(intent.client_order_id)
            if order is not None:
                self._accepted(tracked, Accepted(order))
                return
            if tracked.hurry.is_set():
                # The close clears whatever rests; should the order arrive even later, the broker refuses one of both.
                self._context.ledger.post(self._context.put_intent(replace(intent, status=IntentStatus.UNKNOWN)))
                return
        detail = f"not found at the broker after {LOOKUPS} look-ups"
        self._context.ledger.post(
            self._context.put_intent(replace(intent, status=IntentStatus.REJECTED, detail=detail))
        )
        self._failed(tracked, detail)

    async def _clear(self, tracked: Tracked) -> bool:
        """Cancel what still rests on the closing side and wait until the broker says that it ended."""
        context, symbol = self._context, tracked.record.symbol
        for attempt in range(CLEAR_ATTEMPTS):
            orders = await context.broker.open_orders([symbol], Priority.PROTECT)
            for order in orders:
                self._lifecycle.apply_order(order, None, context.clock.now(), "orders")
            resting = [o for parent in orders for o in parent.family() if o.is_open]
            if not resting or tracked.bracket is not Bracket.MISSING:
                return True
            if attempt % 5 == 0:
                for order in resting:
                    await context.broker.cancel(order.id, Priority.PROTECT)
            if tracked.hurry.is_set():
                return False
            await self._pause(tracked, CLEAR_WAIT)
        return False

    async def _are_terms_right(self, tracked: Tracked) -> bool:
        """Whether the stop is one of the stock as it trades now: a stop from before a split would fill at once."""
        held = await self._context.broker.position(tracked.record.symbol, Priority.PROTECT)
        if held is None or held.qty == tracked.signed_qty or self._corporate.shown(tracked, held) is None:
            return True
        return await self._corporate.split(tracked, held)

    def _request(self, tracked: Tracked) -> OrderRequest | None:
        watched = tracked.watched()
        stop, target = effective_stop(watched, tracked.policy), effective_target(watched, tracked.policy)
        if stop is None or target is None:
            return None
        self._count += 1
        is_long = tracked.record.side is PositionSide.LONG
        take_profit = round_to_tick(target, up=is_long)
        return OrderRequest(
            client_order_id=client_order_id(
                self._context.name, tracked.record.uid, f"b{self._context.ledger.epoch}x", self._count
            ),
            symbol=tracked.record.symbol,
            side=tracked.record.side.closing,
            qty=tracked.holding.qty,
            type=OrderType.LIMIT,
            time_in_force=TimeInForce.GTC,
            position_intent=tracked.record.side.closing_intent,
            limit_price=take_profit,
            order_class=OrderClass.OCO,
            take_profit=take_profit,
            stop_loss=max(round_to_tick(stop, up=not is_long), Decimal("0.0001")),
        )

    def _failed(self, tracked: Tracked, reason: str) -> None:
        context, now = self._context, self._context.clock.now()
        context.ledger.post(AppendEvent(EventType.BRACKET_FAILED, now, {"reason": reason[:500]}, tracked.record.id))
        context.log.warning("bracket not restored", position=tracked.record.id, reason=reason)
