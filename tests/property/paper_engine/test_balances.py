"""Whatever is done to the exchange: money, positions, held quantities and activities balance, and a seed is a day."""

from collections import defaultdict
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.paper_engine.floor import CALENDAR, Floor

from exitguard.core.session import NEW_YORK
from exitguard.paper.engine import Account, ApiError

CALL = "KO261009C00050000"
PUT, LOW_PUT = "KO261016P00050000", "KO261016P00048000"
SYMBOLS = ("KO", CALL, PUT)
CASH = {"large": Decimal(100000), "tiny": Decimal(1000)}
FAULTS = (
    "accepted_then_rejected",
    "cancel_then_filled",
    "cancel_slow",
    "cancel_lost",
    "partial_fill",
    "partial_fill_then_cancel",
    "fill_withheld",
    "expired_early",
    "done_for_day",
    "replaced_by_venue",
    "replace_rejected",
    "positions_lag",
    "lookup_lag",
)
EVENTS = ("external_close", "external_add", "external_flip", "liquidation", "exercise", "assignment", "halt", "resume")

# A template is what most clients send; its prices are cents from the current middle, so that most are taken.
TEMPLATES: dict[str, dict[str, Any]] = {
    "market": {"type": "market"},
    "limit": {"type": "limit", "limit_price": "near"},
    "gtc_limit": {"type": "limit", "limit_price": "near", "time_in_force": "gtc"},
    "extended": {"type": "limit", "limit_price": "near", "extended_hours": True},
    "stop": {"type": "stop", "stop_price": "worse", "time_in_force": "gtc"},
    "stop_limit": {"type": "stop_limit", "stop_price": "worse", "limit_price": "worse"},
    "trailing": {"type": "trailing_stop", "trail_price": "1", "time_in_force": "gtc"},
    "ioc": {"type": "limit", "limit_price": "near", "time_in_force": "ioc"},
    "fok": {"type": "limit", "limit_price": "near", "time_in_force": "fok"},
    "opening": {"type": "market", "time_in_force": "opg"},
    "closing": {"type": "market", "time_in_force": "cls"},
    "bracket": {"type": "market", "order_class": "bracket"},
    "limit_bracket": {"type": "limit", "limit_price": "near", "order_class": "bracket", "time_in_force": "gtc"},
    "oco": {"type": "limit", "order_class": "oco"},
    "oto": {"type": "market", "order_class": "oto"},
    "notional": {"type": "market", "notional": "75.5"},
    "raw": {"type": "stop", "order_class": "oco", "time_in_force": "ioc", "extended_hours": True},
}

cents = st.integers(-120, 120)
qty = st.sampled_from(["1", "2", "5", "10", "0.5"])
name = st.sampled_from(["large", "large", "large", "tiny"])
symbol = st.sampled_from(["KO", "KO", "KO", CALL, PUT])
number = st.integers(0, 50)
requests = st.one_of(
    st.tuples(st.just("cancel"), name, number),
    st.tuples(st.just("replace"), name, number, cents, qty),
    st.tuples(st.just("respread"), name, number, cents, st.sampled_from(["1", "2", "5"])),
    st.tuples(st.just("close"), name, symbol),
    st.tuples(st.just("resend"), name, number),
)
step = st.one_of(
    st.tuples(
        st.just("order"), name, symbol, st.sampled_from(["buy", "sell"]), st.sampled_from(sorted(TEMPLATES)), qty, cents
    ),
    st.tuples(
        st.just("order"), name, symbol, st.just("buy"), st.sampled_from(["market", "bracket", "limit"]), qty, cents
    ),
    st.tuples(
        st.just("order"), name, symbol, st.just("sell"), st.sampled_from(["oco", "limit", "stop", "market"]), qty, cents
    ),
    st.tuples(st.just("quote"), symbol, cents),
    st.tuples(st.just("quote"), symbol, cents),
    st.tuples(st.just("run"), st.sampled_from([0.0, 0.001, 0.5, 0.5, 20.0])),
    requests,
    st.tuples(st.just("twice"), requests),
    st.tuples(st.just("spread"), name, st.sampled_from(["buy", "sell"]), st.sampled_from(["1", "2", "5"]), cents),
    st.tuples(st.just("close_all"), name, st.booleans()),
    st.tuples(st.just("time"), st.sampled_from(["12:00", "15:31", "16:00", "17:00", "20:01", "05:00", "09:30"])),
    st.tuples(st.just("fault"), st.sampled_from(FAULTS), st.integers(1, 2)),
    st.tuples(st.just("event"), st.sampled_from(EVENTS), name, symbol),
)
operations = st.lists(step, min_size=12, max_size=40)


