"""The exchange at full speed, a process of its own: one large day by the clock, or many days and their memory.

Prints one JSON object.
"""

import gc
import random
import resource
import string
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice, pairwise, product
from pathlib import Path
from typing import Any

import orjson
import uvloop

from exitguard.core.session import Session, table_calendar
from exitguard.paper.engine import Account, ExchangeSettings
from exitguard.paper.market.generated import GeneratorSettings
from exitguard.paper.market.recorded import RecordedBar
from exitguard.paper.server.app import PaperServer
from exitguard.paper.server.host import Host
from exitguard.paper.server.settings import PaperSettings

_FIRST_DAY = datetime(2026, 1, 5, tzinfo=UTC).date()
_MINUTE = timedelta(minutes=1)


def _symbols(count: int) -> Iterator[str]:
    return ("".join(letters) for letters in islice(product(string.ascii_uppercase, repeat=4), count))


def _bars(session: Session, stocks: int) -> dict[str, list[RecordedBar]]:
    """A day of minute bars for each stock."""
    bars: dict[str, list[RecordedBar]] = {}
    minutes = (session.close - session.open) // _MINUTE
    for symbol in _symbols(stocks):
        chance = random.Random(symbol)  # noqa: S311 - no secret
        price, rows = 20 + 300 * chance.random(), []
        for minute in range(minutes):
            opened = price
            price *= 1 + chance.gauss(0, 0.0005)
            high, low = max(opened, price) * 1.0003, min(opened, price) * 0.9997
            rows.append(RecordedBar(session.open + minute * _MINUTE, opened, high, low, price, 4000))
        bars[symbol] = rows
    return bars


async def large_day(stocks: int, contracts: int) -> dict[str, float]:
    """Play a day of minute bars with option contracts followed; wall seconds of the day alone."""
    session = table_calendar().session_on_or_before(_FIRST_DAY)
    settings = PaperSettings(accounts={"bench": Decimal(10**8)}, bars=_bars(session, stocks), paused=True)
    async with PaperServer(settings) as server:
        host = server.host
        await host.player.advance(session.open)
        each = contracts // stocks
        wanted: list[str] = []
        for symbol in host.symbols():
            chain = host.exchange.add_option_chain(symbol)
            middle = len(chain) // 2
            wanted += chain[middle - each // 2 : middle - each // 2 + each]
        host.need_contracts(wanted)
        followed = len(host.player.board.followed())
        _settle_memory()
        began = time.perf_counter()
        await host.player.advance(session.close)
        return {"seconds": time.perf_counter() - began, "contracts": followed, "rounds": host.player.rounds_played}


async def many_days(days: int, orders_a_day: int) -> dict[str, Any]:
    """Play days one after another, trading on each; resident memory in MiB after every day.

    What must be answerable for ever so long (orders, activities, executions) is bounded by settings; here the bounds
    are what a few days fill, so that whatever grows afterwards is not history but a leak.
    """
    history = 10 * orders_a_day
    calendar = table_calendar()
    first = calendar.session_on_or_before(_FIRST_DAY)
    sessions = calendar.between(first.day, first.day + timedelta(days=2 * days + 10))[: days + 1]
    settings = PaperSettings(
        accounts={"large": Decimal(10**7), "tiny": Decimal(10**4)},
        start=first.open,
        paused=True,
        generator=GeneratorSettings(interval=30.0, extended_interval=0.0, halt_probability_a_day=0.0),
        exchange=ExchangeSettings(orders_kept=history, activities_kept=history, executions_kept=history),
    )
    memory: list[float] = []
    async with PaperServer(settings) as server:
        host = server.host
        _settle_memory()
        for today, following in pairwise(sessions):
            await host.player.advance(today.open + _MINUTE)
            await _trade(host, today, orders_a_day)
            await host.player.advance(following.pre_open)
            gc.collect()
            memory.append(_resident())
        fills = len(host.exchange.fills_json())
        if fills < min(history, days * orders_a_day // 2):
            raise RuntimeError(f"only {fills} fills in {days} days: nothing was traded")
    return {"memory": memory, "fills": fills}


async def _trade(host: Host, today: Session, orders: int) -> None:
    """Open and close stock and option positions, and leave some orders to expire."""
    symbols = host.symbols()
    account: Account = host.accounts["large"]
    step = (today.close - today.open) / (orders + 2)
    for number in range(orders):
        symbol = symbols[number % len(symbols)]
        if number % 5 == 4:
            symbol = host.exchange.add_option_chain(symbol)[number % 40]
            host.need_contracts([symbol])
        order: dict[str, Any] = {"symbol": symbol, "side": "buy", "qty": "1", "type": "market", "time_in_force": "day"}
        if number % 3 == 2:
            order |= {"type": "limit", "limit_price": "0.01"}
        host.exchange.submit_order(account, order)
        await host.player.advance(host.clock.reached + step)
    for answer in host.exchange.close_all_positions(account, {"cancel_orders": "true"}):
        assert answer["status"] == 200, answer


def _settle_memory() -> None:
    """As `exitguard paper` does once it has started."""
    gc.collect()
    gc.freeze()


def _resident() -> float:
    """Resident memory in MiB; the peak where the system does not tell the present."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


if __name__ == "__main__":
    what, one, two = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    found = uvloop.run(large_day(one, two) if what == "day" else many_days(one, two))
    print(orjson.dumps(found).decode(), flush=True)
