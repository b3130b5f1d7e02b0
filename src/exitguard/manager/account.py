"""One account's manager: recovers what was begun, then follows streams, sweeps and requests until told to stop."""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

from exitguard.broker.port import (
    BrokerError,
    BrokerRefused,
    MarketData,
    Priority,
    TradeStream,
)
from exitguard.core.instrument import InvalidSymbol, parse_instrument
from exitguard.core.orders import BrokerOrder, Fill
from exitguard.core.position import fold
from exitguard.core.records import (
    AppendEvent,
    CloseReason,
    CommandRecord,
    CommandVerb,
    EventType,
    ExecutionRecord,
    FinishCommand,
    Heartbeat,
    IntentPurpose,
    IntentRecord,
    IntentStatus,
    LedgerState,
    Mark,
    PositionRecord,
    PositionStatus,
    Protection,
    PutPosition,
    SetAside,
)
from exitguard.manager.armer import Armer, take_over
from exitguard.manager.closer import Closer
from exitguard.manager.context import AccountContext, Tally
from exitguard.manager.corporate import CorporateActions
from exitguard.manager.fills import unbooked_part
from exitguard.manager.lifecycle import Lifecycle
from exitguard.manager.opening import Opening
from exitguard.manager.pieces import in_pieces
from exitguard.manager.reconciler import Reconciler
from exitguard.manager.requests import BOOK_VERBS, Desk
from exitguard.manager.restorer import Restorer
from exitguard.manager.streams import Streams
from exitguard.manager.tracked import Tracked
from exitguard.manager.watcher import Watcher
from exitguard.store.port import StoreRejected, StoreUnavailable

# Look-ups of an intent that a crash left open, before its absence counts as proven.
RECOVERY_LOOKUPS = 3
SWEEP_RETRY_WITHIN_SECONDS = 5.0


