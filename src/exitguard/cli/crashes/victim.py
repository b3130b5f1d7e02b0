"""`exitguard` that kills itself with SIGKILL at a named point: `python -m ….victim POINT run --account large`.

A point is named by what is about to happen, or has just happened. The program is the real one: a point only wraps the
one method of the store or of the broker's client at which the process is to die.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from exitguard.broker.rest import AlpacaBroker
from exitguard.core.orders import OrderSide
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
Concern = Callable[[Batch], bool]


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _intends(purpose: IntentPurpose) -> Concern:
    return lambda batch: any(
        isinstance(op, PutIntent) and op.row.purpose is purpose and op.row.status is IntentStatus.INTENDED
        for op in batch.operations
    )


def _enters(batch: Batch) -> bool:
    return any(isinstance(op, PutExecution) and op.row.status is ExecutionStatus.INTENDED for op in batch.operations)


def _opens(batch: Batch) -> bool:
    return any(isinstance(op, PutPosition) and op.row.status is PositionStatus.OPEN for op in batch.operations)


def _sells(batch: Batch) -> bool:
    return any(isinstance(op, PutFill) and op.fill.side is OrderSide.SELL for op in batch.operations)


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


_BUYS = {"concerns": lambda request: request.side is OrderSide.BUY}
_SELLS = {"concerns": lambda request: request.side is OrderSide.SELL}
_CLOSE, _RESTORE = _intends(IntentPurpose.CLOSE), _intends(IntentPurpose.RESTORE)

POINTS: dict[str, Callable[[], None]] = {
    "opening: before the entry's intent": _at_commit(_enters, after=False),
    "opening: after the entry's intent": _at_commit(_enters, after=True),
    "opening: after the entry order": _at(AlpacaBroker, "submit", after=True, **_BUYS),
    "opening: before the position is written": _at_commit(_opens, after=False),
    "opening: after the position was written": _at_commit(_opens, after=True),
    "marking: before the marks": _at(PgAccountStore, "write_marks", after=False),
    "marking: between marks and heartbeat": _at(PgAccountStore, "write_marks", after=True),
    "restoring: before the bracket's intent": _at_commit(_RESTORE, after=False),
    "restoring: after the bracket's intent": _at_commit(_RESTORE, after=True),
    "restoring: after the bracket's order": _at(AlpacaBroker, "submit", after=True, **_SELLS),
    "restoring: before the bracket is recorded": _at_commit(_restored, after=False),
    "closing: before the bracket is cancelled": _at(AlpacaBroker, "cancel", after=False),
    "closing: after the bracket was cancelled": _at(AlpacaBroker, "cancel", after=True),
    "closing: before the intent": _at_commit(_CLOSE, after=False),
    "closing: after the intent": _at_commit(_CLOSE, after=True),
    "closing: after the order": _at(AlpacaBroker, "submit", after=True, **_SELLS),
    "recording: before the fill": _at_commit(_sells, after=False),
    "recording: after the fill": _at_commit(_sells, after=True),
    "recording: before the close": _at_commit(_records, after=False),
    "recording: after the close": _at_commit(_records, after=True),
}


def main(arguments: list[str]) -> int:
    """Install the point, then be `exitguard`."""
    from exitguard.cli.main import main as exitguard

    point, *rest = arguments
    if point != NEVER:
        POINTS[point]()
    return exitguard(rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
