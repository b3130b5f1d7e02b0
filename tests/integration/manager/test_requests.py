"""What people may ask of an account's books, and what is told of differences (I11, issue: repair, adopt, forget)."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from tests.support.fake_broker import Wire
from tests.support.ledger import execution
from tests.support.managed import Managed, Venue

from exitguard.broker.port import Accepted, BrokerIncomplete, BrokerUnavailable, UnreadableRow
from exitguard.core.orders import (
    BrokerOrder,
    OrderClass,
    OrderRequest,
    OrderSide,
    OrderType,
    PositionIntent,
    TimeInForce,
)
from exitguard.core.policy import CloseStyle, Policy
from exitguard.core.position import PositionSide
from exitguard.core.reconcile import order_prefix
from exitguard.core.records import (
    CloseReason,
    CommandVerb,
    EventType,
    ExecutionStatus,
    PositionRecord,
    PositionStatus,
    PutExecution,
)
from exitguard.core.replay import contradictions, replay
from exitguard.manager.service import visit_account
from exitguard.store.port import StoreUnavailable

POLICY = Policy(missing_bracket=False, min_hold_minutes=0, option_close_style=CloseStyle.MARKET)
CALL = "AAPL260619C00150000"
GONE = {"evidence": "the broker's statement of today lists no such position"}


async def ask(managed: Managed, verb: CommandVerb, **fields: Any) -> tuple[bool, str, dict[str, Any]]:
    """Ask, and wait for the answer: granted, words, facts."""
    number = managed.venue.ledger.command(managed.name, verb, **fields)

    def stored() -> Any:
        return managed.rows.commands[number]

    await managed.until(lambda: stored().ok is not None, f"answer to {verb}")
    assert stored().result is not None
    assert stored().answer is not None
    return stored().ok, stored().result, stored().answer


async def _away(*_: object) -> list[Any]:
    raise StoreUnavailable("the database is away")


async def visit(managed: Managed, verb: CommandVerb, **fields: Any) -> tuple[bool | None, str]:
    """Ask while no manager runs, as a command does that answers itself: granted, words."""
    number = managed.venue.ledger.command(managed.name, verb, **fields)
    ports = (managed.store, managed.broker, managed.trades, managed.market, managed.clock)
    await visit_account(managed.options, *ports, request=number)
    stored = managed.rows.commands[number]
    assert stored.result is not None
    return stored.ok, stored.result


async def opened(managed: Managed, symbol: str = "NVDA", qty: str = "10", mid: str = "100") -> PositionRecord:
    await managed.price(symbol, mid)
    position = await managed.enter(symbol, qty)
    await managed.advance(1)
    return position


def working(managed: Managed, name: str, symbol: str = "NVDA") -> OrderRequest:
    """A limit order far from the market."""
    return OrderRequest(
        name, symbol, OrderSide.BUY, Decimal(1), OrderType.LIMIT, TimeInForce.DAY, PositionIntent.BUY_TO_OPEN,
        limit_price=Decimal(1), order_class=OrderClass.SIMPLE,
    )  # fmt: skip


def seconds_pass(managed: Managed) -> None:
    """Long enough for the broker's positions to count, too short for the next sweep."""
    managed.venue.time += timedelta(seconds=20)
    managed.clock.observe(managed.venue.time, authoritative=True)


def derived_agrees(managed: Managed) -> None:
    """Nothing that was done contradicts itself (I5, I10)."""
    operations = [operation for batch in managed.store.batches for operation in batch.operations]
    assert list(contradictions(replay(managed.name, operations))) == []


# Repair -----------------------------------------------------------------------------------------------------------


async def test_a_repair_of_equal_books_changes_nothing_and_says_so() -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        await opened(managed)
        ok, text, facts = await ask(managed, CommandVerb.SYNC_REPAIR)
        assert (ok, text) == (True, "1 of 1 matched before, 1 of 1 matched now")
        assert (
            facts["before"]
            == facts["after"]
            == [{"kind": "matched", "symbol": "NVDA", "database": "10", "broker": "10"}]
        )
        assert (facts["canceled_orders"], facts["braked"]) == ([], False)


