"""A running house: the paper exchange as a process, accounts that hold positions there, and the ledger that knows them.

Positions are bought at the exchange, and left in the ledger as an earlier process of the manager would have left them.
"""

import asyncio
import itertools
import string
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

from exitguard.cli.account_section import account_section, write_keys
from exitguard.cli.bench.book import HELD_FOR, OPTION_QTY, STOCK_QTY, Held, ledger_operations, opening_time, trading_day
from exitguard.cli.bench.place import DATABASE, BenchFailed, Place
from exitguard.cli.demo.venue import Addresses, Contract, Venue
from exitguard.core.records import Batch, Operation
from exitguard.store.files import write_private
from exitguard.store.repository import PgAccountStore

_CASH = 1_000_000_000
_START_SECONDS = 60.0
_FILLED_SECONDS = 120.0
_BUYERS = 16
_POSITIONS_A_BATCH = 200
_CHAIN_FIRST, _CHAIN_LAST = timedelta(days=7), timedelta(days=40)

_SETTINGS = """
[database]
url = "embedded:{database}"

[log]
level = "{log}"
"""


@dataclass(frozen=True, slots=True)
class HouseSizes:
    """How large a house is: each account holds a share of the stocks, and options on them for the rest."""

    accounts: int = 1
    stocks: int = 200
    stocks_held: int = 200
    positions: int = 1000

    @property
    def names(self) -> tuple[str, ...]:
        """The accounts."""
        return tuple(f"acct{number:03d}" for number in range(1, self.accounts + 1))

    @property
    def symbols(self) -> tuple[str, ...]:
        """The stocks of the market."""
        letters = itertools.product(string.ascii_uppercase, repeat=3)
        return tuple("X" + "".join(each) for each in itertools.islice(letters, self.stocks))


@dataclass(frozen=True, slots=True)
class House:
    """What runs: the exchange and its client, the ledger, and the settings with which managers are started.

    `furnished_at` is the market's time at which the last position had been bought.
    """

    sizes: HouseSizes
    venue: Venue
    url: str
    settings: Path
    held: dict[str, list[Held]]
    furnished_at: datetime


async def start_exchange(place: Place, sizes: HouseSizes, *, paused: bool, market: str, seed: int = 1) -> Addresses:
    """Start `exitguard paper` with the accounts and stocks; its market opens at eleven of a trading day."""
    accounts = [part for name in sizes.names for part in ("--account", f"{name}:{_CASH}")]
    stocks = [part for symbol in sizes.symbols for part in ("--symbols", symbol)]
    process = await place.start(
        "paper", "exitguard.cli.main", "paper", *accounts, *stocks, "--generate", str(seed), "--market", market,
        "--start", opening_time(trading_day()).isoformat(), "--json", *(("--paused",) if paused else ()),
    )  # fmt: skip
    return Addresses.read(await place.line(process, _START_SECONDS))


async def furnish(place: Place, venue: Venue, sizes: HouseSizes, *, stepped: bool, log: str = "info") -> House:
    """Buy every position, write it into the ledger, and write the settings."""
    url = await place.database()
    now = opening_time(trading_day())
    if stepped:
        now = await venue.advance(now + timedelta(minutes=1))  # nothing has a price before
    contracts = await _contracts(venue, sizes, now)
    held = {}
    for number, name in enumerate(sizes.names):
        wanted = _wanted(sizes, contracts, number)
        orders = await _buy(venue, name, wanted)
        held[name] = await _bought(venue, name, len(wanted))
        await _record(url, name, held[name], orders, now)
    settings = _write_settings(place.folder, venue.addresses, sizes.names, stepped=stepped, log=log)
    return House(sizes, venue, url, settings, held, now)


