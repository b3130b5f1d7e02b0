"""The dispatcher on fakes: intent before order, never a second order, truth in the rows."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from tests.support.fake_broker import FakeBroker, Wire
from tests.support.memory_store import MemoryLedger, MemoryStore
from tests.unit.dispatch.rows import CALL, NOW, risk, settings

from exitguard.broker.clock import SteppedClock
from exitguard.broker.port import BrokerRefused, BrokerUnavailable
from exitguard.core.errors import InvalidInput
from exitguard.core.orders import OrderClass, OrderSide, PositionIntent
from exitguard.core.policy import DEFAULT_POLICY
from exitguard.core.records import (
    Batch,
    EventType,
    ExecutionStatus,
    IntentStatus,
    PutIntent,
    RecommendationStatus,
)
from exitguard.dispatch.entries import EntryTiming
from exitguard.dispatch.options import DispatcherOptions
from exitguard.dispatch.service import Dispatcher, run_dispatcher
from exitguard.store.port import AccountMismatch, LeaseHeld, LeaseLost, StoreRejected, StoreUnavailable

# Lookups prove absence at once: the fake hides nothing unless told to.
TIMING = EntryTiming(absence_lookups=3, absence_seconds=0.0, unsent_pause=0.0)


class Crash(BaseException):
    """The process dies here."""


class Bench:
    """One account, its broker and its ledger; processes come and go."""

    def __init__(self, at: datetime = NOW, **account: Any) -> None:
        self.clock = SteppedClock(at)
        self.ledger = MemoryLedger(self.clock.now)
        self.broker = FakeBroker(self.clock.now)
        self.account = settings(**account)
        self.stop = asyncio.Event()
        self.processes = 0
        self.store = MemoryStore(self.ledger, "large")
        self.broker.set_quote("AAPL", "99.98", "100.00")
        self.broker.set_quote("MSFT", "249.90", "250.00")
        self.broker.set_quote(CALL, "2.45", "2.50")

    def options(self, **fields: Any) -> DispatcherOptions:
        self.processes += 1
        base = DispatcherOptions(
            select_policy=lambda strategy, instrument: DEFAULT_POLICY,
            holder=f"process-{self.processes}",
            build="test",
            policy_hash="p",
            config_hash="c",
            timing=TIMING,
        )
        return replace(base, **fields)

    async def process(self, **fields: Any) -> Dispatcher:
        """Start a process; an earlier one is dead and its lease has run out."""
        self.ledger.account("large").leases.clear()
        self.store = MemoryStore(self.ledger, "large")
        assert self.account.risk is not None
        started = Dispatcher(
            self.account, self.account.risk, self.store, self.broker, self.clock, self.stop, self.options(**fields)
        )
        await started.start()
        return started

    def later(self, **delta: int) -> None:
        self.clock.observe(self.clock.now() + timedelta(**delta), authoritative=True)
        for quote in list(self.broker.quotes.values()):
            self.broker.set_quote(quote.symbol, quote.bid, quote.ask)

    @property
    def execution(self) -> Any:
        (only,) = self.store.rows.executions.values()
        return only

    def outcome(self, number: int = 1) -> tuple[RecommendationStatus, str | None]:
        stored = self.store.rows.recommendations[number]
        return stored.status, stored.reason


async def rounds(process: Dispatcher, until: Callable[[], bool], limit: int = 50) -> None:
    for _ in range(limit):
        await process.run_round()
        if until():
            return
    raise AssertionError("the condition was not reached")


async def test_a_stock_gets_a_bracket_and_the_row_says_what_the_broker_said() -> None:
    bench = Bench()
    bench.ledger.recommend("large", ticker="AAPL", action="BUY_STOCK", stop_loss=Decimal(98), take_profit=Decimal(103))
    process = await bench.process()
    await process.run_round()
    await process.run_round()
    (order,) = bench.broker.submitted
    assert order.order_class is OrderClass.BRACKET
    assert (order.side, order.position_intent) == (OrderSide.BUY, PositionIntent.BUY_TO_OPEN)
    assert (order.stop_loss, order.take_profit, order.limit_price) == (98, 103, Decimal("100.25"))
    execution = bench.execution
    assert execution.status is ExecutionStatus.FILLED
    assert (execution.filled_qty, execution.avg_fill_price) == (order.qty, Decimal("100.00"))
    assert execution.executed_at == NOW
    live = {o.id: o for o in await bench.broker.open_orders()}
    assert {execution.stop_order_id, execution.target_order_id} == set(live)
    assert live[execution.stop_order_id].stop_price == 98
    assert bench.store.rows.intents[order.client_order_id].status is IntentStatus.FILLED
    assert bench.outcome() == (RecommendationStatus.EXECUTED, None)
    (event,) = bench.store.rows.events
    assert event.type is EventType.ENTRY_SUBMITTED
    assert event.data["client_order_id"] == order.client_order_id == execution.client_order_id


async def test_a_short_and_an_option() -> None:
    bench = Bench()
    bench.ledger.recommend("large", ticker="AAPL", action="BUY_CALL", option_symbol=CALL, stop_loss=Decimal("1.50"))
    bench.ledger.recommend("large", ticker="MSFT", action="SELL_STOCK")
    process = await bench.process()
    await process.run_round()
    orders = {o.symbol: o for o in bench.broker.submitted}
    short, option = orders["MSFT"], orders[CALL]
    assert short.position_intent is PositionIntent.SELL_TO_OPEN
    assert short.take_profit is not None
    assert short.stop_loss is not None
    assert short.take_profit < 250 < short.stop_loss
    assert option.order_class is OrderClass.SIMPLE
    assert option.position_intent is PositionIntent.BUY_TO_OPEN
    assert (option.stop_loss, option.take_profit) == (None, None)
    stored = {e.symbol: e for e in bench.store.rows.executions.values()}
    assert stored[CALL].stop_loss == Decimal("1.50")
    assert (stored[CALL].ticker, stored[CALL].option_symbol) == ("AAPL", CALL)


async def test_i3_f33_the_intent_is_committed_before_the_order_is_sent() -> None:
    bench = Bench()
    bench.ledger.recommend("large", ticker="AAPL", action="BUY_STOCK")
    process = await bench.process()
    sent_at_commit = []

    def watch(batch: Batch) -> None:
        if any(isinstance(op, PutIntent) for op in batch.operations):
            sent_at_commit.append(len(bench.broker.submitted))

    bench.store.on_commit = watch
    await process.run_round()
    assert sent_at_commit[0] == 0
    assert len(bench.broker.submitted) == 1


@pytest.mark.parametrize("crash_at", [0, 1])
@pytest.mark.parametrize("fate", list(Wire))
async def test_t7_f33_f43_a_crash_around_the_send_never_makes_a_second_order(crash_at: int, fate: Wire) -> None:
    bench = Bench()
    number = bench.ledger.recommend("large", ticker="AAPL", action="BUY_STOCK")
    process = await bench.process()
    bench.broker.next_submits(fate)
    commits = []

    def crash(batch: Batch) -> None:
        commits.append(batch)
        if len(commits) == crash_at + 1:
            raise Crash

    bench.store.on_commit = crash
    with pytest.raises(Crash):
        await process.run_round()
    again = await bench.process()
    await rounds(again, lambda: bench.outcome(number)[0] is not RecommendationStatus.CLAIMED)
    await again.run_round()
    assert bench.outcome(number)[0] is RecommendationStatus.EXECUTED
    assert len(bench.broker.orders) == 1
    assert len({o.client_order_id for o in bench.broker.submitted}) == 1
    assert bench.execution.status is ExecutionStatus.FILLED


@pytest.mark.parametrize("hidden", [0, 2])
async def test_an_unknown_outcome_is_looked_up_until_the_broker_shows_the_order(hidden: int) -> None:
    bench = Bench()
    bench.ledger.recommend("large", ticker="AAPL", action="BUY_STOCK")
    bench.broker.next_submits(Wire.ACCEPTED_ANSWER_LOST)
    bench.broker.hidden_lookups = hidden
    process = await bench.process()
    await process.run_round()
    assert bench.execution.status is ExecutionStatus.UNKNOWN
    assert bench.outcome()[0] is RecommendationStatus.CLAIMED
    await rounds(process, lambda: bench.execution.status is ExecutionStatus.FILLED)
    assert len(bench.broker.submitted) == 1
    assert bench.execution.reason is None
    assert bench.outcome()[0] is RecommendationStatus.EXECUTED


async def test_proven_absence_sends_the_same_id_again() -> None:
    bench = Bench()
    bench.ledger.recommend("large", ticker="AAPL", action="BUY_STOCK")
    bench.broker.next_submits(Wire.NEVER_ARRIVED)
    process = await bench.process()
    await rounds(process, lambda: bench.execution.status is ExecutionStatus.FILLED)
    assert len(bench.broker.submitted) == 2
    assert bench.broker.submitted[0] == bench.broker.submitted[1]
    assert bench.broker.calls.count(("order_by_client_id", bench.execution.client_order_id)) >= 3


async def test_an_order_found_absent_long_after_the_crash_is_not_sent_late() -> None:
    bench = Bench()
    bench.ledger.recommend("large", ticker="AAPL", action="BUY_STOCK")
    process = await bench.process()
    bench.broker.next_submits(Wire.NEVER_ARRIVED)
    bench.store.on_commit = lambda batch: (_ for _ in ()).throw(Crash()) if bench.broker.submitted else None
    with pytest.raises(Crash):
        await process.run_round()
    bench.later(minutes=30)
    again = await bench.process()
    await rounds(again, lambda: bench.execution.status is ExecutionStatus.CANCELED)
    assert len(bench.broker.submitted) == 1
    status, reason = bench.outcome()
    assert status is RecommendationStatus.FAILED
    assert reason is not None
    assert "never arrived" in reason


async def test_f34_f35_f36_a_refusal_is_recorded_and_never_simulated() -> None:
    bench = Bench()
    bench.ledger.recommend("large", ticker="AAPL", action="BUY_STOCK")
    bench.broker.next_submits(BrokerRefused(403, 40310000, "insufficient buying power"))
    process = await bench.process()
    await process.run_round()
    assert bench.execution.status is ExecutionStatus.REJECTED
    assert "insufficient buying power" in bench.execution.reason
    assert bench.execution.filled_qty == 0
    status, reason = bench.outcome()
    assert status is RecommendationStatus.REJECTED
    assert reason is not None
    assert [e.type for e in bench.store.rows.events] == [EventType.ENTRY_SUBMITTED, EventType.ENTRY_REFUSED]


async def test_t8_f34_f40_filled_in_part_then_cancelled_in_time() -> None:
    bench = Bench()
    bench.ledger.recommend("large", ticker="AAPL", action="BUY_STOCK", qty=Decimal(50))
    bench.broker.auto_fill = False
    process = await bench.process()
    await process.run_round()
    assert bench.execution.status is ExecutionStatus.ACCEPTED
    bench.broker.fill(bench.execution.broker_order_id, Decimal(20), Decimal("99.50"))
    await process.run_round()
    assert bench.execution.status is ExecutionStatus.PARTIALLY_FILLED
    bench.later(seconds=121)
    bench.broker.slow_cancels = True
    await process.run_round()
    bench.broker.fill(bench.execution.broker_order_id, Decimal(5), Decimal("100.00"))  # a fill beats the cancel
    (order,) = bench.broker.orders.values()
    bench.broker.finish_cancels()
    order_id = order.id
    bench.broker.slow_cancels = False
    await bench.broker.cancel(order_id)
    await process.run_round()
    assert bench.execution.status is ExecutionStatus.CANCELED
    assert bench.execution.filled_qty == 25
    assert bench.execution.avg_fill_price == Decimal("99.6")
    assert "25 filled" in bench.execution.reason
    assert bench.outcome()[0] is RecommendationStatus.EXECUTED


async def test_an_entry_that_never_fills_is_cancelled_and_its_signal_fails() -> None:
    bench = Bench()
    bench.ledger.recommend("large", ticker="AAPL", action="BUY_STOCK")
    bench.broker.auto_fill = False
    process = await bench.process()
    await process.run_round()
    bench.later(seconds=121)
    await rounds(process, lambda: bench.execution.status is ExecutionStatus.CANCELED)
    assert bench.outcome()[0] is RecommendationStatus.FAILED
    assert await bench.broker.open_orders() == []


async def test_f60_f70_t15_a_bad_row_does_not_stop_its_neighbours() -> None:
    bench = Bench()
    bad = [
        bench.ledger.recommend("large", ticker="AAPL", action="SELL_CALL", option_symbol=CALL),
        bench.ledger.recommend("large", ticker="!!", action="BUY_STOCK"),
        bench.ledger.recommend("large", ticker="AAPL", action="BUY_CALL", option_symbol=CALL, stop_loss=Decimal(95)),
        bench.ledger.recommend("large", ticker="AAPL", action="BUY_STOCK", qty=Decimal("NaN")),
    ]
    good = bench.ledger.recommend("large", ticker="AAPL", action="BUY_STOCK")
    process = await bench.process()
    await process.run_round()
    assert bench.outcome(good)[0] is RecommendationStatus.EXECUTED
    for number in bad:
        status, reason = bench.outcome(number)
        assert status is RecommendationStatus.SET_ASIDE
        assert reason
    assert len(bench.store.rows.set_aside) == 4
    assert [o.symbol for o in bench.broker.submitted] == ["AAPL"]


async def test_t15_f60_a_row_that_the_ledger_refuses_stays_alone() -> None:
    bench = Bench()
    bench.ledger.recommend("large", ticker="AAPL", action="BUY_STOCK")
    bench.ledger.recommend("large", ticker="MSFT", action="BUY_STOCK")
    process = await bench.process()
    bench.store.failures_before.append(StoreRejected("check constraint violated"))
    await process.run_round()
    assert len(bench.broker.submitted) == 1
    outcomes = sorted(bench.outcome(n)[0].value for n in (1, 2))
    assert outcomes == ["executed", "set_aside"]


async def test_f131_signals_of_one_round_count_against_each_other() -> None:
    bench = Bench(risk=risk(max_total_exposure_fraction=Decimal("0.15")))
    bench.broker.auto_fill = False
    for symbol in ("AAPL", "MSFT"):
        bench.ledger.recommend("large", ticker=symbol, action="BUY_STOCK")
    process = await bench.process()
    await process.run_round()
    total = sum(o.qty * (o.limit_price or 0) for o in bench.broker.submitted)
    assert len(bench.broker.submitted) == 2
    assert total <= 15_000
    bench.ledger.recommend("large", ticker="AAPL", action="BUY_CALL", option_symbol=CALL)
    await process.run_round()
    assert len(bench.broker.submitted) == 2 or total + bench.broker.submitted[2].qty * 257 <= 15_000


async def test_f127_what_is_held_or_on_its_way_is_not_bought_again() -> None:
    bench = Bench()
    bench.broker.hold("MSFT", 10, "240")
    bench.broker.auto_fill = False
    for symbol in ("MSFT", "AAPL", "AAPL"):
        bench.ledger.recommend("large", ticker=symbol, action="BUY_STOCK")
    process = await bench.process()
    await process.run_round()
    assert [o.symbol for o in bench.broker.submitted] == ["AAPL"]
    assert sorted(bench.outcome(n)[0].value for n in (1, 2, 3)) == ["executed", "skipped", "skipped"]


async def test_f16_a_sell_signal_neither_closes_nor_flips_what_is_held() -> None:
    bench = Bench()
    bench.broker.hold("MSFT", 10, "240")
    bench.ledger.recommend("large", ticker="MSFT", action="SELL_STOCK")
    process = await bench.process()
    await process.run_round()
    assert bench.broker.submitted == []
    assert bench.outcome()[0] is RecommendationStatus.SKIPPED


async def test_f103_a_bad_quote_makes_a_signal_wait_and_a_good_one_sends_it() -> None:
    bench = Bench()
    bench.ledger.recommend("large", ticker="AAPL", action="BUY_STOCK")
    bench.broker.set_quote("AAPL", "101", "100")
    process = await bench.process()
    await process.run_round()
    assert bench.broker.submitted == []
    assert bench.outcome()[0] is RecommendationStatus.CLAIMED
    bench.broker.set_quote("AAPL", "99.98", "100")
    await process.run_round()
    assert bench.outcome()[0] is RecommendationStatus.EXECUTED


async def test_f118_patience_ends_with_the_reason() -> None:
    bench = Bench()
    bench.ledger.recommend("large", ticker="AAPL", action="BUY_STOCK")
    process = await bench.process()
    bench.broker.fail_reads("positions", BrokerUnavailable("HTTP 503"), times=1)
    await process.run_round()
    assert bench.broker.submitted == [], "i11: nothing is sent while the broker's positions are unknown"
    bench.later(seconds=120)
    await process.run_round()
    status, reason = bench.outcome()
    assert status is RecommendationStatus.FAILED
    assert reason is not None
    assert "HTTP 503" in reason


async def test_f113_outside_regular_hours_signals_wait_for_the_open() -> None:
    bench = Bench(at=datetime(2025, 3, 3, 14, 29, 30, tzinfo=UTC))
    bench.ledger.recommend("large", ticker="AAPL", action="BUY_STOCK")
    process = await bench.process()
    await process.run_round()
    assert bench.broker.submitted == []
    assert bench.outcome()[0] is RecommendationStatus.PENDING
    bench.later(seconds=60)
    await process.run_round()
    assert bench.outcome()[0] is RecommendationStatus.EXECUTED


@pytest.mark.parametrize(
    ("at", "fields", "rule"),
    [
        (datetime(2025, 3, 3, 20, 56, tzinfo=UTC), {"strategy_type": "day_trade"}, "day_trade_close"),
        (datetime(2025, 3, 20, 18, 0, tzinfo=UTC), {"action": "BUY_CALL", "option_symbol": CALL}, None),
        (datetime(2025, 3, 21, 14, 0, tzinfo=UTC), {"action": "BUY_CALL", "option_symbol": CALL}, "expiration_risk"),
    ],
)
async def test_t3_f110_f114_nothing_is_bought_that_would_be_sold_at_once(
    at: datetime, fields: dict[str, Any], rule: str | None
) -> None:
    bench = Bench(at=at)
    wanted = {"ticker": "AAPL", "action": "BUY_STOCK", "strategy_type": "swing", **fields}
    bench.ledger.recommend("large", **wanted)
    process = await bench.process()
    await process.run_round()
    if rule is None:
        assert bench.outcome()[0] is RecommendationStatus.EXECUTED
        return
    status, reason = bench.outcome()
    assert status is RecommendationStatus.SKIPPED
    assert reason is not None
    assert rule in reason
    assert bench.broker.submitted == []


async def test_a_second_dispatcher_is_refused_and_an_outdated_one_stops() -> None:
    bench = Bench()
    process = await bench.process()
    with pytest.raises(LeaseHeld):
        await run_dispatcher(
            bench.account, MemoryStore(bench.ledger, "large"), bench.broker, bench.clock,
            stop=bench.stop, options=bench.options(),
        )  # fmt: skip
    bench.ledger.recommend("large", ticker="AAPL", action="BUY_STOCK")
    await bench.process()
    with pytest.raises(LeaseLost):
        await process.run_round()
    assert bench.broker.submitted == [], "i12: an outdated epoch sends nothing"


async def test_f27_wrong_keys_are_refused() -> None:
    bench = Bench()
    await bench.process()
    bench.broker.account_number = "PA-OTHER"
    with pytest.raises(AccountMismatch):
        await bench.process()


async def test_f10_an_account_without_limits_dispatches_nothing() -> None:
    bench = Bench(risk=None)
    with pytest.raises(InvalidInput, match="risk"):
        await run_dispatcher(
            bench.account, bench.store, bench.broker, bench.clock, stop=bench.stop, options=bench.options()
        )


async def test_a_lost_database_holds_the_order_back_and_loses_nothing() -> None:
    bench = Bench()
    bench.ledger.recommend("large", ticker="AAPL", action="BUY_STOCK")
    process = await bench.process()
    bench.store.failures_before.append(StoreUnavailable("gone"))
    bench.store.failures_after.append(StoreUnavailable("gone after it was written"))
    await process.run_round()
    await process.run_round()
    assert len(bench.broker.submitted) == 1
    assert bench.execution.status is ExecutionStatus.FILLED
    assert [e.type for e in bench.store.rows.events] == [EventType.ENTRY_SUBMITTED]


async def test_a_notification_wakes_the_running_dispatcher_and_stop_ends_it() -> None:
    bench = Bench()
    running = asyncio.create_task(
        run_dispatcher(bench.account, bench.store, bench.broker, bench.clock, stop=bench.stop, options=bench.options())
    )
    while not bench.ledger.subscribers.get("large"):  # noqa: ASYNC110
        await asyncio.sleep(0)
    bench.ledger.recommend("large", ticker="AAPL", action="BUY_STOCK")
    async with asyncio.timeout(60):
        while not bench.broker.submitted:  # noqa: ASYNC110
            await asyncio.sleep(0)
        bench.stop.set()
        await running
    assert bench.store.rows.leases == {}
    assert bench.store.rows.heartbeats["dispatcher"].broker_account_number == bench.broker.account_number


async def test_an_order_that_the_broker_has_and_hides_is_never_given_up() -> None:
    bench = Bench()
    bench.ledger.recommend("large", ticker="AAPL", action="BUY_STOCK")
    bench.broker.next_submits(Wire.ACCEPTED_ANSWER_LOST)
    bench.broker.hidden_lookups = 10_000
    process = await bench.process()
    # The list of orders is the second witness.
    await rounds(process, lambda: bench.execution.status is ExecutionStatus.FILLED)
    assert len(bench.broker.submitted) == 1


async def test_a_duplicate_refusal_is_proof_that_the_order_exists_however_late_it_gets() -> None:
    bench = Bench()
    bench.ledger.recommend("large", ticker="AAPL", action="BUY_STOCK")
    bench.broker.next_submits(BrokerRefused(422, 40010001, "client_order_id must be unique"))
    process = await bench.process()
    await process.run_round()
    bench.later(minutes=30)
    await rounds(process, lambda: bool(bench.store.rows.alarms))
    assert bench.execution.status is ExecutionStatus.UNKNOWN, "it is not called canceled while it may be live"
    assert len(bench.broker.submitted) == 1