async def test_a_repair_adopts_books_and_leaves_what_nothing_proves() -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        phantom = await opened(managed, "NVDA")
        sold = await opened(managed, "AMD")
        seconds_pass(managed)
        del managed.broker.held["NVDA"]
        managed.broker.hold("INTC", "-4", "30")
        ok, text, facts = await ask(managed, CommandVerb.SYNC_REPAIR)
        assert not ok
        assert text == "1 of 3 matched before, 2 of 3 matched now; left: phantom NVDA"
        assert {(f["kind"], f["symbol"]) for f in facts["before"]} == {
            ("phantom", "NVDA"),
            ("untracked", "INTC"),
            ("matched", "AMD"),
        }
        (adopted,) = [p for p in managed.rows.positions.values() if p.symbol == "INTC"]
        assert (adopted.side, adopted.quantity, adopted.adopted) == (PositionSide.SHORT, Decimal(4), True)
        assert managed.row(phantom.id).status is PositionStatus.OPEN
        assert f"unexplained:{phantom.id}" in managed.rows.alarms
        assert managed.row(sold.id).status is PositionStatus.OPEN
        told = managed.events(EventType.RECONCILED, phantom.id)
        assert told[0].data == {
            "finding": "phantom", "symbol": "NVDA", "ours": 10, "theirs": 0, "polls": 3, "repair": "none yet",
        }  # fmt: skip


async def test_i11_a_repair_stops_and_asks_when_too_much_is_missing_until_a_person_lets_go() -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        positions = [await opened(managed, symbol) for symbol in ("NVDA", "AMD", "INTC", "MSFT", "AAPL")]
        seconds_pass(managed)
        managed.broker.update_sinks.clear()  # the stream is mute
        for position in positions:
            managed.broker.external_order(position.symbol, OrderSide.SELL, "10", "101")
        ok, text, facts = await ask(managed, CommandVerb.SYNC_REPAIR)
        assert (ok, facts["braked"]) == (False, True), text
        assert all(managed.row(p.id).status is PositionStatus.OPEN for p in positions)
        assert "mass_change" in managed.rows.alarms
        ok, text, facts = await ask(managed, CommandVerb.SYNC_REPAIR, arguments={"accept_mass_change": True})
        assert (ok, facts["after"]) == (True, []), text
        for position in positions:
            assert (await managed.closed(position)).close_reason is CloseReason.EXTERNAL_CLOSE
        await managed.advance(1)
        await managed.until(lambda: "mass_change" not in managed.rows.alarms, "the alarm ends")
        managed.broker.update_sinks.append(managed.trades._on_update)
        derived_agrees(managed)


async def test_i11_the_brake_is_judged_before_a_repair_acts_and_not_after() -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        symbols = [f"S{letter}" for letter in "ABCDEFGHIJKLMN"]
        positions = [await opened(managed, symbol) for symbol in symbols]
        seconds_pass(managed)
        managed.broker.update_sinks.clear()  # the stream is mute
        for position in positions[:4]:  # of 14 that may go, of the 10 that are left they would be too many
            managed.broker.external_order(position.symbol, OrderSide.SELL, "10", "101")
        ok, text, facts = await ask(managed, CommandVerb.SYNC_REPAIR)
        assert (ok, facts["braked"], facts["whole"]) == (True, False, True), text
        for position in positions[:4]:
            assert (await managed.closed(position)).close_reason is CloseReason.EXTERNAL_CLOSE
        managed.broker.update_sinks.append(managed.trades._on_update)


