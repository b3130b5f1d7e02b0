"""The vocabulary: every reason, state and label is accounted for (F36 F63 F138, T20)."""

from decimal import Decimal

import pytest

from exitguard.core import orders, records
from exitguard.core.evaluate import RULES
from exitguard.core.orders import OrderSide, OrderStatus
from exitguard.core.records import CloseReason, EventType, ExecutionStatus, IntentStatus, Outcome, PositionStatus

# What spec/system.md promises, word for word.
PROMISED_EVENTS = {
    "created", "price_update", "partial_fill", "exit_triggered", "exit_held", "close_submitted", "close_failed",
    "closed", "reconciled",
}  # fmt: skip
FROM_OUTSIDE = {
    "bracket_stop", "bracket_target", "external_close", "broker_liquidation", "expired", "exercised", "assigned",
    "reconciled",
}  # fmt: skip


def test_t20_f138_every_reason_is_a_rule_or_comes_from_outside() -> None:
    by_rule = [rule.reason for rule in RULES]
    assert len(set(by_rule)) == len(by_rule)
    assert {reason.value for reason in CloseReason} - {reason.value for reason in by_rule} == FROM_OUTSIDE


@pytest.mark.parametrize(
    ("realised", "outcome"),
    [("0.01", "win"), ("-0.01", "loss"), ("0", "flat"), ("0.00", "flat"), ("-0", "flat"), ("1e9", "win")],
)
def test_t20_the_outcome_is_the_sign_of_the_realised_profit_whatever_the_reason(realised: str, outcome: str) -> None:
    assert Outcome.of(Decimal(realised)) == outcome


def test_the_promised_events_and_states_exist() -> None:
    assert {event.value for event in EventType} >= PROMISED_EVENTS
    assert [status.value for status in PositionStatus] == ["open", "closing", "closed"]
    assert {state.value for state in records.Protection} == {"protected", "naked", "blind", "stuck", "unmanaged"}


def test_f63_enum_values_are_unique_short_lower_case_words() -> None:
    for module in (orders, records):
        for name, kind in vars(module).items():
            if not (
                isinstance(kind, type) and issubclass(kind, str) and kind is not str and hasattr(kind, "__members__")
            ):
                continue
            values = [member.value for member in kind]  # type: ignore[attr-defined]
            assert len(values) == len(kind.__members__), name
            assert all(value and value.replace("_", "").isalnum() for value in values), name


@pytest.mark.parametrize("status", list(OrderStatus))
def test_f34_only_five_states_of_an_order_prove_that_no_fill_can_come(status: OrderStatus) -> None:
    assert status.is_terminal is (status.value in {"filled", "canceled", "expired", "replaced", "rejected"})


@pytest.mark.parametrize("status", list(IntentStatus))
def test_f43_an_unknown_intent_is_live_until_the_broker_says_otherwise(status: IntentStatus) -> None:
    assert status.is_live is (status.value in {"intended", "unknown", "working"})


def test_f36_the_states_of_an_execution_cover_those_of_an_intent() -> None:
    assert {s.value for s in IntentStatus} - {"working", "armed"} <= {s.value for s in ExecutionStatus}


def test_sides_are_opposites() -> None:
    assert OrderSide.BUY.opposite is OrderSide.SELL
    assert OrderSide.SELL.opposite is OrderSide.BUY
