"""`exitguard figures`: what docs/guarantees.md publishes, measured by commands and rendered from what they said.

`kept` reads and writes the answers of those commands, one JSON file each; `page` makes the block of the document.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import orjson
from cyclopts import Parameter

from exitguard.cli.exits import CommandFailed, Exit
from exitguard.cli.marked_block import write_block
from exitguard.cli.output import Json, emit_json, remark
from exitguard.config.errors import did_you_mean

# Each figure and the command whose answer it is.
COMMANDS: dict[str, tuple[str, ...]] = {
    "simulation": ("sim", "--seeds", "10000", "--jobs", str(os.cpu_count() or 1), "--json"),
    "planted": ("sim", "--mutants", "--jobs", str(os.cpu_count() or 1), "--json"),
    "soak": ("soak", "--json"),
    "speed": (
        "bench", "simulation_speed", "recovery", "takeover_crash", "takeover_watching", "takeover_hang",
        "reconciliation", "--json",
    ),
}  # fmt: skip


def figures(
    *names: str,
    docs: Annotated[Path, Parameter(help="The document with the block.")] = Path("docs/guarantees.md"),
    kept: Annotated[Path, Parameter(help="Folder of the kept answers.")] = Path("docs/figures"),
    render: Annotated[bool, Parameter(negative="", help="Measure nothing, render what is kept.")] = False,
    take: Annotated[
        Path | None, Parameter(help="Keep this file as the answer of the one figure named; - is stdin.")
    ] = None,
    json: Json = False,
) -> int:
    """Measure what the guarantees publish, keep the answers, and render them; exit 1 when one of them is not fine.

    NAMES choose what is measured, without them everything is (hours): simulation, planted, soak, speed.
    """
    from exitguard.cli.figures.kept import read_json
    from exitguard.cli.figures.page import BLOCK, block

    for name in names:
        if name not in COMMANDS:
            raise CommandFailed(f"no figure {name!r}; expected {did_you_mean(name, COMMANDS)}", Exit.USAGE)
    if take is not None and len(names) != 1:
        raise CommandFailed("--take needs the name of exactly one figure", Exit.USAGE)
    if render and (names or take is not None):
        raise CommandFailed("--render measures nothing, so it takes no names", Exit.USAGE)
    fine = True
    if take is not None:
        _keep(kept, names[0], _read(take))
    elif not render:
        for name in names or tuple(COMMANDS):
            fine = _measure(kept, name) and fine
    write_block(docs, BLOCK, "make figures", block(kept))
    if json:
        emit_json({name: read_json(kept / f"{name}.json") for name in COMMANDS})
    return Exit.OK if fine else Exit.WRONG


def _measure(kept: Path, name: str) -> bool:
    """Run a figure's command and keep its answer; whether the command found everything fine."""
    remark(f"{name}: exitguard {' '.join(COMMANDS[name])}")
    arguments = [sys.executable, "-m", "exitguard.cli.main", *COMMANDS[name]]
    done = subprocess.run(arguments, stdout=subprocess.PIPE, check=False)  # noqa: S603 - our own program, no shell
    if done.returncode not in (Exit.OK, Exit.WRONG):
        raise CommandFailed(f"{name}: exitguard {COMMANDS[name][0]} ended with exit code {done.returncode}")
    _keep(kept, name, done.stdout)
    return done.returncode == Exit.OK


def _read(path: Path) -> bytes:
    try:
        return sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise CommandFailed(f"cannot read {path}: {error.strerror}", Exit.USAGE) from error


def _keep(kept: Path, name: str, answer: bytes) -> None:
    from exitguard.cli.bench.page import machine
    from exitguard.cli.figures.kept import write_json
    from exitguard.config.build import build_info

    try:
        result: Any = orjson.loads(answer)
    except orjson.JSONDecodeError as error:
        raise CommandFailed(f"{name}: the answer is no JSON: {error}") from error
    kept.mkdir(parents=True, exist_ok=True)
    write_json(kept / f"{name}.json", {"build": build_info().label, "machine": machine(), "result": result})
