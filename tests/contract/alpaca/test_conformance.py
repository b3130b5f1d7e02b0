"""schemathesis over both of Alpaca's OpenAPI documents, against a running exchange.

Every operation that the exchange means to serve gets generated requests, valid and broken ones; identifiers that exist
are put in where a generator could only guess. No answer may be a 5xx, and each must have the shape that the document,
as amended in `documents.py`, demands. `make conformance` runs more cases with fresh seeds.
"""

import os
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from tests.contract.alpaca.documents import (
    DATA,
    LEFT_OUT,
    NEVER_GRANTED,
    TRADING,
    UNDOCUMENTED_REFUSALS,
    amended,
    is_in_scope,
)
from tests.contract.alpaca.venue import Venue, running_venue

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import schemathesis
    from schemathesis import GenerationMode
    from schemathesis.checks import content_type_conformance, not_a_server_error, response_schema_conformance

CASES = int(os.environ.get("EXITGUARD_CONFORMANCE_CASES", "12"))
SEED = int(os.environ.get("EXITGUARD_CONFORMANCE_SEED", "1"))
# Market data leaves out what it does not have: a snapshot without a trade, an envelope without a currency.
TRADING_TITLE = amended(TRADING)["info"]["title"]
_METHODS = ("get", "post", "put", "patch", "delete")
_CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance]

# Choices up to this one put in a known value every time.
MOST_SANE = 6
SANE_CASES = 40
CHANGES: list[dict[str, Any]] = [{"qty": "2"}, {"limit_price": "251"}, {"limit_price": "299.5"}, {"stop_price": "151"}]
ORDERS: list[dict[str, Any]] = [
    {"symbol": "AAPL", "qty": "1", "side": "buy", "type": "market", "time_in_force": "day"},
    {"symbol": "AAPL", "qty": 2, "side": "sell", "type": "limit", "time_in_force": "gtc", "limit_price": 250.5},
    {"symbol": "F", "notional": "100", "side": "buy", "type": "market", "time_in_force": "day"},
    {"symbol": "MSFT", "qty": "1", "side": "buy", "type": "stop_limit", "time_in_force": "day", "stop_price": "600",
     "limit_price": "601"},
    {"symbol": "MSFT", "qty": "1", "side": "buy", "type": "market", "time_in_force": "day", "order_class": "bracket",
     "take_profit": {"limit_price": "900"}, "stop_loss": {"stop_price": "20", "limit_price": "19"}},
]  # fmt: skip


def _operations() -> list[Any]:
    found = []
    for name in (TRADING, DATA):
        document = amended(name)
        schema = schemathesis.openapi.from_dict(document)
        for path, item in document["paths"].items():
            if is_in_scope(path):
                found.extend(
                    pytest.param(schema, path, method.upper(), id=f"{method.upper()} {path}")
                    for method in _METHODS
                    if method in item
                )
    return found


@pytest.fixture(scope="module")
def venue() -> Iterator[Venue]:
    with running_venue() as running:
        yield running


