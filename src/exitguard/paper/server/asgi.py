"""Sends each connection to the part that serves it."""

import asyncio
from ipaddress import ip_address

from exitguard.paper.engine import ApiError
from exitguard.paper.server.activity_events import EventStream, send_events
from exitguard.paper.server.admin_api import AdminApi
from exitguard.paper.server.auth import account_of
from exitguard.paper.server.data_api import DataApi, is_data_path
from exitguard.paper.server.data_stream import DataStreams, Feed
from exitguard.paper.server.host import Host
from exitguard.paper.server.rate_limit import RateLimit
from exitguard.paper.server.sockets import refuse_handshake
from exitguard.paper.server.state import StateError
from exitguard.paper.server.status_page import status_page
from exitguard.paper.server.trade_stream import TradeStream
from exitguard.paper.server.trading_api import TradingApi, not_found
from exitguard.paper.server.wire import (
    ClientGone,
    Receive,
    Request,
    Response,
    Scope,
    Send,
    error_response,
    hang_up,
    headers_of,
    html_response,
    json_response,
    query_of,
    read_body,
    send_response,
)
from exitguard.paper.server.wire_faults import Broken, WireFaults, hold_silent, rate_headers, rate_limited

_STOCK_FEEDS = ("iex", "sip", "test", "delayed_sip", "boats", "overnight")
_OPTION_FEEDS = ("indicative", "opra")
_FEEDS = {f"/v2/{name}": Feed(name, option=False) for name in _STOCK_FEEDS} | {
    f"/v1beta1/{name}": Feed(name, option=True) for name in _OPTION_FEEDS
}


class PaperApp:
    """The exchange as an ASGI application."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.trade_stream = TradeStream(host)
        self.data_streams = DataStreams(host)
        self._trading = TradingApi(host)
        self._data = DataApi(host)
        self._admin = AdminApi(host, self._faults_changed)
        host.on_faults = self._faults_changed
        self._faults = WireFaults(host.exchange.faults)
        self._stopping = asyncio.Event()
        limit = host.settings.requests_per_minute
        self._rate = None if limit is None else RateLimit(limit)

    def stop(self) -> None:
        """Say goodbye to every socket, and give up requests that are held without an answer."""
        self._stopping.set()
        self.trade_stream.close_all()
        self.data_streams.close_all()

    def _faults_changed(self) -> None:
        self.trade_stream.apply_faults()
        self.data_streams.apply_faults()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or one socket."""
        if scope["type"] == "websocket":
            await self._serve_socket(scope, receive, send)
        elif scope["type"] == "http":
            await self._serve_request(scope, receive, send)
        else:
            raise RuntimeError(f"the exchange does not speak {scope['type']}")

    async def _serve_socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].rstrip("/")
        if path == "/stream":
            await self.trade_stream.serve(scope, receive, send)
        elif path in _FEEDS:
            await self.data_streams.serve(_FEEDS[path], scope, receive, send)
        else:
            await refuse_handshake(receive, send, 404, b'{"code":40410000,"message":"endpoint not found."}')

    async def _serve_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope["method"], scope["path"], query_of(scope), headers_of(scope))
        try:
            request.body = await read_body(scope, receive, self.host.settings.limits.body_seconds)
            if request.path.startswith("/admin/"):
                outcome: Response | Broken = await self._administer(request, scope)
            else:
                outcome = await self._answer(request)
        except ApiError as refusal:
            outcome = error_response(refusal)
        except StateError as error:
            # What cannot be kept must not be confirmed; the exchange ends on its own.
            outcome = json_response({"code": 50010000, "message": str(error)}, 500)
        except ClientGone:
            await hang_up(receive, send)
            return
        if isinstance(outcome, EventStream):
            await send_events(outcome, receive, send, self._stopping)
            return
        if isinstance(outcome, Response):
            await send_response(send, outcome)
            return
        if outcome is Broken.SILENCE:
            await hold_silent(receive, self._stopping)
        await hang_up(receive, send)

    async def _administer(self, request: Request, scope: Scope) -> Response:
        """The admin API has no credentials: it answers this machine only, whatever address the exchange listens on."""
        peer = scope.get("client")
        if peer is None or not ip_address(peer[0]).is_loopback:
            return json_response({"code": 40310000, "message": "the admin API answers on loopback only"}, 403)
        answer = await self._admin.handle(request)
        if request.method != "GET":
            self.host.keeper.after_intervention()
        return answer

    async def _answer(self, request: Request) -> Response | Broken:
        path = request.path
        if path == "/":
            return html_response(
                status_page(self.host, self.trade_stream.connection_counts(), self.data_streams.connection_count())
            )
        if path == "/health":
            return json_response({"status": "ok"})
        if not path.startswith(("/v1/", "/v2/", "/v3/", "/v1beta1/", "/v2beta1/")):
            raise not_found()
        request.account = account_of(self.host.exchange, request.headers)
        if request.account is None:
            return json_response({"code": 40110000, "message": "request is not authorized"}, 401)
        return await self._limited(request)

    async def _limited(self, request: Request) -> Response | Broken:
        assert request.account is not None
        if self._rate is None:
            return await self._carried_out(request)
        bucket = (request.account.name, is_data_path(request.path))
        allowed, remaining, wait = self._rate.take(bucket)
        if not allowed:
            return rate_limited(limit=self._rate.per_minute, reset_in=wait)
        outcome = await self._carried_out(request)
        if isinstance(outcome, Response):
            outcome.headers = [*outcome.headers, *rate_headers(self._rate.per_minute, remaining, wait)]
        return outcome

    async def _carried_out(self, request: Request) -> Response | Broken:
        account = request.account
        assert account is not None
        counted = True

        def stop_counting() -> None:
            nonlocal counted
            if counted:
                counted = False
                self.host.requests_in_progress -= 1

        def carry_out() -> Response:
            if is_data_path(request.path):
                return self._data.handle(request)
            answer = self._trading.handle(request, account)
            if request.method != "GET":
                # Before the answer goes out: what a client was told is still true after a kill -9.
                self.host.keeper.after_request(account)
            return answer

        self.host.requests_in_progress += 1
        try:
            return await self._faults.around(request, carry_out, on_delay=stop_counting)
        finally:
            # Reading the clock or a list over and over must not hold the market up; changing orders may.
            self.host.activity += request.method != "GET"
            stop_counting()
