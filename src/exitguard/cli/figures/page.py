"""The block of figures of docs/guarantees.md, made from the kept answers and nothing else."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from exitguard.cli.bench.page import MEANING
from exitguard.cli.figures.kept import read_json

BLOCK = "figures"
# What found a bug is a sentence of the simulator; more of it does not fit a table.
_LONGEST = 100


def block(kept: Path) -> str:
    """The text of the block. Raises CommandFailed for a kept file that is no result."""
    parts = []
    for name, (title, render) in _SECTIONS.items():
        found = read_json(kept / f"{name}.json")
        parts.append(f"### {title}")
        if found is None:
            parts.append(f"*Not measured yet: `exitguard figures {name}`.*")
            continue
        parts.append(render(found["result"]))
        parts.append(f"Made with exitguard {found['build']} on {found['machine']}.")
    return "\n\n".join(parts)


def _simulation(result: Mapping[str, Any]) -> str:
    injected = sum(result["faults_injected"].values())
    rows = [
        ("seeds", f"{result['seeds']:,} from {result['first_seed']}"),
        ("simulated days", f"{result['simulated_days']:,}"),
        ("faults injected", f"{injected:,} of {len(result['faults_injected'])} kinds"),
        ("positions closed", f"{result['positions_closed']:,}"),
        ("seeds with a violation", f"{len(result['failed_seeds']):,}"),
        ("violations", f"{result['violations']:,}"),
        ("simulated seconds a second of one processor", f"{result['simulated_seconds_per_wall_second']:,}"),
        ("processor time", f"{result['wall_seconds']:,.0f} s"),
        ("time from begin to end", f"{result['elapsed_seconds']:,.0f} s"),
    ]
    failed = ", ".join(str(each["seed"]) for each in result["failed_seeds"][:40])
    return _table(("what", "figure"), rows) + (f"\n\nSeeds with a violation: {failed}." if failed else "")


def _planted(result: Mapping[str, Any]) -> str:
    rows = [
        (
            each["name"],
            each["about"],
            each["breaks"],
            "**not found**" if each["found_in_seeds"] is None else f"{each['found_in_seeds']:,}",
            f"{each['bound']:,}",
            str(each["violation"] or "-")[:_LONGEST],
        )
        for each in result["mutants"]
    ]
    head = f"{result['found']} of {result['planted']} planted bugs were found by the simulator."
    return (
        f"{head}\n\n{_table(('planted bug', 'what it does', 'breaks', 'found in seeds', 'stated bound', 'by'), rows)}"
    )


def _soak(result: Mapping[str, Any]) -> str:
    from exitguard.cli.soak.report import rows

    problems = "".join(f"\n- {problem}" for problem in result["problems"])
    return _table(("what", "figure"), rows(result)) + (f"\n\nWhat is wrong:\n{problems}" if problems else "")


def _speed(result: Mapping[str, Any]) -> str:
    holds = {None: "-", True: "yes", False: "**no**"}
    rows = [
        (
            name,
            "-" if row["value"] is None else f"{row['value']:,g} {row['unit']}",
            "-" if row["baseline"] is None else f"{row['baseline']:,g} {row['unit']}",
            row["target"] or "-",
            holds[row["holds"]],
        )
        for name, row in result.items()
    ]
    meanings = "\n".join(f"- **{name}**: {MEANING[name]}" for name in result)
    return f"{_table(('figure', 'value', 'baseline', 'target', 'holds'), rows)}\n\n{meanings}"


def _table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [columns, tuple("---" for _ in columns), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


_SECTIONS: dict[str, tuple[str, Callable[[Mapping[str, Any]], str]]] = {
    "simulation": ("Simulated, with all faults", _simulation),
    "planted": ("Bugs planted on purpose", _planted),
    "soak": ("Soak: an hour of market time with faults, on real parts", _soak),
    "speed": ("Back after a death, and compared with the broker", _speed),
}
