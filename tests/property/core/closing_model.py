"""A venue that misbehaves from a seed, and a shell that drives `core.closing` against it and watches every step.

Nothing here knows how the machine works: the venue has orders, fills, lagging positions and lost answers; the shell
performs one effect after the other and checks the invariants (I1, I2, I3's id rule) on the venue's own truth.
"""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random

from exitguard.core import closing
from exitguard.core.closing import ClosingState, Context, Observation, Phase, RefusalKind
from exitguard.core.instrument import parse_instrument
from exitguard.core.orders import BrokerOrder, BrokerPosition, OrderStatus, OrderType
from exitguard.core.policy import DEFAULT_POLICY, Policy
from exitguard.core.position import PositionSide
from exitguard.core.quote import Quote
from exitguard.core.records import CloseReason

START = datetime(2025, 3, 3, 15, 0, tzinfo=UTC)
ZERO = Decimal(0)
MAX_STEPS = 4000


@dataclass(frozen=True)
class Faults:
    """Probabilities of what goes wrong, while faults are on; seconds of venue time."""

    submit_unknown_accepted: float = 0.0
    submit_unknown_lost: float = 0.0
    submit_late: float = 0.0
    submit_refused: float = 0.0
    accepted_then_rejected: float = 0.0
    partial: float = 0.0
    venue_cancels_rest: float = 0.0
    slow_fill: float = 0.0
    cancel_lost: float = 0.0
    cancel_slow: float = 0.0
    question_fails: float = 0.0
    lookup_blind_seconds: float = 0.0
    position_lag_seconds: float = 0.0
    stream_lost: float = 0.0
    early_news: float = 0.0
    external_close: float = 0.0
    restart: float = 0.0
    commit_fails: float = 0.0
    repair_lag_seconds: float = 0.0
    replaced: float = 0.0
    shell_folds_answers: bool = True
    seconds: float = 60.0


@dataclass
class VenueOrder:
    """One order at the venue; `ours` marks the attempts of the close."""

    id: str
    coid: str
    qty: Decimal
    ours: bool
    kind: OrderType
    at: datetime
    status: OrderStatus = OrderStatus.NEW
    filled: Decimal = ZERO
    fills_at: datetime | None = None
    cancels_at: datetime | None = None

    @property
    def open(self) -> bool:
        return not self.status.is_terminal


