"""Small builders for tests of the core: positions, quotes and moments with one line each."""

from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from exitguard.core.evaluate import Decision, Watched, evaluate
from exitguard.core.instrument import parse_instrument
from exitguard.core.marks import QuoteView, WideStreak, judge
from exitguard.core.policy import DEFAULT_POLICY, Policy
from exitguard.core.position import PositionSide
from exitguard.core.quote import Quote
from exitguard.core.session import NEW_YORK, Session, table_calendar

CALENDAR = table_calendar()
CALL = "AAPL250620C00200000"
PUT = "AAPL250620P00200000"
STOCK = "AAPL"
BLIND = QuoteView(
    None, judge(None, datetime(2025, 3, 3, tzinfo=NEW_YORK), DEFAULT_POLICY, WideStreak())[0].state, False
)


def ny(text: str) -> datetime:
    """A moment in New York wall time: `2025-03-03 10:00`, optionally with seconds."""
    return datetime.fromisoformat(text).replace(tzinfo=NEW_YORK)


OPENED = ny("2025-03-03 10:00")
LATER = OPENED + timedelta(minutes=45)


def session_of(moment: datetime) -> Session | None:
    return CALENDAR.current(moment)


def expires_at(symbol: str) -> datetime | None:
    expiry = parse_instrument(symbol).expiry
    return None if expiry is None else CALENDAR.session_on_or_before(expiry).close


def quote(
    symbol: str, bid: str | Decimal, ask: str | Decimal | None = None, at: datetime = LATER, **more: Any
) -> Quote:
    bid = Decimal(bid)
    return Quote(symbol, bid, bid if ask is None else Decimal(ask), at, **more)


def view(symbol: str, price: str | Decimal, at: datetime = LATER, policy: Policy = DEFAULT_POLICY) -> QuoteView:
    """A plainly live quote whose every basis is `price`."""
    seen, _ = judge(quote(symbol, price, at=at), at, policy, WideStreak())
    assert seen.usable
    return seen


def watched(symbol: str = CALL, entry: str | Decimal = "5.00", **changes: Any) -> Watched:
    values: dict[str, Any] = {
        "instrument": parse_instrument(symbol),
        "side": PositionSide.LONG,
        "qty": Decimal(10),
        "original_qty": Decimal(10),
        "entry_price": Decimal(entry),
        "opened_at": OPENED,
        "strategy": "swing",
        "max_hold_deadline": OPENED + timedelta(days=3),
        "expires_at": expires_at(symbol),
    }
    return Watched(**(values | changes))


def decide(
    position: Watched,
    price: str | Decimal | None,
    now: datetime = LATER,
    policy: Policy = DEFAULT_POLICY,
) -> Decision:
    """Evaluate with a live quote at `price`, or with none at all."""
    seen = BLIND if price is None else view(position.instrument.symbol, price, now, policy)
    return evaluate(position, seen, now, session_of(now), policy)


def rules(decision: Decision) -> list[str]:
    return [hit.rule.value for hit in decision.hits]


def day(text: str) -> date:
    return date.fromisoformat(text)
