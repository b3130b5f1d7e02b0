"""Secrets by reference: what stands in a file or a database is where the secret is, never the secret (F82).

Forms: `env:NAME`, `file:PATH`, `aws-sm:ID#FIELD` (AWS Secrets Manager, a field of a JSON secret; a trailing `?` makes
the field optional), `aws-ssm:NAME` (AWS Systems Manager parameter). Values are read when they are needed and remembered
only by the redaction. A missing secret is an error; there is no fallback to another one (F80).
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from exitguard.config.errors import ConfigError, Problem, SecretError
from exitguard.config.redaction import redact, remember_secret

if TYPE_CHECKING:
    from exitguard.config.settings import AccountSettings, DatabaseSettings

REFERENCE_FORMS = "env:NAME, file:PATH, aws-sm:ID#FIELD or aws-ssm:NAME"
_FORM = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*|file:.+|aws-sm:[^#\s]+#[A-Za-z0-9_]+\??|aws-ssm:\S+")
_LARGEST_SECRET_FILE = 65536
_AWS_EXTRA = "the optional extra: pip install 'exitguard[aws]'"


def is_reference(text: str) -> bool:
    """Whether `text` has one of the forms of a secret reference."""
    return _FORM.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Credentials:
    """The values that open one brokerage account; never printed."""

    key: str = field(repr=False)
    secret: str = field(repr=False)
    rest_url: str


class SecretReader:
    """Reads secrets; keeps answers of AWS for its own short life, so that one secret's fields belong together."""

    def __init__(self, environ: Mapping[str, str] | None = None, region: str | None = None) -> None:
        self._environ = os.environ if environ is None else environ
        self._region = region or self._environ.get("AWS_REGION")
        self._documents: dict[str, dict[str, Any]] = {}
        self._clients: dict[str, Any] = {}

    def read(self, reference: str) -> str:
        """The secret, hidden from now on. Raises SecretError when it is missing, empty, unreadable or denied."""
        value = self.read_open(reference)
        remember_secret(value)
        return value

    def read_open(self, reference: str) -> str:
        """A value that is kept where secrets are but is none, such as a host's name: it may be shown."""
        value = self.read_optional(reference)
        if value is None:
            raise SecretError(reference, "nothing", "a value")
        return value

    def read_optional(self, reference: str) -> str | None:
        """Like `read_open`, but None for an optional field (`aws-sm:ID#FIELD?`) that the secret does not have."""
        if not is_reference(reference):
            raise SecretError("(not shown)", "a text that is not a reference", REFERENCE_FORMS)
        kind, _, rest = reference.partition(":")
        reader = {"env": self._env, "file": self._file, "aws-sm": self._secrets_manager, "aws-ssm": self._parameter}
        return reader[kind](reference, rest)

    def document(self, reference: str) -> dict[str, Any]:
        """The whole JSON secret behind an `aws-sm:` reference."""
        return self._document(reference, reference.removeprefix("aws-sm:").partition("#")[0])

    def _env(self, reference: str, name: str) -> str:
        value = self._environ.get(name, "")
        if not value.strip():
            found = "an empty value" if name in self._environ else "no such environment variable"
            raise SecretError(reference, found, f"the environment variable {name} to be set")
        return value.strip()

    def _file(self, reference: str, text: str) -> str:
        path = Path(text).expanduser()
        try:
            with path.open("rb") as file:
                raw = file.read(_LARGEST_SECRET_FILE + 1)
            value = raw.decode("utf-8").strip()
        except OSError as error:
            raise SecretError(reference, error.strerror or str(error), "a file that can be read") from error
        except UnicodeDecodeError as error:
            raise SecretError(reference, "bytes that are not UTF-8", "a text file with the secret in it") from error
        if not value or len(raw) > _LARGEST_SECRET_FILE:
            raise SecretError(
                reference, "an empty file" if not value else "a huge file", "a file with the secret in it"
            )
        return value

    def _secrets_manager(self, reference: str, text: str) -> str | None:
        identifier, _, name = text.partition("#")
        document = self._document(reference, identifier)
        value = document.get(name.rstrip("?"))
        if value is None or value == "":
            if name.endswith("?"):
                return None
            raise SecretError(
                reference, f"a secret without the field {name!r}", f"a JSON secret with the field {name!r}"
            )
        return str(value)

    def _document(self, reference: str, identifier: str) -> dict[str, Any]:
        if identifier not in self._documents:
            answer = self._ask(reference, "secretsmanager", "get_secret_value", SecretId=identifier)
            try:
                document = json.loads(answer.get("SecretString") or "")
            except json.JSONDecodeError as error:
                raise SecretError(reference, "a secret that is not JSON", "a JSON object") from error
            if not isinstance(document, dict):
                raise SecretError(reference, "JSON that is not an object", "a JSON object")
            self._documents[identifier] = document
        return self._documents[identifier]

    def _parameter(self, reference: str, name: str) -> str:
        answer = self._ask(reference, "ssm", "get_parameter", Name=name, WithDecryption=True)
        value = str(answer.get("Parameter", {}).get("Value", "")).strip()
        if not value:
            raise SecretError(reference, "an empty parameter", "a value")
        return value

    def _ask(self, reference: str, service: str, operation: str, **arguments: Any) -> dict[str, Any]:
        try:
            import boto3
            import botocore.exceptions
        except ImportError as error:
            raise SecretError(reference, "no AWS client library (boto3)", _AWS_EXTRA) from error
        try:
            if service not in self._clients:
                self._clients[service] = boto3.client(service, region_name=self._region)
            answer: dict[str, Any] = getattr(self._clients[service], operation)(**arguments)
        except botocore.exceptions.ClientError as error:
            body = error.response.get("Error", {})
            found = redact(f"{body.get('Code', 'an error')} from AWS: {body.get('Message', '')}".strip(": "))
            raise SecretError(reference, found, "a secret that exists and that this role may read") from error
        except botocore.exceptions.BotoCoreError as error:
            raise SecretError(reference, redact(" ".join(str(error).split())), "an answer from AWS") from error
        return answer


