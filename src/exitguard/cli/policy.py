"""`exitguard policy`: the effective numbers of the exit policies, and the page in docs/ that is made from them."""

import difflib
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from exitguard.cli.context import load, quiet_logs
from exitguard.cli.exits import CommandFailed, Exit
from exitguard.cli.output import ConfigFile, Json, emit, emit_json, emit_table
from exitguard.cli.policy_page import policy_page
from exitguard.config.errors import did_you_mean
from exitguard.core.policy import DEFAULT_POLICY, policy_body, policy_hash


def policy(
    name: Annotated[str | None, Parameter(help="Only this policy.")] = None,
    /,
    *,
    docs: Annotated[Path | None, Parameter(help="Write the page about the default policy to this file.")] = None,
    check: Annotated[Path | None, Parameter(help="Exit 1 when this file is not what --docs would write.")] = None,
    config: ConfigFile = None,
    json: Json = False,
) -> int:
    """Show the effective numbers of the exit policies: the specification's, overridden by the settings file."""
    quiet_logs()
    if docs is not None:
        return _write(docs)
    if check is not None:
        return _check(check)
    policies = load(config).policies
    if name is not None and name not in policies:
        raise CommandFailed(f"no policy {name!r}; expected {did_you_mean(name, policies)}", Exit.USAGE)
    chosen = {key: each for key, each in policies.items() if name in (None, key)}
    if json:
        emit_json({key: {"hash": policy_hash(each), **policy_body(each)} for key, each in chosen.items()})
        return Exit.OK
    standard = _flat(policy_body(DEFAULT_POLICY))
    for key, each in chosen.items():
        emit(f"{key} ({policy_hash(each)})")
        numbers = _flat(policy_body(each)).items()
        emit_table(
            ("number", "value", "default"),
            ((n, v, "" if standard.get(n) == v else standard.get(n, "-")) for n, v in numbers if n != "name"),
        )
    return Exit.OK


def _flat(body: Any, prefix: str = "") -> dict[str, str]:
    """Nested numbers as dotted names, in the order of the policy."""
    if isinstance(body, dict):
        members = [(f"{prefix}.{key}" if prefix else key, value) for key, value in body.items()]
    elif isinstance(body, list):
        members = [(f"{prefix}[{index}]", value) for index, value in enumerate(body)]
    else:
        return {prefix: "off" if body is None else str(body).lower() if isinstance(body, bool) else str(body)}
    return {name: text for key, value in members for name, text in _flat(value, key).items()}


def _write(path: Path) -> int:
    try:
        path.write_text(policy_page(), encoding="utf-8")
    except OSError as error:
        raise CommandFailed(f"cannot write {path}: {error.strerror or error}", Exit.CANNOT_WRITE) from error
    emit(f"wrote {path}")
    return Exit.OK


def _check(path: Path) -> int:
    try:
        found = path.read_text(encoding="utf-8")
    except OSError as error:
        raise CommandFailed(f"cannot read {path}: {error.strerror or error}") from error
    if found == policy_page():
        return Exit.OK
    changes = difflib.unified_diff(found.splitlines(), policy_page().splitlines(), str(path), "effective", lineterm="")
    emit("\n".join(changes))
    raise CommandFailed(f"{path} is not what the code does; write it again: exitguard policy --docs {path}")
