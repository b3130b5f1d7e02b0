"""Quote frames of the market data sockets into ticks: the hot path from a quote to an exit."""

import math
from datetime import datetime
from typing import Annotated, Any

import msgspec

from exitguard.broker.decoding import excerpt, quote_size
from exitguard.broker.port import Tick
from exitguard.broker.wire import decode_frame, messages_in

_NAN = math.nan


class _Message(msgspec.Struct, gc=False):
    """Any message of a data frame, of which only quotes are looked at; fields of other kinds are skipped."""

    T: str = ""
    S: str = ""
    bp: float = _NAN
    ap: float = _NAN
    bs: int = 0
    as_: int = msgspec.field(default=0, name="as")
    t: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


_FROM_JSON = msgspec.json.Decoder(list[_Message])
_FROM_MSGPACK = msgspec.msgpack.Decoder(list[_Message])


class Frame:
    """What a frame held: ticks in order, control messages, and what could not be read."""

    __slots__ = ("controls", "problems", "ticks")

    def __init__(self, ticks: list[Tick], controls: list[dict[str, Any]], problems: list[str]) -> None:
        self.ticks = ticks
        self.controls = controls
        self.problems = problems


_NOTHING: list[Any] = []


def read_frame(frame: bytes) -> Frame:
    """Read one frame, JSON or MessagePack. Never raises for what is in it.

    A price that is no number (null, text, missing) becomes NaN, and a missing time the year 1970: both are passed on,
    so that the core classifies the quote as unusable and the position as blind, instead of trusting the last good one.
    """
    try:
        messages = (_FROM_JSON if frame[:1] == b"[" else _FROM_MSGPACK).decode(frame)
    except msgspec.DecodeError:
        return _read_slowly(frame)
    ticks = [
        # An aware datetime's timestamp is exact to the microsecond for centuries to come.
        Tick(m.S, m.bp, m.ap, m.bs, m.as_, round(m.t.timestamp() * 1e6) * 1000 if m.t is not None else 0)
        for m in messages
        if m.T == "q" and m.S
    ]
    if len(ticks) == len(messages):
        return Frame(ticks, _NOTHING, _NOTHING)
    return _read_slowly(frame)


def _read_slowly(frame: bytes) -> Frame:
    """Read message by message: control messages, and quotes with something odd in them."""
    result = Frame([], [], [])
    try:
        messages = messages_in(decode_frame(frame))
    except ValueError as error:
        result.problems.append(f"{error}: {excerpt(frame)!r}")
        return result
    for message in messages:
        if message.get("T") != "q":
            result.controls.append(message)
            continue
        symbol = message.get("S")
        if not isinstance(symbol, str) or not symbol:
            result.problems.append(f"a quote without a symbol: {excerpt(message)}")
            continue
        result.ticks.append(
            Tick(
                symbol,
                _price(message.get("bp")),
                _price(message.get("ap")),
                quote_size(message.get("bs")),
                quote_size(message.get("as")),
                _nanoseconds(message.get("t")),
            )
        )
    return result


def _price(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return _NAN
    try:
        return float(value)
    except (ValueError, OverflowError):
        return _NAN


def _nanoseconds(value: object) -> int:
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) else value
        if isinstance(at, datetime) and at.tzinfo is not None:
            return round(at.timestamp() * 1e6) * 1000
    except (ValueError, OverflowError):
        return 0
    return 0
