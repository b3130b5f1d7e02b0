"""What every `AccountStore` promises."""

import asyncio
import contextlib
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from tests.contract.store.conftest import World, leased
from tests.support.ledger import NOON, batch, closed, event, execution, fill, heartbeat, history, intent, position

from exitguard.core.position import PositionSide
from exitguard.core.records import (
    ClearAlarm,
    CloseReason,
    CommandVerb,
    EventType,
    ExecutionStatus,
    FinishCommand,
    IntentStatus,
    Mark,
    Protection,
    PutExecution,
    PutFill,
    PutHistory,
    PutIntent,
    PutPosition,
    RaiseAlarm,
    RecommendationStatus,
    SetAside,
    SetRecommendation,
)
from exitguard.core.restatement import Restatement, RestatementKind
from exitguard.store.port import AccountMismatch, LeaseHeld, LeaseLost, StoreRejected

CALL = "AAPL240315C00100000"


async def test_f145_a_batch_becomes_true_together_and_is_read_back(world: World) -> None:
    store, lease = await leased(world, "large")
    row, order = position("large"), intent("large", 1)
    await store.commit(
        batch("large", lease.epoch, PutPosition(row), PutFill(1, fill(), "stream"), PutIntent(order), event())
    )
    state = await store.load()
    assert [replace(found, created_at=None) for found in state.positions] == [row]
    assert state.fills == {1: (fill(),)}
    assert state.live_intents == (order,)
    assert state.next_position_id == 2
    assert await store.intent(order.client_order_id) == order
    assert await store.intent("never-sent") is None


async def test_i10_what_restated_a_position_is_read_back(world: World) -> None:
    store, lease = await leased(world, "large")
    split = Restatement(RestatementKind.SPLIT, NOON, "AAPL", "AAPL", Decimal(3), Decimal(2))
    renamed = Restatement(RestatementKind.SYMBOL_CHANGED, NOON, "AAPL", "APPL", Decimal(1), Decimal(1))
    row = position("large", symbol="APPL", restatements=(split, renamed))
    kinds = [EventType.SPLIT, EventType.SYMBOL_CHANGED, EventType.CONTRACT_ADJUSTED]
    await store.commit(batch("large", lease.epoch, PutPosition(row), *(event(kind) for kind in kinds)))
    (found,) = (await store.load()).positions
    assert found.restatements == (split, renamed)


async def test_f33_the_same_batch_twice_counts_once(world: World) -> None:
    store, lease = await leased(world, "large")
    first = batch("large", lease.epoch, PutPosition(position("large")))
    await store.commit(first)
    await store.commit(batch("large", lease.epoch, PutPosition(position("large", quantity=Decimal(4)))))
    await store.commit(first)
    (found,) = (await store.load()).positions
    assert found.quantity == 4, "the repeated batch must not undo the later one"


async def test_f60_one_refused_operation_refuses_its_whole_batch_and_nothing_else(world: World) -> None:
    store, lease = await leased(world, "large")
    await store.commit(batch("large", lease.epoch, PutPosition(position("large", 1))))
    with pytest.raises(StoreRejected):
        await store.commit(
            batch(
                "large",
                lease.epoch,
                PutPosition(position("large", 2, "MSFT")),
                PutFill(999, fill("fill-of-nothing"), "stream"),
            )
        )
    assert [found.id for found in (await store.load()).positions] == [1]
    await store.commit(batch("large", lease.epoch, PutPosition(position("large", 2, "MSFT"))))
    assert [found.id for found in (await store.load()).positions] == [1, 2]


