"""Keeps our books equal to the broker's: after each poll, each reconnect, and at the start before anything is sent.

One answer is never a verdict: a finding must stand through several polls, and before a position counts as gone its
orders and activities are read. A failed query changes nothing; too many vanished positions at once stop everything
and ask (I11).
"""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

from exitguard.broker.port import BrokerError, BrokerIncomplete, BrokerRateLimited, BrokerUnavailable
from exitguard.core import closing
from exitguard.core.instrument import InvalidSymbol, parse_instrument
from exitguard.core.marks import agree
from exitguard.core.orders import BrokerOrder, BrokerPosition, Fill, OrderSide
from exitguard.core.reconcile import Finding, FindingKind, changes_too_much, compare, order_prefix
from exitguard.core.records import AppendEvent, EventType, IntentStatus, SetAside
from exitguard.manager.adoption import Adoption
from exitguard.manager.context import AccountContext
from exitguard.manager.corporate import CorporateActions
from exitguard.manager.lapses import Lapses
from exitguard.manager.lifecycle import Lifecycle
from exitguard.manager.opening import Opening
from exitguard.manager.order_watch import OrderWatch
from exitguard.manager.pieces import in_pieces
from exitguard.manager.tracked import Tracked

# Polls in a row that must agree before a finding is acted on.
STRIKES_UNTRACKED = 2
STRIKES_GONE = 3
# Polls in a row after which an untracked position is adopted although no fills explain it.
STRIKES_UNPROVEN = 10
# An order of ours that nobody follows is looked up once it is this old: it may still be on its way.
INTENT_PATIENCE = timedelta(seconds=30)
# Orders folded before others get a turn: an exit must not wait for a whole poll.
ORDERS_AT_ONCE = 20


