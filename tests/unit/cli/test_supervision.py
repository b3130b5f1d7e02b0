"""When a process gives up, and when it goes on: one account never decides for another."""

import asyncio
from pathlib import Path

import pytest
from tests.support.waiting import PATIENCE, eventually

from exitguard.broker.port import BrokerUnauthorised, BrokerUnavailable
from exitguard.cli import supervision
from exitguard.cli.exits import CommandFailed
from exitguard.cli.run import _conclude
from exitguard.cli.supervision import AccountUnit, Fleet, State
from exitguard.config.loading import load_settings
from exitguard.config.settings import Settings
from exitguard.store.port import AccountMismatch, LeaseHeld, StoreUnavailable

ACCOUNT = """
[accounts.{name}]
tier = "{name}"
mode = "paper"
rest_url = "http://127.0.0.1:9"
trade_stream_url = "ws://127.0.0.1:9/stream"
data_url = "http://127.0.0.1:9"
stock_stream_url = "ws://127.0.0.1:9/v2/iex"
option_stream_url = "ws://127.0.0.1:9/v1beta1/indicative"
key = "env:{name}_key"
secret = "env:{name}_secret"
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    path = tmp_path / "exitguard.toml"
    path.write_text(ACCOUNT.format(name="large") + ACCOUNT.format(name="tiny"))
    return load_settings(path, {}, tmp_path)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "FIRST_RETRY_SECONDS", 0.001)


class Life(AccountUnit):
    """An account whose lives are told beforehand: an error to fail with, or an event to run until.

    `visited`: a command holds the lease, and not another manager.
    """

    visited = False

    def __init__(self, name: str, settings: Settings, fleet: Fleet, lives: list[Exception | asyncio.Event]) -> None:
        super().__init__(settings.accounts[name], settings, "postgresql://none", fleet, once=False)
        self.lives = lives

    async def _manage(self) -> None:
        life = self.lives.pop(0)
        if isinstance(life, Exception):
            raise life
        self._fleet.enter(self.name, State.RUNNING)
        await life.wait()

    async def _outwait_visit(self) -> bool:
        return self.visited


async def ended(*units: Life) -> None:
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(unit.run() for unit in units))


async def test_a_start_that_fails_everywhere_ends_the_process(settings: Settings) -> None:
    fleet = Fleet(asyncio.Event())
    units = [Life(name, settings, fleet, [BrokerUnavailable("no answer")]) for name in ("large", "tiny")]
    await ended(*units)
    with pytest.raises(CommandFailed, match="no answer") as caught:
        _conclude(fleet)
    assert caught.value.code == 69
    assert "also failed" in str(caught.value)


async def test_what_may_pass_is_tried_again_while_another_account_runs(settings: Settings) -> None:
    stop = asyncio.Event()
    fleet = Fleet(stop)
    runs = Life("large", settings, fleet, [stop])
    troubled = Life("tiny", settings, fleet, [BrokerUnavailable("x"), StoreUnavailable("y"), stop])
    task = asyncio.ensure_future(ended(runs, troubled))
    await eventually(lambda: fleet.states.get("tiny") is State.RUNNING, "the state to come")
    stop.set()
    await task
    assert _conclude(fleet) == 0


@pytest.mark.parametrize(
    ("error", "code"),
    [(AccountMismatch("wrong keys"), 78), (LeaseHeld("another process"), 75), (BrokerUnauthorised("401"), 69)],
)
async def test_f27_what_needs_a_person_is_not_tried_again_and_stops_nobody_else(
    settings: Settings, error: Exception, code: int
) -> None:
    stop = asyncio.Event()
    fleet = Fleet(stop)
    runs = Life("large", settings, fleet, [stop])
    wrong = Life("tiny", settings, fleet, [error])
    task = asyncio.ensure_future(ended(runs, wrong))
    await eventually(lambda: "tiny" in fleet.failures, "the state to come")
    assert fleet.states["large"] is State.RUNNING
    stop.set()
    await task
    with pytest.raises(CommandFailed, match="account tiny") as caught:
        _conclude(fleet)
    assert caught.value.code == code


async def test_f44_a_command_that_works_on_the_books_is_waited_for(settings: Settings) -> None:
    stop = asyncio.Event()
    fleet = Fleet(stop)
    unit = Life("large", settings, fleet, [LeaseHeld("another process"), stop])
    unit.visited = True
    task = asyncio.ensure_future(ended(unit))
    await eventually(lambda: fleet.states["large"] is State.RUNNING, "the manager to start")
    stop.set()
    await task
    assert _conclude(fleet) == 0


async def test_f85_keys_that_worked_before_are_tried_again(settings: Settings) -> None:
    stop, first = asyncio.Event(), asyncio.Event()
    fleet = Fleet(stop)
    unit = Life("large", settings, fleet, [first, BrokerUnauthorised("401"), stop])
    fleet.enter("large", State.RUNNING)
    unit.lives.pop(0)
    task = asyncio.ensure_future(ended(unit))
    await eventually(lambda: not unit.lives, "the state to come")
    stop.set()
    await task
    assert not fleet.failures


async def test_f93_a_defect_is_tried_again_too_because_giving_up_is_worse(settings: Settings) -> None:
    stop = asyncio.Event()
    fleet = Fleet(stop)
    fleet.enter("tiny", State.RUNNING)
    unit = Life("large", settings, fleet, [KeyError("quantity"), stop])
    task = asyncio.ensure_future(ended(unit))
    await eventually(lambda: fleet.states.get("large") is State.RUNNING, "the state to come")
    stop.set()
    await task
    assert not fleet.failures
