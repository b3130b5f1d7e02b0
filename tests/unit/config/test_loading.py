"""The settings file: what is accepted, and that everything else is named (F73, F77, F78, F80, F84, T13)."""

import textwrap
from decimal import Decimal
from pathlib import Path

import pytest

from exitguard.config.errors import ConfigError
from exitguard.config.loading import load_settings
from exitguard.config.settings import RunMode, Settings

ACCOUNT = """
[accounts.{name}]
tier = "{name}"
mode = "paper"
rest_url = "https://paper-api.alpaca.markets"
trade_stream_url = "wss://paper-api.alpaca.markets/stream"
data_url = "https://data.alpaca.markets"
stock_stream_url = "wss://stream.data.alpaca.markets/v2/iex"
option_stream_url = "wss://stream.data.alpaca.markets/v1beta1/indicative"
key = "env:{upper}_KEY"
secret = "env:{upper}_SECRET"
"""
RISK = """
[accounts.large.risk]
max_position_fraction = "0.10"
max_open_positions = 20
max_total_exposure_fraction = 0.80
allow_short = true
allow_options = false
"""


def account(name: str = "large", **replaced: str) -> str:
    text = ACCOUNT.format(name=name, upper=name.upper())
    lines = []
    for line in text.splitlines():
        key = line.partition(" = ")[0]
        lines.append(f"{key} = {replaced.pop(key)}" if key in replaced else line)
    return "\n".join([*lines, *(f"{key} = {value}" for key, value in replaced.items())]) + "\n"


def load(tmp_path: Path, text: str, **environ: str) -> Settings:
    path = tmp_path / "exitguard.toml"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return load_settings(path, environ, tmp_path)


def problems(tmp_path: Path, text: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, **environ)
    return [str(problem) for problem in caught.value.problems]


