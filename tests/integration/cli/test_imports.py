"""F74: importing does nothing, and a quick question loads little."""

import subprocess
import sys

from tests.integration.cli.conftest import Program
from tests.support.waiting import PATIENCE

IMPORT_EVERYTHING = """
import importlib, os, pkgutil, sys, threading

import exitguard

forbidden = {"socket.connect", "socket.bind", "subprocess.Popen", "os.mkdir", "os.remove", "os.rename", "os.fork"}
names = [m.name for m in pkgutil.walk_packages(exitguard.__path__, "exitguard.")]
# Third-party modules may do at import what they like; what is ours may not, so they are loaded before.
for name in names:
    importlib.import_module(name)
for name in [n for n in sys.modules if n.split(".")[0] == "exitguard"]:
    del sys.modules[name]

broken = []

def watch(event, arguments):
    if event in forbidden:
        broken.append((event, arguments))
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        broken.append((event, arguments[:2]))

environment, threads = dict(os.environ), threading.active_count()
sys.addaudithook(watch)
for name in names:
    importlib.import_module(name)
assert not broken, broken
assert dict(os.environ) == environment
assert threading.active_count() == threads
import logging, structlog
assert not logging.getLogger().handlers
assert not structlog.is_configured()
print(len(names))
"""

QUICK = """
import sys
from exitguard.cli.main import main
assert main(["version", "--json"]) == 0
heavy = {"pydantic", "asyncpg", "psycopg", "alembic", "aiohttp", "structlog", "uvicorn"} & set(sys.modules)
assert not heavy, heavy
"""

LOOK = """
import sys
from exitguard.cli.main import main
assert main(["db", "query", "SELECT 1 AS one", "--json"]) == 0
assert main(["positions", "--json"]) == 0
heavy = {"alembic", "sqlalchemy", "psycopg", "aiohttp", "uvicorn"} & set(sys.modules)
assert not heavy, heavy
"""


def run(program: Program, code: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-B", "-c", code]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=program.folder, env=program.environment, timeout=PATIENCE
    )


def test_f74_f95_importing_every_module_has_no_effect(program: Program) -> None:
    done = run(program, IMPORT_EVERYTHING)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50
    assert list(program.state.iterdir()) == []


def test_version_is_answered_without_loading_the_rest(program: Program) -> None:
    done = run(program, QUICK)
    assert done.returncode == 0, done.stderr
    assert '"schema_version"' in done.stdout


def test_a_question_to_the_ledger_loads_no_migrations(program: Program, database_url: str) -> None:
    program.environment["DATABASE_URL"] = database_url
    done = run(program, LOOK)
    assert done.returncode == 0, done.stderr
    assert done.stdout == '[{"one":1}]\n[]\n'
