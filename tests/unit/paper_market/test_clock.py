"""The market's clock: speeds, pauses, steps; never backwards."""

from datetime import UTC, datetime, timedelta

import pytest

from exitguard.core.errors import InvalidInput
from exitguard.paper.market.clock import MarketClock

START = datetime(2026, 11, 20, 14, 30, tzinfo=UTC)


class Wall:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.mark.parametrize("speed", [0.5, 1.0, 60.0, 10_000.0])
def test_target_follows_wall_time_at_any_speed(wall: Wall, speed: float) -> None:
    clock = MarketClock(START, speed=speed, wall=wall)
    wall.seconds += 0.2
    assert clock.target() == START + timedelta(seconds=0.2 * speed)


def test_paused_time_moves_only_when_it_is_stepped(wall: Wall) -> None:
    clock = MarketClock(START, paused=True, wall=wall)
    wall.seconds += 3600
    assert clock.now() == clock.target() == START
    clock.reach(START + timedelta(seconds=5))
    assert clock.now() == START + timedelta(seconds=5)


def test_real_time_catches_up_after_a_stall(wall: Wall) -> None:
    clock = MarketClock(START, speed=1.0, wall=wall)
    wall.seconds += 30
    assert clock.target() == START + timedelta(seconds=30)


def test_faster_than_real_time_gives_lost_time_up(wall: Wall) -> None:
    clock = MarketClock(START, speed=60.0, wall=wall)
    wall.seconds += 30
    assert clock.target() == START + timedelta(seconds=60)


def test_a_stalled_player_stops_the_clock_shortly_after(wall: Wall) -> None:
    clock = MarketClock(START, speed=1.0, wall=wall)
    wall.seconds += 100
    assert clock.now() <= START + timedelta(seconds=0.25)


def test_time_never_goes_backwards(wall: Wall) -> None:
    clock = MarketClock(START, speed=100.0, wall=wall)
    seen = [clock.now()]
    for step in range(200):
        wall.seconds += 0.01
        if step % 7 == 0:
            clock.reach(clock.target())
        if step % 31 == 0:
            clock.pause()
        if step % 37 == 0:
            clock.resume()
        if step % 50 == 0:
            clock.set_speed(1.0 + step)
        seen.append(clock.now())
    clock.reach(START)
    seen.append(clock.now())
    assert seen == sorted(seen)


def test_resuming_goes_on_where_it_stopped(wall: Wall) -> None:
    clock = MarketClock(START, paused=True, wall=wall)
    wall.seconds += 500
    clock.resume()
    wall.seconds += 2
    assert clock.target() == START + timedelta(seconds=2)


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan"), float("inf"), 2e6])
def test_impossible_speeds_are_refused(wall: Wall, speed: float) -> None:
    with pytest.raises(InvalidInput, match="speed"):
        MarketClock(START, speed=speed, wall=wall)


def test_a_start_without_zone_is_refused(wall: Wall) -> None:
    with pytest.raises(InvalidInput, match="time zone"):
        MarketClock(START.replace(tzinfo=None), wall=wall)