def test_a_complete_file_becomes_frozen_settings(tmp_path: Path) -> None:
    settings = load(tmp_path, account() + RISK + account("tiny"), AWS_REGION="us-west-2")
    large = settings.accounts["large"]
    assert (large.name, large.mode, large.clock, large.requests_per_minute) == ("large", "paper", "real", 200)
    assert large.risk is not None
    assert large.risk.max_position_fraction == Decimal("0.10")
    assert large.risk.max_total_exposure_fraction == Decimal("0.80")
    assert settings.accounts["tiny"].risk is None
    assert settings.selected == ("large", "tiny")
    assert settings.run_mode is RunMode.LOOP
    assert settings.database.embedded_name == "exitguard"
    assert settings.policy_of(large).name == "default"
    assert len(settings.config_hash) == 64
    with pytest.raises(Exception, match="frozen"):
        large.mode = "live"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[database]\nurl = 5\n", ['database.url: found a value of type int [hidden], expected a valid string']),
        ("[database]\nurl = 'mysql://x/y'\n", ["postgresql://…"]),
        ("[database]\nurl = 'embedded:No-Name'\n", ["embedded:NAME with a name of"]),
        ("[database]\nhost = 'h'\n", ["url, or all parts of it (missing: port, name, username, password)"]),
        ("[database]\nurl = 'embedded'\nport = '1'\n", ["either url or its parts, not both (also given: port)"]),
        ("[databse]\n", ["databse: found unknown key 'databse', expected a known key; did you mean 'database'?"]),
        ("[log]\nlevl = 'info'\n", ["log.levl: found unknown key 'levl', expected a known key; did you mean 'level'?"]),
        ("[log]\nlevel = 'loud'\n", ["log.level: found \"loud\", expected 'debug', 'info', 'warning' or 'error'"]),
        ("log = 3\n", ["log: found 3, expected"]),
        ("accounts = 3\n", ["accounts: found 3, expected a table, written [accounts.NAME]"]),
        ("[accounts]\nlarge = 3\n", ["accounts.large: found 3, expected a table of account settings"]),
        ("[accounts.Large-100k]\n", ["accounts.Large-100k: found \"Large-100k\", expected a name of up to 32"]),
        (account(name="large").replace("[accounts.large]", "[accounts.large]\nname = 'x'"), ["unknown key 'name'"]),
        (account(mode='"papr"'), ["accounts.large.mode: found \"papr\", expected 'paper' or 'live'"]),
        (account(requests_per_minut="100"), ["did you mean 'requests_per_minute'?"]),
        (account(requests_per_minute='"100"'), ['found "100", expected a valid integer']),
        (account(requests_per_minute="true"), ["found True, expected a valid integer"]),
        (account(requests_per_minute="5"), ["greater than or equal to 10"]),
        (account(rest_url='"https://paper-api.alpaca.markets/v2"'), ["the base URL without /v2 at its end"]),
        (account(rest_url='"paper-api.alpaca.markets"'), ["a URL that starts with https://"]),
        (account(data_url='"http://data.example.com"'), ["would send the keys in clear text over the network"]),
        (account(data_url='"https://me:pw@data.example.com"'), ["a URL without a user name and password in it"]),
        (account(mode='"live"'), ["mode = 'live' with a live host"]),
        (account(rest_url='"https://api.alpaca.markets"'), ["api.alpaca.markets trades real money"]),
        (account(key='"env:A"', secret='"env:A"'), ["key and secret to be different references"]),
        (account(policy='"swng"'), ["accounts.large.policy: found \"swng\", expected one of the policies: default"]),
        (account(clock='"fast"'), ["expected 'real' or 'stepped'"]),
        (account() + "[accounts.large.risk]\nallow_short = true\n", ["risk.max_position_fraction: found nothing"] ),
        (account() + RISK.replace('"0.10"', '"1.5"'), ["less than or equal to 1"]),
        (account() + RISK.replace('"0.10"', '"0.9"'), ["must not exceed max_total_exposure_fraction"]),
        (account() + RISK.replace('"0.10"', "nan"), ["max_position_fraction: found"]),
        (account() + RISK.replace("20", "20.5"), ["max_open_positions: found"]),
        (account() + RISK.replace("allow_short = true", "allow_short = 'yes'"), ["expected a valid boolean"]),
        (account() + RISK + "allow_shrt = true\n", ["did you mean 'allow_short'?"]),
    ],
)  # fmt: skip
def test_f73_f84_each_wrong_setting_names_file_key_found_and_expected(
    tmp_path: Path, text: str, expected: list[str]
) -> None:
    found = problems(tmp_path, text)
    for part in expected:
        assert any(part in line for line in found), found
    assert all(line.startswith(str(tmp_path / "exitguard.toml")) for line in found)


def test_all_problems_are_collected_and_the_first_is_shown_with_their_number(tmp_path: Path) -> None:
    text = account(mode='"papr"', requests_per_minute="0") + "[policies.default]\nmax_hold_minuts = 5\n[logg]\n"
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, RUN_MODE="ALWAYS")
    assert len(caught.value.problems) == 5
    assert "(and 4 more problems, listed in the log)" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_t13_f73_a_file_of_another_format_is_fatal_and_not_a_set_of_defaults(tmp_path: Path) -> None:
    found = problems(tmp_path, "confidence: 0.55\nlimits:\n  max: 5\n")
    assert len(found) == 1
    assert "found no TOML" in found[0]


@pytest.mark.parametrize("content", [b"\xff\xfe[log]", b"\x00" * 50])
def test_bytes_that_are_no_text_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "exitguard.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError):
        load_settings(path, {}, tmp_path)


def test_a_named_file_that_is_missing_or_a_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_settings(tmp_path / "absent.toml", {}, tmp_path)
    with pytest.raises(ConfigError, match="Is a directory"):
        load_settings(None, {"EXITGUARD_CONFIG": str(tmp_path)}, tmp_path)


def test_no_file_at_all_serves_the_embedded_ledger_and_no_account(tmp_path: Path) -> None:
    settings = load_settings(None, {"EXITGUARD_STATE_DIR": str(tmp_path / "state")}, tmp_path)
    assert settings.database.embedded_name == "exitguard"
    with pytest.raises(ConfigError, match="exitguard init"):
        settings.require_accounts()


