"""Whatever happened, what was written down after it is the exchange: nothing is forgotten to be noted as changed."""

import json
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.property.paper_engine.test_balances import Day, long_plan, operations
from tests.unit.paper_engine.floor import CALENDAR

from exitguard.paper.engine import Exchange
from exitguard.paper.engine.records import account_record, group_record, order_record
from exitguard.paper.server.state import StateFile

# An order that this fault is about to reject is in no book; after a restart the fault is gone and the order works.
ORDERS = "SELECT id, record FROM orders WHERE account = ?"
GROUPS = "SELECT id, record FROM order_groups WHERE account = ?"
UNKEPT = ("accepted_then_rejected",)


def picture(exchange: Exchange) -> dict[str, Any]:
    """Everything that is to survive."""
    seen: dict[str, Any] = {"counters": exchange.keeping.counters(), "announced": exchange.keeping.announcements()}
    for account in exchange.accounts.values():
        orders = list(account.orders.values())
        seen[account.name] = {
            "account": account_record(account),
            "orders": [order_record(order) for order in orders],
            "groups": {order.group.id: group_record(order.group) for order in orders if order.group is not None},
            "open": list(account.open),
            "sides": {key: list(value) for key, value in sorted(account.open_by_side.items())},
            "ids": sorted(account.by_client_id),
            "holds": account.holds,
            "reserves": (account.stock_reserve, account.option_reserve),
            "activities": account.activities,
            "cursors": account.activity_positions,
            "curve": list(account.equity.since(0)),
            "books": {order.id: places(order) for order in account.open.values()},
        }
    return seen


def places(order: Any) -> tuple[str, ...]:
    if order.asset is None:
        return ()
    book = order.asset.book
    shelves = () if book is None else ("immediate", "limits", "stops", "trailing")
    return tuple(name for name in shelves if order.id in getattr(book, name))


def reopened(folder: Path, day: Day) -> Exchange:
    """A new exchange from what is in the folder; nothing that is due has happened yet."""
    state = StateFile(folder, day.floor.exchange.seed)
    exchange = Exchange(CALENDAR, day.floor.exchange.seed, now=lambda: day.floor.now, schedule=lambda _, __: None)
    state.restore(exchange.keeping)
    state.close()
    return exchange


def check_file(state: StateFile, exchange: Exchange) -> None:
    """Every record in the file is the record of now: one that was not noted as changed is an old one."""
    for account in exchange.accounts.values():
        own = (account.name,)
        kept = {key: json.loads(text) for key, text in state._db.execute(ORDERS, own)}
        assert kept == {order.id: order_record(order) for order in account.orders.values()}
        groups = {order.group.id: order.group for order in account.orders.values() if order.group is not None}
        kept = {key: json.loads(text) for key, text in state._db.execute(GROUPS, own)}
        assert kept == {key: group_record(group) for key, group in groups.items()}
        (text,) = state._db.execute("SELECT record FROM accounts WHERE name = ?", own).fetchone()
        assert json.loads(text) == account_record(account)


def play(plan: list[tuple[Any, ...]], seed: int, probability: float, folder: Path) -> None:
    day = Day(seed, probability)
    state = StateFile(folder, seed)
    state.keep(day.floor.exchange.keeping, lambda: day.floor.now, dict)
    for operation in plan:
        if operation[0] == "fault" and operation[1] in UNKEPT:
            continue
        day.do(operation)
        # What one step changed is written after it, as the server does; only what was noted is written.
        state.flush()
        check_file(state, day.floor.exchange)
    expected = picture(day.floor.exchange)
    # As after kill -9: nothing more is written, the lock is gone.
    state._keeping = None
    state.close()
    assert picture(reopened(folder, day)) == expected


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(plan=operations, seed=st.integers(0, 3), probability=st.sampled_from([0.0, 0.5]))
def test_what_was_written_is_what_was_there(plan: list[tuple[Any, ...]], seed: int, probability: float) -> None:
    with TemporaryDirectory() as folder:
        play(plan, seed, probability, Path(folder))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_long_days_survive_too(seed: int, tmp_path: Path) -> None:
    play(long_plan(Random(seed), 300), seed, 0.5, tmp_path)
