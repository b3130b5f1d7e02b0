"""The judge: knows the broker's truth and every commit, and says when an invariant of `guarantees` does not hold.

It shares no arithmetic with the manager: quantities are added up here again.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

from exitguard.core.instrument import parse_instrument
from exitguard.core.orders import Fill, OrderRequest, OrderSide, PositionIntent
from exitguard.core.policy import Policy
from exitguard.core.position import PositionSide
from exitguard.core.records import (
    AppendEvent,
    Batch,
    EventType,
    HistoryRecord,
    IntentRecord,
    IntentStatus,
    PositionRecord,
    PositionStatus,
    PutFill,
    PutHistory,
    PutIntent,
    PutPosition,
)
from exitguard.core.replay import Difference, FillRow, Replay, Tables, contradictions, differences
from exitguard.manager.orders import request_data
from exitguard.sim.exchange import SimExchange
from exitguard.sim.loop import Process
from exitguard.sim.memory_book import ZERO, BookOrder
from exitguard.sim.memory_store import AccountLedger, MemoryLedger
from exitguard.sim.scenario import PricePath
from exitguard.store.encoding import decode_batch

_REPLAYED = ("active_positions", "position_fills", "order_intents", "position_history")
_CLOSING = (PositionIntent.SELL_TO_CLOSE, PositionIntent.BUY_TO_CLOSE)
# The broker's answers lag by up to ten seconds and are acted on a little later.
LAG = timedelta(seconds=45)
_CENT_OF_A_CENT = Decimal("0.0001")


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that did not hold, and where."""

    invariant: str
    account: str
    text: str
    words: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.invariant} {self.account}: {self.text}"


