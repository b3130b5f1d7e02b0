"""The event stream of account activities: its events as the document says, replay, and what happens from now on."""

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import jsonschema_rs
import pytest
import requests
from tests.contract.alpaca.documents import TRADING, amended
from tests.contract.alpaca.venue import Venue, running_venue

PATH = "/v2beta1/events/activities"
ALL = {"since": "2026-11-01T00:00:00Z", "until": "2026-11-18T15:03:05Z"}


@pytest.fixture(scope="module")
def venue() -> Iterator[Venue]:
    with running_venue() as running:
        yield running


class Account:
    """An account with fills and an option that expired."""

    def __init__(self, venue: Venue) -> None:
        self.venue = venue
        self.account = venue.open_account()
        venue.refill(self.account)
        requests.post(f"{venue.url}/admin/advance", json={"seconds": 10}, timeout=20).raise_for_status()
        self.headers = {"APCA-API-KEY-ID": self.account.key, "APCA-API-SECRET-KEY": self.account.secret}

    def events(self, **query: str) -> list[dict[str, Any]]:
        """A finished range."""
        answer = requests.get(self.venue.url + PATH, params=query, headers=self.headers, timeout=20)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "text/event-stream"
        return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]

    def refusal(self, **query: str) -> int:
        return requests.get(self.venue.url + PATH, params=query, headers=self.headers, timeout=20).status_code


@pytest.fixture(scope="module")
def account(venue: Venue) -> Account:
    return Account(venue)


def test_each_event_is_as_the_document_says(account: Account) -> None:
    document = amended(TRADING)
    schema = {"$ref": "#/components/schemas/ActivityEventV2", "components": document["components"]}
    events = account.events(**ALL)
    assert {event["activity_type"] for event in events} == {"FILL", "OPEXP"}
    for event in events:
        # Non-trade details are `oneOf` forty shapes of which many fit the same object: the envelope is what is checked.
        if event["activity_type"] == "FILL":
            jsonschema_rs.validator_for(schema).validate(event)
    envelope = {"$ref": "#/components/schemas/ActivityEventV2CommonFields", "components": document["components"]}
    for event in events:
        jsonschema_rs.validator_for(envelope).validate(event)


def test_events_are_those_of_the_activities(account: Account) -> None:
    url = f"{account.venue.url}/v2/account/activities?direction=asc"
    listed = requests.get(url, headers=account.headers, timeout=20).json()
    events = account.events(**ALL)
    assert [event["ref_id"] for event in events] == [activity["id"].partition("::")[2] for activity in listed]
    bought = next(event for event in events if event["activity_type"] == "FILL")
    assert Decimal(bought["net_amount"]) == -Decimal(bought["qty"]) * Decimal(bought["price"])


def test_a_replay_begins_at_the_event_that_is_named(account: Account) -> None:
    events = account.events(**ALL)
    assert account.events(since_id=events[1]["event_id"], until_id=events[-1]["event_id"]) == events[1:]
    assert [event["event_id"] for event in events] == sorted(event["event_id"] for event in events)


def test_ranges_that_make_no_sense_are_refused(account: Account) -> None:
    event = account.events(**ALL)[0]["event_id"]
    assert account.refusal(until=ALL["until"]) == 422
    assert account.refusal(until_id=event) == 422
    assert account.refusal(since=ALL["since"], since_id=event) == 422
    assert account.refusal(since_id="not-a-ulid") == 422
    assert account.refusal(since="soon") == 400


def test_without_since_only_what_happens_from_now_on_is_shown(account: Account) -> None:
    order = {"symbol": "F", "qty": 1, "side": "sell", "type": "market", "time_in_force": "day"}
    url, headers = account.venue.url, account.headers
    with requests.get(url + PATH, headers=headers, stream=True, timeout=20) as answer:
        bought = requests.post(f"{url}/v2/orders", json=order, headers=headers, timeout=20).json()
        line = next(line for line in answer.iter_lines() if line.startswith(b"data: "))
    assert json.loads(line[6:])["details"]["order_id"] == bought["id"]
