"""Bugs that are planted on purpose, each by replacing one small piece of the manager while a simulation runs.

They are what a tired person might really write. Every function here replaces the one that its planting names.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from exitguard.core import closing
from exitguard.core.orders import Fill, OrderStatus
from exitguard.core.reconcile import FindingKind
from exitguard.core.records import (
    AppendEvent,
    IntentPurpose,
    IntentStatus,
    PutHistory,
    PutIntent,
    PutPosition,
)
from exitguard.manager.account import AccountManager
from exitguard.manager.closer import Closer
from exitguard.manager.context import AccountContext, Tally
from exitguard.manager.corporate import CorporateActions
from exitguard.manager.ledger import Ledger
from exitguard.manager.lifecycle import Lifecycle
from exitguard.manager.reconciler import Reconciler
from exitguard.manager.watcher import Watcher
from exitguard.sim.memory_store import MemoryStore
from exitguard.store.port import LeaseLost

Wrap = Callable[[Any], Any]
# What has the attribute, the attribute, and what is made of it.
Change = tuple[Any, str, Wrap]


@contextmanager
def replaced(*changes: Change) -> Iterator[None]:
    """Replace attributes by what `wrap` makes of them, and put them back at the end."""
    with ExitStack() as undo:
        for owner, name, wrap in changes:
            original = getattr(owner, name)
            undo.callback(setattr, owner, name, original)
            setattr(owner, name, wrap(original))
        yield


def no_intent(original: Any) -> Any:
    """Ledger.commit: the intent of a close is noted to be written later, and the order leaves at once."""

    async def commit(self: Ledger, *operations: Any) -> None:
        fresh = [o for o in operations if isinstance(o, PutIntent) and o.row.status is IntentStatus.INTENDED]
        if fresh:
            self.post(*operations)
            return
        await original(self, *operations)

    return commit


def lost_intent(original: Any) -> Any:
    """Ledger.commit: the intent of a close is never written."""

    async def commit(self: Ledger, *operations: Any) -> None:
        kept = [
            o
            for o in operations
            if not (
                isinstance(o, PutIntent) and o.row.purpose is IntentPurpose.CLOSE and o.row.status.value == "intended"
            )
        ]
        await original(self, *kept)

    return commit


def same_id(original: Any) -> Any:
    """closing.client_order_id: every attempt of a position has the same id."""
    return lambda account, uid, purpose, attempt: original(account, uid, purpose, 1)


def large_only(original: Any) -> Any:
    """closing.client_order_id: the account's name is forgotten, so two accounts share their ids."""
    return lambda account, uid, purpose, attempt: original("large", uid, purpose, attempt)


def new_id_on_unknown(original: Any) -> Any:
    """closing, sending: an unknown outcome is taken for a failure; the next attempt has an id of its own."""

    def sending(state: Any, seen: Any, context: Any) -> Any:
        if isinstance(seen, closing.SendUnknown):
            return replace(state, phase=closing.Phase.CHECKING, looks=0), closing.AskPosition()
        return original(state, seen, context)

    return sending


def first_404(original: Any) -> Any:
    """closing, resolving: the first 404 proves absence, and the next attempt has an id of its own."""

    def resolving(state: Any, seen: Any, context: Any) -> Any:
        if isinstance(seen, closing.OrderAbsent):
            return replace(state, phase=closing.Phase.CHECKING, looks=0), closing.AskPosition()
        return original(state, seen, context)

    return resolving


def original_quantity(original: Any) -> Any:
    """Closer._submit: the order is for what was once opened, not for what is held."""

    async def submit(self: Closer, tracked: Any, request: Any, attempt: int) -> Any:
        whole = replace(request, qty=tracked.record.original_quantity)
        return await original(self, tracked, whole, attempt)

    return submit


def underlying(original: Any) -> Any:
    """closing.close_request: the order names the underlying instead of the contract."""

    def request(state: Any, attempt: int, qty: Any, context: Any) -> Any:
        return replace(original(state, attempt, qty, context), symbol=state.instrument.underlying)

    return request


def wrong_side(original: Any) -> Any:
    """closing.close_request: a short is sold, a long is bought."""

    def request(state: Any, attempt: int, qty: Any, context: Any) -> Any:
        right = original(state, attempt, qty, context)
        return replace(right, side=right.side.opposite)

    return request


