"""The life of an order between its submission and its end, fills excepted."""

from collections.abc import Callable

from exitguard.paper.engine.groups import Groups
from exitguard.paper.engine.model import Order
from exitguard.paper.engine.sessions import POST, PRE, REGULAR
from exitguard.paper.engine.venue import Venue

_CANCEL_SLOW_SECONDS = 5.0
_LOOKUP_LAG_SECONDS = 1.0


class Lifecycle:
    """Moves orders from state to state; everything that a broker does "a moment later" goes through `schedule`."""

    def __init__(self, venue: Venue) -> None:
        self._venue = venue
        self.groups = Groups(venue, self)
        # Set by the matcher: tries to fill one working order at the newest quote, or fills it regardless of its price.
        self.match: Callable[[Order], None] = _no_matcher
        self.force_fill: Callable[[Order], bool] = _no_force
        # Set by the replacer: puts an order under a new id that nobody asked for.
        self.replace_by_venue: Callable[[Order], None] = _no_matcher

    # Acceptance -----------------------------------------------------------------------------------------------------

    def place(self, root: Order) -> None:
        """Take a checked order and its legs in; acceptance follows a moment later."""
        venue = self._venue
        for order in (root, *root.legs):
            venue.register(order)
        fault = venue.faults.strike("lookup_lag", account=root.account.name, symbol=root.symbol)
        if fault is not None:
            hidden = root.account.unfindable
            hidden.add(root.id)
            venue.schedule(fault.seconds(_LOOKUP_LAG_SECONDS), lambda: hidden.discard(root.id))
        venue.emit("pending_new", root)
        venue.schedule(venue.settings.accept_delay, lambda: self.accept(root))

    def accept(self, order: Order) -> None:
        """The venue has the order: it works from now on, or waits for its session."""
        if order.status != "pending_new":
            return
        if not self.can_work(order):
            order.status = "accepted"
            order.updated = self._venue.stamp()
            self._venue.queued[order.id] = order
            self._mirror(order)
            self._venue.emit("accepted", order)
            return
        if self._accept_badly(order):
            return
        self.start(order)

    def _accept_badly(self, order: Order) -> bool:
        """The faults that strike right after acceptance."""
        venue = self._venue
        name, symbol = order.account.name, order.symbol
        if venue.faults.strike("accepted_then_rejected", account=name, symbol=symbol):
            order.status = "new"
            order.updated = venue.stamp()
            venue.emit("new", order)
            venue.schedule(venue.settings.accept_delay, lambda: self.finish(order, "rejected"))
        elif venue.faults.strike("expired_early", account=name, symbol=symbol):
            order.status = "new"
            order.updated = venue.stamp()
            venue.emit("new", order)
            self.finish(order, "expired")
        elif venue.faults.strike("done_for_day", account=name, symbol=symbol):
            order.status = "done_for_day"
            order.updated = venue.stamp()
            venue.queued[order.id] = order
            self._mirror(order)
            venue.emit("done_for_day", order)
        else:
            return False
        return True

    def can_work(self, order: Order) -> bool:
        """Whether the order's session is on."""
        phase = self._venue.sessions.phase(self._venue.moment())
        if order.time_in_force == "opg":
            return False
        if phase == REGULAR:
            return True
        return order.extended_hours and phase in (PRE, POST)

    def start(self, order: Order) -> None:
        """Let an accepted order work, and an OCO's stop loss watch beside it."""
        venue = self._venue
        if venue.faults.strike("fill_withheld", account=order.account.name, symbol=order.symbol):
            order.withheld = True
            venue.note(order)
        self.work(order)
        group = order.group
        if group is not None and group.kind == "oco" and group.stop_loss is not None and order.is_open:
            group.active = True
            self.groups.start_exit(group.stop_loss)
        if venue.faults.strike("replaced_by_venue", account=order.account.name, symbol=order.symbol):
            self.replace_by_venue(order)
            return
        self.match(order)
        if order.is_open and order.time_in_force in ("ioc", "fok"):
            self.finish(order, "canceled")

    def _mirror(self, order: Order) -> None:
        """The legs of a multi-leg order have no life of their own: they show their parent's state."""
        if order.order_class != "mleg" or order.asset is not None:
            return
        for leg in order.legs:
            leg.updated = order.updated
            self._venue.note(leg)
            if leg.is_open:
                leg.status = order.status
            if not order.is_open:
                leg.canceled, leg.expired = order.canceled, order.expired
                leg.failed, leg.replaced = order.failed, order.replaced
                self._venue.retire(leg)

    def work(self, order: Order) -> None:
        """Make an order new and let quotes reach it; one for the closing auction waits for it."""
        venue = self._venue
        order.status = "new"
        order.updated = venue.stamp()
        if order.time_in_force == "cls":
            venue.at_close[order.id] = order
        else:
            venue.enter_book(order)
        self._mirror(order)
        venue.emit("new", order)

    def wake(self, order: Order) -> None:
        """The session of a queued order begins."""
        venue = self._venue
        venue.queued.pop(order.id, None)
        if order.status not in ("accepted", "done_for_day"):
            return
        if order.status == "done_for_day" and order.time_in_force != "gtc":
            self.finish(order, "expired")
            return
        if order.time_in_force == "opg":
            self.work(order)
            self.match(order)
        elif not self._accept_badly(order):
            self.start(order)

    def match_soon(self, order: Order) -> None:
        """Look at an order a moment later: what has just begun to work may already be marketable."""
        self._venue.schedule(self._venue.settings.accept_delay, lambda: self._match_if_open(order))

    def _match_if_open(self, order: Order) -> None:
        if order.is_open:
            self.match(order)

    # End ------------------------------------------------------------------------------------------------------------

    def finish(self, order: Order, status: str) -> None:
        """End an order without a fill; its group follows, and a leg of a multi-leg order takes the whole with it."""
        if order.order_class == "mleg" and order.parent is not None:
            order = order.parent
        if not order.is_open:
            return
        venue = self._venue
        venue.retire(order)
        stamp = venue.stamp()
        order.status = status
        order.updated = stamp
        if status == "canceled":
            order.canceled = stamp
        elif status == "expired":
            order.expired = stamp
        elif status == "rejected":
            order.failed = stamp
        elif status == "replaced":
            order.replaced = stamp
        self._mirror(order)
        venue.emit(status, order)
        self.groups.after_finish(order)

    # Cancel ---------------------------------------------------------------------------------------------------------

    def request_cancel(self, order: Order) -> None:
        """Acknowledge a cancel; it takes effect a moment later, and a fill can still win."""
        if order.status == "pending_cancel":
            return
        venue = self._venue
        name, symbol = order.account.name, order.symbol
        order.cancel_requested = venue.stamp()
        venue.note(order)
        if venue.faults.strike("cancel_lost", account=name, symbol=symbol):
            return
        order.prior_status = order.status
        order.status = "pending_cancel"
        order.updated = order.cancel_requested
        delay = venue.settings.cancel_delay
        slow = venue.faults.strike("cancel_slow", account=name, symbol=symbol)
        if slow is not None:
            delay = slow.seconds(_CANCEL_SLOW_SECONDS)
            venue.emit("pending_cancel", order)
        fills = venue.faults.strike("cancel_then_filled", account=name, symbol=symbol) is not None
        venue.schedule(delay, lambda: self._complete_cancel(order, fills))

    def resume_cancel(self, order: Order) -> None:
        """Carry a cancel out that was acknowledged before the venue was restarted."""
        venue = self._venue
        venue.schedule(venue.settings.cancel_delay, lambda: self._complete_cancel(order, fills=False))

    def _complete_cancel(self, order: Order, fills: bool) -> None:
        if not order.is_open:
            self._venue.emit("order_cancel_rejected", order)
            return
        if fills and self.force_fill(order):
            return
        self.finish(order, "canceled")


def _no_matcher(order: Order) -> None:
    raise RuntimeError(f"no matcher is attached, order {order.id} cannot be matched")


def _no_force(order: Order) -> bool:
    raise RuntimeError(f"no matcher is attached, order {order.id} cannot be filled")
