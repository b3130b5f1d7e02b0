"""`sync --repair`, `adopt`, `forget` and `audit verify` as a person types them: real exchange, real PostgreSQL."""

import asyncio
import socket
from datetime import timedelta
from decimal import Decimal

import psycopg
from tests.integration.cli.conftest import SESSION, Program, Venue, settings_text, wait_for
from tests.support.ledger import batch, event, fill, position

from exitguard.cli.standby import visitor
from exitguard.core.records import PutFill, PutPosition
from exitguard.store.port import Lease, LeaseHeld
from exitguard.store.repository import PgAccountStore

EVIDENCE = "the broker's statement of the day lists no such position"


def invent(program: Program, symbol: str) -> int:
    """Book a position that the broker never had; nobody manages the account meanwhile. Returns its id."""

    async def write() -> int:
        store = await PgAccountStore.connect(program.environment["DATABASE_URL"], "large")
        try:
            lease = await store.acquire_lease("test", timedelta(seconds=30))
            number = (await store.load()).next_position_id
            at = SESSION - timedelta(days=1)
            row = position("large", number, symbol, stop_loss=None, take_profit=None, entry_time=at)
            bought = fill(f"fill-{number}", symbol=symbol, at=at)
            await store.commit(
                batch(
                    "large", lease.epoch, PutPosition(row), PutFill(number, bought, "orders"), event(position_id=number)
                )
            )
            await store.release_lease(lease)
            return number
        finally:
            await store.close()

    return asyncio.run(write())


def test_books_are_mended_by_hand_when_no_manager_runs(ready: Program, venue: Venue) -> None:
    venue.buy("large", "AAPL", 3)
    found = ready.json("sync", expect=1)["accounts"]["large"]
    assert (found["untracked"], found["orphan_order"], found["foreign_order"]) == (1, 0, 0)
    plan = ready.run("sync", "--repair", "--dry-run", "--account", "large")
    assert plan.returncode == 1
    assert "Untracked: AAPL (Alpaca 3, database 0): would adopt it" in plan.stderr
    refused = ready.run("sync", "--repair", "--account", "large")
    assert refused.returncode == 2
    assert "add --yes" in refused.stderr

    adopted = ready.json("adopt", "aapl", "--account", "large", "--yes")
    assert (adopted["ok"], adopted["answered_by"], adopted["symbol"]) == (True, "command", "AAPL")
    assert adopted["entry_time"].startswith(venue.ask("GET", "/v2/clock", "large")["timestamp"][:10])
    assert ready.json("sync", "--account", "large")["in_sync"] is True
    (held_by,) = ready.json("db", "query", "SELECT holder FROM leases")
    assert held_by["holder"].startswith("visit:"), "a manager that starts meanwhile must know whom it waits for"
    again = ready.json("adopt", "AAPL", "--account", "large", "--yes", expect=1)
    assert "under management already" in again["result"]

    phantom = invent(ready, "F")
    repaired = ready.json("sync", "--repair", "--yes", "--account", "large", expect=1)["accounts"]["large"]
    assert (repaired["phantom"], repaired["repair"]["ok"], repaired["repair"]["answered_by"]) == (1, False, "command")
    assert repaired["repair"]["result"].endswith("left: phantom F")
    held = ready.json("forget", str(adopted["position_id"]), "--evidence", EVIDENCE, "--yes", expect=1)
    assert "the broker still holds 3 AAPL" in held["result"]
    done = ready.run("forget", str(phantom), "--evidence", EVIDENCE, "--yes")
    assert (done.returncode, done.stdout.startswith("large: done: position")) == (0, True), done.stderr
    (closed,) = ready.json("positions", "--closed")
    assert (closed["symbol"], closed["close_reason"], closed["final_pnl_dollars"]) == ("F", "reconciled", "0.00")
    told = [row["event_data"] for row in ready.json("events", "--account", "large", "--limit", "500")]
    assert EVIDENCE in {data.get("evidence") for data in told}
    assert ready.json("sync", "--account", "large")["in_sync"] is True
    assert venue.ask("GET", "/v2/orders", "large") == [], "nothing was sent"
    audited = ready.json("audit", "verify")
    assert audited["verified"] is True, audited


