"""The dispatcher of one account: claims signals, sends entries, follows them. One process an account, by lease."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial

import structlog

from exitguard.broker.clock import Clock
from exitguard.broker.port import Broker, BrokerError
from exitguard.config.settings import AccountSettings, RiskSettings
from exitguard.core.errors import ExitguardError, InvalidInput
from exitguard.core.instrument import parse_instrument
from exitguard.core.orders import TradeUpdate
from exitguard.core.records import (
    AppendEvent,
    EventType,
    ExecutionMode,
    ExecutionRecord,
    Heartbeat,
    Operation,
    PutExecution,
    PutIntent,
    RecommendationRecord,
    RecommendationStatus,
    SetAside,
    SetRecommendation,
)
from exitguard.core.session import SessionCalendar
from exitguard.dispatch.entries import Entry, EntryDesk
from exitguard.dispatch.ledger import DispatchLedger
from exitguard.dispatch.options import DispatcherOptions
from exitguard.dispatch.orders import Records, client_order_id, intended, request_body, request_from_body
from exitguard.dispatch.plan import Moment, Plan, Underway, build_book, plan_entry, with_entry
from exitguard.dispatch.pricing import NoPrice
from exitguard.dispatch.signal import MAX_TEXT, Flaw, FlawKind, Signal, read_signal
from exitguard.store.port import AccountStore, Lease, LeaseLost, StoreError, StoreUnavailable

COMPONENT = "dispatcher"
# A filled entry counts as held until the broker's positions show it, which may take seconds.
POSITIONS_LAG = timedelta(seconds=15)
_CALENDAR_BACK, _CALENDAR_AHEAD = timedelta(days=7), timedelta(days=400)
_BEAT_EVERY = timedelta(seconds=30)


@dataclass(slots=True)
class Waiting:
    """A claimed signal that has no order yet, and since when (venue time)."""

    row: RecommendationRecord
    since: datetime
    reason: str = "not looked at yet"


async def run_dispatcher(
    account: AccountSettings,
    store: AccountStore,
    broker: Broker,
    clock: Clock,
    *,
    stop: asyncio.Event,
    options: DispatcherOptions,
    once: bool = False,
    updates: "asyncio.Queue[TradeUpdate] | None" = None,
) -> None:
    """Dispatch signals of one account until `stop` is set, or for one round when `once`.

    `updates` may carry the account's trade updates, which make fills known sooner; polling finds them without.
    Raises LeaseHeld when another process dispatches for the account, LeaseLost when one took over, AccountMismatch for
    wrong keys, InvalidInput when the account has no risk limits, BrokerError when the broker cannot be asked at start.
    """
    if account.risk is None:
        raise InvalidInput(
            f"account {account.name} has no [accounts.{account.name}.risk] limits: nothing is dispatched"
        )
    dispatcher = Dispatcher(account, account.risk, store, broker, clock, stop, options)
    await dispatcher.start()
    try:
        await (dispatcher.run_round() if once else dispatcher.run(updates))
    finally:
        await dispatcher.finish()


class Dispatcher:
    """The state of one account's dispatcher. Use `run_dispatcher`."""

    def __init__(
        self,
        account: AccountSettings,
        limits: RiskSettings,
        store: AccountStore,
        broker: Broker,
        clock: Clock,
        stop: asyncio.Event,
        options: DispatcherOptions,
    ) -> None:
        self._account = account
        self._limits = limits
        self._store = store
        self._broker = broker
        self._clock = clock
        self._stop = stop
        self._options = options
        self._mode = ExecutionMode.LIVE if account.mode == "live" else ExecutionMode.ALPACA_PAPER
        self._ledger = DispatchLedger(store, clock, stop)
        self._desk = EntryDesk(broker, clock, self._ledger.commit, options.timing, self._market_open)
        self._log = structlog.get_logger().bind(account=account.name, component=COMPONENT, build=options.build)
        self._desk.bind(account=account.name, component=COMPONENT, build=options.build)
        self._wake = asyncio.Event()
        self._entries: dict[str, Entry] = {}
        self._settling: list[tuple[Underway, datetime]] = []
        self._waiting: dict[int, Waiting] = {}
        self._lease: Lease | None = None
        self._number = ""
        self._calendar: SessionCalendar | None = None
        self._calendar_until = datetime.min.replace(tzinfo=clock.now().tzinfo)
        self._beaten_at: datetime | None = None
        self._last_seen = 0
        self._last_beaten = -1

    # Life -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take the lease, check the account, and find everything that an earlier process left unfinished."""
        described = await self._broker.account()
        self._number = described.account_number
        await self._store.bind_account_number(described.account_number, self._account.tier, self._account.mode)
        self._lease = await self._store.acquire_lease(self._options.holder, self._options.lease_ttl, COMPONENT)
        self._ledger.epoch = self._lease.epoch
        venue = await self._broker.clock()
        self._clock.observe(venue.now, authoritative=True)
        await self._refresh_calendar()
        await self._recover()
        self._log.info(
            "Dispatcher starting",
            account_number=self._number,
            limits=self._limits.model_dump(mode="json"),
            unfinished_entries=len(self._entries),
        )

    async def finish(self) -> None:
        """Give the lease back. What is unfinished is found again by the next start."""
        if self._lease is None:
            return
        try:
            await self._store.release_lease(self._lease)
        except StoreError as error:
            self._log.warning("Lease not given back, it runs out by itself", error=str(error))
        self._log.info("Dispatcher completed", unfinished_entries=len(self._entries))

    async def run(self, updates: "asyncio.Queue[TradeUpdate] | None") -> None:
        """Work until `stop` is set; ends early with the error of any part that cannot go on."""
        jobs: list[Awaitable[None]] = [self._loop(), self._renew(), self._listen()]
        if updates is not None:
            jobs.append(self._follow(updates))
        tasks = [asyncio.ensure_future(job) for job in jobs]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _loop(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            try:
                await self.run_round()
            except StoreUnavailable as error:
                self._log.warning("Database unavailable, the dispatcher waits", error=str(error))
                await asyncio.sleep(1.0)
            await self._pause()

    async def _pause(self) -> None:
        """Wait for a notification, the next poll, the stop, or the next lookup of an unknown outcome."""
        waits = [
            asyncio.ensure_future(self._stop.wait()),
            asyncio.ensure_future(self._wake.wait()),
            asyncio.ensure_future(self._clock.sleep(self._options.poll_seconds)),
        ]
        unresolved = any(entry.unresolved for entry in self._entries.values())
        try:
            await asyncio.wait(waits, timeout=0.2 if unresolved else None, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._options.lease_ttl.total_seconds() / 3)
            assert self._lease is not None, "the lease is taken before any work starts"
            try:
                self._lease = await self._store.renew_lease(self._lease, self._options.lease_ttl)
            except StoreUnavailable as error:
                self._log.warning("Lease not renewed, trying again", error=str(error))

    async def _listen(self) -> None:
        while True:
            try:
                async for channel in self._store.notifications():
                    if channel == "recommendations":
                        self._wake.set()
            except StoreUnavailable as error:
                self._log.warning("Notifications lost, polling goes on", error=str(error))
            await asyncio.sleep(1.0)

    async def _follow(self, updates: "asyncio.Queue[TradeUpdate]") -> None:
        while True:
            update = await updates.get()
            if update.order.client_order_id in self._entries:
                self._wake.set()

    # One round --------------------------------------------------------------------------------------------------

    async def run_round(self) -> None:
        """Follow entries, claim signals, send what can be sent, beat. Raises LeaseLost and StoreUnavailable."""
        await self._refresh_calendar()
        for entry in list(self._entries.values()):
            await self._guarded(entry.client_order_id, partial(self._desk.advance, entry))
        self._sweep()
        if self._market_open():
            await self._claim()
        await self._consider_waiting()
        await self._beat()

    async def _guarded(self, what: str, act: Callable[[], Awaitable[None]]) -> bool:
        """Run one item's step; its failure is logged and never stops its neighbours (F60, F70)."""
        try:
            await act()
        except (LeaseLost, StoreUnavailable):
            raise
        except ExitguardError as error:
            self._log.error("Dispatch item failed", item=what, error=str(error))
            return False
        return True

    def _sweep(self) -> None:
        now = self._clock.now()
        for name, entry in list(self._entries.items()):
            if entry.finished:
                del self._entries[name]
                filled = entry.records.execution.filled_qty
                if filled > 0:
                    cost = entry.cost * filled / entry.request.qty
                    self._settling.append((Underway(entry.request.symbol, name, cost), now + POSITIONS_LAG))
        self._settling = [(entry, until) for entry, until in self._settling if until > now]

    async def _claim(self) -> None:
        rows = await self._store.claim_recommendations(self._clock.now(), self._options.claim_limit)
        for row in rows:
            self._waiting[row.id] = Waiting(row, self._clock.now())
            self._last_seen = max(self._last_seen, row.id)

    async def _consider_waiting(self) -> None:
        now = self._clock.now()
        signals: list[tuple[Waiting, Signal]] = []
        for waiting in list(self._waiting.values()):
            read = read_signal(waiting.row, now)
            if isinstance(read, Flaw):
                await self._drop(waiting, read)
            elif now - waiting.since >= self._options.patience:
                await self._give_up(waiting)
            else:
                signals.append((waiting, read))
        if not signals or not self._market_open():
            return
        moment = await self._moment([signal for _, signal in signals])
        if moment is None:
            return
        for waiting, signal in signals:
            moment = await self._consider(waiting, signal, moment)

    async def _moment(self, signals: list[Signal]) -> Moment | None:
        """Ask the broker and the ledger what counts; None when any answer is missing: nothing is sent on a guess."""
        assert self._calendar is not None, "the calendar is read at the start"
        try:
            account = await self._broker.account()
            positions = await self._broker.positions()
            orders = await self._broker.open_orders()
            quotes = await self._broker.latest_quotes({signal.instrument.symbol for signal in signals})
        except BrokerError as error:
            self._log.warning("Signals wait: the broker does not answer", error=str(error))
            for waiting in self._waiting.values():
                waiting.reason = f"the broker does not answer: {error}"
            return None
        state = await self._store.load()
        underway = [Underway(e.request.symbol, e.client_order_id, e.cost) for e in self._entries.values()]
        underway += [entry for entry, _ in self._settling]
        book = build_book(positions, orders, state.positions, underway)
        return Moment(self._clock.now(), self._calendar, account, book, quotes)

    async def _consider(self, waiting: Waiting, signal: Signal, moment: Moment) -> Moment:
        """Decide on one signal; returns the moment for the next one."""
        row = waiting.row
        name = client_order_id(row)
        policy = self._options.select_policy(signal.strategy, signal.instrument)
        try:
            outcome = plan_entry(signal, name, moment, self._limits, policy, self._options.caps)
        except Exception as error:
            # A row that our own arithmetic trips over must not stop its neighbours, now or after a restart (F70).
            self._log.exception("Signal could not be planned", recommendation_id=row.id)
            outcome = Flaw(FlawKind.SET_ASIDE, f"defect while planning: {error!r}")
        match outcome:
            case NoPrice(reason=reason):
                waiting.reason = reason
            case Flaw() as flaw:
                await self._drop(waiting, flaw)
            case Plan() as plan:
                await self._guarded(name, partial(self._enter, waiting, plan))
                if name in self._entries:
                    return replace(moment, book=with_entry(moment.book, plan))
                await self._drop(waiting, Flaw(FlawKind.SET_ASIDE, "the ledger refused the entry; see the log"))
        return moment

    async def _enter(self, waiting: Waiting, plan: Plan) -> None:
        """Commit the intent, then send (I3)."""
        now = self._clock.now()
        records = intended(waiting.row, plan.signal, plan.request, self._mode, now)
        data = {
            "execution_id": records.execution.execution_id,
            "recommendation_id": waiting.row.id,
            "strategy_type": plan.signal.strategy,
            **request_body(plan.request),
            **plan.evidence(),
        }
        await self._ledger.commit(
            PutExecution(records.execution),
            PutIntent(records.intent),
            AppendEvent(EventType.ENTRY_SUBMITTED, now, data),
        )
        entry = Entry(records, plan.request, plan.sized.cost, sent=False)
        self._entries[entry.client_order_id] = entry
        self._waiting.pop(waiting.row.id, None)
        await self._desk.advance(entry)

    async def _drop(self, waiting: Waiting, flaw: Flaw) -> None:
        row, now = waiting.row, self._clock.now()
        self._log.info("Signal not sent", recommendation_id=row.id, outcome=flaw.kind.value, reason=flaw.reason)
        operations: list[Operation] = [
            SetRecommendation(row.id, flaw.kind.status, flaw.reason[:MAX_TEXT], now),
        ]
        if flaw.kind is FlawKind.SET_ASIDE:
            payload = {
                "recommendation_id": row.id,
                "ticker": str(row.ticker)[:64],
                "option_symbol": str(row.option_symbol)[:64],
                "action": str(row.action)[:64],
            }
            operations.append(SetAside("recommendation", flaw.reason[:MAX_TEXT], payload, now))
        if await self._guarded(f"recommendation {row.id}", partial(self._ledger.commit, *operations)):
            self._waiting.pop(row.id, None)

    async def _give_up(self, waiting: Waiting) -> None:
        seconds = self._options.patience.total_seconds()
        reason = f"gave up after {seconds:.0f} s: {waiting.reason}"[:MAX_TEXT]
        self._log.warning("Signal failed", recommendation_id=waiting.row.id, reason=reason)
        await self._ledger.commit(
            SetRecommendation(waiting.row.id, RecommendationStatus.FAILED, reason, self._clock.now())
        )
        self._waiting.pop(waiting.row.id, None)

    # Recovery ---------------------------------------------------------------------------------------------------

    async def _recover(self) -> None:
        """Take on the orders that an earlier process left (T7); the store claims again what it had only claimed."""
        for execution in await self._store.open_executions():
            await self._guarded(execution.client_order_id, partial(self._take_on, execution))

    async def _take_on(self, execution: ExecutionRecord) -> None:
        intent = await self._store.intent(execution.client_order_id)
        if intent is None:
            raise InvalidInput(f"execution {execution.client_order_id} has no intent: it is left to a person")
        request = request_from_body(intent.request)
        price = request.limit_price or request.stop_price or Decimal(0)
        cost = parse_instrument(request.symbol).notional(request.qty, price)
        # An intended order may have been sent just before the crash, so it is looked up before anything else.
        self._entries[intent.client_order_id] = Entry(Records(execution, intent), request, cost, sent=True)

    # Time and progress ------------------------------------------------------------------------------------------

    def _market_open(self) -> bool:
        return self._calendar is not None and self._calendar.is_open(self._clock.now())

    async def _refresh_calendar(self) -> None:
        """Read the venue's calendar once a day; the old one serves while the broker does not answer."""
        now = self._clock.now()
        if self._calendar is not None and now < self._calendar_until:
            return
        day = now.date()
        try:
            sessions = await self._broker.calendar(day - _CALENDAR_BACK, day + _CALENDAR_AHEAD)
        except BrokerError as error:
            if self._calendar is None:
                raise
            self._log.warning("Calendar not refreshed, the old one serves", error=str(error))
            return
        self._calendar = SessionCalendar(sessions)
        self._calendar_until = now + timedelta(days=1)

    async def _beat(self) -> None:
        now = self._clock.now()
        due = self._beaten_at is None or now - self._beaten_at >= _BEAT_EVERY or self._last_seen != self._last_beaten
        if not due:
            return
        beat = Heartbeat(
            account_name=self._account.name,
            component=COMPONENT,
            build=self._options.build,
            policy_hash=self._options.policy_hash,
            config_hash=self._options.config_hash,
            broker_account_number=self._number,
            venue_time=now,
            open_positions=0,
            closing_positions=0,
            details={
                "entries": len(self._entries),
                "unresolved": sum(entry.unresolved for entry in self._entries.values()),
                "waiting": len(self._waiting),
                "last_recommendation": self._last_seen,
            },
        )
        await self._store.beat(beat, self._ledger.epoch)
        self._beaten_at, self._last_beaten = now, self._last_seen
