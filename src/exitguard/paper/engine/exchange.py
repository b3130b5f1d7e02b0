"""The venue's single entry point: it wires the parts together and adds nothing of its own."""

from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from itertools import islice
from typing import Any

from exitguard.core.quote import Quote
from exitguard.core.session import SessionCalendar
from exitguard.paper.engine.accounts import Accounts
from exitguard.paper.engine.admission import Admission
from exitguard.paper.engine.balances import available_quantity
from exitguard.paper.engine.corporate import CorporateActions
from exitguard.paper.engine.daily import TradingDay
from exitguard.paper.engine.desk import Desk
from exitguard.paper.engine.extras import Extras
from exitguard.paper.engine.faults import Fault
from exitguard.paper.engine.history import portfolio_history
from exitguard.paper.engine.interventions import Interventions
from exitguard.paper.engine.keeping import Keeping
from exitguard.paper.engine.ledger import Ledger
from exitguard.paper.engine.lifecycle import Lifecycle
from exitguard.paper.engine.listing import Listing
from exitguard.paper.engine.matching import Matcher
from exitguard.paper.engine.model import Account
from exitguard.paper.engine.multileg import MultiLeg
from exitguard.paper.engine.positions import Positions
from exitguard.paper.engine.queries import get_by_client_id, list_activities, list_orders
from exitguard.paper.engine.revival import Revival
from exitguard.paper.engine.settings import ExchangeSettings
from exitguard.paper.engine.settlement import Settlement
from exitguard.paper.engine.venue import TradeUpdateListener, Venue
from exitguard.paper.engine.views import (
    Json,
    account_json,
    asset_json,
    configurations_json,
    order_json,
)
from exitguard.paper.engine.wire import text, timestamp


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
        venue = Venue(calendar, seed, now, schedule, self.settings, self._happen)
        self._venue = venue
        self._accounts = Accounts(venue)
        self._listing = Listing(venue)
        self._lifecycle = Lifecycle(venue)
        self._ledger = Ledger(venue)
        self._matcher = Matcher(venue, self._ledger, self._lifecycle)
        admission = Admission(venue)
        multileg = MultiLeg(venue, admission, self._lifecycle, self._ledger, self._matcher)
        self._desk = Desk(venue, admission, self._lifecycle, multileg)
        self._positions = Positions(venue, self._desk, self._lifecycle)
        self._settlement = Settlement(venue, self._ledger, self._lifecycle, self._positions)
        self._extras = Extras(venue)
        corporate = CorporateActions(venue, self._lifecycle, self._settlement, self._extras)
        self._interventions = Interventions(
            venue, self._desk, self._lifecycle, self._positions, self._settlement, corporate
        )
        self._day = TradingDay(venue, self._lifecycle, self._matcher, self._settlement, self._listing)
        revival = Revival(venue, self._lifecycle, multileg, self._desk, self._extras, self._accounts.take_over)
        self.keeping = Keeping(venue, self._day, self._extras, revival)
        self.faults = venue.faults
        self.accounts = venue.accounts
        self.trade_update_listeners: list[TradeUpdateListener] = venue.listeners

    def _happen(self, fault: Fault) -> None:
        self._catch_up()
        self._interventions.happen(fault)

    def try_events(self, now: datetime, then: Callable[[Fault], None]) -> None:
        """Let event faults that stay on happen as they are due by `now`; `then` is called after each that did."""
        if not self.faults.has_events:
            return

        def happen(fault: Fault) -> None:
            self._happen(fault)
            then(fault)

        self.faults.try_events(now, self._interventions.targets, happen)

    def _catch_up(self) -> None:
        """Boundaries that the host has not announced yet come before anything that happens after them."""
        now = self._venue.moment()
        if now >= self._day.next_at:
            self._day.advance_to(now)

    # Accounts
    def create_account(self, name: str, cash: Decimal, **configuration: Any) -> Account:
        """Open an account; key, secret, number and id follow from the venue's seed and the name.

        `configuration`: multiplier "1"|"2"|"4", shorting_enabled, options_trading_level 0-3. Raises InvalidInput.
        """
        return self._accounts.create(name, cash, configuration)

    def account_by_key(self, key: str, secret: str) -> Account | None:
        """The account of a key pair, None for wrong credentials."""
        return self._accounts.by_key(key, secret)

    def account_json(self, account: Account) -> Json:
        """GET /v2/account."""
        return account_json(account)

    def configurations_json(self, account: Account) -> Json:
        """GET /v2/account/configurations."""
        return configurations_json(account)

    def patch_configurations(self, account: Account, body: Mapping[str, Any]) -> Json:
        """PATCH /v2/account/configurations."""
        return self._extras.patch_configurations(account, body)

    # Orders
    def submit_order(self, account: Account, body: Mapping[str, Any]) -> Json:
        """POST /v2/orders."""
        self._catch_up()
        return order_json(self._desk.submit(account, body), nested=True)

    def list_orders(self, account: Account, params: Mapping[str, str]) -> list[Json]:
        """GET /v2/orders."""
        return list_orders(self._venue, account, params)

    def get_order(self, account: Account, order_id: str, nested: bool = False) -> Json:
        """GET /v2/orders/{id}."""
        return order_json(self._venue.order(account, order_id), nested)

    def get_order_by_client_order_id(self, account: Account, client_order_id: str, nested: bool = False) -> Json:
        """GET /v2/orders:by_client_order_id."""
        return get_by_client_id(account, client_order_id, nested)

    def replace_order(self, account: Account, order_id: str, body: Mapping[str, Any]) -> Json:
        """PATCH /v2/orders/{id}: answers the new order."""
        self._catch_up()
        return order_json(self._desk.replace(account, order_id, body), nested=True)

    def cancel_order(self, account: Account, order_id: str) -> None:
        """DELETE /v2/orders/{id}: 204."""
        self._catch_up()
        self._desk.cancel(account, order_id)

    def cancel_all_orders(self, account: Account) -> list[Json]:
        """DELETE /v2/orders: 207, one {id, status} an order."""
        self._catch_up()
        return self._desk.cancel_all(account)

    # Positions
    def list_positions(self, account: Account) -> list[Json]:
        """GET /v2/positions."""
        return self._positions.list_all(account)

    def get_position(self, account: Account, symbol_or_id: str) -> Json:
        """GET /v2/positions/{symbol or asset id}."""
        return self._positions.get(account, symbol_or_id)

    def close_position(self, account: Account, symbol_or_id: str, params: Mapping[str, str]) -> Json:
        """DELETE /v2/positions/{symbol or asset id}: answers the closing order."""
        self._catch_up()
        return order_json(self._positions.close(account, symbol_or_id, params))

    def close_all_positions(self, account: Account, params: Mapping[str, str]) -> list[Json]:
        """DELETE /v2/positions: 207, one {symbol, status, body} a position."""
        self._catch_up()
        return self._positions.close_all(account, params)

    def exercise(self, account: Account, symbol_or_id: str) -> Json:
        """POST /v2/positions/{symbol or contract id}/exercise."""
        self._catch_up()
        return self._settlement.request_exercise(account, symbol_or_id)

    def do_not_exercise(self, account: Account, symbol_or_id: str) -> Json:
        """POST /v2/positions/{symbol or contract id}/do-not-exercise."""
        self._catch_up()
        return self._settlement.request_no_exercise(account, symbol_or_id)

    # Activities and history
    def list_activities(self, account: Account, params: Mapping[str, str]) -> list[Json]:
        """GET /v2/account/activities."""
        return list_activities(account, params)

    def activities_by_type(self, account: Account, activity_type: str, params: Mapping[str, str]) -> list[Json]:
        """GET /v2/account/activities/{type}."""
        return list_activities(account, params, activity_type)

    def portfolio_history(self, account: Account, params: Mapping[str, str]) -> Json:
        """GET /v2/account/portfolio/history."""
        return portfolio_history(self._venue, account, params)

    # Assets and contracts
    def list_assets(self, params: Mapping[str, str]) -> list[Json]:
        """GET /v2/assets."""
        return self._listing.list_assets(params)

    def get_asset(self, symbol_or_id: str) -> Json:
        """GET /v2/assets/{symbol or id}."""
        return self._listing.get_asset(symbol_or_id)

    def list_option_contracts(self, params: Mapping[str, str]) -> Json:
        """GET /v2/options/contracts."""
        return self._listing.list_contracts(params)

    def get_option_contract(self, symbol_or_id: str) -> Json:
        """GET /v2/options/contracts/{symbol or id}."""
        return self._listing.get_contract(symbol_or_id)

    def announcements(self, params: Mapping[str, str]) -> list[Json]:
        """GET /v2/corporate_actions/announcements."""
        return self._extras.announcements(params)

    def get_announcement(self, announcement_id: str) -> Json:
        """GET /v2/corporate_actions/announcements/{id}."""
        return self._extras.get_announcement(announcement_id)

    def announced(self) -> list[Json]:
        """Every corporate action announced so far, oldest first, in the shape of the announcements."""
        return self._extras.announced()

    # Watchlists
    def list_watchlists(self, account: Account) -> list[Json]:
        """GET /v2/watchlists (without their assets)."""
        return self._extras.list_watchlists(account)

    def create_watchlist(self, account: Account, body: Mapping[str, Any]) -> Json:
        """POST /v2/watchlists."""
        return self._extras.create_watchlist(account, body)

    def get_watchlist(self, account: Account, watchlist_id: str) -> Json:
        """GET /v2/watchlists/{id}."""
        return self._extras.get_watchlist(account, watchlist_id)

    def watchlist_id_by_name(self, account: Account, name: str) -> str:
        """The id for the `:by_name` forms; 404 when there is none."""
        return self._extras.watchlist_id_by_name(account, name)

    def update_watchlist(self, account: Account, watchlist_id: str, body: Mapping[str, Any]) -> Json:
        """PUT /v2/watchlists/{id}: replaces name and symbols."""
        return self._extras.update_watchlist(account, watchlist_id, body)

    def add_to_watchlist(self, account: Account, watchlist_id: str, body: Mapping[str, Any]) -> Json:
        """POST /v2/watchlists/{id}: adds body["symbol"]."""
        return self._extras.add_to_watchlist(account, watchlist_id, body)

    def remove_from_watchlist(self, account: Account, watchlist_id: str, symbol: str) -> Json:
        """DELETE /v2/watchlists/{id}/{symbol}."""
        return self._extras.remove_from_watchlist(account, watchlist_id, symbol)

    def delete_watchlist(self, account: Account, watchlist_id: str) -> None:
        """DELETE /v2/watchlists/{id}: 204."""
        self._extras.delete_watchlist(account, watchlist_id)

    # Market side
    def add_stock(self, symbol: str, price: Decimal, **attributes: Any) -> Json:
        """List a stock. `attributes`: name, exchange, fractionable, shortable, marginable, tradable, has_options, …."""
        return asset_json(self._listing.add_stock(symbol, price, **attributes))

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
        return self._listing.add_option_chain(underlying, expiries, strikes, strikes_each_side)

    def on_quotes(self, quotes: Sequence[Quote]) -> None:
        """Take the newest quotes, in time order, and match what they make marketable."""
        self._catch_up()
        self._matcher.on_quotes(quotes)

    def on_sound_quotes(self, quotes: Sequence[Quote]) -> None:
        """Take quotes of option contracts that their maker vouches for: an ask, and a bid that is not above it."""
        self._catch_up()
        self._matcher.on_sound_quotes(quotes)

    def on_trade(self, symbol: str, price: Decimal, at: datetime) -> None:
        """Take a print: it marks positions and triggers stops."""
        self._catch_up()
        self._matcher.on_trade(symbol, price, at)

    def quote(self, symbol: str) -> Quote | None:
        """The newest quote as it came, None before the first."""
        asset = self._venue.assets.get(symbol)
        return None if asset is None else asset.quote

    def advance_to(self, now: datetime) -> None:
        """Do what session boundaries up to `now` demand: openings, expiries, liquidation, settlement."""
        self._day.advance_to(now)

    def next_boundary(self, after: datetime) -> datetime:
        """The next moment from `after` on at which `advance_to` has something to do; a host that jumps stops there."""
        return max(self._day.next_at, after)

    def halt(self, symbol: str) -> None:
        """Stop trading in a symbol; orders are taken and wait."""
        self._interventions.halt(symbol)

    def resume(self, symbol: str) -> None:
        """Let a halted symbol trade again."""
        self._interventions.resume(symbol)

    def is_halted(self, symbol: str) -> bool:
        """Whether a symbol is halted."""
        asset = self._venue.assets.get(symbol)
        return asset is not None and asset.halted

    # For the admin API and tests
    def state_json(self) -> Json:
        """Every account's cash, positions and open orders, as they truly are (no lag fault)."""
        return {
            account.name: {
                "cash": text(account.cash),
                "positions": {
                    symbol: {
                        "qty": text(position.qty),
                        "available": text(available_quantity(account, position)),
                        "average": text(position.average),
                    }
                    for symbol, position in account.positions.items()
                },
                "open_orders": [order_json(order) for order in account.open.values()],
                "orders": len(account.orders),
                "activities": len(account.activities),
                "pending_activities": len(account.pending_activities),
            }
            for account in self._venue.accounts.values()
        }

    def fills_json(self, newest: int | None = None) -> list[Json]:
        """The executions of all accounts in order: account, symbol, side, qty, price, at and identifiers.

        All that are kept, or the `newest`.
        """
        kept = self._venue.executions
        first = 0 if newest is None else max(len(kept) - newest, 0)
        return [
            {
                "account": execution.account,
                "symbol": execution.symbol,
                "side": execution.side,
                "qty": text(execution.qty),
                "price": text(execution.price),
                "at": timestamp(execution.at),
                "execution_id": execution.execution_id,
                "order_id": execution.order_id,
                "client_order_id": execution.client_order_id,
            }
            for execution in islice(kept, first, None)
        ]