def test_the_running_manager_mends_its_own_books(ready: Program, venue: Venue) -> None:
    running = ready.start("run", "--account", "large")
    running.wait_for("Sleeping for 1 minute until next check...")
    venue.buy("large", "AAPL", 3)
    # The trade stream may make it look at the broker before anybody asks: then there is nothing left to mend.
    done = ready.run("sync", "--repair", "--yes", "--account", "large", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    wait_for(lambda: ready.json("sync", "--account", "large")["in_sync"], "equal books")
    answer = ready.json("adopt", "AAPL", "--account", "large", "--yes", expect=1)
    assert answer["answered_by"] == "manager"
    assert "under management already" in answer["result"]
    assert running.end() == 0


def test_i11_a_request_that_the_broker_keeps_waiting_stands_and_says_so(ready: Program, venue: Venue) -> None:
    settings = ready.folder / "exitguard.toml"
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f'"http://127.0.0.1:{server.getsockname()[1]}"'
        settings.write_text(settings_text(venue.description, large={"rest_url": url}))
        late = ready.json("adopt", "AAPL", "--account", "large", "--yes", "--timeout", "3", expect=75)
        assert (late["request"], late["ok"], late["result"], late["answered_by"]) == (1, None, None, None)
    failed = ready.run("adopt", "AAPL", "--account", "large", "--yes")
    assert failed.returncode == 69, failed.stderr
    assert failed.stdout.startswith("large: not done: GET /v2/clock: no connection"), failed.stdout
    assert failed.stdout.endswith("; request 2 stands, and the next manager answers it\n")


def test_f44_a_manager_that_starts_during_a_visit_waits_for_its_end(ready: Program, venue: Venue) -> None:
    with asyncio.Runner() as runner:
        store = runner.run(PgAccountStore.connect(ready.environment["DATABASE_URL"], "large"))
        lease = runner.run(store.acquire_lease(visitor("somebody's command"), timedelta(minutes=5)))
        running = ready.start("run", "--account", "large")
        standby = ready.start("run", "--account", "large", "--standby")
        running.wait_for("A command works on the books of account large", holder="visit:somebody's command")
        standby.wait_for("Standing by: a command works on the books of account large")
        runner.run(store.release_lease(lease))
        runner.run(store.close())
    wait_for(
        lambda: any(each.logged("Sleeping for 1 minute until next check...") for each in (running, standby)),
        "one of them manages the account",
    )
    for each in (running, standby):
        assert not each.logged("Taking over account"), "nobody was in charge before"


def test_f44_a_manager_that_lost_its_lease_to_a_visit_comes_back(ready: Program, venue: Venue) -> None:
    running = ready.start("run", "--account", "large")
    running.wait_for("Sleeping for 1 minute until next check...")
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'exitguard manager large'"
    with asyncio.Runner() as runner, psycopg.connect(ready.environment["DATABASE_URL"], autocommit=True) as owner:
        store = runner.run(PgAccountStore.connect(ready.environment["DATABASE_URL"], "large", component="visitor"))
        owner.execute(cut)  # as after an outage that was longer than the lease

        def taken() -> Lease | None:
            try:
                return runner.run(store.acquire_lease(visitor("somebody's command"), timedelta(minutes=5)))
            except LeaseHeld:
                owner.execute(cut)
                return None

        lease = wait_for(taken, "the lease")
        running.wait_for("A command works on the books of account large")
        runner.run(store.release_lease(lease))
        runner.run(store.close())
    running.wait_for("nobody else manages the account: starting")
    wait_for(lambda: running.events().count("Position Manager starting") > 1, "a new life")
    assert running.end() == 0


def test_bad_requests_are_refused_in_one_line(ready: Program, venue: Venue) -> None:
    assert "nobody" in ready.fails(78, "adopt", "AAPL", "--account", "nobody", "--yes")
    assert "large, tiny" in ready.fails(2, "adopt", "AAPL", "--yes")
    assert "?!" in ready.fails(2, "adopt", "?!", "--account", "large", "--yes")
    assert "add --yes" in ready.fails(2, "adopt", "AAPL", "--account", "large")
    assert "no open position 7" in ready.fails(1, "forget", "7", "--evidence", EVIDENCE, "--yes")
    assert "--evidence" in ready.fails(2, "forget", "7", "--evidence", "gone", "--yes")
    assert "--price" in ready.fails(2, "forget", "7", "--evidence", EVIDENCE, "--price", "cheap", "--yes")
    assert "--repair" in ready.fails(2, "sync", "--yes")
    assert "no account 'nobody'" in ready.fails(2, "audit", "verify", "--account", "nobody")
    answer = ready.json("adopt", "AAPL", "--account", "large", "--yes", expect=1)
    assert answer["result"] == "the broker holds no AAPL in this account"


def test_i10_tampering_is_named_on_the_screen(ready: Program, venue: Venue) -> None:
    venue.buy("large", "AAPL", 3)
    ready.json("adopt", "AAPL", "--account", "large", "--yes")
    with psycopg.connect(ready.environment["DATABASE_URL"], autocommit=True) as owner:
        owner.execute("UPDATE active_positions SET quantity = 30")
    done = ready.run("audit", "verify", "--account", "large")
    assert done.returncode == 1
    assert "CHANGED active_positions 1, quantity: the row is not what the events made it" in done.stdout
    assert "    expected: 3\n    found:    30\n" in done.stdout
    (finding,) = ready.json("audit", "verify", expect=1)["accounts"]["large"]["findings"]
    assert Decimal(finding["found"]) == 30
