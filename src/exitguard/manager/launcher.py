"""Sends the order of a close that is armed, before anything else is done about the breach (decision 10)."""

import asyncio
from dataclasses import dataclass
from datetime import datetime

from exitguard.broker.port import Priority, SubmitResult
from exitguard.core import closing
from exitguard.core.closing import Context
from exitguard.core.evaluate import Decision
from exitguard.core.evolve import evolve
from exitguard.core.orders import OrderRequest
from exitguard.core.records import AppendEvent, EventType, IntentRecord, IntentStatus, Operation, PutIntent, PutPosition
from exitguard.manager.context import AccountContext
from exitguard.manager.tracked import Tracked
from exitguard.store.port import StoreUnavailable


@dataclass(frozen=True, slots=True)
class Launch:
    """An armed order on its way. `view` is the look on which it was sent; `outcome` is None when it was held back."""

    decision: Decision
    request: OrderRequest
    intent: IntentRecord
    outcome: asyncio.Future[SubmitResult | None]
    view: Context

    @property
    def at(self) -> datetime:
        """The moment of the breach."""
        return self.view.now


def is_armed(tracked: Tracked) -> bool:
    """Whether the first order of a close of all that is held is in the ledger."""
    request = tracked.armed_request
    if request is None or tracked.record.close_attempt:
        return False
    # What it holds, or what it is called, may have changed a moment ago: then it is not armed anew yet.
    return request.qty == tracked.holding.qty and request.symbol == tracked.record.symbol


class Launcher:
    """Sends armed orders of one account, and records what the breaches changed while they travel."""

    def __init__(self, context: AccountContext) -> None:
        self._context = context

    def launch(self, tracked: Tracked, decision: Decision, view: Context) -> Launch | None:
        """Send the armed order if it is what the procedure would send now; None when it is not (I3, I12).

        Nothing but what that takes is done before it is on its way.
        """
        context, armed, request = self._context, tracked.armed, tracked.armed_request
        if armed is None or request is None or not closing.goes_plain(tracked.holding.instrument, view):
            return None
        if not context.ledger.store.surely_leased():
            return None
        outcome: asyncio.Future[SubmitResult | None] = asyncio.get_running_loop().create_future()
        context.spawn(self._send(tracked, request, outcome), f"order {request.client_order_id}")
        tracked.armed, tracked.armed_request = None, None
        intent = evolve(armed, status=IntentStatus.INTENDED, created_at=view.now)
        context.put_intent(intent)  # written with the row: alone it would look like a close that others began
        return Launch(decision, request, intent, outcome, view)

    async def _send(
        self, tracked: Tracked, request: OrderRequest, outcome: asyncio.Future[SubmitResult | None]
    ) -> None:
        try:
            # Fills, or much else that was due, may have come first: look once more (I1, I12).
            sure = tracked.holding.qty >= request.qty and self._context.ledger.store.surely_leased()
            outcome.set_result(await self._context.broker.submit(request, Priority.EXIT) if sure else None)
        except Exception as error:
            outcome.set_exception(error)  # for whoever follows the close
        finally:
            if not outcome.done():
                outcome.cancel()

    async def land(self, tracked: Tracked, launch: Launch) -> SubmitResult | None:
        """The broker's answer, once what the breach changed is written or kept for later; None when nothing was sent.

        Raises StoreRejected, LeaseLost, and what the broker's client raised.
        """
        context = self._context
        trigger = AppendEvent(EventType.EXIT_TRIGGERED, launch.at, launch.decision.explain(), tracked.record.id)
        changes: list[Operation] = [PutPosition(tracked.record), trigger]
        # If an update was faster, what it made of the intent is noted already.
        if context.intents.get(launch.request.client_order_id) is launch.intent:
            changes.append(PutIntent(launch.intent))
        try:
            await context.ledger.commit(*changes)
        except StoreUnavailable as error:
            context.log.error(
                "a close was sent and is not recorded yet: the database is away, it is recorded when that is back",
                position=tracked.record.id,
                reason=str(error),
            )
        # Shielded: whoever gives up waiting must not take the answer from the sender.
        return await asyncio.shield(launch.outcome)
