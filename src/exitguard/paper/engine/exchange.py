"""The venue's single entry point (skeleton: the signatures are final, the bodies follow)."""

from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from exitguard.core.quote import Quote
from exitguard.core.session import SessionCalendar
from exitguard.paper.engine.faults import Faults
from exitguard.paper.engine.model import Account
from exitguard.paper.engine.settings import ExchangeSettings

Json = dict[str, Any]
TradeUpdateListener = Callable[[Account, Json], None]


class Exchange:
    """An Alpaca-like venue; one method a REST operation. Every refusal is an ApiError."""

    def __init__(
        self,
        calendar: SessionCalendar,
        seed: int,
        *,
        now: Callable[[], datetime],
        schedule: Callable[[float, Callable[[], None]], None],
        settings: ExchangeSettings | None = None,
    ) -> None:
        self.calendar = calendar
        self.seed = seed
        self.settings = settings or ExchangeSettings()
        self.faults = Faults()
        self.trade_update_listeners: list[TradeUpdateListener] = []
        self.accounts: dict[str, Account] = {}

    # Accounts
    def create_account(self, name: str, cash: Decimal, **configuration: Any) -> Account:
        """Open an account. `configuration`: multiplier "1"|"2"|"4", shorting_enabled, options_trading_level."""
        raise NotImplementedError

    def account_by_key(self, key: str, secret: str) -> Account | None:
        """The account of a key pair, None for wrong credentials."""
        raise NotImplementedError

    def account_json(self, account: Account) -> Json:
        """GET /v2/account."""
        raise NotImplementedError

    def configurations_json(self, account: Account) -> Json:
        """GET /v2/account/configurations."""
        raise NotImplementedError

    def patch_configurations(self, account: Account, body: Mapping[str, Any]) -> Json:
        """PATCH /v2/account/configurations."""
        raise NotImplementedError

    # Orders
    def submit_order(self, account: Account, body: Mapping[str, Any]) -> Json:
        """POST /v2/orders."""
        raise NotImplementedError

    def list_orders(self, account: Account, params: Mapping[str, str]) -> list[Json]:
        """GET /v2/orders."""
        raise NotImplementedError

    def get_order(self, account: Account, order_id: str, nested: bool = False) -> Json:
        """GET /v2/orders/{id}."""
        raise NotImplementedError

    def get_order_by_client_order_id(self, account: Account, client_order_id: str, nested: bool = False) -> Json:
        """GET /v2/orders:by_client_order_id."""
        raise NotImplementedError

    def replace_order(self, account: Account, order_id: str, body: Mapping[str, Any]) -> Json:
        """PATCH /v2/orders/{id}: answers the new order."""
        raise NotImplementedError

    def cancel_order(self, account: Account, order_id: str) -> None:
        """DELETE /v2/orders/{id}: 204."""
        raise NotImplementedError

    def cancel_all_orders(self, account: Account) -> list[Json]:
        """DELETE /v2/orders: 207, one {id, status} an order."""
        raise NotImplementedError

    # Positions
    def list_positions(self, account: Account) -> list[Json]:
        """GET /v2/positions."""
        raise NotImplementedError

    def get_position(self, account: Account, symbol_or_id: str) -> Json:
        """GET /v2/positions/{symbol or asset id}."""
        raise NotImplementedError

    def close_position(self, account: Account, symbol_or_id: str, params: Mapping[str, str]) -> Json:
        """DELETE /v2/positions/{symbol or asset id}: answers the closing order."""
        raise NotImplementedError

    def close_all_positions(self, account: Account, params: Mapping[str, str]) -> list[Json]:
        """DELETE /v2/positions: 207, one {symbol, status, body} a position."""
        raise NotImplementedError

    def exercise(self, account: Account, symbol_or_id: str) -> Json:
        """POST /v2/positions/{symbol or contract id}/exercise."""
        raise NotImplementedError

    def do_not_exercise(self, account: Account, symbol_or_id: str) -> Json:
        """POST /v2/positions/{symbol or contract id}/do-not-exercise."""
        raise NotImplementedError

    # Activities and history
    def list_activities(self, account: Account, params: Mapping[str, str]) -> list[Json]:
        """GET /v2/account/activities."""
        raise NotImplementedError

    def activities_by_type(self, account: Account, activity_type: str, params: Mapping[str, str]) -> list[Json]:
        """GET /v2/account/activities/{type}."""
        raise NotImplementedError

    def portfolio_history(self, account: Account, params: Mapping[str, str]) -> Json:
        """GET /v2/account/portfolio/history."""
        raise NotImplementedError

    # Assets and contracts
    def list_assets(self, params: Mapping[str, str]) -> list[Json]:
        """GET /v2/assets."""
        raise NotImplementedError

    def get_asset(self, symbol_or_id: str) -> Json:
        """GET /v2/assets/{symbol or id}."""
        raise NotImplementedError

    def list_option_contracts(self, params: Mapping[str, str]) -> Json:
        """GET /v2/options/contracts."""
        raise NotImplementedError

    def get_option_contract(self, symbol_or_id: str) -> Json:
        """GET /v2/options/contracts/{symbol or id}."""
        raise NotImplementedError

    def announcements(self, params: Mapping[str, str]) -> list[Json]:
        """GET /v2/corporate_actions/announcements."""
        raise NotImplementedError

    def get_announcement(self, announcement_id: str) -> Json:
        """GET /v2/corporate_actions/announcements/{id}."""
        raise NotImplementedError

    # Watchlists
    def list_watchlists(self, account: Account) -> list[Json]:
        """GET /v2/watchlists (without their assets)."""
        raise NotImplementedError

    def create_watchlist(self, account: Account, body: Mapping[str, Any]) -> Json:
        """POST /v2/watchlists."""
        raise NotImplementedError

    def get_watchlist(self, account: Account, watchlist_id: str) -> Json:
        """GET /v2/watchlists/{id}."""
        raise NotImplementedError

    def watchlist_id_by_name(self, account: Account, name: str) -> str:
        """The id for the `:by_name` forms; 404 when there is none."""
        raise NotImplementedError

    def update_watchlist(self, account: Account, watchlist_id: str, body: Mapping[str, Any]) -> Json:
        """PUT /v2/watchlists/{id}: replaces name and symbols."""
        raise NotImplementedError

    def add_to_watchlist(self, account: Account, watchlist_id: str, body: Mapping[str, Any]) -> Json:
        """POST /v2/watchlists/{id}: adds body["symbol"]."""
        raise NotImplementedError

    def remove_from_watchlist(self, account: Account, watchlist_id: str, symbol: str) -> Json:
        """DELETE /v2/watchlists/{id}/{symbol}."""
        raise NotImplementedError

    def delete_watchlist(self, account: Account, watchlist_id: str) -> None:
        """DELETE /v2/watchlists/{id}: 204."""
        raise NotImplementedError

    # Market side
    def add_stock(self, symbol: str, price: Decimal, **attributes: Any) -> Json:
        """List a stock. `attributes`: name, exchange, fractionable, shortable, marginable, tradable, has_options, …."""
        raise NotImplementedError

    def add_option_chain(
        self,
        underlying: str,
        *,
        expiries: Sequence[date] | None = None,
        strikes: Sequence[Decimal] | None = None,
        strikes_each_side: int = 10,
    ) -> list[str]:
        """List calls and puts of an underlying around its price; answers the contract symbols.

        Without `expiries` today (when it is a session), the next sessions of the week and the next four Fridays.
        """
        raise NotImplementedError

    def on_quotes(self, quotes: Sequence[Quote]) -> None:
        """Take the newest quotes, in time order, and match what they make marketable."""
        raise NotImplementedError

    def on_trade(self, symbol: str, price: Decimal, at: datetime) -> None:
        """Take a print: it marks positions and triggers stops."""
        raise NotImplementedError

    def quote(self, symbol: str) -> Quote | None:
        """The newest quote as it came, None before the first."""
        raise NotImplementedError

    def advance_to(self, now: datetime) -> None:
        """Do what session boundaries up to `now` demand: openings, expiries, liquidation, settlement."""
        raise NotImplementedError

    def next_boundary(self, after: datetime) -> datetime:
        """The next moment at which `advance_to` would do something: a host that jumps stops there first."""
        raise NotImplementedError

    def halt(self, symbol: str) -> None:
        """Stop trading in a symbol; orders are taken and wait."""
        raise NotImplementedError

    def resume(self, symbol: str) -> None:
        """Let a halted symbol trade again."""
        raise NotImplementedError

    def is_halted(self, symbol: str) -> bool:
        """Whether a symbol is halted."""
        raise NotImplementedError

    # For the admin API and tests
    def state_json(self) -> Json:
        """Every account's cash, positions and open orders, as they truly are (no lag fault)."""
        raise NotImplementedError

    def fills_json(self) -> list[Json]:
        """Every execution of every account in order: account, symbol, side, qty, price, at, ids."""
        raise NotImplementedError