def resolve(reference: str) -> str:
    """The value of one secret reference. Raises SecretError."""
    return SecretReader().read(reference)


def credentials(account: "AccountSettings", reader: SecretReader | None = None) -> Credentials:
    """Read what opens an account.

    Raises SecretError; and ConfigError when the secret says that it belongs to another account (F27, F78).
    """
    reader = SecretReader() if reader is None else reader
    for reference in (account.key, account.secret):
        if reference.startswith("aws-sm:"):
            owner = reader.document(reference).get("account_name")
            if owner is not None and owner != account.name:
                where = f"accounts.{account.name}"
                expected = f"the secret of account {account.name!r}"
                raise ConfigError([Problem(reference, where, f"the secret of account {str(owner)[:40]!r}", expected)])
    rest_url = account.rest_url
    if rest_url.startswith("aws-sm:"):
        rest_url = _rest_url_of_secret(account, reader)
    return Credentials(reader.read(account.key), reader.read(account.secret), rest_url)


def _rest_url_of_secret(account: "AccountSettings", reader: SecretReader) -> str:
    """The base URL that a secret may carry; paper where it carries none, and never a live one for a paper account."""
    value = reader.read_optional(account.rest_url)
    if value is None:
        return "https://paper-api.alpaca.markets"
    base = value.rstrip("/").removesuffix("/v2")
    if not base.startswith("https://") or (account.mode == "paper" and base == "https://api.alpaca.markets"):
        expected = f"the https:// base URL of a {account.mode} host; set rest_url and mode in exitguard.toml"
        raise SecretError(account.rest_url, redact(base[:80]), expected)
    return base


def database_url(database: "DatabaseSettings", reader: SecretReader | None = None) -> str:
    """The connection URL of an external database, secrets filled in. Not for the embedded server."""
    reader = SecretReader() if reader is None else reader

    def value(text: str | None) -> str:
        if text is None:
            raise ValueError("the database settings were not validated")
        return reader.read_open(text) if is_reference(text) else text

    if database.embedded_name is not None:
        raise ValueError("the embedded server makes its own URL")
    if database.url is not None:
        url = value(database.url)
        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise SecretError(
                database.url, "a text that is not a URL", "postgresql://user:password@host/name"
            ) from error
        if parts.scheme not in ("postgresql", "postgres"):
            raise SecretError(
                database.url, "a text that is not a PostgreSQL URL", "postgresql://user:password@host/name"
            )
        if parts.password is not None:
            remember_secret(unquote(parts.password))
        return url
    assert database.password is not None
    user, password = quote(value(database.username), safe=""), quote(reader.read(database.password), safe="")
    host, port, name = value(database.host), value(database.port), quote(value(database.name), safe="")
    return f"postgresql://{user}:{password}@{host}:{port}/{name}"
