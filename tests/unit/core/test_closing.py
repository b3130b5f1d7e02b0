"""The closing procedure, step by step: what follows on what (F2 F15 F18 F21 F43 F113, I2 I3)."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from tests.property.core.cases import CALL, LATER, STOCK, quote

from exitguard.core import closing
from exitguard.core.closing import (
    AskPosition,
    CancelOrders,
    ClosingState,
    Context,
    Done,
    Failed,
    Finish,
    ListOrders,
    Lookup,
    OrderAbsent,
    OrderSeen,
    OrdersListed,
    Phase,
    Poll,
    PositionSeen,
    RefusalKind,
    RepairFills,
    SendRefused,
    SendUnknown,
    Submit,
    Wait,
    advance,
    begin,
)
from exitguard.core.instrument import parse_instrument
from exitguard.core.orders import BrokerOrder, BrokerPosition, OrderSide, OrderStatus, OrderType, PositionIntent
from exitguard.core.policy import CloseStyle, Policy
from exitguard.core.position import PositionSide
from exitguard.core.records import CloseReason

D = Decimal
ID1 = "xg-large-u1-c1"


def state(symbol: str = STOCK, side: PositionSide = PositionSide.LONG, **changes: Any) -> ClosingState:
    fresh = ClosingState(
        "large", "u1", parse_instrument(symbol), side, CloseReason.STOP_LOSS, LATER, LATER + timedelta(seconds=60)
    )
    return replace(fresh, **changes)


def context(held: str = "10", **changes: Any) -> Context:
    values: dict[str, Any] = {
        "now": LATER,
        "held": D(held),
        "quote": quote(STOCK, "99.99", "100.01"),
        "can_trade": True,
        "extended_hours": False,
        "policy": Policy(),
    }
    return Context(**(values | changes))


def order(status: OrderStatus = OrderStatus.NEW, filled: str = "0", **changes: Any) -> BrokerOrder:
    values: dict[str, Any] = {
        "id": "o1", "client_order_id": ID1, "symbol": STOCK, "side": OrderSide.SELL, "status": status, "qty": D(10),
        "filled_qty": D(filled), "filled_avg_price": None, "type": OrderType.MARKET, "order_class": "",
        "limit_price": None, "stop_price": None, "submitted_at": LATER, "updated_at": LATER,
    }  # fmt: skip
    return BrokerOrder(**(values | changes))


def holds(qty: str, free: str | None = None) -> PositionSeen:
    available = D(qty) if free is None else D(free)
    return PositionSeen(BrokerPosition(STOCK, D(qty), available, D(100), None, None, "a"))


def sent(**changes: Any) -> tuple[ClosingState, Submit]:
    """A state whose first attempt has just been handed to the shell."""
    after, effect = begin(state(**changes), context(clear=True))
    assert isinstance(effect, Submit)
    return after, effect


def working(**changes: Any) -> ClosingState:
    after, _ = advance(sent()[0], OrderSeen(order()), context())
    return replace(after, **changes)


# Beginning ------------------------------------------------------------------------------------------------------


def test_the_first_attempt_needs_no_questions_when_our_books_prove_that_nothing_rests() -> None:
    after, effect = sent()
    request = effect.request
    assert (after.phase, after.attempt, effect.attempt) == (Phase.SENDING, 1, 1)
    assert (request.client_order_id, request.symbol, request.qty) == (ID1, STOCK, D(10))
    assert (request.side, request.position_intent) == (OrderSide.SELL, PositionIntent.SELL_TO_CLOSE)
    assert (request.type, request.limit_price) == (OrderType.MARKET, None)


def test_f3_a_short_is_bought_back_with_its_intent() -> None:
    _, effect = sent(side=PositionSide.SHORT)
    assert (effect.request.side, effect.request.position_intent) == (OrderSide.BUY, PositionIntent.BUY_TO_CLOSE)


@pytest.mark.parametrize(
    "changes",
    [
        {"clear": False},
        {"clear": True, "can_trade": False},
        {"clear": True, "extended_hours": True, "quote": None},
    ],
)
def test_without_that_proof_orders_are_listed_first(changes: dict[str, Any]) -> None:
    after, effect = begin(state(), context(**changes))
    assert (after.phase, effect) == (Phase.CLEARING, ListOrders())


def test_a_second_attempt_always_asks() -> None:
    assert begin(state(attempt=1), context(clear=True))[1] == ListOrders()


@pytest.mark.parametrize("phase", [Phase.SENDING, Phase.RESOLVING])
@pytest.mark.parametrize("held", ["10", "0"])
def test_f43_a_restart_follows_up_an_attempt_that_may_live_before_anything_else(phase: Phase, held: str) -> None:
    interrupted = replace(sent()[0], phase=phase, absences=2)
    after, effect = begin(interrupted, context(held))
    assert (after.phase, after.absences, effect) == (Phase.RESOLVING, 0, Lookup(ID1))


@pytest.mark.parametrize("phase", [Phase.WORKING, Phase.CANCELLING])
def test_a_restart_looks_at_a_working_order_even_when_nothing_seems_left(phase: Phase) -> None:
    assert begin(working(phase=phase), context("0"))[1] == Poll("o1")


# Clearing -------------------------------------------------------------------------------------------------------

STOP_LEG = order(OrderStatus.HELD, id="stop", client_order_id="x", type=OrderType.STOP)
BRACKET = order(id="target", client_order_id="y", type=OrderType.LIMIT, legs=(STOP_LEG,))


def test_resting_orders_and_held_legs_are_cancelled_and_looked_at_again() -> None:
    after, effect = advance(state(), OrdersListed((BRACKET,)), context())
    assert effect == CancelOrders(("target", "stop"))
    after, effect = advance(after, Done(), context())
    assert effect == ListOrders()
    pending = replace(BRACKET, status=OrderStatus.PENDING_CANCEL, legs=())
    after, effect = advance(after, OrdersListed((pending,)), context())
    assert isinstance(effect, Wait)
    after, effect = advance(after, OrdersListed(()), context())
    assert (after.phase, effect) == (Phase.CHECKING, RepairFills())
    assert advance(after, Done(), context())[1] == AskPosition()


def test_the_other_leg_is_taken_off_even_when_nothing_is_left_to_close() -> None:
    """freqtrade#11608, #12528: a stop that rests after the close opens a short."""
    after, effect = advance(state(), OrdersListed((STOP_LEG,)), context("0"))
    assert effect == CancelOrders(("stop",))
    after, effect = advance(after, OrdersListed(()), context("0"))
    assert (after.phase, effect) == (Phase.DONE, Finish())


