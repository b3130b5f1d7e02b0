"""`exitguard record`."""

import asyncio
import signal
import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from exitguard.cli.context import load, quiet_logs, selected_accounts
from exitguard.cli.exits import CommandFailed, Exit
from exitguard.cli.output import Json, emit, emit_json, remark
from exitguard.cli.recorder import Feed, Recording
from exitguard.cli.recorder import record as run_recorder
from exitguard.config.secrets import resolve
from exitguard.core.errors import InvalidInput
from exitguard.core.instrument import parse_instrument

_CHANNELS = ("quotes", "trades", "statuses")
Several = Parameter(consume_multiple=True, negative="")


def record(
    file: Path,
    *,
    stocks: Annotated[list[str] | None, Several] = None,
    options: Annotated[list[str] | None, Several] = None,
    account: str | None = None,
    config: Path | None = None,
    stock_url: str | None = None,
    option_url: str | None = None,
    key: str | None = None,
    secret: str | None = None,
    seconds: float | None = None,
    json: Json = False,
) -> int:
    """Record quotes, trades and halts of a live data connection, for `exitguard paper --replay`.

    The connection is that of an account of the settings file, or of the URLs and keys given. Stops on Ctrl-C, SIGTERM
    or after --seconds. A killed recorder leaves a file that plays up to its last second.

    Parameters
    ----------
    file
        New file to write, .csv or .csv.gz; one that exists is never touched.
    stocks
        Stocks to record; '*' for all that the feed sends.
    options
        Option contracts to record, as OCC symbols.
    account
        Account whose data connection is used; may be left out when there is only one.
    config
        Settings file.
    stock_url
        Stock data socket, ws:// or wss://, instead of the account's.
    option_url
        Option data socket, instead of the account's.
    key
        Secret reference of the API key (env:NAME, file:PATH, …), instead of the account's.
    secret
        Secret reference of the API secret, instead of the account's.
    seconds
        Stop after so many wall seconds.
    """
    quiet_logs()
    wanted_stocks, wanted_options = _symbols(stocks, option=False), _symbols(options, option=True)
    if not wanted_stocks and not wanted_options:
        raise CommandFailed("nothing to record: name --stocks, --options or both", Exit.USAGE)
    if not file.name.endswith((".csv", ".csv.gz")):
        raise CommandFailed(f"{file}: a recording is a .csv or a .csv.gz file", Exit.USAGE)
    if seconds is not None and not seconds > 0:
        raise CommandFailed(f"--seconds must be positive, was {seconds}", Exit.USAGE)
    if None in (key, secret) or (wanted_stocks and stock_url is None) or (wanted_options and option_url is None):
        settings = selected_accounts(load(config), account)
        if len(settings) != 1:
            names = ", ".join(each.name for each in settings)
            raise CommandFailed(f"which account's data connection? Name one with --account: {names}", Exit.USAGE)
        (found,) = settings
        stock_url, option_url = stock_url or found.stock_stream_url, option_url or found.option_stream_url
        key, secret = key or found.key, secret or found.secret
    assert key is not None
    assert secret is not None
    feeds = []
    if wanted_stocks:
        assert stock_url is not None
        feeds.append(Feed(stock_url, dict.fromkeys(_CHANNELS, wanted_stocks)))
    if wanted_options:
        assert option_url is not None
        feeds.append(Feed(option_url, dict.fromkeys(_CHANNELS[:2], wanted_options)))
    begun = time.monotonic()
    recording = _create(file)
    try:
        asyncio.run(_until_stopped(feeds, resolve(key), resolve(secret), recording, seconds))
    finally:
        recording.file.close()
    result = {
        "file": str(file),
        "events": recording.events,
        "symbols": len(recording.symbols),
        "seconds": round(time.monotonic() - begun, 3),
    }
    if json:
        emit_json(result)
    else:
        emit(f"{file}: {recording.events} events of {len(recording.symbols)} symbols; exitguard paper --replay {file}")
    return Exit.OK


def _symbols(texts: list[str] | None, *, option: bool) -> list[str]:
    symbols = []
    for text in (part.strip() for each in texts or () for part in each.split(",")):
        if text == "*" and not option:
            symbols.append(text)
            continue
        try:
            instrument = parse_instrument(text)
        except InvalidInput as error:
            raise CommandFailed(str(error), Exit.USAGE) from error
        if instrument.is_option is not option:
            other, this = ("--stocks", "--options") if option else ("--options", "--stocks")
            raise CommandFailed(f"{text} belongs to {other}, not to {this}", Exit.USAGE)
        symbols.append(instrument.symbol)
    return list(dict.fromkeys(symbols))


def _create(file: Path) -> Recording:
    try:
        return Recording.create(file)
    except FileExistsError as error:
        raise CommandFailed(f"{file} exists already: name a new file", Exit.CANNOT_WRITE) from error
    except OSError as error:
        raise CommandFailed(f"cannot write {file}: {error.strerror or error}", Exit.CANNOT_WRITE) from error


async def _until_stopped(feeds: list[Feed], key: str, secret: str, recording: Recording, seconds: float | None) -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(
        run_recorder(feeds, key, secret, recording, say=remark, on_listening=lambda: remark("exitguard: recording"))
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    if seconds is not None:
        loop.call_later(seconds, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        # Asked to stop: what was recorded is the result.
        return
