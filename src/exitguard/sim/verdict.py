"""What must be true once the faults have stopped and some minutes have passed (I8, and what I9 promises in the end)."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Protocol

from exitguard.core.instrument import parse_instrument
from exitguard.core.records import IntentPurpose, PositionRecord, PositionStatus
from exitguard.sim.checks import Violation, overdue
from exitguard.sim.exchange import SimExchange
from exitguard.sim.memory_book import ZERO
from exitguard.sim.memory_store import AccountLedger, MemoryLedger
from exitguard.sim.scenario import PricePath, Scenario

# How wrong the clock of a manager may be that wrote the entry of a position which it adopted.
CLOCK_ERROR = timedelta(minutes=2)


class Settled(Protocol):
    """What the verdict looks at."""

    scenario: Scenario
    ledger: MemoryLedger
    exchanges: dict[str, SimExchange]
    paths: dict[str, PricePath]

    def now(self) -> datetime:
        """The venue's time."""
        ...


def unsettled(world: Settled) -> list[Violation]:
    """Everything that is not as it must be; empty when the storm has left nothing behind."""
    found: list[Violation] = []
    for account in world.scenario.accounts:
        rows, exchange = world.ledger.account(account), world.exchanges[account]
        live = [row for row in rows.positions.values() if row.status is not PositionStatus.CLOSED]
        for text, symbol in (
            *_differences(live, exchange),
            *_unsplit(live, exchange),
            *_overdue(live, world),
            *_unfinished(live, rows, exchange),
            *_unprotected(live, exchange, world),
        ):
            found.append(Violation("I9" if "should be closed" in text else "I8", account, text, (symbol,)))
        if "manager" not in rows.leases:
            found.append(Violation("I8", account, "no manager holds the account"))
        for number, command in rows.commands.items():
            if command.ok is None:
                symbol = command.row.symbol or ""
                found.append(Violation("I8", account, f"request {number} for {symbol} is not answered", (symbol,)))
    return found


def _differences(live: list[PositionRecord], exchange: SimExchange) -> Iterator[tuple[str, str]]:
    ours: dict[str, Decimal] = {}
    for row in live:
        ours[row.symbol] = ours.get(row.symbol, ZERO) + row.quantity * row.side.sign
    theirs = {symbol: qty for symbol, (qty, _) in exchange.held.items()}
    for symbol in sorted(ours.keys() | theirs.keys()):
        mine, broker = ours.get(symbol, ZERO), theirs.get(symbol, ZERO)
        if mine != broker:
            yield f"the ledger holds {mine} {symbol}, the broker {broker}", symbol


def _unsplit(live: list[PositionRecord], exchange: SimExchange) -> Iterator[tuple[str, str]]:
    for row in live:
        since = row.entry_time + CLOCK_ERROR
        missed = [at for at, symbol, _ in exchange.splits if symbol == row.symbol and at > since]
        if len(missed) > len(row.restatements):
            yield f"position {row.id} ({row.symbol}) was split at {missed[-1]:%H:%M:%S} and is not restated", row.symbol


def _overdue(live: list[PositionRecord], world: Settled) -> Iterator[tuple[str, str]]:
    for row in live:
        why = overdue(row, world.scenario.policy, world.paths[row.symbol], world.now(), world.scenario.start)
        if why is not None:
            yield f"position {row.id} ({row.side} {row.quantity} {row.symbol}) should be closed: {why}", row.symbol


def _unfinished(live: list[PositionRecord], rows: AccountLedger, exchange: SimExchange) -> Iterator[tuple[str, str]]:
    for row in live:
        if row.status is PositionStatus.CLOSING:
            yield f"position {row.id} ({row.symbol}) is still closing", row.symbol
    orders = {order.client_order_id: order for order in exchange._everything()}
    for name, order in orders.items():
        parts = name.split("-")
        if name.startswith("xg-") and len(parts) >= 4 and parts[-1][:1] in "cr" and not order.status.is_terminal:
            yield f"the closing order {name} still works", order.symbol
    for intent in rows.intents.values():
        order_of = orders.get(intent.client_order_id)
        ended = order_of is None or order_of.status.is_terminal
        if intent.status.is_live and intent.purpose is not IntentPurpose.ENTRY and ended:
            state = "does not exist" if order_of is None else f"is {order_of.status}"
            yield f"the intent {intent.client_order_id} is {intent.status}, its order {state}", intent.symbol


def _unprotected(live: list[PositionRecord], exchange: SimExchange, world: Settled) -> Iterator[tuple[str, str]]:
    if not world.scenario.policy.missing_bracket:
        return
    for row in live:
        if parse_instrument(row.symbol).is_option or row.quantity != row.quantity.to_integral_value():
            continue
        opening = any(
            o.symbol == row.symbol and o.side is row.side.opening and not o.status.is_terminal
            for o in exchange._everything()
        )
        stops, targets = exchange.protected(row.symbol)
        if not opening and (stops < row.quantity or targets < row.quantity):
            yield (
                f"position {row.id} ({row.quantity} {row.symbol}) rests on {stops} and {targets} at the broker",
                (row.symbol),
            )