async def test_f20_a_second_live_position_of_the_same_contract_is_refused(world: World) -> None:
    store, lease = await leased(world, "large")
    await store.commit(batch("large", lease.epoch, PutPosition(position("large", 1))))
    with pytest.raises(StoreRejected):
        await store.commit(batch("large", lease.epoch, PutPosition(position("large", 2))))
    # The other side, the contract on the same underlying (F46) and a later episode are other positions.
    short = position("large", 3, side=PositionSide.SHORT, stop_loss=Decimal(110), take_profit=Decimal(90))
    await store.commit(batch("large", lease.epoch, PutPosition(short), PutPosition(position("large", 4, CALL))))
    await store.commit(batch("large", lease.epoch, PutPosition(closed(position("large", 1)))))
    await store.commit(batch("large", lease.epoch, PutPosition(position("large", 5))))
    assert [found.id for found in (await store.load()).positions] == [3, 4, 5]


async def test_a_closed_position_is_not_loaded_and_its_number_is_not_used_again(world: World) -> None:
    store, lease = await leased(world, "large")
    row = position("large", 7)
    await store.commit(batch("large", lease.epoch, PutPosition(row), PutFill(7, fill(), "stream")))
    await store.commit(batch("large", lease.epoch, PutPosition(closed(row)), PutHistory(history(row))))
    state = await store.load()
    assert (state.positions, state.fills, state.next_position_id) == ((), {}, 8)


async def test_f58_a_position_has_one_history_row(world: World) -> None:
    store, lease = await leased(world, "large")
    row = position("large")
    await store.commit(batch("large", lease.epoch, PutPosition(closed(row)), PutHistory(history(row))))
    with pytest.raises(StoreRejected):
        await store.commit(batch("large", lease.epoch, PutHistory(history(row, Decimal(5)))))


async def test_f45_a_known_fill_changes_nothing(world: World) -> None:
    store, lease = await leased(world, "large")
    await store.commit(batch("large", lease.epoch, PutPosition(position("large")), PutFill(1, fill("a"), "stream")))
    again = fill("a", qty=Decimal(99))
    await store.commit(
        batch("large", lease.epoch, PutFill(1, again, "activities"), PutFill(1, fill("b"), "activities"))
    )
    found = (await store.load()).fills[1]
    assert [(each.execution_id, each.qty) for each in found] == [("a", 10), ("b", 10)]


async def test_f19_f25_f28_an_account_sees_nothing_of_another_that_holds_the_same(world: World) -> None:
    large, large_lease = await leased(world, "large")
    tiny, tiny_lease = await leased(world, "tiny")
    await large.commit(batch("large", large_lease.epoch, PutPosition(position("large")), PutIntent(intent("large", 1))))
    await tiny.commit(batch("tiny", tiny_lease.epoch, PutPosition(position("tiny"))))
    assert [found.account_name for found in (await tiny.load()).positions] == ["tiny"]
    assert [found.account_name for found in (await large.load()).positions] == ["large"]
    assert (await tiny.load()).live_intents == ()


async def test_f25_a_batch_or_a_row_of_another_account_is_refused(world: World) -> None:
    large, lease = await leased(world, "large")
    await leased(world, "tiny")
    with pytest.raises(StoreRejected):
        await large.commit(batch("tiny", lease.epoch, event()))
    for operation in (
        PutPosition(position("tiny")),
        PutIntent(intent("tiny", None)),
        PutExecution(execution("tiny")),
    ):
        with pytest.raises(StoreRejected):
            await large.commit(batch("large", lease.epoch, operation))


async def test_i12_an_older_epoch_is_refused_everywhere(world: World) -> None:
    old, old_lease = await leased(world, "large")
    await old.commit(batch("large", old_lease.epoch, PutPosition(position("large"))))
    await old.release_lease(old_lease)
    new, new_lease = await leased(world, "large")
    assert new_lease.epoch > old_lease.epoch
    mark = Mark(1, Decimal(1), None, None, None, None, NOON, NOON, Protection.BLIND, NOON)
    with pytest.raises(LeaseLost):
        await old.commit(batch("large", old_lease.epoch, event()))
    with pytest.raises(LeaseLost):
        await old.write_marks([mark], old_lease.epoch)
    with pytest.raises(LeaseLost):
        await old.beat(heartbeat("large"), old_lease.epoch)
    with pytest.raises(LeaseLost):
        await old.renew_lease(old_lease, timedelta(seconds=5))
    await new.commit(batch("large", new_lease.epoch, event()))


