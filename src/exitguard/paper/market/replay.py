"""What is to be played back: a file or a folder, minute bars or recorded quotes, told apart by their columns."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from exitguard.core.errors import InvalidInput
from exitguard.paper.market.bar_files import is_headless, load_bars, symbol_of
from exitguard.paper.market.recorded import RecordedBar
from exitguard.paper.market.recording import RecordedTicks, is_recording
from exitguard.paper.market.tables import SUFFIXES, first_line, titles_of


@dataclass(frozen=True, slots=True)
class Replay:
    """Bars by stock, recorded quotes, or both."""

    bars: Mapping[str, list[RecordedBar]]
    ticks: RecordedTicks | None


def load_replay(path: Path, symbols: Collection[str] | None = None, *, partial: bool = False) -> Replay:
    """Read a file, or every file of a folder; `symbols` restricts what is played. Raises InvalidInput.

    A symbol of which nothing is recorded is an error unless `partial`.

    A folder may hold more than stock bars (option trades, say): of bar files without a symbol column those are taken
    whose name is a stock's, and, with `symbols`, an asked one's.
    """
    if not path.exists():
        raise InvalidInput(f"replay path {path} does not exist")
    wanted = None if symbols is None else set(symbols)
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.name.endswith(SUFFIXES))
    recordings = [file for file in files if _is_recording(file)]
    bar_files = [file for file in files if file not in recordings]
    if path.is_dir():
        bar_files = [file for file in bar_files if _is_asked(file, wanted)]
    bars = load_bars(bar_files, wanted)
    ticks = RecordedTicks(recordings, wanted) if recordings else None
    recorded = set(ticks.symbols()) if ticks is not None else set()
    twice = sorted(recorded & bars.keys())
    if twice:
        raise InvalidInput(f"replay path {path} has both bars and quotes of {', '.join(twice)}: leave one of them out")
    missing = sorted((wanted or set()) - bars.keys() - recorded)
    if missing and not partial:
        raise InvalidInput(f"replay path {path} has nothing of {', '.join(missing)}")
    if not bars and ticks is None:
        raise InvalidInput(
            f"replay path {path} holds no stock bars and no quotes: expected {', '.join(SUFFIXES)} files"
        )
    return Replay(bars, ticks)


def _is_recording(file: Path) -> bool:
    if file.suffix != ".parquet" and is_headless(first_line(file)):
        return False
    return is_recording(titles_of(file))


def _is_asked(file: Path, wanted: Collection[str] | None) -> bool:
    symbol = symbol_of(file)
    return symbol is not None and (wanted is None or symbol in wanted)
