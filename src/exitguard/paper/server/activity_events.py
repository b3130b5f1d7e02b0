"""GET /v2beta1/events/activities: every activity as a server-sent event, replayed from where the client asks.

Event identifiers are ULIDs made of an activity's own time and identifier: the same at every replay, and ever rising.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import orjson

from exitguard.core.session import NEW_YORK
from exitguard.paper.engine import Account, ApiError
from exitguard.paper.engine.wire import asset_id
from exitguard.paper.server.calendar_api import settlement_date
from exitguard.paper.server.data_paging import moment_of
from exitguard.paper.server.host import Host
from exitguard.paper.server.wire import Receive, Request, Response, Send

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ULID_LENGTH = 26
_POLL_SECONDS = 0.05
_HEARTBEAT_SECONDS = 10.0
_HEADERS = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]


@dataclass(slots=True)
class EventStream(Response):
    """An answer that goes on: what `following` yields, until `until` (market time, microseconds) has passed."""

    headers: list[tuple[bytes, bytes]] = field(default_factory=lambda: list(_HEADERS))
    events: "ActivityEvents | None" = None
    account: Account | None = None
    position: int = 0
    until: int | None = None


class ActivityEvents:
    """Makes event streams and serves them."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def open(self, request: Request, account: Account) -> EventStream:
        """Read the request. Without since or since_id only what happens from now on is shown. Raises ApiError 422."""
        query = request.query
        since, since_id = query.get("since"), query.get("since_id")
        if since and since_id:
            raise _bad("since and since_id cannot be used together")
        if (query.get("until") and not since) or (query.get("until_id") and not since_id):
            raise _bad("until needs since, and until_id needs since_id")
        position = account.activities_dropped + len(account.activities)
        if since:
            position = self._first_since(account, _stamp(since, "since"))
        elif since_id:
            position = self._first_from_id(account, since_id)
        until = _stamp(query["until"], "until") if query.get("until") else None
        if query.get("until_id"):
            # The last microsecond of the identifier's millisecond.
            until = _milliseconds(query["until_id"], "until_id") * 1000 + 999
        return EventStream(events=self, account=account, position=position, until=until)

    @staticmethod
    def _first_since(account: Account, since: int) -> int:
        for index, (stamp, _) in enumerate(account.activities):
            if stamp >= since:
                return account.activities_dropped + index
        return account.activities_dropped + len(account.activities)

    def _first_from_id(self, account: Account, since_id: str) -> int:
        """The event itself when it is known, else the first one of its millisecond or later."""
        begin = _milliseconds(since_id, "since_id")
        first = self._first_since(account, begin * 1000)
        for index in range(first - account.activities_dropped, len(account.activities)):
            stamp, activity = account.activities[index]
            if stamp // 1000 > begin:
                break
            if event_id(stamp, activity) == since_id.upper():
                return account.activities_dropped + index
        return first

    def new_events(self, stream: EventStream) -> Iterator[dict[str, Any]]:
        """What the stream has not shown yet."""
        account = stream.account
        assert account is not None
        stream.position = max(stream.position, account.activities_dropped)
        while stream.position - account.activities_dropped < len(account.activities):
            stamp, activity = account.activities[stream.position - account.activities_dropped]
            if stream.until is not None and stamp > stream.until:
                return
            stream.position += 1
            yield self._event(account, stamp, activity)

    def is_over(self, stream: EventStream) -> bool:
        """Whether the asked range lies in the past."""
        return stream.until is not None and self._host.now().timestamp() * 1_000_000 >= stream.until

    def _event(self, account: Account, stamp: int, activity: Mapping[str, Any]) -> dict[str, Any]:
        is_fill = activity["activity_type"] == "FILL"
        at = activity["transaction_time" if is_fill else "created_at"]
        day = datetime.fromtimestamp(stamp / 1_000_000, NEW_YORK).date()
        event = {
            "event_id": event_id(stamp, activity),
            "at": at,
            "activity_type": activity["activity_type"],
            "executed_at": at,
            "status": activity.get("status", "executed"),
            "settle_date": settlement_date(self._host.calendar, day) if is_fill else activity["date"],
            "currency": "USD",
            "ref_id": activity["id"].partition("::")[2],
            "qty": activity["qty"],
            "price": activity["price"],
        }
        if is_fill:
            return {**event, **self._fill(account, activity)}
        return {
            **event,
            "net_amount": activity["net_amount"],
            "activity_subtype": activity["activity_sub_type"],
            "details": _other(activity, day),
        }

    def _fill(self, account: Account, activity: Mapping[str, Any]) -> dict[str, Any]:
        symbol = activity["symbol"]
        order = account.orders.get(activity["order_id"])
        asset = order.asset if order is not None else None
        sold = activity["side"] != "buy"
        dollars = Decimal(activity["qty"]) * Decimal(activity["price"]) * (asset.multiplier if asset else 1)
        return {
            "net_amount": format((dollars if sold else -dollars).quantize(Decimal("0.01")), "f"),
            "details": {
                "order_id": activity["order_id"],
                "client_order_id": order.client_order_id if order is not None else "",
                "side": "sell" if sold else "buy",
                "symbol": symbol,
                "asset_id": asset.id if asset is not None else asset_id(symbol),
                "leaves_qty": activity["leaves_qty"],
                "cum_qty": activity["cum_qty"],
                "order_status": activity["order_status"],
                "execution_type": activity["type"],
            },
        }


