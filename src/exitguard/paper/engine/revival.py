"""Puts a kept venue together again: accounts, orders in their places, positions, and what was about to happen.

What a broker was about to do is not lost with its process: an order that was on its way in is accepted, a cancel that
was acknowledged takes effect, a replacement takes over. Faults that were to hit any of it are gone.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from exitguard.paper.engine.desk import Desk
from exitguard.paper.engine.equity import EquityCurve
from exitguard.paper.engine.extras import Extras
from exitguard.paper.engine.lifecycle import Lifecycle
from exitguard.paper.engine.model import Account, Asset, Group, Order
from exitguard.paper.engine.multileg import MultiLeg
from exitguard.paper.engine.records import (
    Record,
    apply_price,
    asset_from,
    order_from,
    position_from,
)
from exitguard.paper.engine.venue import Venue
from exitguard.paper.engine.wire import Identifiers

_WAITING = ("accepted", "done_for_day")


@dataclass(slots=True)
class KeptAccount:
    """One account's records. Orders in the order of their sequence; activities as (stamp, activity)."""

    record: Record
    orders: list[Record] = field(default_factory=list)
    groups: list[Record] = field(default_factory=list)
    client_order_ids: list[str] = field(default_factory=list)
    activities: list[tuple[int, Record]] = field(default_factory=list)
    equity: list[tuple[int, Decimal]] = field(default_factory=list)


@dataclass(slots=True)
class Kept:
    """A whole venue's records. `starts` counts how often the venue has begun, this time included."""

    starts: int
    stamp: int
    sequence: int
    assets: list[Record] = field(default_factory=list)
    prices: dict[str, Record] = field(default_factory=dict)
    accounts: list[KeptAccount] = field(default_factory=list)
    announcements: dict[str, Any] = field(default_factory=dict)


class Revival:
    """Restores records into a venue that is still empty."""

    def __init__(
        self,
        venue: Venue,
        lifecycle: Lifecycle,
        multileg: MultiLeg,
        desk: Desk,
        extras: Extras,
        open_account: Callable[[Account], None],
    ) -> None:
        self._venue = venue
        self._lifecycle = lifecycle
        self._multileg = multileg
        self._desk = desk
        self._extras = extras
        self._open_account = open_account

    def restore(self, kept: Kept) -> None:
        """Fill the venue. Raises KeyError, ValueError or decimal errors for records that are not ours."""
        self._venue.go_on_from(kept.stamp, kept.sequence)
        # What is handed out from here on must differ from what was handed out before.
        self._venue.identifiers = Identifiers(self._venue.seed, f":{kept.starts}")
        self._restore_assets(kept)
        self._extras.restore_announcements(kept.announcements)
        for one in kept.accounts:
            self._restore_account(one, kept.starts)

    def _restore_assets(self, kept: Kept) -> None:
        venue = self._venue
        # Underlyings before their options.
        for record in sorted(kept.assets, key=lambda record: record["underlying"] is not None):
            underlying = record["underlying"]
            asset = asset_from(record, None if underlying is None else venue.assets_by_id[underlying])
            price = kept.prices.get(asset.id)
            if price is not None:
                apply_price(asset, price)
            venue.assets[asset.symbol] = asset
            venue.assets_by_id[asset.id] = asset

    def _restore_account(self, kept: KeptAccount, starts: int) -> None:
        record = kept.record
        account = Account(
            name=record["name"],
            id=record["id"],
            account_number=record["account_number"],
            key=record["key"],
            secret=record["secret"],
            cash=Decimal(record["cash"]),
            created=record["created"],
            identifiers=Identifiers(self._venue.seed, f"{record['name']}:{starts}"),
            configurations=record["configurations"],
            last_equity=Decimal(record["last_equity"]),
            last_maintenance_margin=Decimal(record["last_maintenance_margin"]),
            balance_date=record["balance_date"],
            activities_dropped=record["activities_dropped"],
            pending_activities=record["pending_activities"],
            do_not_exercise=set(record["do_not_exercise"]),
            watchlists=record["watchlists"],
            trading_blocked=record["trading_blocked"],
        )
        for position in record["positions"]:
            asset = self._venue.assets_by_id[position["asset"]]
            account.positions[asset.symbol] = position_from(position, asset)
        for stamp, activity in kept.activities:
            account.add_activity(stamp, activity)
        account.equity = EquityCurve(kept.equity)
        account.by_client_id.update(dict.fromkeys(kept.client_order_ids))
        self._open_account(account)
        self._restore_orders(account, kept)

    def _restore_orders(self, account: Account, kept: KeptAccount) -> None:
        orders: dict[str, Order] = {}
        for record in kept.orders:
            asset: Asset | None = None if record["asset"] is None else self._venue.assets_by_id[record["asset"]]
            orders[record["id"]] = order_from(record, account, asset)
        groups = {record["id"]: _group(record, orders) for record in kept.groups}
        for record in kept.orders:
            order = orders[record["id"]]
            order.legs = [orders[leg] for leg in record["legs"]]
            order.parent = orders.get(record["parent"] or "")
            order.group = groups.get(record["group"] or "")
            account.orders[order.id] = order
            account.by_client_id[order.client_order_id] = order
        for record in kept.orders:
            order = orders[record["id"]]
            if order.is_open:
                self._venue.register(order)
                self._venue.hold(order, Decimal(record["held"]))
                self._venue.reserve(order, Decimal(record["reserved"]))
        self._resume(account, orders.values())

    def _resume(self, account: Account, orders: Iterable[Order]) -> None:
        """Put every open order where it was, and let what was about to happen happen."""
        for order in orders:
            if not order.is_open or (order.order_class == "mleg" and order.parent is not None):
                continue
            self._place(order)
            if order.status == "pending_new":
                self._resume_arrival(account, order)
            elif order.status == "pending_cancel":
                self._lifecycle.resume_cancel(order)
            elif order.status == "pending_replace" and self._replacement(account, order) is None:
                order.status = order.prior_status

    def _place(self, order: Order) -> None:
        venue = self._venue
        status = order.prior_status if order.status in ("pending_cancel", "pending_replace") else order.status
        if order.order_class == "mleg":
            self._multileg.watch(order)
        if status == "pending_new":
            return
        if status in _WAITING:
            venue.queued[order.id] = order
        elif status == "held":
            group = order.group
            if group is not None and group.active and group.stop_loss is order:
                venue.enter_book(order)
        elif order.time_in_force == "cls":
            venue.at_close[order.id] = order
        else:
            venue.enter_book(order)

    def _resume_arrival(self, account: Account, order: Order) -> None:
        venue = self._venue
        old = account.orders.get(order.replaces or "")
        if old is not None and old.status == "pending_replace":
            self._desk.resume_replace(old, order)
        elif order.replaces is not None:
            # Its predecessor ended first.
            venue.schedule(venue.settings.replace_delay, lambda: self._lifecycle.finish(order, "rejected"))
        else:
            venue.schedule(venue.settings.accept_delay, lambda: self._lifecycle.accept(order))

    @staticmethod
    def _replacement(account: Account, old: Order) -> Order | None:
        return next((order for order in account.open.values() if order.replaces == old.id), None)


def _group(record: Record, orders: dict[str, Order]) -> Group:
    def member(name: str) -> Order | None:
        return orders.get(record[name] or "")

    return Group(
        record["id"], record["kind"], member("entry"), member("take_profit"), member("stop_loss"), record["active"]
    )
