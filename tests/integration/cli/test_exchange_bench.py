"""The exchange's benchmarks run as published, only smaller: they measure something. How fast, no busy machine tells."""

import pytest

from exitguard.cli.bench import exchange
from exitguard.cli.bench.exchange import AtLeast, ExchangeSizes

TINY = ExchangeSizes(rounds=1, seconds=1.0, contracts=20, stocks=2, days=5, orders_a_day=5)


def quiet(_: str) -> None:
    return


async def test_orders_are_measured_against_the_bare_server() -> None:
    row = (await exchange.orders(TINY, quiet))["exchange_orders"]
    assert row.value is not None
    assert row.baseline is not None
    assert min(row.value, row.baseline) > 0


async def test_every_socket_hears_every_quote() -> None:
    row = (await exchange.fanout(TINY, quiet))["exchange_fanout"]
    assert row.value is not None
    assert row.value > 0


async def test_a_day_follows_all_its_contracts() -> None:
    row = (await exchange.day(TINY, quiet))["exchange_day"]
    assert row.value is not None
    assert row.value > 0


async def test_days_are_traded_and_their_memory_is_told() -> None:
    row = (await exchange.memory(TINY, quiet))["exchange_memory"]
    assert row.value is not None
    assert row.value > 10


@pytest.mark.parametrize(
    ("value", "ratio", "holds"), [(3000, 0.1, True), (2999, 0.59, False), (100, 0.6, True), (100, None, False)]
)
def test_either_promise_suffices(value: float, ratio: float | None, holds: bool) -> None:
    assert AtLeast(3000, ratio_limit=0.6).holds(value, ratio) is holds