def keeps_orders(original: Any) -> Any:
    """closing, clearing: resting orders are not cancelled before the close is sent."""

    def clearing(state: Any, seen: Any, context: Any) -> Any:
        if isinstance(seen, closing.OrdersListed):
            seen = closing.OrdersListed(())
        return original(state, seen, context)

    return clearing


def done_at_first_fill(original: Any) -> Any:
    """Lifecycle.finish: the first order that ends is taken for the end of the close, whatever is left.

    To forget the rest in the closing procedure alone is no bug that lasts: the next poll finds a position that closes
    and that nobody drives, and takes the close up again.
    """

    async def finish(self: Lifecycle, tracked: Any, now: Any) -> None:
        holding = tracked.holding
        if tracked.closer is not None and 0 < holding.closed_qty < holding.opened_qty:
            share = holding.closed_qty / holding.opened_qty
            tracked.holding = replace(holding, opened_qty=holding.closed_qty, entry_value=holding.entry_value * share)
        await original(self, tracked, now)

    return finish


def ends_at_once(original: Any) -> Any:
    """closing, ended: an order that has ended is followed by no other."""

    def ended(state: Any, order: Any, context: Any) -> Any:
        if order.status is OrderStatus.REPLACED or state.is_reduction:
            return original(state, order, context)
        return replace(state, phase=closing.Phase.DONE), closing.Finish()

    return ended


def failed_is_flat(original: Any) -> Any:
    """Closer._perform: a question for the position that failed is taken for the answer "none", and ends the close."""

    async def perform(self: Closer, tracked: Any, state: Any, effect: Any) -> Any:
        seen = await original(self, tracked, state, effect)
        if isinstance(seen, closing.Failed) and isinstance(effect, closing.AskPosition):
            tracked.closer = None
            self._context.remove(tracked)
            raise asyncio.CancelledError
        return seen

    return perform


def two_closers(original: Any) -> Any:
    """Closer.start: nobody looks whether a close is under way."""

    def start(self: Closer, tracked: Any, decision: Any) -> None:
        original(self, tracked, decision)
        if tracked.closer is not None and decision.rule is not None and decision.reduce_qty is None:
            self._spawn(tracked, self._state(tracked, decision.rule, tracked.holding.qty * 0))

    return start


def blind_resume(original: Any) -> Any:
    """Closer.resume: a restart forgets which order it had sent and begins with a new one."""

    def resume(self: Closer, tracked: Any, live: Any) -> None:
        original(self, tracked, None)

    return resume


def no_resume(original: Any) -> Any:
    """Closer.resume: a close that a crash interrupted is not taken up again."""
    return lambda self, tracked, live: None


def no_recovered_intents(original: Any) -> Any:
    """AccountManager._recover_intent: restorations and reductions that a crash left open are forgotten for ever."""
    return _nothing


def unsettled_intents(original: Any) -> Any:
    """Reconciler._settle_intents: nobody asks what became of orders that no task follows any more."""
    return _nothing


async def _nothing(self: Any, argument: Any) -> None:
    await asyncio.sleep(0)


def no_tally(original: Any) -> Any:
    """AccountContext.tally: how much of an order is booked is forgotten."""
    return lambda self, order_id: Tally()


def no_tally_after_restart(original: Any) -> Any:
    """AccountManager.restore: how much of each order was booked is not read back."""

    def restore(self: AccountManager, state: Any) -> None:
        original(self, replace(state, booked={}))

    return restore


def cumulative_fills(original: Any) -> Any:
    """fills.new_fill: the order's cumulative quantity is taken for the quantity of this fill."""

    def new_fill(context: AccountContext, order: Any, reported: Any, at: Any) -> Fill | None:
        found: Fill | None = original(context, order, reported, at)
        return replace(found, qty=order.filled_qty) if found is not None else None

    return new_fill


def mark_for_fill(original: Any) -> Any:
    """Ledger.commit: the history row carries the last mark as its exit price."""

    async def commit(self: Ledger, *operations: Any) -> None:
        marks = {o.row.id: o.row.best_price for o in operations if isinstance(o, PutPosition)}

        def spoiled(operation: Any) -> Any:
            if not isinstance(operation, PutHistory):
                return operation
            mark = marks.get(operation.row.position_id) or operation.row.exit_price
            return PutHistory(replace(operation.row, exit_price=mark))

        await original(self, *(spoiled(o) for o in operations))

    return commit


def no_history(original: Any) -> Any:
    """Ledger.commit: a close leaves no history row."""

    async def commit(self: Ledger, *operations: Any) -> None:
        await original(self, *(o for o in operations if not isinstance(o, PutHistory)))

    return commit


