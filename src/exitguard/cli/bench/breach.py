"""Breach to order: from the quote frame that leaves the venue to the order that arrives there."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from uuid import uuid4

import orjson

from exitguard.cli.account_section import PlainUrls, account_section
from exitguard.cli.bench.answers import ACCOUNT_NUMBER
from exitguard.cli.bench.book import Sizes, ledger_operations, make_book, opening_time, trading_day
from exitguard.cli.bench.place import DATABASE, Place
from exitguard.cli.bench.probed import stages
from exitguard.cli.bench.result import Measurement, Target, measured, quantile
from exitguard.cli.bench.venue import BARE, OPTIONS, STOCKS, TRADES
from exitguard.core.records import Batch, Operation
from exitguard.store.repository import PgAccountStore

ACCOUNT = "bench"
P50 = Target(2.0, of_ratio=True)
P99 = Target(3.0, of_ratio=True)
# Between a quiet premium and a breached one.
_BARE_LEVEL = 3.0
_POSITIONS_A_BATCH = 200
_START_SECONDS = 60.0
_ROUND_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Stamps:
    """Rounds of both clients: (sent, arrived) in nanoseconds of CLOCK_MONOTONIC."""

    bare: list[tuple[int, int]]
    product: list[tuple[int, int]]


async def play(place: Place, sizes: Sizes, say: Callable[[str], None], manager: Sequence[str]) -> Stamps:
    """Run venue, bare loop and manager together. `manager` is the module that runs `exitguard run`, with arguments."""
    say(f"breach_to_order: filling the ledger with {sizes.positions + sizes.rounds + sizes.warmup} positions")
    await _fill_ledger(await place.database(), sizes)
    venue = await place.start("venue", "exitguard.cli.bench.venue", orjson.dumps(asdict(sizes)).decode())
    try:
        ports = orjson.loads(await place.line(venue, _START_SECONDS))
        rest, sockets = f"http://127.0.0.1:{ports['http']}", f"ws://127.0.0.1:{ports['sockets']}"
        urls = PlainUrls(rest, sockets + TRADES, rest, sockets + STOCKS, sockets + OPTIONS)
        keys = {"key": "env:BENCH_KEY", "secret": "env:BENCH_SECRET", "account_number": ACCOUNT_NUMBER}
        settings = place.folder / "breach.toml"
        section = account_section(ACCOUNT, urls, **keys)
        settings.write_text(f'[database]\nurl = "embedded:{DATABASE}"\n{section}', encoding="utf-8")
        await place.start("bare", "exitguard.cli.bench.bare", sockets + BARE, rest + "/v2/orders", str(_BARE_LEVEL))
        module, *arguments = manager
        running = await place.start("manager", module, *arguments, "run", "--config", str(settings))
        rounds = sizes.rounds + sizes.warmup
        say(f"breach_to_order: manager starting, then {rounds} breaches, each next to one of the bare loop")
        stamps = orjson.loads(await place.line(venue, _START_SECONDS * 3 + rounds * _ROUND_SECONDS))
        await place.stop(running)
    finally:
        await place.stop_all()
    return Stamps(*([(sent, arrived) for sent, arrived in stamps[kind]] for kind in ("bare", "product")))


async def _fill_ledger(url: str, sizes: Sizes) -> None:
    """Leave positions in the ledger as an earlier process of the manager would have."""
    session = trading_day()
    now = opening_time(session)
    book = make_book(sizes, session.day)
    store = await PgAccountStore.connect(url, ACCOUNT)
    try:
        lease = await store.acquire_lease("bench", timedelta(seconds=60))
        for first in range(0, len(book), _POSITIONS_A_BATCH):
            operations: list[Operation] = []
            for number, held in enumerate(book[first : first + _POSITIONS_A_BATCH], first + 1):
                operations += ledger_operations(ACCOUNT, held, number, now)
            await store.commit(Batch(uuid4(), ACCOUNT, lease.epoch, now, tuple(operations)))
        await store.release_lease(lease)
    finally:
        await store.close()


def latencies(rounds: Sequence[tuple[int, int]]) -> list[float]:
    """Milliseconds from sent to arrived."""
    return [(arrived - sent) / 1e6 for sent, arrived in rounds]


def rows(stamps: Stamps) -> dict[str, Measurement]:
    """The two figures that are promised."""
    bare, product = latencies(stamps.bare), latencies(stamps.product)
    return {
        name: measured(quantile(product, share), "ms", baseline=quantile(bare, share), target=target)
        for name, share, target in (
            ("breach_to_order_p50", 0.50, P50),
            ("breach_to_order_p99", 0.99, P99),
        )
    }


async def measure(place: Place, sizes: Sizes, say: Callable[[str], None]) -> dict[str, Measurement]:
    """Measure with the program as operators start it."""
    return rows(await play(place, sizes, say, ("exitguard.cli.main",)))


async def explain(place: Place, sizes: Sizes, say: Callable[[str], None]) -> dict[str, list[float]]:
    """Microseconds of each stage of the breaches of another run, with probes in the manager."""
    target = place.folder / "moments.json"
    stamps = await play(place, sizes, say, ("exitguard.cli.bench.probed", str(target)))
    moments = [(str(name), int(at)) for name, at in orjson.loads(target.read_bytes())]
    return stages(moments, stamps.product)
