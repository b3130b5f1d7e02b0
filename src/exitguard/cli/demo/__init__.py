"""`exitguard demo`: one whole trading day on this machine, with real processes, sockets and PostgreSQL.

`scenario` says what happens, `play` starts and stops the processes, `conductor` moves the market's clock, `watch` and
`verify` check the managers against the exchange's own books, `screen` and `report` show it.
"""

import asyncio
import io
import re
import sys
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from exitguard.cli.context import quiet_logs
from exitguard.cli.exits import CommandFailed, Exit
from exitguard.cli.output import Json, emit, emit_json, remark

if TYPE_CHECKING:
    from exitguard.cli.demo.conductor import Snapshot
    from exitguard.cli.demo.play import DemoOptions, Kept
    from exitguard.cli.demo.report import Summary
    from exitguard.core.session import Session

_PICTURE_MINUTE = 45
_PICTURE_WIDTH = 124


def demo(
    *,
    headless: Annotated[bool, Parameter(negative="", help="No live view; progress on stderr.")] = False,
    json: Json = False,
    seed: Annotated[int, Parameter(help="Decides prices, signals and troubles of the day.")] = 7,
    speed: Annotated[
        float | None, Parameter(help="Market seconds a wall second; without: as fast as the managers follow.")
    ] = None,
    keep: Annotated[bool, Parameter(negative="", help="Leave everything running and say how to reach it.")] = False,
    stop: Annotated[bool, Parameter(negative="", help="Stop what an earlier --keep left running.")] = False,
    day: Annotated[
        str | None, Parameter(help="YYYY-MM-DD, without: today. When no market opens on it, the next session.")
    ] = None,
    picture: Annotated[Path | None, Parameter(show=False, help="Write an SVG of the demo.")] = None,
) -> int:
    """Play one whole trading day on this machine, no account needed. Exit 1 if any exit was missed or duplicated."""
    from exitguard.cli.demo.play import DemoOptions

    quiet_logs()
    if stop:
        return _stop()
    if speed is not None and not 0 < speed <= 1_000_000:
        raise CommandFailed(f"--speed must lie in (0, 1000000], was {speed}", Exit.USAGE)
    options = DemoOptions(seed=seed, speed=speed, keep=keep, day=_read_day(day))
    live = not (headless or json) and sys.stdout.isatty()
    view = _View(live, picture)
    kept: list[Kept] = []
    with view:
        summary = asyncio.run(_run(options, view, kept))
    if picture is not None:
        view.draw(summary, picture)
    _report(summary, kept[0] if kept else None, json=json)
    return Exit.OK if summary.ok else Exit.WRONG


async def _run(options: "DemoOptions", view: "_View", kept: "list[Kept]") -> "Summary":
    from exitguard.cli.demo.play import cancelled_by_signals, play

    try:
        async with cancelled_by_signals():
            return await play(options, view.show, kept.append)
    except asyncio.CancelledError as error:
        raise KeyboardInterrupt from error


def _read_day(text: str | None) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise CommandFailed(f"--day must be YYYY-MM-DD, was {text!r}", Exit.USAGE) from error


def _stop() -> int:
    from exitguard.cli.database import embedded_server
    from exitguard.cli.demo.children import stop_leftovers
    from exitguard.cli.demo.play import demo_folder, only_demo

    folder = demo_folder()
    with only_demo(folder):
        stopped = stop_leftovers(folder)
    database = asyncio.run(embedded_server().stop())
    names = [*stopped, *(["embedded PostgreSQL"] if database else [])]
    emit(f"stopped: {', '.join(names)}" if names else "nothing of a demo is running")
    return Exit.OK


class _View:
    """Shows the day: a live table on a terminal, a line an hour elsewhere."""

    def __init__(self, live: bool, picture: Path | None) -> None:
        self._wants_live = live
        self._picture = picture
        self._frame: tuple[Snapshot, Session] | None = None
        self._live: object | None = None

    def __enter__(self) -> "_View":
        if self._wants_live:
            from rich.live import Live

            from exitguard.cli.output import console

            self._live = Live(console=console(), auto_refresh=False, transient=True).__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        from rich.live import Live

        if isinstance(self._live, Live):
            self._live.__exit__(None, None, None)

    async def show(self, snapshot: "Snapshot", session: "Session") -> None:
        """Show one minute."""
        from rich.live import Live

        from exitguard.cli.demo.screen import render

        if self._picture is not None and (snapshot.minute == _PICTURE_MINUTE or self._frame is None):
            self._frame = (snapshot, session)
        if isinstance(self._live, Live):
            size = self._live.console.size
            self._live.update(render(snapshot, session, size.height, size.width), refresh=True)
        elif snapshot.minute % 60 == 0:
            remark(f"exitguard: {_progress(snapshot)}")

    def draw(self, summary: "Summary", path: Path) -> None:
        """Write the frame that was kept and the summary as an SVG."""
        from rich.console import Console

        from exitguard.cli.demo.report import render as render_summary
        from exitguard.cli.demo.screen import render

        canvas = Console(record=True, file=io.StringIO(), width=_PICTURE_WIDTH, force_terminal=True)
        if self._frame is not None:
            canvas.print(render(*self._frame, rows=36, columns=_PICTURE_WIDTH))
        canvas.print(render_summary(summary))
        path.parent.mkdir(parents=True, exist_ok=True)
        # Without the fonts that rich would have a viewer fetch from elsewhere: any fixed-width font will do.
        drawn = re.sub(r"@font-face\s*\{.*?\}", "", canvas.export_svg(title="exitguard demo"), flags=re.DOTALL)
        path.write_text(re.sub(r"\n\s*\n+", "\n", drawn), encoding="utf-8")


def _progress(snapshot: "Snapshot") -> str:
    closed = len(snapshot.history)
    opened = sum(snapshot.opened.values())
    return f"{snapshot.minute} of {snapshot.minutes} market minutes, {opened} positions opened, {closed} closed"


def _report(summary: "Summary", kept: "Kept | None", *, json: bool) -> None:
    from exitguard.cli.demo.report import ended_lines, kept_lines, render
    from exitguard.cli.output import console

    if json:
        for line in kept_lines(kept) if kept is not None else ():
            remark(line)
        emit_json(summary.to_json())
        return
    console().print(render(summary))
    for line in ended_lines() if kept is None else kept_lines(kept):
        emit(line)
