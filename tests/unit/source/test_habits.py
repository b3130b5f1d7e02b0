"""Failures that came from how the predecessor was written and packed: its source could show them, so ours is read."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[3]
SOURCE = ROOT / "src" / "exitguard"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# What stands in each of these is the end of a process of its own: the program, and a benchmark's child.
ENTRY_POINTS = {"cli/main.py", "cli/bench/probed.py", "cli/crashes/victim.py"}


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(SOURCE.rglob("*.py")):
        yield path.relative_to(SOURCE).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def distribution(requirement: str) -> str:
    """The name in front of extras and versions, in its normal form."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None, requirement
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def is_broad(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(isinstance(kind, ast.Name) and kind.id in {"Exception", "BaseException"} for kind in kinds)


def passes_on(handler: ast.ExceptHandler) -> bool:
    """Whether the error is raised again, or said somewhere: its name is used in the handler."""
    inside = [node for statement in handler.body for node in ast.walk(statement)]
    return any(
        isinstance(node, ast.Raise) or (isinstance(node, ast.Name) and node.id == handler.name) for node in inside
    )


def test_f23_no_error_of_an_unknown_kind_is_swallowed() -> None:
    """A wrong argument was swallowed by a broad except, and phantom rows stayed for weeks."""
    found = [
        f"{name}:{node.lineno}"
        for name, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and is_broad(node) and not passes_on(node)
    ]
    suppressed = [
        f"{name}:{node.lineno}"
        for name, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in {"suppress", "contextlib.suppress"}
        and {"Exception", "BaseException"} & {ast.unparse(argument) for argument in node.args}
    ]
    assert found + suppressed == []


def test_f93_only_an_entry_point_ends_the_process() -> None:
    """A sys.exit() in a loop went past every `except Exception` and made a crash loop."""
    ends = {"sys.exit", "os._exit", "os.abort", "exit", "quit", "SystemExit"}
    found = [
        f"{name}:{node.lineno}"
        for name, tree in modules()
        for node in ast.walk(tree)
        if name not in ENTRY_POINTS and isinstance(node, ast.Call) and ast.unparse(node.func) in ends
    ]
    assert found == []


def test_f94_every_package_that_is_imported_is_declared_and_locked() -> None:
    """A library that only the developer's machine had stopped the predecessor for an hour."""
    needed = {distribution(each) for each in PROJECT["dependencies"]}
    extras = PROJECT["optional-dependencies"]
    optional = {distribution(each) for name in extras if name != "dev" for each in extras[name]}
    providers = packages_distributions()
    imported: dict[str, str] = {}
    for name, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0]: name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                imported[node.module.split(".")[0]] = name
    known = needed | optional
    foreign = {name: where for name, where in imported.items() if name not in {"exitguard", *sys.stdlib_module_names}}
    # An optional package may be absent here; then it must carry its distribution's own name.
    undeclared = {
        f"{name} ({where})"
        for name, where in foreign.items()
        if not known & {distribution(each) for each in providers.get(name, [name])}
    }
    # boto3 is made of botocore, and names its errors.
    assert undeclared - {f"botocore ({foreign.get('botocore')})"} == set()
    locked = {
        distribution(line) for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
        if re.match(r"[A-Za-z0-9]", line)
    }  # fmt: skip
    assert needed <= locked


def test_f97_all_our_code_is_in_one_package_that_shadows_no_library() -> None:
    """A folder named like the broker's library was imported instead of it."""
    ours = {path.name for path in (ROOT / "src").iterdir() if not path.name.startswith((".", "__"))}
    assert ours == {"exitguard"}
    assert packages_distributions().get("exitguard", ["exitguard"]) == ["exitguard"]


def test_f72_the_ledgers_tables_are_made_and_changed_by_migrations_only() -> None:
    """There were six ways to change the schema; each had changed something that the others did not know."""
    definition = re.compile(r"\b(CREATE|ALTER|DROP|TRUNCATE)\s+(TABLE|(UNIQUE\s+)?INDEX|VIEW|TYPE|SEQUENCE)\b", re.I)
    found = [
        f"{path.relative_to(SOURCE).as_posix()}: {match[0]}"
        for path in sorted(SOURCE.rglob("*"))
        if path.suffix in {".py", ".sql"}
        and path.parent != SOURCE / "store" / "migrations"
        # The paper exchange keeps a file of its own, which is no part of the ledger.
        and not path.is_relative_to(SOURCE / "paper")
        for match in definition.finditer(path.read_text(encoding="utf-8"))
    ]
    assert found == []
