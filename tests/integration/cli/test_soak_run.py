"""A soak as small as it can be: real managers, sockets and PostgreSQL, one of them killed in the middle."""

from pathlib import Path

import pytest

from exitguard.cli.soak.play import SoakSizes, play


def entries(folder: Path) -> list[str]:
    """What a folder holds."""
    return [entry.name for entry in folder.iterdir()]


async def test_i8_t7_a_house_under_faults_loses_nothing(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXITGUARD_STATE_DIR", str(state_dir))
    said: list[str] = []
    result = await play(SoakSizes(accounts=2, positions=5, minutes=4, processes=2), said.append)
    assert result.problems == []
    assert (result.played, result.killed, result.positions) == (4, 1, 10)
    assert result.closed + result.left_open == result.positions + result.opened
    assert sum(result.faults.values()) > 0
    assert any("killed with SIGKILL" in line for line in said)
    assert entries(state_dir) == [], "a soak left something behind"
