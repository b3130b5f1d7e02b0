"""Corporate actions: splits and new names of stocks, and what they do to positions, orders and option contracts."""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from exitguard.core.errors import InvalidInput
from exitguard.core.instrument import InstrumentType, format_occ, parse_instrument
from exitguard.paper.engine.errors import unprocessable
from exitguard.paper.engine.extras import Extras
from exitguard.paper.engine.lifecycle import Lifecycle
from exitguard.paper.engine.model import ONE, Account, Asset
from exitguard.paper.engine.settlement import Settlement
from exitguard.paper.engine.venue import Venue
from exitguard.paper.engine.wire import CENT

_STRIKE_STEP = Decimal("0.001")


@dataclass(frozen=True, slots=True)
class _NewTerms:
    """What a contract becomes; one old contract is `factor` new ones."""

    root: str
    strike: Decimal
    factor: Decimal = ONE


class CorporateActions:
    """Carries them out at once; the activities appear on the next morning."""

    def __init__(self, venue: Venue, lifecycle: Lifecycle, settlement: Settlement, extras: Extras) -> None:
        self._venue = venue
        self._lifecycle = lifecycle
        self._settlement = settlement
        self._extras = extras

    def split(self, stock: Asset, ratio: Decimal) -> None:
        """One share becomes `ratio` shares. Open orders of the stock and its options are cancelled.

        By a whole ratio contracts are adjusted too: more of them, at the divided strike, under another symbol. Another
        ratio changes a contract's deliverable, which is not modelled: it is refused while somebody holds contracts.
        """
        contracts = self._contracts(stock)
        if ratio != ratio.to_integral_value():
            symbols = {contract.symbol for contract in contracts}
            if any(symbols & account.positions.keys() for account in self._venue.accounts.values()):
                raise unprocessable("a split by no whole ratio is not possible while its option contracts are held")
            contracts = []
        for account in self._venue.accounts.values():
            self._cancel(account, stock.symbol)
            position = account.positions.get(stock.symbol)
            if position is not None:
                change = position.qty * ratio - position.qty
                position.qty += change
                position.average /= ratio
                self._settlement.remember(account, "SPLIT", stock.symbol, change, f"Stock Split {stock.symbol}")
        self._adjust(contracts, lambda one: _NewTerms(one.root, (one.strike / ratio).quantize(_STRIKE_STEP), ratio))
        stock.lastday_price = (stock.lastday_price / ratio).quantize(CENT)
        stock.print_price = (stock.price / ratio).quantize(CENT)
        stock.good = None
        self._extras.announce("split", stock.symbol, {"old_rate": "1", "new_rate": ratio})

    def rename(self, stock: Asset, new: str) -> None:
        """A stock gets a new symbol, and so do its contracts; identifiers stay, open orders are cancelled."""
        try:
            name = parse_instrument(new).symbol
        except InvalidInput as error:
            raise unprocessable(str(error)) from error
        if name in self._venue.assets:
            raise unprocessable(f"{name} is listed already")
        old = stock.symbol
        contracts = self._contracts(stock)
        for account in self._venue.accounts.values():
            self._cancel(account, old)
            position = account.positions.pop(old, None)
            if position is not None:
                account.positions[name] = position
                self._settlement.remember_exchange(account, "NC", (old, position.qty), (name, position.qty))
        del self._venue.assets[old]
        stock.symbol = name
        self._venue.assets[name] = stock
        self._adjust(contracts, lambda one: _NewTerms(name.replace(".", ""), one.strike))
        self._extras.announce("name_change", old, {"target_symbol": name})

    def _contracts(self, stock: Asset) -> list[Asset]:
        return [asset for asset in self._venue.assets.values() if asset.underlying is stock]

    def _cancel(self, account: Account, symbol: str) -> None:
        for order in [order for order in account.open.values() if order.symbol == symbol]:
            self._lifecycle.finish(order, "canceled")

    def _adjust(self, contracts: list[Asset], terms_of: Callable[[Asset], _NewTerms]) -> None:
        """Put contracts under new terms; holders get an OPCA activity each."""
        assets = self._venue.assets
        for contract in contracts:
            for account in self._venue.accounts.values():
                self._cancel(account, contract.symbol)
            # All leave before any comes back: the new symbol of one can be the old one of another.
            del assets[contract.symbol]
        for contract in contracts:
            old, terms = contract.symbol, terms_of(contract)
            assert contract.expiry is not None, old
            contract.root, contract.strike = terms.root, terms.strike
            contract.symbol = format_occ(
                terms.root, contract.expiry, InstrumentType(contract.right.upper()), terms.strike
            )
            contract.print_price = (contract.price / terms.factor).quantize(CENT) if contract.price else None
            contract.good = None
            contract.lastday_price = (contract.lastday_price / terms.factor).quantize(CENT)
            assets[contract.symbol] = contract
        moved = {contract.id: contract for contract in contracts}
        for account in self._venue.accounts.values():
            for old, position in list(account.positions.items()):
                if position.asset.id in moved:
                    self._adjust_position(account, old, terms_of)

    def _adjust_position(self, account: Account, old: str, terms_of: Callable[[Asset], _NewTerms]) -> None:
        position = account.positions.pop(old)
        before = position.qty
        factor = terms_of(position.asset).factor
        position.qty *= factor
        position.average /= factor
        name = position.asset.symbol
        account.positions[name] = position
        if old in account.do_not_exercise:
            account.do_not_exercise.symmetric_difference_update((old, name))
        self._settlement.remember_exchange(account, "OPCA", (old, before), (name, position.qty))