def test_f113_protection_stays_where_it_is_while_no_order_could_follow() -> None:
    after, effect = advance(state(), OrdersListed((BRACKET,)), context(can_trade=False))
    assert (after.phase, effect) == (Phase.CLEARING, Wait(closing.SLOW_WAIT))
    assert isinstance(advance(state(), OrdersListed((BRACKET,)), context("0", can_trade=False))[1], CancelOrders)


def test_our_own_attempt_found_resting_is_watched_not_cancelled() -> None:
    after, effect = advance(replace(sent()[0], phase=Phase.CLEARING), OrdersListed((order(),)), context())
    assert (after.phase, after.order_id) == (Phase.WORKING, "o1")
    assert isinstance(effect, Wait)


def test_i11_a_failed_list_is_never_an_empty_one() -> None:
    after, effect = advance(state(), Failed("html"), context())
    assert after.phase is Phase.CLEARING
    assert isinstance(effect, Wait)


# Checking -------------------------------------------------------------------------------------------------------


def checking(**changes: Any) -> ClosingState:
    return state(phase=Phase.CHECKING, **changes)


def test_f2_the_quantity_is_what_the_broker_holds_and_has_free() -> None:
    _, effect = advance(checking(), holds("10"), context())
    assert isinstance(effect, Submit)
    assert effect.request.qty == 10


