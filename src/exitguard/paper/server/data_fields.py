"""Reading the parameters that the data API's endpoints share."""

import re
from collections.abc import Mapping, Sequence

from exitguard.paper.engine import ApiError
from exitguard.paper.server.wire import Request

_MOST_SYMBOLS = 10_000
_SYMBOL = re.compile(r"^[A-Za-z0-9./-]{1,32}$")


def bad_request(message: str) -> ApiError:
    """The data API's refusal of a parameter."""
    return ApiError(400, {"code": 40010000, "message": message})


def symbols_of(request: Request, most: int = _MOST_SYMBOLS) -> list[str]:
    """The `symbols` parameter, each once. Raises ApiError 400 when it is missing, too long, or holds no symbol."""
    symbols = [symbol.strip() for symbol in request.query.get("symbols", "").split(",") if symbol.strip()]
    if not symbols:
        raise bad_request("symbols is required")
    if len(symbols) > most:
        raise bad_request(f"too many symbols: at most {most}")
    for symbol in symbols:
        if not _SYMBOL.match(symbol):
            raise bad_request(f"invalid symbol: {symbol[:40]}")
    return list(dict.fromkeys(symbols))


def check_words(request: Request, name: str, allowed: Sequence[str]) -> None:
    """Each word of a comma-separated parameter must be known. Raises ApiError 400."""
    for word in request.query.get(name, "").split(","):
        if word.strip() and word.strip() not in allowed:
            raise bad_request(f"invalid {name}: {word.strip()[:40]}")


def whole_number(query: Mapping[str, str], name: str, default: int, highest: int) -> int:
    """A whole number from 1 to `highest`. Raises ApiError 400."""
    text = query.get(name) or str(default)
    if not (text.isascii() and text.isdigit()) or len(text) > 9 or not 1 <= int(text) <= highest:
        raise bad_request(f"invalid {name}: expected 1 to {highest}, was {text[:20]!r}")
    return int(text)
