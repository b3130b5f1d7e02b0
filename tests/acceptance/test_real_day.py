"""A real day of recorded bars through sockets, exchange, managers, dispatchers and PostgreSQL, read independently.

2023-01-03: AAPL -3.7 %, NVDA -3.0 %, MSFT -1.7 % and IBM +0.6 % from the open. Every exit must have the right rule,
minute, quantity and account, and nothing may be left. Option quotes come from the exchange's model over the recorded
stocks, as captured by a second client on the option socket.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgpack
import pytest
import websockets
from tests.support.floor import Floor, open_floor
from tests.support.reading import DATA, Expected, Held, Look, must_leave, pyqstrat_day

from exitguard.core.instrument import parse_instrument
from exitguard.core.orders import OrderRequest, OrderSide, OrderType, PositionIntent, TimeInForce
from exitguard.core.policy import Levels, Policy
from exitguard.paper.server.app import PaperServer
from exitguard.paper.server.settings import PaperSettings

pytestmark = [
    pytest.mark.skipif(not DATA.is_dir(), reason=f"the recorded bars are not there: {DATA}"),
    pytest.mark.timeout(900),
]

DAY = "2023-01-03"
START = datetime(2023, 1, 3, 14, 31, tzinfo=UTC)
ENTRY = START + timedelta(minutes=9)
CLOSE = datetime(2023, 1, 3, 21, 0, tzinfo=UTC)
DAY_TRADE_EXIT = CLOSE - timedelta(minutes=5)
STOCKS = ("AAPL", "IBM", "MSFT", "NVDA")
CASH = {"large": Decimal(100_000), "tiny": Decimal(10_000), "observer": Decimal(1_000)}
# Large relies on its manager alone; tiny also rests brackets at the broker.
POLICIES = {
    "large": Policy(
        name="large",
        missing_bracket=False,
        stocks=Levels(Decimal(-1), Decimal("1.5")),
        max_relative_spread_percent=Decimal(40),
    ),
    "tiny": Policy(name="tiny", max_hold_minutes=300, max_relative_spread_percent=Decimal(40)),
}
QTY = {"large": Decimal(20), "tiny": Decimal(2)}


@contextlib.asynccontextmanager
async def option_tape(server: PaperServer, contracts: list[str]) -> AsyncIterator[dict[str, list[Look]]]:
    """Capture the mids of option quotes from the socket, as any other client would."""
    tape: dict[str, list[Look]] = {contract: [] for contract in contracts}
    account = server.accounts["observer"]

    async with websockets.connect(
        server.option_stream_url, additional_headers={"Content-Type": "application/msgpack"}
    ) as socket:

        async def say(message: dict[str, Any]) -> None:
            await socket.send(msgpack.packb(message))

        async def listen() -> None:
            async for frame in socket:
                for message in msgpack.unpackb(frame, timestamp=3):
                    if message["T"] == "q" and message["bp"] > 0 and message["ap"] >= message["bp"]:
                        mid = (Decimal(str(message["bp"])) + Decimal(str(message["ap"]))) / 2
                        tape[message["S"]].append(Look(message["t"], mid))

        await say({"action": "auth", "key": account.key, "secret": account.secret})
        await say({"action": "subscribe", "quotes": contracts})
        listener = asyncio.create_task(listen())
        try:
            yield tape
        finally:
            listener.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await listener


async def contracts_near(floor: Floor, underlying: str, kind: str) -> str:
    """The contract nearest to the money that expires in three weeks or so."""
    quote = (await floor.seats["large"].broker.latest_quotes([underlying]))[underlying]
    found = await floor.seats["large"].broker.option_contracts(
        [underlying],
        expiry_from=START.date() + timedelta(days=14),
        expiry_to=START.date() + timedelta(days=30),
        type=kind,
    )
    return min((abs(parse_instrument(c.symbol).strike - quote.mid), c.symbol) for c in found)[1]


async def test_f148_every_exit_of_a_real_day_is_the_one_that_the_bars_demand(database_url: str) -> None:
    settings = PaperSettings(CASH, replay=DATA, symbols=STOCKS, start=START, paused=True)
    async with PaperServer(settings) as server, open_floor(server, database_url) as floor:
        for name, policy in POLICIES.items():
            await floor.seat(name, policy)
        await floor.advance_to(ENTRY - timedelta(minutes=1))
        call, put = await contracts_near(floor, "NVDA", "call"), await contracts_near(floor, "AAPL", "put")
        async with option_tape(server, [call, put]) as tape:
            await floor.advance_to(ENTRY)
            await enter(floor, call, put)
            await floor.advance_to(CLOSE - timedelta(seconds=15))
        await check(floor, tape)


async def enter(floor: Floor, call: str, put: str) -> None:
    """Long and short stock, long call and put, in both accounts; large also trades IBM by hand, without a bracket."""
    for name, qty in QTY.items():
        await floor.signal(name, "BUY_STOCK", "AAPL", qty=qty, stop_loss="122", take_profit="140")
        await floor.signal(name, "SELL_STOCK", "MSFT", qty=qty, strategy_type="day_trade")
        await floor.signal(name, "BUY_CALL", "NVDA", option_symbol=call, qty=1)
        await floor.signal(name, "BUY_PUT", "AAPL", option_symbol=put, qty=1)
    await floor.opened(8)
    for name, side, intent in (
        ("large", OrderSide.BUY, PositionIntent.BUY_TO_OPEN),
        ("tiny", OrderSide.SELL, PositionIntent.SELL_TO_OPEN),
    ):
        by_hand = OrderRequest(f"by-hand-{name}", "IBM", side, QTY[name], OrderType.MARKET, TimeInForce.DAY, intent)
        await floor.seats[name].broker.submit(by_hand)
    await floor.advance(120)
    await floor.opened(10)


async def check(floor: Floor, tape: dict[str, list[Look]]) -> None:
    """Compare every position with the independent reading, and the ledger with the venue."""
    looks = {symbol: pyqstrat_day(symbol, DAY) for symbol in STOCKS} | tape
    rows = await floor.rows("SELECT * FROM active_positions ORDER BY account_name, symbol")
    history = {(row["account_name"], row["symbol"]): row for row in await floor.rows("SELECT * FROM position_history")}
    assert len(rows) == 10
    wrong = []
    for row in rows:
        expected = must_leave(held(row), looks[row["symbol"]], CLOSE - timedelta(seconds=15))
        wrong += mistakes(row, history.get((row["account_name"], row["symbol"])), expected)
    assert not wrong, "\n".join(wrong)
    venue = floor.server.exchange.state_json()
    for name in POLICIES:
        ours = {r["symbol"]: r["quantity"] for r in rows if r["account_name"] == name and r["status"] != "closed"}
        theirs = {symbol: abs(Decimal(p["qty"])) for symbol, p in venue[name]["positions"].items()}
        assert ours == theirs
        realised = sum((r["realised_pnl"] for r in rows if r["account_name"] == name), Decimal(0))
        if not theirs:
            assert Decimal(venue[name]["cash"]) - CASH[name] == pytest.approx(realised, abs=Decimal("0.01"))
    assert venue["observer"]["positions"] == {}


def held(row: Any) -> Held:
    """The position's numbers, from its account's policy and the entry that the venue filled."""
    name, is_option = row["account_name"], row["option_symbol"] is not None
    sign = 1 if row["side"] == "long" else -1
    entry, opened = row["entry_price"], row["entry_time"]
    percents = (
        (Decimal(-40), Decimal(80))
        if is_option
        else ((Decimal(-1), Decimal("1.5")) if name == "large" else (Decimal(-2), Decimal(3)))
    )
    stop, target = (entry * (1 + sign * percent / 100) for percent in percents)
    if row["symbol"] == "AAPL":
        stop, target = Decimal(122), Decimal(140)
    bracketed = not is_option and row["symbol"] != "IBM" if name == "large" else not is_option
    return Held(
        sign,
        entry,
        opened,
        stop,
        target,
        timedelta(0) if bracketed else timedelta(minutes=30),
        opened + timedelta(minutes=240 if name == "large" else 300),
        {DAY_TRADE_EXIT: "day_trade_close"} if row["strategy_type"] == "day_trade" else {},
        entry / 2 if is_option else None,
    )


# A resting bracket acts on the same level as the manager's own rule: whoever was first, it is the same exit.
SAME = {"bracket_stop": "stop_loss", "bracket_target": "take_profit"}


def mistakes(row: Any, closed: Any, expected: Expected) -> list[str]:
    """What differs between the ledger and the independent reading, in words."""
    entered = f"entered {row['entry_time']:%H:%M:%S} at {row['entry_price']}"
    what = f"{row['account_name']} {row['side']} {row['symbol']} {entered}"
    if not expected.reasons:
        return [] if row["status"] == "open" else [f"{what}: closed by {row['close_reason']}, must be held"]
    if closed is None:
        return [f"{what}: not closed, must be by {set(expected.reasons)} at {expected.latest:%H:%M}"]
    found = []
    reason = SAME.get(closed["close_reason"], closed["close_reason"])
    if reason not in expected.reasons:
        found.append(f"{what}: closed by {closed['close_reason']}, must be by {set(expected.reasons)}")
    minute = (closed["trigger_at"] or closed["closed_at"]).replace(second=0, microsecond=0)
    if not expected.earliest <= minute <= expected.latest:
        found.append(f"{what}: left at {minute:%H:%M}, must be {expected.earliest:%H:%M} to {expected.latest:%H:%M}")
    if closed["quantity"] != row["original_quantity"]:
        found.append(f"{what}: closed {closed['quantity']}, held {row['original_quantity']}")
    return found
