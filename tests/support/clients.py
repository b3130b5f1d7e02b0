"""The Alpaca adapter, pointed at a fake venue."""

from dataclasses import replace

from tests.support.fake_venue import FakeVenue
from tests.support.waiting import PATIENCE

from exitguard.broker.budget import RequestBudget
from exitguard.broker.port import UnreadableRow
from exitguard.broker.rest import AlpacaBroker, AlpacaEndpoints
from exitguard.broker.transport import Timeouts

# A slow machine must not be taken for a venue that does not answer.
PATIENT = Timeouts(
    connect=PATIENCE, total=PATIENCE, exit_total=PATIENCE, budget=PATIENCE, exit_budget=PATIENCE, retry=0.001
)
# For a venue that never answers: long enough that the request surely arrives there first.
IMPATIENT = replace(PATIENT, total=1.0, exit_total=1.0)


def make_broker(
    venue: FakeVenue,
    *,
    timeouts: Timeouts = PATIENT,
    budget: RequestBudget | None = None,
    unreadable: list[UnreadableRow] | None = None,
) -> AlpacaBroker:
    """A client with more budget than a test uses up."""
    return AlpacaBroker(
        AlpacaEndpoints(venue.rest_url, venue.rest_url),
        "key-1",
        "secret-1",
        account_name="large",
        budget=budget or RequestBudget(100_000),
        data_budget=RequestBudget(100_000),
        timeouts=timeouts,
        on_unreadable=unreadable.append if unreadable is not None else None,
    )
