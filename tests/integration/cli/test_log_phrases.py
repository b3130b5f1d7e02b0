"""The log lines that operators grep are there at the level that everybody runs with."""

from tests.integration.cli.conftest import Program, Venue


def test_the_phrases_of_a_position_s_life_are_logged_at_the_default_level(ready: Program, venue: Venue) -> None:
    venue.buy("large", "AAPL", 10)
    running = ready.start("run", "--account", "large")
    for phrase in (
        "Position Manager starting",
        "Managing positions for account: large",
        "Created active position",
        "Found 1 open position(s)",
        "Position updated",
        "Sleeping for 1 minute until next check...",
    ):
        running.wait_for(phrase, account="large")
    assert ready.run("close", "AAPL", "--account", "large", "--wait").returncode == 0
    for phrase in ("EXIT TRIGGERED: manual_close", "Position closed successfully"):
        running.wait_for(phrase, account="large")
    second = ready.fails(75, "run", "--account", "large")
    assert "end that one, or wait for its end: exitguard run --standby" in second
    running.end()
    assert running.logged("Position Manager completed", account="large")
