"""`exitguard` that kills itself with SIGKILL at a named point: `python -m ….victim POINT run --account large`.

A point is named by what is about to happen, or has just happened. The program is the real one: a point only wraps the
one method of the store or of the broker's client at which the process is to die. With `POINT@stop` it stops there
(SIGSTOP) instead, once, and goes on where it was when somebody wakes it.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from enum import Enum
from typing import Any

from exitguard.broker.rest import AlpacaBroker
from exitguard.core.orders import OrderClass, OrderRequest, OrderSide
from exitguard.core.records import (
    AppendEvent,
    Batch,
    EventType,
    ExecutionStatus,
    IntentPurpose,
    IntentStatus,
    PositionStatus,
    PutExecution,
    PutFill,
    PutHistory,
    PutIntent,
    PutPosition,
)
from exitguard.store.repository import PgAccountStore

NEVER = "never"
STOPPING = "@stop"
Concern = Callable[[Batch], bool]


class _Fate:
    """How the process ends at its point."""

    number = signal.SIGKILL
    met = False


def _die() -> None:
    if not _Fate.met:
        _Fate.met = True
        os.kill(os.getpid(), _Fate.number)


def _intends(purpose: IntentPurpose, status: IntentStatus = IntentStatus.INTENDED) -> Concern:
    return lambda batch: any(
        isinstance(op, PutIntent) and op.row.purpose is purpose and op.row.status is status for op in batch.operations
    )


def _closes(request: OrderRequest) -> bool:
    return request.side is OrderSide.SELL and request.order_class is OrderClass.SIMPLE


def _enters(batch: Batch) -> bool:
    return any(isinstance(op, PutExecution) and op.row.status is ExecutionStatus.INTENDED for op in batch.operations)


def _opens(batch: Batch) -> bool:
    return any(isinstance(op, PutPosition) and op.row.status is PositionStatus.OPEN for op in batch.operations)


def _sells(batch: Batch) -> bool:
    return any(isinstance(op, PutFill) and op.fill.side is OrderSide.SELL for op in batch.operations)


def _begins(batch: Batch) -> bool:
    """A close is recorded: its row, with the intent unless an update of the order was faster."""
    return any(isinstance(op, PutPosition) and op.row.status is PositionStatus.CLOSING for op in batch.operations)


def _restored(batch: Batch) -> bool:
    return any(isinstance(op, AppendEvent) and op.type is EventType.BRACKET_RESTORED for op in batch.operations)


def _records(batch: Batch) -> bool:
    return any(isinstance(op, PutHistory) for op in batch.operations)


def _at_commit(concerns: Concern, *, after: bool) -> Callable[[], None]:
    def install() -> None:
        commit = PgAccountStore.commit_encoded

        async def dying(self: PgAccountStore, batch: Batch, operations: bytes, **named: Any) -> None:
            if concerns(batch) and not after:
                _die()
            await commit(self, batch, operations, **named)
            if concerns(batch):
                _die()

        PgAccountStore.commit_encoded = dying  # type: ignore[method-assign]

    return install


def _at(
    owner: type, method: str, *, after: bool, concerns: Callable[[Any], bool] = lambda _: True
) -> Callable[[], None]:
    """At a call of a method whose first argument is of concern."""

    def install() -> None:
        call = getattr(owner, method)

        async def dying(self: Any, first: Any, *arguments: Any, **named: Any) -> Any:
            if not concerns(first):
                return await call(self, first, *arguments, **named)
            if not after:
                _die()
            result = await call(self, first, *arguments, **named)
            _die()
            return result

        setattr(owner, method, dying)

    return install


class _Moment(Enum):
    """Where a close is: its order and its record leave together, and either may arrive first."""

    ORDER_ALONE = "the order has been answered, and its record is not in the books"
    RECORD_ALONE = "the record is in the books, and the order has not left"
    BOTH = "the order has been answered, and its record is in the books"


def _close_at(moment: _Moment) -> Callable[[], None]:
    """At a moment of a close: what has to come later is held back until then."""

    def install() -> None:
        commit, submit = PgAccountStore.commit_encoded, AlpacaBroker.submit
        recorded, sent, answered = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def committing(self: PgAccountStore, batch: Batch, operations: bytes, **named: Any) -> None:
            if moment is _Moment.ORDER_ALONE and (sent.is_set() or _begins(batch)):
                await answered.wait()
                _die()
            await commit(self, batch, operations, **named)
            if _begins(batch):
                recorded.set()

        async def submitting(self: AlpacaBroker, request: OrderRequest, *arguments: Any, **named: Any) -> Any:
            if not _closes(request):
                return await submit(self, request, *arguments, **named)
            if moment is _Moment.RECORD_ALONE:
                await recorded.wait()
                _die()
            sent.set()
            result = await submit(self, request, *arguments, **named)
            answered.set()
            if moment is _Moment.BOTH:
                await recorded.wait()
                _die()
            return result

        PgAccountStore.commit_encoded = committing  # type: ignore[method-assign]
        AlpacaBroker.submit = submitting  # type: ignore[method-assign]

    return install


_BUYS = {"concerns": lambda request: request.side is OrderSide.BUY}
_BRACKETS = {"concerns": lambda request: request.side is OrderSide.SELL and not _closes(request)}
_CLOSES = {"concerns": _closes}
_ARM = _intends(IntentPurpose.CLOSE, IntentStatus.ARMED)
_CLOSE, _RESTORE = _intends(IntentPurpose.CLOSE), _intends(IntentPurpose.RESTORE)

POINTS: dict[str, Callable[[], None]] = {
    "opening: before the entry's intent": _at_commit(_enters, after=False),
    "opening: after the entry's intent": _at_commit(_enters, after=True),
    "opening: after the entry order": _at(AlpacaBroker, "submit", after=True, **_BUYS),
    "opening: before the position is written": _at_commit(_opens, after=False),
    "opening: after the position was written": _at_commit(_opens, after=True),
    "arming: before the close is committed": _at_commit(_ARM, after=False),
    "arming: after the close was committed": _at_commit(_ARM, after=True),
    "marking: before the marks": _at(PgAccountStore, "write_marks", after=False),
    "marking: between marks and heartbeat": _at(PgAccountStore, "write_marks", after=True),
    "restoring: before the bracket's intent": _at_commit(_RESTORE, after=False),
    "restoring: after the bracket's intent": _at_commit(_RESTORE, after=True),
    "restoring: after the bracket's order": _at(AlpacaBroker, "submit", after=True, **_BRACKETS),
    "restoring: before the bracket is recorded": _at_commit(_restored, after=False),
    "closing, armed: before the order": _at(AlpacaBroker, "submit", after=False, **_CLOSES),
    "closing, armed: after the order, before its record": _close_at(_Moment.ORDER_ALONE),
    "closing, armed: after its record, before the order": _close_at(_Moment.RECORD_ALONE),
    "closing, armed: after the order and its record": _close_at(_Moment.BOTH),
    "closing, bracket: before the bracket is cancelled": _at(AlpacaBroker, "cancel", after=False),
    "closing, bracket: after the bracket was cancelled": _at(AlpacaBroker, "cancel", after=True),
    "closing, bracket: before the intent": _at_commit(_CLOSE, after=False),
    "closing, bracket: after the intent": _at_commit(_CLOSE, after=True),
    "closing, bracket: after the order": _at(AlpacaBroker, "submit", after=True, **_CLOSES),
    "recording: before the fill": _at_commit(_sells, after=False),
    "recording: after the fill": _at_commit(_sells, after=True),
    "recording: before the close": _at_commit(_records, after=False),
    "recording: after the close": _at_commit(_records, after=True),
}


def main(arguments: list[str]) -> int:
    """Install the point, then be `exitguard`."""
    from exitguard.cli.main import main as exitguard

    point, *rest = arguments
    if point.endswith(STOPPING):
        _Fate.number = signal.SIGSTOP
    if point != NEVER:
        POINTS[point.removesuffix(STOPPING)]()
    return exitguard(rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
