"""Matching against the newest quote: buy at the ask, sell at the bid.

A buy stop triggers when the ask, a sell stop when the bid, or a print of either, reaches it. Alpaca turns a triggered
buy stop into a limit 4 % (under $50) or 2.5 % above it; so do we. Only a sane quote of the current session trades.
"""

from collections.abc import Callable, Sequence, Sized
from datetime import datetime
from decimal import ROUND_DOWN, Decimal

from exitguard.core.errors import InvalidInput
from exitguard.core.quote import Quote
from exitguard.paper.engine.ledger import Ledger
from exitguard.paper.engine.lifecycle import Lifecycle
from exitguard.paper.engine.model import ONE, ZERO, Asset, Book, Order
from exitguard.paper.engine.sessions import CLOSED, REGULAR
from exitguard.paper.engine.venue import Venue
from exitguard.paper.engine.wire import text

_FIFTY = Decimal(50)
_SHARE_STEP = Decimal("0.000000001")
_HUNDRED = Decimal(100)


class Matcher:
    """Takes quotes and prints, keeps the books' quiet bands, and fills."""

    def __init__(self, venue: Venue, ledger: Ledger, lifecycle: Lifecycle) -> None:
        self._venue = venue
        self._ledger = ledger
        self._lifecycle = lifecycle
        # Set by the multi-leg part: prices and fills one mleg order, and wakes those that contain a contract.
        self.match_mleg: Callable[[Order], None] = _no_mleg
        self.wake_mleg: Callable[[Asset], None] | None = None
        self.waiting_mlegs: Sized = ()
        lifecycle.match = self.match
        lifecycle.force_fill = self.force_fill

    # Market events --------------------------------------------------------------------------------------------------

    def on_quotes(self, quotes: Sequence[Quote]) -> None:
        """Take the newest quotes; those that a book waits for are matched."""
        for quote in quotes:
            asset = self._listed(quote)
            asset.quote = quote
            bid, ask = quote.bid, quote.ask
            if not (bid.is_finite() and ask.is_finite() and ZERO <= bid <= ask):
                continue
            # No bid is an everyday thing for an option and an error for a stock.
            if not ask or not (bid or asset.is_option):
                continue
            self._take_good(asset, quote)

    def on_sound_quotes(self, quotes: Sequence[Quote]) -> None:
        """Take quotes of option contracts whose maker vouches for them: an ask, and a bid that is not above it.

        Thousands come with each round of the market, nearly all of contracts that nobody has an order for.
        """
        assets = self._venue.assets
        watches = bool(self.waiting_mlegs)
        for quote in quotes:
            asset = assets.get(quote.symbol)
            if asset is None or asset.book is not None or watches:
                asset = self._listed(quote)
                asset.quote = quote
                self._take_good(asset, quote)
            else:
                asset.quote = asset.good = quote
                asset.print_price = None

    def _listed(self, quote: Quote) -> Asset:
        asset = self._venue.assets.get(quote.symbol)
        if asset is None:
            raise InvalidInput(f"quote for {quote.symbol!r}, which is not listed here: add_stock or add_option_chain")
        return asset

    def _take_good(self, asset: Asset, quote: Quote) -> None:
        asset.good = quote
        asset.print_price = None
        book = asset.book
        if book is not None:
            book.taken_bid = book.taken_ask = 0
            if book.has_orders:
                self.match_asset(asset, book, quote)
        if self.waiting_mlegs and self.wake_mleg is not None and asset.is_option:
            self.wake_mleg(asset)

    def on_trade(self, symbol: str, price: Decimal, at: datetime) -> None:
        """Take a print: it marks the asset and triggers stops, which then fill at the quote."""
        asset = self._venue.assets.get(symbol)
        if asset is None:
            raise InvalidInput(f"trade in {symbol!r}, which is not listed here: add_stock or add_option_chain")
        if not price.is_finite() or price <= 0:
            return
        asset.print_price = price
        book = asset.book
        quote = self._tradable_quote(asset) if book is not None and book.stops else None
        if book is None or quote is None or at < self._venue.sessions.floor:
            return
        for order in list(book.stops.values()):
            reached = order.stop_price is not None and (
                price >= order.stop_price if order.side == "buy" else price <= order.stop_price
            )
            if reached and self._may_match(order):
                self._trigger(order)
                self._attempt(order, asset, quote)

    def match_asset(self, asset: Asset, book: Book, quote: Quote) -> None:
        """Match a book against a sane quote that has just arrived."""
        if asset.halted:
            return
        venue = self._venue
        phase = venue.sessions.phase(venue.moment())
        if phase == CLOSED or quote.at < venue.sessions.floor:
            return
        if book.stale:
            _measure(book)
        if book.trailing:
            for order in list(book.trailing.values()):
                if self._may_match(order):
                    self._trail(order, quote)
        for order in _reached(book, quote):
            if order.is_open and self._may_match(order):
                self._attempt(order, asset, quote)

    def match(self, order: Order) -> None:
        """Try one working order at the newest quote."""
        asset = order.asset
        if asset is None:
            self.match_mleg(order)
            return
        quote = self._tradable_quote(asset)
        if quote is not None and self._may_match(order) and _in_book(order, asset.book):
            if order.type == "trailing_stop" and not order.triggered:
                self._trail(order, quote)
            else:
                self._attempt(order, asset, quote)

    def _tradable_quote(self, asset: Asset) -> Quote | None:
        """The newest quote when it may trade now: sane, of this session, and the symbol is not halted."""
        venue = self._venue
        quote = asset.good
        if quote is None or quote is not asset.quote or asset.halted:
            return None
        if venue.sessions.phase(venue.moment()) == CLOSED or quote.at < venue.sessions.floor:
            return None
        return quote

    def _may_match(self, order: Order) -> bool:
        phase = self._venue.sessions.phase(self._venue.moment())
        return not order.withheld and (phase == REGULAR or (order.extended_hours and phase != CLOSED))

    # Stops ----------------------------------------------------------------------------------------------------------

    def _trail(self, order: Order, quote: Quote) -> None:
        """Move a trailing stop with the market, or trigger it."""
        price = quote.bid if order.side == "sell" else quote.ask
        if not price:
            return
        mark = order.high_water_mark
        better = mark is None or (price > mark if order.side == "sell" else price < mark)
        if better:
            trail = (
                order.trail_price if order.trail_price is not None else price * (order.trail_percent or ZERO) / _HUNDRED
            )
            order.high_water_mark = price
            self._venue.note(order)
            stop = price - trail if order.side == "sell" else price + trail
            order.stop_price = stop.quantize(Decimal("0.0001" if stop < 1 else "0.01"))
            return
        stop_price = order.stop_price
        if stop_price is not None and (price <= stop_price if order.side == "sell" else price >= stop_price):
            self._trigger(order)
            if order.asset is not None:
                self._attempt(order, order.asset, quote)

    def _trigger(self, order: Order) -> None:
        """Turn a stop into what it becomes; a stop loss first cancels its take profit."""
        order.triggered = True
        self._venue.note(order)
        self._venue.leave_book(order)
        self._lifecycle.groups.on_trigger(order)
        self._venue.enter_book(order)

    # Fills ----------------------------------------------------------------------------------------------------------

    def _attempt(self, order: Order, asset: Asset, quote: Quote) -> None:
        is_buy = order.side == "buy"
        price = quote.ask if is_buy else quote.bid
        if not price:
            return
        if not order.triggered and order.type in ("stop", "stop_limit"):
            stop = order.stop_price
            if stop is None or (price < stop if is_buy else price > stop):
                return
            self._trigger(order)
        limit = self._effective_limit(order)
        if limit is not None and (price > limit if is_buy else price < limit):
            if order.time_in_force == "opg":
                self._lifecycle.finish(order, "canceled")
            return
        self.execute(order, asset, price, quote)

    def _effective_limit(self, order: Order) -> Decimal | None:
        if order.limit_price is not None:
            return order.limit_price
        if order.type == "stop" and order.side == "buy" and order.stop_price is not None:
            settings = self._venue.settings
            collar = settings.market_collar_below_50 if order.stop_price < _FIFTY else settings.market_collar
            return order.stop_price * collar
        return None

    def execute(self, order: Order, asset: Asset, price: Decimal, quote: Quote | None = None) -> None:
        """Fill an order at `price`, as far as position, displayed size, chance and faults let it."""
        wanted = order.remaining if order.qty is not None else _shares_for(order, price)
        allowed = self._up_to_flat(order, wanted)
        if allowed <= 0:
            self._lifecycle.finish(order, "canceled")
            return
        qty, why = self._executable(order, asset, allowed, quote)
        if qty <= 0:
            return
        if order.time_in_force == "fok" and qty < wanted:
            return
        overfill = None
        if order.qty is not None and qty >= order.remaining:
            overfill = self._venue.faults.strike("overfill", account=order.account.name, symbol=order.symbol)
        if overfill is not None:
            qty += Decimal(str(overfill.number("qty", 1)))
        self.fill(order, asset, qty, price)
        if not order.is_open:
            return
        if why == "cancel" or allowed < wanted:
            self._lifecycle.finish(order, "canceled")
        elif why == "refill":
            self._venue.schedule(self._venue.settings.refill_delay, lambda: self._again(order))

    def _again(self, order: Order) -> None:
        if order.is_open:
            self.match(order)

    def _executable(self, order: Order, asset: Asset, wanted: Decimal, quote: Quote | None) -> tuple[Decimal, str]:
        """How much of `wanted` fills at once, and what becomes of the rest: nothing, a later try, or a cancel."""
        venue = self._venue
        qty, why = wanted, ""
        if venue.settings.respect_sizes and quote is not None:
            qty = min(qty, self._displayed(asset.own_book(), order.side, quote))
            if qty <= 0:
                return ZERO, ""
        if order.qty is None:
            return qty, why
        name, symbol = order.account.name, order.symbol
        fault = venue.faults.strike("partial_fill_then_cancel", account=name, symbol=symbol)
        if fault is not None:
            return part_of(qty, fault.number("fraction", 0.5)), "cancel"
        fault = venue.faults.strike("partial_fill", account=name, symbol=symbol)
        if fault is not None:
            return part_of(qty, fault.number("fraction", 0.5)), "refill"
        probability = venue.settings.partial_fill_probability
        if probability and order.time_in_force != "fok":
            chance = order.account.identifiers.chance
            if chance.random() < probability:
                return part_of(qty, chance.random()), "refill"
        if venue.settings.respect_sizes and quote is not None:
            self._take(asset.own_book(), order.side, qty)
        return qty, why

    @staticmethod
    def _displayed(book: Book, side: str, quote: Quote) -> Decimal:
        return Decimal(quote.ask_size - book.taken_ask if side == "buy" else quote.bid_size - book.taken_bid)

    @staticmethod
    def _take(book: Book, side: str, qty: Decimal) -> None:
        whole = int(qty.to_integral_value(ROUND_DOWN)) or 1
        if side == "buy":
            book.taken_ask += whole
        else:
            book.taken_bid += whole

    @staticmethod
    def _up_to_flat(order: Order, wanted: Decimal) -> Decimal:
        """No order crosses zero: what would open the other side is cut off."""
        position = order.account.position_qty(order.symbol)
        against = -position if order.side == "buy" else position
        if order.is_closing:
            return min(wanted, max(against, ZERO))
        return ZERO if against > 0 else wanted

    def fill(self, order: Order, asset: Asset, qty: Decimal, price: Decimal) -> None:
        """Book an execution, tell the listeners and let the group follow."""
        execution = self._ledger.book(order, asset, qty, price)
        self._venue.emit(
            "fill" if order.status == "filled" else "partial_fill",
            order,
            execution_id=execution.execution_id,
            price=text(price),
            qty=text(qty),
            position_qty=text(order.account.position_qty(asset.symbol)),
        )
        self._lifecycle.groups.after_fill(order)

    def force_fill(self, order: Order) -> bool:
        """Fill an order although it is being cancelled: at its limit, else at the newest quote; False without one."""
        asset = order.asset
        if asset is None or asset.good is None or order.status == "held":
            return False
        touch = asset.good.ask if order.side == "buy" else asset.good.bid
        price = order.limit_price if order.limit_price is not None else touch
        qty = self._up_to_flat(order, order.remaining if order.qty is not None else _shares_for(order, price or ONE))
        if not price or qty <= 0:
            return False
        self.fill(order, asset, qty, price)
        if order.is_open:
            self._lifecycle.finish(order, "canceled")
        return True


