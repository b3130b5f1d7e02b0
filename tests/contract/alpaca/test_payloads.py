"""Payloads out of Alpaca's own SDK tests: they parse, and responses have the shape of the exchange's.

Every payload is either compared with the answer of the same endpoint, or stands in NOT_COMPARED with the reason. Every
key of theirs must be in ours with the same JSON type, but for ALLOWED.
"""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from tests.contract.alpaca.venue import START, Venue, running_venue

DATA = Path(__file__).parents[4] / "shared" / "data" / "alpaca"
_HISTORY = "start=2026-11-01&end=2026-11-30"

# Keys of theirs that ours lack or have with another type, by key (or place and key), and why.
ALLOWED = {
    "account_id": "activities of the Broker API name their account; the Trading API has only one",
    "account.daytrade_count": "gone since July 2026, with the pattern day trader rule",
    "account.daytrading_buying_power": "gone since July 2026, with the pattern day trader rule",
    "account.pattern_day_trader": "gone since July 2026, with the pattern day trader rule",
    "account.options_approved_level": "a string in the SDK's invented fixture, an integer in the document",
    "account.options_trading_level": "a string in the SDK's invented fixture, an integer in the document",
    "asset.last_close_pct_change": "in no document: invented by the SDK's fixture",
    "asset.last_price": "in no document: invented by the SDK's fixture",
    "order.commission": "Broker API only",
    "order.qty": "numbers in the SDK's invented fixtures, strings on the wire",
    "order.filled_qty": "numbers in the SDK's invented fixtures, strings on the wire",
    "order.filled_avg_price": "numbers in the SDK's invented fixtures, strings on the wire",
    "order.limit_price": "numbers in the SDK's invented fixtures, strings on the wire",
    "cancelled.body": "only beside an order that cannot be cancelled: here every open order can",
    "position.usd": "accounts in another currency only",
    "auction.s": "sizes of auctions are not kept: the tape has the day's open and close",
    "trade.u": "corrected and cancelled trades only: this market makes none",
    "currency": "only where another currency was asked for, which this market does not have",
    "forward_splits.due_bill_redemption_date": "no due bills",
}

# Objects of theirs that the exchange never makes.
_NOT_MADE = """
unit_splits stock_dividends cash_dividends spin_offs cash_mergers stock_mergers stock_and_cash_mergers redemptions
worthless_removals rights_distributions
"""
NOT_MADE = dict.fromkeys(_NOT_MADE.split(), "no such corporate action happens on the exchange") | {
    "corporate_actions": "the groups of the above; those that the exchange does make are compared one by one",
    "usd": "accounts in another currency only",
    "refusal": "every open order can be cancelled",
}

# What is not compared, by a word that only such payloads hold.
NOT_COMPARED = {
    '"BTC': "crypto",
    '"ETH': "crypto",
    '"BCH/': "crypto",
    '"BAT/': "crypto",
    '"SUSHI/': "crypto",
    '"LTC/': "crypto",
    '"DOGE/': "crypto",
    "-PERP": "crypto",
    "us_treasuries": "bonds",
    "us_corporates": "bonds",
    '"news"': "news",
    "ytm": "bonds",
    "custom error message": "an error invented by the SDK's test",
    '"message": "error"': "an error invented by the SDK's test",
    '"symbol": "AAPL"}': "a request",
    '{"trade": {': "the wrong envelope, which the SDK's test mocks for a feed and never reads",
}


