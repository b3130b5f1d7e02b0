"""An event loop in virtual time: nothing sleeps, nothing does I/O, and the seed decides who goes first.

Time stands still while anything can run and then jumps to the next timer. Callbacks that are ready together run in an
order drawn from the seed. Every task belongs to a simulated process (the one whose task made it), which can be stopped
between any two steps: paused as by SIGSTOP, or killed as by kill -9.
"""

import asyncio
import heapq
from asyncio import Task, events
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, ContextVar
from random import Random
from typing import Any, TypeVar

T = TypeVar("T")


class Killed(asyncio.CancelledError):
    """What a call to the outside raises in a process that is dead: nothing of it has an effect any more."""


class Starved(RuntimeError):
    """Everything waits and no timer is set: the simulation can never go on."""


class Process:
    """One simulated operating-system process: the tasks that descend from its first one.

    `kill_after` is the number of steps that it may still run, None for as many as it likes.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.paused = False
        self.kill_after: int | None = None
        self.tasks: list[Task[Any]] = []
        self.parked: list[asyncio.Handle] = []
        self.on_kill: Callable[[], None] | None = None

    def require_alive(self) -> None:
        """Raise Killed in a process that is dead; every port asks before it does anything."""
        if not self.alive:
            raise Killed(self.name)

    def kill(self) -> None:
        """End at once: no cleanup of the dead process can reach anything outside."""
        if not self.alive:
            return
        self.alive = False
        for task in self.tasks:
            task.cancel()
        if self.on_kill is not None:
            self.on_kill()


PROCESS: ContextVar[Process | None] = ContextVar("exitguard_sim_process", default=None)


class _NumberedTask(Task[T]):
    """A task whose place in a set depends on when it was made and not on where in memory it lies."""

    __slots__ = ("_number",)

    def __init__(self, coro: Any, *, number: int, **options: Any) -> None:
        self._number = number
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


class _NoSelector:
    """BaseEventLoop closes its selector; there is none."""

    def close(self) -> None:
        """Nothing to close."""


class SimLoop(asyncio.BaseEventLoop):
    """See the module. `shuffle` is the share of rounds in which the order of ready callbacks is drawn anew."""

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self, rng: Random, *, shuffle: float = 1.0) -> None:
        super().__init__()
        self._rng = rng
        self._shuffle = shuffle
        self._virtual = 0.0
        self._tasks_made = 0
        self._selector = _NoSelector()
        self.steps = 0
        self.failures: list[dict[str, Any]] = []
        self.set_task_factory(self._make_task)
        self.set_exception_handler(lambda _, details: self.failures.append(details))

    def time(self) -> float:
        """Virtual seconds since the simulation began."""
        return self._virtual

    def _make_task(
        self,
        loop: asyncio.AbstractEventLoop,
        work: Coroutine[Any, Any, T] | Generator[Any, None, T],
        *,
        context: Context | None = None,
        **options: Any,
    ) -> asyncio.Future[T]:
        self._tasks_made += 1
        task = _NumberedTask[T](work, number=self._tasks_made, loop=loop, context=context, **options)
        process = PROCESS.get() if context is None else context.get(PROCESS)
        if process is not None:
            process.tasks.append(task)
            if len(process.tasks) > 200:
                process.tasks = [each for each in process.tasks if not each.done()]
        return task

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        """Run the work as a step of its own in this thread: a thread of its own would be out of the seed's hands."""
        future: asyncio.Future[T] = self.create_future()

        def work() -> None:
            if future.cancelled():
                return
            try:
                result = func(*args)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        self.call_soon(work)
        return future

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """There is one thread only."""
        return self.call_soon(callback, *args, context=context)

    def resume(self, process: Process) -> None:
        """Let a paused process go on."""
        process.paused = False
        self._ready.extend(process.parked)
        process.parked.clear()

    def _process_events(self, event_list: object) -> None:
        """There is no I/O."""

    def _write_to_self(self) -> None:
        """There is nobody to wake."""

    def _run_once(self) -> None:
        """One round: let time jump when nothing is ready, then run what is ready, in the seed's order."""
        scheduled = self._scheduled
        while scheduled and scheduled[0].cancelled():
            _unscheduled(heapq.heappop(scheduled))
        if not self._ready:
            if not scheduled:
                raise Starved("nothing is ready and no timer is set")
            self._virtual = max(self._virtual, scheduled[0].when())
        while scheduled and scheduled[0].when() <= self._virtual:
            self._ready.append(_unscheduled(heapq.heappop(scheduled)))
        batch = list(self._ready)
        self._ready.clear()
        if len(batch) > 1 and self._rng.random() < self._shuffle:
            self._rng.shuffle(batch)
        for handle in batch:
            if not handle.cancelled():
                self._step(handle)

    def _step(self, handle: asyncio.Handle) -> None:
        context = handle._context  # type: ignore[attr-defined]
        process: Process | None = context.get(PROCESS)
        if process is not None:
            if process.paused:
                process.parked.append(handle)
                return
            if process.kill_after is not None and process.alive:
                process.kill_after -= 1
                if process.kill_after < 0:
                    process.kill()
        self.steps += 1
        handle._run()


def _unscheduled(timer: asyncio.TimerHandle) -> asyncio.TimerHandle:
    timer._scheduled = False  # type: ignore[attr-defined]  # the base class counts cancelled timers by it
    return timer


def run(loop: SimLoop, work: Coroutine[Any, Any, T]) -> T:
    """Run a simulation to its end and close the loop, whatever is still pending."""
    before = events._get_running_loop()
    if before is not None:
        raise RuntimeError("a simulation runs outside of every other event loop")
    try:
        return loop.run_until_complete(work)
    finally:
        pending = [task for task in asyncio.all_tasks(loop) if not task.done()]
        for task in sorted(pending, key=hash):
            task.cancel()
        if pending:
            loop.run_until_complete(asyncio.gather(*sorted(pending, key=hash), return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
