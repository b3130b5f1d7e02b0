"""Reading single fields of requests as they come off the wire: strings or numbers, `True`, `true` or `1`."""

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from exitguard.core.session import NEW_YORK
from exitguard.paper.engine.errors import ApiError, invalid
from exitguard.paper.engine.wire import microseconds

MAX_TEXT = 128
_MAX_NUMBER = Decimal(10) ** 12
_QUANTITY_STEP = Decimal("0.000000001")
_TRUE = frozenset({"true", "1", "t", "yes"})
_FALSE = frozenset({"false", "0", "f", "no", ""})


def decimal_field(source: Mapping[str, Any], name: str, label: str = "") -> Decimal | None:
    """A positive number, given as string or JSON number; None when absent. Raises ApiError.

    JSON floats carry binary noise (alpaca-py sends 0.1 + 0.2 as 0.30000000000000004): they are rounded to nine places.
    """
    value = source.get(name)
    if value is None or value == "":
        return None
    label = label or name
    if isinstance(value, bool) or not isinstance(value, (str, int, float, Decimal)):
        raise invalid(f"{label} must be a number")
    if isinstance(value, str) and len(value) > 40:
        raise invalid(f"{label} must be a number")
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        raise invalid(f"{label} must be a number") from None
    if not number.is_finite() or abs(number) >= _MAX_NUMBER:
        raise invalid(f"{label} must be a number")
    if isinstance(value, float):
        number = number.quantize(_QUANTITY_STEP)
    return number


def positive_field(source: Mapping[str, Any], name: str, label: str = "") -> Decimal | None:
    """A number above zero; None when absent. Raises ApiError."""
    number = decimal_field(source, name, label)
    if number is not None and number <= 0:
        raise invalid(f"{label or name} must be > 0")
    return number


def quantity_field(source: Mapping[str, Any], name: str) -> Decimal | None:
    """A quantity above zero with at most nine decimals; None when absent. Raises ApiError."""
    number = positive_field(source, name)
    if number is not None and number != number.quantize(_QUANTITY_STEP):
        raise invalid(f"{name} increment must be at least 0.000000001")
    return number


def text_field(source: Mapping[str, Any], name: str) -> str | None:
    """A short text; None when absent or empty. Raises ApiError."""
    value = source.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise invalid(f"{name} must be a string")
    if len(value) > MAX_TEXT:
        raise invalid(f"{name} must be no more than {MAX_TEXT} characters")
    return value


def choice_field(source: Mapping[str, Any], name: str, choices: Iterable[str]) -> str | None:
    """One of some words; None when absent. Raises ApiError."""
    value = text_field(source, name)
    if value is not None and value not in choices:
        raise invalid(f"invalid {name}: {value}")
    return value


def flag_field(source: Mapping[str, Any], name: str, default: bool = False) -> bool:
    """A boolean as JSON or as query text (`True`, `true`, `1`). Raises ApiError."""
    value = source.get(name)
    if value is None:
        return default
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise invalid(f"{name} must be true or false")


def whole_field(source: Mapping[str, Any], name: str, default: int, low: int, high: int) -> int:
    """A whole number within bounds. Raises ApiError."""
    value = source.get(name)
    if value is None or value == "":
        return default
    try:
        number = int(str(value)) if not isinstance(value, bool) and len(str(value)) <= 12 else None
    except ValueError:
        number = None
    if number is None or not low <= number <= high:
        raise invalid(f"{name} must be a whole number from {low} to {high}")
    return number


def list_field(source: Mapping[str, Any], name: str) -> list[str]:
    """A comma-separated list; empty when absent. Raises ApiError."""
    value = source.get(name)
    if value is None or value == "":
        return []
    if isinstance(value, (list, tuple)):
        return [str(item) for item in value]
    if not isinstance(value, str):
        raise invalid(f"{name} must be a comma-separated list")
    return [item.strip() for item in value.split(",") if item.strip()]


def moment_field(source: Mapping[str, Any], name: str) -> int | None:
    """An RFC 3339 moment or a date (its New York midnight) as microseconds; None when absent. Raises ApiError."""
    value = text_field(source, name)
    if value is None:
        return None
    # An unescaped "+" of an offset arrives as a space.
    compact = value.strip().replace(" ", "+") if "T" in value else value.strip()
    try:
        parsed = datetime.fromisoformat(_microsecond_precision(compact))
    except ValueError:
        raise invalid(f"{name} must be an RFC 3339 timestamp or a date") from None
    if parsed.tzinfo is None:
        parsed = parsed.replace(tzinfo=NEW_YORK if len(value) == 10 else UTC)
    return microseconds(parsed)


def day_field(source: Mapping[str, Any], name: str) -> date | None:
    """A date; None when absent. Raises ApiError."""
    value = text_field(source, name)
    if value is None:
        return None
    try:
        return date.fromisoformat(value[:10])
    except ValueError:
        raise invalid(f"{name} must be a date YYYY-MM-DD") from None


def mapping_field(source: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """A JSON object; None when absent. Raises ApiError."""
    value = source.get(name)
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise invalid(f"{name} must be an object")
    return value


def body_of(body: Any) -> Mapping[str, Any]:
    """The body of a request, which must be a JSON object. Raises ApiError."""
    if not isinstance(body, Mapping):
        raise ApiError(400, {"code": 40010000, "message": "request body format is invalid"})
    return body


def _microsecond_precision(value: str) -> str:
    """Cut a fraction of a second to six digits: nanoseconds are the venue's habit, not Python's."""
    head, dot, rest = value.partition(".")
    if not dot:
        return value
    digits = len(rest) - len(rest.lstrip("0123456789"))
    return f"{head}.{rest[: min(digits, 6)]:0<6}{rest[digits:]}"