@pytest.mark.parametrize(("schema", "path", "method"), _operations())
def test_answers_as_the_document_says(venue: Venue, schema: Any, path: str, method: str) -> None:
    print(f"Again: make conformance SEED={SEED} CASES={CASES} ARGS='-k \"{method} {path}\"'")
    operation = schema[path][method]
    account = venue.open_account()
    headers = {"APCA-API-KEY-ID": account.key, "APCA-API-SECRET-KEY": account.secret}

    granted = 0

    def one_request(case: Any, picks: list[int]) -> None:
        nonlocal granted
        _put_in(case, venue.refill(account).values, picks)
        with requests.Session() as session:
            answer = case.call(base_url=venue.url, headers=headers, session=session, timeout=20)
        try:
            check(case, answer)
        except AssertionError as complaint:
            complaint.add_note(f"{case.as_curl_command()}\n{answer.status_code} {answer.text[:2000]}")
            raise
        granted += answer.status_code < 400

    def one_request_until_granted(case: Any, picks: list[int]) -> None:
        if not granted:
            one_request(case, picks)

    _ask(operation, GenerationMode.POSITIVE, CASES, one_request)
    if operation.query or operation.path_parameters or operation.body:
        _ask(operation, GenerationMode.NEGATIVE, max(CASES // 3, 1), one_request)
    if f"{method} {path}" not in NEVER_GRANTED:
        _ask(operation, GenerationMode.POSITIVE, SANE_CASES, one_request_until_granted, sane=True)
        assert granted, "no generated request was granted: nothing but refusals has been tested"


def _ask(operation: Any, mode: GenerationMode, cases: int, request: Any, *, sane: bool = False) -> None:
    """Send generated requests. `sane` ones hold known values only, so that one of them is bound to be granted."""
    limits = settings(
        max_examples=cases,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    picks = st.lists(st.integers(0, MOST_SANE if sane else 999), min_size=6, max_size=6)

    def one(case: Any, picks: list[int]) -> None:
        request(case, picks)

    seed(SEED)(limits(given(operation.as_strategy(generation_mode=mode), picks)(one)))()


def check(case: Any, answer: Any) -> None:
    """What every answer must be."""
    refused = answer.status_code in UNDOCUMENTED_REFUSALS
    documented = case.operation.definition.raw["responses"].keys()
    assert refused or str(answer.status_code) in documented, f"{answer.status_code} is not documented"
    if refused:
        refusal_has_alpacas_shape(answer)
    case.validate_response(answer, checks=_CHECKS)
    if not refused and answer.content:
        missing = sorted(_missing(answer.json(), _shape(case, answer), case.operation.schema.raw_schema))
        assert not missing, f"fields of the document that the answer lacks: {missing}"


def _shape(case: Any, answer: Any) -> Any:
    content = case.operation.definition.raw["responses"][str(answer.status_code)].get("content", {})
    return content.get("application/json", {}).get("schema", {})


def _missing(value: Any, shape: Any, document: Any) -> set[str]:
    """Named properties that an answer lacks, beside those in LEFT_OUT: the documents require hardly any."""
    name = ""
    while "$ref" in shape:
        name = shape["$ref"].rpartition("/")[2]
        shape = document["components"]["schemas"][name]
    if isinstance(value, list):
        return set().union(*(_missing(item, shape.get("items", {}), document) for item in value))
    if not isinstance(value, dict) or document["info"]["title"] != TRADING_TITLE:
        return set()
    properties = shape.get("properties", {})
    lacking = {f"{name}.{field}" for field in properties.keys() - value.keys() - LEFT_OUT.get(name, {}).keys()}
    return lacking.union(*(_missing(value[field], properties[field], document) for field in properties.keys() & value))


def refusal_has_alpacas_shape(answer: Any) -> None:
    """A refusal is a JSON object with a code that begins with the status, and a message."""
    body = answer.json()
    assert isinstance(body["code"], int), body
    assert str(body["code"]).startswith(str(answer.status_code)) or body["code"] == 40010001, body
    assert isinstance(body["message"], str), body
    assert body["message"] not in ("", "endpoint not found.", "method not allowed."), body


def _put_in(case: Any, known: dict[str, list[str]], picks: list[int]) -> None:
    """Replace most generated identifiers by such that exist, and most orders by such that make sense."""
    is_sane = max(picks) <= MOST_SANE
    pick = iter(picks)
    for parameters in (case.path_parameters, case.query):
        for name in list(parameters or ()):
            choice = next(pick, 0)
            values = known.get(name)
            if values and choice % 10 < 8:
                parameters[name] = values[choice % len(values)]
            elif is_sane and parameters is case.query:
                del parameters[name]
    if isinstance(case.body, dict) and picks[5] % 10 < 7:
        _make_sense(case, known, picks, is_sane=is_sane)


def _make_sense(case: Any, known: dict[str, list[str]], picks: list[int], *, is_sane: bool) -> None:
    path, body = case.operation.path, case.body
    if path in ("/v2/orders", "/v2/orders/{order_id}"):
        templates = ORDERS if path == "/v2/orders" else CHANGES
        name = sorted(body)[picks[4] % len(body)] if body and not is_sane else None
        case.body = {**templates[picks[5] % len(templates)], **({name: body[name]} if name else {})}
    elif path.startswith("/v2/watchlists") and case.operation.method.upper() == "POST" and path != "/v2/watchlists":
        case.body = {**body, "symbol": known["symbol"][picks[5] % len(known["symbol"])]}
    elif path.startswith("/v2/watchlists") and is_sane:
        case.body = {"name": f"list {picks}", "symbols": ["AAPL", "F"]}
    elif is_sane:
        case.body = {}
