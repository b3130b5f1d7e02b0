"""Asks a person once more before something is changed."""

import sys

from exitguard.cli.exits import CommandFailed, Exit


def confirm(what: str, *, yes: bool) -> None:
    """Return when a person agrees to `what`, by `--yes` or at the terminal; raise CommandFailed otherwise.

    A script that forgot `--yes` gets exit code 2, a person who says no gets 1; nothing was done in either case.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandFailed(
            f"{what}: nobody is at the terminal to confirm it; add --yes, or see it with --dry-run", Exit.USAGE
        )
    sys.stderr.write(f"{what}? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise CommandFailed("nothing was done")
