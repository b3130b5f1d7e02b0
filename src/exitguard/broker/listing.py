"""Lists that come in pages: nothing lost, nothing twice, and an answer with holes never passes as whole (I11)."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar

import structlog

from exitguard.broker.decoding import Unreadable, excerpt, moment_or_none
from exitguard.broker.port import BrokerIncomplete, BrokerUnavailable, UnreadableRow
from exitguard.core.orders import BrokerOrder

ORDERS_PAGE = 500
ACTIVITIES_PAGE = 100
CONTRACTS_PAGE = 1000
# More pages than any account has; a venue that never ends its list is stopped here.
MAX_PAGES = 200
# Symbols in one query: an option symbol has up to 21 characters and proxies cut URLs at about 8,000.
SYMBOLS_IN_QUERY = 100
MAX_REPORTED = 20
# Rows decoded before others get a turn: about a millisecond's work.
DECODED_AT_ONCE = 20

_MICROSECOND = timedelta(microseconds=1)

T = TypeVar("T")
Fetch = Callable[[str, Mapping[str, str]], Awaitable[Any]]
OnUnreadable = Callable[[UnreadableRow], None]

log = structlog.get_logger()


class Rows(Generic[T]):
    """Collects decoded rows by id, and what could not be read."""

    def __init__(self, what: str, decode: Callable[[object], T], on_unreadable: OnUnreadable | None = None) -> None:
        self._what = what
        self._decode = decode
        self._on_unreadable = on_unreadable
        self._seen: set[str] = set()
        self.good: list[T] = []
        self.bad: list[UnreadableRow] = []

    def add(self, raws: list[Any], key: str = "id", *, unique: bool = False) -> int:
        """Decode rows whose `key` is new; tells how many were new.

        `unique` is for lists that come in one piece: a second row of one name contradicts the first, and is told.
        """
        fresh = 0
        for raw in raws:
            name = raw.get(key) if isinstance(raw, dict) else None
            if isinstance(name, str):
                if name in self._seen:
                    if unique:
                        self.miss(f"{key} {name!r} is listed twice", raw)
                    continue
                self._seen.add(name)
                fresh += 1
            try:
                self.good.append(self._decode(raw))
            except Unreadable as error:
                self.miss(str(error), raw)
        return fresh

    def miss(self, reason: str, raw: object = "") -> None:
        """Note that a part of the answer is missing."""
        row = UnreadableRow(self._what, reason, excerpt(raw))
        self.bad.append(row)
        if self._on_unreadable is not None:
            self._on_unreadable(row)
        elif len(self.bad) <= MAX_REPORTED:
            log.error("Unreadable row from the broker", what=row.what, reason=row.reason, row=row.excerpt)

    def finish(self, rows: list[T] | None = None) -> list[T]:
        """The rows if all could be read. Raises BrokerIncomplete otherwise, with those that could."""
        result = self.good if rows is None else rows
        if self.bad:
            raise BrokerIncomplete(list(result), self.bad)
        return result


async def add_gently(rows: Rows[Any], raws: list[Any], key: str = "id", *, unique: bool = False) -> int:
    """Decode a long list without keeping the event loop from an exit; tells how many rows were new."""
    fresh = 0
    for start in range(0, len(raws), DECODED_AT_ONCE):
        if start:
            await asyncio.sleep(0)
        fresh += rows.add(raws[start : start + DECODED_AT_ONCE], key, unique=unique)
    return fresh


def as_list(answer: object, what: str) -> list[Any]:
    """An answer that must be a list; anything else says nothing about what exists (F142)."""
    if not isinstance(answer, list):
        raise BrokerUnavailable(f"{what}: expected a list, got {excerpt(answer)!r}")
    return answer


def chunks(symbols: Collection[str], size: int = SYMBOLS_IN_QUERY) -> Iterator[list[str]]:
    """Symbols in sorted portions, each once."""
    ordered = sorted(set(symbols))
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def wire_time(at: datetime) -> str:
    """A timestamp as the venue takes it."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