class AccountManager:
    """The actor of one account. All its state lives in `AccountContext`; it runs on one event loop."""

    def __init__(self, context: AccountContext, trade_stream: TradeStream, market_data: MarketData) -> None:
        self.context = context
        self._lifecycle = Lifecycle(context)
        self._opening = Opening(context, self._lifecycle)
        corporate = CorporateActions(context, self._lifecycle)
        self._closer = Closer(context, self._lifecycle, corporate)
        self._restorer = Restorer(context, self._lifecycle, corporate)
        self._armer = Armer(context)
        self.watcher = Watcher(context, self._closer, self._restorer)
        self.reconciler = Reconciler(context, self._lifecycle, self._opening, corporate)
        self._poll_wanted = asyncio.Event()
        self.streams = Streams(context, self._lifecycle, self.watcher, trade_stream, market_data, self.request_poll)
        self._polling = asyncio.Lock()
        self.desk = Desk(
            context, self._lifecycle, self.reconciler, self._polling, lambda: self._discover(patient=False)
        )
        # Requests about the books by id: each is answered once in the life of this process.
        self.requests: dict[int, asyncio.Task[None]] = {}
        self._unreadable: set[UUID] = set()

    # Starting ---------------------------------------------------------------------------------------------------

    def restore(self, state: LedgerState) -> None:
        """Take over positions, tallies and alarms that an earlier process left. Nothing is asked or sent yet."""
        context = self.context
        context.next_position_id = state.next_position_id
        context.alarms.restore(state.active_alarms)
        context.intents.update(
            {
                i.client_order_id: i
                for i in state.live_intents
                if i.purpose is not IntentPurpose.ENTRY and i.status.is_live
            }
        )
        context.tallies.update({order: Tally(qty, value) for order, (qty, value) in state.booked.items()})
        for fill in (fill for fills in state.fills.values() for fill in fills):
            part = unbooked_part(context.tally(fill.order_id), fill)
            if part is not None:
                context.count_in(part)
        for record in state.positions:
            self._restore_position(record, state.fills.get(record.id, ()))
        for intent in state.live_intents:
            tracked = context.positions.get(intent.position_id or 0)
            if intent.status is IntentStatus.ARMED and tracked is not None:
                take_over(tracked, intent)
        context.alarms.keep_only(context.positions.keys(), context.clock.now())

    async def recover(self, state: LedgerState) -> None:
        """Resolve orders without a proven end, reconcile, and go on with every close that was begun.

        Raises BrokerError: without the broker's word nothing may be assumed, so the start is tried again.
        """
        closing = {p.id for p in state.positions if p.status is PositionStatus.CLOSING}
        begun = {}
        for intent in sorted(state.live_intents, key=lambda i: i.status.is_live):
            if intent.purpose is IntentPurpose.CLOSE and intent.position_id in closing:
                begun[intent.position_id] = intent  # the close itself resolves it
            elif intent.status is IntentStatus.ARMED:
                continue  # if its order did leave, the poll finds it
            elif intent.purpose is not IntentPurpose.ENTRY:
                await self._recover_intent(intent)
        await self.poll(patient=False)
        for tracked in list(self.context.positions.values()):
            if tracked.record.status is PositionStatus.CLOSING:
                known = self.context.intents.get(tracked.record.close_client_order_id or "")
                self._closer.resume(tracked, begun.get(tracked.record.id, known))

    def _restore_position(self, record: PositionRecord, fills: tuple[Fill, ...]) -> None:
        context = self.context
        instrument = parse_instrument(record.symbol)
        holding = fold(instrument, record.side, fills, record.restatements)
        policy = context.options.select_policy(record.strategy_type, instrument)
        tracked = Tracked(record, holding, policy, context.expiry_moment(instrument))
        tracked.refresh_from_holding()
        tracked.blind_since = self._blind_since(record)
        context.add(tracked)

    def _blind_since(self, record: PositionRecord) -> datetime | None:
        """The clock of a blindness goes on over a restart, but not over the night."""
        context, since = self.context, record.protection_since
        session = context.session(context.clock.now())
        blind = record.protection is Protection.BLIND and since is not None
        if blind and session is not None and since is not None and since >= session.open:
            return since
        # An alarm that is on needs something that ends.
        return context.clock.now() if f"blind:{record.id}" in context.alarms.active else None

    async def _recover_intent(self, intent: IntentRecord) -> None:
        """Find out what became of an order without a close; what still works is taken back, and looked at anew."""
        context = self.context
        order: BrokerOrder | None = None
        for lookup in range(RECOVERY_LOOKUPS):
            order = await context.broker.order_by_client_id(intent.client_order_id)
            if order is not None:
                break
            await asyncio.sleep(0.2 * (lookup + 1))
        now = context.clock.now()
        if order is None:
            gone = replace(intent, status=IntentStatus.REJECTED, detail="never arrived")
            context.ledger.post(context.put_intent(gone))
            return
        tracked = context.positions.get(intent.position_id or 0)
        if intent.purpose is IntentPurpose.CLOSE and tracked is not None:
            tracked.armed = (
                intent  # the process ended before the row said so: what it sent is followed as a close of ours
            )
        self._lifecycle.apply_order(order, None, now, "orders")
        if intent.purpose is not IntentPurpose.REDUCE:
            return
        if order.is_open:
            await context.broker.cancel(order.id, Priority.EXIT)
        if tracked is not None and order.filled_qty > 0:
            tracked.record = replace(tracked.record, scaled_out=True)
            context.ledger.post(PutPosition(tracked.record))

    # Polling ----------------------------------------------------------------------------------------------------

    def request_poll(self) -> None:
        """Ask for a look at the broker soon."""
        self._poll_wanted.set()

    async def follow_broker(self) -> None:
        """Look at the broker when asked, and on a real clock every few seconds."""
        context = self.context
        rhythm = None if context.options.stepped else context.options.poll_seconds
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._poll_wanted.wait(), rhythm)
            self._poll_wanted.clear()
            await self.refresh()

    async def poll_safely(self) -> bool:
        """Poll; a failure is said, alarmed and counted as nothing known."""
        context = self.context
        try:
            await self.poll()
        except BrokerError as error:
            now = context.clock.now()
            context.progress.poll_ended_at = now
            context.log.warning("broker poll failed", reason=str(error))
            context.alarms.raise_alarm("broker", "broker_unreachable", f"the broker does not answer: {error}", now)
            return False
        context.progress.polled_at = context.progress.poll_ended_at = context.clock.now()
        context.alarms.clear("broker", context.progress.polled_at)
        return True

    async def poll(self, *, patient: bool = True) -> None:
        """Discover new entries, reconcile, close the books of what ended."""
        async with self._polling:
            try:
                await self._discover(patient=patient)
            except StoreUnavailable as error:
                # Nothing can be linked then: what fills meanwhile is found by reconciliation.
                self.context.log.error("entries cannot be read", reason=str(error))
            self.streams.watch_symbols()  # quotes of a new position must not wait for the broker's other answers
            await self.reconciler.poll(patient=patient)
            async for piece in in_pieces(list(self.context.positions.values())):
                for tracked in piece:
                    await self._finish_or_resume(tracked, patient=patient)
            self.streams.watch_symbols()

    async def _finish_or_resume(self, tracked: Tracked, *, patient: bool) -> None:
        """Close the books of what others ended; no close may be without somebody who drives it."""
        if tracked.closer is not None or tracked.record.id not in self.context.positions:
            return
        if tracked.holding.is_flat:
            await self._lifecycle.finish_foreign(tracked)
        elif patient and tracked.record.status is PositionStatus.CLOSING:
            self._closer.resume(tracked, self.context.intents.get(tracked.record.close_client_order_id or ""))

    async def _discover(self, *, patient: bool) -> None:
        """Turn filled entries of `dispatch_executions` into positions; a bad row does not stop its neighbours (F60).

        Raises StoreUnavailable, and with `patient` False BrokerError.
        """
        context = self.context
        for execution in await context.ledger.store.unlinked_executions():
            try:
                order = await self._entry_order(execution)
                if order is not None and order.filled_qty > 0:
                    self._opening.from_execution(execution, order, context.clock.now())
            except (InvalidSymbol, ValueError, BrokerRefused) as error:
                self._set_aside(execution, str(error))
            except BrokerError as error:
                if not patient:
                    raise
                context.log.warning(
                    "entry order cannot be read", execution=str(execution.execution_id), reason=str(error)
                )

    def _set_aside(self, execution: ExecutionRecord, reason: str) -> None:
        """Keep an entry that cannot be read with its reason, once."""
        if execution.execution_id in self._unreadable:
            return
        self._unreadable.add(execution.execution_id)
        self.context.log.error("execution set aside", execution=str(execution.execution_id), reason=reason)
        payload = {"execution_id": str(execution.execution_id), "symbol": execution.symbol}
        self.context.ledger.post(SetAside("execution", reason[:500], payload, self.context.clock.now()))

    async def _entry_order(self, execution: ExecutionRecord) -> BrokerOrder | None:
        broker = self.context.broker
        if execution.broker_order_id is not None:
            return await broker.order(execution.broker_order_id)
        return await broker.order_by_client_id(execution.client_order_id)

    async def follow_changes(self) -> None:
        """Arm the close of every position anew whenever what it holds has changed."""
        await self._armer.follow()

    # Sweeping ---------------------------------------------------------------------------------------------------

    async def refresh(self) -> None:
        """Learn what is new outside: requests of people, the broker's orders and positions, quotes for the blind."""
        await self.take_commands()
        await self.poll_safely()
        await self._quotes_for_the_blind()
        self.streams.tell_long_down()
        if not self.context.options.stepped:  # there a sweep follows at once
            self.watcher.watch_protection()

    async def sweep(self) -> datetime:
        """Once a minute: evaluate everything, write all marks in one statement, beat the heart; returns its moment.

        On a real clock nothing here waits for the broker; a stepped venue is asked first, so that a minute of its time
        is complete when the heartbeat says so.
        """
        context = self.context
        if context.options.stepped:
            await self.refresh()
        now = context.clock.now()
        marks = await self.watcher.sweep(now)
        context.log.info(f"Found {len(marks)} open position(s)", open=len(marks))
        began = time.monotonic()
        # A database that stumbles is asked once more at once; one that is away must not hold up the next sweep.
        if not await self._record_sweep(marks, now) and time.monotonic() - began < SWEEP_RETRY_WITHIN_SECONDS:
            await self._record_sweep(marks, now)
        context.progress.swept_at = now
        return now

    async def _record_sweep(self, marks: Sequence[Mark], now: datetime) -> bool:
        """Write the marks and the heartbeat; False when the database did not take them."""
        context = self.context
        try:
            await context.ledger.commit()
            if marks:
                await self._write_marks(marks)
            await context.ledger.store.beat(self._heartbeat(now), context.ledger.epoch)
            context.progress.beaten_at = now
        except StoreUnavailable as error:
            context.log.error("marks and heartbeat not written", reason=str(error))
            return False
        return True

    async def _write_marks(self, marks: Sequence[Mark]) -> None:
        """Write all marks; when the database refuses them, each alone, so that one cannot hide the others (F60)."""
        context = self.context
        try:
            await context.ledger.store.write_marks(marks, context.ledger.epoch)
        except StoreRejected as error:
            context.log.error("the database refuses marks", reason=str(error), marks=len(marks))
            context.ledger.refused += 1
            if len(marks) > 1:
                for mark in marks:
                    await self._write_marks([mark])

    def _heartbeat(self, now: datetime) -> Heartbeat:
        context = self.context
        closing = sum(1 for t in context.positions.values() if t.is_closing)
        return Heartbeat(
            account_name=context.name,
            component="manager",
            build=context.options.build,
            policy_hash=context.options.policy_hash,
            config_hash=context.options.config_hash,
            broker_account_number=context.account_number,
            venue_time=now,
            open_positions=len(context.positions),
            closing_positions=closing,
            details={
                "stream_up": context.stream_up,
                "alarms": sorted(context.alarms.active)[:100],
                "blind": sum(1 for t in context.positions.values() if t.blind_since is not None),
                "refused_changes": context.ledger.refused,
            },
        )

    async def _quotes_for_the_blind(self) -> None:
        context, now = self.context, self.context.clock.now()
        symbols: set[str] = set()
        async for piece in in_pieces(list(context.positions.values())):
            symbols.update(
                tracked.record.symbol
                for tracked in piece
                if tracked.blind_since is not None or self._is_old(tracked, now)
            )
        symbols.update(self.streams.unheard(now))
        if not symbols:
            return
        try:
            quotes = await context.broker.latest_quotes(symbols)
        except BrokerError as error:
            context.log.warning("quotes over REST failed", reason=str(error), symbols=len(symbols))
            return
        self.streams.compare_quotes(quotes, context.clock.now())
        for symbol, quote in quotes.items():
            marks = context.marks.get(symbol)
            if marks is not None:
                marks.set_quote(quote)
                self.watcher.look(marks, context.clock.now())

    def _is_old(self, tracked: Tracked, now: datetime) -> bool:
        marks = self.context.marks.get(tracked.record.symbol)
        quote = marks.quote if marks is not None else None
        return quote is None or now - quote.at > timedelta(seconds=tracked.policy.max_quote_age_seconds)

    async def follow_sweeps(self) -> None:
        """Sweep at every minute of the venue's clock, and look once more at every deadline in between."""
        context = self.context
        while True:
            swept_at = await self.sweep()
            context.log.info("Sleeping for 1 minute until next check...")
            # From the sweep's own moment: a minute that begins while it writes is still to be swept.
            next_minute = swept_at.replace(second=0, microsecond=0) + timedelta(minutes=1)
            while (deadline := self.watcher.next_deadline(context.clock.now())) is not None and deadline < next_minute:
                await context.clock.sleep_until(deadline)
                await self.watcher.sweep(context.clock.now())
            await context.clock.sleep_until(next_minute)

    # Requests of people -----------------------------------------------------------------------------------------

    async def follow_commands(self) -> None:
        """Answer requests as soon as they are inserted."""
        async for channel in self.context.ledger.store.notifications():
            if channel == "commands":
                await self.take_commands()
            else:
                self.request_poll()

    async def take_commands(self) -> None:
        """Read requests and let `evaluate` act on them."""
        context = self.context
        try:
            commands = await context.ledger.store.pending_commands()
        except StoreUnavailable as error:
            context.log.error("requests cannot be read", reason=str(error))
            return
        for command in commands:
            self._take(command)

    def _take(self, command: CommandRecord) -> None:
        context, now = self.context, self.context.clock.now()
        if command.verb in BOOK_VERBS:
            if command.id not in self.requests:
                self.requests[command.id] = context.spawn(self.desk.answer(command), f"request {command.id}")
            return
        chosen = [t for t in context.positions.values() if _concerns(command, t)]
        if not chosen:
            what = command.symbol or command.position_id or "any position"
            context.ledger.post(FinishCommand(command.id, False, f"no open position matches {what}", now))
            return
        kill = command.verb is CommandVerb.KILL_SWITCH
        if any(command.id in tracked.command_ids for tracked in chosen):
            return
        for tracked in chosen:
            tracked.command = CloseReason.KILL_SWITCH if kill else CloseReason.MANUAL_CLOSE
            context.ledger.post(
                AppendEvent(
                    EventType.COMMAND,
                    now,
                    {"verb": command.verb, "requested_by": command.requested_by, "command": command.id},
                    tracked.record.id,
                )
            )
            tracked.command_ids.append(command.id)  # answered when the last of them is closed
            marks = context.marks.get(tracked.record.symbol)
            if marks is not None:
                self.watcher.look(marks, now)

    # Ending -----------------------------------------------------------------------------------------------------

    async def wait_for_closes(self, seconds: float, *, restorations: bool = False) -> bool:
        """Wait until no close is under way, at most `seconds` of real time; returns whether that came true.

        With `restorations` those of brackets are waited for too.
        """
        positions = self.context.positions.values()
        running = [t.closer for t in positions if t.closer is not None]
        if restorations:
            running += [t.restorer for t in positions if t.restorer is not None]
        if not running:
            return True
        _, pending = await asyncio.wait(running, timeout=seconds)
        return not pending


def _concerns(command: CommandRecord, tracked: Tracked) -> bool:
    if command.position_id is not None:
        return tracked.record.id == command.position_id
    if command.symbol is not None:
        return command.symbol in (tracked.record.symbol, tracked.record.ticker)
    return True
