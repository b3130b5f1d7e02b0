"""Where orders come in: submission, replacement and cancel requests."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from exitguard.paper.engine.admission import (
    Admission,
    Terms,
    check_exit_prices,
    check_exits_apart,
    check_tick,
)
from exitguard.paper.engine.balances import balances
from exitguard.paper.engine.errors import (
    already_in_state,
    insufficient_buying_power,
    insufficient_options_buying_power,
    invalid,
    unprocessable,
)
from exitguard.paper.engine.fields import (
    body_of,
    choice_field,
    decimal_field,
    mapping_field,
    positive_field,
    quantity_field,
    text_field,
)
from exitguard.paper.engine.lifecycle import Lifecycle
from exitguard.paper.engine.model import TERMINAL, ZERO, Account, Asset, Group, Order
from exitguard.paper.engine.multileg import MultiLeg
from exitguard.paper.engine.request import TIMES_IN_FORCE, Draft, read_order
from exitguard.paper.engine.venue import Venue
from exitguard.paper.engine.wire import microseconds

_SHARE_STEP = Decimal("0.000000001")
_NOT_REPLACEABLE = frozenset({"accepted", "pending_new", "pending_cancel", "pending_replace", "done_for_day"})


class Desk:
    """Turns admitted drafts into orders."""

    def __init__(self, venue: Venue, admission: Admission, lifecycle: Lifecycle, multileg: MultiLeg) -> None:
        self._venue = venue
        self._multileg = multileg
        self._admission = admission
        self._lifecycle = lifecycle
        lifecycle.replace_by_venue = self._replace_unasked

    # Submission -----------------------------------------------------------------------------------------------------

    def submit(self, account: Account, body: Any) -> Order:
        """Take an order request. Raises ApiError."""
        draft = read_order(body)
        if draft.order_class == "mleg":
            return self._multileg.submit(account, draft)
        return self.submit_draft(account, draft)

    def submit_draft(self, account: Account, draft: Draft) -> Order:
        """Take a well-formed order of one instrument. Raises ApiError."""
        asset = self._venue.asset(draft.symbol)
        if asset is None:
            raise unprocessable(f'could not find asset "{draft.symbol[:64]}"')
        terms = self._admission.check(account, draft, asset)
        root = self._build(account, draft, asset, terms)
        if root.is_closing:
            self._venue.hold(root, draft.qty if draft.qty is not None else self._whole(account, asset, draft))
        self._venue.reserve(root, terms.cost)
        self._lifecycle.place(root)
        return root

    @staticmethod
    def _whole(account: Account, asset: Asset, draft: Draft) -> Decimal:
        """What a notional closing order ties up: its estimate, at most the position."""
        estimate = ((draft.notional or ZERO) / (asset.price or Decimal(1))).quantize(_SHARE_STEP)
        return min(abs(account.position_qty(asset.symbol)), estimate)

    def _build(self, account: Account, draft: Draft, asset: Asset, terms: Terms) -> Order:
        root = self._order(account, asset, draft.side, draft.type, draft.time_in_force, draft.extended_hours)
        root.client_order_id = draft.client_order_id or root.client_order_id
        root.qty = draft.qty
        root.notional = draft.notional
        root.limit_price = draft.limit_price
        root.stop_price = draft.stop_price
        root.trail_price = draft.trail_price
        root.trail_percent = draft.trail_percent
        root.order_class = draft.order_class
        root.intent = terms.intent
        root.unit_cost = terms.unit_cost
        if draft.is_complex:
            self._attach_exits(root, draft, asset)
        return root

    def _order(self, account: Account, asset: Asset, side: str, kind: str, time_in_force: str, extended: bool) -> Order:
        venue = self._venue
        stamp = venue.stamp()
        now = venue.moment()
        if time_in_force == "gtc":
            end = venue.sessions.gtc_end(now, venue.settings.gtc_days)
        else:
            end = venue.sessions.day_end(now, extended)
        identifiers = account.identifiers
        return Order(
            id=identifiers.uuid(),
            client_order_id=identifiers.uuid(),
            account=account,
            asset=asset,
            symbol=asset.symbol,
            side=side,
            type=kind,
            time_in_force=time_in_force,
            qty=None,
            sequence=venue.next_sequence(),
            created=stamp,
            submitted=stamp,
            updated=stamp,
            expires=microseconds(end),
            extended_hours=extended,
        )

    def _attach_exits(self, root: Order, draft: Draft, asset: Asset) -> None:
        group = Group(root.account.identifiers.uuid(), draft.order_class)
        root.group = group
        if draft.order_class == "oco":
            root.group_role = "take_profit"
            group.take_profit = root
        else:
            root.group_role = "entry"
            group.entry = root
            if draft.target is not None:
                group.take_profit = self._exit(root, draft, asset, "take_profit")
        if draft.stop_loss is not None:
            group.stop_loss = self._exit(root, draft, asset, "stop_loss")

    def _exit(self, root: Order, draft: Draft, asset: Asset, role: str) -> Order:
        exit_side = root.side if draft.order_class == "oco" else ("sell" if root.side == "buy" else "buy")
        if role == "take_profit":
            kind, limit, stop = "limit", draft.target, None
        else:
            kind = "stop" if draft.stop_loss_limit is None else "stop_limit"
            limit, stop = draft.stop_loss_limit, draft.stop_loss
        leg = self._order(root.account, asset, exit_side, kind, root.time_in_force, False)
        leg.qty = root.qty
        leg.limit_price = limit
        leg.stop_price = stop
        leg.order_class = root.order_class
        leg.intent = f"{exit_side}_to_close"
        leg.status = "held"
        leg.group = root.group
        leg.group_role = role
        leg.parent = root
        root.legs.append(leg)
        return leg

    # Cancel ---------------------------------------------------------------------------------------------------------

    def cancel(self, account: Account, order_id: str) -> None:
        """Acknowledge a cancel request; cancelling what is cancelled already succeeds. Raises ApiError."""
        order = self._venue.order(account, order_id)
        if order.status == "canceled":
            return
        if order.status in TERMINAL:
            raise already_in_state(order.status)
        if order.order_class == "mleg" and order.parent is not None:
            order = order.parent
        self._lifecycle.request_cancel(order)

    def cancel_all(self, account: Account) -> list[dict[str, Any]]:
        """Acknowledge a cancel of every open order; held legs go with their groups."""
        items = []
        for order in list(account.open.values()):
            if order.status == "held" or (order.order_class == "mleg" and order.parent is not None):
                continue
            self._lifecycle.request_cancel(order)
            items.append({"id": order.id, "status": 200})
        return items

    # Replacement ----------------------------------------------------------------------------------------------------

    def replace(self, account: Account, order_id: str, raw: Any) -> Order:
        """Take a replacement request; answers the new order, which takes over a moment later. Raises ApiError.

        As observed at Alpaca (Alpaca-API#165) a replacement without `qty` asks for the whole quantity of the old order,
        whatever part of it has been filled.
        """
        order = self._venue.order(account, order_id)
        body = body_of(raw)
        self._check_replaceable(order)
        changes = self._read_changes(order, body)
        client_order_id = text_field(body, "client_order_id")
        self._admission.check_account(account, client_order_id)
        draft = self._changed(order, changes)
        venue = self._venue
        if order.order_class == "mleg":
            new = self._multileg.replacement(order, draft, client_order_id)
        else:
            self._check_changed(account, order, draft)
            new = self._clone(order, draft, client_order_id)
            if order.is_closing and not self._watches(order):
                venue.hold(new, max(new.remaining - order.held, ZERO))
            venue.reserve(new, max(new.unit_cost * new.remaining - order.reserved, ZERO))
        order.prior_status = order.status
        order.status = "pending_replace"
        order.updated = venue.stamp()
        venue.note(order)
        rejects = venue.faults.strike("replace_rejected", account=account.name, symbol=order.symbol) is not None
        venue.schedule(venue.settings.replace_delay, lambda: self._complete_replace(order, new, rejects))
        return new

    @staticmethod
    def _check_replaceable(order: Order) -> None:
        status = order.status
        if status == "replaced":
            raise unprocessable("order already replaced")
        if status in TERMINAL:
            if order.parent is not None:
                raise unprocessable(f"leg order is already in {status} state")
            raise already_in_state(status)
        if order.replaces is not None and status == "pending_new":
            raise unprocessable("order chain not fully replaced")
        if status in _NOT_REPLACEABLE:
            raise unprocessable(f"cannot replace order in {status} status")
        if order.order_class == "mleg" and order.parent is not None:
            raise unprocessable("a leg of a mleg order cannot be replaced on its own")
        if order.notional is not None:
            raise unprocessable("notional orders cannot be replaced")

    @staticmethod
    def _read_changes(order: Order, body: Mapping[str, Any]) -> dict[str, Any]:
        if body.get("notional"):
            raise unprocessable("notional of an order cannot be replaced")
        if mapping_field(body, "advanced_instructions"):
            raise unprocessable("advanced instructions are not enabled for this account")
        changes: dict[str, Any] = {
            "qty": quantity_field(body, "qty"),
            "time_in_force": choice_field(body, "time_in_force", TIMES_IN_FORCE),
            # A net premium is negative when it is received.
            "limit_price": (decimal_field if order.order_class == "mleg" else positive_field)(body, "limit_price"),
            "stop_price": positive_field(body, "stop_price"),
            "trail": positive_field(body, "trail"),
        }
        given = {name: value for name, value in changes.items() if value is not None}
        trail = order.trail_price if order.trail_price is not None else order.trail_percent
        current = {
            "qty": order.qty,
            "time_in_force": order.time_in_force,
            "limit_price": order.limit_price,
            "stop_price": order.stop_price,
            "trail": trail,
        }
        if all(value == current[name] for name, value in given.items()):
            raise unprocessable("order parameters are not changed")
        if "limit_price" in given and order.limit_price is None:
            raise unprocessable(f"limit_price cannot be set on {order.type} orders")
        if "stop_price" in given and order.type not in ("stop", "stop_limit"):
            raise unprocessable(f"stop_price cannot be set on {order.type} orders")
        if "trail" in given and order.type != "trailing_stop":
            raise unprocessable(f"trail cannot be set on {order.type} orders")
        qty = given.get("qty")
        if qty is not None and qty != order.qty:
            if order.group is not None:
                raise unprocessable("qty of complex orders cannot be replaced")
            if qty != qty.to_integral_value() or (order.qty or ZERO) % 1:
                raise unprocessable("qty of fractional orders cannot be replaced")
            if qty <= order.filled_qty:
                raise unprocessable("qty must be > filled_qty")
        return given

    @staticmethod
    def _changed(order: Order, changes: Mapping[str, Any]) -> Draft:
        trail = changes.get("trail")
        return Draft(
            symbol=order.symbol,
            side=order.side,
            type=order.type,
            time_in_force=changes.get("time_in_force", order.time_in_force),
            qty=changes.get("qty", order.qty),
            limit_price=changes.get("limit_price", order.limit_price),
            stop_price=changes.get("stop_price", order.stop_price),
            trail_price=trail if trail is not None and order.trail_price is not None else order.trail_price,
            trail_percent=trail if trail is not None and order.trail_percent is not None else order.trail_percent,
            extended_hours=order.extended_hours,
            order_class=order.order_class,
        )

    def _check_changed(self, account: Account, order: Order, draft: Draft) -> None:
        asset = order.asset
        if asset is None:
            return
        check_tick("limit_price", draft.limit_price, asset.is_option)
        check_tick("stop_price", draft.stop_price, asset.is_option)
        allowed = (
            ("day", "gtc") if draft.is_complex or asset.is_option or draft.type == "trailing_stop" else TIMES_IN_FORCE
        )
        if draft.time_in_force not in allowed:
            raise unprocessable("invalid time_in_force for this order")
        self._check_group_prices(order, draft)
        self._admission.check_wash_trade(account, order.symbol, draft, ignore=order)
        if order.is_closing:
            if self._watches(order):
                return
            if asset.symbol not in account.positions:
                raise unprocessable("position does not exist")
            self._admission.check_quantity(account, draft, asset, own=order.held)
            return
        if not order.unit_cost or draft.qty is None:
            return
        cost = self._unit_cost(order, draft, asset) * draft.qty
        now = balances(account)
        available = (now.options_buying_power if asset.is_option else now.buying_power) + order.reserved
        if cost > available:
            refuse = insufficient_options_buying_power if asset.is_option else insufficient_buying_power
            raise refuse(available, cost)

    def _unit_cost(self, order: Order, draft: Draft, asset: Asset) -> Decimal:
        if order.intent == "sell_to_open" and asset.is_option:
            return order.unit_cost
        if asset.is_option:
            return self._admission.option_unit_cost(draft, asset)
        return self._admission.stock_unit_cost(draft, asset)

    @staticmethod
    def _check_group_prices(order: Order, draft: Draft) -> None:
        group = order.group
        if group is None:
            return
        target, stop = group.take_profit, group.stop_loss
        new_target = draft.limit_price if order is target else target.limit_price if target is not None else None
        new_stop = draft.stop_price if order is stop else stop.stop_price if stop is not None else None
        leg = target or stop
        if leg is None:
            return
        check_exits_apart(leg.side, new_target, new_stop)
        if order is group.entry and draft.limit_price is not None:
            check_exit_prices(leg.side, draft.limit_price, new_target, new_stop)
        elif order is stop and group.active and order.asset is not None:
            check_exit_prices(leg.side, order.asset.price, None, new_stop)

    @staticmethod
    def _watches(order: Order) -> bool:
        """Whether this is an exit that ties up nothing: beside a working take profit, or before its entry is filled."""
        return order.group is not None and not order.held

    def _clone(self, order: Order, draft: Draft, client_order_id: str | None) -> Order:
        asset = order.asset
        assert asset is not None, "multi-leg orders are cloned with their legs"
        new = self._order(order.account, asset, order.side, order.type, draft.time_in_force, order.extended_hours)
        new.client_order_id = client_order_id or new.client_order_id
        new.qty = draft.qty
        new.limit_price = draft.limit_price
        new.stop_price = draft.stop_price
        new.trail_price = draft.trail_price
        new.trail_percent = draft.trail_percent
        new.high_water_mark = order.high_water_mark
        new.order_class = order.order_class
        new.intent = order.intent
        new.group = order.group
        new.group_role = order.group_role
        new.replaces = order.id
        if not order.is_closing and order.unit_cost:
            new.unit_cost = self._unit_cost(order, draft, asset)
        self._venue.register(new)
        return new

    def resume_replace(self, old: Order, new: Order) -> None:
        """Carry a replacement out that was acknowledged before the venue was restarted."""
        venue = self._venue
        venue.schedule(venue.settings.replace_delay, lambda: self._complete_replace(old, new, rejects=False))

    def _complete_replace(self, old: Order, new: Order, rejects: bool) -> None:
        """The replacement takes over, unless the old order ended or grew past it in the meantime."""
        venue = self._venue
        overtaken = not old.is_open or old.status != "pending_replace" or (new.qty or ZERO) <= old.filled_qty
        if rejects or overtaken or not new.is_open or new.status != "pending_new":
            if old.status == "pending_replace":
                old.status = "partially_filled" if old.filled_qty else old.prior_status
                old.updated = venue.stamp()
                venue.emit("order_replace_rejected", old)
            self._lifecycle.finish(new, "rejected")
            return
        was_watching = self._watches(old)
        old.replaced_by = new.id
        venue.note(old)
        self._lifecycle.groups.replace_member(old, new)
        self._lifecycle.finish(old, "replaced")
        if new.order_class == "mleg":
            self._multileg.take_over(new, old)
        entry = new.group.entry if new.group is not None else None
        if was_watching and new is not entry:
            self._resume_exit(new)
        else:
            self._resume(new)

    def _resume_exit(self, new: Order) -> None:
        group = new.group
        if group is not None and group.active:
            self._lifecycle.groups.start_exit(new)
            return
        new.status = "held"
        new.updated = self._venue.stamp()
        self._venue.note(new)

    def _resume(self, new: Order) -> None:
        venue = self._venue
        if new.is_closing:
            venue.hold(new, new.remaining)
        venue.reserve(new, new.unit_cost * new.remaining)
        self._lifecycle.work(new)
        self._lifecycle.match(new)

    def _replace_unasked(self, order: Order) -> None:
        """The replaced_by_venue fault: the same order under a new id."""
        if order.order_class == "mleg":
            new = self._multileg.same_again(order)
        else:
            new = self._clone(order, self._changed(order, {}), None)
        order.status = "pending_replace"
        self._complete_replace(order, new, rejects=False)
        if order.status != "replaced":
            raise invalid("the venue could not replace its own order")
