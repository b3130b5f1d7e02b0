"""Loads the settings: a pure function of a file and an environment, which collects every problem before it gives up.

Called by a command after logging is up, never at import (F74). The environment wins over the file, the file over
defaults.
"""

import hashlib
import os
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel, ValidationError

from exitguard.config.errors import ConfigError, Problem, did_you_mean, show
from exitguard.config.legacy import legacy_body
from exitguard.config.paths import demo_config_path
from exitguard.config.policies import read_policies
from exitguard.config.redaction import redact
from exitguard.config.settings import (
    ACCOUNT_NAME_PATTERN,
    EMBEDDED,
    AccountSettings,
    DatabaseSettings,
    Frozen,
    LogSettings,
    RiskSettings,
    RunMode,
    Settings,
    WatchSettings,
)
from exitguard.config.validation import problems_of
from exitguard.core.policy import policy_body

CONFIG_NAME = "exitguard.toml"
_LARGEST_FILE = 1_000_000
_SECTIONS = ("database", "accounts", "policies", "watch", "log")
_OUR_VARIABLES = ("EXITGUARD_CONFIG", "EXITGUARD_STATE_DIR", "EXITGUARD_LOG_LEVEL", "EXITGUARD_LOG_FORMAT")
# Variables that look like ours and are not read: a typing error here once ended a service after its first cycle (F77).
_LOOKALIKES = {"MODE": "RUN_MODE", "RUNMODE": "RUN_MODE", "ACCOUNT": "ACCOUNT_NAME", "DB_URL": "DATABASE_URL"}


class _Database(Frozen):
    database: DatabaseSettings


class _Log(Frozen):
    log: LogSettings


class _Watch(Frozen):
    watch: WatchSettings


def find_config(explicit: Path | None, environ: Mapping[str, str], folder: Path) -> tuple[Path | None, tuple[str, ...]]:
    """Find the settings file: given, EXITGUARD_CONFIG, ./exitguard.toml, the demo's. Also says where it looked.

    A file that somebody names must exist; loading it fails otherwise.
    """
    if explicit is not None:
        return explicit, (str(explicit),)
    if named := environ.get("EXITGUARD_CONFIG"):
        return Path(named).expanduser(), ("EXITGUARD_CONFIG",)
    candidates = (folder / CONFIG_NAME, demo_config_path(environ))
    found = next((path for path in candidates if path.is_file()), None)
    return found, ("EXITGUARD_CONFIG", *(str(path) for path in candidates))


def load_settings(
    explicit: Path | None = None, environ: Mapping[str, str] | None = None, folder: Path | None = None
) -> Settings:
    """Load and validate everything. Raises ConfigError with all problems.

    Without any file: the defaults of the deployments that came before us when AWS_REGION and ACCOUNT_NAME are set, else
    the embedded database and no account, which is enough for the commands that only read the ledger.
    """
    environ = os.environ if environ is None else environ
    path, searched = find_config(explicit, environ, Path.cwd() if folder is None else folder)
    account, problems = _account_of(environ)
    if path is not None:
        body, where = _read_file(path), str(path)
    elif environ.get("AWS_REGION") and account is not None:
        body, where = legacy_body(account), "defaults for AWS"
    else:
        body, where = {}, "settings"
    body, override_problems = _override(body, environ)
    problems += override_problems
    problems += [
        Problem(where, name, f"unknown key {name!r}", did_you_mean(name, _SECTIONS))
        for name in body
        if name not in _SECTIONS
    ]
    run_mode, mode_problems = _run_mode(environ)
    policies, policy_problems = read_policies(_table(body, "policies", where, problems), where)
    given = body.get("database", {"url": EMBEDDED})
    database = _section(
        _Database,
        "database",
        _absolute_files(given, path) if isinstance(given, dict) else given,
        DatabaseSettings,
        where,
        problems,
    )
    log = _section(_Log, "log", body.get("log", {}), LogSettings, where, problems)
    watch = _section(_Watch, "watch", body.get("watch", {}), WatchSettings, where, problems)
    accounts = _accounts(_table(body, "accounts", where, problems), where, path, problems)
    problems += mode_problems + policy_problems
    wanted = set(policies) | set(_table(body, "policies", where, []))
    problems += _relations(accounts, wanted, where)
    if account is not None and path is not None and account not in _table(body, "accounts", where, []):
        names = ", ".join(sorted(accounts)) or "none"
        problems.append(Problem("environment", "ACCOUNT_NAME", show(account), f"an account of {where}: {names}"))
    if problems:
        raise ConfigError(problems)
    assert isinstance(database, _Database)
    assert isinstance(log, _Log)
    assert isinstance(watch, _Watch)
    region = environ.get("AWS_REGION") or None
    selected = tuple(name for name in accounts if account in (None, name))
    effective = {
        "database": _plain(database.database),
        "accounts": {name: _plain(each) for name, each in accounts.items()},
        "policies": {name: policy_body(each) for name, each in policies.items()},
        "watch": _plain(watch.watch),
        "run_mode": run_mode.value,
        "selected": selected,
        "aws_region": region,
    }
    return Settings(
        path=path,
        database=database.database,
        accounts=accounts,
        policies=policies,
        log=log.log,
        watch=watch.watch,
        run_mode=run_mode,
        selected=selected,
        aws_region=region,
        config_hash=hashlib.sha256(orjson.dumps(effective, option=orjson.OPT_SORT_KEYS)).hexdigest(),
        searched=searched,
        warnings=tuple(_environment_warnings(environ)),
    )


