"""Alpaca's two OpenAPI documents, and in writing whatever we do not hold against the exchange."""

import copy
import importlib.util
import json
from functools import cache
from pathlib import Path
from typing import Any

TRADING = "trading-api"
DATA = "market-data-api"

# Parts of Alpaca that are no part of the paper exchange: operations whose path begins so are not tested.
OUT_OF_SCOPE = {
    "/v1/locates": "stock loans for hard-to-borrow shorts: the exchange lends every stock that is marked shortable",
    "/v2/tokenization": "tokenised shares are no market that exitguard trades",
    "/v2/wallets": "crypto wallets are no market that exitguard trades",
    "/v1beta3/crypto": "crypto is no market that exitguard trades",
    "/v1beta1/forex": "currency rates are no stock or option data",
    "/v1beta1/fixed_income": "bonds are no market that exitguard trades",
    "/v1beta1/news": "the exchange's market makes no news",
    "/v1beta1/logos": "pictures",
    "/v1beta1/events/corporate-actions": "another host's; /v1/corporate-actions has the same facts",
}

# Operations that a generator of requests cannot test.
TESTED_OTHERWISE = {
    "/v2beta1/events/activities": "an event stream without an end: test_activity_events reads its events",
}

# Operations that need a state of the market that the generated requests do not meet; their refusals are checked.
NEVER_GRANTED = {
    "POST /v2/positions/{symbol_or_contract_id}/do-not-exercise": "only on the day of expiry",
}

# Fields that the documents name and the exchange leaves out, with the reason.
LEFT_OUT: dict[str, dict[str, str]] = {
    "Position": {
        "avg_entry_swap_rate": "accounts in another currency only",
        "prev_swap_rate": "accounts in another currency only",
        "swap_rate": "accounts in another currency only",
        "usd": "accounts in another currency only",
    },
    "Assets": {
        "min_order_size": "crypto only",
        "min_trade_increment": "crypto only",
        "price_increment": "crypto only",
    },
    "Order": {
        "group_id": "bracket, OCO and OTO orders only",
        "group_role": "bracket, OCO and OTO orders only",
        "ratio_qty": "legs of multi-leg orders only",
    },
    "OrderLeg": {
        "group_id": "bracket, OCO and OTO orders only",
        "group_role": "bracket, OCO and OTO orders only",
    },
    "OptionContract": {"deliverables": "only with show_deliverables"},
    "CorporateAnnouncement": {"effective_date": "mergers and reorganisations only"},
    "PortfolioHistory": {"base_value_asof": "only where the account had a close before the first point"},
    "public_market": {"bic": "banks only"},
    "calendar_day": {"lunch_start": "no US market has lunch", "lunch_end": "no US market has lunch"},
}

# Where the document is stricter than Alpaca itself, or where the official SDK needs something else.
# (document, path into it, what is put there instead, why)
AMENDMENTS: list[tuple[str, tuple[str, ...], Any, str]] = [
    (TRADING, ("components", "schemas", "Order", "properties", "symbol", "minLength"), 0,
     'the parent of a multi-leg order has the symbol "" (reference 2)'),
    (TRADING, ("components", "schemas", "Order", "properties", "asset_class"), {"type": "string"},
     'the parent of a multi-leg order has the asset class "" (reference 2)'),
    (TRADING, ("components", "schemas", "Order", "properties", "side"), {"enum": ["buy", "sell", ""]},
     'the parent of a multi-leg order may have the side "" (reference 2)'),
    (TRADING, ("components", "schemas", "Order", "properties", "position_intent"),
     {"enum": ["buy_to_open", "buy_to_close", "sell_to_open", "sell_to_close", ""]},
     "the parent of a multi-leg order has no intent of its own: its legs have"),
    (TRADING, ("components", "schemas", "OrderLeg", "properties", "type"), {"type": "string"},
     'the legs of a multi-leg order have the type "" (reference 2)'),
    (TRADING, ("components", "schemas", "Order", "properties", "type"), {"type": "string"},
     'the same legs, asked for by their own ids'),
    (TRADING, ("components", "schemas", "PositionClosedResponse", "properties", "body"),
     {"anyOf": [{"$ref": "#/components/schemas/Order"}, {"$ref": "#/components/schemas/Error"}]},
     "a position that cannot be closed has the refusal in the place of the order (reference 1.1)"),
    (TRADING, ("components", "schemas", "ActivityV2DetailTRD", "properties", "execution_type", "enum"),
     ["fill", "partial_fill", "trade_correct", "trade_bust"],
     "partial_fill was always sent and is documented since 6 November 2026"),
    (TRADING, ("components", "schemas", "Assets", "properties", "exchange"),
     {"$ref": "#/components/schemas/ExchangeForPosition"},
     'an option contract is listed on no single exchange: "", as the document itself has it for positions'),
    (TRADING, ("components", "schemas", "OptionContract", "properties", "close_price", "type"), ["string", "null"],
     "null before the first close, as in the SDK's own fixtures (test_option_routes)"),
    (TRADING, ("components", "schemas", "OptionContract", "properties", "close_price_date", "type"),
     ["string", "null"], "null before the first close, as in the SDK's own fixtures (test_option_routes)"),
    (TRADING, ("components", "schemas", "OptionContract", "properties", "open_interest_date", "type"),
     ["string", "null"], "null before the first close, like close_price_date"),
    (TRADING, ("components", "schemas", "CorporateAnnouncement", "properties", "ca_type"), {"type": "string"},
     "lower case: the official SDK refuses the capitals of the document"),
    (TRADING, ("components", "schemas", "NonTradeActivities", "properties", "date", "format"), "date",
     "a day without a time, as in the SDK's own fixtures (test_account_activities_routes)"),
    (TRADING, ("paths", "/v2/account/activities/{activity_type}", "get", "responses", "200", "content",
               "application/json", "schema", "items"),
     {"anyOf": [{"$ref": "#/components/schemas/TradingActivities"},
                {"$ref": "#/components/schemas/NonTradeActivities"}]},
     "with oneOf every activity that fits both shapes is wrong; the other activities endpoint says anyOf"),
]  # fmt: skip

# Refusals that the documents leave out for nearly every operation; the reference lists them (1.5), and their body is
# checked by `refusal_has_alpacas_shape` instead.
UNDOCUMENTED_REFUSALS = frozenset({400, 401, 403, 404, 405, 422})


@cache
def _folder() -> Path:
    """Where the documents are. The package is only looked for, never imported: its dependencies are not installed."""
    spec = importlib.util.find_spec("alpaca_mcp_server")
    assert spec is not None, "the dev dependency alpaca-mcp-server is not installed: make setup"
    assert spec.origin is not None
    return Path(spec.origin).parent / "specs"


@cache
def original(name: str) -> dict[str, Any]:
    """A document as it ships."""
    document: dict[str, Any] = json.loads((_folder() / f"{name}.json").read_text())
    return document


def amended(name: str) -> dict[str, Any]:
    """A document with the amendments above; an amendment that changes nothing any more is an error."""
    document = copy.deepcopy(original(name))
    for where, path, value, reason in AMENDMENTS:
        if where != name:
            continue
        parent = document
        for step in path[:-1]:
            parent = parent[step]
        assert parent.get(path[-1]) != value, f"needless amendment of {path}: {reason}"
        parent[path[-1]] = value
    return document


def is_in_scope(path: str) -> bool:
    """Whether the exchange means to serve a path."""
    return path not in TESTED_OTHERWISE and not path.startswith(tuple(OUT_OF_SCOPE))