def _other(activity: Mapping[str, Any], day: date) -> dict[str, Any]:
    details = {"symbol": activity["symbol"], "system_date": day.isoformat(), "group_id": activity.get("group_id")}
    if activity["activity_type"].startswith("OP"):
        details["contract_symbol"] = activity["description"].rpartition(" ")[2]
    return {name: value for name, value in details.items() if value is not None}


async def send_events(stream: EventStream, receive: Receive, send: Send, stopping: asyncio.Event) -> None:
    """Serve a stream until its range is over, its client has gone, or the exchange stops."""
    events = stream.events
    assert events is not None
    await send({"type": "http.response.start", "status": stream.status, "headers": stream.headers})

    async def until_gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    ends = {asyncio.ensure_future(until_gone()), asyncio.ensure_future(stopping.wait())}
    last_sent = time.monotonic()
    try:
        while True:
            is_over = events.is_over(stream)
            lines = b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in events.new_events(stream))
            if not lines and time.monotonic() - last_sent >= _HEARTBEAT_SECONDS:
                lines = b": heartbeat\n\n"
            if lines:
                await send({"type": "http.response.body", "body": lines, "more_body": True})
                last_sent = time.monotonic()
            if is_over:
                break
            done, _ = await asyncio.wait(ends, timeout=_POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if done:
                break
    finally:
        for end in ends:
            end.cancel()
    await send({"type": "http.response.body", "body": b""})


def event_id(stamp: int, activity: Mapping[str, Any]) -> str:
    """The ULID of an activity: its millisecond, the microseconds that order it, and a part of its own identifier."""
    digits = activity["id"].partition("::")[2].replace("-", "")
    milliseconds, microseconds = divmod(stamp, 1000)
    number = milliseconds << 80 | microseconds << 70 | int(digits[:17], 16)
    return "".join(_CROCKFORD[number >> shift & 31] for shift in range(5 * (_ULID_LENGTH - 1), -1, -5))


def _milliseconds(ulid: str, name: str) -> int:
    if len(ulid) != _ULID_LENGTH or any(letter not in _CROCKFORD for letter in ulid.upper()) or ulid[0] > "7":
        raise _bad(f"{name} must be a ULID")
    number = 0
    for letter in ulid.upper():
        number = number << 5 | _CROCKFORD.index(letter)
    return number >> 80


def _stamp(text: str, name: str) -> int:
    return int(moment_of(text, name).timestamp() * 1_000_000)


def _bad(message: str) -> ApiError:
    return ApiError(422, {"code": 42210000, "message": message})
