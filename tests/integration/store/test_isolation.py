"""What the database itself refuses, whatever the code above it does."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import asyncpg
import psycopg
import pytest
from tests.support.ledger import NOON, batch, closed, event, execution, history, intent, position
from tests.support.postgres import StoreMaker

from exitguard.core.instrument import InstrumentType
from exitguard.core.position import PositionSide
from exitguard.core.records import EventType, IntentStatus, Operation, PutExecution, PutHistory, PutIntent, PutPosition
from exitguard.store.encoding import encode_operations
from exitguard.store.operator import Operator
from exitguard.store.port import AccountMismatch, SchemaMismatch, StoreRejected
from exitguard.store.repository import PgAccountStore


@pytest.fixture
async def as_large(database_url: str, make_store: StoreMaker) -> AsyncIterator[Any]:
    """A raw session of account large's role, in a ledger that also holds a position of tiny."""
    for account in ("large", "tiny"):
        store, lease = await make_store.leased(account)
        await store.commit(batch(account, lease.epoch, PutPosition(position(account)), event()))
    connection = await asyncpg.connect(
        database_url, server_settings={"role": "exitguard_app", "app.account": "large", "search_path": "public"}
    )
    yield connection
    await connection.close()


ACCOUNT_TABLES = [
    *("accounts", "leases", "heartbeats", "dispatch_recommendations", "dispatch_executions", "active_positions"),
    *("position_fills", "event_heads", "position_events", "order_intents", "position_history", "alarms", "commands"),
    *("set_aside", "applied_batches", "v_open_positions_summary", "v_position_performance"),
]


async def test_i4_no_statement_of_one_account_reads_the_rows_of_another(as_large: Any) -> None:
    for table in ACCOUNT_TABLES:
        found = await as_large.fetch(f"SELECT DISTINCT account_name FROM {table}")
        assert {row["account_name"] for row in found} <= {"large"}, table
    assert await as_large.fetchval("SELECT open_positions FROM v_position_health_check") == 1


async def test_i4_no_statement_of_one_account_changes_the_rows_of_another(as_large: Any, database_url: str) -> None:
    changed = await as_large.execute("UPDATE active_positions SET current_price = 1 WHERE account_name = 'tiny'")
    assert changed == "UPDATE 0"
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await as_large.execute("INSERT INTO set_aside (account_name, kind, reason, payload, at) "
                               "VALUES ('tiny', 'x', 'x', '{}', now())")  # fmt: skip
    with psycopg.connect(database_url) as owner:
        assert owner.execute("SELECT current_price FROM active_positions WHERE account_name = 'tiny'").fetchone() == (
            None,
        )


@pytest.mark.parametrize("function", ["apply_batch", "acquire_lease", "bind_account", "beat", "fenced_component"])
async def test_i4_a_function_refuses_to_act_for_another_account(as_large: Any, function: str) -> None:
    calls = {
        "apply_batch": "('tiny', 1, gen_random_uuid(), now(), '[]')",
        "acquire_lease": "('tiny', 'manager', 'me', interval '1 minute')",
        "bind_account": "('tiny', 'PA2', 'tiny', 'paper')",
        "beat": "('tiny', 1, '{}')",
        "fenced_component": "('tiny', 1)",
    }
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="not the account of this session"):
        await as_large.execute(f"SELECT exitguard.{function}{calls[function]}")


async def test_i4_row_level_security_holds_inside_the_writing_functions(make_store: StoreMaker) -> None:
    store, lease = await make_store.leased("large")
    await make_store.leased("tiny")
    foreign: list[Operation] = [
        PutPosition(position("tiny")),
        PutIntent(intent("tiny", None)),
        PutExecution(execution("tiny")),
        PutHistory(history(position("tiny"))),
    ]
    for operation in foreign:
        with pytest.raises(StoreRejected, match="row-level security"):
            await store.commit(batch("large", lease.epoch, operation))


