"""SQL statements by name, one file each, so that a test can prepare every one of them on an empty database (T14)."""

from functools import lru_cache
from pathlib import Path

_FOLDER = Path(__file__).parent / "sql"


@lru_cache(maxsize=256)
def query(name: str) -> str:
    """The statement in `sql/NAME.sql`."""
    return (_FOLDER / f"{name}.sql").read_text(encoding="utf-8").strip()


def all_queries() -> dict[str, str]:
    """Every statement of the store, by name."""
    return {path.stem: query(path.stem) for path in sorted(_FOLDER.glob("*.sql"))}
