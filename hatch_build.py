"""Writes `_build.json` (commit, build time) into wheels. A source tree answers for itself and gets none."""

import json
import os
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class BuildIdentity(BuildHookInterface):  # type: ignore[type-arg]
    """Hatchling calls this before it packs a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the file to the wheel; editable installs read the repository instead."""
        if version == "editable":
            return
        # SOURCE_DATE_EPOCH makes a build repeatable, byte for byte.
        epoch = os.environ.get("SOURCE_DATE_EPOCH")
        moment = datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)
        body = {"git_commit": self._commit(), "build_time": moment.isoformat(timespec="seconds")}
        folder = Path(tempfile.mkdtemp(prefix="exitguard-build-"))
        target = folder / "_build.json"
        target.write_text(json.dumps(body, sort_keys=True), encoding="utf-8")
        build_data["force_include"][str(target)] = "exitguard/_build.json"

    def _commit(self) -> str | None:
        if commit := os.environ.get("GIT_COMMIT"):
            return commit
        command = ["git", "-C", self.root, "rev-parse", "HEAD"]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)  # noqa: S603
        except (OSError, subprocess.SubprocessError):
            return None  # no git, or no repository: the wheel says that its commit is unknown
        return answer.stdout.strip() or None
