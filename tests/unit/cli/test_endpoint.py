"""What the health endpoint says about a process whose accounts do not run (F98)."""

import asyncio
import socket
import time

import pytest
from aiohttp import ClientSession
from tests.support.waiting import eventually

from exitguard.cli import endpoint
from exitguard.cli.endpoint import health_of, open_endpoint, stalls_of
from exitguard.cli.exits import CommandFailed, Exit
from exitguard.cli.supervision import Failure, Fleet, State
from exitguard.manager.vitals import Vitals


def fleet_with(state: State) -> Fleet:
    fleet = Fleet(asyncio.Event())
    fleet.enter("large", state)
    return fleet


async def test_f98_a_start_that_never_ends_is_a_stall() -> None:
    fleet = fleet_with(State.STARTING)
    assert stalls_of(fleet) == []
    fleet.starting_since["large"] -= fleet.start_silence + 1
    assert stalls_of(fleet)[0].startswith("large: still starting after 1")
    assert health_of(fleet)["healthy"] is False
    fleet.enter("large", State.RUNNING)
    assert health_of(fleet)["healthy"] is True


async def test_f86_an_account_that_cannot_run_is_unhealthy_but_no_reason_to_restart_its_neighbours() -> None:
    fleet = fleet_with(State.RUNNING)
    fleet.enter("tiny", State.ENDED)
    fleet.failures["tiny"] = Failure("tiny", "wrong keys", Exit.CONFIG)
    assert health_of(fleet)["problems"] == ["tiny: wrong keys"]
    assert stalls_of(fleet) == []


async def test_f98_a_watchdog_that_no_longer_looks_is_a_stall() -> None:
    fleet = fleet_with(State.RUNNING)
    fleet.vitals["large"] = Vitals(looked_at=time.monotonic())
    assert stalls_of(fleet) == []
    fleet.vitals["large"].looked_at = time.monotonic() - 600
    assert stalls_of(fleet)[0].startswith("large: nothing moves since 6")


async def test_a_port_in_use_stops_no_manager_and_is_taken_over_when_it_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(endpoint, "PORT_RETRY_SECONDS", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        async with open_endpoint(f"127.0.0.1:{port}", fleet_with(State.RUNNING)) as address, ClientSession() as client:
            assert address is None
            other.close()
            answers: list[int] = []

            async def ask() -> None:
                while not answers:
                    try:
                        async with client.get(f"http://127.0.0.1:{port}/livez") as answer:
                            answers.append(answer.status)
                    except OSError:
                        await asyncio.sleep(0.01)

            asking = asyncio.create_task(ask())
            await eventually(lambda: answers == [200], "the port is taken over")
            await asking


async def test_an_address_that_can_never_be_had_is_said_at_once() -> None:
    with pytest.raises(CommandFailed, match=r"watch\.listen: cannot listen on 192\.0\.2\.1:1"):
        async with open_endpoint("192.0.2.1:1", fleet_with(State.STARTING)):
            pass