@pytest.mark.parametrize("answer", ["positions", "open_orders"])
async def test_i11_a_repair_on_a_broken_list_of_the_broker_does_not_say_that_all_is_well(answer: str) -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        position = await opened(managed)
        managed.broker.fail_reads(answer, BrokerIncomplete([], [UnreadableRow("a row", "no symbol", "")]), times=4)
        ok, text, facts = await ask(managed, CommandVerb.SYNC_REPAIR)
        assert (ok, facts["whole"], "ask again" in text) == (False, False, True), text
        assert managed.row(position.id).status is PositionStatus.OPEN
        ok, text, facts = await ask(managed, CommandVerb.SYNC_REPAIR)
        assert (ok, facts["whole"]) == (True, True), text


async def test_orders_that_nobody_needs_are_told_and_cancelled_only_when_asked_and_ours() -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        await managed.price("NVDA", "100")
        ours = order_prefix(managed.name) + "gone-c1"
        await managed.broker.submit(working(managed, ours))
        await managed.broker.submit(working(managed, "by-hand"))
        for _ in range(4):
            await managed.advance(1)
        alarms = {alarm.kind: alarm for alarm in managed.rows.alarms.values()}
        assert set(alarms) >= {"orphan_order", "foreign_order"}
        assert ours in alarms["orphan_order"].message
        (foreign,) = managed.events(EventType.FOREIGN_ORDER)
        assert (foreign.data["client_order_id"], foreign.data["polls"]) == ("by-hand", 3)
        (orphan,) = managed.events(EventType.RECONCILED)
        assert (orphan.data["finding"], orphan.data["client_order_id"]) == ("orphan_order", ours)
        ok, _, facts = await ask(managed, CommandVerb.SYNC_REPAIR)
        assert ok, "an order of somebody else is no fault of our books"
        assert len(facts["canceled_orders"]) == 1
        left = {o.client_order_id for o in await managed.broker.open_orders()}
        assert left == {"by-hand"}
        assert [(f["kind"], f["client_order_id"]) for f in facts["after"]] == [("foreign_order", "by-hand")]
        await managed.broker.cancel(next(iter(await managed.broker.open_orders())).id)
        await managed.advance(1)
        await managed.until(lambda: not managed.rows.alarms, "the alarms end with their orders")


async def test_an_entry_that_still_works_and_a_bracket_are_no_orphans() -> None:
    async with Managed(Venue()) as managed:
        await managed.price("NVDA", "100")
        await managed.enter("NVDA", "10", bracket=("95", "120"))
        for _ in range(5):
            await managed.advance(1)
        assert managed.events(EventType.FOREIGN_ORDER) == []
        assert not [a for a in managed.rows.alarms.values() if a.kind.endswith("_order")]


async def test_i11_the_legs_of_an_entry_that_still_waits_are_no_orphans() -> None:
    async with Managed(Venue()) as managed:
        await managed.buy("NVDA", "10", bracket=("95", "120"))  # nothing is quoted yet
        for _ in range(5):
            await managed.advance(1)
        assert managed.events(EventType.RECONCILED) == managed.events(EventType.FOREIGN_ORDER) == []
        ok, _, facts = await ask(managed, CommandVerb.SYNC_REPAIR)
        assert (ok, facts["canceled_orders"]) == (True, [])
        (entry,) = await managed.broker.open_orders()
        assert all(member.is_open for member in entry.family())


async def test_i11_a_leg_from_before_the_start_is_known_to_the_ledger() -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        leg = await managed.broker.submit(working(managed, "named-by-the-broker"))
        assert isinstance(leg, Accepted)
        ended = execution(managed.name, "NVDA", status=ExecutionStatus.CANCELED, filled_qty=Decimal(0))
        await managed.write(PutExecution(replace(ended, stop_order_id=leg.order.id)))
        for _ in range(4):
            await managed.advance(1)
        assert [alarm.kind for alarm in managed.rows.alarms.values()] == ["orphan_order"]
        assert managed.events(EventType.FOREIGN_ORDER) == []


