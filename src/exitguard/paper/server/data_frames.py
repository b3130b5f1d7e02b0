"""Market data messages on the wire: each encoded once in each format, and joined into arrays as they are."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgpack
import orjson

from exitguard.core.quote import Quote
from exitguard.paper.market.tape import Bar, Trade
from exitguard.paper.market.ticks import StatusChange

_STATUS_WORDS = {True: ("H", "Trading Halt"), False: ("T", "Trading Resumption")}


def is_option_symbol(symbol: str) -> bool:
    """Whether a symbol of the market is an option contract: those have 16 characters at least, stocks 11 at most."""
    return len(symbol) > 12


def iso(at: datetime) -> str:
    """RFC 3339 in UTC with Z, fractions without trailing zeros."""
    text = at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{at.microsecond:06d}".rstrip("0") + "Z" if at.microsecond else text + "Z"


def quote_fields(quote: Quote, *, option: bool) -> dict[str, Any]:
    """A quote without its time: JSON numbers, as on the real service."""
    fields: dict[str, Any] = {
        "bx": "C" if option else "V",
        "bp": float(quote.bid),
        "bs": quote.bid_size,
        "ax": "C" if option else "V",
        "ap": float(quote.ask),
        "as": quote.ask_size,
        "c": "A" if option else ["R"],
    }
    if not option:
        fields["z"] = "C"
    return fields


def trade_fields(trade: Trade, *, option: bool) -> dict[str, Any]:
    """A trade without its time."""
    if option:
        return {"x": "C", "p": trade.price, "s": trade.size, "c": "I"}
    fields = {"x": "V", "p": trade.price, "s": trade.size, "c": ["@"], "i": trade.id, "z": "C"}
    return {**fields, "u": trade.update} if trade.update else fields


def correction_fields(original: Trade, corrected: Trade) -> dict[str, Any]:
    """A correction without its time: what was printed, and what counts instead."""
    return {
        "x": "V",
        **{"oi": original.id, "op": original.price, "os": original.size, "oc": ["@"]},
        **{"ci": corrected.id, "cp": corrected.price, "cs": corrected.size, "cc": ["@"]},
        "z": "C",
    }


def cancel_fields(trade: Trade) -> dict[str, Any]:
    """A cancelled trade without its time."""
    return {"i": trade.id, "x": "V", "p": trade.price, "s": trade.size, "a": "C", "z": "C"}


def bar_fields(bar: Bar) -> dict[str, Any]:
    """A bar without its time."""
    return {
        "o": bar.open,
        "h": bar.high,
        "l": bar.low,
        "c": bar.close,
        "v": bar.volume,
        "n": bar.trades,
        "vw": round(bar.vwap, 6),
    }


def status_fields(status: StatusChange) -> dict[str, Any]:
    """A trading status without its time (tape C codes)."""
    code, words = _STATUS_WORDS[status.halted]
    reason = status.reason if status.halted else ""
    return {"sc": code, "sm": words, "rc": reason, "rm": "News Pending" if reason == "T1" else "", "z": "C"}


class Message:
    """One message of a data socket, encoded at most once in each format."""

    __slots__ = ("_fields", "_json", "_msgpack", "at", "kind", "symbol")

    def __init__(self, kind: str, symbol: str, fields: dict[str, Any], at: datetime) -> None:
        self.kind = kind
        self.symbol = symbol
        self.at = at
        self._fields = fields
        self._json: bytes | None = None
        self._msgpack: bytes | None = None

    def json(self) -> bytes:
        """The message as a JSON object."""
        if self._json is None:
            self._json = orjson.dumps({"T": self.kind, "S": self.symbol, **self._fields, "t": iso(self.at)})
        return self._json

    def msgpack(self) -> bytes:
        """The message as a msgpack map; the time is the Timestamp extension type."""
        if self._msgpack is None:
            stamp = msgpack.Timestamp.from_datetime(self.at)
            self._msgpack = msgpack.packb({"T": self.kind, "S": self.symbol, **self._fields, "t": stamp})
        return self._msgpack


def join_json(chunks: Sequence[bytes], _: int) -> bytes:
    """An array of encoded JSON objects."""
    return b"[" + b",".join(chunks) + b"]"


def join_msgpack(chunks: Sequence[bytes], messages: int) -> bytes:
    """An array of encoded msgpack maps."""
    header = bytes([0x90 | messages]) if messages < 16 else b"\xdc" + messages.to_bytes(2, "big")
    return header + b"".join(chunks)


class Format:
    """How one client wants its messages."""

    def __init__(self, *, packed: bool) -> None:
        self.packed = packed
        self.join: Callable[[Sequence[bytes], int], bytes] = join_msgpack if packed else join_json

    def chunk(self, messages: Sequence[Message]) -> bytes:
        """Data messages side by side, ready to be joined into an array."""
        if self.packed:
            return b"".join([message.msgpack() for message in messages])
        return b",".join([message.json() for message in messages])

    def control(self, message: dict[str, Any]) -> bytes:
        """A control message: a frame of its own, alone in its array."""
        return bytes(msgpack.packb([message])) if self.packed else orjson.dumps([message])
