"""One signal against one moment of the account and the market: an order to send, or why not. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal

from exitguard.core.evaluate import Watched, evaluate
from exitguard.core.instrument import InvalidSymbol, parse_instrument
from exitguard.core.marks import QuoteView
from exitguard.core.orders import BrokerAccount, BrokerOrder, BrokerPosition, OrderRequest, OrderSide
from exitguard.core.policy import Policy
from exitguard.core.quote import Quote, QuoteState
from exitguard.core.records import PositionRecord
from exitguard.core.session import SessionCalendar
from exitguard.dispatch.orders import build_request
from exitguard.dispatch.pricing import BracketLevels, Caps, NoPrice, Priced, bracket_levels, price_entry
from exitguard.dispatch.signal import Flaw, FlawKind, Signal, level_problem
from exitguard.dispatch.sizing import Book, Commitment, Declined, Limits, Sized, size_entry

ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Moment:
    """What the account and the market look like when signals are considered."""

    now: datetime
    calendar: SessionCalendar
    account: BrokerAccount
    book: Book
    quotes: dict[str, Quote]


@dataclass(frozen=True, slots=True)
class Plan:
    """An order to send, with the numbers that led to it."""

    signal: Signal
    request: OrderRequest
    sized: Sized
    priced: Priced

    def evidence(self) -> dict[str, object]:
        """The numbers as plain values for the event."""
        quote = self.priced.quote
        return {
            "bid": quote.bid,
            "ask": quote.ask,
            "quote_at": quote.at,
            "cost": self.sized.cost,
            "bound": self.sized.bound,
        }


def plan_entry(
    signal: Signal, order_id: str, moment: Moment, limits: Limits, policy: Policy, caps: Caps
) -> Plan | Flaw | NoPrice:
    """Turn a signal into an order. NoPrice means: ask again, the quote may become usable."""
    instrument, side = signal.instrument, signal.side
    quote = moment.quotes.get(instrument.symbol)
    priced = price_entry(instrument, side, quote, moment.now, policy.quote_limits, caps)
    if isinstance(priced, NoPrice):
        return priced
    problem = level_problem(signal, priced.quote.mid)
    if problem is not None:
        return Flaw(FlawKind.SET_ASIDE, problem)
    bracket: BracketLevels | None = None
    if not instrument.is_option:
        rules = policy.stocks
        found = bracket_levels(
            instrument, side, priced, signal.stop_loss, signal.take_profit,
            rules.stop_loss_percent, rules.take_profit_percent,
        )  # fmt: skip
        if isinstance(found, str):
            return Flaw(FlawKind.SKIPPED, found)
        bracket = found
    doomed = _doomed(signal, priced, moment, policy)
    if doomed is not None:
        return Flaw(FlawKind.SKIPPED, doomed)
    # A short is reserved at the ask plus a margin, whatever lower limit it is sent with.
    price = priced.limit if side.sign > 0 else max(priced.limit, priced.quote.ask)
    sized = size_entry(instrument, side, price, moment.account, moment.book, limits, signal.max_qty)
    if isinstance(sized, Declined):
        return Flaw(FlawKind.SKIPPED, sized.reason)
    return Plan(signal, build_request(signal, order_id, sized.qty, priced.limit, bracket), sized, priced)


def _doomed(signal: Signal, priced: Priced, moment: Moment, policy: Policy) -> str | None:
    """Nothing may be bought that the exit policy would sell at once (F110, F114; T3)."""
    instrument, calendar = signal.instrument, moment.calendar
    expires_at = calendar.session_on_or_before(instrument.expiry).close if instrument.expiry is not None else None
    if expires_at is not None and expires_at <= moment.now:
        return f"{instrument.symbol} has expired"
    minutes = signal.max_hold_minutes if signal.max_hold_minutes is not None else policy.max_hold_minutes
    fresh = Watched(
        instrument=instrument,
        side=signal.side,
        qty=Decimal(1),
        original_qty=Decimal(1),
        entry_price=priced.quote.mid,
        opened_at=moment.now,
        strategy=signal.strategy,
        max_hold_deadline=moment.now + timedelta(minutes=minutes),
        stop_loss=signal.stop_loss,
        take_profit=signal.take_profit,
        expires_at=expires_at,
    )
    view = QuoteView(priced.quote, QuoteState.LIVE, True)
    decision = evaluate(fresh, view, moment.now, calendar.current(moment.now), policy)
    if not decision.hits:
        return None
    hit = decision.hits[0]
    return f"the exit policy would close it at once: {hit.rule} ({hit.compared})"


@dataclass(frozen=True, slots=True)
class Underway:
    """An entry of ours that may not show in the broker's answers yet."""

    symbol: str
    client_order_id: str
    cost: Decimal


def build_book(
    positions: Iterable[BrokerPosition],
    orders: Iterable[BrokerOrder],
    recorded: Iterable[PositionRecord],
    underway: Iterable[Underway],
) -> Book:
    """Everything that counts against the limits. What only one side knows counts too (F30, F131)."""
    held: dict[str, Decimal] = {}
    found: dict[str, Commitment] = {}

    def add(symbol: str, dollars: Decimal, what: str) -> None:
        known = found.get(symbol)
        found[symbol] = Commitment(symbol, dollars, what) if known is None else replace(
            known, dollars=known.dollars + dollars
        )  # fmt: skip

    for position in positions:
        held[position.symbol] = position.qty
        add(position.symbol, _position_dollars(position), "the broker holds a position")
    shown = set()
    for order in orders:
        shown.add(order.client_order_id)
        if _opens(order, held):
            price = order.limit_price or order.stop_price or ZERO
            left = max(order.qty - order.filled_qty, ZERO)
            add(order.symbol, _dollars(order.symbol, left, price), "an entry order is open")
    for row in recorded:
        if row.symbol not in found:
            add(row.symbol, _dollars(row.symbol, row.quantity, row.entry_price), "the ledger has a position")
    unseen = ZERO
    for entry in underway:
        if entry.client_order_id not in shown and entry.symbol not in held:
            add(entry.symbol, entry.cost, "an entry is on its way")
            unseen += entry.cost
    return Book(tuple(found.values()), unseen)


def with_entry(book: Book, plan: Plan) -> Book:
    """The book after `plan` was sent: the next signal of the same round is checked against it."""
    entry = Commitment(plan.request.symbol, plan.sized.cost, "an entry is on its way")
    return Book((*book.commitments, entry), book.unseen_cost + plan.sized.cost)


def _opens(order: BrokerOrder, held: dict[str, Decimal]) -> bool:
    if order.position_intent is not None:
        return order.position_intent.endswith("_to_open")
    qty = held.get(order.symbol, ZERO)
    return qty <= 0 if order.side is OrderSide.SELL else qty >= 0


def _position_dollars(position: BrokerPosition) -> Decimal:
    if position.market_value is not None:
        return abs(position.market_value)
    return _dollars(position.symbol, abs(position.qty), position.current_price or position.avg_entry_price)


def _dollars(symbol: str, qty: Decimal, price: Decimal) -> Decimal:
    try:
        return abs(parse_instrument(symbol).notional(qty, price))
    except InvalidSymbol:
        # Something that we do not trade (crypto, a spread) still ties money up; one unit is one unit there.
        return abs(qty) * price
