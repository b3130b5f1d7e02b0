"""`exitguard health` tells a dead manager from a living one, whatever the dead one last said of itself."""

import json
import os
import signal
from typing import Any

import psycopg
from tests.integration.cli.conftest import Program, Venue, wait_for
from tests.support.waiting import PATIENCE

LATER = "UPDATE heartbeats SET beaten_at = beaten_at - interval '200 seconds' WHERE component = 'manager'"
LEASE_ENDS = "UPDATE leases SET expires_at = now() - interval '1 second' WHERE component = 'manager'"


def test_t17_f26_f87_f98_a_dead_or_hanging_manager_is_seen_and_its_heartbeat_says_what_ran(
    ready: Program, venue: Venue
) -> None:
    venue.buy("large", "F", 1)
    running = ready.start("run", "--account", "large")
    running.wait_for("Sleeping for 1 minute until next check...")
    wait_for(lambda: len(ready.json("positions")) == 1, "the position in the ledger")

    def healthy() -> dict[str, Any] | None:
        done = ready.run("health", "--account", "large", "--json")
        return json.loads(done.stdout) if done.returncode == 0 else None

    body = wait_for(healthy, "the account is healthy")
    (manager,) = [row for row in body["components"] if row["component"] == "manager"]
    assert manager["state"] == "fresh"
    assert manager["broker_account_number"] == venue.description["accounts"]["large"]["account_number"]
    start = next(line for line in running.err if '"exitguard starting"' in line)
    assert f'"config_hash": "{manager["config_hash"]}"' in start or f'"config_hash":"{manager["config_hash"]}"' in start
    assert manager["build"] in start
    (policy,) = [line for line in running.err if '"Effective policy"' in line]
    assert manager["policy_hash"] in policy

    # Nobody manages the other account, and nobody would have said so.
    assert "tiny: no manager has ever run" in ready.json("health", expect=1)["problems"]

    running.process.send_signal(signal.SIGSTOP)  # it still holds its lease, and does nothing any more
    with psycopg.connect(ready.environment["DATABASE_URL"], autocommit=True) as database:
        database.execute(LATER)
    hanging = ready.json("health", "--account", "large", expect=1)
    assert any(problem.startswith("large: the manager is silent for ") for problem in hanging["problems"])

    os.kill(running.process.pid, signal.SIGKILL)
    running.process.wait(PATIENCE)
    with psycopg.connect(ready.environment["DATABASE_URL"], autocommit=True) as database:
        database.execute(LEASE_ENDS)
    dead = ready.run("health", "--account", "large")
    assert dead.returncode == 1
    assert dead.stdout.startswith("NOT healthy\n")
    assert "large: the manager is silent" in dead.stdout

    # An orderly stop is a person's decision, but not while it leaves a position behind.
    assert ready.run("run", "--account", "large", "--once").returncode == 0
    left = ready.json("health", "--account", "large", expect=1)
    assert "large: 1 open positions and no manager" in left["problems"]
