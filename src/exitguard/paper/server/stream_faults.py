"""Faults on their way to the sockets: trade updates lost, doubled, late, out of order; sockets mute or cut."""

import asyncio
from collections.abc import Callable
from typing import Any

from exitguard.paper.engine import Account, Faults

# A message held back for its successor goes out after this many wall seconds when there is none.
_HELD_SECONDS = 2.0
_STALE_SESSION_SECONDS = 90.0

Deliver = Callable[[Account, dict[str, Any]], None]


class TradeUpdateFaults:
    """Stands between the engine's updates and the sessions."""

    def __init__(self, faults: Faults, deliver: Deliver) -> None:
        self._faults = faults
        self._deliver = deliver
        self._held: dict[str, list[dict[str, Any]]] = {}

    def pass_on(self, account: Account, data: dict[str, Any]) -> None:
        """Deliver one update, with whatever faults strike."""
        message = {"stream": "trade_updates", "data": data}
        symbol = str((data.get("order") or {}).get("symbol") or "") or None
        name = account.name

        def strike(kind: str) -> Any:
            return self._faults.strike(kind, account=name, symbol=symbol, endpoint="/stream")

        if strike("stream_null"):
            self._deliver(account, {"stream": "trade_updates", "data": None})
        if strike("stream_unknown"):
            self._deliver(account, {"stream": "trade_updates", "data": {**data, "event": "order_reviewed"}})
        if strike("stream_drop"):
            return
        if strike("stream_reorder"):
            self._hold(account, message)
            return
        delay = strike("stream_delay")
        if delay is not None:
            asyncio.get_running_loop().call_later(delay.seconds(1.0), self._deliver, account, message)
            return
        self._deliver(account, message)
        if strike("stream_duplicate"):
            self._deliver(account, message)
        self._release(account)

    def _hold(self, account: Account, message: dict[str, Any]) -> None:
        self._held.setdefault(account.name, []).append(message)
        asyncio.get_running_loop().call_later(_HELD_SECONDS, self._release, account)

    def _release(self, account: Account) -> None:
        for message in self._held.pop(account.name, ()):
            self._deliver(account, message)


def stale_seconds(faults: Faults, kind: str, account: str, endpoint: str, always: float) -> float:
    """How long a session that ended keeps its place: by setting, or longer by a half-dead fault."""
    fault = faults.strike(kind, account=account, endpoint=endpoint)
    return always if fault is None else max(always, fault.seconds(_STALE_SESSION_SECONDS))
