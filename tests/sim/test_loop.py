"""Virtual time, the seeded order of steps, and processes that are paused and killed between any two of them."""

import asyncio
from contextvars import Context

import pytest

from exitguard.sim.loop import PROCESS, Killed, Process, SimLoop, Starved, run
from exitguard.sim.numbers import numbers


def loop(seed: int = 1, shuffle: float = 1.0) -> SimLoop:
    return SimLoop(numbers(seed, "schedule"), shuffle=shuffle)


def start(on: SimLoop, process: Process, work: object) -> "asyncio.Task[None]":
    context = Context()
    context.run(PROCESS.set, process)
    return on.create_task(work, context=context)  # type: ignore[arg-type]


def test_an_hour_takes_no_time() -> None:
    async def wait() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3600):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    assert run(loop(), wait()) == 3600


def test_the_seed_decides_who_goes_first() -> None:
    async def race() -> list[int]:
        order: list[int] = []

        async def runner(number: int) -> None:
            for _ in range(3):
                order.append(number)
                await asyncio.sleep(0)

        await asyncio.gather(*(runner(number) for number in range(4)))
        return order

    orders = {seed: tuple(run(loop(seed), race())) for seed in range(6)}
    assert orders == {seed: tuple(run(loop(seed), race())) for seed in range(6)}
    assert len(set(orders.values())) > 3


def test_a_killed_process_does_nothing_more_outside() -> None:
    done: list[str] = []

    async def work(process: Process) -> None:
        try:
            while True:
                process.require_alive()
                done.append("step")
                await asyncio.sleep(1)
        finally:
            with pytest.raises(Killed):
                process.require_alive()

    async def play() -> None:
        process = Process("p")
        task = start(asyncio.get_running_loop(), process, work(process))  # type: ignore[arg-type]
        await asyncio.sleep(2.5)
        process.kill()
        await asyncio.sleep(10)
        assert task.done()

    run(loop(), play())
    assert done == ["step"] * 3


def test_a_process_dies_between_any_two_steps() -> None:
    async def play(steps: int) -> int:
        count = 0

        async def work() -> None:
            nonlocal count
            while True:
                count += 1
                await asyncio.sleep(0.1)

        process = Process("p")
        process.kill_after = steps
        start(asyncio.get_running_loop(), process, work())  # type: ignore[arg-type]
        await asyncio.sleep(100)
        assert not process.alive
        return count

    assert [run(loop(), play(steps)) for steps in (1, 5, 9)] == sorted(
        {run(loop(), play(steps)) for steps in (1, 5, 9)}
    )


def test_a_paused_process_goes_on_where_it_stopped() -> None:
    async def play() -> list[float]:
        here = asyncio.get_running_loop()
        assert isinstance(here, SimLoop)
        times: list[float] = []

        async def work() -> None:
            while True:
                await asyncio.sleep(1)
                times.append(here.time())

        process = Process("p")
        start(here, process, work())
        await asyncio.sleep(2.5)
        process.paused = True
        await asyncio.sleep(60)
        here.resume(process)
        await asyncio.sleep(1.6)
        return times

    assert run(loop(), play()) == [1.0, 2.0, 62.5, 63.5]


def test_waiting_for_nothing_is_said() -> None:
    async def wait() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Starved):
        run(loop(), wait())


def test_work_for_a_thread_stays_in_this_one() -> None:
    async def ask() -> int:
        return await asyncio.to_thread(sum, [1, 2, 3])

    assert run(loop(), ask()) == 6