def _no_mleg(order: Order) -> None:
    raise RuntimeError(f"multi-leg order {order.id} without a multi-leg matcher")


def _in_book(order: Order, book: Book | None) -> bool:
    key = order.id
    if book is None:
        return False
    return key in book.immediate or key in book.limits or key in book.stops or key in book.trailing


def _shares_for(order: Order, price: Decimal) -> Decimal:
    """Shares that a notional order buys at `price`."""
    return ((order.notional or ZERO) / price).quantize(_SHARE_STEP, ROUND_DOWN)


def part_of(qty: Decimal, fraction: float) -> Decimal:
    """A part of a quantity: whole units when it is whole, and at least one; all of it when it cannot be divided."""
    share = Decimal(str(round(fraction, 6)))
    if qty == qty.to_integral_value():
        return min(max((qty * share).to_integral_value(ROUND_DOWN), ONE), qty)
    return min(max((qty * share).quantize(_SHARE_STEP, ROUND_DOWN), _SHARE_STEP), qty)


def _measure(book: Book) -> None:
    """Recompute the quiet band after orders came or went."""
    buys = [o.limit_price for o in book.limits.values() if o.side == "buy" and o.limit_price is not None]
    sells = [o.limit_price for o in book.limits.values() if o.side == "sell" and o.limit_price is not None]
    buy_stops = [o.stop_price for o in book.stops.values() if o.side == "buy" and o.stop_price is not None]
    sell_stops = [o.stop_price for o in book.stops.values() if o.side == "sell" and o.stop_price is not None]
    book.highest_buy_limit = max(buys, default=None)
    book.lowest_sell_limit = min(sells, default=None)
    book.lowest_buy_stop = min(buy_stops, default=None)
    book.highest_sell_stop = max(sell_stops, default=None)
    book.stale = False


def _reached(book: Book, quote: Quote) -> list[Order]:
    """The orders that a quote may fill or trigger, oldest first; none, and cheaply, inside the quiet band."""
    bid, ask = quote.bid, quote.ask
    reached = list(book.immediate.values()) if book.immediate else []
    if (book.highest_buy_limit is not None and ask <= book.highest_buy_limit) or (
        book.lowest_sell_limit is not None and bid >= book.lowest_sell_limit
    ):
        reached += book.limits.values()
    if (book.lowest_buy_stop is not None and ask >= book.lowest_buy_stop) or (
        book.highest_sell_stop is not None and bid <= book.highest_sell_stop
    ):
        reached += book.stops.values()
    if len(reached) > 1:
        reached.sort(key=lambda order: order.sequence)
    return reached
