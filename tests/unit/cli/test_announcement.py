"""What a start says about itself: everything that an exit or an entry will depend on."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import structlog
from tests.unit.cli.test_supervision import ACCOUNT

from exitguard.cli.run import _announce
from exitguard.config.build import build_info
from exitguard.config.loading import load_settings
from exitguard.core.policy import DEFAULT_POLICY, policy_body, policy_hash

RISK = """
[accounts.large.risk]
max_position_fraction = "0.10"
max_open_positions = 7
max_total_exposure_fraction = "0.80"
allow_short = true
allow_options = false
"""


@pytest.fixture
def records(tmp_path: Path) -> list[dict[str, Any]]:
    path = tmp_path / "exitguard.toml"
    path.write_text(ACCOUNT.format(name="large") + RISK + ACCOUNT.format(name="tiny"))
    settings = load_settings(path, {}, tmp_path)
    with structlog.testing.capture_logs() as found:
        _announce(settings, tuple(settings.accounts.values()), once=False)
    return [dict(record) for record in found]


def test_f11_f90_f101_the_start_says_which_code_runs_and_by_which_numbers(records: list[dict[str, Any]]) -> None:
    """A limit that had been lowered for a test stayed in production, and a banner told another rhythm than the real."""
    start, *rest = records
    assert start["event"] == "exitguard starting"
    assert start["build"] == build_info().label
    assert start["schema_version"] == build_info().schema_version
    assert (start["run_mode"], start["accounts"]) == ("LOOP", ["large", "tiny"])
    policies = {record["account"]: record for record in rest if record["event"] == "Effective policy"}
    assert set(policies) == {"large", "tiny"}
    for record in policies.values():
        assert record["policy_hash"] == policy_hash(DEFAULT_POLICY)
        assert record["numbers"] == policy_body(DEFAULT_POLICY)
    (limits,) = [record for record in rest if record["event"] == "Effective limits"]
    assert limits["account"] == "large"
    assert limits["limits"]["max_open_positions"] == 7
    assert Decimal(limits["limits"]["max_position_fraction"]) == Decimal("0.10")
    assert set(limits["limits"]) == {
        "max_position_fraction", "max_open_positions", "max_total_exposure_fraction", "allow_short", "allow_options",
    }  # fmt: skip
