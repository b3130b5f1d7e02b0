"""Orders that belong together: brackets, OCO and OTO.

Exits wait (`held`) until the entry is completely filled. While the take profit works, the stop loss is `held` and only
watches the price; when it triggers, the take profit is cancelled first. Cancelling one cancels the group.
"""

from typing import TYPE_CHECKING

from exitguard.paper.engine.model import ZERO, Group, Order
from exitguard.paper.engine.venue import Venue

if TYPE_CHECKING:
    from exitguard.paper.engine.lifecycle import Lifecycle


class Groups:
    """Keeps the members of a group in step."""

    def __init__(self, venue: Venue, lifecycle: "Lifecycle") -> None:
        self._venue = venue
        self._lifecycle = lifecycle

    def after_fill(self, order: Order) -> None:
        """A member was filled, in part or completely."""
        group = order.group
        if group is None or order not in group.members():
            return
        if order is group.entry:
            if order.status == "filled":
                self.activate(group)
            return
        other = group.stop_loss if order is group.take_profit else group.take_profit
        if other is None or not other.is_open:
            return
        if order.status == "filled":
            self._lifecycle.finish(other, "canceled")
        elif other.status == "held" or other is group.stop_loss:
            # The remaining stop must never sell more than is left.
            other.qty = order.remaining + other.filled_qty
            self._venue.note(other)
            other.updated = self._venue.stamp()

    def after_finish(self, order: Order) -> None:
        """A member ended without being filled: so do the others."""
        group = order.group
        if group is None or order.status not in ("canceled", "expired", "rejected"):
            return
        if order not in group.members():
            # A replacement that never took its predecessor's place.
            return
        if order is group.take_profit and group.stop_loss is not None and group.stop_loss.triggered:
            return
        for other in group.members():
            if other is not order and other.is_open:
                self._lifecycle.finish(other, "expired" if order.status == "expired" else "canceled")

    def activate(self, group: Group) -> None:
        """The entry is completely filled: let the exits work, for what is really held."""
        group.active = True
        entry = group.entry
        for member in group.members():
            self._venue.note(member)
        exits = [order for order in (group.take_profit, group.stop_loss) if order is not None and order.is_open]
        if entry is not None:
            account = entry.account
            free = abs(account.position_qty(entry.symbol)) - account.holds.get(entry.symbol, ZERO)
            qty = min(entry.filled_qty, free)
            if qty <= 0:
                for order in exits:
                    self._lifecycle.finish(order, "canceled")
                return
            for order in exits:
                order.qty = qty
        for order in exits:
            self.start_exit(order)

    def start_exit(self, order: Order) -> None:
        """Let one exit of an active group work or, beside a working take profit, watch."""
        group = order.group
        watches = group is not None and order is group.stop_loss and self._has_open_target(group)
        if watches:
            order.status = "held"
            order.updated = self._venue.stamp()
            self._venue.enter_book(order)
        else:
            self._venue.hold(order, order.remaining)
            self._lifecycle.work(order)
        self._lifecycle.match_soon(order)

    def on_trigger(self, order: Order) -> None:
        """A stop loss triggers: cancel the take profit, then take over its quantity."""
        group = order.group
        if group is None or order is not group.stop_loss or order.held:
            return
        if group.take_profit is not None and group.take_profit.is_open:
            self._lifecycle.finish(group.take_profit, "canceled")
        self._venue.hold(order, order.remaining)
        if order.status == "held":
            order.status = "new"
            order.updated = self._venue.stamp()
            self._venue.emit("new", order)

    def replace_member(self, old: Order, new: Order) -> None:
        """A member got a new id: the group and its parent follow."""
        group = old.group
        if group is None:
            return
        self._venue.note(old)
        self._venue.note(new)
        if group.entry is old:
            group.entry = new
        if group.take_profit is old:
            group.take_profit = new
        if group.stop_loss is old:
            group.stop_loss = new
        if old.legs:
            new.legs, old.legs = old.legs, []
            for leg in new.legs:
                leg.parent = new
                self._venue.note(leg)
        if old.parent is not None:
            self._venue.note(old.parent)
            old.parent.legs = [new if leg is old else leg for leg in old.parent.legs]
            new.parent, old.parent = old.parent, None

    @staticmethod
    def _has_open_target(group: Group) -> bool:
        return group.take_profit is not None and group.take_profit.is_open