@pytest.mark.parametrize("seen", [PositionSeen(None), holds("-10"), holds("0")])
def test_f2_f22_nothing_is_sent_for_what_the_broker_does_not_hold(seen: PositionSeen) -> None:
    """One dropped fill made an infinite liquidation loop against a flat account (Lean TradeStation#101)."""
    now = checking()
    repaired = False
    for _ in range(50):
        now, effect = advance(now, seen, context())
        assert isinstance(effect, RepairFills | Wait | AskPosition)
        repaired = repaired or isinstance(effect, RepairFills)
        while not isinstance(effect, AskPosition):
            now, effect = advance(now, Done(), context())
    assert repaired
    assert advance(now, seen, context("0"))[1] == Finish()


def test_a_difference_is_repaired_and_looked_at_again_before_the_smaller_word_counts() -> None:
    now, effects = checking(), []
    for _ in range(10):
        now, effect = advance(now, holds("6"), context())
        effects.append(type(effect))
        if isinstance(effect, Submit):
            assert effect.request.qty == 6
            break
    assert effects == [RepairFills, Wait, Submit]


def test_a_part_that_something_holds_is_cleared_first_then_the_free_part_goes() -> None:
    now, steps = checking(), 0
    while True:
        now, effect = advance(now, holds("10", "4"), context())
        steps += 1
        assert steps < 20
        if isinstance(effect, Submit):
            assert effect.request.qty == 4
            return
        assert now.phase is Phase.CLEARING
        now = replace(now, phase=Phase.CHECKING)


@pytest.mark.parametrize(("keep", "free", "qty"), [("4", "10", 6), ("4", "5", 5), ("9", "1", 1)])
def test_a_reduction_sends_what_leaves_the_rest(keep: str, free: str, qty: int) -> None:
    _, effect = advance(checking(keep_qty=D(keep), disagreements=closing.LAG_LOOKS + 1), holds("10", free), context())
    assert isinstance(effect, Submit)
    assert effect.request.qty == qty
    assert effect.request.client_order_id == "xg-large-u1-r1"


def test_f113_nothing_is_sent_or_asked_while_the_venue_takes_no_orders() -> None:
    now = checking()
    for seen in (Done(), holds("10"), Done(), holds("10")):
        now, effect = advance(now, seen, context(can_trade=False))
        assert effect == Wait(closing.SLOW_WAIT)


def test_i11_a_failed_answer_changes_nothing() -> None:
    after, effect = advance(checking(), Failed("502"), context())
    assert isinstance(effect, Wait)
    assert after == replace(checking(), failures=1)


# Sending --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seen", [SendUnknown("504"), SendRefused(RefusalKind.DUPLICATE, "must be unique")])
def test_f43_an_unknown_outcome_is_looked_up_by_our_id(seen: SendUnknown | SendRefused) -> None:
    after, effect = advance(sent()[0], seen, context())
    assert (after.phase, after.attempt, effect) == (Phase.RESOLVING, 1, Lookup(ID1))


def absent_until_proven(now: ClosingState) -> tuple[ClosingState, Any, list[float]]:
    waits: list[float] = []
    while True:
        now, effect = advance(now, OrderAbsent(), context())
        if not (isinstance(effect, Wait) and effect.full):
            return now, effect, waits
        waits.append(effect.seconds)
        now, effect = advance(now, Done(), context())
        assert effect == Lookup(ID1)


def test_f43_three_absences_with_full_waits_free_the_same_id() -> None:
    now, _ = advance(sent()[0], SendUnknown("504"), context())
    now, effect, waits = absent_until_proven(now)
    assert len(waits) == closing.ABSENCE_PROOFS - 1
    assert sum(waits) >= 3
    assert (now.phase, now.request, effect) == (Phase.CLEARING, None, ListOrders())
    now, effect = advance(now, OrdersListed(()), context())
    now, effect = advance(now, holds("10"), context())
    assert isinstance(effect, Submit)
    assert (effect.attempt, effect.request.client_order_id) == (1, ID1)


def test_i2_a_reduction_that_never_arrived_goes_again_under_its_id_when_it_became_a_close() -> None:
    """Found by the simulator: the close's new id was refused by the ledger, as the reduction's intent was live."""
    begun, _ = begin(state(keep_qty=D(6)), context(clear=True))
    resolving, _ = advance(begun, SendUnknown("reset"), context())
    taken_over = replace(resolving, keep_qty=D(0))
    for _ in range(closing.ABSENCE_PROOFS):
        taken_over, _ = advance(taken_over, OrderAbsent(), context())
    checking, _ = advance(taken_over, OrdersListed(()), context())
    checking = replace(checking, repair_due=False)
    again, effect = advance(checking, holds("10"), context())
    assert isinstance(effect, Submit)
    assert (effect.request.client_order_id, effect.request.qty) == ("xg-large-u1-r1", 10)
    assert again.unused_id is None


