"""`exitguard` that kills itself with SIGKILL at a chosen moment: `python crashing.py MOMENT run --account large`.

A moment is named by what is about to happen, or has just happened: see `_MOMENTS`.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from exitguard.broker.rest import AlpacaBroker
from exitguard.cli.main import main
from exitguard.core.orders import OrderSide
from exitguard.core.records import Batch, IntentPurpose, IntentStatus, PutFill, PutHistory, PutIntent
from exitguard.store.repository import PgAccountStore


def _crash() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _intends(batch: Batch) -> bool:
    return any(
        isinstance(op, PutIntent) and op.row.purpose is IntentPurpose.CLOSE and op.row.status is IntentStatus.INTENDED
        for op in batch.operations
    )


def _fills(batch: Batch) -> bool:
    return any(isinstance(op, PutFill) and op.fill.side is OrderSide.SELL for op in batch.operations)


def _records(batch: Batch) -> bool:
    return any(isinstance(op, PutHistory) for op in batch.operations)


def _at_commit(concerns: Callable[[Batch], bool], *, after: bool) -> None:
    commit = PgAccountStore.commit_encoded

    async def crashing(self: PgAccountStore, batch: Batch, operations: bytes, **named: Any) -> None:
        if concerns(batch) and not after:
            _crash()
        await commit(self, batch, operations, **named)
        if concerns(batch):
            _crash()

    PgAccountStore.commit_encoded = crashing  # type: ignore[assignment,method-assign]


def _at_call(method: str, *, after: bool) -> None:
    call = getattr(AlpacaBroker, method)

    async def crashing(self: AlpacaBroker, *arguments: Any, **named: Any) -> Any:
        if not after:
            _crash()
        result = await call(self, *arguments, **named)
        _crash()
        return result

    setattr(AlpacaBroker, method, crashing)


_MOMENTS: dict[str, Callable[[], None]] = {
    "before the intent": lambda: _at_commit(_intends, after=False),
    "after the intent": lambda: _at_commit(_intends, after=True),
    "after the order": lambda: _at_call("submit", after=True),
    "before the bracket is cancelled": lambda: _at_call("cancel", after=False),
    "after the bracket was cancelled": lambda: _at_call("cancel", after=True),
    "before the fill is written": lambda: _at_commit(_fills, after=False),
    "before the close is recorded": lambda: _at_commit(_records, after=False),
    "after the close was recorded": lambda: _at_commit(_records, after=True),
    "never": lambda: None,
}


if __name__ == "__main__":
    _MOMENTS[sys.argv[1]]()
    sys.exit(main(sys.argv[2:]))
