"""What the hours of a trading day demand: openings, auctions, expiries, liquidation, settlement, the next morning."""

from collections.abc import Callable
from datetime import datetime, timedelta

from exitguard.core.session import Session
from exitguard.paper.engine.balances import balances
from exitguard.paper.engine.equity import MINUTE
from exitguard.paper.engine.lifecycle import Lifecycle
from exitguard.paper.engine.listing import Listing
from exitguard.paper.engine.matching import Matcher
from exitguard.paper.engine.model import TERMINAL, Account, Order
from exitguard.paper.engine.sessions import LIQUIDATION_LEAD
from exitguard.paper.engine.settlement import Settlement
from exitguard.paper.engine.venue import Venue
from exitguard.paper.engine.wire import microseconds, moment_of

_LIQUIDATION_EVERY = timedelta(minutes=10)
_GTC_SWEEP_AFTER_CLOSE = timedelta(minutes=15)
_CONTRACTS_KEPT = timedelta(days=7)


class TradingDay:
    """Works off session boundaries in order, each at its own time, however far the host's clock has jumped."""

    def __init__(
        self, venue: Venue, lifecycle: Lifecycle, matcher: Matcher, settlement: Settlement, listing: Listing
    ) -> None:
        self._venue = venue
        self._lifecycle = lifecycle
        self._matcher = matcher
        self._settlement = settlement
        self._listing = listing
        self._agenda: list[tuple[datetime, Callable[[], None]]] = []
        self._plan(venue.sessions.session_for(venue.moment(), extended=True), venue.moment())
        self.done_at = venue.moment()
        self.next_at = self._agenda[0][0]
        # The minute that is running, and its end: what accounts are worth is kept when it is over.
        self._minute = microseconds(venue.moment()) // MINUTE * MINUTE
        self._minute_ends = moment_of(self._minute + MINUTE)

    def advance_to(self, now: datetime) -> None:
        """Do everything that is due at `now`."""
        while self.next_at <= now:
            at, act = self._agenda.pop(0)
            if at >= self._minute_ends:
                self._end_minute(at)
            self._venue.boundary = at
            self._venue.note_everything()
            try:
                act()
                if not self._agenda:
                    self._plan(self._venue.sessions.session_after(at), at)
            finally:
                self._venue.boundary = None
            self.done_at = at
            self.next_at = self._agenda[0][0]
        if now >= self._minute_ends:
            self._end_minute(now)

    def _end_minute(self, now: datetime) -> None:
        """Keep what every account was worth at the end of the minute that was running, and begin the one of `now`."""
        for account in self._venue.accounts.values():
            account.equity.add(self._minute, balances(account).equity)
        self._minute = microseconds(now) // MINUTE * MINUTE
        self._minute_ends = moment_of(self._minute + MINUTE)

    def resume(self, done_at: datetime) -> None:
        """Go on as after the boundary at `done_at`: what has become due since is done at the next advance."""
        self._agenda = []
        self._plan(self._venue.sessions.session_for(done_at, extended=True), done_at)
        self.done_at = done_at
        self.next_at = self._agenda[0][0]

    def _plan(self, session: Session, after: datetime) -> None:
        """The agenda of one session, from `after` on; that of the session following it when nothing is left."""
        agenda: list[tuple[datetime, Callable[[], None]]] = [
            (session.pre_open, lambda: self._begin_day(session)),
            (session.open, self._open),
        ]
        at = session.close - LIQUIDATION_LEAD
        while at < session.close:
            agenda.append((at, lambda: self._settlement.liquidate_expiring(session.day)))
            at += _LIQUIDATION_EVERY
        agenda.append((session.close, lambda: self._close(session)))
        agenda.append((session.close + _GTC_SWEEP_AFTER_CLOSE, self._expire_due))
        agenda.append((session.post_close, self._expire_due))
        agenda.sort(key=lambda entry: entry[0])
        self._agenda = [entry for entry in agenda if entry[0] > after]
        if not self._agenda:
            self._plan(self._venue.sessions.session_after(after), after)

    # The hours ------------------------------------------------------------------------------------------------------

    def _begin_day(self, session: Session) -> None:
        """04:00: yesterday becomes yesterday, and extended hours begin."""
        venue = self._venue
        for asset in venue.assets.values():
            price = asset.price
            if price and (asset.good is not None or asset.print_price is not None):
                asset.lastday_price = price
            asset.lastday = session.day
        for account in venue.accounts.values():
            now = balances(account)
            account.last_equity = now.equity
            account.last_maintenance_margin = now.maintenance_margin
            account.balance_date = venue.today()
            account.do_not_exercise.clear()
            thinned = account.equity.thin(venue.sessions.calendar, microseconds(venue.moment()))
            account.equity_thinned = thinned or account.equity_thinned
            self._forget(account)
        self._settlement.post_activities()
        self._listing.prune(session.day - _CONTRACTS_KEPT)
        self._wake(extended_only=True)

    def _open(self) -> None:
        self._wake(extended_only=False)

    def _wake(self, *, extended_only: bool) -> None:
        for order in list(self._venue.queued.values()):
            if order.is_open and (not extended_only or order.extended_hours):
                self._lifecycle.wake(order)

    def _close(self, session: Session) -> None:
        """The close: the closing auction, the end of day orders, then the options that expire."""
        venue = self._venue
        for order in list(venue.at_close.values()):
            self._fill_at_close(order)
        self._expire_due()
        self._settlement.settle_expired(session.day)

    def _fill_at_close(self, order: Order) -> None:
        asset = order.asset
        quote = asset.good if asset is not None else None
        if asset is not None and quote is not None and not asset.halted:
            price = quote.ask if order.side == "buy" else quote.bid
            limit = order.limit_price
            if price and (limit is None or (price <= limit if order.side == "buy" else price >= limit)):
                self._matcher.execute(order, asset, price)
        if order.is_open:
            self._lifecycle.finish(order, "canceled")

    def _expire_due(self) -> None:
        """End every order whose time is over."""
        now = microseconds(self._venue.moment())
        for account in self._venue.accounts.values():
            for order in list(account.open.values()):
                if order.is_open and order.expires is not None and order.expires <= now:
                    self._lifecycle.finish(order, "expired")

    # Memory ---------------------------------------------------------------------------------------------------------

    def _forget(self, account: Account) -> None:
        """Drop the oldest ended orders and activities beyond the bound; a client's order id stays taken for ever."""
        settings = self._venue.settings
        excess = len(account.orders) - settings.orders_kept
        if excess > 0:
            for order in list(account.orders.values()):
                if excess <= 0:
                    break
                family_ended = order.status in TERMINAL and all(leg.status in TERMINAL for leg in order.legs)
                if family_ended and (order.parent is None or order.parent.id not in account.orders):
                    for member in (order, *order.legs):
                        if account.orders.pop(member.id, None) is not None:
                            account.by_client_id[member.client_order_id] = None
                            if self._venue.changes is not None:
                                self._venue.changes.forgotten.append((account.name, member.id))
                            excess -= 1
        surplus = len(account.activities) - settings.activities_kept
        if surplus > 0:
            for _, activity in account.activities[:surplus]:
                del account.activity_positions[activity["id"]]
            del account.activities[:surplus]
            account.activities_dropped += surplus
