"""What a person may ask of an account's books: repair them, adopt a position, forget one with evidence.

The same code answers inside a running manager and in `exitguard` itself when no manager holds the lease. Nothing here
sends an order; the only thing that may be cancelled is an order of ours that has no purpose left.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from exitguard.broker.port import BrokerError, BrokerIncomplete, Priority
from exitguard.core.errors import ExitguardError, InvalidInput
from exitguard.core.instrument import parse_instrument
from exitguard.core.orders import Fill
from exitguard.core.reconcile import Finding, FindingKind
from exitguard.core.records import (
    AppendEvent,
    CloseReason,
    CommandRecord,
    CommandVerb,
    EventType,
    FinishCommand,
    PositionRecord,
)
from exitguard.manager.context import AccountContext
from exitguard.manager.lifecycle import Lifecycle
from exitguard.manager.reconciler import STRIKES_GONE, Reconciler
from exitguard.manager.tracked import Tracked
from exitguard.store.port import StoreRejected, StoreUnavailable

# Verbs that are answered here; the others are exits, and those only `evaluate` decides.
BOOK_VERBS = frozenset({CommandVerb.SYNC_REPAIR, CommandVerb.ADOPT, CommandVerb.FORGET})
# Looks of a repair: one more than the patience of the reconciler, so that the last one shows what is left.
_LOOKS = STRIKES_GONE + 1
# Real seconds between them, unless the account's polls are faster; the broker's positions lag its fills.
_LOOK_SECONDS = 1.0
# What is too short to tell a stranger why a position was forgotten.
LEAST_EVIDENCE = 10


class Refused(ExitguardError):
    """A request that cannot be granted, and why; nothing was changed."""


@dataclass(slots=True)
class Answer:
    """What became of a request: words for people, facts for programs."""

    ok: bool
    text: str
    facts: dict[str, Any] = field(default_factory=dict)


class Desk:
    """Answers the requests of people about one account's books.

    `discover` turns filled entries of ours into positions, with their stop, target and execution. It comes before
    whatever adopts: an entry of ours must not become a stranger's position. Raises StoreUnavailable, BrokerError.
    """

    def __init__(
        self,
        context: AccountContext,
        lifecycle: Lifecycle,
        reconciler: Reconciler,
        polling: asyncio.Lock,
        discover: Callable[[], Awaitable[None]],
    ) -> None:
        self._context = context
        self._lifecycle = lifecycle
        self._reconciler = reconciler
        self._polling = polling
        self._discover = discover
        self._look_seconds = min(_LOOK_SECONDS, context.options.poll_seconds)

    async def answer(self, command: CommandRecord) -> None:
        """Do what is asked, and record the answer. A broker that fails is an answer too: nothing is known then."""
        context = self._context
        asked = {
            "verb": command.verb,
            "requested_by": command.requested_by,
            "command": command.id,
            "arguments": command.arguments,
        }
        context.ledger.post(AppendEvent(EventType.COMMAND, context.clock.now(), asked, command.position_id))
        try:
            found = await self._do(command)
        except (Refused, InvalidInput) as error:
            found = Answer(False, str(error))
        except BrokerError as error:
            found = Answer(False, f"the broker gave no usable answer, ask again: {error}")
        except StoreRejected as error:
            found = Answer(False, f"the database refused it: {error}")
        context.log.info(
            "request answered", command=command.id, verb=command.verb.value, ok=found.ok, result=found.text
        )
        context.ledger.post(FinishCommand(command.id, found.ok, found.text, context.clock.now(), found.facts))

    async def _do(self, command: CommandRecord) -> Answer:
        match command.verb:
            case CommandVerb.SYNC_REPAIR:
                return await self._repair(mass_change_accepted=command.arguments.get("accept_mass_change") is True)
            case CommandVerb.ADOPT if command.symbol is not None:
                async with self._polling:
                    return await self._adopt(command.symbol)
            case CommandVerb.FORGET if command.position_id is not None:
                async with self._polling:
                    return await self._forget(command.position_id, command.arguments, command.requested_by)
            case _:
                raise Refused(f"{command.verb.value} needs to say what it is about")

    # Repairing --------------------------------------------------------------------------------------------------

    async def _repair(self, *, mass_change_accepted: bool) -> Answer:
        before: list[Finding] | None = None
        canceled: list[str] = []
        for look in range(_LOOKS):
            if look:
                await asyncio.sleep(self._look_seconds)
            async with self._polling:
                await self._link_entries()
                await self._reconciler.poll(mass_change_accepted=mass_change_accepted)
                await self._finish_flat()
                found = self._found()
                before = found if before is None else before
                wrong = [each for each in found if each.kind is not FindingKind.MATCHED]
                if self._reconciler.braked:
                    gone = sum(each.kind is FindingKind.PHANTOM for each in wrong)
                    text = (
                        f"{gone} of {len(self._context.positions)} positions are missing at the broker: nothing was"
                        " changed; look at the account there, and if that is true ask again with --accept-mass-change"
                    )
                    return Answer(False, text, self._facts(before, canceled))
                if not wrong and self._reconciler.whole:
                    break
                if look == _LOOKS - 2:
                    canceled = await self._cancel_orphans(before)
        left = [each for each in found if each.kind not in (FindingKind.MATCHED, FindingKind.FOREIGN_ORDER)]
        whole = self._reconciler.whole
        text = f"{_matched(before or [])} before, {_matched(found)} now" + (
            f"; left: {', '.join(f'{each.kind.value} {each.symbol}' for each in left[:10])}" if left else ""
        )
        if not whole:
            text += "; a part of the broker's answer cannot be read, so what is missing is not known: ask again"
        return Answer(whole and not left, text, self._facts(before or [], canceled))

    async def _link_entries(self) -> None:
        """Take our own entries under management. Raises Refused when the database does not tell of them."""
        try:
            await self._discover()
        except StoreUnavailable as error:
            raise Refused(
                f"the database does not tell which entries are ours, so nothing is adopted; ask again: {error}"
            ) from error

    async def _finish_flat(self) -> None:
        """Close the books of what orders have shown to be closed; in a visit nobody else does."""
        for tracked in list(self._context.positions.values()):
            if tracked.closer is None and tracked.holding.is_flat:
                await self._lifecycle.finish_foreign(tracked)

    def _found(self) -> list[Finding]:
        return [*self._reconciler.findings, *self._reconciler.order_findings]

    def _facts(self, before: list[Finding], canceled: list[str]) -> dict[str, Any]:
        return {
            "before": [each.body() for each in before],
            "after": [each.body() for each in self._found()],
            "canceled_orders": canceled,
            "braked": self._reconciler.braked,
            "whole": self._reconciler.whole,
        }

    async def _cancel_orphans(self, before: list[Finding]) -> list[str]:
        """Take back our orders that were without a purpose at every look."""
        at_first = {each.order_id for each in before}
        canceled = []
        for finding in self._reconciler.order_findings:
            order_id = finding.order_id
            if finding.kind is not FindingKind.ORPHAN_ORDER or order_id is None or order_id not in at_first:
                continue
            await self._context.broker.cancel(order_id, Priority.RECONCILE)
            canceled.append(order_id)
            evidence: dict[str, object] = {
                "finding": finding.kind,
                "symbol": finding.symbol,
                "order_id": order_id,
                "client_order_id": finding.client_order_id,
                "repair": "canceled",
            }
            self._context.ledger.post(AppendEvent(EventType.RECONCILED, self._context.clock.now(), evidence))
        return canceled

    # Adopting ---------------------------------------------------------------------------------------------------

    async def _adopt(self, symbol: str) -> Answer:
        context = self._context
        instrument = parse_instrument(symbol)
        known = context.on_symbol(instrument.symbol)
        if known is not None:
            raise Refused(f"{instrument.symbol} is under management already: position {known.record.id}")
        theirs = await context.broker.position(instrument.symbol)
        if theirs is None or theirs.qty == 0:
            raise Refused(f"the broker holds no {instrument.symbol} in this account")
        # After the broker's word: the intent of an entry that is in it was committed before (I3), so it is found.
        await self._link_entries()
        own = context.on_symbol(instrument.symbol)
        if own is not None:
            return _taken(own.record, "our own entry, not adopted: ")
        now = context.clock.now()
        if context.is_settling(instrument.symbol, now):
            raise Refused(
                f"{instrument.symbol} was traded seconds ago and the broker's positions lag: ask again in 15 s"
            )
        await self._reconciler.adopt_now(instrument.symbol, theirs, now)
        adopted = context.on_symbol(instrument.symbol)
        if adopted is None:
            raise Refused(f"the broker's fills of {instrument.symbol} changed meanwhile: ask again in a minute")
        return _taken(adopted.record)

    # Forgetting -------------------------------------------------------------------------------------------------

    async def _forget(self, position_id: int, arguments: dict[str, Any], requested_by: str) -> Answer:
        context = self._context
        evidence, price = _evidence(arguments), _price(arguments)
        tracked = context.positions.get(position_id)
        if tracked is None:
            raise Refused(f"no open position {position_id}")
        _refuse_busy(tracked)
        before = tracked.holding
        await self._lifecycle.read_missed(tracked)
        if tracked.closer is None and (tracked.holding.is_flat or position_id not in context.positions):
            await self._lifecycle.finish(tracked, context.clock.now())
            return Answer(
                True, "the broker's orders show how it was closed: booked at their prices", {"booked": "orders"}
            )
        await self._prove_absent(tracked)
        # The account went on while the broker was asked, and what it said is about what was held before.
        _refuse_busy(tracked)
        if tracked.holding != before:
            raise Refused(f"fills of {tracked.record.symbol} arrived meanwhile: look at exitguard sync and ask again")
        now, record = context.clock.now(), tracked.record
        finding = Finding(FindingKind.PHANTOM, record.symbol, tracked.signed_qty, Decimal(0))
        tracked.record = replace(record, close_reason=CloseReason.RECONCILED)
        name = f"forgotten:{record.uid}:{now.isoformat()}"
        booked = record.entry_price if price is None else price
        fill = Fill(name, name, None, record.symbol, record.side.closing, tracked.holding.qty, booked, now)
        told = {"repair": "forgotten", "evidence": evidence, "requested_by": requested_by}
        told["price_from"] = "entry, because none is known" if price is None else "the request"
        self._lifecycle.book_reconciled(tracked, fill, finding, now, **told)
        await self._lifecycle.finish(tracked, now)
        if record.id in context.positions:
            raise Refused("the database refused to record it: see the alarm")
        at = "its entry price (no price is known: pass --price)" if price is None else f"{booked}"
        return Answer(
            True,
            f"position {record.id} {record.symbol} is closed in our books at {at}",
            {"booked": "evidence", "price": booked},
        )

    async def _prove_absent(self, tracked: Tracked) -> None:
        """Raise Refused unless every answer of the broker says that nothing of the contract is held or on its way."""
        context, symbol = self._context, tracked.record.symbol
        if context.is_settling(symbol, context.clock.now()):
            raise Refused(f"{symbol} was traded seconds ago and the broker's positions lag: ask again in 15 s")
        try:
            held = {position.symbol: position.qty for position in await context.broker.positions()}
        except BrokerIncomplete as error:
            raise Refused(f"the broker's list of positions has holes, so nothing is proven: {error}") from error
        one = await context.broker.position(symbol)
        qty = held.get(symbol, Decimal(0)) or (Decimal(0) if one is None else one.qty)
        if qty != 0:
            raise Refused(f"the broker still holds {qty} {symbol}: nothing to forget; see: exitguard sync")
        resting = [order for order in await context.broker.open_orders() if order.symbol == symbol]
        if resting:
            names = ", ".join(order.client_order_id for order in resting[:5])
            raise Refused(f"orders still rest on {symbol} ({names}): cancel them at the broker first")


def _refuse_busy(tracked: Tracked) -> None:
    """Raise Refused while somebody works on the position who may send an order."""
    if tracked.is_closing:
        raise Refused(f"{tracked.record.symbol} is being closed: its close decides what became of it")
    if tracked.restorer is not None:
        raise Refused(f"the bracket of {tracked.record.symbol} is being restored: ask again in a minute")


def _taken(record: PositionRecord, how: str = "") -> Answer:
    """The answer about a position that is under management from now on."""
    text = (
        f"{how}position {record.id}: {record.side.value} {record.quantity} {record.symbol} since"
        f" {record.entry_time:%Y-%m-%d %H:%M:%S} UTC at {record.entry_price:.4f}, policy {record.policy_name}"
    )
    facts = {
        "position_id": record.id,
        "symbol": record.symbol,
        "side": record.side,
        "quantity": record.quantity,
        "entry_time": record.entry_time,
        "entry_price": record.entry_price,
        "max_hold_deadline": record.max_hold_deadline,
        "adopted": record.adopted,
    }
    return Answer(True, text, facts)


def _evidence(arguments: dict[str, Any]) -> str:
    evidence = str(arguments.get("evidence") or "").strip()
    if len(evidence) < LEAST_EVIDENCE:
        raise Refused(f"say in at least {LEAST_EVIDENCE} characters how it is known that the position is gone")
    return evidence[:4000]


def _price(arguments: dict[str, Any]) -> Decimal | None:
    given = arguments.get("price")
    if given is None:
        return None
    try:
        price = Decimal(str(given))
    except ArithmeticError as error:
        raise Refused(f"the price must be a number of dollars, was {str(given)[:40]!r}") from error
    if not price.is_finite() or price < 0:
        raise Refused(f"the price must be a number of dollars, was {price}")
    return price


def _matched(found: list[Finding]) -> str:
    positions = [each for each in found if not each.kind.is_order]
    return f"{sum(each.kind is FindingKind.MATCHED for each in positions)} of {len(positions)} matched"
