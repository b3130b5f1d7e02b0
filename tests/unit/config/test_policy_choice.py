"""Which policy a position is under: the most specific entry of the account's settings."""

from pathlib import Path

import pytest

from exitguard.config.errors import ConfigError
from exitguard.config.loading import load_settings
from exitguard.config.settings import Settings
from exitguard.core.instrument import parse_instrument

FILE = """
[database]
url = "embedded"

[accounts.large]
tier = "large"
mode = "paper"
rest_url = "https://paper-api.alpaca.markets"
trade_stream_url = "wss://paper-api.alpaca.markets/stream"
data_url = "https://data.alpaca.markets"
stock_stream_url = "wss://stream.data.alpaca.markets/v2/iex"
option_stream_url = "wss://stream.data.alpaca.markets/v1beta1/indicative"
key = "env:KEY"
secret = "env:SECRET"
policy_for = {{ {choices} }}

[policies.tight]
min_hold_minutes = 1
[policies.wide]
min_hold_minutes = 60
"""


def _load(tmp_path: Path, choices: str) -> Settings:
    path = tmp_path / "exitguard.toml"
    path.write_text(FILE.format(choices=choices))
    return load_settings(path, environ={}, folder=tmp_path)


@pytest.mark.parametrize(
    ("strategy", "symbol", "expected"),
    [
        ("day_trade", "AAPL", "tight"),
        ("day_trade", "AAPL260619C00150000", "default"),
        ("swing", "AAPL", "default"),
        ("swing", "AAPL260619C00150000", "wide"),
    ],
)
def test_the_most_specific_choice_wins(tmp_path: Path, strategy: str, symbol: str, expected: str) -> None:
    choices = 'day_trade = "tight", option = "wide", "day_trade/option" = "default"'
    settings = _load(tmp_path, choices)
    account = settings.accounts["large"]
    assert settings.select_policy(account, strategy, parse_instrument(symbol)).name == expected
    assert {policy.name for policy in settings.policies_of(account)} == {"default", "tight", "wide"}


def test_f84_a_policy_that_does_not_exist_is_an_error_that_names_the_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"accounts\.large\.policy_for\.swing"):
        _load(tmp_path, 'swing = "tihgt"')


def test_the_hash_covers_every_policy_of_the_account(tmp_path: Path) -> None:
    one, other = (_load(tmp_path, choices) for choices in ("", 'swing = "tight"'))
    assert one.policies_hash(one.accounts["large"]) != other.policies_hash(other.accounts["large"])