async def test_f44_a_second_process_of_the_same_component_is_refused(world: World) -> None:
    await leased(world, "large")
    with pytest.raises(LeaseHeld):
        await leased(world, "large")
    # Another component of the account and another account are nobody's business.
    dispatcher, lease = await leased(world, "large", "dispatcher")
    await leased(world, "tiny")
    await dispatcher.commit(batch("large", lease.epoch, event(EventType.ENTRY_SUBMITTED, None)))
    renewed = await dispatcher.renew_lease(lease, timedelta(seconds=60))
    assert renewed.expires_at > lease.expires_at


async def test_f27_other_keys_than_at_the_first_run_are_refused(world: World) -> None:
    store, _ = await leased(world, "large")
    await store.bind_account_number("PA1", "large", "paper")
    await store.bind_account_number("PA1", "large", "paper")
    with pytest.raises(AccountMismatch, match="PA1"):
        await store.bind_account_number("PA2", "large", "paper")


async def test_marks_change_what_a_sweep_saw_and_keep_the_last_price_of_a_blind_position(world: World) -> None:
    store, lease = await leased(world, "large")
    await store.commit(
        batch("large", lease.epoch, PutPosition(position("large", 1)), PutPosition(position("large", 2, "MSFT")))
    )
    later = NOON + timedelta(minutes=1)
    seen = Mark(1, Decimal("101.5"), Decimal("12.5"), Decimal("1.25"), Decimal(102), Decimal(99), NOON, NOON,
                Protection.PROTECTED, NOON)  # fmt: skip
    unseen = Mark(2, None, None, None, None, None, None, NOON, Protection.BLIND, NOON)
    unknown = Mark(77, Decimal(1), None, None, None, None, NOON, NOON, Protection.PROTECTED, NOON)
    assert await store.write_marks([seen, unseen, unknown], lease.epoch) == 2
    blind = replace(seen, price=None, pnl_dollars=None, pnl_percent=None, marked_at=None, checked_at=later,
                    protection=Protection.BLIND)  # fmt: skip
    assert await store.write_marks([blind], lease.epoch) == 1
    assert await store.write_marks([], lease.epoch) == 0
    first, second = (await store.load()).positions
    assert (first.current_price, first.current_pnl_dollars, first.marked_at) == (
        Decimal("101.5"),
        Decimal("12.5"),
        NOON,
    )
    assert (first.best_price, first.worst_price) == (102, 99)
    assert (first.last_checked_at, first.protection) == (later, Protection.BLIND)
    assert (second.current_price, second.last_checked_at, second.protection) == (None, NOON, Protection.BLIND)


async def test_f55_marks_of_an_earlier_look_take_no_extreme_back(world: World) -> None:
    """A sweep that the database kept waiting comes after the batch of a later look."""
    store, lease = await leased(world, "large")
    later = NOON + timedelta(minutes=1)
    row = replace(position("large", 1), best_price=Decimal(110), worst_price=Decimal(95), last_checked_at=later)
    await store.commit(batch("large", lease.epoch, PutPosition(row)))
    mark = Mark(1, Decimal(101), Decimal(10), Decimal(1), Decimal(102), Decimal(99), NOON, NOON,
                Protection.PROTECTED, NOON)  # fmt: skip
    await store.write_marks([mark], lease.epoch)
    (found,) = (await store.load()).positions
    assert (found.best_price, found.worst_price) == (110, 95)
    newer = replace(mark, best_price=Decimal(112), worst_price=Decimal(94), checked_at=later)
    await store.write_marks([newer], lease.epoch)
    (found,) = (await store.load()).positions
    assert (found.best_price, found.worst_price) == (112, 94)


async def test_marks_do_not_touch_closed_positions(world: World) -> None:
    store, lease = await leased(world, "large")
    await store.commit(batch("large", lease.epoch, PutPosition(closed(position("large")))))
    mark = Mark(1, Decimal(1), None, None, None, None, NOON, NOON, Protection.BLIND, NOON)
    assert await store.write_marks([mark], lease.epoch) == 0