def payloads() -> list[Any]:
    """One parameter for each payload; none where the shared data is absent."""
    found = []
    for path in sorted(DATA.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            name = f"{Path(entry['file']).name}:{entry['line']}"
            found.append(pytest.param(name, entry["raw"], id=name))
    return found


PAYLOADS = payloads()
needs_data = pytest.mark.skipif(not PAYLOADS, reason=f"the SDK payloads are not here: {DATA}")


@pytest.fixture(scope="module")
def answers() -> Iterator[dict[str, Any]]:
    """The exchange's own answers, by kind."""
    with running_venue() as venue:
        yield _ask(venue)


def _ask(venue: Venue) -> dict[str, Any]:
    account = venue.open_account()
    venue.refill(account)
    option = venue.option
    for kind, fields in (
        ("split", {"symbol": "F", "parameters": {"ratio": "0.1"}}),
        ("symbol_change", {"symbol": "F", "parameters": {"new_symbol": "FORD"}}),
    ):
        requests.post(f"{venue.url}/admin/faults", json={"kind": kind, **fields}, timeout=20).raise_for_status()
    for hours in (1, 25):
        to = (START + timedelta(hours=hours)).isoformat()
        requests.post(f"{venue.url}/admin/advance", json={"to": to}, timeout=60).raise_for_status()
        for symbol in ("AAPL", option):
            quote = {"symbol": symbol, "bid": 5, "ask": 6, "last": 5.5, "trade_size": 3}
            requests.post(f"{venue.url}/admin/quote", json=quote, timeout=20).raise_for_status()
    requests.post(f"{venue.url}/admin/advance", json={"seconds": 60}, timeout=20).raise_for_status()

    headers = {"APCA-API-KEY-ID": account.key, "APCA-API-SECRET-KEY": account.secret}

    def get(path: str, method: str = "GET") -> Any:
        answer = requests.request(method, venue.url + path, headers=headers, timeout=20)
        assert answer.status_code < 300, answer.text
        return answer.json()

    positions = get("/v2/positions")
    return {
        "account": get("/v2/account"),
        "configurations": get("/v2/account/configurations"),
        "asset": get("/v2/assets/AAPL"),
        "contracts": get("/v2/options/contracts"),
        "contract": get(f"/v2/options/contracts/{option}"),
        "order": get("/v2/orders?status=all&nested=true"),
        "position": positions,
        "activities": get("/v2/account/activities"),
        "calendar": get("/v2/calendar?start=2026-11-18&end=2026-11-20"),
        "clock": get("/v2/clock"),
        "stock.bars": get(f"/v2/stocks/bars?symbols=AAPL&timeframe=1Min&{_HISTORY}"),
        "stock.trades": get(f"/v2/stocks/trades?symbols=AAPL&{_HISTORY}"),
        "stock.quotes": get(f"/v2/stocks/quotes?symbols=AAPL&{_HISTORY}"),
        "stock.auctions": get(f"/v2/stocks/auctions?symbols=AAPL&{_HISTORY}"),
        "stock.latest.bars": get("/v2/stocks/bars/latest?symbols=AAPL"),
        "stock.latest.trades": get("/v2/stocks/trades/latest?symbols=AAPL"),
        "stock.latest.quotes": get("/v2/stocks/quotes/latest?symbols=AAPL"),
        "stock.snapshots": get("/v2/stocks/snapshots?symbols=AAPL"),
        "option.bars": get(f"/v1beta1/options/bars?symbols={option}&timeframe=1Min&{_HISTORY}"),
        "option.trades": get(f"/v1beta1/options/trades?symbols={option}&{_HISTORY}"),
        "option.latest.trades": get(f"/v1beta1/options/trades/latest?symbols={option}"),
        "option.latest.quotes": get(f"/v1beta1/options/quotes/latest?symbols={option}"),
        "option.snapshots": get(f"/v1beta1/options/snapshots?symbols={option}"),
        "corporate": get(f"/v1/corporate-actions?{_HISTORY}"),
        "closed": get("/v2/positions", "DELETE"),
        "cancelled": get("/v2/orders", "DELETE"),
    }


@needs_data
@pytest.mark.parametrize(("name", "raw"), PAYLOADS)
def test_payload_parses_and_has_our_shape(answers: dict[str, Any], name: str, raw: str) -> None:
    theirs = json.loads(raw)
    compact = json.dumps(theirs)
    if any(word in compact for word in NOT_COMPARED):
        return
    kind = _kind(name, theirs, compact)
    ours = answers[kind]
    noun = "by symbol" if kind == "stock.snapshots" else kind.rpartition(".")[2]
    differences = _differences(theirs, ours, noun)
    assert not differences, f"{kind}: {differences}"


_TELLING = (
    ("next_open", "clock"),
    ("no_shorting", "configurations"),
    ("buying_power", "account"),
    ("avg_entry_price", "position"),
    ("fractionable", "asset"),
    ("client_order_id", "order"),
)


def _kind(name: str, theirs: Any, compact: str) -> str:
    """Which endpoint a payload comes from."""
    by_file = {
        "test_account_activities_routes.py": "activities",
        "test_asset_routes.py": "asset",
        "test_order_routes.py": "order",
        "test_corporate_actions.py": "corporate",
    }
    first = theirs[0] if isinstance(theirs, list) else theirs
    if set(first) in ({"id", "status"}, {"id", "status", "body"}):
        return "cancelled"
    if "option_contracts" in first:
        return "contracts"
    if "strike_price" in first:
        return "contract"
    if "session_open" in first:
        return "calendar"
    if "corporate_actions" in first:
        return "corporate"
    for key, kind in _TELLING:
        if key in first:
            return kind
    file = name.partition(":")[0]
    if file in by_file:
        return by_file[file]
    if file == "test_position_routes.py":
        return "closed"
    market = "option" if "option" in file else "stock"
    if market == "stock" and "latestTrade" in compact:
        return "stock.snapshots"
    if (
        "next_page_token" not in first
        and "snapshots" not in first
        and next(iter(first)) in ("bars", "trades", "quotes")
    ):
        return f"{market}.latest.{next(iter(first))}"
    return f"{market}.{next(key for key in _BY_SYMBOL if key in first)}"


_BY_SYMBOL = {"bars": "bar", "trades": "trade", "quotes": "quote", "snapshots": "snapshot", "auctions": "auctions"}
_NOUNS = {
    "latestTrade": "trade",
    "latestQuote": "quote",
    "minuteBar": "bar",
    "dailyBar": "bar",
    "prevDailyBar": "bar",
    "option_contracts": "contract",
    "legs": "order",
    "o": "auction",
    "c": "auction",
}


def _objects(noun: str, value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every JSON object of a payload with what it is; maps by symbol are taken apart."""
    if isinstance(value, list):
        for item in value:
            yield from _objects(noun, item)
    elif isinstance(value, dict) and noun == "by symbol":
        for item in value.values():
            yield from _objects("snapshot", item)
    elif isinstance(value, dict):
        if noun == "body" and "code" in value:
            noun = "refusal"
        yield noun, value
        for key, part in value.items():
            if key in _BY_SYMBOL and isinstance(part, dict):
                for item in part.values():
                    yield from _objects(_BY_SYMBOL[key], item)
            elif isinstance(part, (dict, list)):
                yield from _objects("order" if key == "body" and "id" in part else _NOUNS.get(key, key), part)


def _types(noun: str, value: Any) -> dict[tuple[str, str], set[str]]:
    """The JSON types of each key of each kind of object."""
    found: dict[tuple[str, str], set[str]] = {}
    for name, item in _objects(noun, value):
        for key, part in item.items():
            found.setdefault((name, key), set()).add(_json_type(part))
    return found


def _json_type(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    names = {int: "number", float: "number", str: "string", list: "array", dict: "object", type(None): "null"}
    return names[type(value)]


def _differences(theirs: Any, ours: Any, noun: str) -> list[str]:
    """Keys of theirs that ours lacks or has with another type; null goes with every type."""
    mine = _types(noun, ours)
    known = {name for name, _ in mine}
    found = []
    for (name, key), kinds in _types(noun, theirs).items():
        if key in ALLOWED or f"{name}.{key}" in ALLOWED or name in NOT_MADE:
            continue
        if name not in known:
            found.append(f"ours has no {name}")
        elif (name, key) not in mine:
            found.append(f"{name}.{key} is missing")
        elif kinds - {"null"} and mine[name, key] - {"null"} and not kinds & mine[name, key]:
            found.append(f"{name}.{key}: theirs {sorted(kinds)}, ours {sorted(mine[name, key])}")
    return sorted(set(found))