def _read_file(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ConfigError([Problem(str(path), "", "more than 1 MB", "a settings file")])
        raw = path.read_bytes()
    except OSError as error:
        expected = "a settings file that can be read; write one with: exitguard init"
        raise ConfigError([Problem(str(path), "", error.strerror or str(error), expected)]) from error
    try:
        # Decimal, so that 0.1 means a tenth and not the nearest binary fraction.
        return tomllib.loads(raw.decode("utf-8"), parse_float=Decimal)
    except UnicodeDecodeError as error:
        raise ConfigError(
            [Problem(str(path), "", f"a byte that is not UTF-8 at {error.start}", "UTF-8 text")]
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([Problem(str(path), "", f"no TOML: {_one_line(error)}", "TOML (https://toml.io)")]) from error


def _one_line(error: Exception) -> str:
    return redact(" ".join(str(error).split()))[:200]


def _table(body: Mapping[str, Any], name: str, where: str, problems: list[Problem]) -> dict[str, Any]:
    value = body.get(name, {})
    if isinstance(value, dict):
        return value
    problems.append(Problem(where, name, show(value), f"a table, written [{name}.NAME]"))
    return {}


def _section(
    wrapper: type[_Database] | type[_Log] | type[_Watch],
    name: str,
    value: Any,
    model: type[Frozen],
    where: str,
    problems: list[Problem],
) -> BaseModel | None:
    try:
        return wrapper.model_validate_json(_json({name: value}), strict=True)
    except ValidationError as error:
        problems += problems_of(error, where, known={name: tuple(model.model_fields)})
        return None


def _accounts(
    tables: Mapping[str, Any], where: str, path: Path | None, problems: list[Problem]
) -> dict[str, AccountSettings]:
    known = {
        "": tuple(name for name in AccountSettings.model_fields if name != "name"),
        "risk": tuple(RiskSettings.model_fields),
    }
    accounts: dict[str, AccountSettings] = {}
    for name, table in tables.items():
        key = f"accounts.{name}"
        if ACCOUNT_NAME_PATTERN.fullmatch(name) is None:
            expected = "a name of up to 32 lower-case letters, digits, - and _"
            problems.append(Problem(where, key, show(name), expected))
            continue
        if not isinstance(table, dict):
            problems.append(Problem(where, key, show(table), "a table of account settings"))
            continue
        if "name" in table:
            problems.append(
                Problem(where, f"{key}.name", "unknown key 'name'", f"the name in the heading [{key}] only")
            )
        body = _absolute_files(table, path) | {"name": name}
        try:
            accounts[name] = AccountSettings.model_validate_json(_json(body), strict=True)
        except ValidationError as error:
            problems += problems_of(error, where, key, known)
    return accounts


def _absolute_files(table: Mapping[str, Any], path: Path | None) -> dict[str, Any]:
    """A relative path in a `file:` reference starts at the settings file, not where a command was typed."""
    body = dict(table)
    for name in ("key", "secret", "url", "password"):
        value = body.get(name)
        if path is not None and isinstance(value, str) and value.startswith("file:"):
            target = Path(value.removeprefix("file:")).expanduser()
            body[name] = f"file:{(path.absolute().parent / target)}"
    return body


def _relations(accounts: Mapping[str, AccountSettings], policies: set[str], where: str) -> list[Problem]:
    """What one account alone cannot show: policies that exist, and no two accounts behind one key (F27)."""
    problems = []
    keys: dict[str, str] = {}
    numbers: dict[str, str] = {}
    for name, account in accounts.items():
        named = {"policy": account.policy} | {f"policy_for.{key}": found for key, found in account.policy_for.items()}
        expected = f"one of the policies: {', '.join(sorted(policies))}"
        problems += [
            Problem(where, f"accounts.{name}.{key}", show(found), expected)
            for key, found in named.items()
            if found not in policies
        ]
        if (other := keys.setdefault(account.key, name)) != name:
            expected = f"a key of its own (accounts.{other} has this one)"
            problems.append(Problem(where, f"accounts.{name}.key", show(account.key), expected))
        if account.account_number is None:
            continue
        if (other := numbers.setdefault(account.account_number, name)) != name:
            expected = f"a number of its own (accounts.{other} has this one)"
            problems.append(Problem(where, f"accounts.{name}.account_number", show(account.account_number), expected))
    return problems


def _override(body: dict[str, Any], environ: Mapping[str, str]) -> tuple[dict[str, Any], list[Problem]]:
    """Put the environment over the file. A wrong value in the environment is reported as what it is."""
    problems: list[Problem] = []
    body = dict(body)
    if url := environ.get("DATABASE_URL"):
        try:
            DatabaseSettings.model_validate({"url": url})
            body["database"] = {"url": url}
        except ValidationError as error:
            expected = problems_of(error, "environment")[0].expected
            problems.append(Problem("environment", "DATABASE_URL", "[hidden]", expected))
    log = {
        key: environ[variable]
        for key, variable in (("level", "EXITGUARD_LOG_LEVEL"), ("format", "EXITGUARD_LOG_FORMAT"))
        if environ.get(variable)
    }
    for key, value in log.items():
        try:
            LogSettings.model_validate({key: value})
        except ValidationError as error:
            expected = problems_of(error, "environment")[0].expected
            problems.append(Problem("environment", f"EXITGUARD_LOG_{key.upper()}", show(value), expected))
    given = body.get("log", {})
    if log and not problems and isinstance(given, dict):
        body["log"] = {**given, **log}
    return body, problems


def _account_of(environ: Mapping[str, str]) -> tuple[str | None, list[Problem]]:
    """ACCOUNT_NAME, or ACCOUNT_TIER, which some deployments used for it; different values are refused (F78)."""
    name, tier = environ.get("ACCOUNT_NAME") or None, environ.get("ACCOUNT_TIER") or None
    if name is not None and tier is not None and name != tier:
        found = f"ACCOUNT_NAME={show(name)} and ACCOUNT_TIER={show(tier)}"
        return None, [Problem("environment", "ACCOUNT_NAME", found, "one account: set one of them, or both alike")]
    chosen = name if name is not None else tier
    if chosen is not None and ACCOUNT_NAME_PATTERN.fullmatch(chosen) is None:
        expected = "a name of up to 32 lower-case letters, digits, - and _"
        return None, [Problem("environment", "ACCOUNT_NAME", show(chosen), expected)]
    return chosen, []


def _run_mode(environ: Mapping[str, str]) -> tuple[RunMode, list[Problem]]:
    text = environ.get("RUN_MODE", RunMode.LOOP.value)
    try:
        return RunMode(text), []
    except ValueError:
        return RunMode.LOOP, [Problem("environment", "RUN_MODE", show(text), "LOOP or ONCE")]


def _environment_warnings(environ: Mapping[str, str]) -> list[str]:
    warnings = [
        f"environment variable {name} is not read; {right} is" for name, right in _LOOKALIKES.items() if name in environ
    ]
    for name in sorted(environ):
        if name.startswith("EXITGUARD_") and name not in _OUR_VARIABLES:
            warnings.append(f"environment variable {name} is not known: expected {did_you_mean(name, _OUR_VARIABLES)}")
    return warnings


def _plain(model: BaseModel) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(redact(model.model_dump_json()))
    return body


def _json(value: Any) -> bytes:
    return orjson.dumps(value, default=str)