def test_an_id_that_the_broker_calls_used_is_never_sent_again_even_when_it_cannot_be_found() -> None:
    now, _ = advance(sent()[0], SendRefused(RefusalKind.DUPLICATE, "must be unique"), context())
    now, effect, _ = absent_until_proven(now)
    assert (now.phase, now.attempt) == (Phase.CLEARING, 1)
    assert isinstance(effect, Wait)
    now, effect = advance(now, OrdersListed(()), context())
    assert effect == RepairFills()
    now, _ = advance(now, Done(), context())
    now, effect = advance(now, holds("10"), context())
    assert isinstance(effect, Submit)
    assert effect.request.client_order_id == "xg-large-u1-c2"


def test_failed_lookups_prove_nothing() -> None:
    now, _ = advance(sent()[0], SendUnknown("504"), context())
    for _ in range(20):
        now, effect = advance(now, Failed("502"), context())
        assert isinstance(effect, Wait)
        now, effect = advance(now, Done(), context())
        assert effect == Lookup(ID1)
    assert now.absences == 0


@pytest.mark.parametrize("kind", [RefusalKind.OTHER, RefusalKind.BUSY, RefusalKind.RECONCILE])
def test_f20_refusals_are_asked_about_and_slow_down(kind: RefusalKind) -> None:
    waits: list[float] = []
    now = sent()[0]
    for attempt in range(1, 12):
        now, effect = advance(now, SendRefused(kind, "no"), context())
        assert isinstance(effect, Wait)
        waits.append(effect.seconds)
        now, effect = advance(now, Done(), context())
        assert effect == ListOrders()
        now, effect = advance(now, OrdersListed(()), context())
        if kind is RefusalKind.RECONCILE:
            assert effect == RepairFills(), "intent mismatch or insufficient quantity means reconcile, not retry"
            now, effect = advance(now, Done(), context())
        now, effect = advance(now, holds("10"), context())
        assert isinstance(effect, Submit)
        assert effect.attempt == attempt + 1
    assert waits == sorted(waits)
    assert waits[-1] == closing.RETRY_WAIT_MAX


@pytest.mark.parametrize(("retry_after", "wait"), [(None, 0.5), (0.1, 0.5), (2.0, 2.0), (7200.0, 30.0), (-5.0, 0.5)])
def test_the_brokers_retry_after_is_kept_within_bounds(retry_after: float | None, wait: float) -> None:
    _, effect = advance(sent()[0], SendRefused(RefusalKind.BUSY, "429", retry_after), context())
    assert effect == Wait(wait)


def test_i3_when_the_intent_cannot_be_committed_the_same_attempt_asks_anew() -> None:
    after, effect = advance(sent()[0], Failed("database away"), context())
    assert (after.phase, after.attempt, after.request) == (Phase.CLEARING, 0, None)
    assert isinstance(effect, Wait)


# Working and ending ---------------------------------------------------------------------------------------------


def test_a_working_order_is_polled_and_ends_the_close_only_with_the_fold() -> None:
    now = working()
    assert advance(now, Done(), context())[1] == Poll("o1")
    after, effect = advance(now, OrderSeen(order(OrderStatus.FILLED, "10")), context("0"))
    assert (after.phase, effect) == (Phase.DONE, Finish())
    after, effect = advance(now, OrderSeen(order(OrderStatus.FILLED, "10")), context("10"))
    assert (after.phase, effect) == (Phase.CHECKING, RepairFills()), "filled, but our books do not know it yet"


def test_t6_f40_a_remainder_is_closed_by_a_further_attempt() -> None:
    now, effect = advance(working(), OrderSeen(order(OrderStatus.CANCELED, "7")), context("3"))
    assert effect == AskPosition()
    now, effect = advance(now, holds("3"), context("3"))
    assert isinstance(effect, Submit)
    assert (effect.request.qty, effect.request.client_order_id) == (D(3), "xg-large-u1-c2")


