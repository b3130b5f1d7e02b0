"""The rest of the surface, simple but true to shape: watchlists, announcements, configurations."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from exitguard.paper.engine.errors import invalid, not_found, unprocessable
from exitguard.paper.engine.fields import (
    body_of,
    choice_field,
    day_field,
    flag_field,
    list_field,
    text_field,
    whole_field,
)
from exitguard.paper.engine.model import Account
from exitguard.paper.engine.venue import Venue
from exitguard.paper.engine.views import Json, asset_json, configurations_json
from exitguard.paper.engine.wire import timestamp

_MAX_WATCHLISTS = 200
_MAX_WATCHED = 500
_ANNOUNCEMENTS_KEPT = 1_000
_ANNOUNCEMENT_TYPES = frozenset({"dividend", "merger", "spinoff", "split", "reorg"})
_ANNOUNCEMENT_DATES = ("declaration_date", "ex_date", "record_date", "payable_date")
_MARGIN_MULTIPLIERS = ("1", "2", "4")


class Extras:
    """Answers that no order depends on."""

    def __init__(self, venue: Venue) -> None:
        self._venue = venue
        self._announcements: dict[str, Json] = {}

    # Configurations -------------------------------------------------------------------------------------------------

    def patch_configurations(self, account: Account, raw: Any) -> Json:
        """PATCH /v2/account/configurations. Raises ApiError 422; nothing is changed then."""
        body = body_of(raw)
        changes: dict[str, Any] = {}
        for name in (
            "disable_overnight_trading",
            "fractional_trading",
            "no_shorting",
            "ptp_no_exception_entry",
            "suspend_trade",
        ):
            if name in body:
                changes[name] = flag_field(body, name)
        multiplier = body.get("max_margin_multiplier")
        if multiplier is not None:
            if str(multiplier) not in _MARGIN_MULTIPLIERS:
                raise unprocessable("max_margin_multiplier must be 1, 2 or 4")
            changes["max_margin_multiplier"] = str(multiplier)
        if body.get("max_options_trading_level") is not None:
            changes["max_options_trading_level"] = whole_field(body, "max_options_trading_level", 0, 0, 3)
        email = choice_field(body, "trade_confirm_email", ("all", "none"))
        if email is not None:
            changes["trade_confirm_email"] = email
        account.configurations.update(changes)
        return configurations_json(account)

    # Watchlists -----------------------------------------------------------------------------------------------------

    def list_watchlists(self, account: Account) -> list[Json]:
        """GET /v2/watchlists."""
        return [self._watchlist_json(account, watchlist, full=False) for watchlist in account.watchlists.values()]

    def create_watchlist(self, account: Account, raw: Any) -> Json:
        """POST /v2/watchlists. Raises ApiError 422."""
        body = body_of(raw)
        name = self._free_name(account, body, None)
        if len(account.watchlists) >= _MAX_WATCHLISTS:
            raise unprocessable(f"at most {_MAX_WATCHLISTS} watchlists are allowed")
        stamp = timestamp(self._venue.stamp())
        watchlist: Json = {
            "id": account.identifiers.uuid(),
            "name": name,
            "symbols": self._symbols(body),
            "created_at": stamp,
            "updated_at": stamp,
        }
        account.watchlists[watchlist["id"]] = watchlist
        return self._watchlist_json(account, watchlist, full=True)

    def get_watchlist(self, account: Account, watchlist_id: str) -> Json:
        """GET /v2/watchlists/{id}. Raises ApiError 404."""
        return self._watchlist_json(account, self._watchlist(account, watchlist_id), full=True)

    def watchlist_id_by_name(self, account: Account, name: str) -> str:
        """The id of a named watchlist. Raises ApiError 404."""
        for watchlist in account.watchlists.values():
            if watchlist["name"] == name:
                return str(watchlist["id"])
        raise not_found("watchlist not found")

    def update_watchlist(self, account: Account, watchlist_id: str, raw: Any) -> Json:
        """PUT /v2/watchlists/{id}. Raises ApiError."""
        watchlist = self._watchlist(account, watchlist_id)
        body = body_of(raw)
        name = self._free_name(account, body, watchlist) if body.get("name") else watchlist["name"]
        symbols = self._symbols(body) if body.get("symbols") is not None else watchlist["symbols"]
        watchlist.update(name=name, symbols=symbols, updated_at=timestamp(self._venue.stamp()))
        return self._watchlist_json(account, watchlist, full=True)

    def add_to_watchlist(self, account: Account, watchlist_id: str, raw: Any) -> Json:
        """POST /v2/watchlists/{id}. Raises ApiError."""
        watchlist = self._watchlist(account, watchlist_id)
        symbol = text_field(body_of(raw), "symbol")
        if symbol is None:
            raise invalid("symbol is required")
        if symbol not in self._venue.assets:
            raise not_found(f"asset not found for {symbol[:64]}")
        if symbol in watchlist["symbols"]:
            raise unprocessable("duplicate symbol")
        if len(watchlist["symbols"]) >= _MAX_WATCHED:
            raise unprocessable(f"at most {_MAX_WATCHED} symbols are allowed")
        watchlist["symbols"] = [*watchlist["symbols"], symbol]
        watchlist["updated_at"] = timestamp(self._venue.stamp())
        return self._watchlist_json(account, watchlist, full=True)

    def remove_from_watchlist(self, account: Account, watchlist_id: str, symbol: str) -> Json:
        """DELETE /v2/watchlists/{id}/{symbol}. Raises ApiError 404."""
        watchlist = self._watchlist(account, watchlist_id)
        if symbol not in watchlist["symbols"]:
            raise not_found("symbol not found in watchlist")
        watchlist["symbols"] = [other for other in watchlist["symbols"] if other != symbol]
        watchlist["updated_at"] = timestamp(self._venue.stamp())
        return self._watchlist_json(account, watchlist, full=True)

    def delete_watchlist(self, account: Account, watchlist_id: str) -> None:
        """DELETE /v2/watchlists/{id}. Raises ApiError 404."""
        self._watchlist(account, watchlist_id)
        del account.watchlists[watchlist_id]

    @staticmethod
    def _watchlist(account: Account, watchlist_id: str) -> Json:
        watchlist = account.watchlists.get(watchlist_id)
        if watchlist is None:
            raise not_found("watchlist not found")
        return watchlist

    @staticmethod
    def _free_name(account: Account, body: Mapping[str, Any], own: Json | None) -> str:
        name = text_field(body, "name")
        if name is None or len(name) > 64:
            raise invalid("name is required and must be no more than 64 characters")
        if any(other is not own and other["name"] == name for other in account.watchlists.values()):
            raise unprocessable("watchlist name must be unique")
        return name

    def _symbols(self, body: Mapping[str, Any]) -> list[str]:
        symbols = list(dict.fromkeys(list_field(body, "symbols")))
        for symbol in symbols:
            if symbol not in self._venue.assets:
                raise not_found(f"asset not found for {symbol[:64]}")
        if len(symbols) > _MAX_WATCHED:
            raise unprocessable(f"at most {_MAX_WATCHED} symbols are allowed")
        return symbols

    def _watchlist_json(self, account: Account, watchlist: Json, *, full: bool) -> Json:
        view = {name: watchlist[name] for name in ("id", "name", "created_at", "updated_at")}
        view["account_id"] = account.id
        if full:
            assets = self._venue.assets
            view["assets"] = [asset_json(assets[symbol]) for symbol in watchlist["symbols"] if symbol in assets]
        return view

    # Corporate actions ----------------------------------------------------------------------------------------------

    def announce(self, kind: str, symbol: str, terms: Mapping[str, Any]) -> None:
        """Publish a corporate action; the oldest are forgotten beyond a bound."""
        identifier = self._venue.identifiers.uuid()
        today = self._venue.today()
        self._announcements[identifier] = {
            "id": identifier,
            "corporate_action_id": f"{symbol}_{kind}_{today}",
            "ca_type": kind,
            "ca_sub_type": "stock_split" if kind == "split" else kind,
            "initiating_symbol": symbol,
            "initiating_original_cusip": "",
            "target_symbol": terms.get("target_symbol", symbol),
            "target_original_cusip": "",
            "declaration_date": today,
            "ex_date": today,
            "record_date": today,
            "payable_date": today,
            "cash": str(terms.get("cash", "0")),
            "old_rate": str(terms.get("old_rate", "0")),
            "new_rate": str(terms.get("new_rate", "0")),
        }
        while len(self._announcements) > _ANNOUNCEMENTS_KEPT:
            del self._announcements[next(iter(self._announcements))]

    def kept_announcements(self) -> dict[str, Json]:
        """All that was announced, by id, for a keeper."""
        return self._announcements

    def restore_announcements(self, announcements: Mapping[str, Json]) -> None:
        """Take over what was announced before a restart."""
        self._announcements.update(announcements)

    def announced(self) -> list[Json]:
        """Every corporate action, oldest first."""
        return list(self._announcements.values())

    def announcements(self, params: Mapping[str, Any]) -> list[Json]:
        """GET /v2/corporate_actions/announcements. Raises ApiError 422 without types or dates."""
        kinds = {kind.lower() for kind in list_field(params, "ca_types")}
        since, until = day_field(params, "since"), day_field(params, "until")
        if not kinds or since is None or until is None:
            raise invalid("ca_types, since and until are required")
        if until < since or until - since > timedelta(days=90):
            raise unprocessable("since and until must be in order and no more than 90 days apart")
        unknown = kinds - _ANNOUNCEMENT_TYPES
        if unknown:
            raise unprocessable(f"invalid ca_types: {sorted(unknown)[0][:32]}")
        symbol = text_field(params, "symbol")
        dated = choice_field(params, "date_type", _ANNOUNCEMENT_DATES) or "declaration_date"
        return [
            action
            for action in self._announcements.values()
            if action["ca_type"] in kinds
            # No stock of the exchange has a CUSIP.
            and not params.get("cusip")
            and since.isoformat() <= action[dated] <= until.isoformat()
            and symbol in (None, action["initiating_symbol"], action["target_symbol"])
        ]

    def get_announcement(self, announcement_id: str) -> Json:
        """GET /v2/corporate_actions/announcements/{id}. Raises ApiError 404."""
        action = self._announcements.get(announcement_id)
        if action is None:
            raise not_found("announcement not found")
        return action
