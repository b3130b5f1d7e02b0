"""Secrets by reference, read once, never shown, and never another account's (F27, F78, F80, F82, T13)."""

import io
import logging
import sys
import types
from pathlib import Path
from typing import Any

import orjson
import pytest
import structlog

from exitguard.config import logs
from exitguard.config.errors import ConfigError, SecretError
from exitguard.config.legacy import legacy_body
from exitguard.config.redaction import HIDDEN, redact
from exitguard.config.secrets import SecretReader, credentials, database_url
from exitguard.config.settings import AccountSettings, DatabaseSettings


def test_environment_and_file_references_are_read(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("  from-a-file\n")
    reader = SecretReader({"MY_KEY": "from-the-environment"})
    assert reader.read("env:MY_KEY") == "from-the-environment"
    assert reader.read(f"file:{path}") == "from-a-file"


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("env:ABSENT", "env:ABSENT: found no such environment variable"),
        ("env:EMPTY", "env:EMPTY: found an empty value"),
        ("file:/nonexistent/key", "file:/nonexistent/key: found No such file or directory"),
        ("file:/", "Is a directory"),
        ("a-literal-secret", "found a text that is not a reference"),
        ("vault:x", "found a text that is not a reference"),
    ],
)
def test_t13_a_secret_that_is_not_there_is_named(reference: str, expected: str) -> None:
    with pytest.raises(SecretError) as caught:
        SecretReader({"EMPTY": " "}).read(reference)
    assert expected in str(caught.value)
    assert "a-literal-secret" not in str(caught.value)


class ClientError(Exception):
    def __init__(self, code: str) -> None:
        self.response = {"Error": {"Code": code, "Message": "no"}}


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """AWS as its client library shows it; values are answers, or errors to raise."""
    contents: dict[str, Any] = {}

    class Client:
        def __init__(self, service: str, region: str | None) -> None:
            contents.setdefault("regions", set()).add(region)

        def get_secret_value(self, SecretId: str) -> dict[str, Any]:  # noqa: N803 - AWS's name
            return {"SecretString": self._get(SecretId)}

        def get_parameter(self, Name: str, WithDecryption: bool) -> dict[str, Any]:  # noqa: N803 - AWS's name
            assert WithDecryption
            return {"Parameter": {"Value": self._get(Name)}}

        @staticmethod
        def _get(name: str) -> str:
            value = contents.get(name, ClientError("ResourceNotFoundException"))
            if isinstance(value, Exception):
                raise value
            return str(value)

    boto3 = types.ModuleType("boto3")
    boto3.client = lambda service, region_name=None: Client(service, region_name)  # type: ignore[attr-defined]
    botocore = types.ModuleType("botocore")
    exceptions = types.ModuleType("botocore.exceptions")
    exceptions.ClientError = ClientError  # type: ignore[attr-defined]
    exceptions.BotoCoreError = type("BotoCoreError", (Exception,), {})  # type: ignore[attr-defined]
    botocore.exceptions = exceptions  # type: ignore[attr-defined]
    for name, module in (("boto3", boto3), ("botocore", botocore), ("botocore.exceptions", exceptions)):
        monkeypatch.setitem(sys.modules, name, module)
    return contents


def test_aws_secrets_and_parameters_are_read(aws: dict[str, Any]) -> None:
    aws["id/x"] = '{"api_key": "the-aws-key", "n": 5}'
    aws["/p/host"] = "db.internal"
    reader = SecretReader({"AWS_REGION": "eu-west-1"})
    assert reader.read("aws-sm:id/x#api_key") == "the-aws-key"
    assert reader.read("aws-ssm:/p/host") == "db.internal"
    assert reader.read_optional("aws-sm:id/x#base_url?") is None
    assert aws["regions"] == {"eu-west-1"}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (ClientError("AccessDeniedException"), "AccessDeniedException from AWS"),
        (ClientError("ResourceNotFoundException"), "ResourceNotFoundException from AWS"),
        ("api_key: yaml-not-json", "a secret that is not JSON"),
        ("[1]", "JSON that is not an object"),
        ("{}", "a secret without the field 'api_key'"),
        ('{"api_key": ""}', "a secret without the field 'api_key'"),
    ],
)
def test_t13_aws_secrets_missing_denied_or_malformed(aws: dict[str, Any], content: Any, expected: str) -> None:
    aws["id"] = content
    with pytest.raises(SecretError, match="aws-sm:id#api_key") as caught:
        SecretReader({}).read("aws-sm:id#api_key")
    assert expected in str(caught.value)
    assert "yaml-not-json" not in str(caught.value)