async def test_i11_a_silent_ledger_neither_raises_nor_ends_the_alarm_of_an_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        orphan = await managed.broker.submit(working(managed, order_prefix(managed.name) + "gone-c1"))
        assert isinstance(orphan, Accepted)
        for _ in range(4):
            await managed.advance(1)
        told = set(managed.rows.alarms)
        assert told == {f"orphan_order:{orphan.order.id}:order"}
        monkeypatch.setattr(managed.store, "own_orders", _away)
        monkeypatch.setattr(managed.store, "open_executions", _away)
        await managed.broker.submit(working(managed, "by-hand"))
        for _ in range(4):
            await managed.advance(1)
        assert set(managed.rows.alarms) == told
        await managed.broker.cancel(orphan.order.id)
        await managed.advance(1)
        await managed.until(lambda: not managed.rows.alarms, "the alarm ends with its order")
        monkeypatch.undo()
        for _ in range(4):
            await managed.advance(1)
        assert [alarm.kind for alarm in managed.rows.alarms.values()] == ["foreign_order"]


async def test_i11_a_repair_without_the_brokers_word_changes_nothing() -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        position = await opened(managed)
        managed.broker.fail_reads("positions", BrokerUnavailable("gateway timeout"), times=3)
        ok, text, _ = await ask(managed, CommandVerb.SYNC_REPAIR)
        assert not ok
        assert text.startswith("the broker gave no usable answer, ask again: gateway timeout")
        assert managed.row(position.id).status is PositionStatus.OPEN


async def test_f62_a_visit_closes_the_books_of_a_close_that_filled_while_nobody_managed() -> None:
    managed = Managed(Venue(), policy=POLICY)
    async with managed:
        position = await opened(managed)
        managed.broker.next_submits(Wire.NEVER_ARRIVED)
        await managed.price("NVDA", "50")
        await managed.until(lambda: managed.row(position.id).status is PositionStatus.CLOSING, "a close begins")
        await managed.kill()
        managed.stop.set()
        managed.task = None
    (intent,) = [each for each in managed.rows.intents.values() if each.status.is_live]
    await managed.broker.submit(
        OrderRequest(
            intent.client_order_id, "NVDA", OrderSide.SELL, Decimal(10), OrderType.MARKET, TimeInForce.DAY,
            PositionIntent.SELL_TO_CLOSE, order_class=OrderClass.SIMPLE,
        )
    )  # fmt: skip
    managed.venue.time += timedelta(minutes=2)
    managed.clock.observe(managed.venue.time, authoritative=True)
    ok, text = await visit(managed, CommandVerb.SYNC_REPAIR)
    assert ok, text
    row = managed.row(position.id)
    assert (row.status, row.close_reason) == (PositionStatus.CLOSED, CloseReason.STOP_LOSS)
    assert position.id in managed.rows.history


# Adopt ------------------------------------------------------------------------------------------------------------


async def test_f32_a_person_adopts_a_position_with_its_true_entry_time() -> None:
    venue = Venue()
    async with Managed(venue, policy=POLICY) as managed:
        await managed.price("NVDA", "100")
        bought_at = venue.time
        managed.broker.update_sinks.clear()
        managed.broker.external_order("NVDA", OrderSide.BUY, "7", "99.50")
        seconds_pass(managed)
        ok, text, facts = await ask(managed, CommandVerb.ADOPT, symbol="NVDA")
        (adopted,) = [p for p in managed.rows.positions.values() if p.symbol == "NVDA"]
        assert (ok, facts["position_id"]) == (True, adopted.id), text
        assert (adopted.entry_time, adopted.entry_price) == (bought_at, Decimal("99.50"))
        managed.broker.update_sinks.append(managed.trades._on_update)


@pytest.mark.parametrize(
    ("symbol", "said"),
    [("NVDA", "is under management already: position 1"), ("AMD", "the broker holds no AMD"), ("?!", "?!")],
)
async def test_an_adoption_that_makes_no_sense_is_refused(symbol: str, said: str) -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        await opened(managed)
        ok, text, _ = await ask(managed, CommandVerb.ADOPT, symbol=symbol)
        assert not ok
        assert said in text
        assert len(managed.rows.positions) == 1


