"""Writes the demo's settings file and keys, so that every other command works on the demo afterwards."""

from datetime import date, datetime, timedelta
from pathlib import Path

from exitguard.cli.account_section import account_section, write_keys
from exitguard.cli.demo.venue import Addresses
from exitguard.core.session import NEW_YORK, Session
from exitguard.store.files import write_private

_LEAVE_BEFORE_CLOSE = timedelta(hours=2)
# What a policy allows.
_LONGEST_HOURS = 240

_RISK = {
    "large": 'max_position_fraction = "0.06"\nmax_open_positions = 40\nmax_total_exposure_fraction = "1.8"\n'
    "allow_short = true\nallow_options = true",
    "tiny": 'max_position_fraction = "0.30"\nmax_open_positions = 6\nmax_total_exposure_fraction = "1.0"\n'
    "allow_short = true\nallow_options = true",
}

_POLICY = """
# Tighter than the default, so that one day shows every rule.
[policies.demo]
min_hold_minutes = 10
max_hold_minutes = 240
trailing_stop = true
trail_steps = [
  {{ from_percent = 15, keep_percent = 50 }},
  {{ from_percent = 30, keep_percent = 65 }},
  {{ from_percent = 50, keep_percent = 80 }},
]
profit_scaling = true
profit_scaling_percent = 25
expiration_hours = {expiration_hours}

[policies.demo.stocks]
stop_loss_percent = -1.5
take_profit_percent = 2

[policies.demo.options]
stop_loss_percent = -22
take_profit_percent = 45
catastrophic_stop_percent = -30
"""


def expiration_hours(session: Session, near: date) -> int:
    """Hours before the close of the nearest expiry at which the policy gets out: two hours before today's close."""
    expires = datetime(near.year, near.month, near.day, 16, 0, tzinfo=NEW_YORK)
    leave = session.close - _LEAVE_BEFORE_CLOSE
    return max(1, min(_LONGEST_HOURS, round((expires - leave).total_seconds() / 3600)))


def settings_text(addresses: Addresses, database: str, hours: int) -> str:
    """The settings file's text; `database` is an embedded database or a reference, never an address with a password."""
    parts = [f'# Written by `exitguard demo`; overwritten by the next one.\n[database]\nurl = "{database}"\n']
    for name, credential in addresses.accounts.items():
        parts.append(
            account_section(
                name,
                addresses,
                key=f"file:{name}.key",
                secret=f"file:{name}.secret",
                account_number=credential.account_number,
                policy="demo",
                clock="stepped",
            )
        )
        parts.append(f"\n[accounts.{name}.risk]\n{_RISK[name]}\n")
    parts.append(_POLICY.format(expiration_hours=hours))
    parts.append('\n[log]\nlevel = "info"\nformat = "json"\n')
    return "".join(parts)


def write_settings(folder: Path, addresses: Addresses, database: str, hours: int) -> Path:
    """Write `exitguard.toml` and the key files beside it, readable by nobody else; returns the file."""
    for name, credential in addresses.accounts.items():
        write_keys(folder, name, credential)
    path = folder / "exitguard.toml"
    write_private(path, settings_text(addresses, database, hours).encode())
    return path
