"""The trading REST API: routes of /v2 (and clock and calendar of /v3) over the engine."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from exitguard.paper.engine import Account, ApiError
from exitguard.paper.server import calendar_api
from exitguard.paper.server.activity_events import ActivityEvents
from exitguard.paper.server.host import Host
from exitguard.paper.server.wire import Request, Response, is_true, json_response

Handler = Callable[[Request, Account], Response]
RestHandler = Callable[[Request, Account, str], Response]


def not_found() -> ApiError:
    """No such endpoint."""
    return ApiError(404, {"code": 40410000, "message": "endpoint not found."})


def method_not_allowed() -> ApiError:
    """The endpoint has no such method."""
    return ApiError(405, {"code": 40510000, "message": "method not allowed."})


class TradingApi:
    """Every handler translates and calls the engine; none decides anything."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._exchange = host.exchange
        self._activity_events = ActivityEvents(host)
        self._exact: dict[str, dict[str, Handler]] = {
            "/v2/account": {"GET": self._account},
            "/v2/account/configurations": {"GET": self._configurations, "PATCH": self._patch_configurations},
            "/v2/account/portfolio/history": {"GET": self._portfolio_history},
            "/v2/account/activities": {"GET": self._activities},
            "/v2/orders": {"GET": self._list_orders, "POST": self._submit, "DELETE": self._cancel_all},
            "/v2/orders:by_client_order_id": {"GET": self._order_by_client_id},
            "/v2/positions": {"GET": self._positions, "DELETE": self._close_all},
            "/v2/assets": {"GET": self._assets},
            "/v2/options/contracts": {"GET": self._contracts},
            "/v2/clock": {"GET": self._clock},
            "/v2/calendar": {"GET": self._calendar},
            "/v3/clock": {"GET": self._clock_v3},
            "/v2/corporate_actions/announcements": {"GET": self._announcements},
            "/v2beta1/events/activities": {"GET": self._activity_events.open},
            "/v2/watchlists": {"GET": self._watchlists, "POST": self._create_watchlist},
            "/v2/watchlists:by_name": {
                "GET": self._watchlist_by_name,
                "PUT": self._watchlist_by_name,
                "POST": self._watchlist_by_name,
                "DELETE": self._watchlist_by_name,
            },
        }
        self._below: list[tuple[str, RestHandler]] = [
            ("/v2/orders/", self._order),
            ("/v2/positions/", self._position),
            ("/v2/assets/", self._asset),
            ("/v2/account/activities/", self._activities_of_type),
            ("/v2/options/contracts/", self._contract),
            ("/v3/calendar/", self._calendar_v3),
            ("/v2/corporate_actions/announcements/", self._announcement),
            ("/v2/watchlists/", self._watchlist),
        ]

    def handle(self, request: Request, account: Account) -> Response:
        """Answer one request. Raises ApiError for every refusal."""
        path = request.path.rstrip("/") if len(request.path) > 1 else request.path
        methods = self._exact.get(path)
        if methods is not None:
            handler = methods.get(request.method)
            if handler is None:
                raise method_not_allowed()
            return handler(request, account)
        for prefix, below in self._below:
            if path.startswith(prefix):
                return below(request, account, path[len(prefix) :])
        raise not_found()

    # Account
    def _account(self, _: Request, account: Account) -> Response:
        return json_response(self._exchange.account_json(account))

    def _configurations(self, _: Request, account: Account) -> Response:
        return json_response(self._exchange.configurations_json(account))

    def _patch_configurations(self, request: Request, account: Account) -> Response:
        return json_response(self._exchange.patch_configurations(account, request.json()))

    def _portfolio_history(self, request: Request, account: Account) -> Response:
        return json_response(self._exchange.portfolio_history(account, request.query))

    def _activities(self, request: Request, account: Account) -> Response:
        return json_response(self._exchange.list_activities(account, request.query))

    def _activities_of_type(self, request: Request, account: Account, kind: str) -> Response:
        _only(request, "GET")
        return json_response(self._exchange.activities_by_type(account, kind, request.query))

    # Orders
    def _list_orders(self, request: Request, account: Account) -> Response:
        return json_response(self._exchange.list_orders(account, request.query))

    def _submit(self, request: Request, account: Account) -> Response:
        body = request.json()
        self._host.need_contracts(_symbols_of(body))
        return json_response(self._exchange.submit_order(account, body))

    def _cancel_all(self, _: Request, account: Account) -> Response:
        return json_response(self._exchange.cancel_all_orders(account), 207)

    def _order_by_client_id(self, request: Request, account: Account) -> Response:
        client_order_id = request.query.get("client_order_id")
        if not client_order_id:
            raise ApiError(422, {"code": 42210000, "message": "client_order_id is required"})
        nested = is_true(request.query.get("nested"))
        return json_response(self._exchange.get_order_by_client_order_id(account, client_order_id, nested))

    def _order(self, request: Request, account: Account, order_id: str) -> Response:
        if request.method == "GET":
            nested = is_true(request.query.get("nested"))
            return json_response(self._exchange.get_order(account, order_id, nested))
        if request.method == "PATCH":
            return json_response(self._exchange.replace_order(account, order_id, request.json()))
        _only(request, "DELETE")
        self._exchange.cancel_order(account, order_id)
        return Response(204)

    # Positions
    def _positions(self, _: Request, account: Account) -> Response:
        return json_response(self._exchange.list_positions(account))

    def _close_all(self, request: Request, account: Account) -> Response:
        return json_response(self._exchange.close_all_positions(account, request.query), 207)

    def _position(self, request: Request, account: Account, rest: str) -> Response:
        symbol, _, action = rest.rpartition("/")
        if request.method == "POST":
            if action == "exercise":
                return json_response(self._exchange.exercise(account, symbol))
            if action == "do-not-exercise":
                return json_response(self._exchange.do_not_exercise(account, symbol))
            raise not_found()
        if request.method == "GET":
            return json_response(self._exchange.get_position(account, rest))
        _only(request, "DELETE")
        self._host.need_contracts([rest])
        return json_response(self._exchange.close_position(account, rest, request.query))

    # Assets, contracts, calendar
    def _assets(self, request: Request, _: Account) -> Response:
        return json_response(self._exchange.list_assets(request.query))

    def _asset(self, request: Request, _: Account, symbol: str) -> Response:
        _only(request, "GET")
        return json_response(self._exchange.get_asset(symbol))

    def _contracts(self, request: Request, _: Account) -> Response:
        return json_response(self._exchange.list_option_contracts(request.query))

    def _contract(self, request: Request, _: Account, symbol: str) -> Response:
        _only(request, "GET")
        return json_response(self._exchange.get_option_contract(symbol))

    def _clock(self, _: Request, account: Account) -> Response:
        return json_response(calendar_api.clock_json(self._host.calendar, self._clock_time(account)))

    def _clock_time(self, account: Account) -> datetime:
        skew = self._exchange.faults.strike("clock_skew", account=account.name, endpoint="GET /v2/clock")
        return self._host.now() + timedelta(seconds=skew.seconds(30.0) if skew else 0.0)

    def _clock_v3(self, request: Request, _: Account) -> Response:
        return json_response(calendar_api.clock_v3_json(self._host.calendar, self._host.now(), request.query))

    def _calendar(self, request: Request, _: Account) -> Response:
        return json_response(calendar_api.calendar_json(self._host.calendar, request.query))

    def _calendar_v3(self, request: Request, _: Account, name: str) -> Response:
        _only(request, "GET")
        return json_response(calendar_api.calendar_v3_json(self._host.calendar, name, request.query))

    def _announcements(self, request: Request, _: Account) -> Response:
        return json_response(self._exchange.announcements(request.query))

    def _announcement(self, request: Request, _: Account, announcement_id: str) -> Response:
        _only(request, "GET")
        return json_response(self._exchange.get_announcement(announcement_id))

    # Watchlists
    def _watchlists(self, _: Request, account: Account) -> Response:
        return json_response(self._exchange.list_watchlists(account))

    def _create_watchlist(self, request: Request, account: Account) -> Response:
        return json_response(self._exchange.create_watchlist(account, request.json()))

    def _watchlist_by_name(self, request: Request, account: Account) -> Response:
        name = request.query.get("name", "")
        return self._one_watchlist(request, account, self._exchange.watchlist_id_by_name(account, name))

    def _watchlist(self, request: Request, account: Account, rest: str) -> Response:
        watchlist_id, _, symbol = rest.partition("/")
        if symbol:
            _only(request, "DELETE")
            return json_response(self._exchange.remove_from_watchlist(account, watchlist_id, symbol))
        return self._one_watchlist(request, account, watchlist_id)

    def _one_watchlist(self, request: Request, account: Account, watchlist_id: str) -> Response:
        if request.method == "GET":
            return json_response(self._exchange.get_watchlist(account, watchlist_id))
        if request.method == "PUT":
            return json_response(self._exchange.update_watchlist(account, watchlist_id, request.json()))
        if request.method == "POST":
            return json_response(self._exchange.add_to_watchlist(account, watchlist_id, request.json()))
        _only(request, "DELETE")
        self._exchange.delete_watchlist(account, watchlist_id)
        return Response(204)


def _only(request: Request, method: str) -> None:
    if request.method != method:
        raise method_not_allowed()


def _symbols_of(body: dict[str, Any]) -> list[str]:
    """The symbols that an order names, its legs' included; whatever is no text is the engine's to refuse."""
    found: list[Any] = [body.get("symbol")]
    legs = body.get("legs")
    if isinstance(legs, list):
        found.extend(leg.get("symbol") for leg in legs[:8] if isinstance(leg, dict))
    return [symbol for symbol in found if isinstance(symbol, str)]
