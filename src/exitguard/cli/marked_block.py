"""Parts of a written document that a command makes: between two marks, and never by hand."""

from pathlib import Path

from exitguard.cli.exits import CommandFailed, Exit


def marks(name: str, command: str) -> tuple[str, str]:
    """The lines before and after the block of this name."""
    return f"<!-- {name}: made by {command}. Do not edit. -->", f"<!-- {name}: end -->"


def write_block(path: Path, name: str, command: str, text: str) -> None:
    """Replace what stands between the marks. Raises CommandFailed when the document has no such block."""
    first, last = marks(name, command)
    try:
        document = path.read_text(encoding="utf-8")
    except OSError as error:
        raise CommandFailed(f"cannot read {path}: {error.strerror}", Exit.CANNOT_WRITE) from error
    before, found, rest = document.partition(first)
    _, end, after = rest.partition(last)
    if not found or not end:
        raise CommandFailed(f"{path} has no block for this; it needs the lines {first} and {last}")
    path.write_text(f"{before}{first}\n\n{text}\n\n{last}{after}", encoding="utf-8")
