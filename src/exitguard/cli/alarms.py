"""`exitguard alarms`: every alarm there is, its threshold here, and what a person does about it."""

import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from exitguard.cli.context import load, quiet_logs
from exitguard.cli.database import ask, require_account
from exitguard.cli.exits import Exit
from exitguard.cli.marked_block import write_block
from exitguard.cli.output import AccountName, ConfigFile, Json, emit, emit_json, emit_table
from exitguard.config.settings import Settings, WatchSettings
from exitguard.core.policy import DEFAULT_POLICY, Policy
from exitguard.manager.alarm_list import ALARM_KINDS, AlarmKind
from exitguard.store.operator import Operator

BLOCK, COMMAND = "alarms", "exitguard alarms --docs docs/operations.md"


def alarms(
    *,
    account: AccountName = None,
    docs: Annotated[Path | None, Parameter(help="Write the list of all alarms into this document.")] = None,
    config: ConfigFile = None,
    json: Json = False,
) -> int:
    """List every kind of alarm with its threshold and its remedy, and those that are on. Exit 1 when any is on."""
    quiet_logs()
    if docs is not None:
        write_block(docs, BLOCK, COMMAND, alarm_table())
        emit(f"wrote {docs}")
        return Exit.OK
    settings = load(config)

    async def listed(operator: Operator) -> list[dict[str, Any]]:
        await require_account(operator, settings, account)
        return [row for row in await operator.alarms() if account in (None, row["account_name"])]

    found = ask(settings, listed)
    body = [
        {
            "kind": each.kind,
            "key": each.key,
            "when": each.when,
            "do": _plain(each.do),
            "threshold": each.threshold,
            "values": _values(each, settings),
        }
        for each in ALARM_KINDS
    ]
    if json:
        emit_json({"on": found, "kinds": body})
    else:
        _print(found, body)
    return Exit.WRONG if found else Exit.OK


def _print(found: list[Any], body: list[dict[str, Any]]) -> None:
    remedies = {each["kind"]: each["do"] for each in body}
    emit(f"alarms that are on: {len(found)}" if found else "no alarm is on")
    for row in found:
        emit(f"  - {row['account_name']}: {row['kind']}: {row['message']}")
    for kind in Counter(row["kind"] for row in found):
        emit(f"  {kind}: {remedies.get(kind, 'see the message')}")
    emit("")
    rows = (
        (each["key"] if each["key"].startswith(f"{each['kind']}:") else each["kind"], _shown(each), each["when"])
        for each in body
    )
    emit_table(("alarm", "threshold", "when"), rows)


def _shown(each: dict[str, Any]) -> str:
    values = dict.fromkeys(each["values"].values())
    return " or ".join(values) or "at once"


def _values(alarm: AlarmKind, settings: Settings) -> dict[str, str]:
    """The threshold by the table of the settings that states it."""
    if alarm.threshold is None:
        return {}
    if alarm.threshold.startswith("watch."):
        return {"watch": _value(alarm.threshold, settings.watch, DEFAULT_POLICY)}
    return {
        f"policies.{name}": _value(alarm.threshold, settings.watch, policy)
        for name, policy in settings.policies.items()
    }


def _value(threshold: str, watch: WatchSettings, policy: Policy) -> str:
    """A threshold with its unit. Raises AttributeError for a setting that does not exist."""
    table, *names = threshold.split(".")
    value: Any = {"watch": watch, "policy": policy}[table]
    for name in names:
        value = getattr(value, name)
    return f"{value} s" if names[-1].endswith("_seconds") else f"{value}"


def alarm_table() -> str:
    """The list of all alarms with the default thresholds, in Markdown."""
    lines = ["| alarm | key | raised when | threshold (default) | what to do |", "|---|---|---|---|---|"]
    for each in ALARM_KINDS:
        threshold = "at once"
        if each.threshold is not None:
            value = _value(each.threshold, WatchSettings(), DEFAULT_POLICY)
            threshold = f"`{each.threshold.replace('policy.', 'policies.NAME.')}` ({value})"
        lines.append(f"| `{each.kind}` | `{each.key}` | {each.when} | {threshold} | {each.do} |")
    return "\n".join(lines)


def _plain(markdown: str) -> str:
    return re.sub("`", "", markdown)