class Day:
    """Carries operations out and remembers what came of them."""

    def __init__(self, seed: int, probability: float) -> None:
        self.floor = Floor(seed=seed, partial_fill_probability=probability)
        self.floor.exchange.add_option_chain("KO")
        for contract in (CALL, PUT, LOW_PUT):
            self.floor.quote(contract, "0.80", "0.90")
        self.refused: list[dict[str, Any]] = []
        self.respreads = 0

    def do(self, operation: tuple[Any, ...]) -> None:
        kind, *arguments = operation
        act: Callable[..., None] = getattr(self, f"_{kind}")
        try:
            act(*arguments)
        except ApiError as refusal:
            self.refused.append({"status": refusal.status, **refusal.body})

    def _account(self, name: str) -> Account:
        return self.floor.exchange.accounts[name]

    def _order(self, name: str, symbol: str, side: str, template: str, qty: str, offset: int) -> None:
        quote = self.floor.exchange.quote(symbol)
        assert quote is not None
        middle = quote.mid
        better = Decimal(abs(offset) + 1).scaleb(-2) * (1 if side == "buy" else -1)
        near, worse = str(middle + Decimal(offset).scaleb(-2)), str(middle + better)
        body = {"symbol": symbol, "side": side, "qty": qty, "time_in_force": "day", **TEMPLATES[template]}
        for field in ("limit_price", "stop_price"):
            if field in body:
                body[field] = near if body[field] == "near" else worse
        if "notional" in body:
            del body["qty"]
        order_class = body.get("order_class")
        if order_class:
            away = better if order_class != "oco" else -better
            body["take_profit"] = {"limit_price": str(Decimal(body.get("limit_price", middle)) + away + away / 2)}
            if order_class != "oto":
                body["stop_loss"] = {"stop_price": str(Decimal(body.get("limit_price", middle)) - away)}
            for leg in ("take_profit", "stop_loss"):
                for key, value in body.get(leg, {}).items():
                    body[leg][key] = str(Decimal(value).quantize(Decimal("0.01")))
        self.floor.exchange.submit_order(self._account(name), body)

    def _spread(self, name: str, side: str, qty: str, cents: int) -> None:
        other = "sell" if side == "buy" else "buy"
        legs = [{"symbol": PUT, "ratio_qty": 1, "side": side}, {"symbol": LOW_PUT, "ratio_qty": 1, "side": other}]
        body = {"order_class": "mleg", "type": "limit", "limit_price": str(Decimal(cents).scaleb(-2)), "qty": qty}
        self.floor.exchange.submit_order(self._account(name), {**body, "time_in_force": "day", "legs": legs})

    def _quote(self, symbol: str, offset: int) -> None:
        quote = self.floor.exchange.quote(symbol)
        assert quote is not None
        middle = max(quote.mid + Decimal(offset).scaleb(-2), Decimal("0.05"))
        self.floor.quote(symbol, str(middle - Decimal("0.01")), str(middle + Decimal("0.01")))

    def _run(self, seconds: float) -> None:
        self.floor.run(seconds)

    def _pick(self, name: str, number: int) -> str:
        ids = list(self._account(name).orders)
        return ids[number % len(ids)] if ids else "none"

    def _cancel(self, name: str, number: int) -> None:
        self.floor.exchange.cancel_order(self._account(name), self._pick(name, number))

    def _replace(self, name: str, number: int, offset: int, qty: str) -> None:
        at = str(Decimal(50) + Decimal(offset).scaleb(-2))
        body = {"limit_price": at} if number % 3 else {"stop_price": at} if number % 2 else {"qty": qty}
        self.floor.exchange.replace_order(self._account(name), self._pick(name, number), body)

    def _respread(self, name: str, number: int, cents: int, qty: str) -> None:
        """Replace one of the newest multi-leg orders: its price, its quantity, or both."""
        spreads = [order for order in self._account(name).orders.values() if order.order_class == "mleg"]
        roots = [order.id for order in spreads if order.parent is None][-4:]
        body = {"limit_price": str(Decimal(cents).scaleb(-2)), "qty": qty}
        if number % 3:
            del body["qty" if number % 3 == 1 else "limit_price"]
        if roots:
            self.floor.exchange.replace_order(self._account(name), roots[number % len(roots)], body)
            self.respreads += 1

    def _resend(self, name: str, number: int) -> None:
        """A client that knows of no answer sends an order once more, under the same id."""
        account = self._account(name)
        known = account.orders.get(self._pick(name, number))
        if known is not None:
            before = len(account.orders)
            body = {"symbol": "KO", "qty": "1", "side": "buy", "type": "market", "time_in_force": "day"}
            with pytest.raises(ApiError) as refusal:
                self.floor.exchange.submit_order(account, {**body, "client_order_id": known.client_order_id})
            assert refusal.value.body == {"code": 40010001, "message": "client_order_id must be unique"}
            assert len(account.orders) == before

    def _twice(self, operation: tuple[Any, ...]) -> None:
        """The same request again before anything has come of the first."""
        self.do(operation)
        self.do(operation)

    def _close(self, name: str, symbol: str) -> None:
        self.floor.exchange.close_position(self._account(name), symbol, {})

    def _close_all(self, name: str, cancel: bool) -> None:
        self.floor.exchange.close_all_positions(self._account(name), {"cancel_orders": str(cancel)})

    def _time(self, clock: str) -> None:
        hour, minute = (int(part) for part in clock.split(":"))
        local = self.floor.now.astimezone(NEW_YORK)
        days = 0 if (local.hour, local.minute) < (hour, minute) else 1
        while days and CALENDAR.on(local.date() + timedelta(days=days)) is None:
            days += 1
        self.floor.to(clock, days=days)

    def _fault(self, kind: str, count: int) -> None:
        self.floor.exchange.faults.add({"kind": kind, "count": count, "parameters": {"seconds": 5}})

    def _event(self, kind: str, name: str, symbol: str) -> None:
        self.floor.exchange.faults.add({"kind": kind, "account": name, "symbol": symbol})

    # Invariants -------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        assert all(body["status"] in (400, 403, 404, 422) for body in self.refused)
        for account in self.floor.exchange.accounts.values():
            self._check_books(account)
            self._check_indexes(account)
        fills = self.floor.exchange.fills_json()
        executions = [fill["execution_id"] for fill in fills]
        assert len(set(executions)) == len(executions)
        accounts = self.floor.exchange.accounts.values()
        orders = [order.id for account in accounts for order in account.orders.values()]
        assert len(set(orders)) == len(orders)
        activities = [activity["id"] for account in accounts for _, activity in account.activities]
        assert len(set(activities)) == len(activities)
        self._check_no_flip()

    def _check_books(self, account: Account) -> None:
        """Cash and positions are the sum of all activities, those of tomorrow morning included."""
        cash = CASH[account.name]
        held: dict[str, Decimal] = defaultdict(Decimal)
        activities = [activity for _, activity in account.activities] + account.pending_activities
        for activity in activities:
            quantity = Decimal(activity["qty"])
            if activity["activity_type"] == "FILL":
                signed = quantity if activity["side"] == "buy" else -quantity
                multiplier = 1 if activity["symbol"] == "KO" else 100
                cash -= signed * Decimal(activity["price"]) * multiplier
                held[activity["symbol"]] += signed
            else:
                cash += Decimal(activity["net_amount"])
                held[activity["symbol"]] += quantity
        assert account.cash == cash
        assert {key: value for key, value in held.items() if value} == {
            key: position.qty for key, position in account.positions.items()
        }

    def _check_indexes(self, account: Account) -> None:
        """What open orders tie up is what the account says is tied up, and never more than is held."""
        open_orders = [order for order in account.orders.values() if order.is_open]
        assert {order.id for order in open_orders} == set(account.open)
        holds: dict[str, Decimal] = defaultdict(Decimal)
        for order in open_orders:
            holds[order.symbol] += order.held
        assert {key: value for key, value in holds.items() if value} == account.holds
        reserved = sum((order.reserved for order in open_orders), Decimal(0))
        assert reserved == account.stock_reserve + account.option_reserve
        assert account.stock_reserve >= 0
        assert account.option_reserve >= 0
        ids = [order.client_order_id for order in account.orders.values()]
        assert len(set(ids)) == len(ids)
        for order in account.orders.values():
            assert order.qty is None or order.filled_qty <= order.qty

    def _check_no_flip(self) -> None:
        """No execution turns a position over: it opens or it closes."""
        for _, data in self.floor.events:
            if "execution_id" in data:
                after = Decimal(data["position_qty"])
                change = Decimal(data["qty"]) * (1 if data["order"]["side"] == "buy" else -1)
                assert (after - change) * after >= 0, data
            for leg in data.get("legs") or ():
                (side,) = (one["side"] for one in data["order"]["legs"] if one["id"] == leg["order_id"])
                after = Decimal(data["position_qtys"][leg["symbol"]])
                assert (after - Decimal(leg["qty"]) * (1 if side == "buy" else -1)) * after >= 0, data

    def log(self) -> list[Any]:
        return [*self.floor.events, self.refused, self.floor.exchange.state_json(), self.floor.exchange.fills_json()]


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(plan=operations, seed=st.integers(0, 3), probability=st.sampled_from([0.0, 0.5]))
def test_i1_i5_books_balance_after_every_step(plan: list[tuple[Any, ...]], seed: int, probability: float) -> None:
    day = Day(seed, probability)
    for operation in plan:
        day.do(operation)
        day.check()
    day.floor.run(60)
    day.check()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(plan=operations, seed=st.integers(0, 3))
