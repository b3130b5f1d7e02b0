"""`exitguard audit`."""

from cyclopts import App

from exitguard.cli.context import load, quiet_logs
from exitguard.cli.database import ask
from exitguard.cli.exits import CommandFailed, Exit
from exitguard.cli.output import AccountName, ConfigFile, Json, emit, emit_json, remark
from exitguard.store.audit import AccountAudit, Finding, audit_account, audit_accounts
from exitguard.store.operator import Operator

app = App(name="audit", help="Prove that nobody changed the ledger: verify.", version_flags=[])

# A table that was emptied has as many findings as it had rows; a person needs the first of them.
_MOST_SHOWN = 50


@app.command
def verify(*, account: AccountName = None, config: ConfigFile = None, json: Json = False) -> int:
    """Check every account's events and derive its tables from them again. Exit 1 when anything does not match.

    Sequence and hash chain are computed here and not by the database. Managers may run meanwhile. Keep the head that
    is printed in another place: it proves later that nobody rewrote the events up to there.
    """
    quiet_logs()
    audits = ask(load(config), lambda operator: _verify(operator, account))
    if json:
        emit_json(
            {
                "verified": all(each.verified for each in audits),
                "accounts": {each.account_name: each.body() for each in audits},
            }
        )
    elif not audits:
        remark("the ledger has no account yet: nothing to verify")
    else:
        emit("\n\n".join(_render(each) for each in audits))
    return Exit.OK if all(each.verified for each in audits) else Exit.WRONG


async def _verify(operator: Operator, only: str | None) -> list[AccountAudit]:
    names = await audit_accounts(operator)
    if only is not None and only not in names:
        known = ", ".join(names) or "none"
        raise CommandFailed(f"the ledger has no account {only!r}; it has: {known}", Exit.USAGE)
    return [await audit_account(operator, name) for name in names if only is None or name == only]


def _render(audit: AccountAudit) -> str:
    rows = ", ".join(f"{table} {count}" for table, count in audit.rows.items() if count)
    lines = [
        f"{audit.account_name.capitalize()} Account:",
        f"  Events: {audit.events}, head {audit.head_hash or '-'}",
        f"  Rows: {rows or 'none'}",
        f"  Result: {'verified' if audit.verified else f'{len(audit.findings)} findings'}",
    ]
    if audit.uncovered:
        lines.append(f"  Not covered: {audit.uncovered} rows from before events carried what they changed")
    for finding in audit.findings[:_MOST_SHOWN]:
        lines += _lines(finding)
    if len(audit.findings) > _MOST_SHOWN:
        lines.append(f"  and {len(audit.findings) - _MOST_SHOWN} more: see --json")
    for kind, advice in {finding.kind: finding.advice for finding in audit.findings}.items():
        lines.append(f"  What to do ({kind}): {advice}")
    return "\n".join(lines)


def _lines(finding: Finding) -> list[str]:
    place = f"{finding.table} {finding.row}" + (f", {finding.field}" if finding.field else "")
    return [
        f"  {finding.kind.upper()} {place}: {finding.text}",
        f"    expected: {finding.expected if finding.expected is not None else 'no row'}",
        f"    found:    {finding.found if finding.found is not None else 'no row'}",
    ]
