"""Conducts the day: moves the exchange's clock minute by minute, and waits for every manager before the next minute.

So a slow machine is slower and never wrong: no manager can fall behind the market.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from exitguard.cli.demo.children import Children
from exitguard.cli.demo.scenario import TROUBLE_IN_WORDS, Day, Expiry, Provocation, SignalPlan, Trouble
from exitguard.cli.demo.venue import Contract, Venue
from exitguard.cli.demo.watch import BreachWatch
from exitguard.core.errors import ExitguardError
from exitguard.core.quote import Quote
from exitguard.core.records import CommandVerb
from exitguard.core.session import NEW_YORK, Session
from exitguard.store.operator import Operator

# Wall seconds that a manager may take for one market minute before the demo gives up.
MINUTE_PATIENCE = 120.0
# Wall seconds that a dispatcher may take to look at new signals before the day goes on without it.
SIGNAL_PATIENCE = 30.0
# Wall seconds that closes under way may take at the end of a market minute before the day goes on without them.
CLOSE_PATIENCE = 1.0
_SIGNAL_LIFE = timedelta(minutes=10)
_POLL = 0.004
_CENT = Decimal("0.01")
SHOWN_EVENTS = (
    "created", "adopted", "exit_triggered", "closed", "reduced", "protection_changed", "bracket_restored",
    "bracket_failed", "close_failed", "alarm_raised", "foreign_order", "command", "entry_refused", "reconciled",
)  # fmt: skip


class DemoFailed(ExitguardError):
    """The demo cannot go on; says what stood still."""


@dataclass(slots=True)
class Snapshot:
    """What the screen shows after a minute."""

    now: datetime
    minute: int
    minutes: int
    positions: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    opened: dict[str, int] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    trouble: tuple[str, ...] = ()
    missed: int = 0


class Conductor:
    """One day of the demo. `accounts` are the names whose managers are waited for."""

    def __init__(
        self,
        venue: Venue,
        ledger: Operator,
        children: Children,
        day: Day,
        session: Session,
        contracts: list[Contract],
        accounts: tuple[str, ...],
        *,
        speed: float | None,
        on_minute: Callable[[Snapshot], Awaitable[None]],
    ) -> None:
        self._venue = venue
        self._ledger = ledger
        self._children = children
        self._day = day
        self._session = session
        self._accounts = accounts
        self._speed = speed
        self._on_minute = on_minute
        self._contracts = contracts
        self._expiries = sorted({c.expiry for c in contracts if c.expiry > session.day})
        self.watch = BreachWatch(session.close)
        self.trouble: list[str] = []
        self.minutes = int((session.close - session.open).total_seconds() // 60)
        self.played = 0

    async def run(self) -> None:
        """Play the session, and a few minutes after it. Raises DemoFailed, ChildFailed and others."""
        await self._managers_at(None)
        for minute in range(self.minutes + 2):
            moment = self._session.open + timedelta(minutes=minute)
            await self._act(minute, moment)
            reached = await self._venue.advance(moment + timedelta(minutes=1), self._speed)
            self._children.check()
            await self._managers_at(reached)
            await self._closes_settle()
            self.played = minute + 1
            await self._look(reached, minute + 1)
        await self._settle()

    # One minute -------------------------------------------------------------------------------------------------

    async def _act(self, minute: int, moment: datetime) -> None:
        signals = [s for s in self._day.signals if s.minute == minute]
        for provocation in (p for p in self._day.provocations if p.minute == minute):
            await self._provoke(provocation, moment)
        if not signals:
            return
        quotes = await self._venue.quotes(self._accounts[0], {s.ticker for s in signals})
        inserted: dict[str, int] = {}
        for plan in signals:
            row = self._row(plan, quotes, moment)
            if row is not None:
                (inserted[plan.account],) = await self._ledger.insert_recommendations([row])
        await self._dispatchers_saw(inserted)

    def _row(self, plan: SignalPlan, quotes: dict[str, Quote], moment: datetime) -> dict[str, object] | None:
        quote = quotes.get(plan.ticker)
        if quote is None or quote.bid <= 0 or quote.ask <= 0:
            return None
        contract = self._contract(plan, quote.mid) if plan.is_option else None
        if plan.is_option and contract is None:
            return None
        sign = -1 if plan.action.startswith("SELL_STOCK") else 1
        # Levels of an option are in premium, which only its own quote knows: the policy's percentages serve there.
        price = None if plan.is_option else quote.mid
        return {
            "account_name": plan.account,
            "ticker": plan.ticker,
            "option_symbol": contract.symbol if contract is not None else None,
            "action": plan.action,
            "strategy_type": plan.strategy,
            "qty": plan.qty,
            "stop_loss": _level(price, plan.stop_percent, -sign),
            "take_profit": _level(price, plan.target_percent, sign),
            "max_hold_minutes": plan.max_hold_minutes,
            "features": {"source": "demo"},
            "created_at": moment,
            "expires_at": moment + _SIGNAL_LIFE,
        }

    def _contract(self, plan: SignalPlan, spot: Decimal) -> Contract | None:
        """The contract nearest to the money."""
        index = 0 if plan.expiry is Expiry.NEAR else 1
        if len(self._expiries) <= index:
            return None
        call = plan.action != "BUY_PUT"
        fitting = [
            c
            for c in self._contracts
            if c.underlying == plan.ticker and c.is_call is call and c.expiry == self._expiries[index]
        ]
        return min(fitting, key=lambda c: (abs(c.strike - spot), c.symbol), default=None)

    async def _provoke(self, provocation: Provocation, moment: datetime) -> None:
        symbol = await self._apply_trouble(provocation)
        if symbol is None:
            return
        words = TROUBLE_IN_WORDS[provocation.trouble].format(symbol=symbol)
        local = moment.astimezone(NEW_YORK)
        self.trouble.append(f"{local:%H:%M} {provocation.account}: {words}")

    async def _apply_trouble(self, provocation: Provocation) -> str | None:
        """Do it; returns the symbol that it hit ("" for none in particular), None when there was nothing to hit."""
        account, venue = provocation.account, self._venue
        match provocation.trouble:
            case Trouble.LOSE_ANSWER:
                await venue.fault("http_504_after", account=account, endpoint="POST /v2/orders", count=1)
                return ""
            case Trouble.CUT_STREAM:
                await venue.fault("stream_disconnect", account=account, count=1)
                return ""
            case Trouble.BAD_QUOTES:
                await venue.fault("quote_crossed", symbol=provocation.symbols[0], count=6)
                return provocation.symbols[0]
        held = await self._held(account, provocation.symbols)
        return await self._hit(provocation.trouble, account, held) if held is not None else None

    async def _hit(self, trouble: Trouble, account: str, held: dict[str, Any]) -> str | None:
        """Trouble for one position."""
        symbol, venue = str(held["symbol"]), self._venue
        if trouble in (Trouble.CANCEL_LEG, Trouble.REFUSE_RESTORE) and not await venue.cancel_stop_leg(account, symbol):
            return None
        if trouble is Trouble.REFUSE_RESTORE:
            await venue.fault("accepted_then_rejected", account=account, symbol=symbol, count=2)
        elif trouble is Trouble.EXTERNAL_CLOSE:
            await venue.fault("external_close", account=account, symbol=symbol)
        elif trouble is Trouble.MANUAL_CLOSE:
            await self._ledger.insert_command(
                account, CommandVerb.CLOSE, requested_by="demo", position_id=held["id"], symbol=symbol
            )
        return symbol

    async def _held(self, account: str, symbols: tuple[str, ...]) -> dict[str, Any] | None:
        """The open position of the first of these symbols that has one."""
        mine = {row["symbol"]: row for row in await self._ledger.live_rows(account)}
        return next((mine[symbol] for symbol in symbols if symbol in mine), None)

    # Waiting ----------------------------------------------------------------------------------------------------

    async def _managers_at(self, moment: datetime | None) -> None:
        """Wait until every manager has swept at `moment`; None: until every one is there at all."""
        deadline = time.monotonic() + MINUTE_PATIENCE
        waiting: set[str] = set(self._accounts)
        while True:
            for beat in await self._ledger.heartbeats():
                if beat["component"] == "manager" and (moment is None or beat["venue_time"] >= moment):
                    waiting.discard(beat["account_name"])
            if not waiting:
                return
            self._children.check()
            if time.monotonic() > deadline:
                what = "did not start" if moment is None else f"has not reached market time {moment:%H:%M} UTC"
                raise DemoFailed(f"the manager of {', '.join(sorted(waiting))} {what} in {MINUTE_PATIENCE:.0f} s")
            await asyncio.sleep(_POLL)

    async def _closes_settle(self) -> None:
        """Wait for closes that the managers are busy with: a minute of this market is shorter than a round trip.

        A close whose order rests at the exchange waits for the market, not for us, so the market goes on.
        """
        deadline = time.monotonic() + CLOSE_PATIENCE
        while time.monotonic() < deadline:
            closing = [row for row in await self._ledger.live_rows() if row["status"] == "closing"]
            if not closing:
                return
            state = await self._venue.state()
            resting = {
                (name, order["symbol"])
                for name, account in state.items()
                for order in account["open_orders"]
                if order["order_class"] in ("", "simple")
            }
            if all((row["account_name"], row["symbol"]) in resting for row in closing):
                return
            await asyncio.sleep(_POLL)

    async def _dispatchers_saw(self, inserted: dict[str, int]) -> None:
        """Wait until each dispatcher has looked at its new signals; the market's clock stands still meanwhile."""
        deadline = time.monotonic() + SIGNAL_PATIENCE
        while time.monotonic() < deadline:
            seen = {
                beat["account_name"]: beat["details"].get("last_recommendation", 0)
                for beat in await self._ledger.heartbeats()
                if beat["component"] == "dispatcher"
            }
            if all(seen.get(name, 0) >= number for name, number in inserted.items()):
                return
            self._children.check()
            await asyncio.sleep(_POLL)

    async def _look(self, now: datetime, minute: int) -> None:
        positions = await self._ledger.live_rows()
        if positions:
            symbols = {row[name] for row in positions for name in ("symbol", "ticker")}
            quotes = await self._venue.quotes(self._accounts[0], symbols)
            self.watch.look(positions, quotes, now)
        await self._on_minute(
            Snapshot(
                now=now,
                minute=minute,
                minutes=self.minutes,
                positions=positions,
                events=await self._ledger.events(types=SHOWN_EVENTS, limit=14),
                opened=await self._ledger.opened_counts(),
                history=await self._ledger.history(),
                trouble=tuple(self.trouble),
                missed=len(self.watch.missed),
            )
        )

    async def _settle(self) -> None:
        """After the close: give closes that are under way the time to be booked."""
        deadline = time.monotonic() + 10.0
        while time.monotonic() < deadline:
            rows = await self._ledger.live_rows()
            unsettled = await self._ledger.unfinished()
            if not any(row["status"] == "closing" for row in rows) and not unsettled:
                return
            self._children.check()
            await asyncio.sleep(0.1)


def _level(price: Decimal | None, percent: Decimal | None, direction: int) -> Decimal | None:
    if price is None or percent is None:
        return None
    return (price * (1 + direction * percent / 100)).quantize(_CENT)
