"""Where exitguard keeps its own files. Nothing outside the state directory is ever written or re-permissioned."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from exitguard.core.errors import ExitguardError


class StateDirectoryError(ExitguardError):
    """The state directory cannot be created or written (exit code 73)."""


def state_dir(environ: Mapping[str, str] | None = None) -> Path:
    """The state directory: EXITGUARD_STATE_DIR, else XDG_STATE_HOME/exitguard, else ~/.local/state/exitguard."""
    environ = os.environ if environ is None else environ
    if chosen := environ.get("EXITGUARD_STATE_DIR"):
        return Path(chosen).expanduser().absolute()
    if base := environ.get("XDG_STATE_HOME"):
        return Path(base).expanduser().absolute() / "exitguard"
    return Path.home() / ".local" / "state" / "exitguard"


def demo_config_path(environ: Mapping[str, str] | None = None) -> Path:
    """Where `exitguard demo` leaves the configuration that it ran with."""
    return state_dir(environ) / "demo" / "exitguard.toml"


def ensure_state_dir(environ: Mapping[str, str] | None = None) -> Path:
    """Create the state directory (closed to others when it is new) and prove that it can be written.

    Raises StateDirectoryError with what to do: it is called before anything else is started.
    """
    path = state_dir(environ)
    # The embedded server of root runs as somebody else, who has to pass through; the folders inside are private.
    mode = 0o711 if os.geteuid() == 0 else 0o700
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
        # A real write, because permission bits say nothing about full disks, and nothing at all to root.
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b"\0" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StateDirectoryError(
            f"cannot write the state directory {path}: {error.strerror or error};"
            " make room or allow it, or set EXITGUARD_STATE_DIR to a folder that can be written"
        ) from error
    return path
