"""What is listed: stocks, option contracts, and the questions about them."""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

from exitguard.core.errors import InvalidInput
from exitguard.core.instrument import InstrumentType, format_occ, parse_instrument
from exitguard.core.session import NEW_YORK
from exitguard.paper.engine.errors import not_found
from exitguard.paper.engine.fields import (
    choice_field,
    day_field,
    decimal_field,
    flag_field,
    list_field,
    text_field,
    whole_field,
)
from exitguard.paper.engine.model import ZERO, Asset
from exitguard.paper.engine.venue import Venue
from exitguard.paper.engine.views import Json, asset_json, contract_json
from exitguard.paper.engine.wire import asset_id

_CONTRACT_MULTIPLIER = Decimal(100)
_FRIDAY = 4
_MONTHLIES = 4
_STOCK_ATTRIBUTES = frozenset(
    {"name", "exchange", "tradable", "marginable", "shortable", "easy_to_borrow", "fractionable", "attributes"}
)
_ASSET_CLASS_WORDS = (
    "us_equity us_option crypto crypto_perp treasury corporate global_equity us_index us_equity_chain ipo"
)
_ASSET_CLASSES = frozenset(_ASSET_CLASS_WORDS.split())
_EXCHANGES = ("AMEX", "ARCA", "BATS", "NYSE", "NASDAQ", "NYSEARCA", "OTC", "CRYPTO", "")


class Listing:
    """Adds assets and answers for them."""

    def __init__(self, venue: Venue) -> None:
        self._venue = venue

    # Adding ---------------------------------------------------------------------------------------------------------

    def add_stock(self, symbol: str, price: Decimal, **attributes: Any) -> Asset:
        """List a stock, or set the last close of one that is listed. Raises InvalidInput."""
        instrument = parse_instrument(symbol)
        if instrument.is_option:
            raise InvalidInput(f"{symbol!r} is an option contract: list its chain with add_option_chain")
        if not price.is_finite() or price <= 0:
            raise InvalidInput(f"a stock needs a price above zero, {symbol!r} was given {price}")
        unknown = set(attributes) - _STOCK_ATTRIBUTES
        if unknown:
            raise InvalidInput(f"unknown stock attributes {sorted(unknown)}, known are {sorted(_STOCK_ATTRIBUTES)}")
        name = instrument.symbol
        asset = self._venue.assets.get(name)
        if asset is None:
            asset = Asset(asset_id(name), name, f"{name} Common Stock", "NASDAQ")
            asset.attributes = ["fractional_eh_enabled"]
            self._add(asset)
        asset.lastday_price = price
        for key, value in attributes.items():
            setattr(asset, key, value)
        return asset

    def add_option_chain(
        self, underlying: str, expiries: Sequence[date] | None, strikes: Sequence[Decimal] | None, each_side: int
    ) -> list[str]:
        """List calls and puts of an underlying; those already listed are left alone. Raises InvalidInput."""
        stock = self._venue.assets.get(underlying)
        if stock is None or stock.is_option:
            raise InvalidInput(f"list the stock {underlying!r} before its options")
        if "has_options" not in stock.attributes:
            stock.attributes = [*stock.attributes, "has_options"]
        levels = list(strikes) if strikes is not None else strikes_around(stock.price, each_side)
        symbols = []
        for expiry in expiries if expiries is not None else self.default_expiries():
            for strike in levels:
                for kind in (InstrumentType.CALL, InstrumentType.PUT):
                    symbols.append(self._add_contract(stock, expiry, strike, kind))
        return symbols

    def _add_contract(self, stock: Asset, expiry: date, strike: Decimal, kind: InstrumentType) -> str:
        root = stock.symbol.replace(".", "")
        symbol = format_occ(root, expiry, kind, strike)
        if symbol in self._venue.assets:
            return symbol
        right = kind.value.lower()
        name = f"{stock.symbol} {expiry:%b %d %Y} {strike.normalize():f} {right.title()}"
        contract = Asset(
            asset_id(symbol),
            symbol,
            name,
            "",
            is_option=True,
            multiplier=_CONTRACT_MULTIPLIER,
            marginable=False,
            shortable=False,
            easy_to_borrow=False,
            fractionable=False,
            underlying=stock,
            root=root,
            expiry=expiry,
            last_session=self._last_session(expiry),
            strike=strike,
            right=right,
        )
        self._add(contract)
        return symbol

    def _last_session(self, expiry: date) -> date:
        """A contract that expires on a holiday is last traded before it; beyond the calendar nothing is known."""
        calendar = self._venue.sessions.calendar
        return expiry if expiry > calendar.last_day else calendar.session_on_or_before(expiry).day

    def _add(self, asset: Asset) -> None:
        self._venue.assets[asset.symbol] = asset
        self._venue.assets_by_id[asset.id] = asset

    def default_expiries(self) -> list[date]:
        """Today when it is a session, those of the following seven days, four more Fridays and the next four monthlies.

        Monthly contracts expire on the third Friday; where that is a holiday, on the session before it.
        """
        calendar = self._venue.sessions.calendar
        today = self._venue.moment().astimezone(NEW_YORK).date()
        days = {session.day for session in calendar.between(today, today + timedelta(days=7))}
        friday = today + timedelta(days=(_FRIDAY - today.weekday()) % 7)
        days.update(calendar.session_on_or_before(friday + timedelta(weeks=week)).day for week in range(1, 5))
        for number in range(_MONTHLIES + 1):
            year, month = divmod(today.year * 12 + today.month - 1 + number, 12)
            first = date(year, month + 1, 1)
            third_friday = first + timedelta(days=(_FRIDAY - first.weekday()) % 7 + 14)
            if third_friday > today:
                days.add(calendar.session_on_or_before(third_friday).day)
        return sorted(days)

    def prune(self, before: date) -> None:
        """Forget contracts that expired before a day and that nobody holds: a long run stays small."""
        held = {symbol for account in self._venue.accounts.values() for symbol in account.positions}
        for symbol, asset in list(self._venue.assets.items()):
            if asset.expiry is not None and asset.expiry < before and symbol not in held:
                del self._venue.assets[symbol]
                del self._venue.assets_by_id[asset.id]

    # Asking ---------------------------------------------------------------------------------------------------------

    def list_assets(self, params: Mapping[str, Any]) -> list[Json]:
        """GET /v2/assets."""
        status = choice_field(params, "status", ("active", "inactive", "all"))
        kind = choice_field(params, "asset_class", _ASSET_CLASSES)
        exchange = choice_field(params, "exchange", _EXCHANGES)
        attributes = set(list_field(params, "attributes"))
        wanted = kind or "us_equity"
        return [
            asset_json(asset)
            for asset in self._venue.assets.values()
            if asset.asset_class == wanted
            and status in (None, "all", asset.status)
            and exchange in (None, asset.exchange)
            and attributes <= set(asset.attributes)
        ]

    def get_asset(self, symbol_or_id: str) -> Json:
        """GET /v2/assets/{symbol or id}. Raises ApiError 404."""
        asset = self._venue.asset(symbol_or_id)
        if asset is None:
            raise not_found(f"asset not found for {symbol_or_id[:64]}")
        return asset_json(asset)

    def get_contract(self, symbol_or_id: str) -> Json:
        """GET /v2/options/contracts/{symbol or id}. Raises ApiError 404."""
        asset = self._venue.asset(symbol_or_id)
        if asset is None or not asset.is_option:
            raise not_found(f"option contract not found for {symbol_or_id[:64]}")
        return contract_json(asset, show_deliverables=True)

    def list_contracts(self, params: Mapping[str, Any]) -> Json:
        """GET /v2/options/contracts. Without an expiration filter only what expires before the next weekend."""
        limit = whole_field(params, "limit", 100, 1, 10_000)
        offset = whole_field(params, "page_token", 0, 0, 10**9)
        deliverables = flag_field(params, "show_deliverables")
        keep = self._contract_filter(params)
        # Every contract takes part in the Penny Program.
        listed = self._venue.assets.values() if flag_field(params, "ppind", True) else ()
        found = [asset for asset in listed if asset.is_option and keep(asset)]
        found.sort(key=lambda asset: (asset.root, asset.expiry, asset.right, asset.strike))
        page = found[offset : offset + limit]
        following = offset + limit
        return {
            "option_contracts": [contract_json(asset, deliverables) for asset in page],
            "next_page_token": str(following) if following < len(found) else None,
        }

    def _contract_filter(self, params: Mapping[str, Any]) -> "_ContractFilter":
        exact = day_field(params, "expiration_date")
        first = day_field(params, "expiration_date_gte")
        last = day_field(params, "expiration_date_lte")
        if exact is not None:
            first = last = exact
        if first is None and last is None:
            today = self._venue.moment().astimezone(NEW_YORK).date()
            last = today + timedelta(days=(_FRIDAY - today.weekday()) % 7)
        return _ContractFilter(
            underlyings=frozenset(list_field(params, "underlying_symbols")),
            root=text_field(params, "root_symbol"),
            status=choice_field(params, "status", ("active", "inactive")) or "active",
            right=choice_field(params, "type", ("call", "put")),
            style=choice_field(params, "style", ("american", "european")),
            first=first,
            last=last,
            lowest=decimal_field(params, "strike_price_gte"),
            highest=decimal_field(params, "strike_price_lte"),
        )


