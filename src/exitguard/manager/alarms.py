"""Alarms: what a person must see. Each is a row, an event and an error line; raised once, cleared once."""

from collections import Counter
from collections.abc import Collection
from datetime import datetime
from typing import Any

import structlog

from exitguard.core.records import AppendEvent, ClearAlarm, EventType, RaiseAlarm
from exitguard.manager.alarm_list import kind_of
from exitguard.manager.ledger import Ledger

log = structlog.get_logger()


class Alarms:
    """Active alarms of one account, mirrored in the ledger."""

    def __init__(self, ledger: Ledger, account: str, active: frozenset[str] = frozenset()) -> None:
        self._ledger = ledger
        self._account = account
        self._active = {key: kind_of(key) for key in active}

    @property
    def active(self) -> frozenset[str]:
        """Keys of the alarms that are on."""
        return frozenset(self._active)

    @property
    def kinds(self) -> Counter[str]:
        """How many alarms of each kind are on."""
        return Counter(self._active.values())

    def restore(self, active: frozenset[str]) -> None:
        """Remember the alarms that an earlier process left on."""
        self._active |= {key: kind_of(key) for key in active - self._active.keys()}

    def keep_only(self, positions: Collection[int], at: datetime) -> None:
        """Turn off the alarms of positions that are not among these: nothing would ever clear them."""
        for key in sorted(self._active):
            number = key.rpartition(":")[2]
            if number.isdecimal() and int(number) not in positions:
                self.clear(key, at)

    def raise_alarm(
        self,
        key: str,
        kind: str,
        message: str,
        at: datetime,
        position_id: int | None = None,
        **details: Any,
    ) -> None:
        """Turn an alarm on; nothing happens when it is on already."""
        if key in self._active:
            return
        self._active[key] = kind
        log.error(f"ALARM: {message}", account=self._account, alarm=kind, position=position_id, **details)
        self._ledger.post(
            RaiseAlarm(key, kind, at, message, position_id, details),
            AppendEvent(EventType.ALARM_RAISED, at, {"alarm": kind, "message": message, **details}, position_id),
        )

    def clear(self, key: str, at: datetime, position_id: int | None = None) -> None:
        """Turn an alarm off; nothing happens when it is off already."""
        if key not in self._active:
            return
        del self._active[key]
        log.info("alarm cleared", account=self._account, alarm=key, position=position_id)
        self._ledger.post(ClearAlarm(key, at), AppendEvent(EventType.ALARM_CLEARED, at, {"alarm": key}, position_id))

    def clear_position(self, position_id: int, at: datetime, *, but: str | None = None) -> None:
        """Turn off everything that concerns one position, except the alarm `but`."""
        suffix = f":{position_id}"
        for key in sorted(k for k in self._active if k.endswith(suffix) and k != but):
            self.clear(key, at, position_id)
