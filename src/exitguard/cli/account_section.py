"""The section of one account in a settings file, as programs of ours write it that bring their own exchange."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from exitguard.store.files import write_private

# Such a market plays hours in seconds: the venue's usual limit would be one of wall time.
REQUESTS_PER_MINUTE = 100_000


class Urls(Protocol):
    """Where an exchange is spoken to."""

    @property
    def rest(self) -> str:
        """Orders, positions and everything else that is asked."""
        ...

    @property
    def stream(self) -> str:
        """The socket of trade updates."""
        ...

    @property
    def data(self) -> str:
        """Quotes that are asked for."""
        ...

    @property
    def data_stream(self) -> str:
        """The socket of stocks' quotes."""
        ...

    @property
    def option_stream(self) -> str:
        """The socket of options' quotes."""
        ...


@dataclass(frozen=True, slots=True)
class PlainUrls:
    """`Urls` of a server that does not introduce itself."""

    rest: str
    stream: str
    data: str
    data_stream: str
    option_stream: str


class Keys(Protocol):
    """What an exchange wants to see of an account."""

    @property
    def key(self) -> str:
        """The key's id."""
        ...

    @property
    def secret(self) -> str:
        """Its secret."""
        ...


def account_section(name: str, urls: Urls, **settings: str | int) -> str:
    """TOML of one paper account; `settings` are its further keys, which at least say where key and secret are."""
    given: dict[str, str | int] = {
        "tier": name,
        "mode": "paper",
        "rest_url": urls.rest,
        "trade_stream_url": urls.stream,
        "data_url": urls.data,
        "stock_stream_url": urls.data_stream,
        "option_stream_url": urls.option_stream,
        "requests_per_minute": REQUESTS_PER_MINUTE,
        **settings,
    }
    # A JSON string is a TOML string, and so is a number.
    lines = [f"{key} = {json.dumps(value)}" for key, value in given.items()]
    return "\n".join([f"\n[accounts.{name}]", *lines, ""])


def write_keys(folder: Path, name: str, keys: Keys) -> dict[str, str]:
    """Write key and secret into files that nobody else may read; the settings that refer to them."""
    found = {}
    for what, value in (("key", keys.key), ("secret", keys.secret)):
        path = folder / f"{name}.{what}"
        write_private(path, value.encode())
        found[what] = f"file:{path}"
    return found