def test_without_the_aws_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(SecretError, match=r"pip install 'exitguard\[aws\]'"):
        SecretReader({}).read("aws-ssm:/x")


def legacy_account(name: str) -> AccountSettings:
    return AccountSettings.model_validate(legacy_body(name)["accounts"][name] | {"name": name})


def test_f27_f78_the_secret_of_another_account_is_refused(aws: dict[str, Any]) -> None:
    aws["ops-pipeline/alpaca/tiny"] = '{"api_key": "kkkkkk", "api_secret": "ssssss", "account_name": "large"}'
    with pytest.raises(ConfigError, match="found the secret of account 'large', expected the secret of account 'tiny'"):
        credentials(legacy_account("tiny"), SecretReader({}))


def test_f80_a_missing_tier_secret_never_falls_back_to_another(aws: dict[str, Any]) -> None:
    aws["ops-pipeline/alpaca"] = '{"api_key": "large-key", "api_secret": "large-secret"}'
    with pytest.raises(SecretError, match="ops-pipeline/alpaca/tiny"):
        credentials(legacy_account("tiny"), SecretReader({}))


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("", "https://paper-api.alpaca.markets"),
        (', "base_url": "https://paper-api.alpaca.markets/v2"', "https://paper-api.alpaca.markets"),
    ],
)
def test_a_legacy_secret_may_carry_its_base_url(aws: dict[str, Any], base: str, expected: str) -> None:
    aws["ops-pipeline/alpaca"] = (
        f'{{"api_key": "large-key", "api_secret": "large-secret", "account_name": "large"{base}}}'
    )
    found = credentials(legacy_account("large"), SecretReader({}))
    assert (found.key, found.secret, found.rest_url) == ("large-key", "large-secret", expected)
    assert "large-secret" not in repr(found)


def test_a_legacy_secret_with_a_live_url_does_not_trade_real_money_by_surprise(aws: dict[str, Any]) -> None:
    aws["ops-pipeline/alpaca"] = '{"api_key": "k", "api_secret": "s", "base_url": "https://api.alpaca.markets"}'
    with pytest.raises(SecretError, match=r"set rest_url and mode in exitguard\.toml"):
        credentials(legacy_account("large"), SecretReader({}))


def test_the_database_url_is_put_together_and_quoted(aws: dict[str, Any]) -> None:
    aws["ops-pipeline/db"] = '{"username": "ops", "password": "p@ss/word:1"}'
    aws["/ops-pipeline/db_host"], aws["/ops-pipeline/db_port"], aws["/ops-pipeline/db_name"] = "h", "5432", "n"
    settings = DatabaseSettings.model_validate(legacy_body("large")["database"])
    assert database_url(settings, SecretReader({})) == "postgresql://ops:p%40ss%2Fword%3A1@h:5432/n"


def test_a_database_reference_to_something_else_is_refused() -> None:
    with pytest.raises(SecretError, match="not a PostgreSQL URL"):
        database_url(DatabaseSettings(url="env:U"), SecretReader({"U": "not-a-url-but-a-password"}))


def test_f82_secrets_never_reach_the_log() -> None:
    SecretReader({"S": "sk-very-secret-value"}).read("env:S")
    stream = io.StringIO()
    logs.setup("debug", "json", stream)
    try:
        logger = structlog.get_logger().bind(account="large")
        logger.info("leak sk-very-secret-value", detail={"deep": ["sk-very-secret-value"]}, api_key="short")
        logger.warning("url", url="postgresql://me:topsecret@db/x", error=ValueError("sk-very-secret-value"))
        try:
            raise RuntimeError("sk-very-secret-value")
        except RuntimeError:
            logger.exception("failed")
        logging.getLogger("library").warning("library says %s", "sk-very-secret-value")
    finally:
        logs.setup("warning", "console", None)
        structlog.reset_defaults()
        logging.captureWarnings(False)
    text = stream.getvalue()
    assert "sk-very-secret-value" not in text
    assert "topsecret" not in text
    records = [orjson.loads(line) for line in text.splitlines()]
    assert records[0]["account"] == "large"
    assert records[0]["api_key"] == HIDDEN
    assert records[1]["url"] == f"postgresql://me:{HIDDEN}@db/x"
    assert records[3]["event"] == f"library says {HIDDEN}"


def test_redaction_leaves_ordinary_text_alone() -> None:
    assert (
        redact("https://paper-api.alpaca.markets/v2 closed AAPL") == "https://paper-api.alpaca.markets/v2 closed AAPL"
    )