def test_the_file_is_looked_for_in_the_documented_order(tmp_path: Path) -> None:
    demo = tmp_path / "state" / "demo" / "exitguard.toml"
    demo.parent.mkdir(parents=True)
    environ = {"EXITGUARD_STATE_DIR": str(tmp_path / "state")}
    candidates = [demo, tmp_path / "exitguard.toml", tmp_path / "named.toml"]
    for path in candidates:
        path.write_text("")
        if path.name == "named.toml":
            environ["EXITGUARD_CONFIG"] = str(path)
        assert load_settings(None, environ, tmp_path).path == path
    given = tmp_path / "given.toml"
    given.write_text("")
    assert load_settings(given, environ, tmp_path).path == given


def test_the_written_template_loads_and_says_what_the_defaults_are(tmp_path: Path) -> None:
    from importlib import resources

    template = resources.files("exitguard.config").joinpath("template.toml").read_text(encoding="utf-8")
    plain = load(tmp_path, template)
    assert plain.accounts["large"].risk is not None
    # Uncommenting every line of the policies must change nothing: what the template shows are the defaults.
    head, marker, tail = template.partition("[policies.default]")
    shown = head + marker + "\n".join(line.removeprefix("# ") for line in tail.splitlines())
    assert load(tmp_path, shown).policies == plain.policies
    tiny = "\n".join(line.removeprefix("# ") for line in head.splitlines() if " = " in line or "[" in line)
    assert "tiny" in tiny
    second = head.partition("# [accounts.tiny]")[2].partition("\n\n")[0]
    both = template + "\n[accounts.tiny]" + "\n".join(line.removeprefix("# ") for line in second.splitlines())
    assert load(tmp_path, both).selected == ("large", "tiny")


def test_f78_account_name_and_tier_that_differ_are_refused(tmp_path: Path) -> None:
    found = problems(tmp_path, account() + account("tiny"), ACCOUNT_NAME="large", ACCOUNT_TIER="tiny")
    assert found == [
        'environment: ACCOUNT_NAME: found ACCOUNT_NAME="large" and ACCOUNT_TIER="tiny", expected one account:'
        " set one of them, or both alike"
    ]


@pytest.mark.parametrize(
    "environ",
    [{"ACCOUNT_NAME": "tiny"}, {"ACCOUNT_TIER": "tiny"}, {"ACCOUNT_NAME": "tiny", "ACCOUNT_TIER": "tiny"}],
)
def test_f78_one_account_is_selected_by_either_name(tmp_path: Path, environ: dict[str, str]) -> None:
    assert load(tmp_path, account() + account("tiny"), **environ).selected == ("tiny",)


@pytest.mark.parametrize("name", ["larg", "large-default", "Large", "../large", ""])
def test_f30_an_account_of_another_name_is_never_taken_for_ours(tmp_path: Path, name: str) -> None:
    if name == "":
        assert load(tmp_path, account(), ACCOUNT_NAME=name).selected == ("large",)
        return
    assert "ACCOUNT_NAME" in problems(tmp_path, account(), ACCOUNT_NAME=name)[0]


@pytest.mark.parametrize("mode", ["once", "LOOPS", "", "0"])
def test_f77_a_run_mode_that_is_not_known_is_an_error(tmp_path: Path, mode: str) -> None:
    assert "expected LOOP or ONCE" in problems(tmp_path, account(), RUN_MODE=mode)[0]


def test_f77_a_variable_that_looks_like_ours_is_warned_of(tmp_path: Path) -> None:
    settings = load(tmp_path, account(), MODE="LOOP", EXITGUARD_LOGLEVEL="debug")
    assert settings.run_mode is RunMode.LOOP
    assert settings.warnings[0] == "environment variable MODE is not read; RUN_MODE is"
    assert "EXITGUARD_LOGLEVEL is not known" in settings.warnings[1]
    assert "did you mean 'EXITGUARD_LOG_LEVEL'?" in settings.warnings[1]


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    environ = {"DATABASE_URL": "postgresql://u:pw12345@h/n", "EXITGUARD_LOG_LEVEL": "debug"}
    settings = load(tmp_path, "[database]\nurl = 'embedded'\n", **environ)
    assert settings.database.url == "postgresql://u:pw12345@h/n"
    assert settings.log.level == "debug"