class Judge:
    """Watches one simulation. `report` is called with every violation."""

    def __init__(
        self,
        ledger: MemoryLedger,
        exchanges: dict[str, SimExchange],
        now: Callable[[], datetime],
        report: Callable[[Violation], None],
        clock_error: timedelta = timedelta(0),
    ) -> None:
        # How wrong the clocks are of those who write the times into the rows.
        self._clock_error = clock_error
        self._ledger = ledger
        self._exchanges = exchanges
        self._now = now
        self._report = report
        # By account and position: the fills in the ledger, opening ones positive.
        self._fills: dict[tuple[str, int], list[tuple[Fill, int]]] = {}
        self._seen_fills: set[tuple[str, str]] = set()
        self._seen_intents: dict[tuple[str, str], datetime] = {}
        self._seen_closed: set[tuple[str, int]] = set()
        self._lease_at: dict[str, tuple[int, datetime]] = {}
        self._replays: dict[str, Replay] = {}
        self._events: dict[str, int] = {}
        ledger.observers.append(self.on_commit)
        for exchange in exchanges.values():
            exchange.fill_watchers.append(self._fill_watcher(exchange.account_name))
            exchange.accept_watchers.append(self._accept_watcher(exchange))

    def _wrong(self, invariant: str, account: str, text: str, *words: str) -> None:
        self._report(Violation(invariant, account, text, words))

    # At the broker ----------------------------------------------------------------------------------------------

    def _fill_watcher(self, account: str) -> Callable[[BookOrder, Fill, Decimal], None]:
        def watch(order: BookOrder, fill: Fill, before: Decimal) -> None:
            after = self._exchanges[account].held.get(fill.symbol, (ZERO, ZERO))[0]
            ours = order.client_order_id.startswith("xg-") or order.role in ("take_profit", "stop_loss")
            overfilled = order.filled_qty > order.qty  # the venue's doing
            turned = before == 0 or before * after < 0
            if ours and order.position_intent in _CLOSING and turned and not overfilled:
                text = f"a closing order of ours turned {before} into {after} {fill.symbol}: {order.client_order_id}"
                self._wrong("I1", account, text, fill.symbol)

        return watch

    def _accept_watcher(self, exchange: SimExchange) -> Callable[[BookOrder], None]:
        account = exchange.account_name

        def watch(order: BookOrder) -> None:
            parts = order.client_order_id.split("-")
            if order.client_order_id.startswith("xg-") and not order.client_order_id.startswith(f"xg-{account}-"):
                self._wrong("I4", account, f"an order of another account: {order.client_order_id}", order.symbol)
            if len(parts) < 4 or parts[-1][:1] not in "cr":
                return
            live = exchange.attempts(parts[-2])
            if len(live) > 1:
                names = ", ".join(o.client_order_id for o in live)
                self._wrong("I2", account, f"{len(live)} closing orders live at once: {names}", order.symbol)

        return watch

    # On the way out ---------------------------------------------------------------------------------------------

    def on_lease(self, account: str, epoch: int) -> None:
        """A process acquired the account's lease."""
        self._lease_at[account] = (epoch, self._now())

    def on_send(self, account: str, process: Process, epoch: int, journal: list[bytes], request: OrderRequest) -> None:
        """An order leaves a process: its intent must be durable, and no later holder of the lease may exist."""
        name = request.client_order_id
        if not process.alive:
            self._wrong("simulator", account, f"a dead process sent {name}")
        committed = self._seen_intents.get((account, name))
        intent = _journaled(journal, name) or self._ledger.account(account).intents.get(name)
        if intent is None:
            self._wrong("I3", account, f"{name} was sent without a committed intent", request.symbol)
        elif not (intent.status.is_live or intent.status is IntentStatus.ARMED):
            self._wrong("I3", account, f"{name} was sent and its intent is {intent.status}", request.symbol)
        elif intent.status is IntentStatus.ARMED and _as_text(intent.request) != _as_text(request_data(request)):
            self._wrong("I3", account, f"{name} is not the order that is armed: {request} and {intent}", request.symbol)
        elif (intent.symbol, intent.side, intent.qty) != (request.symbol, request.side, request.qty):
            self._wrong("I3", account, f"{name} is not what its intent says: {request} and {intent}", request.symbol)
        row = self._ledger.account(account).positions.get(intent.position_id or 0) if intent is not None else None
        if row is not None and not journal and request.qty > row.quantity:
            text = f"{name} is to close {request.qty} of {row.quantity} {row.symbol}"
            self._wrong("I1", account, text, row.symbol)
        newest, since = self._lease_at.get(account, (epoch, self._now()))
        # What was decided before the next one took over is in the ledger as decided; an armed order is decided now.
        decided_before = committed is not None and committed <= since and intent is not None and intent.status.is_live
        if newest > epoch and not decided_before:
            text = f"{name} was decided under epoch {epoch} after {newest} had taken over at {since:%H:%M:%S}"
            self._wrong("I12", account, text, request.symbol)

    # In the ledger ----------------------------------------------------------------------------------------------

    def on_commit(self, batch: Batch) -> None:
        """A batch became true."""
        account, rows = batch.account_name, self._ledger.account(batch.account_name)
        newest, since = self._lease_at.get(account, (batch.epoch, self._now()))
        if batch.epoch < newest:
            self._wrong(
                "I12", account, f"a batch of epoch {batch.epoch} was taken after {newest} since {since:%H:%M:%S}"
            )
        self._check_replay(batch)
        touched: dict[int, None] = {}
        added: dict[int, None] = {}
        for operation in batch.operations:
            match operation:
                case PutFill(position_id, fill, source):
                    touched[position_id] = None
                    self._fold(account, rows.positions[position_id], fill)
                    if source in ("reconciled", "activities"):
                        added[position_id] = None
                case PutPosition(row):
                    touched[row.id] = None
                case PutIntent(row):
                    self._check_intent(account, row)
                case PutHistory(row):
                    touched[row.position_id] = None
                    self._check_history(account, row)
                case AppendEvent(type=EventType.ADOPTED, position_id=number) if number is not None:
                    added[number] = None
                case _:
                    pass
        for number in touched:
            self._check_row(account, rows.positions[number], batch.at)
        for number in added:
            if number in rows.positions:  # else the ledger refused it
                self._check_evidence(account, rows.positions[number], batch.at)

    def _check_replay(self, batch: Batch) -> None:
        """The events of an account stay as they were, in order (I6), and give the rows that are there (I10)."""
        account, rows = batch.account_name, self._ledger.account(batch.account_name)
        events = [operation for operation in batch.operations if isinstance(operation, AppendEvent)]
        self._events[account] = self._events.get(account, 0) + len(events)
        if len(rows.events) != self._events[account] or rows.events[len(rows.events) - len(events) :] != events:
            self._wrong("I6", account, f"{len(rows.events)} events, {self._events[account]} were written")
        replay = self._replays.setdefault(account, Replay(account))
        keys: dict[str, set[str]] = {}
        for operation in batch.operations:
            replay.take(operation)
            match operation:
                case PutPosition(row):
                    keys.setdefault("active_positions", set()).add(str(row.id))
                case PutFill(_, fill):
                    keys.setdefault("position_fills", set()).add(fill.execution_id)
                case PutIntent(row):
                    keys.setdefault("order_intents", set()).add(row.client_order_id)
                case PutHistory(row):
                    keys.setdefault("position_history", set()).add(str(row.position_id))
                case _:
                    pass
        found, made = _tables(rows, keys), Tables()
        for table, wanted in keys.items():
            setattr(made, table, {key: getattr(replay.tables, table)[key] for key in sorted(wanted)})
        self._say_differences(account, differences(made, found))

    def check_books(self, account: str) -> None:
        """Everything that the events make, against everything that is there, and against itself (I5, I10, F58)."""
        replay = self._replays.get(account)
        if replay is None:
            return
        made = Tables(**{name: getattr(replay.tables, name) for name in _REPLAYED})
        self._say_differences(account, differences(made, _tables(self._ledger.account(account), None)))
        self._say_differences(account, contradictions(made))

    def _say_differences(self, account: str, found: Iterable[Difference]) -> None:
        for each in found:
            text = f"{each.table} {each.row} {each.field}: the events say {each.expected}, the row {each.found}"
            self._wrong("I10", account, text)

    def _fold(self, account: str, row: PositionRecord, fill: Fill) -> None:
        if (account, fill.execution_id) in self._seen_fills:
            return
        self._seen_fills.add((account, fill.execution_id))
        sign = 1 if fill.side is row.side.opening else -1
        self._fills.setdefault((account, row.id), []).append((fill, sign))

    def _check_row(self, account: str, row: PositionRecord, decided_at: datetime) -> None:
        folded = sum((sign * _units(fill, row) for fill, sign in self._fills.get((account, row.id), [])), ZERO)
        self._check_splits(account, row)
        if row.quantity != folded or folded < 0:
            text = f"position {row.id} says {row.quantity}, its fills {folded} {row.symbol}"
            self._wrong("I1" if folded < 0 else "I5", account, text, row.symbol)
        if row.status is not PositionStatus.CLOSED or (account, row.id) in self._seen_closed:
            return
        self._seen_closed.add((account, row.id))
        held = self._exchanges[account].held.get(row.symbol, (ZERO, ZERO))[0]
        others = self._unseen(account, row.symbol, decided_at)
        rest = held - others
        if rest != 0 and not self._was_flat(account, row) and not self._is_beside_delivery(account, row, rest):
            text = f"position {row.id} is recorded as closed, the broker holds {held} {row.symbol}"
            self._wrong("I11", account, text, row.symbol)
        if row.id not in self._ledger.account(account).history:
            self._wrong("I10", account, f"position {row.id} closed without a history row", row.symbol)

    def _check_splits(self, account: str, row: PositionRecord) -> None:
        """A position is restated by what happened to its stock, and once by each of it."""
        split = [ratio for _, symbol, ratio in self._exchanges[account].splits if symbol == row.symbol]
        restated = [each.new_rate / each.old_rate for each in row.restatements]
        if restated != split[len(split) - len(restated) :]:
            text = f"position {row.id} ({row.symbol}) was restated by {restated}, its stock was split by {split}"
            self._wrong("I11", account, text, row.symbol)

    def _was_flat(self, account: str, row: PositionRecord) -> bool:
        """Whether the broker has held nothing on the position's side since it began."""
        holdings = self._exchanges[account].holdings
        since = row.entry_time
        if row.adopted:  # the time may be the manager's own
            since = min(since, self._now()) - self._clock_error
        for (_, held), (until, _) in zip(holdings, [*holdings[1:], (self._now(), {})], strict=True):
            if until > since and held.get(row.symbol, ZERO) * row.side.sign <= 0:
                return True
        return False

    def _unseen(self, account: str, symbol: str, decided_at: datetime) -> Decimal:
        """What others traded since shortly before the decision: it may come into the books later, on its own."""
        since = min(decided_at, self._now()) - LAG - self._clock_error
        booked = {fill.order_id for _, fill, _ in self._ledger.account(account).fills.values()}
        fills = [f for f in self._exchanges[account].all_fills if f.symbol == symbol and f.order_id not in booked]
        return sum((f.qty if f.side is OrderSide.BUY else -f.qty for f in fills if f.at >= since), ZERO)

    def _is_beside_delivery(self, account: str, row: PositionRecord, rest: Decimal) -> bool:
        """Whether the rest is of what contracts brought: it follows in a position of its own.

        It came while this one was held, or shortly before and nobody had adopted it yet; and nothing of this one's own
        orders is missing in the books.
        """
        exchange = self._exchanges[account]
        flat = [at for at, held in exchange.holdings if not held.get(row.symbol, ZERO)]
        since = min(row.entry_time, flat[-1]) if flat else row.entry_time
        brought = [shares for at, symbol, shares in exchange.deliveries if symbol == row.symbol and at >= since]
        sums = [sum(brought[start:], ZERO) for start in range(len(brought) + 1)]
        if not min(sums) <= rest <= max(sums):
            return False
        booked: dict[str, Decimal] = {}
        for _, fill, _ in self._ledger.account(account).fills.values():
            booked[fill.order_id] = booked.get(fill.order_id, ZERO) + fill.qty
        own = {fill.order_id for fill, _ in self._fills.get((account, row.id), [])}
        orders = [order for order in exchange._everything() if order.id in own]
        # Of an order that the venue overfilled, what was held is booked here and the rest elsewhere.
        return all(
            booked[order.id] >= min(order.filled_qty, order.qty)
            for order in orders
            if order.side is row.side.opening or f"-{row.uid}-" in order.client_order_id
        )

    def _check_history(self, account: str, row: HistoryRecord) -> None:
        """The exit price is the average of the closing fills, and nothing else (F58)."""
        fills = [f for number, f, _ in self._ledger.account(account).fills.values() if number == row.position_id]
        closing = [f for f in fills if f.side is row.side.closing]
        position = self._ledger.account(account).positions[row.position_id]
        qty = sum((_units(f, position) for f in closing), ZERO)
        value = sum((f.qty * f.price for f in closing), ZERO)
        if qty == 0 or abs(value / qty - row.exit_price) > _CENT_OF_A_CENT or qty != row.quantity:
            text = (
                f"position {row.position_id}: history says {row.quantity} at {row.exit_price}, fills {qty} for {value}"
            )
            self._wrong("F58", account, text, row.symbol)

    def _check_intent(self, account: str, intent: IntentRecord) -> None:
        key = (account, intent.client_order_id)
        if key not in self._seen_intents:
            self._seen_intents[key] = self._now()

    def _check_evidence(self, account: str, row: PositionRecord, decided_at: datetime) -> None:
        """A quantity that no order of ours explains must be what the broker held, now or a moment ago."""
        if row.status is PositionStatus.CLOSED:
            return
        holdings, since = self._exchanges[account].holdings, min(decided_at, self._now()) - LAG - self._clock_error
        for (_, held), (until, _) in pairwise([*holdings, (self._now(), {})]):
            # Nothing is left of a position that was turned around.
            if until >= since and max(held.get(row.symbol, ZERO) * row.side.sign, ZERO) == row.quantity:
                return
        text = f"position {row.id} was given {row.quantity} {row.symbol}, which the broker did not hold"
        self._wrong("I11", account, text, row.symbol)

    # Prices -----------------------------------------------------------------------------------------------------

    def check_prices(self, account: str) -> None:
        """What is booked of each of the broker's orders is what it filled, at its prices (F58)."""
        orders = {o.id: o for o in self._exchanges[account]._everything()}
        booked: dict[str, tuple[Decimal, Decimal]] = {}
        for _, fill, _ in self._ledger.account(account).fills.values():
            qty, value = booked.get(fill.order_id, (ZERO, ZERO))
            booked[fill.order_id] = (qty + fill.qty, value + fill.qty * fill.price)
        for order_id, (qty, value) in booked.items():
            order = orders.get(order_id)
            if order is None:
                continue
            if qty > order.filled_qty:
                text = f"{qty} booked of {order.client_order_id}, which filled {order.filled_qty}"
                self._wrong("I5", account, text, order.symbol)
            elif qty == order.filled_qty and abs(value - order.filled_value) > _CENT_OF_A_CENT * max(qty, Decimal(1)):
                text = f"{value} booked for {order.client_order_id}, its fills cost {order.filled_value}"
                self._wrong("F58", account, text, order.symbol)