async def test_a_request_that_says_nothing_is_refused() -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        assert (await ask(managed, CommandVerb.ADOPT))[:2] == (False, "adopt needs to say what it is about")
        assert (await ask(managed, CommandVerb.FORGET))[:2] == (False, "forget needs to say what it is about")


async def test_f32_an_entry_of_ours_is_linked_and_not_adopted() -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        managed.broker.update_sinks.clear()
        managed.quote("NVDA", "99.99", "100.01")
        await managed.buy("NVDA", "7", stop="90", target="130", strategy="swing")
        seconds_pass(managed)
        ok, text, facts = await ask(managed, CommandVerb.ADOPT, symbol="NVDA")
        assert (ok, facts["adopted"], text.startswith("our own entry")) == (True, False, True), text
        managed.quote("AMD", "99.99", "100.01")
        await managed.buy("AMD", "3", stop="90", target="130", strategy="swing")
        seconds_pass(managed)
        ok, text, _ = await ask(managed, CommandVerb.SYNC_REPAIR)
        assert ok, text
        positions = list(managed.rows.positions.values())
        assert {p.symbol for p in positions} == {"NVDA", "AMD"}
        for position in positions:
            assert (position.adopted, position.strategy_type) == (False, "swing")
            assert (position.stop_loss, position.take_profit) == (Decimal(90), Decimal(130))
            assert position.execution_id in managed.rows.executions
        managed.broker.update_sinks.append(managed.trades._on_update)


@pytest.mark.parametrize("verb", [CommandVerb.ADOPT, CommandVerb.SYNC_REPAIR])
async def test_f32_a_visit_links_an_entry_of_ours_or_adopts_nothing(
    verb: CommandVerb, monkeypatch: pytest.MonkeyPatch
) -> None:
    managed = Managed(Venue(), policy=POLICY)
    managed.quote("NVDA", "99.99", "100.01")
    await managed.buy("NVDA", "7", stop="90")
    monkeypatch.setattr(managed.store, "unlinked_executions", _away)
    ok, text = await visit(managed, verb, symbol="NVDA")
    assert (ok, "does not tell which entries are ours" in text) == (False, True), text
    assert managed.rows.positions == {}
    monkeypatch.undo()
    ok, text = await visit(managed, verb, symbol="NVDA")
    assert ok, text
    (position,) = managed.rows.positions.values()
    assert (position.adopted, position.stop_loss) == (False, Decimal(90))


# Forget -----------------------------------------------------------------------------------------------------------


async def _vanished(managed: Managed) -> PositionRecord:
    position = await opened(managed, CALL, "3", "5.00")
    del managed.broker.held[CALL]
    for _ in range(4):
        await managed.advance(1)
    assert f"unexplained:{position.id}" in managed.rows.alarms
    return position


@pytest.mark.parametrize(("price", "realised"), [(None, Decimal(0)), ("0", Decimal(-1503)), ("6.01", Decimal(300))])
async def test_a_phantom_is_forgotten_with_evidence_and_a_history_row(price: str | None, realised: Decimal) -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        position = await _vanished(managed)
        arguments: dict[str, Any] = GONE if price is None else {**GONE, "price": price}
        ok, text, _ = await ask(managed, CommandVerb.FORGET, position_id=position.id, arguments=arguments)
        assert ok, text
        row = await managed.closed(position)
        assert (row.close_reason, row.realised_pnl) == (CloseReason.RECONCILED, realised)
        assert managed.rows.history[position.id].realised_pnl == realised
        told = managed.events(EventType.RECONCILED, position.id)[-1].data
        assert (told["repair"], told["evidence"], told["requested_by"]) == ("forgotten", GONE["evidence"], "tester")
        assert managed.events(EventType.COMMAND, position.id)[0].data["arguments"] == arguments
        await managed.until(lambda: not managed.rows.alarms, "no alarm is left")
        assert managed.broker.submitted[1:] == [], "nothing was traded"
        derived_agrees(managed)


