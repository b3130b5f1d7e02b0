"""Identity of the build, and where files go."""

import json
import os
from pathlib import Path

import pytest

from exitguard.config.build import _identity, git_commit
from exitguard.config.paths import StateDirectoryError, ensure_state_dir, state_dir

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_state_directory_follows_the_environment(tmp_path: Path) -> None:
    assert state_dir({"EXITGUARD_STATE_DIR": str(tmp_path)}) == tmp_path
    assert state_dir({"XDG_STATE_HOME": "/x"}) == Path("/x/exitguard")
    assert state_dir({}) == Path.home() / ".local/state/exitguard"


def test_the_state_directory_is_created_private_and_proven_writable(tmp_path: Path) -> None:
    path = ensure_state_dir({"EXITGUARD_STATE_DIR": str(tmp_path / "a" / "b")})
    # Root's server runs as somebody else, who has to pass through.
    assert path.stat().st_mode & 0o777 == (0o711 if os.geteuid() == 0 else 0o700)
    assert list(path.iterdir()) == []
    tmp_path.chmod(0o755)
    ensure_state_dir({"EXITGUARD_STATE_DIR": str(tmp_path)})
    assert tmp_path.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("place", ["file", "below-file", "full"])
def test_a_state_directory_that_cannot_be_written_says_what_to_do(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    path = {"file": tmp_path / "file", "below-file": tmp_path / "file" / "x", "full": Path("/proc/exitguard")}[place]
    with pytest.raises(StateDirectoryError, match="set EXITGUARD_STATE_DIR to a folder that can be written"):
        ensure_state_dir({"EXITGUARD_STATE_DIR": str(path)})


def repository(tmp_path: Path) -> Path:
    git = tmp_path / ".git"
    git.mkdir()
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    return git


def test_f90_the_commit_is_read_without_git(tmp_path: Path) -> None:
    git = repository(tmp_path)
    assert git_commit(tmp_path) is None
    (git / "packed-refs").write_text(f"# pack-refs\n{COMMIT} refs/heads/main\n")
    assert git_commit(tmp_path) == COMMIT
    (git / "refs/heads").mkdir(parents=True)
    (git / "refs/heads/main").write_text("f" * 40 + "\n")
    assert git_commit(tmp_path) == "f" * 40
    (git / "HEAD").write_text(COMMIT + "\n")
    assert git_commit(tmp_path) == COMMIT


def test_a_linked_work_tree_is_followed(tmp_path: Path) -> None:
    git = repository(tmp_path)
    (git / "refs/heads").mkdir(parents=True)
    (git / "refs/heads/side").write_text(COMMIT)
    linked = git / "worktrees" / "w"
    linked.mkdir(parents=True)
    (linked / "HEAD").write_text("ref: refs/heads/side\n")
    (linked / "commondir").write_text("../..\n")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / ".git").write_text(f"gitdir: {linked}\n")
    assert git_commit(tree) == COMMIT


def test_no_repository_is_no_commit(tmp_path: Path) -> None:
    assert git_commit(tmp_path) is None


def test_f90_a_baked_file_speaks_for_an_image(tmp_path: Path) -> None:
    baked = tmp_path / "_build.json"
    baked.write_text(json.dumps({"git_commit": COMMIT, "build_time": "2026-01-02T03:04:05+00:00"}))
    commit, moment = _identity(tmp_path, baked)
    assert (commit, moment.isoformat()) == (COMMIT, "2026-01-02T03:04:05+00:00")


def test_a_source_tree_is_as_old_as_its_youngest_file(tmp_path: Path) -> None:
    package = tmp_path / "src" / "exitguard"
    package.mkdir(parents=True)
    for name, moment in (("a.py", 1000), ("b.sql", 2000), ("c.txt", 3000)):
        (package / name).write_text("")
        os.utime(package / name, (moment, moment))
    commit, moment_found = _identity(package, package / "_build.json")
    assert commit is None
    assert moment_found.timestamp() == 2000
