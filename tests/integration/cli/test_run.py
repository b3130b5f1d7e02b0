"""`exitguard run` and what an operator does beside it (F27, F77, F80, F86, T1, T13)."""

import json
import signal
import urllib.error
import urllib.request

from tests.integration.cli.conftest import Program, Running, Venue, settings_text, wait_for
from tests.support.waiting import PATIENCE


def started(program: Program, *arguments: str) -> Running:
    running = program.start("run", *arguments)
    running.wait_for("Sleeping for 1 minute until next check...")
    return running


def positions(program: Program) -> list[dict[str, object]]:
    found: list[dict[str, object]] = program.json("positions")
    return found


def test_f77_one_cycle_ends_by_itself_with_the_phrases_that_operators_search_for(ready: Program, venue: Venue) -> None:
    venue.buy("large", "F", 5)
    done = ready.run("run", "--account", "large", RUN_MODE="ONCE")
    assert done.returncode == 0, done.stderr[-2000:]
    records = [json.loads(line) for line in done.stderr.splitlines()]
    messages = [record["event"] for record in records]
    for phrase in (
        "Position Manager starting",
        "Managing positions for account: large",
        "Created active position",
        "Position Manager completed",
    ):
        assert phrase in messages
    assert any(message.startswith("Found ") and "open position(s)" in message for message in messages)
    start = next(record for record in records if record["event"] == "exitguard starting")
    assert start["run_mode"] == "ONCE"
    assert len(start["config_hash"]) == 64
    assert all("build" in record for record in records if record["event"].startswith("Position Manager"))
    keys = venue.keys().values()
    assert not any(key in done.stderr for key in keys)


def test_a_day_at_the_desk_look_compare_close_stop(ready: Program, venue: Venue) -> None:
    venue.buy("large", "AAPL", 3)
    venue.buy("tiny", "F", 2)
    running = started(ready)
    wait_for(lambda: len(positions(ready)) == 2, "both positions in the ledger")
    assert {(row["account_name"], row["symbol"]) for row in positions(ready)} == {("large", "AAPL"), ("tiny", "F")}
    assert "AAPL" in ready.run("positions").stdout

    block = ready.run("sync")
    assert block.returncode == 0, block.stdout
    assert block.stdout == (
        "Large Account:\n  Alpaca: 1 positions\n  Database: 1 positions\n  Matched: 1/1\n  Phantom: 0\n\n"
        "Tiny Account:\n  Alpaca: 1 positions\n  Database: 1 positions\n  Matched: 1/1\n  Phantom: 0\n"
    )
    assert ready.json("sync")["in_sync"] is True
    health = ready.run("health", "--json")
    components = {row["account_name"]: row for row in json.loads(health.stdout)["components"]}
    assert components["large"]["state"] == "fresh"
    assert components["large"]["broker_account_number"] == venue.description["accounts"]["large"]["account_number"]

    answer = ready.json("close", "AAPL", "--wait", "--reason", "the test says so")
    assert answer["requests"][0]["ok"] is True
    wait_for(lambda: [row["symbol"] for row in positions(ready)] == ["F"], "the close")
    assert venue.ask("GET", "/v2/positions", "large") == []
    assert len(venue.ask("GET", "/v2/positions", "tiny")) == 1
    (closed,) = ready.json("positions", "--closed")
    assert (closed["symbol"], closed["close_reason"]) == ("AAPL", "manual_close")
    kinds = [row["event_type"] for row in ready.json("events", "--account", "large", "--limit", "500")]
    assert kinds.index("adopted") < kinds.index("close_submitted") < kinds.index("closed")

    assert running.end(signal.SIGTERM) == 0
    assert running.logged("stop requested", signal="SIGTERM")
    assert running.logged("Position Manager completed", account="tiny")


def test_a_second_start_of_the_same_account_waits_its_turn(ready: Program, venue: Venue) -> None:
    running = started(ready, "--account", "large")
    line = ready.fails(75, "run", "--account", "large")
    assert "large" in line
    assert running.process.poll() is None
    assert running.end(signal.SIGINT) == 0
    assert ready.run("run", "--account", "large", "--once").returncode == 0


def test_f80_f86_wrong_keys_of_one_account_never_stop_the_other(ready: Program, venue: Venue) -> None:
    running = ready.start("run", TINY_SECRET="wrong-secret-of-tiny")
    running.wait_for("ACCOUNT IS NOT MANAGED", account="tiny")
    running.wait_for("Sleeping for 1 minute until next check...", account="large")
    venue.buy("large", "F", 1)
    venue.advance(61)
    wait_for(lambda: len(positions(ready)) == 1, "the other account goes on")
    assert running.end() == 69
    assert running.err[-1].startswith("exitguard: account tiny: ")
    assert not any("wrong-secret-of-tiny" in line for line in running.err)


def test_t1_f27_swapped_keys_are_refused_once_the_number_is_bound(ready: Program, venue: Venue) -> None:
    assert ready.run("run", "--once").returncode == 0
    keys = venue.keys()
    swapped = {
        "LARGE_KEY": keys["TINY_KEY"],
        "LARGE_SECRET": keys["TINY_SECRET"],
        "TINY_KEY": keys["LARGE_KEY"],
        "TINY_SECRET": keys["LARGE_SECRET"],
    }
    line = ready.fails(78, "run", "--once", **swapped)
    assert "wrong keys" in line
    assert "(also failed: " in line
    comparison = ready.json("sync", expect=69, **swapped)
    assert "the keys belong to broker account" in comparison["accounts"]["large"]["error"]


