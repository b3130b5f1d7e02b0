"""Multi-leg option orders: 2 to 4 contracts of one underlying that fill together or not at all.

`limit_price` is the net premium a spread: positive when it is paid, negative when it is received. The parent has no
symbol and no asset, as at Alpaca; the legs carry their own ids and are never orders of their own.
"""

from collections.abc import Mapping
from decimal import Decimal
from math import gcd

from exitguard.paper.engine.admission import Admission, check_tick, infer_intent
from exitguard.paper.engine.balances import balances, short_option_requirement
from exitguard.paper.engine.errors import forbidden, insufficient_options_buying_power, no_quote, unprocessable
from exitguard.paper.engine.ledger import Ledger
from exitguard.paper.engine.lifecycle import Lifecycle
from exitguard.paper.engine.matching import Matcher, part_of
from exitguard.paper.engine.model import ZERO, Account, Asset, Order
from exitguard.paper.engine.request import Draft, LegDraft
from exitguard.paper.engine.sessions import REGULAR
from exitguard.paper.engine.venue import Venue
from exitguard.paper.engine.wire import microseconds, text, timestamp


class MultiLeg:
    """Admits, prices and fills multi-leg orders."""

    def __init__(
        self, venue: Venue, admission: Admission, lifecycle: Lifecycle, ledger: Ledger, matcher: Matcher
    ) -> None:
        self._venue = venue
        self._admission = admission
        self._lifecycle = lifecycle
        self._ledger = ledger
        self._working: dict[str, dict[str, Order]] = {}
        matcher.match_mleg = self.match
        matcher.wake_mleg = self.wake
        matcher.waiting_mlegs = self._working

    # Admission ------------------------------------------------------------------------------------------------------

    def _check(self, account: Account, draft: Draft) -> list[Asset]:
        """What holds for a new order and for a replacement alike; the contracts. Raises ApiError."""
        self._admission.check_account(account, draft.client_order_id)
        assets = self._assets(draft)
        check_tick("limit_price", draft.limit_price, is_option=True)
        return assets

    def submit(self, account: Account, draft: Draft) -> Order:
        """Take a multi-leg order. Raises ApiError."""
        assets = self._check(account, draft)
        now = self._venue.moment()
        if draft.extended_hours:
            raise unprocessable("extended hours is not supported for options trading")
        if draft.type == "market" and self._venue.sessions.phase(now) != REGULAR:
            raise unprocessable("options market orders are only allowed during market hours")
        if (
            min(account.configurations["max_options_trading_level"], account.configurations["options_approved_level"])
            < 3
        ):
            raise forbidden("account not eligible to trade spreads or uncovered contracts")
        intents = [
            self._leg_intent(account, asset, leg.side, leg.intent)
            for asset, leg in zip(assets, draft.legs, strict=True)
        ]
        for asset, wanted, intent in zip(assets, draft.legs, intents, strict=True):
            self._admission.check_denied(account, asset, intent, wanted.ratio * (draft.qty or ZERO))
        cost = self._cost(account, draft, assets, intents)
        available = balances(account).options_buying_power
        if cost > available:
            raise insufficient_options_buying_power(available, cost)
        root = self._build(account, draft, assets, intents)
        self._venue.reserve(root, cost)
        root.unit_cost = cost / (draft.qty or Decimal(1))
        for leg in root.legs:
            if leg.is_closing:
                self._venue.hold(leg, leg.remaining)
        self.watch(root)
        self._lifecycle.place(root)
        return root

    # Replacement ----------------------------------------------------------------------------------------------------

    def replacement(self, order: Order, draft: Draft, client_order_id: str | None) -> Order:
        """The order that is to take the place of another, under new ids for itself and its legs. Raises ApiError."""
        account = order.account
        if draft.time_in_force not in ("day", "gtc"):
            raise unprocessable("invalid time_in_force for mleg orders")
        draft.client_order_id = client_order_id
        draft.legs = [LegDraft(leg.symbol, leg.ratio or 1, leg.side, leg.intent) for leg in order.legs]
        assets = self._check(account, draft)
        intents = [
            self._leg_intent(account, asset, leg.side, leg.intent)
            for asset, leg in zip(assets, draft.legs, strict=True)
        ]
        cost = self._cost(account, draft, assets, intents, {leg.symbol: leg.held for leg in order.legs})
        available = balances(account).options_buying_power + order.reserved
        if cost > available:
            raise insufficient_options_buying_power(available, cost)
        return self._clone(order, draft, assets, cost)

    def same_again(self, order: Order) -> Order:
        """The same order under new ids."""
        legs = [LegDraft(leg.symbol, leg.ratio or 1, leg.side, leg.intent) for leg in order.legs]
        draft = Draft("", "", order.type, order.time_in_force, order.qty, limit_price=order.limit_price, legs=legs)
        assets = [leg.asset for leg in order.legs if leg.asset is not None]
        return self._clone(order, draft, assets, order.unit_cost * (order.qty or ZERO))

    def _clone(self, order: Order, draft: Draft, assets: list[Asset], cost: Decimal) -> Order:
        venue = self._venue
        new = self._build(order.account, draft, assets, [leg.intent for leg in order.legs])
        new.replaces = order.id
        new.unit_cost = cost / (draft.qty or Decimal(1))
        venue.register(new)
        for leg, old in zip(new.legs, order.legs, strict=True):
            leg.replaces = old.id
            venue.register(leg)
            if leg.is_closing:
                venue.hold(leg, max(leg.remaining - old.held, ZERO))
        venue.reserve(new, max(cost - order.reserved, ZERO))
        self.watch(new)
        return new

    def take_over(self, new: Order, old: Order) -> None:
        """The old order has ended: its replacement ties up what it needs, leg by leg."""
        for leg, before in zip(new.legs, old.legs, strict=True):
            before.replaced_by = leg.id
            self._venue.note(before)
            if leg.is_closing:
                self._venue.hold(leg, leg.remaining)

    def _assets(self, draft: Draft) -> list[Asset]:
        assets = []
        for leg in draft.legs:
            asset = self._venue.asset(leg.symbol)
            if asset is None or not asset.is_option:
                raise unprocessable(f'contract "{leg.symbol[:64]}" not found')
            self._admission.check_contract(asset)
            assets.append(asset)
        if len({asset.symbol for asset in assets}) != len(assets):
            raise unprocessable("mleg orders require distinct legs")
        if len({asset.underlying.symbol for asset in assets if asset.underlying is not None}) != 1:
            raise unprocessable("mleg orders require legs of the same underlying")
        if gcd(*(leg.ratio for leg in draft.legs)) != 1:
            raise unprocessable("leg ratio quantities must be relatively prime")
        return assets

    def _leg_intent(self, account: Account, asset: Asset, side: str, given: str | None) -> str:
        intent = infer_intent(account, asset.symbol, side)
        if given is not None and given != intent:
            raise unprocessable(f"position intent mismatch, inferred: {intent}, specified: {given}")
        if not intent.endswith("_to_close"):
            self._admission.check_expiring(asset)
        return intent

    def _cost(
        self,
        account: Account,
        draft: Draft,
        assets: list[Asset],
        intents: list[str],
        own: Mapping[str, Decimal] | None = None,
    ) -> Decimal:
        """Dollars tied up: the premium paid and what the short legs demand on top of what they demand already.

        `own` is what the legs of an order that is to be replaced hold, by symbol.
        """
        qty = draft.qty or ZERO
        extra: dict[Asset, Decimal] = {}
        for asset, leg, intent in zip(assets, draft.legs, intents, strict=True):
            units = qty * leg.ratio
            if intent.endswith("_to_close"):
                leg_draft = Draft(asset.symbol, leg.side, "market", "day", units)
                self._admission.check_quantity(account, leg_draft, asset, (own or {}).get(asset.symbol, ZERO))
            extra[asset] = units if leg.side == "buy" else -units
        self._check_covered(extra)
        price = draft.limit_price if draft.limit_price is not None else self._natural(list(extra), draft) or ZERO
        premium = price * 100 * qty
        demand = short_option_requirement(account, extra) - short_option_requirement(account)
        return max(premium + max(demand, ZERO), ZERO)

    @staticmethod
    def _check_covered(extra: dict[Asset, Decimal]) -> None:
        """Every call sold is covered by a call bought in the same order, unless it closes one."""
        opened = {asset: qty for asset, qty in extra.items() if asset.right == "call"}
        if sum(opened.values(), ZERO) < 0:
            raise forbidden("account not eligible to trade uncovered option contracts")

    def _build(self, account: Account, draft: Draft, assets: list[Asset], intents: list[str]) -> Order:
        venue = self._venue
        root = self._blank(account, draft)
        root.client_order_id = draft.client_order_id or root.client_order_id
        root.limit_price = draft.limit_price
        for asset, leg, intent in zip(assets, draft.legs, intents, strict=True):
            part = self._blank(account, draft)
            part.asset = asset
            part.symbol = asset.symbol
            part.side = leg.side
            part.type = ""
            part.qty = (draft.qty or ZERO) * leg.ratio
            part.ratio = leg.ratio
            part.intent = intent
            part.parent = root
            part.sequence = venue.next_sequence()
            root.legs.append(part)
        return root

    def _blank(self, account: Account, draft: Draft) -> Order:
        venue = self._venue
        stamp, now = venue.stamp(), venue.moment()
        if draft.time_in_force == "gtc":
            end = venue.sessions.gtc_end(now, venue.settings.gtc_days)
        else:
            end = venue.sessions.day_end(now, False)
        return Order(
            id=account.identifiers.uuid(),
            client_order_id=account.identifiers.uuid(),
            account=account,
            asset=None,
            symbol="",
            side="",
            type=draft.type,
            time_in_force=draft.time_in_force,
            qty=draft.qty,
            sequence=venue.next_sequence(),
            created=stamp,
            submitted=stamp,
            updated=stamp,
            expires=microseconds(end),
            order_class="mleg",
        )

    def watch(self, root: Order) -> None:
        """Wake an order with every quote of one of its contracts, until it ends."""
        for leg in root.legs:
            self._working.setdefault(leg.symbol, {})[root.id] = root

    # Matching -------------------------------------------------------------------------------------------------------

    def wake(self, asset: Asset) -> None:
        """A contract has a new quote: try the orders that contain it."""
        waiting = self._working.get(asset.symbol)
        if not waiting:
            return
        for root in list(waiting.values()):
            if not root.is_open:
                self._forget(root)
            elif root.status in ("new", "partially_filled", "pending_cancel", "pending_replace"):
                self.match(root)

    def _forget(self, root: Order) -> None:
        for leg in root.legs:
            waiting = self._working.get(leg.symbol)
            if waiting is not None:
                waiting.pop(root.id, None)
                if not waiting:
                    del self._working[leg.symbol]

    def match(self, root: Order) -> None:
        """Fill the whole order when every leg can trade and the net price is good enough."""
        venue = self._venue
        if root.withheld or venue.sessions.phase(venue.moment()) != REGULAR:
            return
        prices = [self._leg_price(leg) for leg in root.legs]
        if any(price is None for price in prices):
            return
        known = [price for price in prices if price is not None]
        net = sum(
            (
                price * (leg.ratio or 1) * (1 if leg.side == "buy" else -1)
                for price, leg in zip(known, root.legs, strict=True)
            ),
            ZERO,
        )
        if root.limit_price is not None and net > root.limit_price:
            return
        self._fill(root, known, net)

    def _leg_price(self, leg: Order) -> Decimal | None:
        asset = leg.asset
        quote = asset.good if asset is not None else None
        if asset is None or quote is None or quote is not asset.quote or asset.halted:
            return None
        if quote.at < self._venue.sessions.floor:
            return None
        price = quote.ask if leg.side == "buy" else quote.bid
        return price or None

    def _natural(self, assets: list[Asset], draft: Draft) -> Decimal | None:
        total = ZERO
        for asset, leg in zip(assets, draft.legs, strict=True):
            quote = asset.good
            if quote is None:
                raise no_quote()
            total += (quote.ask if leg.side == "buy" else -quote.bid) * leg.ratio
        return total

    def _fill(self, root: Order, prices: list[Decimal], net: Decimal) -> None:
        venue = self._venue
        account = root.account
        for leg in root.legs:
            held = account.position_qty(leg.symbol)
            against = -held if leg.side == "buy" else held
            if (leg.is_closing and against < leg.remaining) or (not leg.is_closing and against > 0):
                self._lifecycle.finish(root, "canceled")
                return
        qty, why = self._executable(root)
        views = []
        for leg, price in zip(root.legs, prices, strict=True):
            if leg.asset is None:
                continue
            execution = self._ledger.book(leg, leg.asset, min(qty * (leg.ratio or 1), leg.remaining), price)
            views.append(
                {
                    "execution_id": execution.execution_id,
                    "qty": text(execution.qty),
                    "price": text(price),
                    "order_id": leg.id,
                    "symbol": leg.symbol,
                    "timestamp": timestamp(execution.at),
                }
            )
        root.filled_qty += qty
        root.filled_value += net * qty
        root.updated = venue.stamp()
        if root.remaining:
            root.status = "partially_filled"
            venue.reserve(root, root.unit_cost * root.remaining)
        else:
            root.status = "filled"
            root.filled = root.updated
            venue.retire(root)
            self._forget(root)
        venue.emit(
            "partial_fill" if root.remaining else "fill",
            root,
            execution_id=account.identifiers.uuid(),
            price=text(net),
            qty=text(qty),
            position_qty="0",
            position_qtys={leg.symbol: text(account.position_qty(leg.symbol)) for leg in root.legs},
            legs=views,
        )
        if root.is_open and why == "cancel":
            self._lifecycle.finish(root, "canceled")
        elif root.is_open:
            venue.schedule(venue.settings.refill_delay, lambda: self._again(root))

    def _again(self, root: Order) -> None:
        if root.is_open:
            self.match(root)

    def _executable(self, root: Order) -> tuple[Decimal, str]:
        """How many spreads fill at once, and what becomes of the rest: a later try or a cancel. Whole spreads only."""
        venue = self._venue
        left, name, symbol = root.remaining, root.account.name, root.legs[0].symbol
        fault = venue.faults.strike("partial_fill_then_cancel", account=name, symbol=symbol)
        if fault is not None:
            return part_of(left, fault.number("fraction", 0.5)), "cancel"
        fault = venue.faults.strike("partial_fill", account=name, symbol=symbol)
        if fault is not None:
            return part_of(left, fault.number("fraction", 0.5)), ""
        chance, probability = root.account.identifiers.chance, venue.settings.partial_fill_probability
        if probability and chance.random() < probability:
            return part_of(left, chance.random()), ""
        return left, ""