async def fetch_orders(fetch: Fetch, url: str, params: Mapping[str, str], rows: Rows[BrokerOrder]) -> None:
    """Fetch all pages of an order list, oldest first, whatever number of orders share a timestamp.

    The venue's `after` is exclusive and orders may share a timestamp, so each page starts a microsecond before the
    newest order of the page before, and what comes twice is dropped by id.
    """
    query = {**params, "direction": "asc", "nested": "true", "limit": str(ORDERS_PAGE)}
    for _ in range(MAX_PAGES):
        page = as_list(await fetch(url, query), "orders")
        await add_gently(rows, page)
        if len(page) < ORDERS_PAGE:
            return
        newest = _newest_submission(page)
        if newest is None:
            rows.miss(f"a full page of {ORDERS_PAGE} orders without a submission time: cannot ask for the next page")
            return
        after = wire_time(newest - _MICROSECOND)
        if after == query.get("after"):
            await _fetch_tied(fetch, url, query, newest, rows)
            # Everything within that microsecond is known now; the next page starts behind it.
            after = wire_time(newest)[:-1] + "999Z"
        query["after"] = after
    rows.miss(f"more than {MAX_PAGES} pages of orders")


async def _fetch_tied(fetch: Fetch, url: str, query: Mapping[str, str], at: datetime, rows: Rows[BrokerOrder]) -> None:
    """Fetch the other end of one microsecond that holds more than a page of orders."""
    window = {**query, "until": wire_time(at + _MICROSECOND), "direction": "desc"}
    page = as_list(await fetch(url, window), "orders")
    if await add_gently(rows, page) == len(page) >= ORDERS_PAGE:
        rows.miss(f"more than {2 * ORDERS_PAGE} orders were submitted at {wire_time(at)}")


def _newest_submission(page: list[Any]) -> datetime | None:
    newest = None
    for raw in page:
        try:
            at = moment_or_none(raw, "submitted_at") if isinstance(raw, dict) else None
        except Unreadable:
            continue
        if at is not None and (newest is None or at > newest):
            newest = at
    return newest


def without_repeated_legs(orders: list[BrokerOrder]) -> list[BrokerOrder]:
    """Drop orders that another row of the list already holds as its leg."""
    nested = {leg.id for order in orders for leg in order.legs}
    return [order for order in orders if order.id not in nested]


async def fetch_activities(fetch: Fetch, url: str, params: Mapping[str, str], rows: Rows[Any]) -> None:
    """Fetch all pages of activities, oldest first; the page token is the last id."""
    query = {**params, "direction": "asc", "page_size": str(ACTIVITIES_PAGE)}
    for _ in range(MAX_PAGES * 10):
        page = as_list(await fetch(url, query), "activities")
        fresh = await add_gently(rows, page)
        if len(page) < ACTIVITIES_PAGE:
            return
        last = page[-1].get("id") if isinstance(page[-1], dict) else None
        if not isinstance(last, str) or not fresh:
            rows.miss("the list of activities does not go on after a full page", page[-1])
            return
        query["page_token"] = last
    rows.miss("the list of activities does not end")


async def fetch_contracts(fetch: Fetch, url: str, params: Mapping[str, str], rows: Rows[Any]) -> None:
    """Fetch all pages of option contracts."""
    query = {**params, "limit": str(CONTRACTS_PAGE)}
    for _ in range(MAX_PAGES):
        answer = await fetch(url, query)
        if not isinstance(answer, dict):
            raise BrokerUnavailable(f"option contracts: expected an object, got {excerpt(answer)!r}")
        fresh = await add_gently(rows, as_list(answer.get("option_contracts"), "option contracts"))
        token = answer.get("next_page_token")
        if not token:
            return
        if not isinstance(token, str) or not fresh:
            rows.miss("the list of option contracts does not go on", token)
            return
        query["page_token"] = token
    rows.miss("the list of option contracts does not end")