class _ContractFilter:
    """Whether a contract is asked for."""

    def __init__(
        self,
        *,
        underlyings: frozenset[str],
        root: str | None,
        status: str,
        right: str | None,
        style: str | None,
        first: date | None,
        last: date | None,
        lowest: Decimal | None,
        highest: Decimal | None,
    ) -> None:
        self._underlyings = underlyings
        self._words = (root, right, status)
        self._european = style == "european"
        self._days = (first or date.min, last or date.max)
        self._strikes = (lowest or ZERO, highest)

    def __call__(self, asset: Asset) -> bool:
        root, right, status = self._words
        if self._european or asset.status != status or asset.expiry is None or asset.underlying is None:
            return False
        lowest, highest = self._strikes
        return (
            (not self._underlyings or asset.underlying.symbol in self._underlyings)
            and root in (None, asset.root)
            and right in (None, asset.right)
            and self._days[0] <= asset.expiry <= self._days[1]
            and asset.strike >= lowest
            and (highest is None or asset.strike <= highest)
        )


def strike_step(price: Decimal) -> Decimal:
    """The usual distance of strikes at a price: 0.5, 1, 2.5, 5 or 10 dollars."""
    for limit, step in ((25, "0.5"), (100, "1"), (250, "2.5"), (1000, "5")):
        if price < limit:
            return Decimal(step)
    return Decimal(10)


def strikes_around(price: Decimal, each_side: int) -> list[Decimal]:
    """Strikes on the usual grid, `each_side` of them below and above a price."""
    step = strike_step(price)
    lowest = (price / step).to_integral_value(ROUND_FLOOR)
    highest = (price / step).to_integral_value(ROUND_CEILING)
    below = [(lowest - n) * step for n in range(each_side)]
    above = [(highest + n) * step for n in range(each_side)]
    return sorted({strike for strike in [*below, *above] if strike > 0})
