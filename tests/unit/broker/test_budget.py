"""The request budget: the venue's limit holds, exits go first, nothing waits for ever."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.fake_venue import eventually

from exitguard.broker.budget import RequestBudget, TokenBucket
from exitguard.broker.port import BrokerRateLimited, Priority
from exitguard.core.errors import InvalidInput

_STEPS = st.lists(
    st.tuples(st.sampled_from(list(Priority)), st.floats(min_value=0, max_value=5, allow_nan=False)), max_size=400
)


@given(per_minute=st.integers(min_value=10, max_value=300), steps=_STEPS)
def test_no_window_of_a_minute_holds_more_requests_than_allowed(
    per_minute: int, steps: list[tuple[Priority, float]]
) -> None:
    now = 0.0
    bucket = TokenBucket(per_minute, now)
    granted: list[float] = []
    for priority, pause in steps:
        now += pause
        while bucket.take(priority, now):
            granted.append(now)
    for at in granted:
        assert sum(at - 60 < other <= at for other in granted) <= per_minute


@given(per_minute=st.integers(min_value=10, max_value=1000), drained=st.sampled_from(list(Priority)[1:]))
def test_the_last_tokens_belong_to_exits(per_minute: int, drained: Priority) -> None:
    bucket = TokenBucket(per_minute, 0.0)
    while bucket.take(drained, 0.0):
        pass
    exits = 0
    while bucket.take(Priority.EXIT, 0.0):
        exits += 1
    assert exits == bucket.reserve
    assert bucket.wait_for(Priority.EXIT, 0.0) < bucket.wait_for(Priority.PROTECT, 0.0)


@given(st.sampled_from(list(Priority)), st.integers(min_value=10, max_value=1000))
def test_waiting_as_long_as_told_is_long_enough(priority: Priority, per_minute: int) -> None:
    bucket = TokenBucket(per_minute, 1000.0)
    now = 1000.0
    for _ in range(50):
        now += bucket.wait_for(priority, now)
        assert bucket.take(priority, now)


def test_a_429_pauses_everybody_and_exits_only_shortly() -> None:
    bucket = TokenBucket(200, 0.0)
    assert bucket.pause(20.0, 0.0) == 20.0
    assert bucket.wait_for(Priority.ENTRY, 0.0) == 20.0
    assert bucket.wait_for(Priority.EXIT, 0.0) == 1.0
    assert [bucket.pause(None, 0.0) for _ in range(3)] == [2.0, 4.0, 8.0]
    bucket.succeed()
    assert bucket.pause(None, 0.0) == 1.0
    assert bucket.pause(9999.0, 0.0) == 60.0


def test_a_budget_too_small_to_work_is_refused() -> None:
    with pytest.raises(InvalidInput, match="at least 10"):
        RequestBudget(9)


class Hand:
    """A clock moved by hand; waiting callers are served by the loop's timers, which this does not move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def _spend(budget: RequestBudget, priority: Priority, count: int) -> None:
    for _ in range(count):
        await budget.acquire(priority, 0.01)


async def test_the_most_urgent_waits_least() -> None:
    hand = Hand()
    budget = RequestBudget(60_000, now=hand)
    await _spend(budget, Priority.EXIT, 24_000)
    served: list[str] = []

    async def ask(name: str, priority: Priority) -> None:
        await budget.acquire(priority, 60)
        served.append(name)

    names = [("info", Priority.INFO), ("entry", Priority.ENTRY), ("exit 1", Priority.EXIT), ("exit 2", Priority.EXIT)]
    tasks = [asyncio.create_task(ask(*name)) for name in names]
    await eventually(lambda: budget.waiting == 4)
    hand.now = 20.0
    await asyncio.gather(*tasks)
    assert served == ["exit 1", "exit 2", "entry", "info"]


async def test_no_token_in_time_means_not_sent() -> None:
    budget = RequestBudget(10, now=Hand())
    await _spend(budget, Priority.EXIT, 4)
    with pytest.raises(BrokerRateLimited, match=r"no request budget for EXIT within 0.01 s; .* not sent"):
        await budget.acquire(Priority.EXIT, 0.01)
    assert budget.waiting == 0


async def test_a_full_queue_gives_way_to_the_more_urgent_only() -> None:
    budget = RequestBudget(10, now=Hand(), max_waiting=2)
    await _spend(budget, Priority.EXIT, 4)
    info = asyncio.create_task(budget.acquire(Priority.INFO, 60))
    entry = asyncio.create_task(budget.acquire(Priority.ENTRY, 60))
    await eventually(lambda: budget.waiting == 2)
    with pytest.raises(BrokerRateLimited, match="2 requests wait"):
        await budget.acquire(Priority.INFO, 60)
    exiting = asyncio.create_task(budget.acquire(Priority.EXIT, 60))
    with pytest.raises(BrokerRateLimited, match="gave way"):
        await info
    assert not entry.done()
    for task in (entry, exiting):
        task.cancel()
    await asyncio.gather(entry, exiting, return_exceptions=True)
    assert budget.waiting == 0


async def test_who_gives_up_waiting_costs_nothing() -> None:
    hand = Hand()
    budget = RequestBudget(60_000, now=hand)
    await _spend(budget, Priority.EXIT, 24_000)
    tasks = [asyncio.create_task(budget.acquire(Priority.EXIT, 60)) for _ in range(10)]
    await eventually(lambda: budget.waiting == 10)
    for task in tasks[:9]:
        task.cancel()
    await asyncio.gather(*tasks[:9], return_exceptions=True)
    assert budget.waiting == 1
    hand.now = 0.002
    await tasks[9]
