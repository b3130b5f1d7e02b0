"""The settings of a deployment: frozen, complete, without secrets, and with no permissive default.

Shape of `exitguard.toml`. Every class forbids unknown keys. Numbers are exact decimals; wrong types are errors, never
converted by guess (F10, F73, F84).
"""

import hashlib
import re
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from exitguard.config.errors import ConfigError, Problem
from exitguard.config.secrets import REFERENCE_FORMS, is_reference
from exitguard.core.instrument import Instrument
from exitguard.core.policy import Policy, policy_hash

ACCOUNT_NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_DATABASE_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
EMBEDDED = "embedded"
DEFAULT_DATABASE = "exitguard"


class RunMode(StrEnum):
    """LOOP runs until it is stopped; ONCE does one cycle and ends."""

    LOOP = "LOOP"
    ONCE = "ONCE"


def _reference(value: str) -> str:
    if not is_reference(value):
        raise ValueError(f"a secret reference ({REFERENCE_FORMS}), never the secret itself")
    return value


def _web_url(value: str) -> str:
    if value.startswith("aws-sm:") and is_reference(value):
        return value
    return _url(value, "https", "http")


def _socket_url(value: str) -> str:
    return _url(value, "wss", "ws")


def _url(value: str, secure: str, plain: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in (secure, plain) or not parts.hostname:
        raise ValueError(f"a URL that starts with {secure}:// (or {plain}:// for this machine)")
    if parts.username or parts.password:
        raise ValueError("a URL without a user name and password in it")
    if parts.scheme == plain and parts.hostname not in _LOOPBACK:
        raise ValueError(f"{secure}://, because {plain}:// would send the keys in clear text over the network")
    return value.rstrip("/")


def _rest_url(value: str) -> str:
    value = _web_url(value)
    if value.endswith("/v2"):
        raise ValueError("the base URL without /v2 at its end")
    return value


def _database_url(value: str) -> str:
    if is_reference(value) or value == EMBEDDED:
        return value
    if value.startswith(f"{EMBEDDED}:"):
        if _DATABASE_NAME.fullmatch(value.removeprefix(f"{EMBEDDED}:")) is None:
            raise ValueError("embedded:NAME with a name of lower-case letters, digits and underscores")
        return value
    if urlsplit(value).scheme not in ("postgresql", "postgres"):
        raise ValueError(f"embedded, embedded:NAME, postgresql://… or a secret reference ({REFERENCE_FORMS})")
    return value


SecretReference = Annotated[str, AfterValidator(_reference)]
SocketUrl = Annotated[str, AfterValidator(_socket_url)]
Share = Annotated[Decimal, Field(gt=0, le=1)]


class Frozen(BaseModel):
    """A table of the settings file: immutable, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DatabaseSettings(Frozen):
    """Where the ledger is: one URL, or its parts (each a value or a secret reference), as deployments on AWS have."""

    url: Annotated[str, AfterValidator(_database_url)] | None = None
    host: str | None = None
    port: str | None = None
    name: str | None = None
    username: str | None = None
    password: SecretReference | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "DatabaseSettings":
        parts = {name: getattr(self, name) for name in ("host", "port", "name", "username", "password")}
        given = [name for name, value in parts.items() if value is not None]
        if self.url is not None and given:
            raise ValueError(f"either url or its parts, not both (also given: {', '.join(given)})")
        missing = [name for name, value in parts.items() if value is None]
        if self.url is None and missing:
            raise ValueError(f"url, or all parts of it (missing: {', '.join(missing)})")
        return self

    @property
    def embedded_name(self) -> str | None:
        """Name of the database in the embedded server; None when the database is elsewhere."""
        if self.url == EMBEDDED:
            return DEFAULT_DATABASE
        if self.url is not None and self.url.startswith(f"{EMBEDDED}:"):
            return self.url.removeprefix(f"{EMBEDDED}:")
        return None


class RiskSettings(Frozen):
    """Limits of one account's dispatcher, as shares of equity. All required: nothing is allowed by default."""

    max_position_fraction: Share
    max_open_positions: Annotated[int, Field(ge=1, le=100_000)]
    max_total_exposure_fraction: Annotated[Decimal, Field(gt=0, le=4)]
    allow_short: bool
    allow_options: bool

    @model_validator(mode="after")
    def _ordered(self) -> "RiskSettings":
        if self.max_position_fraction > self.max_total_exposure_fraction:
            raise ValueError(
                f"max_position_fraction ({self.max_position_fraction}) must not exceed"
                f" max_total_exposure_fraction ({self.max_total_exposure_fraction})"
            )
        return self


class AccountSettings(Frozen):
    """One brokerage account. `key` and `secret` stay references; an account without `risk` opens no positions."""

    name: str
    tier: Annotated[str, Field(min_length=1, max_length=64)]
    mode: Literal["paper", "live"]
    rest_url: Annotated[str, AfterValidator(_rest_url)]
    trade_stream_url: SocketUrl
    data_url: Annotated[str, AfterValidator(_web_url)]
    stock_stream_url: SocketUrl
    option_stream_url: SocketUrl
    key: SecretReference
    secret: SecretReference
    account_number: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    policy: str = "default"
    policy_for: dict[Annotated[str, Field(min_length=1, max_length=80)], str] = Field(default_factory=dict)
    clock: Literal["real", "stepped"] = "real"
    requests_per_minute: Annotated[int, Field(ge=10, le=100_000)] = 200
    lease_seconds: Annotated[int, Field(ge=2, le=300)] = 15
    risk: RiskSettings | None = None

    @model_validator(mode="after")
    def _possible(self) -> "AccountSettings":
        hosts = {urlsplit(url).hostname or "" for url in (self.rest_url, self.trade_stream_url) if "://" in url}
        for host in hosts:
            if self.mode == "paper" and host == "api.alpaca.markets":
                raise ValueError("mode = 'paper' with a paper host, but api.alpaca.markets trades real money")
            if self.mode == "live" and host == "paper-api.alpaca.markets":
                raise ValueError(f"mode = 'live' with a live host, but {host} trades no real money")
        if self.clock == "stepped" and self.mode == "live":
            raise ValueError("clock = 'real' for an account that trades real money")
        if self.key == self.secret:
            raise ValueError("key and secret to be different references")
        return self


class WatchSettings(Frozen):
    """When the process itself is an alarm, and where it shows its health. Ages are seconds of venue time.

    `listen` is HOST:PORT of the health endpoint; without it there is none, and port 0 takes a free one. It asks for no
    password: on an address that others reach, they read account numbers and counts. `start_silence_seconds` is of the
    machine's clock: an account that is still starting after it is not managed.
    """

    listen: Annotated[str, Field(pattern=r"^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}$")] | None = None
    start_silence_seconds: Annotated[int, Field(ge=30, le=3600)] = 180
    sweep_silence_seconds: Annotated[int, Field(ge=121, le=3600)] = 150
    poll_silence_seconds: Annotated[int, Field(ge=15, le=3600)] = 60
    ledger_silence_seconds: Annotated[int, Field(ge=121, le=3600)] = 150
    stale_position_seconds: Annotated[int, Field(ge=121, le=3600)] = 300
    creations_a_minute: Annotated[int, Field(ge=1, le=100_000)] = 30
    clock_skew_seconds: Annotated[Decimal, Field(gt=0, le=60)] = Decimal(2)


class LogSettings(Frozen):
    """How a process logs. Logs go to stderr; stdout belongs to results."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "json"


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a process runs by. `selected` are the accounts that this process is to serve, in the file's order.

    `config_hash` changes with any effective setting and holds no secret value. `path` is None without a file.
    `warnings` are things that a person should know but that stop nothing.
    """

    path: Path | None
    database: DatabaseSettings
    accounts: dict[str, AccountSettings]
    policies: dict[str, Policy]
    log: LogSettings
    run_mode: RunMode
    selected: tuple[str, ...]
    aws_region: str | None
    config_hash: str
    watch: WatchSettings = field(default_factory=WatchSettings)
    searched: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default=())

    def account(self, name: str) -> AccountSettings:
        """One account. Raises ConfigError when there is none of that name."""
        if name not in self.accounts:
            names = ", ".join(sorted(self.accounts)) or "none"
            raise ConfigError([Problem(self.source, "accounts", f"no account {name!r}", f"one of: {names}")])
        return self.accounts[name]

    def policy_of(self, account: AccountSettings) -> Policy:
        """The policy that an account trades by where `policy_for` does not say otherwise."""
        return self.policies[account.policy]

    def policies_of(self, account: AccountSettings) -> tuple[Policy, ...]:
        """Every policy that some position of an account may be under, the account's own first."""
        names = dict.fromkeys([account.policy, *account.policy_for.values()])
        return tuple(self.policies[name] for name in names)

    def policies_hash(self, account: AccountSettings) -> str:
        """Twelve hex digits that change with any number that may decide an exit of this account."""
        hashes = sorted(policy_hash(policy) for policy in self.policies_of(account))
        return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()[:12]

    def select_policy(self, account: AccountSettings, strategy: str, instrument: Instrument) -> Policy:
        """The policy of one position. The most specific of `policy_for` wins: strategy/kind, strategy, kind."""
        kind = "option" if instrument.is_option else "stock"
        for key in (f"{strategy}/{kind}", strategy, kind):
            if key in account.policy_for:
                return self.policies[account.policy_for[key]]
        return self.policies[account.policy]

    @property
    def source(self) -> str:
        """What to call the place that these settings came from."""
        return str(self.path) if self.path is not None else "settings"

    def require_accounts(self) -> tuple[AccountSettings, ...]:
        """The accounts to serve. Raises ConfigError with what to do when there are none."""
        if not self.accounts:
            if self.path is None:
                looked = ", ".join(self.searched)
                found = f"no configuration file (looked for {looked})"
                raise ConfigError([Problem("settings", "", found, "one; write it with: exitguard init")])
            raise ConfigError([Problem(self.source, "accounts", "nothing", "at least one [accounts.NAME] table")])
        return tuple(self.accounts[name] for name in self.selected)
