"""Recorded SPY bars across the change to daylight-saving time of 13 March 2011 (T12, F107, F108, F115).

On Friday New York is five hours behind UTC, on Monday four. Day trades must leave at 15:55 New York time on both days,
that is at 20:55 and at 19:55 UTC; an option that expires on Monday becomes due while the market is closed and must
leave at Monday's open, 13:30 UTC.
"""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from tests.support.floor import Floor, open_floor
from tests.support.reading import DATA

from exitguard.core.instrument import InstrumentType, parse_instrument
from exitguard.core.policy import Levels, Policy
from exitguard.paper.server.app import PaperServer
from exitguard.paper.server.settings import PaperSettings

FILE = DATA / "nt-spy-minute-2011-03.csv"
pytestmark = [
    pytest.mark.skipif(not FILE.is_file(), reason=f"the recorded bars are not there: {FILE}"),
    pytest.mark.timeout(900),
]

FRIDAY = datetime(2011, 3, 11, 20, 40, tzinfo=UTC)
MONDAY_OPEN = datetime(2011, 3, 14, 13, 30, tzinfo=UTC)
MONDAY_AFTERNOON = datetime(2011, 3, 14, 19, 50, tzinfo=UTC)
WIDE = Levels(Decimal(-50), Decimal(60))
POLICY = Policy(
    missing_bracket=False,
    stocks=WIDE,
    options=Levels(Decimal(-95), Decimal(900), Decimal(-99)),
    max_hold_minutes=100_000,
    max_relative_spread_percent=Decimal(60),
)


async def closed_at(floor: Floor, strategy: str) -> dict[str, tuple[str, datetime]]:
    """Reason and minute of each close of a strategy, by account."""
    rows = await floor.rows(
        "SELECT account_name, close_reason, trigger_at FROM position_history WHERE strategy_type = $1"
        " ORDER BY closed_at",
        strategy,
    )
    return {r["account_name"]: (r["close_reason"], r["trigger_at"].replace(second=0, microsecond=0)) for r in rows}


async def test_t12_exits_keep_new_york_time_across_the_dst_change(database_url: str) -> None:
    cash = {"large": Decimal(100_000), "tiny": Decimal(5_000)}
    settings = PaperSettings(cash, replay=FILE, symbols=["SPY"], start=FRIDAY, paused=True)
    async with PaperServer(settings) as server, open_floor(server, database_url) as floor:
        for name in cash:
            await floor.seat(name, POLICY)
        await floor.advance(120)
        spot = (await floor.seats["large"].broker.latest_quotes(["SPY"]))["SPY"].mid
        monday = MONDAY_OPEN.date()
        listed = await floor.seats["large"].broker.option_contracts(["SPY"], expiry_from=monday, expiry_to=monday)
        calls = [c.symbol for c in listed if parse_instrument(c.symbol).type is InstrumentType.CALL]
        expiring = min(calls, key=lambda symbol: (abs(parse_instrument(symbol).strike - spot), symbol))
        for name in cash:
            await floor.signal(name, "BUY_STOCK", "SPY", qty=2, strategy_type="day_trade")
            await floor.signal(name, "BUY_CALL", "SPY", option_symbol=expiring, qty=1, strategy_type="weekend")
        await floor.opened(4)
        await floor.advance_to(datetime(2011, 3, 11, 21, 1, tzinfo=UTC))
        friday_exit = datetime(2011, 3, 11, 20, 55, tzinfo=UTC)
        assert await closed_at(floor, "day_trade") == dict.fromkeys(cash, ("day_trade_close", friday_exit))
        assert await closed_at(floor, "weekend") == {}  # due on Sunday, 24 hours before its last close

        await floor.jump(datetime(2011, 3, 13, 20, 30, tzinfo=UTC))
        pending = await floor.rows("SELECT account_name FROM position_events WHERE event_type = 'exit_pending'")
        assert {row["account_name"] for row in pending} == cash.keys()
        await floor.jump(MONDAY_OPEN - timedelta(minutes=1))
        assert await closed_at(floor, "weekend") == {}  # nothing is sent that the venue would queue
        await floor.advance_to(MONDAY_OPEN + timedelta(minutes=2))
        assert await closed_at(floor, "weekend") == dict.fromkeys(cash, ("expiration_risk", MONDAY_OPEN))

        await floor.jump(MONDAY_AFTERNOON)
        await floor.advance(60)
        for name in cash:
            await floor.signal(name, "SELL_STOCK", "SPY", qty=1, strategy_type="day_trade")
        await floor.opened(2)
        await floor.advance_to(MONDAY_AFTERNOON + timedelta(minutes=9))
        monday_exit = datetime(2011, 3, 14, 19, 55, tzinfo=UTC)
        assert await closed_at(floor, "day_trade") == dict.fromkeys(cash, ("day_trade_close", monday_exit))
        venue = server.exchange.state_json()
        assert not await floor.rows("SELECT 1 FROM active_positions WHERE status <> 'closed'")
        assert all(venue[name]["positions"] == {} for name in cash)