def test_f27_keys_of_another_account_than_the_file_expects_are_refused(ready: Program, venue: Venue) -> None:
    other = venue.description["accounts"]["tiny"]["account_number"]
    changes = {"large": {"account_number": f'"{other}"'}}
    (ready.folder / "exitguard.toml").write_text(settings_text(venue.description, **changes))
    line = ready.fails(78, "run", "--account", "large")
    assert other in line
    assert "check key and secret" in line


def test_f99_an_exchange_that_is_not_there_is_one_line(ready: Program, venue: Venue) -> None:
    nowhere = {"rest_url": '"http://127.0.0.1:9"', "trade_stream_url": '"ws://127.0.0.1:9/stream"'}
    (ready.folder / "exitguard.toml").write_text(settings_text(venue.description, large=nowhere, tiny=nowhere))
    line = ready.fails(69, "run", "--account", "large")
    assert "account large" in line
    comparison = ready.run("sync", "--account", "large")
    assert comparison.returncode == 69
    assert comparison.stdout.startswith("Large Account:\n  Error: ")


def test_f146_sync_names_every_difference_and_fails(ready: Program, venue: Venue) -> None:
    assert ready.run("run", "--once").returncode == 0
    venue.buy("large", "AAPL", 2)
    body = ready.json("sync", expect=1)
    assert body["accounts"]["large"]["untracked"] == 1
    assert body["accounts"]["large"]["differences"] == [
        {"kind": "untracked", "symbol": "AAPL", "database": "0", "broker": "2"}
    ]
    assert body["accounts"]["tiny"]["in_sync"] is True


def test_a_close_without_a_manager_says_that_nobody_acts(ready: Program, venue: Venue) -> None:
    venue.buy("large", "F", 1)
    venue.buy("tiny", "F", 1)
    assert ready.run("run", "--once").returncode == 0
    assert "choose one with --account" in ready.fails(2, "close", "F")
    assert "no open position 'AAPL'" in ready.fails(1, "close", "AAPL")
    done = ready.run("close", "F", "--account", "large")
    assert done.returncode == 75
    assert "no manager runs for large" in done.stderr
    unhealthy = ready.json("health", expect=1)
    assert "large: 1 open positions and no manager" in unhealthy["problems"]
    running = ready.start("run", "--account", "large")
    wait_for(lambda: venue.ask("GET", "/v2/positions", "large") == [], "the waiting request is served")
    assert running.end() == 0


def test_an_account_without_risk_limits_opens_nothing_and_says_so(ready: Program, venue: Venue) -> None:
    running = started(ready, "--account", "large")
    running.wait_for("no risk limits in the settings: this account opens no positions", account="large")
    assert running.end() == 0


def test_an_account_with_risk_limits_turns_signals_into_positions(ready: Program, venue: Venue) -> None:
    import psycopg

    (ready.folder / "exitguard.toml").write_text(settings_text(venue.description, risk=True))
    running = started(ready, "--account", "large")
    running.wait_for("Dispatcher starting", account="large")
    with psycopg.connect(ready.environment["DATABASE_URL"], autocommit=True) as connection:
        connection.execute(
            "INSERT INTO dispatch_recommendations (account_name, ticker, action, strategy_type, qty)"
            " VALUES ('large', 'F', 'BUY_STOCK', 'swing_trade', 3)"
        )

    def tracked() -> bool:
        venue.advance(1)
        return any(row["symbol"] == "F" and row["quantity"] == "3" for row in positions(ready))

    wait_for(tracked, "the signal's position")
    assert running.end() == 0


def test_f98_the_health_endpoint_tells_progress_alarms_and_figures(ready: Program, venue: Venue) -> None:
    settings = settings_text(venue.description) + '[watch]\nlisten = "127.0.0.1:0"\n'
    (ready.folder / "exitguard.toml").write_text(settings)
    venue.buy("large", "AAPL", 3)
    running = ready.start("run", TINY_SECRET="wrong-secret-of-tiny")
    running.wait_for("Health endpoint listening")
    line = next(line for line in running.err if "Health endpoint listening" in line)
    endpoint = Venue({"rest": json.loads(line)["address"], "accounts": {}})
    running.wait_for("ACCOUNT IS NOT MANAGED", account="tiny")
    running.wait_for("Sleeping for 1 minute until next check...", account="large")

    def answer(path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(endpoint.description["rest"] + path, timeout=PATIENCE) as found:
                return found.status, found.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    wait_for(lambda: '"open_positions":1' in answer("/healthz")[1], "the watchdog's look")
    status, text = answer("/healthz")
    body = json.loads(text)
    assert (status, body["healthy"]) == (503, False)
    assert [problem.partition(":")[0] for problem in body["problems"]] == ["tiny"]
    assert body["accounts"]["large"]["state"] == "running"
    assert "wrong-secret-of-tiny" not in text
    assert answer("/readyz")[0] == 503
    assert json.loads(answer("/version")[1])["schema_version"] >= 7
    metrics = answer("/metrics")[1]
    assert 'exitguard_open_positions{account="large"} 1.0' in metrics
    assert 'exitguard_account_state{account="tiny",state="ended"} 1.0' in metrics
    assert 'exitguard_sweep_age_seconds{account="large"}' in metrics
    assert running.end() == 69