def test_f21_what_the_order_says_is_believed_before_a_position_that_lags() -> None:
    now, effect = advance(working(), OrderSeen(order(OrderStatus.CANCELED, "7")), context("10"))
    looks = 0
    while not isinstance(effect, Submit):
        seen = holds("10") if isinstance(effect, AskPosition) else Done()
        now, effect = advance(now, seen, context("10"))
        looks += isinstance(effect, AskPosition)
    assert looks >= closing.LAG_LOOKS, "an addition by somebody else is the last explanation, not the first"


def test_accepted_then_ended_without_a_fill_waits_longer_each_time() -> None:
    waits: list[float] = []
    now = working()
    for attempt in range(2, 8):
        now, effect = advance(now, OrderSeen(order(OrderStatus.REJECTED)), context())
        assert isinstance(effect, Wait)
        waits.append(effect.seconds)
        now, _ = advance(now, Done(), context())
        now, effect = advance(now, holds("10"), context())
        assert isinstance(effect, Submit)
        assert effect.attempt == attempt
        now, _ = advance(now, OrderSeen(order(id=f"o{attempt}")), context())
    assert waits == sorted(set(waits))


@pytest.mark.parametrize("held", ["10", "0"])
def test_an_order_replaced_by_somebody_has_a_successor_that_goes_first(held: str) -> None:
    now, effect = advance(working(), OrderSeen(order(OrderStatus.REPLACED, replaced_by="o2")), context(held))
    assert (now.phase, effect) == (Phase.CLEARING, ListOrders())
    successor = order(id="o2", client_order_id="user")
    assert advance(now, OrdersListed((successor,)), context(held))[1] == CancelOrders(("o2",))


def test_an_order_left_over_is_taken_back_before_the_close_is_called_done() -> None:
    now, effect = advance(working(), OrderSeen(order()), context("0"))
    assert (now.phase, effect) == (Phase.CANCELLING, CancelOrders(("o1",)))
    now, effect = advance(now, Done(), context("0"))
    assert effect == Poll("o1")
    now, effect = advance(now, OrderSeen(order(OrderStatus.CANCELED)), context("0"))
    assert effect == Finish()


def test_an_order_that_the_venue_is_done_with_for_the_day_is_taken_back() -> None:
    done = order(OrderStatus.DONE_FOR_DAY, "4")
    working = state(
        phase=Phase.WORKING, order_id="o1", attempt=1, request=closing.close_request(state(), 1, D(10), context())
    )
    after, effect = advance(working, OrderSeen(done), context("6"))
    assert (after.phase, effect) == (Phase.CANCELLING, CancelOrders(("o1",)))


def test_a_lost_cancel_is_asked_for_again() -> None:
    now, _ = advance(working(), OrderSeen(order()), context("0"))
    asked = 0
    for _ in range(20):
        now, effect = advance(now, OrderSeen(order()), context("0"))
        asked += isinstance(effect, CancelOrders)
    assert asked == 5


@pytest.mark.parametrize("phase", [Phase.WORKING, Phase.CANCELLING])
def test_an_order_that_the_broker_no_longer_knows_is_resolved_by_our_id(phase: Phase) -> None:
    after, effect = advance(working(phase=phase), OrderAbsent(), context())
    assert (after.phase, effect) == (Phase.RESOLVING, Lookup(ID1))


def test_done_stays_done() -> None:
    assert advance(state(phase=Phase.DONE), Done(), context())[1] == Finish()


# Style ----------------------------------------------------------------------------------------------------------

WIDE = quote(CALL, "2.00", "2.60")
TIGHT = quote(CALL, "2.00", "2.04")