async def test_i11_nothing_is_forgotten_that_the_broker_holds_or_may_still_fill() -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        held = await opened(managed, "NVDA")
        ok, text, _ = await ask(managed, CommandVerb.FORGET, position_id=held.id, arguments=GONE)
        assert (ok, "the broker still holds 10 NVDA" in text) == (False, True)

        position = await _vanished(managed)
        managed.quote(CALL, "4.99", "5.01")
        await managed.broker.submit(working(managed, "by-hand", CALL))
        ok, text, _ = await ask(managed, CommandVerb.FORGET, position_id=position.id, arguments=GONE)
        assert (ok, "orders still rest" in text) == (False, True)
        await managed.broker.cancel(next(iter(await managed.broker.open_orders())).id)

        managed.broker.fail_reads("position", BrokerUnavailable("gateway timeout"))
        ok, text, _ = await ask(managed, CommandVerb.FORGET, position_id=position.id, arguments=GONE)
        assert (ok, "no usable answer" in text) == (False, True)
        assert managed.row(position.id).status is PositionStatus.OPEN


@pytest.mark.parametrize("meanwhile", ["a close", "a fill"])
async def test_i11_what_happens_while_the_broker_is_asked_keeps_a_position_from_being_forgotten(
    meanwhile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        position = await _vanished(managed)
        listed = managed.broker.open_orders

        async def and_then(*arguments: Any) -> list[BrokerOrder]:
            found = await listed(*arguments)
            monkeypatch.undo()
            if meanwhile == "a fill":
                managed.broker.external_order(CALL, OrderSide.BUY, "2", "5")
                await managed.until(lambda: managed.row(position.id).quantity == 5, "the fill is booked")
            else:
                managed.broker.next_submits(Wire.NEVER_ARRIVED)
                await managed.price(CALL, "1.00")
                await managed.until(lambda: managed.row(position.id).status is PositionStatus.CLOSING, "a close begins")
            return found

        monkeypatch.setattr(managed.broker, "open_orders", and_then)
        ok, text, _ = await ask(managed, CommandVerb.FORGET, position_id=position.id, arguments=GONE)
        said = {"a fill": "arrived meanwhile", "a close": "is being closed"}
        assert (ok, said[meanwhile] in text) == (False, True), text
        assert managed.row(position.id).close_reason is not CloseReason.RECONCILED


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "say in at least 10 characters"),
        ({"evidence": "  gone   "}, "say in at least 10 characters"),
        ({**GONE, "price": "cheap"}, "the price must be a number"),
        ({**GONE, "price": "-1"}, "the price must be a number"),
        ({**GONE, "price": "NaN"}, "the price must be a number"),
    ],
)
async def test_a_phantom_is_not_forgotten_without_a_reason(arguments: dict[str, Any], said: str) -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        position = await _vanished(managed)
        ok, text, _ = await ask(managed, CommandVerb.FORGET, position_id=position.id, arguments=arguments)
        assert (ok, said in text) == (False, True)
        ok, text, _ = await ask(managed, CommandVerb.FORGET, position_id=99, arguments=GONE)
        assert (ok, text) == (False, "no open position 99")
        assert managed.row(position.id).status is PositionStatus.OPEN


async def test_a_phantom_whose_sale_the_orders_show_is_booked_at_their_price() -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        position = await opened(managed, "NVDA")
        seconds_pass(managed)
        managed.broker.update_sinks.clear()
        managed.broker.external_order("NVDA", OrderSide.SELL, "10", "101")
        ok, text, _ = await ask(managed, CommandVerb.FORGET, position_id=position.id, arguments=GONE)
        row = await managed.closed(position)
        assert row.close_reason is CloseReason.EXTERNAL_CLOSE
        assert managed.rows.history[position.id].exit_price == 101
        assert (ok, "booked at their prices" in text) == (True, True)
        managed.broker.update_sinks.append(managed.trades._on_update)
