"""How values look on the wire: decimals as plain strings, UTC timestamps with trailing zeros trimmed, identifiers."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from random import Random
from uuid import NAMESPACE_URL, uuid5

from exitguard.core.session import NEW_YORK

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
CENT = Decimal("0.01")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"


def microseconds(moment: datetime) -> int:
    """Microseconds since 1970 of an aware datetime."""
    return (moment - EPOCH) // MICROSECOND


def moment_of(stamp: int) -> datetime:
    """The aware UTC datetime of a stamp in microseconds."""
    return EPOCH + timedelta(microseconds=stamp)


@lru_cache(maxsize=4096)
def _utc_second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


@lru_cache(maxsize=4096)
def _new_york_second(second: int) -> str:
    return datetime.fromtimestamp(second, NEW_YORK).strftime("%Y%m%d%H%M%S")


def timestamp(stamp: int) -> str:
    """RFC 3339, UTC, with trailing zeros of the fraction trimmed, as Alpaca writes it."""
    second, fraction = divmod(stamp, 1_000_000)
    if not fraction:
        return _utc_second(second) + "Z"
    return f"{_utc_second(second)}.{fraction:06d}".rstrip("0") + "Z"


def timestamp_or_none(stamp: int | None) -> str | None:
    """Like `timestamp`, None for a moment that has not come."""
    return None if stamp is None else timestamp(stamp)


def activity_id(stamp: int, uuid: str) -> str:
    """Identifier of an activity: New York wall time in milliseconds, then a uuid."""
    second, fraction = divmod(stamp, 1_000_000)
    return f"{_new_york_second(second)}{fraction // 1000:03d}::{uuid}"


def new_york_date(stamp: int) -> str:
    """The New York date of a stamp, YYYY-MM-DD."""
    digits = _new_york_second(stamp // 1_000_000)
    return f"{digits[:4]}-{digits[4:6]}-{digits[6:8]}"


def text(value: Decimal) -> str:
    """A decimal without exponent and without trailing zeros."""
    plain = str(value)
    if "E" in plain:
        plain = format(value, "f")
    if "." in plain:
        plain = plain.rstrip("0").rstrip(".")
    return "0" if plain in ("-0", "") else plain


def text_or_none(value: Decimal | None) -> str | None:
    """Like `text`, None for an absent value."""
    return None if value is None else text(value)


def money(value: Decimal) -> str:
    """Dollars rounded to cents."""
    return text(value.quantize(CENT))


def asset_id(symbol: str) -> str:
    """The identifier of an asset: the same in every run and for every seed, as at a real broker."""
    return str(uuid5(NAMESPACE_URL, f"exitguard-paper-asset:{symbol}"))


class Identifiers:
    """A repeatable source of identifiers and chance; every account has its own, so that accounts do not disturb it."""

    def __init__(self, seed: int, name: str) -> None:
        self.chance = Random(f"{seed}:{name}:chance")  # noqa: S311 - repeatability is the point, not secrecy
        self._bits = Random(f"{seed}:{name}:identifiers").getrandbits  # noqa: S311

    def uuid(self) -> str:
        """A version 4 uuid."""
        bits = (self._bits(128) & ~(0xF << 76) & ~(0x3 << 62)) | (0x4 << 76) | (0x2 << 62)
        digits = f"{bits:032x}"
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"

    def letters(self, count: int) -> str:
        """Upper-case letters and digits, as in keys and account numbers."""
        return "".join(_LETTERS[self._bits(5)] for _ in range(count))