class Reconciler:
    """Compares, counts strikes, repairs."""

    def __init__(
        self, context: AccountContext, lifecycle: Lifecycle, opening: Opening, corporate: CorporateActions
    ) -> None:
        self._context = context
        self._lifecycle = lifecycle
        self._corporate = corporate
        self._lapses = Lapses(context, lifecycle)
        self._adoption = Adoption(context, opening, self._lapses)
        self._strikes: dict[tuple[FindingKind, str], int] = {}
        self._set_aside: set[str] = set()
        self._absences: dict[str, int] = {}
        self._order_watch = OrderWatch(context)
        self.findings: list[Finding] = []
        # Of the last poll: whether the broker told of everything, and whether too much was missing to act (I11).
        self.whole = True
        self.braked = False

    @property
    def order_findings(self) -> list[Finding]:
        """Open orders that should not be there, as of the last poll."""
        return self._order_watch.findings

    async def poll(self, *, patient: bool = True, mass_change_accepted: bool = False) -> None:
        """Read open orders and positions, fold what was missed, act on what stands. Raises BrokerError on failure.

        With `patient` False (at the start, when nothing of ours is in flight) untracked positions are adopted at once.
        `mass_change_accepted`: a person has looked at the account and lets go of the brake for this poll.
        """
        context = self._context
        asked_at = context.clock.now()
        orders_whole = await self._refresh_orders(asked_at)
        await self._settle_intents(asked_at)
        theirs, whole = await self._positions()
        self.whole = whole and orders_whole
        now = context.clock.now()
        readable = self._readable(theirs, now, whole=whole)
        await self._restate(readable, whole=whole, patient=patient)
        async for piece in in_pieces(list(context.positions.values())):
            for tracked in piece:
                if tracked.record.id in context.positions:
                    self._look_at(tracked, readable.get(tracked.record.symbol), asked_at, now)
        self.findings = await self._compare(readable)
        if not whole:
            # What is missing from such an answer proves nothing (I11); what is in it may still be adopted.
            self.findings = [f for f in self.findings if f.kind is not FindingKind.PHANTOM]
        await self._order_watch.look({*context.marks.symbols, *readable}, now)
        await asyncio.sleep(0)
        await self._act(readable, now, patient=patient, mass_change_accepted=mass_change_accepted)

    async def _restate(self, theirs: dict[str, BrokerPosition], *, whole: bool, patient: bool) -> None:
        """Take splits and new symbols for what they are, before anything else is compared."""
        context = self._context
        async for piece in in_pieces(list(context.positions.values())):
            for tracked in piece:
                if tracked.record.id not in context.positions:
                    continue
                seen = theirs.get(tracked.record.symbol)
                if seen is None or seen.qty == tracked.signed_qty:
                    continue
                try:
                    await self._corporate.split(tracked, seen)
                except BrokerError as error:
                    if not patient and isinstance(error, BrokerUnavailable | BrokerRateLimited):
                        raise  # nothing is evaluated yet: the start asks again
                    self._step_failed(tracked.record.symbol, error)
        if not whole:
            return  # nothing is known to be missing
        for symbol, position in theirs.items():
            if context.on_symbol(symbol) is None:
                await self._corporate.renamed(position, theirs)

    async def _compare(self, theirs: dict[str, BrokerPosition]) -> list[Finding]:
        """Compare what is held of each contract, here and at the broker; sorted by symbol."""
        context = self._context
        findings: list[Finding] = []
        async for symbols in in_pieces(sorted({*context.marks.symbols, *theirs})):
            held = {symbol: context.held(symbol) for symbol in symbols}
            findings += compare(held, {symbol: theirs[symbol].qty for symbol in symbols if symbol in theirs})
        return findings

    def _look_at(self, tracked: Tracked, seen: BrokerPosition | None, asked_at: datetime, now: datetime) -> None:
        """Take over what the broker says of one position; `seen` is None when it lists none."""
        # No order event tells of a bracket that was gone before we looked.
        self._lifecycle.refresh_bracket(tracked, now)
        tracked.broker_qty = seen.qty if seen is not None else Decimal(0)
        tracked.broker_seen_at = asked_at
        tracked.asset_id = seen.asset_id if seen is not None else tracked.asset_id
        tracked.broker_mark = seen.current_price if seen is not None else None
        self._compare_marks(tracked, now)

    async def _positions(self) -> tuple[list[BrokerPosition], bool]:
        """The broker's positions, and whether that is all of them: rows that cannot be read do not hide the others."""
        context = self._context
        try:
            positions = await context.broker.positions()
        except BrokerIncomplete as error:
            context.alarms.raise_alarm("incomplete", "broker_answer_incomplete", str(error), context.clock.now())
            return [row for row in error.rows if isinstance(row, BrokerPosition)], False
        context.alarms.clear("incomplete", context.clock.now())
        return positions, True

    def _readable(self, positions: list[BrokerPosition], now: datetime, *, whole: bool) -> dict[str, BrokerPosition]:
        """Positions by symbol; one with a symbol that we cannot read is set aside loudly and its neighbours go on."""
        readable = {}
        alarms, unreadable = self._context.alarms, set()
        for position in positions:
            try:
                symbol = parse_instrument(position.symbol).symbol
            except InvalidSymbol as error:
                if position.symbol not in self._set_aside:
                    self._set_aside.add(position.symbol)
                    self._context.ledger.post(
                        SetAside("position", str(error), {"symbol": position.symbol, "qty": str(position.qty)}, now)
                    )
                key = f"unreadable:{position.symbol[:40]}"
                unreadable.add(key)
                alarms.raise_alarm(
                    key,
                    "unreadable_position",
                    f"the broker holds {position.symbol[:40]!r}, a symbol that we cannot read: watch it by hand",
                    now,
                )
                continue
            readable[symbol] = position
        for key in alarms.active:
            if whole and key.startswith("unreadable:") and key not in unreadable:
                alarms.clear(key, now)
        return readable

    async def _refresh_orders(self, asked_at: datetime) -> bool:
        """Fold every open order; look up those that we believe open and the broker no longer lists.

        Returns whether the broker's list was whole.
        """
        context = self._context
        try:
            listed = await context.broker.open_orders()
        except BrokerIncomplete as error:
            # Fold what could be read; an order that is missing here is simply unknown.
            for order in error.rows:
                if isinstance(order, BrokerOrder):
                    self._lifecycle.apply_order(order, None, context.clock.now(), "orders")
            context.log.error("open orders partly unreadable", reason=str(error))
            return False
        seen = {member.id for order in listed for member in order.family()}
        for number, order in enumerate(listed, 1):
            self._lifecycle.apply_order(order, None, context.clock.now(), "orders")
            if number % ORDERS_AT_ONCE == 0:
                await asyncio.sleep(0)
        for known in [o for o in context.orders.values() if o.is_open and o.id not in seen]:
            if known.submitted_at is not None and known.submitted_at > asked_at:
                continue
            fresh = await context.broker.order(known.id)
            if fresh is None:
                context.forget_order(known.id)
                continue
            self._lifecycle.apply_order(fresh, None, context.clock.now(), "orders")
        context.orders_seen_at = asked_at
        return True

    async def _settle_intents(self, now: datetime) -> None:
        """Find out what became of orders of ours that nobody follows any more: a look-up failed, a position ended."""
        context = self._context
        for intent in list(context.intents.values()):
            tracked = context.positions.get(intent.position_id or 0)
            followed = tracked is not None and (tracked.closer is not None or tracked.restorer is not None)
            if followed or intent.broker_order_id in context.orders or now - intent.created_at < INTENT_PATIENCE:
                continue
            order = await context.broker.order_by_client_id(intent.client_order_id)
            if order is not None:
                self._lifecycle.apply_order(order, None, context.clock.now(), "orders")
                continue
            absences = self._absences[intent.client_order_id] = self._absences.get(intent.client_order_id, 0) + 1
            if absences >= closing.ABSENCE_PROOFS and intent.client_order_id in context.intents:
                del self._absences[intent.client_order_id]
                gone = replace(intent, status=IntentStatus.REJECTED, detail="never arrived")
                context.ledger.post(context.put_intent(gone))

    def _compare_marks(self, tracked: Tracked, now: datetime) -> None:
        """A lasting difference between our mark and the broker's is an alarm, not a silent choice (F49)."""
        record, policy = tracked.record, tracked.policy
        if record.current_price is None or tracked.broker_mark is None or tracked.blind_since is not None:
            tracked.diverged_since = None
            return
        if agree(record.current_price, tracked.broker_mark, policy.mark_divergence_percent):
            tracked.diverged_since = None
            self._context.alarms.clear(f"divergence:{record.id}", now, record.id)
            return
        tracked.diverged_since = tracked.diverged_since or now
        if now - tracked.diverged_since >= timedelta(seconds=policy.alarms.mark_divergence_seconds):
            self._context.alarms.raise_alarm(
                f"divergence:{record.id}",
                "mark_divergence",
                f"{record.symbol}: our mark {record.current_price} and the broker's {tracked.broker_mark} differ",
                now,
                record.id,
            )

    # Acting -----------------------------------------------------------------------------------------------------

    async def _act(
        self, theirs: dict[str, BrokerPosition], now: datetime, *, patient: bool, mass_change_accepted: bool
    ) -> None:
        context = self._context
        wrong = [f for f in self.findings if f.kind is not FindingKind.MATCHED]
        # Options first: shares that came for a contract explain it only until they are adopted.
        wrong.sort(key=lambda found: not parse_instrument(found.symbol).is_option)
        standing = {(f.kind, f.symbol) for f in wrong}
        self._strikes = {key: self._strikes.get(key, 0) + 1 for key in standing}
        self.braked = not mass_change_accepted and changes_too_much(wrong, len(context.positions))
        if self.braked:
            context.alarms.raise_alarm(
                "mass_change",
                "mass_change",
                "the broker's answer misses too many of our positions at once: nothing is changed, look at the account",
                now,
                missing=[f.symbol for f in wrong if f.kind is FindingKind.PHANTOM][:50],
            )
            return
        context.alarms.clear("mass_change", now)
        self._clear_explained(now)
        for finding in wrong:
            tracked = context.on_symbol(finding.symbol)
            strikes = self._strikes[(finding.kind, finding.symbol)]
            try:
                if tracked is not None and tracked.closer is not None:
                    # The closing procedure asks its own questions, but it reads orders only.
                    if not context.is_settling(finding.symbol, now):
                        await self._lapsed(tracked, finding, theirs, strikes, now)
                    continue
                await self._act_on(finding, theirs, strikes, now, patient=patient)
                if strikes == STRIKES_GONE:
                    self._tell(finding, now)
            except BrokerError as error:
                self._step_failed(finding.symbol, error)

    def _step_failed(self, symbol: str, error: BrokerError) -> None:
        """The others go on; the next poll tries again."""
        self._context.log.warning("reconciliation step failed", symbol=symbol, reason=str(error))

    def _tell(self, finding: Finding, now: datetime) -> None:
        """A difference that several polls agree about and that nothing has mended so far: event and alarm."""
        context = self._context
        tracked = context.on_symbol(finding.symbol)
        if (Decimal(0) if tracked is None else tracked.signed_qty) == finding.theirs:
            return
        number = None if tracked is None else tracked.record.id
        evidence = {"finding": finding.kind, "symbol": finding.symbol, "ours": finding.ours, "theirs": finding.theirs}
        evidence |= {"polls": STRIKES_GONE, "repair": "none yet"}
        context.ledger.post(AppendEvent(EventType.RECONCILED, now, evidence, number))
        if tracked is None:
            context.alarms.raise_alarm(
                f"untracked:{finding.symbol}:contract",
                "untracked_position",
                f"{finding.symbol}: the broker holds {finding.theirs} that nobody here manages, and its fills do not"
                f" explain it yet: exitguard adopt {finding.symbol} --account {context.name}",
                now,
            )

    def _clear_explained(self, now: datetime) -> None:
        """End the alarms of differences that are there no longer."""
        untracked = {f"untracked:{f.symbol}:contract" for f in self.findings if f.kind is FindingKind.UNTRACKED}
        for key in sorted(self._context.alarms.active):
            if key.startswith("untracked:") and key not in untracked:
                self._context.alarms.clear(key, now)
        matched = {f.symbol for f in self.findings if f.kind is FindingKind.MATCHED}
        for tracked in self._context.positions.values():
            if tracked.record.symbol in matched:
                self._context.alarms.clear(f"unexplained:{tracked.record.id}", now, tracked.record.id)

    async def _act_on(
        self, finding: Finding, listed: Mapping[str, BrokerPosition], strikes: int, now: datetime, *, patient: bool
    ) -> None:
        theirs = listed.get(finding.symbol)
        if finding.kind is FindingKind.UNTRACKED and theirs is not None:
            if self._entry_in_flight(finding) or self._context.is_settling(finding.symbol, now):
                return  # discovery links it to its execution; or the broker's positions lag a close of ours
            if not patient or strikes >= STRIKES_UNTRACKED:
                unproven = strikes >= STRIKES_UNPROVEN or finding.symbol in self._lapses.delivered
                await self._adoption.adopt(finding.symbol, theirs, now, unproven=unproven)
                if self._context.on_symbol(finding.symbol) is not None:
                    self._lapses.delivered.discard(finding.symbol)
            return
        tracked = self._context.on_symbol(finding.symbol)
        if tracked is None:
            return
        await self._lifecycle.read_missed(tracked)
        if self._explained(tracked, finding):
            await self._settle(tracked, finding, now)
            return
        if self._context.is_settling(finding.symbol, now):
            return
        held = tracked.holding
        # What was adopted may have had its activities before: there one answer proves nothing, not even at the start.
        seen = strikes if patient or tracked.record.adopted else STRIKES_GONE
        if await self._lapsed(tracked, finding, listed, seen, now):
            return
        if strikes >= STRIKES_GONE and tracked.holding is held:
            await self._unexplained(tracked, finding, theirs, now)

    async def _lapsed(
        self, tracked: Tracked, finding: Finding, listed: Mapping[str, BrokerPosition], strikes: int, now: datetime
    ) -> bool:
        """Book contracts that expired, were exercised or assigned, and their shares; whether something was booked.

        What positions prove is believed as early as their shares would be adopted.
        """
        if self._lapses.missing(tracked, finding) <= 0:
            return False
        if strikes >= STRIKES_UNTRACKED and await self._lapses.shown(tracked, finding, listed, now):
            return True
        if strikes < STRIKES_GONE:
            return False
        return await self._lapses.told(tracked, finding, now, doubtful=strikes >= STRIKES_UNPROVEN)

    def _entry_in_flight(self, finding: Finding) -> bool:
        """Whether an order of ours still adds to the position; one that rests to reduce it is no reason to wait."""
        prefix = order_prefix(self._context.name)
        opening = OrderSide.BUY if finding.theirs > 0 else OrderSide.SELL
        orders = self._context.open_orders_on(finding.symbol)
        return any(o.client_order_id.startswith(prefix) and o.side is opening for o in orders)

    def _explained(self, tracked: Tracked, finding: Finding) -> bool:
        return tracked.signed_qty == finding.theirs

    async def _settle(self, tracked: Tracked, finding: Finding, now: datetime) -> None:
        """The missing fills were found: record the finding, and close the books if they closed the position."""
        context = self._context
        context.ledger.post(
            AppendEvent(
                EventType.RECONCILED,
                now,
                {"finding": finding.kind, "ours": finding.ours, "theirs": finding.theirs, "repair": "orders"},
                tracked.record.id,
            )
        )
        context.alarms.clear(f"unexplained:{tracked.record.id}", now, tracked.record.id)
        if tracked.holding.is_flat:
            await self._lifecycle.finish(tracked, now)

    async def _unexplained(
        self, tracked: Tracked, finding: Finding, theirs: BrokerPosition | None, now: datetime
    ) -> None:
        """Several polls agree and no order explains it. More than ours is adopted; less is an alarm, never a guess."""
        context, record = self._context, tracked.record
        if theirs is not None and self._corporate.shown(tracked, theirs) is not None:
            # For the extra of a split nothing was paid: it is booked once the broker confirms it.
            context.alarms.raise_alarm(
                f"unexplained:{record.id}",
                "unconfirmed_split",
                f"{record.symbol}: we hold {tracked.signed_qty}, the broker {theirs.qty} as after a split, and other"
                " answers of its do not confirm it: compare with its dashboard",
                now,
                record.id,
            )
            return
        extra = (finding.theirs - tracked.signed_qty) * record.side.sign
        if theirs is not None and extra > 0 and finding.kind is FindingKind.QUANTITY:
            fill = Fill(
                f"reconciled:{record.uid}:{now.isoformat()}",
                f"reconciled:{record.uid}",
                None,
                record.symbol,
                record.side.opening,
                extra,
                self._implied_price(tracked, theirs, extra),
                now,
            )
            self._lifecycle.book_reconciled(tracked, fill, finding, now, repair="adopted")
            return
        confirmed = await context.broker.position(record.symbol)
        held = confirmed.qty if confirmed is not None else Decimal(0)
        if held == tracked.signed_qty or record.id not in context.positions:
            return
        context.alarms.raise_alarm(
            f"unexplained:{record.id}",
            f"unexplained_{finding.kind.value}",
            f"{record.symbol}: we hold {tracked.signed_qty}, the broker {held}, and no order explains it: compare with"
            " the broker's activities",
            now,
            record.id,
            ours=str(finding.ours),
            theirs=str(finding.theirs),
        )

    def _implied_price(self, tracked: Tracked, theirs: BrokerPosition, extra: Decimal) -> Decimal:
        """The price of the added part that brings our average closest to the broker's."""
        total = abs(theirs.qty) * theirs.avg_entry_price
        implied = (total - tracked.holding.qty * tracked.holding.entry_price) / extra
        return max(implied, Decimal(0))

    async def adopt_now(self, symbol: str, theirs: BrokerPosition, now: datetime) -> None:
        """Adopt because a person asks: at the broker's average price when no fills explain it.

        Does nothing while fills and positions disagree about the last moments. Raises BrokerError.
        """
        await self._adoption.adopt(symbol, theirs, now, unproven=True)
