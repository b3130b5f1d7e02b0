"""`exitguard bench`: which benchmarks there are, how they run, and how their figures are shown."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from exitguard.cli.bench import breach, compute, exchange, marks, reconciliation, restart, simulation, whole
from exitguard.cli.bench.book import Sizes
from exitguard.cli.bench.exchange import ExchangeSizes
from exitguard.cli.bench.place import open_place
from exitguard.cli.bench.restart import RestartSizes
from exitguard.cli.bench.result import Measurement, Target, failed, quantile
from exitguard.core.errors import ExitguardError

Say = Callable[[str], None]
Rows = dict[str, Measurement]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Plan:
    """How large everything is. The defaults are those of the published figures."""

    breach: Sizes = field(default_factory=Sizes)
    marks: int = 10_000
    mark_rounds: int = 9
    quiet_positions: int = 10_000
    quiet_quotes: int = 200_000
    evaluations: int = 10_000
    compute_rounds: int = 7
    reconciled: int = 10_000
    reconciled_rounds: int = 7
    simulated_seeds: int = 40
    restart: RestartSizes = field(default_factory=RestartSizes)
    exchange: ExchangeSizes = field(default_factory=ExchangeSizes)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One thing that is run, and the figures that come out of it with what is promised about each."""

    run: Callable[[Plan, Say, bool], Awaitable[Rows]]
    figures: dict[str, Target | None]


async def _breach(plan: Plan, say: Say, verbose: bool) -> Rows:
    async with open_place() as place:
        found = await breach.measure(place, plan.breach, say)
        if verbose:
            for stage, times in (await breach.explain(place, plan.breach, say)).items():
                p50, p99 = (quantile(times, share) if times else float("nan") for share in (0.50, 0.99))
                say(f"breach_to_order: {stage:<16} p50 {p50:8.0f} us   p99 {p99:8.0f} us")
        return found


async def _marks(plan: Plan, say: Say, _verbose: bool) -> Rows:
    async with open_place() as place:
        return await marks.measure(place, plan.marks, plan.mark_rounds, say)


async def _day(_plan: Plan, say: Say, _verbose: bool) -> Rows:
    async with open_place() as place:
        return await whole.demo_day(place, say)


async def _memory(_plan: Plan, say: Say, _verbose: bool) -> Rows:
    async with open_place() as place:
        return await whole.idle_memory(place, say)


async def _quiet(plan: Plan, say: Say, _verbose: bool) -> Rows:
    return compute.quiet_quotes(plan.quiet_positions, plan.quiet_quotes, plan.compute_rounds, say)


async def _evaluate(plan: Plan, say: Say, _verbose: bool) -> Rows:
    return compute.evaluations(plan.evaluations, plan.compute_rounds, say)


async def _simulation(plan: Plan, say: Say, _verbose: bool) -> Rows:
    # In a thread: a simulation is an event loop of its own.
    return await asyncio.to_thread(simulation.speed, plan.simulated_seeds, say)


async def _reconciliation(plan: Plan, say: Say, _verbose: bool) -> Rows:
    async with open_place() as place:
        return await reconciliation.measure(place, plan.reconciled, plan.reconciled_rounds, say)


async def _recovery(plan: Plan, say: Say, _verbose: bool) -> Rows:
    async with open_place() as place:
        return await restart.recovery(place, plan.restart, say)


async def _take_over(plan: Plan, say: Say, _verbose: bool) -> Rows:
    async with open_place() as place:
        return await restart.take_over(place, plan.restart, say)


async def _exchange_orders(plan: Plan, say: Say, _verbose: bool) -> Rows:
    return await exchange.orders(plan.exchange, say)


async def _exchange_fanout(plan: Plan, say: Say, _verbose: bool) -> Rows:
    return await exchange.fanout(plan.exchange, say)


async def _exchange_day(plan: Plan, say: Say, _verbose: bool) -> Rows:
    return await exchange.day(plan.exchange, say)


async def _exchange_memory(plan: Plan, say: Say, _verbose: bool) -> Rows:
    return await exchange.memory(plan.exchange, say)


BENCHMARKS: tuple[Benchmark, ...] = (
    Benchmark(_breach, {"breach_to_order_p50": breach.P50, "breach_to_order_p99": breach.P99}),
    Benchmark(_marks, {"marks_10000": marks.TARGET}),
    Benchmark(_day, {"demo_day": whole.DAY}),
    Benchmark(_memory, {"idle_memory": whole.MEMORY}),
    Benchmark(_quiet, {"quiet_quotes": None}),
    Benchmark(_evaluate, {"evaluate": None}),
    Benchmark(_simulation, {"simulation_speed": simulation.TARGET}),
    Benchmark(_reconciliation, {"reconciliation": reconciliation.TARGET}),
    Benchmark(_recovery, {"recovery": restart.RECOVERY}),
    Benchmark(
        _take_over,
        {"takeover_crash": restart.CRASH, "takeover_watching": None, "takeover_hang": restart.HANG},
    ),
    Benchmark(_exchange_orders, {"exchange_orders": exchange.ORDERS}),
    Benchmark(_exchange_fanout, {"exchange_fanout": exchange.FANOUT}),
    Benchmark(_exchange_day, {"exchange_day": exchange.DAY}),
    Benchmark(_exchange_memory, {"exchange_memory": exchange.MEMORY}),
)
NAMES: tuple[str, ...] = tuple(name for each in BENCHMARKS for name in each.figures)


async def run_all(names: tuple[str, ...], plan: Plan, say: Say, *, verbose: bool = False) -> Rows:
    """Run what the names need, one after another; a benchmark that fails is a row that says why."""
    wanted = names or NAMES
    rows: Rows = {}
    for benchmark in BENCHMARKS:
        if not any(name in wanted for name in benchmark.figures):
            continue
        try:
            rows |= await benchmark.run(plan, say, verbose)
        except (ExitguardError, OSError) as error:
            say(f"{', '.join(benchmark.figures)}: not measured: {error}")
            rows |= {name: failed(str(error), target) for name, target in benchmark.figures.items()}
    return {name: rows[name] for name in NAMES if name in rows and name in wanted}


async def run_stoppable(work: Awaitable[T]) -> T:
    """Run, and clean up on SIGTERM as on an interrupt: children and databases of a benchmark must not outlive it."""
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
