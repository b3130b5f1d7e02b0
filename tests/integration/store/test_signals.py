"""Signals from outside: inserted by plain SQL, claimed with care."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from decimal import Decimal

import psycopg
import pytest
from tests.support.ledger import NOON
from tests.support.postgres import StoreMaker

from exitguard.core.errors import InvalidInput
from exitguard.core.records import CommandVerb
from exitguard.store.operator import Operator
from exitguard.store.port import StoreRejected


@pytest.fixture
async def operator(database_url: str) -> AsyncIterator[Operator]:
    async with await Operator.connect(database_url) as found:
        yield found


async def test_a_signal_engine_needs_plain_sql_only(make_store: StoreMaker, database_url: str) -> None:
    def insert() -> None:
        with psycopg.connect(database_url) as engine:
            engine.execute("SET ROLE exitguard_desk")
            engine.execute(
                "INSERT INTO dispatch_recommendations (account_name, ticker, action, strategy_type, qty, stop_loss) "
                "VALUES ('large', 'AAPL', 'BUY_STOCK', 'swing_trade', 5, 95.5), "
                "('large', 'MSFT', 'BUY_STOCK', 'day_trade', %s, NULL)",
                (Decimal("7.25"),),
            )

    await asyncio.to_thread(insert)
    store, _ = await make_store.leased("large", component="dispatcher")
    claimed = await store.claim_recommendations(NOON)
    assert [(row.ticker, row.qty, row.stop_loss) for row in claimed] == [
        ("MSFT", Decimal("7.25"), None),
        ("AAPL", Decimal(5), Decimal("95.5")),
    ]


BAD = {
    "words for a quantity": ({"qty": "ten"}, "qty is not a number: 'ten'"),
    "no number": ({"qty": "NaN"}, "qty is not a usable number"),
    "infinity": ({"stop_loss": "-Infinity"}, "stop_loss is not a usable number"),
    "an absurd number": ({"take_profit": "1e400"}, "take_profit is not a usable number"),
    "part of a minute": ({"max_hold_minutes": "1.5"}, "max_hold_minutes must be whole"),
    "an injection": ({"confidence": "0.5; DROP TABLE x"}, "confidence is not a number"),
    "features that are a list": ({"features": [1, 2]}, "features must be an object"),
}


@pytest.mark.parametrize(("columns", "complaint"), BAD.values(), ids=BAD.keys())
async def test_f70_a_bad_signal_is_set_aside_and_stops_no_other(
    operator: Operator, make_store: StoreMaker, columns: dict[str, object], complaint: str
) -> None:
    good = {"account_name": "large", "ticker": "AAPL", "action": "BUY_STOCK"}
    _, bad, _ = await operator.insert_recommendations([good, {**good, **columns}, good])
    store, _ = await make_store.leased("large", component="dispatcher")
    assert len(await store.claim_recommendations(NOON)) == 2
    found = await operator.query(f"SELECT status, reason FROM dispatch_recommendations WHERE id = {bad}")
    assert found.rows[0][0] == "set_aside"
    assert complaint in found.rows[0][1]
    kept = await operator.query("SELECT kind, reason, payload->>'id' FROM set_aside")
    assert [(row[0], row[2]) for row in kept.rows] == [("recommendation", str(bad))]


async def test_text_from_outside_is_bounded(operator: Operator, make_store: StoreMaker) -> None:
    await operator.insert_recommendations(
        [{"account_name": "large", "ticker": "A" * 100_000, "action": None, "features": {"x": "ä" * 10**6}}]
    )
    store, _ = await make_store.leased("large", component="dispatcher")
    (row,) = await store.claim_recommendations(NOON)
    assert (len(row.ticker), row.action, row.strategy_type) == (200, "", "")
    assert row.features == {"dropped": "features were larger than 64 KiB"}


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"ticker": "AAPL"}, "needs the name of its account"),
        ({"account_name": "large", "symbol": "AAPL"}, "a signal has no symbol; it may have account_name"),
        ({"account_name": "no such name!"}, "needs the name of its account"),
        ({"account_name": "large", "expires_at": datetime(2024, 1, 1)}, "expires_at must be an aware time"),  # noqa: DTZ001
        ({"account_name": "large", "expires_at": "tomorrow"}, "expires_at must be an aware time"),
    ],
)
async def test_what_is_no_signal_at_all_is_refused(operator: Operator, row: dict[str, object], complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        await operator.insert_recommendations([row])


async def test_f29_a_signal_without_account_is_refused_by_the_database(database_url: str) -> None:
    with psycopg.connect(database_url) as engine, pytest.raises(psycopg.errors.NotNullViolation):
        engine.execute("INSERT INTO dispatch_recommendations (ticker, action) VALUES ('AAPL', 'BUY_STOCK')")


async def test_f41_two_claims_at_once_share_the_signals(operator: Operator, make_store: StoreMaker) -> None:
    await operator.insert_recommendations(
        [{"account_name": "large", "ticker": f"T{number}", "action": "BUY_STOCK"} for number in range(40)]
    )
    stores = [await make_store("large") for _ in range(4)]
    claims = await asyncio.gather(*(store.claim_recommendations(NOON, 10) for store in stores))
    tickers = [row.ticker for claim in claims for row in claim]
    assert len(tickers) == len(set(tickers))


async def test_no_rows_is_no_statement(operator: Operator) -> None:
    assert await operator.insert_recommendations([]) == []


async def test_requests_carry_who_asked_and_unknown_accounts_are_refused(operator: Operator) -> None:
    number = await operator.insert_command("large", CommandVerb.CLOSE, requested_by="ops", symbol="AAPL")
    (asked,) = await operator.answers([number, number + 1])
    assert (asked["id"], asked["symbol"], asked["ok"], asked["result"]) == (number, "AAPL", None, None)
    found = await operator.query(f"SELECT verb, requested_by, finished_at FROM commands WHERE id = {number}")
    assert found.rows == (("close", "ops", None),)
    with pytest.raises(StoreRejected):
        await operator.insert_command("no such name!", CommandVerb.CLOSE, requested_by="ops")


async def test_an_operator_sees_heartbeats_and_alarms(operator: Operator, make_store: StoreMaker) -> None:
    from tests.support.ledger import batch, heartbeat

    from exitguard.core.records import ClearAlarm, RaiseAlarm

    store, lease = await make_store.leased("large")
    await store.beat(heartbeat("large", open_positions=2, details={"stage": "sweep"}), lease.epoch)
    await store.commit(
        batch(
            "large",
            lease.epoch,
            RaiseAlarm("a", "blind", NOON, "no quotes"),
            RaiseAlarm("a", "blind", NOON + timedelta(minutes=1), "still no quotes"),
            RaiseAlarm("b", "stuck", NOON, "does not close"),
            ClearAlarm("b", NOON),
        )
    )
    (beat,) = await operator.heartbeats()
    assert (beat["account_name"], beat["open_positions"], beat["details"]) == ("large", 2, {"stage": "sweep"})
    assert 0 <= beat["age_seconds"] < 60
    (alarm,) = await operator.alarms()
    assert (alarm["message"], alarm["times"]) == ("still no quotes", 2)
    found = await operator.query("SELECT kind, cleared_at FROM alarms ORDER BY id")
    assert found.rows == (("blind", None), ("stuck", NOON))