def fill_without_row(original: Any) -> Any:
    """Ledger.post: a fill is written without the row that it changes."""

    def post(self: Ledger, *operations: Any) -> None:
        if any(isinstance(o, AppendEvent) and o.type.value == "partial_fill" for o in operations):
            operations = tuple(o for o in operations if not isinstance(o, PutPosition))
        original(self, *operations)

    return post


def empty_means_flat(original: Any) -> Any:
    """Reconciler._act_on: what the broker's list does not show is recorded as closed."""

    async def act_on(self: Reconciler, finding: Any, theirs: Any, strikes: int, now: Any, **options: Any) -> None:
        tracked = self._context.on_symbol(finding.symbol)
        if finding.kind is not FindingKind.PHANTOM or tracked is None:
            await original(self, finding, theirs, strikes, now, **options)
            return
        price = tracked.record.current_price or tracked.record.entry_price
        gone = Fill(
            f"gone:{now.isoformat()}", f"gone:{now.isoformat()}", None, finding.symbol, tracked.record.side.closing,
            tracked.holding.qty, price, now,
        )  # fmt: skip
        self._lifecycle.book_reconciled(tracked, gone, finding, now)
        await self._lifecycle.finish(tracked, now)

    return act_on


def quantity_of_the_list(original: Any) -> Any:
    """Reconciler._act_on: a difference in quantity is booked from one answer, without patience and without orders."""

    async def act_on(self: Reconciler, finding: Any, theirs: Any, strikes: int, now: Any, **options: Any) -> None:
        tracked = self._context.on_symbol(finding.symbol)
        if finding.kind is FindingKind.QUANTITY and tracked is not None:
            await self._unexplained(tracked, finding, theirs.get(finding.symbol), now)
            return
        await original(self, finding, theirs, strikes, now, **options)

    return act_on


def no_adoption(original: Any) -> Any:
    """Adoption.adopt: a position that nobody told us of is left alone."""

    async def adopt(self: Reconciler, symbol: str, theirs: Any, now: Any, **options: Any) -> None:
        await asyncio.sleep(0)

    return adopt


def blind_to_splits(original: Any) -> Any:
    """CorporateActions.split: what a split adds is taken for shares that somebody bought for nothing."""

    async def split(self: CorporateActions, tracked: Any, theirs: Any, **options: Any) -> bool:
        await asyncio.sleep(0)
        return False

    return split


def no_lapses(original: Any) -> Any:
    """Reconciler._lapsed: contracts that were exercised or assigned stay in the books."""

    async def lapsed(self: Reconciler, *arguments: Any) -> bool:
        await asyncio.sleep(0)
        return False

    return lapsed


def no_legs(original: Any) -> Any:
    """Lifecycle.apply_order: the legs of an order are not looked at."""

    def apply_order(self: Lifecycle, order: Any, reported: Any, now: Any, source: str) -> Any:
        return original(self, replace(order, legs=()), reported, now, source)

    return apply_order


def no_rules_in_sweeps(original: Any) -> Any:
    """Watcher.sweep: the minute's sweep writes marks and evaluates nothing."""

    def sweep(self: Watcher, now: Any) -> Any:
        return [self._mark(tracked, now) for tracked in self._context.positions.values()]

    return sweep


def never_acts(original: Any) -> Any:
    """Watcher._act: what was decided is not done."""
    return lambda self, tracked, decision, now: None


def lease_ignored(original: Any) -> Any:
    """MemoryStore._component: the ledger does not compare epochs, and takes what a process writes after its time."""

    def component(self: MemoryStore, epoch: int) -> str:
        try:
            return str(original(self, epoch))
        except LeaseLost:
            return "manager"

    return component


def journal_never_written(original: Any) -> Any:
    """JournaledStore._start_draining: what went to the journal stays there."""
    return lambda self: None


def forgets_commands(original: Any) -> Any:
    """AccountManager._take: requests of people are not acted on."""
    return lambda self, command: None


def lost_armed(original: Any) -> Any:
    """Ledger.commit: a close that is armed is never written."""

    async def commit(self: Ledger, *operations: Any) -> None:
        await original(self, *(o for o in operations if not _arms(o)))

    return commit


def _arms(operation: Any) -> bool:
    return isinstance(operation, PutIntent) and operation.row.status is IntentStatus.ARMED
