"""`exitguard init`."""

from importlib import resources
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from exitguard.cli.exits import CommandFailed, Exit
from exitguard.cli.output import Json, emit, emit_json
from exitguard.config.loading import CONFIG_NAME


def init(
    path: Annotated[Path, Parameter(help="The file to write.")] = Path(CONFIG_NAME),
    /,
    *,
    force: Annotated[bool, Parameter(negative="", help="Overwrite a file that is there.")] = False,
    json: Json = False,
) -> None:
    """Write a commented settings file, with every setting and its default. Keys are references, never values."""
    text = resources.files("exitguard.config").joinpath("template.toml").read_text(encoding="utf-8")
    try:
        # Exclusive creation: a file that appears meanwhile is not overwritten either.
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise CommandFailed(f"{path} exists and is left as it is; --force overwrites it", Exit.CANNOT_WRITE) from error
    except OSError as error:
        raise CommandFailed(f"cannot write {path}: {error.strerror or error}", Exit.CANNOT_WRITE) from error
    if json:
        emit_json({"path": str(path.absolute())})
        return
    emit(f"Wrote {path}. Next: set the environment variables that it names, then: exitguard run")