async def test_live_intents_are_those_that_the_broker_may_still_act_on(world: World) -> None:
    store, lease = await leased(world, "large")
    orders = [
        intent("large", None, client_order_id=f"order-{status.value}", status=status, symbol="AAPL")
        for status in IntentStatus
        if status is not IntentStatus.ARMED
    ]
    await store.commit(batch("large", lease.epoch, *(PutIntent(order) for order in orders)))
    assert {found.status for found in (await store.load()).live_intents} == {
        status for status in IntentStatus if status.is_live
    }


async def test_i2_one_close_is_armed_for_each_position_and_found_again(world: World) -> None:
    store, lease = await leased(world, "large")
    await store.commit(batch("large", lease.epoch, PutPosition(position("large"))))
    armed = intent("large", 1, client_order_id="close-1", status=IntentStatus.ARMED)
    await store.commit(batch("large", lease.epoch, PutIntent(armed)))
    assert (await store.load()).live_intents == (armed,)
    other = replace(armed, client_order_id="close-2", attempt=2)
    with pytest.raises(StoreRejected):
        await store.commit(batch("large", lease.epoch, PutIntent(other)))
    given_up = replace(armed, status=IntentStatus.CANCELED)
    await store.commit(batch("large", lease.epoch, PutIntent(given_up), PutIntent(other)))
    assert (await store.load()).live_intents == (other,)


async def test_i12_a_lease_is_beyond_doubt_only_while_it_is_held(world: World) -> None:
    store, lease = await leased(world, "large")
    assert store.surely_leased()
    await store.renew_lease(lease, timedelta(seconds=60))
    assert store.surely_leased()
    await store.release_lease(lease)
    assert not store.surely_leased()


async def test_f32_unlinked_executions_are_found_whatever_their_age(world: World) -> None:
    store, lease = await leased(world, "large")
    old = execution("large", simulated_ts=NOON - timedelta(days=400))
    linked = execution("large", "MSFT")
    partly = execution("large", "NVDA", status=ExecutionStatus.CANCELED, filled_qty=Decimal(3))
    unfilled = execution("large", "IBM", status=ExecutionStatus.CANCELED, filled_qty=Decimal(0), avg_fill_price=None)
    working = execution("large", "AMD", status=ExecutionStatus.ACCEPTED, filled_qty=Decimal(0), avg_fill_price=None)
    everything = (old, linked, partly, unfilled, working)
    await store.commit(
        batch(
            "large",
            lease.epoch,
            *(PutExecution(each) for each in everything),
            PutPosition(position("large", 1, "MSFT", execution_id=linked.execution_id)),
        )
    )
    found = {each.symbol for each in await store.unlinked_executions()}
    assert found == {"AAPL", "NVDA", "AMD"}
    assert len(await store.unlinked_executions(limit=1)) == 1
    assert await store.open_executions() == [working]


async def test_every_order_that_was_ever_ours_is_known_with_its_legs(world: World) -> None:
    store, lease = await leased(world, "large")
    other, other_lease = await leased(world, "tiny")
    done = execution("large", client_order_id="e1", broker_order_id="b1", stop_order_id="s1", target_order_id="t1")
    working = execution("large", "MSFT", client_order_id="e2", status=ExecutionStatus.ACCEPTED)
    row = position("large", stop_order_id="s2", target_order_id="t2")
    sent = intent("large", 1, client_order_id="c1", broker_order_id="b3", status=IntentStatus.CANCELED)
    live = intent("large", 1, client_order_id="c2")
    operations = (PutExecution(done), PutExecution(working), PutPosition(row), PutIntent(sent), PutIntent(live))
    await store.commit(batch("large", lease.epoch, *operations))
    await store.commit(batch("large", lease.epoch, PutPosition(closed(row))))
    foreign = execution("tiny", client_order_id="e9", broker_order_id="b9")
    await other.commit(batch("tiny", other_lease.epoch, PutExecution(foreign)))

    async def known(*ids: str) -> set[tuple[str | None, str | None, bool]]:
        return {(k.order_id, k.client_order_id, k.wanted) for k in await store.own_orders(ids)}

    assert await known() == await known("b9", "e9", "by-hand") == set()
    assert await known("s1") == {("s1", "e1", False)}
    assert await known("e1") == {("b1", "e1", False), ("s1", "e1", False), ("t1", "e1", False)}
    assert ("e2", True) in {(name, wanted) for _, name, wanted in await known("e2")}
    assert await known("t2", "b3", "c2") == {("t2", None, False), ("b3", "c1", False), (None, "c2", True)}


