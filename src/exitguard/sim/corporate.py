"""What a broker does to positions by itself: liquidation, assignment, exercise, splits, and accounts full of orders."""

from collections.abc import Callable
from datetime import date
from decimal import Decimal
from random import Random

from exitguard.broker.port import Activity
from exitguard.core.instrument import Instrument, InstrumentType, parse_instrument
from exitguard.core.orders import OrderClass, OrderStatus, OrderType, PositionIntent
from exitguard.core.orders import OrderSide as Side
from exitguard.core.session import NEW_YORK
from exitguard.sim.exchange import SimExchange
from exitguard.sim.memory_book import ZERO, BookOrder
from exitguard.sim.trouble import TroubleSurroundings

# More than one page of the broker's list (500 at Alpaca).
MANY = 501
# A stock that nobody of ours holds.
CROWDED = "F"
# Seconds after which an activity tells at the latest; on a paper account it is the next day.
MAX_SILENCE = 240.0


class Corporate:
    """Makes things happen to positions that no order tells of."""

    def __init__(self, world: TroubleSurroundings) -> None:
        self._world = world
        self._split_already: set[str] = set()
        self.kinds: dict[str, Callable[[Random], bool]] = {
            "liquidation": self._liquidate,
            "assignment": self._assign,
            "split": self._split,
            "many_orders": self._crowd,
        }

    def _say(self, text: str, about: str) -> None:
        self._world.timeline.note("broker", text, about)

    def _held(self, rng: Random, *, options: bool) -> tuple[SimExchange, str, Decimal] | None:
        found = [
            (exchange, symbol, qty)
            for exchange in self._world.exchanges.values()
            for symbol, (qty, _) in sorted(exchange.held.items())
            if parse_instrument(symbol).is_option is options
        ]
        return rng.choice(found) if found else None

    def _liquidate(self, rng: Random) -> bool:
        """The broker's risk desk sells (or buys back) the contracts of an account."""
        held = self._held(rng, options=True)
        if held is None:
            return False
        exchange, symbol, qty = held
        self._say(f"liquidates {qty} {symbol}", exchange.account_name)
        exchange.trade_by_hand(symbol, -qty)
        return True

    def _assign(self, rng: Random) -> bool:
        """A short contract is assigned, a long one exercised: it is gone, and its shares may be there."""
        held = self._held(rng, options=True)
        if held is None:
            return False
        exchange, symbol, qty = held
        part = qty if rng.random() < 0.7 or abs(qty) < 2 else (qty / 2).to_integral_value()
        instrument = parse_instrument(symbol)
        kind = "OPASN" if qty < 0 else "OPEXC"
        now = self._world.now()
        number, day = f"{kind}-{now:%H%M%S.%f}", now.astimezone(NEW_YORK).date()
        exchange.cancel_resting(symbol)
        self._say(f"{kind}: {part} of {qty} {symbol}", exchange.account_name)
        told_in = rng.uniform(0, MAX_SILENCE) if rng.random() < 0.5 else 0.0
        self._tell(exchange, Activity(number, kind, symbol, abs(part), ZERO, ZERO, day), told_in)
        exchange.change_without_order(symbol, -part, ZERO)
        contracts = part * (1 if instrument.type is InstrumentType.CALL else -1)
        self._deliver(exchange, instrument, contracts, day, told_in)
        return True

    def _tell(self, exchange: SimExchange, activity: Activity, told_in: float) -> None:
        """Activities may come long after what they tell of."""
        self._world.later(told_in, exchange.all_activities.append, activity)

    def _deliver(
        self, exchange: SimExchange, option: Instrument, contracts: Decimal, day: date, told_in: float
    ) -> None:
        """The shares of an exercise or an assignment come or go at the strike; what rests in their way is cancelled."""
        stock, shares = option.underlying, contracts * option.multiplier
        if stock not in exchange.quotes:
            return
        if exchange.held.get(stock, (ZERO, ZERO))[0] * shares < 0:
            exchange.cancel_resting(stock)
        number, strike = f"OPTRD-{self._world.now():%H%M%S.%f}", option.strike or ZERO
        self._tell(exchange, Activity(number, "OPTRD", stock, shares, strike, -shares * strike, day), told_in)
        exchange.deliveries.append((self._world.now(), stock, shares))
        exchange.change_without_order(stock, shares, strike)

    def _split(self, rng: Random) -> bool:
        """Two shares for one, over night as everywhere: quantity doubled, price halved, resting orders gone."""
        held = self._held(rng, options=False)
        if held is None or self._world.calendar.is_open(self._world.now()):
            return False
        symbol = held[1]
        if symbol in self._split_already:
            return False
        self._split_already.add(symbol)
        self._world.split(symbol, 2)
        for exchange in self._world.exchanges.values():
            exchange.cancel_resting(symbol)
            exchange.splits.append((self._world.now(), symbol, Decimal(2)))
            qty, _ = exchange.held.get(symbol, (ZERO, ZERO))
            if qty:
                self._say(f"splits {qty} {symbol} two for one", exchange.account_name)
                exchange.change_without_order(symbol, qty, ZERO)
        return True

    def _crowd(self, rng: Random) -> bool:
        """Somebody has more orders open than one page of the list shows, and takes them back after a while."""
        exchange = rng.choice(sorted(self._world.exchanges.values(), key=lambda e: e.account_name))
        if any(order.symbol == CROWDED for order in exchange.orders.values()):
            return False
        now = self._world.now()
        for number in range(MANY):
            name = f"crowd-{now:%H%M%S}-{number}"
            exchange.orders[name] = BookOrder(
                name, name, CROWDED, Side.BUY, Decimal(1), OrderType.LIMIT, OrderClass.SIMPLE, Decimal(1), None,
                PositionIntent.BUY_TO_OPEN, OrderStatus.NEW, now, now, name,
            )  # fmt: skip
        self._say(f"{MANY} orders of {CROWDED} rest in the account", exchange.account_name)
        self._world.later(rng.uniform(20, 60), self._disperse, exchange)
        return True

    def _disperse(self, exchange: SimExchange) -> None:
        crowd = [order for order in exchange.orders.values() if order.symbol == CROWDED]
        for order in crowd:
            order.status, order.updated_at = OrderStatus.CANCELED, self._world.now()
        self._world.later(120, self._forget, exchange)

    @staticmethod
    def _forget(exchange: SimExchange) -> None:
        for name in [order.id for order in exchange.orders.values() if order.symbol == CROWDED]:
            del exchange.orders[name]