@dataclass
class Venue:
    """Truth: what is held, which orders live, which fills happened."""

    rng: Random
    faults: Faults
    qty: Decimal
    side: PositionSide
    symbol: str
    now: datetime = START
    orders: list[VenueOrder] = field(default_factory=list)
    in_flight: list[tuple[datetime, closing.Submit]] = field(default_factory=list)
    fills: list[tuple[datetime, Decimal, bool]] = field(default_factory=list)
    past: list[tuple[datetime, Decimal]] = field(default_factory=list)
    external: Decimal = ZERO

    @property
    def faulty(self) -> bool:
        return (self.now - START).total_seconds() < self.faults.seconds

    def happens(self, probability: float) -> bool:
        return self.faulty and self.rng.random() < probability

    def rest(self, qty: Decimal, kind: OrderType) -> None:
        """Put a resting leg on the book that is not ours."""
        self.orders.append(VenueOrder(f"leg{len(self.orders)}", f"leg{len(self.orders)}", qty, False, kind, self.now))

    def reserved(self) -> Decimal:
        ours = sum((o.qty - o.filled for o in self.orders if o.open and o.ours), ZERO)
        legs = max((o.qty - o.filled for o in self.orders if o.open and not o.ours), default=ZERO)
        return ours + legs

    def pass_time(self, seconds: float) -> None:
        """Let the venue work, a quarter of a second at a time."""
        end = self.now + timedelta(seconds=seconds)
        while self.now < end:
            self.now = min(end, self.now + timedelta(seconds=0.25))
            self._work()

    def _work(self) -> None:
        for due, submit in list(self.in_flight):
            if due <= self.now:
                self.in_flight.remove((due, submit))
                self.accept(submit)
        for order in self.orders:
            if not order.open:
                continue
            if order.ours and order.fills_at is not None and self.now >= order.fills_at:
                self._fill_some(order)
            elif not order.ours and self.happens(0.01):
                self._fill(order, min(self.qty, order.qty - order.filled))
            if order.open and order.cancels_at is not None and self.now >= order.cancels_at:
                order.status = OrderStatus.CANCELED
        if self.qty > 0 and self.happens(self.faults.external_close / 40) and self.reserved() < self.qty:
            part = min(self.qty - self.reserved(), Decimal(self.rng.randint(1, 20)))
            self.external += part
            self._book(part)

    def _fill_some(self, order: VenueOrder) -> None:
        left = order.qty - order.filled
        part = left
        if left > 1 and self.happens(self.faults.partial):
            part = Decimal(self.rng.randint(1, int(left)))
        self._fill(order, part)
        if order.open and self.happens(self.faults.venue_cancels_rest):
            order.status = OrderStatus.CANCELED
        order.fills_at = self.now + timedelta(seconds=self.rng.random() * 3)

    def _fill(self, order: VenueOrder, qty: Decimal) -> None:
        if qty <= 0:
            return
        order.filled += qty
        order.status = OrderStatus.FILLED if order.filled == order.qty else OrderStatus.PARTIALLY_FILLED
        self._book(qty)
        if not order.ours and not order.open:
            for other in self.orders:
                if not other.ours and other.open:
                    other.status = OrderStatus.CANCELED

    def _book(self, qty: Decimal) -> None:
        self.past.append((self.now, self.qty))
        self.qty -= qty
        assert self.qty >= 0, f"I1: crossed zero by {-self.qty}"
        self.fills.append((self.now, qty, not self.happens(self.faults.stream_lost)))

    def submit(self, submit: closing.Submit) -> Observation:
        """Take an order off the wire."""
        if self.happens(self.faults.submit_refused):
            kind = self.rng.choice([RefusalKind.OTHER, RefusalKind.BUSY])
            return closing.SendRefused(kind, "no", self.rng.choice([None, 1.0, 7200.0]))
        if self.happens(self.faults.submit_unknown_lost):
            return closing.SendUnknown("reset before it was read")
        if self.happens(self.faults.submit_late):
            self.in_flight.append((self.now + timedelta(seconds=self.rng.random() * 2), submit))
            return closing.SendUnknown("timeout")
        answer = self.accept(submit)
        if self.happens(self.faults.submit_unknown_accepted):
            return closing.SendUnknown("504")
        return answer

    def accept(self, submit: closing.Submit) -> Observation:
        """What the matching side says to an order that arrived."""
        request = submit.request
        if any(o.coid == request.client_order_id for o in self.orders):
            return closing.SendRefused(RefusalKind.DUPLICATE, "client_order_id must be unique")
        if request.qty > self.qty - self.reserved():
            return closing.SendRefused(RefusalKind.RECONCILE, "insufficient qty available")
        assert not any(o.ours and o.open for o in self.orders), "I2: two live attempts"
        order = VenueOrder(f"o{len(self.orders)}", request.client_order_id, request.qty, True, request.type, self.now)
        self.orders.append(order)
        order.fills_at = self.now + timedelta(seconds=self.rng.random() * 0.2)
        if self.happens(self.faults.slow_fill):
            order.fills_at = self.now + timedelta(seconds=self.rng.random() * 20)
        if self.happens(self.faults.accepted_then_rejected):
            order.status = OrderStatus.REJECTED
        if order.open and self.happens(self.faults.replaced):
            order.status = OrderStatus.REPLACED
            twin = replace(order, id=f"o{len(self.orders)}", coid=f"user{len(self.orders)}", status=OrderStatus.NEW)
            self.orders.append(twin)
        return closing.OrderSeen(self.describe(order))

    def cancel(self, order_id: str) -> None:
        order = next((o for o in self.orders if o.id == order_id), None)
        if order is None or not order.open or self.happens(self.faults.cancel_lost):
            return
        order.status = OrderStatus.PENDING_CANCEL
        slow = 8.0 if self.happens(self.faults.cancel_slow) else 0.3
        order.cancels_at = self.now + timedelta(seconds=self.rng.random() * slow)

    def describe(self, order: VenueOrder) -> BrokerOrder:
        return BrokerOrder(
            id=order.id, client_order_id=order.coid, symbol=self.symbol, side=self.side.closing, status=order.status,
            qty=order.qty, filled_qty=order.filled, filled_avg_price=Decimal(1) if order.filled else None,
            type=order.kind, order_class="", limit_price=None, stop_price=None, submitted_at=order.at,
            updated_at=self.now,
        )  # fmt: skip

    def position(self) -> BrokerPosition | None:
        lag = self.faults.position_lag_seconds * self.rng.random() if self.faulty else 0.0
        qty = self.qty
        if lag:
            since = self.now - timedelta(seconds=lag)
            qty = next((before for at, before in self.past if at > since), self.qty)
        if qty == 0:
            return None
        free = max(ZERO, qty - self.reserved())
        sign = self.side.sign
        return BrokerPosition(self.symbol, qty * sign, free * sign, Decimal(5), None, None, "a")