@pytest.mark.parametrize("scan", ["enable_seqscan", "enable_indexscan"])
@pytest.mark.parametrize("account", [None, "", "reset"])
async def test_i4_a_session_without_an_account_gets_an_error_and_not_an_empty_answer(
    database_url: str, account: str | None, scan: str
) -> None:
    """However the server reads the tables: what statistics say of them changes how, and they are empty here."""
    settings = {"role": "exitguard_app", "search_path": "public", "enable_bitmapscan": "off", scan: "off"}
    if account == "":
        settings["app.account"] = account
    connection = await asyncpg.connect(database_url, server_settings=settings)
    try:
        if account == "reset":  # as a pool between two borrowers would, and as the end of a transaction does
            await connection.execute("BEGIN; SET LOCAL app.account = 'large'; COMMIT; RESET app.account")
        for table in ACCOUNT_TABLES:
            with pytest.raises(asyncpg.UndefinedObjectError, match=r"app\.account"):
                await connection.fetch(f"SELECT * FROM {table}")
    finally:
        await connection.close()


@pytest.mark.parametrize("dropped", ["role", "app.account"])
async def test_i4_a_session_whose_settings_were_dropped_is_never_used(
    database_url: str, monkeypatch: pytest.MonkeyPatch, dropped: str
) -> None:
    """As connection pools do that ignore start-up parameters: the login would be its own, with everybody's rows."""
    connect = asyncpg.connect

    def pooled(url: str, *, server_settings: dict[str, str], **options: Any) -> Any:
        kept = {name: value for name, value in server_settings.items() if name != dropped}
        return connect(url, server_settings=kept, **options)

    monkeypatch.setattr(asyncpg, "connect", pooled)
    with pytest.raises(SchemaMismatch, match="connection pool drops"):
        await PgAccountStore.connect(database_url, "large")


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO active_positions (account_name) VALUES ('large')",
        "UPDATE active_positions SET status = 'closed'",
        "UPDATE active_positions SET quantity = 0",
        "DELETE FROM active_positions",
        "UPDATE position_events SET event_data = '{}'",
        "DELETE FROM position_events",
        "TRUNCATE position_events",
        "INSERT INTO position_events (account_name) VALUES ('large')",
        "INSERT INTO order_intents (account_name) VALUES ('large')",
        "DELETE FROM order_intents",
        "UPDATE leases SET epoch = 99",
        "UPDATE dispatch_recommendations SET account_name = 'large'",
        "SELECT exitguard.put_position('{}')",
        "ALTER TABLE active_positions DISABLE ROW LEVEL SECURITY",
    ],
)
async def test_the_application_role_has_no_way_around_the_functions(as_large: Any, statement: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await as_large.execute(statement)


@pytest.mark.parametrize(
    "statement",
    ["UPDATE position_events SET event_data = '{}'", "DELETE FROM position_events", "TRUNCATE position_events"],
)
async def test_events_are_append_only_even_for_the_owner(as_large: Any, database_url: str, statement: str) -> None:
    with psycopg.connect(database_url) as owner, pytest.raises(psycopg.Error, match="append-only"):
        owner.execute(statement.encode())


async def test_f27_one_broker_account_cannot_be_two_accounts(make_store: StoreMaker) -> None:
    large, tiny = await make_store("large"), await make_store("tiny")
    await large.bind_account_number("PA1", "large", "paper")
    with pytest.raises(AccountMismatch, match="bound to another account"):
        await tiny.bind_account_number("PA1", "tiny", "paper")
    await tiny.bind_account_number("PA2", "tiny", "paper")


@pytest.mark.parametrize("name", ["", "large account", "a;b", "x" * 65, "-large"])
async def test_f30_an_account_name_is_one_plain_word(database_url: str, make_store: StoreMaker, name: str) -> None:
    store = await make_store(name)
    with pytest.raises(StoreRejected):
        await store.bind_account_number("PA1", "large", "paper")


# Rows that cannot be ------------------------------------------------------------------------------------------------

CALL = "AAPL240315C00100000"
IMPOSSIBLE = {
    "f37 an option without its symbol": {"symbol": CALL, "option_symbol": None},
    "f37 an option stored as stock": {"symbol": CALL, "instrument_type": InstrumentType.STOCK},
    "f37 a stock stored as call": {"instrument_type": InstrumentType.CALL},
    "f37 a stock with an expiry": {"expiration_date": date(2024, 3, 15)},
    "f37 an option without strike": {"symbol": CALL, "strike_price": None},
    "f1 a stock under another ticker": {"ticker": "MSFT"},
    "f5 a stop above the target of a long": {"stop_loss": Decimal(120), "take_profit": Decimal(110)},
    "f6 a stop below the target of a short": {
        "side": PositionSide.SHORT,
        "stop_loss": Decimal(90),
        "take_profit": Decimal(110),
    },
    "a stop of zero": {"stop_loss": Decimal(0)},
    "f47 a negative quantity": {"quantity": Decimal(-1)},
    "nothing ever held": {"original_quantity": Decimal(0)},
    "a price that is no number": {"entry_price": Decimal("NaN")},
    "an infinite price": {"current_price": Decimal("Infinity")},
    "a result that is no number": {"realised_pnl": Decimal("NaN")},
    "a negative price": {"entry_price": Decimal(-1)},
    "f71 a time without a zone": {"entry_time": datetime(2024, 3, 8, 17, 0)},  # noqa: DTZ001
    "an empty symbol": {"symbol": "", "ticker": ""},
    "an endless symbol": {"symbol": "A" * 33, "ticker": "A" * 33},
    "a multiplier of zero": {"multiplier": 0},
}


@pytest.mark.parametrize("changes", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
async def test_f37_an_impossible_position_is_refused(make_store: StoreMaker, changes: dict[str, Any]) -> None:
    store, lease = await make_store.leased("large")
    row = replace(position("large", 1, CALL if changes.get("symbol") == CALL else "AAPL"), **changes)
    with pytest.raises(StoreRejected):
        await store.commit(batch("large", lease.epoch, PutPosition(row)))
    assert (await store.load()).positions == ()


async def test_f59_numbers_of_any_size_and_precision_are_kept_exactly(make_store: StoreMaker) -> None:
    store, lease = await make_store.leased("large")
    for number, symbol in enumerate(("BRK.A", "AAPL1240315C00100000", "F"), 1):
        exact = Decimal("123456789012.123456789012345678")
        row = position("large", number, symbol, current_pnl_percent=exact, quantity=Decimal("0.000000001"))
        await store.commit(batch("large", lease.epoch, PutPosition(row)))
    found = (await store.load()).positions
    assert {row.current_pnl_percent for row in found} == {exact}
    assert {row.quantity for row in found} == {Decimal("0.000000001")}


async def test_f19_one_execution_has_at_most_one_position(make_store: StoreMaker) -> None:
    store, lease = await make_store.leased("large")
    entry = execution("large")
    await store.commit(
        batch(
            "large", lease.epoch, PutExecution(entry), PutPosition(position("large", execution_id=entry.execution_id))
        )
    )
    again = position("large", 2, "MSFT", execution_id=entry.execution_id)
    with pytest.raises(StoreRejected, match="one_per_execution"):
        await store.commit(batch("large", lease.epoch, PutPosition(again)))


async def test_f31_a_position_of_an_execution_that_does_not_exist_is_refused(make_store: StoreMaker) -> None:
    store, lease = await make_store.leased("large")
    with pytest.raises(StoreRejected, match="execution_id"):
        await store.commit(batch("large", lease.epoch, PutPosition(position("large", execution_id=uuid4()))))


async def test_f43_one_signal_becomes_at_most_one_execution(make_store: StoreMaker) -> None:
    store, lease = await make_store.leased("large")
    await store.commit(batch("large", lease.epoch, PutExecution(execution("large", recommendation_id=1))))
    with pytest.raises(StoreRejected, match="one_per_signal"):
        await store.commit(batch("large", lease.epoch, PutExecution(execution("large", recommendation_id=1))))


async def test_f21_a_closed_position_stays_closed(make_store: StoreMaker) -> None:
    store, lease = await make_store.leased("large")
    await store.commit(batch("large", lease.epoch, PutPosition(closed(position("large")))))
    with pytest.raises(StoreRejected, match="closed for good"):
        await store.commit(batch("large", lease.epoch, PutPosition(position("large"))))


async def test_i2_a_position_has_at_most_one_live_close(make_store: StoreMaker) -> None:
    store, lease = await make_store.leased("large")
    first = intent("large", 1)
    await store.commit(batch("large", lease.epoch, PutPosition(position("large")), PutIntent(first)))
    second = intent("large", 1, attempt=2)
    with pytest.raises(StoreRejected, match="one_live_close"):
        await store.commit(batch("large", lease.epoch, PutIntent(second)))
    ended = replace(first, status=IntentStatus.CANCELED)
    await store.commit(batch("large", lease.epoch, PutIntent(ended), PutIntent(second)))


# Events ---------------------------------------------------------------------------------------------------------------


async def test_i6_events_have_no_gap_and_their_chain_verifies(database_url: str, make_store: StoreMaker) -> None:
    stores = {account: await make_store.leased(account) for account in ("large", "tiny")}
    for number in range(3):
        for account, (store, lease) in stores.items():
            await store.commit(
                batch(account, lease.epoch, event(number=number), event(EventType.PRICE_UPDATE, price=Decimal("1.50")))
            )
            with pytest.raises(StoreRejected):  # a refused batch leaves no hole
                await store.commit(batch(account, lease.epoch, event(), PutIntent(intent(account, 99))))
    async with await Operator.connect(database_url) as operator:
        found = await operator.query("SELECT account_name, seq FROM position_events ORDER BY account_name, seq")
        assert found.rows == tuple((account, seq) for account in ("large", "tiny") for seq in range(1, 7))
        assert await operator.broken_event("large") is None
        assert await operator.broken_event("tiny") is None


@pytest.mark.parametrize(
    ("tampering", "first_broken"),
    [
        ("UPDATE position_events SET event_data = event_data || '{\"price\": 9}' WHERE seq = 2", 2),
        ("UPDATE position_events SET at = at + interval '1 second' WHERE seq = 3", 3),
        ("DELETE FROM position_events WHERE seq = 2", 3),
        ("DELETE FROM position_events WHERE seq = 4", 4),
        ("UPDATE position_events SET hash = repeat('0', 64) WHERE seq = 4", 4),
    ],
)
async def test_i6_tampering_is_found(
    database_url: str, make_store: StoreMaker, tampering: str, first_broken: int
) -> None:
    store, lease = await make_store.leased("large")
    for _ in range(4):
        await store.commit(batch("large", lease.epoch, event()))

    def tamper() -> None:
        with psycopg.connect(database_url, autocommit=True) as owner:
            owner.execute("ALTER TABLE position_events DISABLE TRIGGER USER")
            owner.execute(tampering.encode())
            owner.execute("ALTER TABLE position_events ENABLE TRIGGER USER")

    await asyncio.to_thread(tamper)
    async with await Operator.connect(database_url) as operator:
        assert await operator.broken_event("large") == first_broken


async def test_i6_concurrent_batches_share_one_chain(database_url: str, make_store: StoreMaker) -> None:
    manager, first = await make_store.leased("large")
    dispatcher, second = await make_store.leased("large", component="dispatcher")
    await asyncio.gather(
        *(
            store.commit(batch("large", lease.epoch, event()))
            for store, lease in [(manager, first), (dispatcher, second)] * 20
        )
    )
    async with await Operator.connect(database_url) as operator:
        assert await operator.broken_event("large") is None
        assert (await operator.query("SELECT max(seq), count(*) FROM position_events")).rows == ((40, 40),)


class Unhelpful:
    """Has no JSON form, and no description either."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


async def test_f18_t18_evidence_of_any_kind_never_changes_the_outcome(
    database_url: str, make_store: StoreMaker
) -> None:
    store, lease = await make_store.leased("large")
    evidence = {
        "uuid": uuid4(), "price": Decimal("1.10"), "at": NOON, "side": PositionSide.LONG, "nan": float("nan"),
        "none": None, "set": {1, 2}, "bytes": b"\xff\x00", "nul": "a\x00b", "half": "\ud800", "big": 2**100,
        "error": ValueError("boom"), "object": Unhelpful(), "type": dict, "delta": timedelta(seconds=3),
        3: "number as key", NOON: "time as key",
    }  # fmt: skip
    await store.commit(batch("large", lease.epoch, PutPosition(position("large")), event(**{"evidence": evidence})))
    await store.commit(batch("large", lease.epoch, event(text="x" * 1_000_000)))
    async with await Operator.connect(database_url) as operator:
        large, kept = [row["event_data"] for row in await operator.events("large")]
        assert kept["account_name"] == "large"
        assert kept["evidence"]["price"] == "1.10"
        assert kept["evidence"]["nul"] == "a�b"
        assert large["truncated"] is True
        assert large["bytes"] > 1_000_000
        assert await operator.broken_event("large") is None


async def test_an_unknown_operation_is_refused(make_store: StoreMaker) -> None:
    store, lease = await make_store.leased("large")
    with pytest.raises(StoreRejected, match="unknown operation"):
        await store.commit_encoded(batch("large", lease.epoch), b'[{"op": "sell_everything"}]')
    assert encode_operations(batch("large", lease.epoch)) == b"[]"
