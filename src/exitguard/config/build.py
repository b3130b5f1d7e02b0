"""Which code is running: version, commit, build time and the schema version that it needs (F90)."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from exitguard import __version__

_PACKAGE = Path(__file__).resolve().parent.parent
# Written into a wheel when it is built (see hatch_build.py); absent in a source tree, which says for itself.
_BAKED = _PACKAGE / "_build.json"


@dataclass(frozen=True, slots=True)
class BuildInfo:
    """Identity of the running code. `git_commit` is None where neither a baked file nor a repository tells it."""

    version: str
    git_commit: str | None
    build_time: datetime
    schema_version: int

    @property
    def label(self) -> str:
        """Version and short commit, as shown in logs and heartbeats."""
        return f"{self.version}+{self.git_commit[:12]}" if self.git_commit else self.version


@lru_cache(maxsize=1)
def build_info() -> BuildInfo:
    """Describe the running code; the answer of the first call stays, as the running code does."""
    commit, build_time = _identity(_PACKAGE, _BAKED)
    return BuildInfo(__version__, commit, build_time, _schema_version(_PACKAGE))


def _schema_version(package: Path) -> int:
    """The number of the last migration, read from its file name: this room does not import the store."""
    files = sorted((package / "store" / "migrations").glob("[0-9][0-9][0-9][0-9]_*.sql"))
    return int(files[-1].name[:4]) if files else 0


def _identity(package: Path, baked: Path) -> tuple[str | None, datetime]:
    if baked.is_file():
        body = json.loads(baked.read_text(encoding="utf-8"))
        return body["git_commit"], datetime.fromisoformat(body["build_time"])
    # In a source tree the code is as old as its youngest file.
    newest = max((path.stat().st_mtime for path in package.rglob("*") if path.suffix in (".py", ".sql")), default=0.0)
    repository = package.parent.parent
    commit = git_commit(repository) if (repository / "pyproject.toml").is_file() else None
    return commit, datetime.fromtimestamp(int(newest), UTC)


def git_commit(repository: Path) -> str | None:
    """Read the commit that is checked out in `repository` without running git; None when there is none."""
    git = repository / ".git"
    if git.is_file():  # a linked work tree: the file names the real folder
        git = (repository / git.read_text(encoding="utf-8").removeprefix("gitdir:").strip()).resolve()
    head = git / "HEAD"
    if not head.is_file():
        return None
    text = head.read_text(encoding="utf-8").strip()
    if not text.startswith("ref:"):
        return text or None
    name = text.removeprefix("ref:").strip()
    common_file = git / "commondir"
    common = (git / common_file.read_text(encoding="utf-8").strip()).resolve() if common_file.is_file() else git
    for folder in (git, common):
        loose = folder / name
        if loose.is_file():
            return loose.read_text(encoding="utf-8").strip() or None
    packed = common / "packed-refs"
    if packed.is_file():
        for line in packed.read_text(encoding="utf-8").splitlines():
            commit, _, ref = line.partition(" ")
            if ref == name:
                return commit
    return None