async def test_f141_alarms_are_active_until_cleared(world: World) -> None:
    store, lease = await leased(world, "large")
    raised = RaiseAlarm("stuck:1", "stuck", NOON, "position 1 does not close", 1, {"attempt": 3})
    await store.commit(batch("large", lease.epoch, raised, raised))
    assert (await store.load()).active_alarms == {"stuck:1"}
    await store.commit(batch("large", lease.epoch, ClearAlarm("stuck:1", NOON), ClearAlarm("other", NOON)))
    assert (await store.load()).active_alarms == frozenset()
    await store.commit(batch("large", lease.epoch, raised))
    assert (await store.load()).active_alarms == {"stuck:1"}


async def test_f105_signals_are_claimed_once_newest_first_and_expire(world: World) -> None:
    store, _ = await leased(world, "large", "dispatcher")
    expired = await world.recommend("large", ticker="IBM", action="BUY_STOCK", expires_at=NOON)
    first = await world.recommend("large", ticker="AAPL", action="BUY_STOCK", qty=Decimal(3), features={"a": 1})
    second = await world.recommend("large", ticker="MSFT", action="BUY_STOCK", expires_at=NOON + timedelta(hours=1))
    await world.recommend("tiny", ticker="NVDA", action="BUY_STOCK")  # F41: not this account's work
    claimed = await store.claim_recommendations(NOON)
    assert [(row.id, row.ticker, row.qty) for row in claimed] == [(second, "MSFT", None), (first, "AAPL", Decimal(3))]
    assert claimed[1].features == {"a": 1}
    assert await store.claim_recommendations(NOON) == []
    assert (await world.recommendation_status("large", expired))[0] == "expired"


async def test_f105_a_claim_takes_the_newest_and_no_more_than_asked(world: World) -> None:
    store, _ = await leased(world, "large", "dispatcher")
    for ticker in ("A", "B", "C"):
        await world.recommend("large", ticker=ticker, action="BUY_STOCK")
    assert [row.ticker for row in await store.claim_recommendations(NOON, limit=2)] == ["C", "B"]
    assert [row.ticker for row in await store.claim_recommendations(NOON, limit=2)] == ["A"]


async def test_t7_f106_what_a_lost_dispatcher_had_claimed_is_claimed_again_unless_an_order_came_of_it(
    world: World,
) -> None:
    lost, lost_lease = await leased(world, "large", "dispatcher")
    ordered = await world.recommend("large", ticker="AAPL", action="BUY_STOCK")
    nothing = await world.recommend("large", ticker="MSFT", action="BUY_STOCK")
    assert len(await lost.claim_recommendations(NOON)) == 2
    await lost.commit(batch("large", lost_lease.epoch, PutExecution(execution("large", recommendation_id=ordered))))
    await lost.release_lease(lost_lease)
    store, _ = await leased(world, "large", "dispatcher")
    assert [row.id for row in await store.claim_recommendations(NOON)] == [nothing]
    assert await store.claim_recommendations(NOON) == []


