"""The machinery below the embedded server: its process, its files, its port."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg

from exitguard.store.embedded_place import EmbeddedServerError, Identity, StateDirectoryError, give_away
from exitguard.store.files import sync_folder, write_private

SUPERUSER = "exitguard_owner"
HOST = "127.0.0.1"
LOG_LIMIT = 8 * 1024 * 1024
POLL = 0.02

SETTINGS = """
# Written by exitguard. Ports and folders are given on the command line at each start.
listen_addresses = '127.0.0.1'
unix_socket_permissions = 0700
password_encryption = 'scram-sha-256'
max_connections = 120
shared_buffers = 48MB
io_method = sync
max_wal_size = 512MB
fsync = on
synchronous_commit = on
full_page_writes = on
jit = off
timezone = 'UTC'
log_timezone = 'UTC'
logging_collector = off
log_min_messages = warning
"""
ACCESS = """
# Written by exitguard: every login needs its password.
local all all scram-sha-256
host  all all 127.0.0.1/32 scram-sha-256
"""


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """A running server. `psql` is the wheel's client; `password_file` holds the password of `user`, mode 0600."""

    host: str
    port: int
    socket_dir: Path
    user: str
    password_file: Path
    data_dir: Path
    log_file: Path
    psql: Path
    pid: int

    def url(self, database: str, *, over_socket: bool = False) -> str:
        """Connection URL of a database, with the password in it."""
        password = quote(self.password_file.read_text().strip(), safe="")
        if over_socket:
            folder = quote(str(self.socket_dir), safe="")
            return f"postgresql://{self.user}:{password}@/{quote(database)}?host={folder}&port={self.port}"
        return f"postgresql://{self.user}:{password}@{self.host}:{self.port}/{quote(database)}"


def create_data_folder(root: Path, identity: Identity, binaries: Path, password: bytes) -> None:
    """Run initdb; `root/data` appears only when it is complete. Raises EmbeddedServerError."""
    fresh = root / f"initdb-{secrets.token_hex(4)}"
    fresh.mkdir(mode=0o700)
    password_copy = fresh / "password"
    write_private(password_copy, password)
    (fresh / "data").mkdir(mode=0o700)
    give_away(fresh, identity.initdb_uid, identity.initdb_gid)
    command = [
        *(str(binaries / "initdb"), "--pgdata", str(fresh / "data"), "--username", SUPERUSER),
        *("--auth", "scram-sha-256", "--pwfile", str(password_copy)),
        *("--encoding", "UTF8", "--locale", "C", "--no-instructions"),
    ]
    done = subprocess.run(  # noqa: S603 - our own binary, no shell
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=root,
        env=environment(),
        check=False,
        user=identity.initdb_uid,
        group=identity.initdb_gid,
        extra_groups=identity.extra_groups,
    )
    if done.returncode != 0:
        shutil.rmtree(fresh)
        raise explain(f"initdb failed in {root}", done.stdout.decode(errors="replace"))
    with (fresh / "data" / "postgresql.conf").open("a") as settings:
        settings.write(SETTINGS)
    (fresh / "data" / "pg_hba.conf").write_text(ACCESS)
    password_copy.unlink()
    give_away(fresh / "data", identity.uid, identity.gid)
    (fresh / "data").rename(root / "data")
    sync_folder(root)
    fresh.rmdir()


