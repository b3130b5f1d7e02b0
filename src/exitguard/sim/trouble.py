"""Faults that come by themselves, at random times: outages, silence, crashes, and people at the dashboard."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from random import Random
from typing import Protocol

from exitguard.core.orders import BrokerOrder, OrderSide, OrderStatus, OrderType, TradeUpdate
from exitguard.sim.exchange import SimExchange
from exitguard.sim.machine import Machine, MachineSurroundings
from exitguard.sim.memory_book import ZERO
from exitguard.sim.scenario import STRANGER, PricePath


class TroubleSurroundings(MachineSurroundings, Protocol):
    """What trouble needs of the simulated world."""

    machines: list[Machine]
    paths: dict[str, PricePath]

    def split(self, symbol: str, factor: int) -> None:
        """Make `factor` shares of one: from now on each costs so much less."""
        ...


class Trouble:
    """Makes things happen."""

    def __init__(self, world: TroubleSurroundings) -> None:
        self._world = world
        self.kinds: dict[str, Callable[[Random], bool]] = {
            "stream_unknown": self._babble,
            "stream_mute": self._mute_stream,
            "stream_break": self._break_stream,
            "stream_blocked": self._block_stream,
            "rate_limited": self._limit_rate,
            "halt": self._halt,
            "journal_full": self._fill_disk,
            "clock_jump": self._stop_clock,
            "market_mute": self._mute_market,
            "broker_down": self._broker_down,
            "store_outage": self._store_outage,
            "external_close": self._external_close,
            "external_add": self._external_add,
            "external_flip": self._external_flip,
            "external_open": self._external_open,
            "leg_cancelled": self._cancel_leg,
            "crash": self._crash,
            "pause": self._pause,
        }

    async def keep_happening(self, name: str) -> None:
        """Let one kind of trouble happen until the faults stop."""
        faults = self._world.faults
        rng = faults.rng(name)
        while True:
            await asyncio.sleep(rng.expovariate(1 / faults.strength[name]))
            if faults.over:
                return
            if self.kinds[name](rng):
                faults.count(name)

    def _say(self, text: str, about: str = "") -> None:
        self._world.timeline.note("world", text, about)

    def _running(self, rng: Random) -> Machine | None:
        running = [m for m in self._world.machines if m.process is not None and m.trades is not None]
        return rng.choice(running) if running else None

    # Sockets ----------------------------------------------------------------------------------------------------

    def _babble(self, rng: Random) -> bool:
        machine = self._running(rng)
        if machine is None or machine.trades is None:
            return False
        now = self._world.now()
        stranger = BrokerOrder(
            "stranger", "stranger", rng.choice(("???", STRANGER)), OrderSide.BUY, OrderStatus.UNRECOGNISED, Decimal(1),
            ZERO, None, None, "", None, None, now, now,
        )  # fmt: skip
        machine.trades.babble(rng.choice((None, TradeUpdate("never_heard_of", stranger, now))))
        return True

    def _mute_stream(self, rng: Random) -> bool:
        machine = self._running(rng)
        if machine is None or machine.trades is None or machine.trades.mute:
            return False
        machine.trades.mute = True
        self._say(f"the trade stream of {machine.name} goes silent", machine.account)
        self._world.later(rng.uniform(10, 300), machine.trades.come_up)
        return True

    def _break_stream(self, rng: Random) -> bool:
        machine = self._running(rng)
        if machine is None or machine.trades is None or machine.trades.mute:
            return False
        machine.trades.break_off()
        self._world.later(rng.uniform(0.5, 90), machine.trades.come_up)
        return True

    def _block_stream(self, rng: Random) -> bool:
        machine = self._running(rng)
        if machine is None or machine.trades is None or machine.trades.mute:
            return False
        trades = machine.trades
        self._say(f"the trade stream of {machine.name} cannot come back for 90 s", machine.account)
        trades.break_off()
        for seconds in (1, 3, 7, 15, 30, 60):
            self._world.later(seconds, trades.refuse)
        self._world.later(90, trades.come_up)
        return True

    def _mute_market(self, rng: Random) -> bool:
        machine = self._running(rng)
        if machine is None or machine.market is None:
            return False
        market = machine.market
        market.mute = True
        self._say(f"quotes to {machine.name} stop", machine.account)
        self._world.later(rng.uniform(10, 240), setattr, market, "mute", False)
        return True

    # Services ---------------------------------------------------------------------------------------------------

    def _broker_down(self, rng: Random) -> bool:
        self._world.broker_down_until = self._world.now() + timedelta(seconds=rng.uniform(2, 90))
        self._say(f"the broker answers nothing until {self._world.broker_down_until:%H:%M:%S} UTC")
        return True

    def _limit_rate(self, rng: Random) -> bool:
        self._world.rate_limited_until = self._world.now() + timedelta(seconds=rng.uniform(3, 60))
        self._say(f"the broker answers 429 until {self._world.rate_limited_until:%H:%M:%S} UTC")
        return True

    def _halt(self, rng: Random) -> bool:
        symbol = rng.choice(sorted(self._world.paths))
        self._world.halted_until[symbol] = self._world.now() + timedelta(seconds=rng.uniform(20, 300))
        self._say(f"{symbol} is halted until {self._world.halted_until[symbol]:%H:%M:%S} UTC")
        return True

    def _fill_disk(self, rng: Random) -> bool:
        machine = rng.choice(self._world.machines)
        machine.disk.full = True
        self._say(f"the disk of {machine.name} is full", machine.account)
        self._world.later(rng.uniform(10, 120), setattr, machine.disk, "full", False)
        return True

    def _stop_clock(self, rng: Random) -> bool:
        machine = self._running(rng)
        if machine is None:
            return False
        machine.clock_error -= timedelta(seconds=rng.uniform(2, 60))
        self._say(f"the clock of {machine.name} is {machine.clock_error.total_seconds():+.0f} s off", machine.account)
        return True

    def _store_outage(self, rng: Random) -> bool:
        self._world.store_down_until = self._world.now() + timedelta(seconds=rng.choice((rng.uniform(1, 15), 200.0)))
        self._say(f"the database is away until {self._world.store_down_until:%H:%M:%S} UTC")
        return True

    # People at the dashboard ------------------------------------------------------------------------------------

    def _held(self, rng: Random) -> tuple[SimExchange, str, Decimal] | None:
        found = [
            (exchange, symbol, qty)
            for exchange in self._world.exchanges.values()
            for symbol, (qty, _) in sorted(exchange.held.items())
        ]
        return rng.choice(found) if found else None

    def _external_close(self, rng: Random) -> bool:
        held = self._held(rng)
        if held is None:
            return False
        exchange, symbol, qty = held
        part = qty if rng.random() < 0.5 or abs(qty) < 2 else (qty / 2).to_integral_value()
        exchange.trade_by_hand(symbol, -part)
        return True

    def _external_add(self, rng: Random) -> bool:
        held = self._held(rng)
        if held is None:
            return False
        exchange, symbol, qty = held
        exchange.trade_by_hand(symbol, Decimal(rng.randint(1, 5)) * (1 if qty > 0 else -1))
        return True

    def _external_flip(self, rng: Random) -> bool:
        held = self._held(rng)
        if held is None:
            return False
        exchange, symbol, qty = held
        exchange.trade_by_hand(symbol, -qty * 2)
        return True

    def _external_open(self, rng: Random) -> bool:
        exchange = rng.choice(sorted(self._world.exchanges.values(), key=lambda e: e.account_name))
        exchange.trade_by_hand(STRANGER, Decimal(rng.choice((3, 7, -4))))
        return True

    def _cancel_leg(self, rng: Random) -> bool:
        legs = [
            (exchange, order)
            for exchange in self._world.exchanges.values()
            for order in exchange._everything()
            if order.role in ("take_profit", "stop_loss") and not order.status.is_terminal
        ]
        if not legs:
            return False
        exchange, order = rng.choice(legs)
        self._say(f"somebody cancels the {order.role} of {order.symbol}", exchange.account_name)
        exchange._end(order, OrderStatus.CANCELED if order.type is not OrderType.STOP else OrderStatus.EXPIRED)
        return True

    # Processes --------------------------------------------------------------------------------------------------

    def _crash(self, rng: Random) -> bool:
        machine = self._running(rng)
        if machine is None or machine.process is None:
            return False
        machine.process.kill_after = rng.randint(0, 300)
        return True

    def _pause(self, rng: Random) -> bool:
        """Stop a process: now, or right before the next step of a price, which it then sleeps through."""
        steps = [start for path in self._world.paths.values() for start, _ in path.steps]
        ahead = min((start for start in steps if start > self._world.loop.time()), default=None)
        if ahead is not None and rng.random() < 0.5:
            before = max(0.0, ahead - self._world.loop.time() - rng.uniform(0.1, 4.0))
            self._world.later(before, self._stop_one, rng, rng.uniform(16, 90))
            return True
        return self._stop_one(rng, rng.choice((rng.uniform(0.1, 5), rng.uniform(10, 120))))

    def _stop_one(self, rng: Random, seconds: float) -> bool:
        machine = self._running(rng)
        if self._world.faults.over or machine is None or machine.process is None or machine.process.paused:
            return False
        machine.process.paused = True
        self._say(f"{machine.process.name} is stopped", machine.account)
        process = machine.process

        def go_on() -> None:
            if machine.process is process:
                machine.resume()

        self._world.later(seconds, go_on)
        return True
