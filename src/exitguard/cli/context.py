"""What every command needs first: logs that work, and settings that hold."""

import os
from pathlib import Path

from exitguard.cli.exits import CommandFailed, Exit
from exitguard.cli.output import remark
from exitguard.config import logs
from exitguard.config.loading import load_settings
from exitguard.config.paths import demo_config_path
from exitguard.config.settings import AccountSettings, Settings


def quiet_logs() -> None:
    """Logs of a command that a person waits for: only what is wrong, readable, on stderr."""
    logs.setup("error", "console")


def load(config: Path | None) -> Settings:
    """Load the settings; says on stderr when they are those of the demo, and what looks mistaken."""
    settings = load_settings(config)
    if config is None and "EXITGUARD_CONFIG" not in os.environ and settings.path == demo_config_path():
        remark(f"exitguard: using the demo's settings: {settings.path} (its exchange stays only after demo --keep)")
    for warning in settings.warnings:
        remark(f"exitguard: warning: {warning}")
    return settings


def selected_accounts(settings: Settings, only: str | None) -> tuple[AccountSettings, ...]:
    """The accounts that a command is about: one by name, else all that this process may serve."""
    if only is not None:
        account = settings.account(only)
        if only not in settings.selected:
            raise CommandFailed(f"--account {only}, but ACCOUNT_NAME allows only {settings.selected[0]}", Exit.USAGE)
        return (account,)
    return settings.require_accounts()
