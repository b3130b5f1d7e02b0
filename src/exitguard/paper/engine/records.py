"""The venue's state as plain records, for keeping it over a restart: what is written, and how it becomes objects again.

A record holds JSON values only: decimals as strings, days as ISO dates, other objects by their ids. The fields are the
dataclasses' own; `docs/exchange.md` describes where they are kept.
"""

from dataclasses import fields
from datetime import date
from decimal import Decimal
from typing import Any

from exitguard.paper.engine.model import Account, Asset, Group, Order, Position

Record = dict[str, Any]

# Objects that a record names by id, and what is rebuilt from the market or from other records.
_ORDER_REFERENCES = frozenset({"account", "asset", "legs", "parent", "group"})
_ORDER_DERIVED = frozenset({"held", "reserved"})
_ASSET_REFERENCES = frozenset({"underlying"})
_ASSET_DERIVED = frozenset({"quote", "good", "print_price", "book", "lastday_price", "lastday"})
_ACCOUNT_FIELDS = (
    "name",
    "id",
    "account_number",
    "key",
    "secret",
    "cash",
    "created",
    "configurations",
    "last_equity",
    "last_maintenance_margin",
    "balance_date",
    "watchlists",
    "pending_activities",
    "trading_blocked",
    "activities_dropped",
)

ORDER_FIELDS = tuple(
    field.name for field in fields(Order) if field.name not in _ORDER_REFERENCES and field.name not in _ORDER_DERIVED
)
ASSET_FIELDS = tuple(
    field.name for field in fields(Asset) if field.name not in _ASSET_REFERENCES and field.name not in _ASSET_DERIVED
)
_ORDER_DECIMALS = frozenset(
    field.name for field in fields(Order) if field.type in (Decimal, Decimal | None, "Decimal", "Decimal | None")
)


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, date):
        return value.isoformat()
    return value


def order_record(order: Order) -> Record:
    """An order with the ids of its asset, its legs, its parent and its group; held and reserved amounts too."""
    record = {name: _plain(getattr(order, name)) for name in ORDER_FIELDS}
    record["held"], record["reserved"] = str(order.held), str(order.reserved)
    record["asset"] = None if order.asset is None else order.asset.id
    record["legs"] = [leg.id for leg in order.legs]
    record["parent"] = None if order.parent is None else order.parent.id
    record["group"] = None if order.group is None else order.group.id
    return record


def order_from(record: Record, account: Account, asset: Asset | None) -> Order:
    """An order without its relations and without what it ties up."""
    given = {name: record[name] for name in ORDER_FIELDS}
    for name in _ORDER_DECIMALS:
        if given.get(name) is not None:
            given[name] = Decimal(given[name])
    return Order(account=account, asset=asset, **given)


def group_record(group: Group) -> Record:
    """A group with the ids of its members."""

    def identifier(order: Order | None) -> str | None:
        return None if order is None else order.id

    return {
        "id": group.id,
        "kind": group.kind,
        "active": group.active,
        "entry": identifier(group.entry),
        "take_profit": identifier(group.take_profit),
        "stop_loss": identifier(group.stop_loss),
    }


def account_record(account: Account) -> Record:
    """An account without its orders, activities and equity curve, which are kept one by one."""
    record = {name: _plain(getattr(account, name)) for name in _ACCOUNT_FIELDS}
    record["do_not_exercise"] = sorted(account.do_not_exercise)
    record["positions"] = [
        {
            "asset": position.asset.id,
            "qty": str(position.qty),
            "average": str(position.average),
            "opened": position.opened.isoformat(),
        }
        for position in account.positions.values()
    ]
    return record


def position_from(record: Record, asset: Asset) -> Position:
    """A holding."""
    return Position(asset, Decimal(record["qty"]), Decimal(record["average"]), date.fromisoformat(record["opened"]))


def asset_record(asset: Asset) -> Record:
    """An asset with the id of its underlying, without its market."""
    record = {name: _plain(getattr(asset, name)) for name in ASSET_FIELDS}
    record["attributes"] = list(asset.attributes)
    record["underlying"] = None if asset.underlying is None else asset.underlying.id
    return record


def asset_from(record: Record, underlying: Asset | None) -> Asset:
    """An asset without its market."""
    given = {name: record[name] for name in ASSET_FIELDS}
    for name in ("multiplier", "strike"):
        given[name] = Decimal(given[name])
    for name in ("expiry", "last_session"):
        if given[name] is not None:
            given[name] = date.fromisoformat(given[name])
    return Asset(underlying=underlying, **given)


def price_record(asset: Asset) -> Record:
    """The newest price of an asset and its last close."""
    return {
        "price": str(asset.price),
        "lastday_price": str(asset.lastday_price),
        "lastday": None if asset.lastday is None else asset.lastday.isoformat(),
    }


def apply_price(asset: Asset, record: Record) -> None:
    """Value an asset at its kept price until its next quote."""
    price = Decimal(record["price"])
    asset.print_price = price if price > 0 else None
    asset.lastday_price = Decimal(record["lastday_price"])
    asset.lastday = None if record["lastday"] is None else date.fromisoformat(record["lastday"])
