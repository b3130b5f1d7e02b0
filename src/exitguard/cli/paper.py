"""`exitguard paper`."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from exitguard.cli.exits import CommandFailed, Exit
from exitguard.config import logs
from exitguard.core.session import NEW_YORK

DEFAULT_ACCOUNTS = ("large:100000", "tiny:1000")


def paper(
    *,
    port: Annotated[int, Parameter(help="TCP port; 0 takes a free one.")] = 0,
    account: Annotated[
        list[str] | None,
        Parameter(
            consume_multiple=True, negative="", show_default=False, help="NAME:CASH; large:100000 tiny:1000 without."
        ),
    ] = None,
    replay: Annotated[Path | None, Parameter(help="Minute bars or recorded quotes: file or folder.")] = None,
    generate: Annotated[int | None, Parameter(help="Seed of all chance, and of generated stocks.")] = None,
    symbols: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="", help="Stocks to play.")] = None,
    market: Annotated[
        list[str] | None,
        Parameter(consume_multiple=True, negative="", help="calm trend gap crash halt wild; AAPL=crash+wild."),
    ] = None,
    faults: Annotated[Path | None, Parameter(help="File of faults to switch on (TOML).")] = None,
    state: Annotated[Path | None, Parameter(help="Folder that keeps everything over a restart.")] = None,
    plan: Annotated[
        Literal["basic", "plus"] | None,
        Parameter(show_choices=False, show_default=False, help="basic or plus: the limits of that data plan."),
    ] = None,
    start: Annotated[str | None, Parameter(help="Market time, ISO; New York without a zone.")] = None,
    speed: Annotated[float, Parameter(help="Market seconds a wall second.")] = 1.0,
    paused: Annotated[bool, Parameter(negative="", show_default=False, help="Start with time standing still.")] = False,
    host: Annotated[str, Parameter(help="Address to listen on.")] = "127.0.0.1",
    json: Annotated[
        bool, Parameter(negative="", show_default=False, help="Print URLs and keys as one line of JSON.")
    ] = False,
) -> int:
    """Start the Alpaca-compatible paper exchange. With --json the first line of stdout tells every URL and key."""
    from exitguard.paper.server.main import serve

    logs.setup("warning", "json")
    if replay is not None and not replay.exists():
        raise CommandFailed(f"--replay {replay}: no such file or folder", Exit.USAGE)
    if faults is not None and not faults.is_file():
        raise CommandFailed(f"--faults {faults}: no such file", Exit.USAGE)
    if not 0 <= port <= 65535:
        raise CommandFailed(f"--port must lie in 0..65535, was {port}", Exit.USAGE)
    if not speed > 0:
        raise CommandFailed(f"--speed must be positive, was {speed}", Exit.USAGE)
    return serve(
        accounts=read_accounts(account or DEFAULT_ACCOUNTS),
        port=port,
        host=host,
        replay=replay,
        generate=generate,
        symbols=symbols,
        start=read_moment(start) if start is not None else None,
        speed=speed,
        paused=paused,
        state=state,
        faults=faults,
        plan=plan,
        markets=market or (),
        json=json,
    )


def read_accounts(texts: Sequence[str]) -> dict[str, Decimal]:
    """Read `NAME:CASH`, cash in dollars. Raises CommandFailed."""
    accounts: dict[str, Decimal] = {}
    for text in texts:
        name, _, cash = text.partition(":")
        try:
            amount = Decimal(cash)
        except InvalidOperation:
            amount = Decimal("NaN")
        if not name or not amount.is_finite() or amount < 0:
            raise CommandFailed(f"--account must be NAME:CASH with cash in dollars, was {text!r}", Exit.USAGE)
        if name in accounts:
            raise CommandFailed(f"--account {name} is given twice", Exit.USAGE)
        accounts[name] = amount
    return accounts


def read_moment(text: str) -> datetime:
    """Read a moment; New York time unless it carries a zone. Raises CommandFailed."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise CommandFailed(
            f"--start must be an ISO time such as 2023-01-03T09:30, was {text!r}", Exit.USAGE
        ) from error
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=NEW_YORK)