def launch(info: ServerInfo, identity: Identity, deadline: float) -> int | str:
    """Start the server and wait until it answers; returns its process, or its last words when it ended instead."""
    make_socket = not info.socket_dir.exists()
    if make_socket:
        info.socket_dir.mkdir(mode=0o700)
        give_away(info.socket_dir, identity.uid, identity.gid)
    _check_socket_folder(info.socket_dir, identity)
    # A killed server leaves these behind, and believes the process in them alive for as long as it is a zombie.
    for leftover in (f".s.PGSQL.{info.port}", f".s.PGSQL.{info.port}.lock"):
        (info.socket_dir / leftover).unlink(missing_ok=True)
    command = [
        *(str(info.psql.with_name("postgres")), "-D", str(info.data_dir), "-p", str(info.port)),
        *("-c", f"unix_socket_directories={info.socket_dir}"),
    ]
    log = os.open(info.log_file, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
    begin = os.fstat(log).st_size
    try:
        child = subprocess.Popen(  # noqa: S603 - our own binary, no shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=info.data_dir.parent,
            env=environment(),
            start_new_session=True,
            user=identity.uid,
            group=identity.gid,
            extra_groups=identity.extra_groups,
        )
    finally:
        os.close(log)
    while child.poll() is None:
        if answers(info):
            # The server may outlive its caller: Python must not complain about that when it drops `child`.
            child.returncode = 0
            return child.pid
        if time.monotonic() > deadline:
            child.send_signal(signal.SIGQUIT)
            child.wait()
            break
        time.sleep(POLL)
    with info.log_file.open("rb") as words:
        words.seek(begin)
        return words.read().decode(errors="replace") or f"exit code {child.returncode}"


def _check_socket_folder(folder: Path, identity: Identity) -> None:
    """A folder under the temp folder could have been put there by somebody else."""
    found = folder.lstat()
    owner = os.geteuid() if identity.uid is None else identity.uid
    if found.st_uid != owner or folder.is_symlink():
        raise EmbeddedServerError(f"the socket folder {folder} belongs to somebody else: remove it")


def environment() -> dict[str, str]:
    """A small environment: PGPORT and its relatives of the caller must not leak into the server."""
    return {"PATH": os.defpath, "LANG": "C", "LC_ALL": "C", "TZ": "UTC"}


def free_port() -> int:
    """A TCP port on loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def port_is_free(port: int) -> bool:
    """Whether nobody listens on the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def postmaster(data: Path) -> tuple[int, int, Path] | None:
    """Process, port and socket folder of the server that runs on `data`, if one does.

    A pid file that survived its server can name a process that is somebody else's by now; only a process that works
    in the data folder counts. Port 0 means that the server has not written its pid file to the end yet.
    """
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
        pid = int(lines[0])
    except (FileNotFoundError, IndexError, ValueError):
        return None
    if not works_in(pid, data):
        return None
    complete = len(lines) >= 5 and lines[3].strip().isdigit()
    return (pid, int(lines[3]), Path(lines[4].strip())) if complete else (pid, 0, data)


def works_in(pid: int, data: Path) -> bool:
    """Whether the process lives and is a server of this data folder."""
    if pid <= 0:
        return False
    if Path("/proc/self").exists():
        try:
            return Path(os.readlink(f"/proc/{pid}/cwd")) == data.resolve()
        except OSError:
            # Gone, a zombie, or a process of somebody else, which the server of our own identity never is.
            return False
    listing = subprocess.run(  # noqa: S603 - fixed command, no shell
        ["/bin/ps", "-p", str(pid), "-o", "command="], capture_output=True, text=True, check=False
    )
    return str(data) in listing.stdout


def answers(info: ServerInfo) -> bool:
    """Whether our server, and not another one on the same port, accepts our password."""
    try:
        with psycopg.connect(info.url("postgres", over_socket=True), connect_timeout=2, autocommit=True) as connection:
            row = connection.execute("SHOW data_directory").fetchone()
    except psycopg.OperationalError:
        return False
    return row is not None and Path(row[0]) == info.data_dir


def shorten(log_file: Path) -> None:
    """Start a new log file when the old one has grown large; one old one is kept."""
    if log_file.exists() and log_file.stat().st_size > LOG_LIMIT:
        log_file.replace(log_file.with_suffix(".log.1"))


def explain(what: str, words: str) -> EmbeddedServerError:
    """Turn the last words of a PostgreSQL program into an error that says what to do."""
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    if "No space left on device" in words or "Disk quota exceeded" in words:
        return StateDirectoryError(f"{what}: the disk is full, free some space")
    told = [line for line in lines if "FATAL" in line or "error" in line.lower()] or lines
    return EmbeddedServerError(f"{what}: {' | '.join(told[-3:])[:600] or 'it said nothing'}")