async def _contracts(venue: Venue, sizes: HouseSizes, now: datetime) -> dict[str, list[Contract]]:
    """Contracts by underlying, nearest to the money first: their premium is far from its last cent."""
    name, day = sizes.names[0], now.date()
    found: dict[str, list[Contract]] = {}
    each = -(-(sizes.positions - sizes.stocks_held) // sizes.stocks)
    for first in range(0, sizes.stocks, 20):
        symbols = sizes.symbols[first : first + 20]
        spots = await venue.quotes(name, symbols)
        chain = await venue.chain(name, symbols, day + _CHAIN_FIRST, day + _CHAIN_LAST)
        for symbol in symbols:
            mine = [c for c in chain if c.underlying == symbol]
            mine.sort(key=lambda c, spot=spots[symbol].mid: (abs(c.strike - spot), c.symbol))  # type: ignore[misc]
            found[symbol] = mine[: max(each, 1)]
    return found


def _wanted(sizes: HouseSizes, contracts: dict[str, list[Contract]], number: int) -> list[str]:
    """What one account holds; accounts begin at different stocks, so that they share contracts and are not equal."""
    symbols = [sizes.symbols[(number * 7 + index) % sizes.stocks] for index in range(sizes.stocks)]
    stocks = symbols[: sizes.stocks_held]
    deep = max((len(each) for each in contracts.values()), default=0)
    options = [contracts[s][level].symbol for level in range(deep) for s in symbols if level < len(contracts[s])]
    chosen = [*stocks, *options[: sizes.positions - sizes.stocks_held]]
    if len(chosen) != sizes.positions:
        raise BenchFailed(f"the market has {len(chosen)} contracts for {sizes.positions} positions")
    return chosen


async def _buy(venue: Venue, name: str, symbols: Sequence[str]) -> dict[str, str]:
    """Buy all; the orders' ids by symbol."""
    gate = asyncio.Semaphore(_BUYERS)

    async def one(symbol: str) -> str:
        async with gate:
            return await venue.buy(name, symbol, STOCK_QTY if len(symbol) <= 6 else OPTION_QTY)

    return dict(zip(symbols, await asyncio.gather(*(one(symbol) for symbol in symbols)), strict=True))


async def _bought(venue: Venue, name: str, count: int) -> list[Held]:
    deadline = time.monotonic() + _FILLED_SECONDS
    while len(rows := await venue.positions(name)) < count:
        if time.monotonic() > deadline:
            raise BenchFailed(f"{len(rows)} of {count} positions of {name} were filled")
        await asyncio.sleep(0.05)
    return [
        Held(row["symbol"], row["symbol"], len(row["symbol"]) > 6, int(row["qty"]), Decimal(row["avg_entry_price"]))
        for row in rows
    ]


async def _record(url: str, name: str, held: Sequence[Held], orders: dict[str, str], now: datetime) -> None:
    """Leave positions in the ledger; their ages differ, so that not all deadlines come at once."""
    store = await PgAccountStore.connect(url, name)
    try:
        lease = await store.acquire_lease("bench", timedelta(seconds=60))
        for first in range(0, len(held), _POSITIONS_A_BATCH):
            operations: list[Operation] = []
            for number, each in enumerate(held[first : first + _POSITIONS_A_BATCH], first + 1):
                age = HELD_FOR + timedelta(minutes=10) * (number % 15)
                operations += ledger_operations(name, each, number, now, held_for=age, order=orders[each.symbol])
            await store.commit(Batch(uuid4(), name, lease.epoch, now, tuple(operations)))
        await store.release_lease(lease)
    finally:
        await store.close()


def _write_settings(folder: Path, addresses: Addresses, names: Sequence[str], *, stepped: bool, log: str) -> Path:
    parts = [_SETTINGS.format(database=DATABASE, log=log)]
    for name in names:
        account = addresses.accounts[name]
        parts.append(
            account_section(
                name,
                addresses,
                **write_keys(folder, name, account),
                account_number=account.account_number,
                clock="stepped" if stepped else "real",
            )
        )
    path = folder / "house.toml"
    write_private(path, "".join(parts).encode())
    return path