def _units(fill: Fill, row: PositionRecord) -> Decimal:
    """A fill's quantity after the splits that came since."""
    qty = fill.qty
    for split in row.restatements:
        if fill.at < split.at:
            qty = qty * split.new_rate / split.old_rate
    return qty


def _tables(rows: AccountLedger, keys: dict[str, set[str]] | None) -> Tables:
    """The ledger's rows as an audit sees them: those that are named, or all."""

    def wanted(table: str, key: str) -> bool:
        return keys is None or key in keys.get(table, ())

    positions = {str(n): row for n, row in rows.positions.items() if wanted("active_positions", str(n))}
    return Tables(
        active_positions=positions,
        position_fills={
            key: FillRow(number, fill, source)
            for key, (number, fill, source) in rows.fills.items()
            if wanted("position_fills", key)
        },
        order_intents={key: row for key, row in rows.intents.items() if wanted("order_intents", key)},
        position_history={str(n): row for n, row in rows.history.items() if wanted("position_history", str(n))},
    )


def _as_text(request: dict[str, Any]) -> dict[str, str]:
    """An order's fields, whether they come from memory or from a journal."""
    return {name: str(value) for name, value in request.items()}


def _journaled(journal: list[bytes], name: str) -> IntentRecord | None:
    """The intent of a client order id in the records of a journal."""
    for record in reversed(journal):
        for operation in reversed(decode_batch(record).operations):
            if isinstance(operation, PutIntent) and operation.row.client_order_id == name:
                return operation.row
    return None


def overdue(row: PositionRecord, policy: Policy, path: PricePath, now: datetime, start: datetime) -> str | None:
    """Why a position must have been closed by now, on nothing but the price path and the plain meaning of the rules.

    Only where there is no doubt: prices far beyond the levels, and deadlines that passed minutes ago.
    """
    grace = timedelta(minutes=4)
    if now >= row.max_hold_deadline + grace:
        return f"its time was up at {row.max_hold_deadline:%H:%M:%S} UTC"
    beyond_since = max(start + timedelta(seconds=path.settled_at), row.entry_time + policy.min_hold)
    if now < beyond_since + grace:
        return None
    price = path.at((now - start).total_seconds())
    gain = (price - row.entry_price) / row.entry_price * 100 * (1 if row.side is PositionSide.LONG else -1)
    levels = policy.levels(parse_instrument(row.symbol).is_option)
    if levels.stop_loss_percent is not None and gain < levels.stop_loss_percent * Decimal("1.4"):
        return f"its loss is {gain:.1f} %"
    if levels.take_profit_percent is not None and gain > levels.take_profit_percent * Decimal("1.2"):
        return f"its gain is {gain:.1f} %"
    return None