def test_the_same_seed_gives_the_same_day(plan: list[tuple[Any, ...]], seed: int) -> None:
    logs = []
    for _ in range(2):
        day = Day(seed, 0.5)
        for operation in plan:
            day.do(operation)
        day.floor.run(60)
        logs.append(day.log())
    assert logs[0] == logs[1]


def long_plan(chance: Random, steps: int) -> list[tuple[Any, ...]]:
    """A long day of mostly sensible trading, in which much gets filled: hypothesis' plans are short and odd."""

    def account() -> str:
        return chance.choice(["large", "large", "tiny"])

    def contract() -> str:
        return chance.choice(["KO", "KO", "KO", "KO", CALL, PUT, LOW_PUT])

    plan: list[tuple[Any, ...]] = []
    out_of_hours = 0
    for _ in range(steps):
        out_of_hours -= 1
        if not out_of_hours:
            plan.append(("time", "10:00"))
        kind = chance.choices(
            [
                "order",
                "quote",
                "cancel",
                "replace",
                "close",
                "close_all",
                "time",
                "fault",
                "event",
                "spread",
                "respread",
                "resend",
                "twice",
            ],
            [40, 40, 6, 8, 5, 1, 2, 2, 3, 5, 5, 2, 3],
        )[0]
        size, offset, number = chance.choice(["1", "2", "5", "10"]), chance.randint(-60, 60), chance.randint(0, 400)
        if kind == "order":
            symbol = contract()
            anything = [*sorted(TEMPLATES), *["market", "bracket"] * 4]
            template = chance.choice(anything if symbol == "KO" else ["market", "limit", "stop", "gtc_limit"])
            plan.append(("order", account(), symbol, chance.choice(["buy", "buy", "sell"]), template, size, offset))
        elif kind == "quote":
            plan.append(("quote", contract(), offset))
        elif kind == "spread":
            plan.append(("spread", account(), chance.choice(["buy", "sell"]), size, offset))
        elif kind == "respread":
            # A moment after an order that is likely to rest, so that there is something to replace.
            name, side = account(), chance.choice(["buy", "sell"])
            plan += [("spread", name, side, size, -abs(offset)), ("run", 0.5), ("respread", name, number, offset, size)]
        elif kind == "resend":
            plan.append(("resend", account(), number))
        elif kind == "twice":
            again = [("cancel", account(), -chance.randint(1, 6)), ("close", account(), contract())]
            plan.append(("twice", chance.choice([*again, ("respread", account(), number, offset, size)])))
        elif kind == "cancel":
            plan.append(("cancel", account(), -chance.randint(1, 6)))
        elif kind == "replace":
            plan.append(("replace", account(), -chance.randint(1, 6), offset, size))
        elif kind == "close":
            plan.append(("close", account(), contract()))
        elif kind == "close_all":
            plan.append(("close_all", account(), number % 2 == 0))
        elif kind == "time":
            plan.append(
                ("time", chance.choice(["12:00", "15:31", "15:45", "16:00", "17:00", "20:01", "05:00", "09:30"]))
            )
        elif kind == "fault":
            plan.append(("fault", chance.choice(FAULTS), chance.randint(1, 2)))
        else:
            event, symbol = chance.choice(EVENTS), contract()
            plan.append(("event", event, account(), symbol))
            if event == "halt":
                plan.extend([("quote", symbol, offset), ("event", "resume", "large", symbol)])
        plan.append(("run", chance.choice([0.0, 0.001, 0.5, 0.5, 20.0])))
    return plan


@pytest.mark.parametrize("seed", range(24))
def test_i1_i5_books_balance_over_long_days(seed: int) -> None:
    day = Day(seed, 0.3)
    for operation in long_plan(Random(seed), 150):
        day.do(operation)
        day.check()
    day.floor.run(60)
    day.check()
    assert len(day.floor.exchange.fills_json()) >= 1