@dataclass
class Run:
    """What one drive did."""

    submits: list[closing.Submit] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0
    state: ClosingState | None = None


class Shell:
    """Performs effects, keeps the books, and checks after every step."""

    def __init__(
        self,
        seed: int,
        faults: Faults,
        *,
        qty: Decimal = Decimal(100),
        keep: Decimal = ZERO,
        side: PositionSide = PositionSide.LONG,
        symbol: str = "AAPL",
        bracket: bool = False,
        policy: Policy = DEFAULT_POLICY,
        clear: bool = False,
    ) -> None:
        self.rng = Random(seed)
        self.faults = faults
        self.venue = Venue(self.rng, faults, qty, side, symbol)
        if bracket:
            self.venue.rest(qty, OrderType.STOP)
            self.venue.rest(qty, OrderType.LIMIT)
        self.opened = qty
        self.keep = keep
        self.policy = policy
        self.clear = clear
        self.folded = 0
        self.known: set[int] = set()
        self.absences: dict[str, int] = {}
        self.refused: set[str] = set()
        self.run = Run()
        self.state = ClosingState(
            "large", "u1", parse_instrument(symbol), side, CloseReason.STOP_LOSS, START,
            START + timedelta(seconds=policy.close_deadline_seconds), keep_qty=keep,
        )  # fmt: skip

    @property
    def held(self) -> Decimal:
        return self.opened - sum((self.venue.fills[i][1] for i in self.known), ZERO)

    def context(self, *, first: bool = False) -> Context:
        # The stream delivers what it did not lose, half a second late.
        for index, (at, _, delivered) in enumerate(self.venue.fills):
            if delivered and at <= self.venue.now - timedelta(seconds=0.5):
                self.known.add(index)
        quote = Quote(self.venue.symbol, Decimal("4.50"), Decimal("5.50"), self.venue.now)
        return Context(self.venue.now, self.held, quote, True, False, self.policy, clear=first and self.clear)

    def drive(self) -> Run:
        """Run to the end; raises AssertionError when an invariant breaks or it does not end."""
        state, effect = closing.begin(self.state, self.context(first=True))
        while not isinstance(effect, closing.Finish):
            self.run.steps += 1
            assert self.run.steps < MAX_STEPS, f"no end in sight: {state}"
            if self.venue.happens(self.faults.restart):
                state, effect = self._restart(state)
                continue
            seen = self._perform(effect)
            self.venue.pass_time(0.05)
            state, effect = closing.advance(state, seen, self.context())
        self.state = state
        self._check_end()
        self.run.seconds = (self.venue.now - START).total_seconds()
        self.run.state = state
        return self.run

    def _restart(self, state: ClosingState) -> tuple[ClosingState, closing.Effect]:
        """A crash at any step: only what was committed survives (attempt, request, and that it is live or not)."""
        live = state.phase in (Phase.SENDING, Phase.RESOLVING, Phase.WORKING, Phase.CANCELLING)
        fresh = replace(self.state, attempt=state.attempt)
        if live and state.request is not None:
            fresh = replace(fresh, phase=Phase.RESOLVING, request=state.request)
        self.known = set(range(len(self.venue.fills)))  # recovery reads the fills
        return closing.begin(fresh, self.context())

    def _fold_all(self) -> None:
        self.known = set(range(len(self.venue.fills)))

    def _seen(self, order: VenueOrder) -> Observation:
        if self.faults.shell_folds_answers:
            self._fold_all()
        return closing.OrderSeen(self.venue.describe(order))

    def _perform(self, effect: closing.Effect) -> Observation:
        venue = self.venue
        match effect:
            case closing.Submit():
                if venue.happens(self.faults.commit_fails):
                    return closing.Failed("no intent, so no order")
                self._check_submit(effect)
                answer = venue.submit(effect)
                if isinstance(answer, closing.SendRefused) and answer.kind is not RefusalKind.DUPLICATE:
                    self.refused.add(effect.request.client_order_id)
                return answer
            case closing.Wait():
                assert 0 < effect.seconds <= closing.RETRY_WAIT_MAX
                early = venue.happens(self.faults.early_news) and not effect.full
                venue.pass_time(effect.seconds * (self.rng.random() if early else 1.0))
                return closing.Done()
            case closing.CancelOrders():
                for order_id in effect.order_ids:
                    venue.cancel(order_id)
                return closing.Done()
        if venue.happens(self.faults.question_fails):
            return closing.Failed("html")
        match effect:
            case closing.ListOrders():
                return closing.OrdersListed(tuple(venue.describe(o) for o in venue.orders if o.open))
            case closing.AskPosition():
                return closing.PositionSeen(venue.position())
            case closing.RepairFills():
                lag = self.faults.repair_lag_seconds * self.rng.random() if venue.faulty else 0.0
                readable = venue.now - timedelta(seconds=lag)
                self.known |= {index for index, (at, _, _) in enumerate(venue.fills) if at <= readable}
                return closing.Done()
            case closing.Lookup():
                return self._lookup(effect.client_order_id)
            case closing.Poll():
                return self._seen(next(o for o in venue.orders if o.id == effect.order_id))
        raise AssertionError(f"unknown effect {effect}")

    def _lookup(self, coid: str) -> Observation:
        venue = self.venue
        found = next((o for o in venue.orders if o.coid == coid), None)
        hidden = timedelta(seconds=self.faults.lookup_blind_seconds * self.rng.random() if venue.faulty else 0.0)
        if found is None or venue.now - found.at < hidden:
            self.absences[coid] = self.absences.get(coid, 0) + 1
            return closing.OrderAbsent()
        return self._seen(found)

    # Invariants -------------------------------------------------------------------------------------------------

    def _check_submit(self, submit: closing.Submit) -> None:
        request, venue = submit.request, self.venue
        where = f"attempt {submit.attempt} of {request.qty}, held {self.held}, true {venue.qty}"
        assert request.qty > 0, where
        assert request.qty <= self.held - self.keep, f"I1: more than our fills say: {where}"
        if not venue.external:
            assert request.qty <= venue.qty - self.keep, f"I1: more than is held: {where}"
        assert request.side is venue.side.closing
        assert request.position_intent is venue.side.closing_intent
        assert request.symbol == venue.symbol
        live = [o for o in venue.orders if o.ours and o.open and o.coid != request.client_order_id]
        assert not live, f"I2: {where} while {live} lives"
        taken = {request.client_order_id, *(o.coid for o in venue.orders)}  # a second copy would be refused
        flying = [s for _, s in venue.in_flight if s.request.client_order_id not in taken]
        assert not flying, f"I2: {where} while {flying} may arrive"
        previous = self.run.submits[-1] if self.run.submits else None
        if previous is not None:
            self._check_id(previous, submit)
        self.run.submits.append(submit)

    def _check_id(self, previous: closing.Submit, submit: closing.Submit) -> None:
        coid = submit.request.client_order_id
        used = {s.request.client_order_id for s in self.run.submits}
        if coid in used:
            assert coid == previous.request.client_order_id, f"an older id came back: {coid}"
            assert coid not in self.refused, f"a refused id came back: {coid}"
            assert self.absences.get(coid, 0) >= closing.ABSENCE_PROOFS or self.faults.restart, (
                f"{coid} not proven absent"
            )
            self.absences[coid] = 0
            return
        assert submit.attempt == previous.attempt + 1
        known = [o for o in self.venue.orders if o.coid == previous.request.client_order_id]
        ended = all(not o.open for o in known) if known else previous.request.client_order_id in self.refused
        assert ended, f"attempt {submit.attempt} before {previous.attempt} is proven over"

    def _check_end(self) -> None:
        venue = self.venue
        assert self.held <= self.keep, "F21: finished without the evidence of fills"
        assert not any(o.open and o.ours for o in venue.orders), "finished with a live attempt"
        assert not any(o.open for o in venue.orders), "finished with orders resting on the contract"
        sold = sum((o.filled for o in venue.orders if o.ours), ZERO)
        assert sold <= self.opened - self.keep, f"I1: sold {sold} of {self.opened}"
