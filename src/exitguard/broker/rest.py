"""The Broker port over Alpaca's REST API, for one account."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import quote as quote_path

import structlog

from exitguard.broker import decoding, listing
from exitguard.broker.budget import RequestBudget
from exitguard.broker.listing import OnUnreadable, Rows
from exitguard.broker.order_wire import encode_order, encode_replacement, judge_cancel, judge_submit
from exitguard.broker.port import (
    Activity,
    Asset,
    BrokerRateLimited,
    BrokerRefused,
    BrokerUnavailable,
    CancelResult,
    OptionContract,
    Priority,
    Refused,
    SubmitResult,
    Unknown,
)
from exitguard.broker.transport import NotSent, Response, Timeouts, Transport
from exitguard.core.instrument import InvalidSymbol, parse_instrument
from exitguard.core.orders import (
    BrokerAccount,
    BrokerOrder,
    BrokerPosition,
    Fill,
    OrderRequest,
    VenueTime,
)
from exitguard.core.quote import Quote
from exitguard.core.session import Session

# Alpaca's code for "order not found", "position does not exist", "asset not found": the only 404 that proves absence.
NOT_FOUND = 40410000

T = TypeVar("T")
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class AlpacaEndpoints:
    """Base URLs without `/v2`. A feed of None leaves the choice to the venue (the best one subscribed)."""

    rest_url: str
    data_url: str
    stock_feed: str | None = None
    option_feed: str | None = None


class AlpacaBroker:
    """REST side of one Alpaca account; implements `broker.port.Broker` and `broker.port.ReferenceData`.

    Bound to one credential for life (I4). `budget` counts requests to the trading API and is to be shared by all
    who use the account in this process; `data_budget` counts requests to the market data API. `on_unreadable` hears
    of each row that could not be read; without it they are logged.
    """

    def __init__(
        self,
        endpoints: AlpacaEndpoints,
        key: str,
        secret: str,
        *,
        account_name: str,
        budget: RequestBudget | None = None,
        data_budget: RequestBudget | None = None,
        timeouts: Timeouts | None = None,
        on_unreadable: OnUnreadable | None = None,
    ) -> None:
        self.account_name = account_name
        self._endpoints = endpoints
        self._trading = endpoints.rest_url.rstrip("/") + "/v2"
        self._data = endpoints.data_url.rstrip("/")
        self._budget = budget or RequestBudget()
        self._data_budget = data_budget or RequestBudget()
        self._on_unreadable = on_unreadable
        self._log = log.bind(account=account_name)
        self._transport = Transport({"APCA-API-KEY-ID": key, "APCA-API-SECRET-KEY": secret}, timeouts or Timeouts())

    async def close(self) -> None:
        """Release connections."""
        await self._transport.close()

    # Account and venue

    async def account(self) -> BrokerAccount:
        """Describe the account behind the credential."""
        return await self._one("/account", decoding.decode_account, Priority.RECONCILE)

    async def clock(self) -> VenueTime:
        """Tell the venue's time. One attempt only: an answer that comes late is worth nothing."""
        return await self._one("/clock", decoding.decode_clock, Priority.RECONCILE, attempts=1)

    async def calendar(self, start: date, end: date) -> list[Session]:
        """List trading sessions, both ends included."""
        rows = self._rows("calendar day", decoding.decode_session)
        params = {"start": start.isoformat(), "end": end.isoformat()}
        rows.add(listing.as_list(await self._read("/calendar", params, Priority.RECONCILE), "calendar"), key="date")
        return rows.finish([session for session in rows.good if start <= session.day <= end])

    # Orders

    async def submit(self, request: OrderRequest, priority: Priority = Priority.EXIT) -> SubmitResult:
        """Send one order, once. Raises InvalidInput for a request that cannot be meant."""
        body = encode_order(request)
        return await self._send_order("POST", "/orders", body, request.client_order_id, priority)

    async def replace(
        self,
        order_id: str,
        *,
        client_order_id: str,
        qty: Decimal | None = None,
        limit_price: Decimal | None = None,
        stop_price: Decimal | None = None,
        priority: Priority = Priority.PROTECT,
    ) -> SubmitResult:
        """Replace an order; the answer describes the new one, and only the stream or a later look proves it live."""
        body = encode_replacement(client_order_id, qty, limit_price, stop_price)
        return await self._send_order("PATCH", f"/orders/{_path(order_id)}", body, client_order_id, priority)

    async def _send_order(
        self, method: str, path: str, body: Mapping[str, Any], client_order_id: str, priority: Priority
    ) -> SubmitResult:
        sent = await self._attempt(method, path, priority, body)
        result = sent if not isinstance(sent, Response) else judge_submit(sent, client_order_id)
        if isinstance(result, Unknown):
            self._log.warning(
                "Order outcome unknown", client_order_id=client_order_id, reason=result.reason, sent=result.sent
            )
        return result

    async def _attempt(
        self, method: str, path: str, priority: Priority, body: Mapping[str, Any] | None = None
    ) -> Response | Refused | Unknown:
        try:
            return await self._transport.send(method, self._trading + path, priority, self._budget, body=body)
        except NotSent as error:
            return Unknown(str(error), sent=False)
        except BrokerUnavailable as error:
            return Unknown(str(error))
        except BrokerRateLimited as error:
            return Refused(error)

    async def cancel(self, order_id: str, priority: Priority = Priority.EXIT) -> CancelResult:
        """Ask for an order's cancellation, once."""
        sent = await self._attempt("DELETE", f"/orders/{_path(order_id)}", priority)
        if isinstance(sent, Unknown):
            return CancelResult(known=False, detail=sent.reason)
        if isinstance(sent, Refused):
            return CancelResult(known=False, detail=str(sent.error), error=sent.error)
        return judge_cancel(sent)

    async def order(self, order_id: str) -> BrokerOrder | None:
        """Fetch one order with its legs; None when the broker proves that it has none (404)."""
        path = f"/orders/{_path(order_id)}"
        return await self._one_or_none(path, decoding.decode_order, Priority.EXIT, {"nested": "true"})

    async def order_by_client_id(self, client_order_id: str) -> BrokerOrder | None:
        """Fetch one order by our id; None on 404, which right after a send is not yet proof of absence."""
        params = {"client_order_id": client_order_id, "nested": "true"}
        found = await self._one_or_none("/orders:by_client_order_id", decoding.decode_order, Priority.EXIT, params)
        if found is not None and found.client_order_id != client_order_id:
            raise BrokerUnavailable(f"asked for order {client_order_id!r}, got {found.client_order_id!r}")
        return found

    async def open_orders(
        self, symbols: Collection[str] | None = None, priority: Priority = Priority.RECONCILE
    ) -> list[BrokerOrder]:
        """List all open orders, nested, all pages, oldest first."""
        return await self._orders({"status": "open"}, symbols, priority)

    async def orders_since(self, after: datetime, symbols: Collection[str] | None = None) -> list[BrokerOrder]:
        """List orders of every state submitted after a moment, nested, all pages, oldest first."""
        return await self._orders({"status": "all", "after": listing.wire_time(after)}, symbols, Priority.RECONCILE)

    async def _orders(
        self, params: Mapping[str, str], symbols: Collection[str] | None, priority: Priority
    ) -> list[BrokerOrder]:
        rows = self._rows("order", decoding.decode_order)

        async def fetch(url: str, query: Mapping[str, str]) -> Any:
            return await self._transport.read(url, query, priority, self._budget)

        url = self._trading + "/orders"
        if symbols is None:
            await listing.fetch_orders(fetch, url, params, rows)
        else:
            for portion in listing.chunks(symbols):
                await listing.fetch_orders(fetch, url, {**params, "symbols": ",".join(portion)}, rows)
        return rows.finish(listing.without_repeated_legs(rows.good))

    # Positions and history

    async def positions(self) -> list[BrokerPosition]:
        """List all positions."""
        rows = self._rows("position", decoding.decode_position)
        raws = listing.as_list(await self._read("/positions", {}, Priority.RECONCILE), "positions")
        await listing.add_gently(rows, raws, key="symbol", unique=True)
        return rows.finish()

    async def position(self, symbol: str, priority: Priority = Priority.EXIT) -> BrokerPosition | None:
        """Fetch one position; None when the broker says that it does not exist."""
        found = await self._one_or_none(f"/positions/{_path(symbol)}", decoding.decode_position, priority)
        if found is not None and found.symbol != symbol:
            raise BrokerUnavailable(f"asked for the position in {symbol!r}, got {found.symbol!r}")
        return found

    async def fills(self, after: datetime | None = None, order_id: str | None = None) -> list[Fill]:
        """List FILL activities, oldest first, all pages; `after` filters on the transaction time, inclusive."""
        rows = self._rows("fill", decoding.decode_fill)
        params = {}
        if after is not None:
            params["after"] = listing.wire_time(after - timedelta(microseconds=1))
        if order_id is not None:
            params["order_id"] = order_id
        await listing.fetch_activities(self._fetch, self._trading + "/account/activities/FILL", params, rows)
        chosen = [
            fill
            for fill in rows.good
            if (after is None or fill.at >= after) and (order_id is None or fill.order_id == order_id)
        ]
        return rows.finish(sorted(chosen, key=lambda fill: fill.at))

    async def activities(self, after: date | None = None) -> list[Activity]:
        """List activities that are not trades, oldest first, all pages.

        The venue filters on the day of booking, often the day after the event; this asks from a day earlier, so
        that nothing is missed, and returns activities seen before: the caller knows them by id.
        """
        rows = self._rows("activity", decoding.decode_activity)
        params = {"category": "non_trade_activity"}
        if after is not None:
            params["after"] = (after - timedelta(days=1)).isoformat() + "T00:00:00Z"
        await listing.fetch_activities(self._fetch, self._trading + "/account/activities", params, rows)
        return rows.finish([activity for activity in rows.good if activity.type != "FILL"])

    # What can be traded

    async def asset(self, symbol: str) -> Asset | None:
        """Fetch one asset; None when the broker says that it does not exist."""
        return await self._one_or_none(f"/assets/{_path(symbol)}", decoding.decode_asset, Priority.ENTRY)

    async def assets(self, *, status: str = "active", asset_class: str = "us_equity") -> list[Asset]:
        """List assets."""
        rows = self._rows("asset", decoding.decode_asset)
        params = {"status": status, "asset_class": asset_class}
        await listing.add_gently(rows, listing.as_list(await self._read("/assets", params, Priority.INFO), "assets"))
        return rows.finish()

    async def option_contract(self, symbol: str) -> OptionContract | None:
        """Fetch one contract; None when the broker says that it does not exist."""
        path = f"/options/contracts/{_path(symbol)}"
        return await self._one_or_none(path, decoding.decode_contract, Priority.ENTRY)

    async def option_contracts(
        self,
        underlyings: Collection[str],
        *,
        expiry_from: date,
        expiry_to: date,
        type: str | None = None,
        strike_from: Decimal | None = None,
        strike_to: Decimal | None = None,
    ) -> list[OptionContract]:
        """List active contracts between two expiries, both included, all pages."""
        params = {
            "status": "active",
            "expiration_date_gte": expiry_from.isoformat(),
            "expiration_date_lte": expiry_to.isoformat(),
        }
        optional = {"type": type, "strike_price_gte": strike_from, "strike_price_lte": strike_to}
        params |= {name: str(value) for name, value in optional.items() if value is not None}
        rows = self._rows("option contract", decoding.decode_contract)
        for portion in listing.chunks(underlyings):
            query = {**params, "underlying_symbols": ",".join(portion)}
            await listing.fetch_contracts(self._fetch, self._trading + "/options/contracts", query, rows)
        return rows.finish()

    # Quotes

    async def latest_quotes(self, symbols: Collection[str]) -> dict[str, Quote]:
        """Fetch the latest quotes over REST, stocks and options; symbols without one are missing.

        A symbol that is neither stock nor option, and a quote that cannot be read, are reported and missing.
        """
        kinds: dict[bool, list[str]] = {False: [], True: []}
        for symbol in symbols:
            try:
                kinds[parse_instrument(symbol).is_option].append(symbol)
            except InvalidSymbol as error:
                self._log.error("Cannot quote this symbol", symbol=decoding.excerpt(symbol), reason=str(error))
        quotes: dict[str, Quote] = {}
        for path, feed, chosen in (
            ("/v2/stocks/quotes/latest", self._endpoints.stock_feed, kinds[False]),
            ("/v1beta1/options/quotes/latest", self._endpoints.option_feed, kinds[True]),
        ):
            for portion in listing.chunks(chosen):
                quotes |= await self._quotes(path, feed, portion)
        return quotes

    async def _quotes(self, path: str, feed: str | None, symbols: list[str]) -> dict[str, Quote]:
        params = {"symbols": ",".join(symbols)} | ({"feed": feed} if feed else {})
        answer = await self._transport.read(self._data + path, params, Priority.RECONCILE, self._data_budget)
        found = answer.get("quotes") if isinstance(answer, dict) else None
        if not isinstance(found, dict):
            raise BrokerUnavailable(f"latest quotes: expected quotes by symbol, got {decoding.excerpt(answer)!r}")
        quotes = {}
        for symbol in symbols:
            if found.get(symbol) is None:
                continue
            try:
                quotes[symbol] = decoding.decode_quote(symbol, found[symbol])
            except decoding.Unreadable as error:
                self._log.error("Unreadable quote from the broker", symbol=symbol, reason=str(error))
        return quotes

    # Reading

    def _rows(self, what: str, decode: Callable[[object], T]) -> Rows[T]:
        return Rows(what, decode, self._on_unreadable)

    async def _fetch(self, url: str, params: Mapping[str, str]) -> Any:
        return await self._transport.read(url, params, Priority.RECONCILE, self._budget)

    async def _read(self, path: str, params: Mapping[str, str], priority: Priority, attempts: int | None = None) -> Any:
        return await self._transport.read(self._trading + path, params, priority, self._budget, attempts)

    async def _one(
        self,
        path: str,
        decode: Callable[[object], T],
        priority: Priority,
        params: Mapping[str, str] | None = None,
        attempts: int | None = None,
    ) -> T:
        answer = await self._read(path, params or {}, priority, attempts)
        try:
            return decode(answer)
        except decoding.Unreadable as error:
            raise BrokerUnavailable(f"GET {path}: {error}; got {decoding.excerpt(answer)!r}") from error

    async def _one_or_none(
        self,
        path: str,
        decode: Callable[[object], T],
        priority: Priority,
        params: Mapping[str, str] | None = None,
    ) -> T | None:
        try:
            return await self._one(path, decode, priority, params)
        except BrokerRefused as error:
            # A 404 of another kind is a wrong address or a proxy, and proves nothing (F13).
            if error.status == HTTPStatus.NOT_FOUND and error.code == NOT_FOUND:
                return None
            raise


def _path(part: str) -> str:
    return quote_path(part, safe="")