@pytest.mark.parametrize(
    ("symbol", "side", "seen", "step", "style", "limit"),
    [
        (CALL, PositionSide.LONG, WIDE, 0, CloseStyle.ADAPTIVE, "2.00"),
        (CALL, PositionSide.SHORT, WIDE, 0, CloseStyle.ADAPTIVE, "2.60"),
        (CALL, PositionSide.LONG, WIDE, 2, CloseStyle.ADAPTIVE, "2.00"),
        (CALL, PositionSide.LONG, WIDE, 3, CloseStyle.ADAPTIVE, None),
        (CALL, PositionSide.LONG, TIGHT, 0, CloseStyle.ADAPTIVE, None),
        (CALL, PositionSide.LONG, WIDE, 0, CloseStyle.MARKET, None),
        (CALL, PositionSide.LONG, None, 0, CloseStyle.ADAPTIVE, None),
        (CALL, PositionSide.LONG, quote(CALL, "0", "2.60"), 0, CloseStyle.ADAPTIVE, None),
        (CALL, PositionSide.LONG, quote(CALL, "0.455", "0.60"), 0, CloseStyle.ADAPTIVE, "0.45"),
        (CALL, PositionSide.SHORT, quote(CALL, "0.455", "0.601"), 0, CloseStyle.ADAPTIVE, "0.61"),
        (CALL, PositionSide.LONG, quote(CALL, "0.004", "0.60"), 0, CloseStyle.ADAPTIVE, None),
        (STOCK, PositionSide.LONG, quote(STOCK, "0.45555", "0.60"), 0, CloseStyle.ADAPTIVE, "0.4555"),
    ],
)
def test_f7_f15_the_style_of_a_close(
    symbol: str, side: PositionSide, seen: Any, step: int, style: CloseStyle, limit: str | None
) -> None:
    policy = Policy(option_close_style=style, stock_close_style=style)
    request = closing.close_request(state(symbol, side, step=step), 1, D(1), context(quote=seen, policy=policy))
    assert request.limit_price == (None if limit is None else D(limit))
    assert request.type is (OrderType.MARKET if limit is None else OrderType.LIMIT)


def test_a_resting_limit_is_re_priced_in_steps_and_ends_at_market() -> None:
    now = LATER
    close, effect = begin(state(CALL), context(clear=True, quote=WIDE))
    kinds = []
    for step in range(4):
        assert isinstance(effect, Submit)
        kinds.append(effect.request.type)
        live = order(id=f"o{step}", type=effect.request.type)
        close, effect = advance(close, OrderSeen(live), context(quote=WIDE, now=now))
        if kinds[-1] is OrderType.MARKET:
            break
        assert effect == Wait(1.0, now + timedelta(seconds=2))
        now += timedelta(seconds=2)
        close, effect = advance(close, OrderSeen(live), context(quote=WIDE, now=now))
        assert effect == CancelOrders((live.id,))
        close, effect = advance(
            close, OrderSeen(replace(live, status=OrderStatus.CANCELED)), context(quote=WIDE, now=now)
        )
        close, effect = advance(close, holds("10"), context(quote=WIDE, now=now))
    assert kinds == [OrderType.LIMIT] * 3 + [OrderType.MARKET]


def test_in_extended_hours_only_a_limit_is_sent_and_it_does_not_outlive_them() -> None:
    early: dict[str, Any] = {"extended_hours": True, "quote": quote(STOCK, "99.90", "100.10")}
    close, effect = advance(checking(), holds("10"), context(**early))
    assert isinstance(effect, Submit)
    assert (effect.request.type, effect.request.limit_price) == (OrderType.LIMIT, D("99.90"))
    assert effect.request.extended_hours
    assert advance(checking(), holds("10"), context(extended_hours=True, quote=None))[1] == Wait(closing.SLOW_WAIT)
    live = order(type=OrderType.LIMIT)
    close, effect = advance(close, OrderSeen(live), context(**early))
    assert isinstance(effect, Wait)
    assert isinstance(
        advance(close, OrderSeen(live), context(now=LATER + timedelta(seconds=31), **early))[1], CancelOrders
    )
    assert advance(close, OrderSeen(live), context())[1] == CancelOrders(("o1",)), "regular hours have begun"


def test_ids_are_derived_bounded_and_distinct() -> None:
    ids = {closing.client_order_id("a" * 300, "u" * 36, purpose, n) for purpose in "cr" for n in range(1, 200)}
    assert len(ids) == 398
    assert all(len(one) <= 128 for one in ids)
    assert closing.client_order_id("large", "u1", "c", 1) == ID1
