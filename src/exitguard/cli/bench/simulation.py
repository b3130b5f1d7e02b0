"""Simulated time against real time: one account, one processor, and every fault there is."""

from collections.abc import Callable, Iterator
from itertools import count, islice

from exitguard.cli.bench.exchange import AtLeast
from exitguard.cli.bench.result import Measurement, measured
from exitguard.sim.scenario import make_scenario
from exitguard.sim.simulate import RunSpec, simulate

TARGET = AtLeast(1_000)


def speed(seeds: int, say: Callable[[str], None]) -> dict[str, Measurement]:
    """Simulated seconds a wall second of seeds with one account; baseline: the same seeds without a single fault."""
    say(f"simulation_speed: {seeds} seeds with all faults, and the same without any")
    simulated, wall, calm_simulated, calm_wall = 0.0, 0.0, 0.0, 0.0
    for seed in islice(_of_one_account(), seeds):
        stormy = simulate(RunSpec(seed))
        calm = simulate(RunSpec(seed, frozenset()))
        simulated, wall = simulated + stormy.virtual_seconds, wall + stormy.wall_seconds
        calm_simulated, calm_wall = calm_simulated + calm.virtual_seconds, calm_wall + calm.wall_seconds
    return {"simulation_speed": measured(simulated / wall, "x", baseline=calm_simulated / calm_wall, target=TARGET)}


def _of_one_account() -> Iterator[int]:
    return (seed for seed in count(1) if len(make_scenario(seed).accounts) == 1)