async def test_f42_a_signal_moves_on_and_a_missing_one_is_refused(world: World) -> None:
    store, lease = await leased(world, "large", "dispatcher")
    number = await world.recommend("large", ticker="AAPL", action="HOLD")
    moved = SetRecommendation(number, RecommendationStatus.SKIPPED, "HOLD", NOON)
    await store.commit(batch("large", lease.epoch, moved))
    assert await world.recommendation_status("large", number) == ("skipped", "HOLD")
    with pytest.raises(StoreRejected):
        await store.commit(batch("large", lease.epoch, replace(moved, id=number + 1000)))


async def test_a_request_waits_until_it_is_answered(world: World) -> None:
    store, lease = await leased(world, "large")
    number = await world.command("large", CommandVerb.CLOSE, position_id=4)
    await world.command("tiny", CommandVerb.KILL_SWITCH)
    (pending,) = await store.pending_commands()
    assert (pending.id, pending.verb, pending.position_id) == (number, CommandVerb.CLOSE, 4)
    await store.commit(batch("large", lease.epoch, FinishCommand(number, True, "closing", NOON)))
    assert await store.pending_commands() == []
    assert await world.command_answer(number, "large") == (True, "closing")
    with pytest.raises(StoreRejected):
        await store.commit(batch("large", lease.epoch, FinishCommand(number + 1000, True, "", NOON)))


async def test_whoever_waits_is_woken(world: World) -> None:
    store, _ = await leased(world, "large")
    seen: asyncio.Queue[str] = asyncio.Queue()

    async def listen() -> None:
        async for name in store.notifications():
            seen.put_nowait(name)

    async def await_name(name: str) -> None:
        while await seen.get() != name:
            pass

    listener = asyncio.create_task(listen())
    try:
        async with asyncio.timeout(10):
            with contextlib.suppress(TimeoutError):  # a store may say everything once when it begins to listen
                async with asyncio.timeout(0.3):
                    while True:
                        await seen.get()
            await world.recommend("large", ticker="AAPL", action="BUY_STOCK")
            await await_name("recommendations")
            await world.command("large", CommandVerb.CLOSE)
            await await_name("commands")
            await world.command("tiny", CommandVerb.CLOSE)
            await asyncio.sleep(0)
            assert seen.empty()
    finally:
        listener.cancel()
        await asyncio.gather(listener, return_exceptions=True)


@pytest.mark.parametrize("reason", list(CloseReason), ids=lambda reason: reason.value)
async def test_t20_every_close_reason_can_be_recorded(world: World, reason: CloseReason) -> None:
    store, lease = await leased(world, "large")
    row = closed(position("large"), reason)
    await store.commit(batch("large", lease.epoch, PutPosition(row), PutHistory(history(row))))


async def test_every_kind_of_event_and_evidence_can_be_kept(world: World) -> None:
    store, lease = await leased(world, "large")
    operations = [event(kind, None, why="x") for kind in EventType]
    aside = SetAside("quote", "price is NaN", {"raw": "NaN"}, NOON)
    await store.commit(batch("large", lease.epoch, *operations, aside))


async def test_i2_a_second_live_close_of_a_position_is_refused(world: World) -> None:
    store, lease = await leased(world, "large")
    first, second = intent("large", 1), intent("large", 1)
    await store.commit(batch("large", lease.epoch, PutPosition(position("large")), PutIntent(first)))
    with pytest.raises(StoreRejected):
        await store.commit(batch("large", lease.epoch, PutIntent(second)))
    ended = replace(first, status=IntentStatus.CANCELED)
    await store.commit(batch("large", lease.epoch, PutIntent(ended), PutIntent(second)))
    assert (await store.load()).live_intents == (second,)


async def test_a_closed_position_is_closed_for_good(world: World) -> None:
    store, lease = await leased(world, "large")
    await store.commit(batch("large", lease.epoch, PutPosition(closed(position("large")))))
    with pytest.raises(StoreRejected):
        await store.commit(batch("large", lease.epoch, PutPosition(position("large"))))


async def test_an_intent_names_a_position_that_exists(world: World) -> None:
    store, lease = await leased(world, "large")
    with pytest.raises(StoreRejected):
        await store.commit(batch("large", lease.epoch, PutIntent(intent("large", 999))))