def test_f82_a_wrong_database_url_in_the_environment_is_not_shown(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, "", DATABASE_URL="mysql://u:hunter2secret@h/n")
    assert "DATABASE_URL" in found
    assert "hunter2secret" not in found


def test_f82_a_secret_in_place_of_a_reference_is_refused_and_not_shown(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, account(secret='"abcdefVERYSECRET"'))
    assert "accounts.large.secret: found a text of 16 characters [hidden]" in found
    assert "VERYSECRET" not in found


def test_f27_f80_two_accounts_behind_one_key_are_refused(tmp_path: Path) -> None:
    text = account() + account("tiny", key='"env:LARGE_KEY"')
    assert "accounts.tiny.key" in problems(tmp_path, text)[0]
    text = account(account_number='"PA1"') + account("tiny", account_number='"PA1"')
    assert "accounts.tiny.account_number" in problems(tmp_path, text)[0]


def test_the_hash_changes_with_any_setting_and_with_no_password(tmp_path: Path) -> None:
    base = load(tmp_path, account() + RISK).config_hash
    assert load(tmp_path, account() + RISK).config_hash == base
    assert load(tmp_path, account() + RISK.replace("20", "21")).config_hash != base
    assert load(tmp_path, account() + RISK + "[policies.default]\nmax_hold_minutes = 241\n").config_hash != base
    assert load(tmp_path, account() + RISK, RUN_MODE="ONCE").config_hash != base
    first = load(tmp_path, account(), DATABASE_URL="postgresql://u:password-one@h/n").config_hash
    second = load(tmp_path, account(), DATABASE_URL="postgresql://u:password-two@h/n").config_hash
    assert first == second


def test_a_relative_secret_file_starts_at_the_settings_file(tmp_path: Path) -> None:
    settings = load(tmp_path, account(key='"file:keys/large"'))
    assert settings.accounts["large"].key == f"file:{tmp_path}/keys/large"


def test_f79_f81_a_deployment_on_aws_without_a_file_gets_the_names_that_it_had(tmp_path: Path) -> None:
    environ = {"AWS_REGION": "us-west-2", "ACCOUNT_NAME": "tiny", "EXITGUARD_STATE_DIR": str(tmp_path / "none")}
    settings = load_settings(None, environ, tmp_path)
    tiny = settings.accounts["tiny"]
    assert tiny.key == "aws-sm:ops-pipeline/alpaca/tiny#api_key"
    assert tiny.secret == "aws-sm:ops-pipeline/alpaca/tiny#api_secret"
    assert settings.database.host == "aws-ssm:/ops-pipeline/db_host"
    assert settings.database.password == "aws-sm:ops-pipeline/db#password"
    assert tiny.risk is None
    large = load_settings(None, environ | {"ACCOUNT_NAME": "large"}, tmp_path).accounts["large"]
    assert large.key == "aws-sm:ops-pipeline/alpaca#api_key"


@pytest.mark.parametrize(
    ("line", "replacement"),
    [
        ('max_position_fraction = "0.10"', "max_position_fraction = 1000000"),
        ("max_total_exposure_fraction = 0.80", "max_total_exposure_fraction = 1000000"),
        ("max_open_positions = 20", ""),
        ("max_open_positions = 20", "max_open_positions = 1000000"),
        ("max_open_positions = 20", "max_open_positions = 0"),
        ("max_total_exposure_fraction = 0.80", ""),
        ("allow_options = false", ""),
    ],
)
def test_f75_a_limit_that_limits_nothing_or_is_missing_is_refused(tmp_path: Path, line: str, replacement: str) -> None:
    """An exposure of 1,000,000 and a missing count of positions were valid limits."""
    assert line in RISK
    (problem,) = problems(tmp_path, account() + RISK.replace(line, replacement))
    assert f"accounts.large.risk.{line.partition(' =')[0]}" in problem
