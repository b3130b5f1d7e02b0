"""GET /v1/corporate-actions: what the exchange has announced, in the data API's shapes."""

from collections.abc import Mapping
from datetime import date
from typing import Any

from exitguard.paper.server.data_fields import bad_request, whole_number
from exitguard.paper.server.data_paging import offset_token, token_offset

_TYPE_WORDS = (
    "reverse_split forward_split unit_split cash_dividend stock_dividend spin_off cash_merger stock_merger "
    "stock_and_cash_merger redemption name_change worthless_removal rights_distribution partial_call reorganization "
    "capital_gains_distribution"
)
_TYPES = frozenset(_TYPE_WORDS.split())
_DEFAULT_LIMIT, _HIGHEST_LIMIT = 100, 1000

Json = dict[str, Any]


def corporate_actions(announced: list[Json], query: Mapping[str, str], today: date) -> Json:
    """One page, grouped by type; those of `today` where no day is asked for. Raises ApiError 400."""
    symbols, ids = _words(query, "symbols"), _words(query, "ids")
    types = _words(query, "types") or _TYPES
    for unknown in sorted(types - _TYPES):
        raise bad_request(f"invalid type: {unknown[:40]}")
    if ids and (symbols or query.get("types") or query.get("start") or query.get("end")):
        raise bad_request("ids cannot be combined with other filters")
    start, end = _day(query, "start", today), _day(query, "end", today)
    descending = _choice(query, "sort", ("asc", "desc")) == "desc"
    region = _choice(query, "region", ("us", "non_us", "all"))
    _choice(query, "data_quality", ("complete", "all"))
    cusips = _words(query, "cusips")
    rows = [
        (kind, row)
        for kind, row in map(_row, announced)
        if kind in types
        and (row["id"] in ids if ids else start.isoformat() <= row["process_date"] <= end.isoformat())
        and (not symbols or symbols & {row.get(name) for name in ("symbol", "old_symbol", "new_symbol")})
        # The exchange's stocks are all of the US and have no CUSIP.
        and region != "non_us"
        and not cusips
    ]
    rows.sort(key=lambda entry: str(entry[1]["process_date"]), reverse=descending)
    begin = token_offset(query.get("page_token"))
    stop = begin + whole_number(query, "limit", _DEFAULT_LIMIT, _HIGHEST_LIMIT)
    groups: dict[str, list[Json]] = {}
    for kind, row in rows[begin:stop]:
        groups.setdefault(f"{kind}s", []).append(row)
    return {"corporate_actions": groups, "next_page_token": offset_token(stop) if stop < len(rows) else None}


def _row(action: Json) -> tuple[str, Json]:
    """Type and shape of one announcement."""
    common = {"id": action["id"], "process_date": action["payable_date"]}
    if action["ca_type"] != "split":
        names = {"old_symbol": action["initiating_symbol"], "new_symbol": action["target_symbol"]}
        return "name_change", {**common, **names, "old_cusip": "", "new_cusip": ""}
    old, new = float(action["old_rate"]), float(action["new_rate"])
    dates = {name: action[name] for name in ("ex_date", "record_date", "payable_date")}
    split = {**common, **dates, "symbol": action["initiating_symbol"], "old_rate": old, "new_rate": new}
    if new < old:
        return "reverse_split", {**split, "old_cusip": "", "new_cusip": ""}
    return "forward_split", {**split, "cusip": ""}


def _words(query: Mapping[str, str], name: str) -> set[str]:
    return {word.strip() for word in query.get(name, "").split(",") if word.strip()}


def _day(query: Mapping[str, str], name: str, today: date) -> date:
    text = query.get(name)
    if not text:
        return today
    try:
        return date.fromisoformat(text[:10])
    except ValueError as error:
        raise bad_request(f"invalid {name}: expected YYYY-MM-DD, was {text[:40]!r}") from error


def _choice(query: Mapping[str, str], name: str, choices: tuple[str, ...]) -> str:
    word = query.get(name) or choices[0]
    if word not in choices:
        raise bad_request(f"invalid {name}: {word[:40]}")
    return word
