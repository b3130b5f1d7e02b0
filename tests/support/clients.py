"""The Alpaca adapter, pointed at a fake venue."""

from tests.support.fake_venue import FakeVenue

from exitguard.broker.budget import RequestBudget
from exitguard.broker.port import UnreadableRow
from exitguard.broker.rest import AlpacaBroker, AlpacaEndpoints
from exitguard.broker.transport import Timeouts

# Short enough that a test of a timeout does not take long.
QUICK = Timeouts(connect=1.0, total=0.3, exit_total=0.2, budget=0.5, exit_budget=0.2, retry=0.001)


def make_broker(
    venue: FakeVenue, *, timeouts: Timeouts = QUICK, unreadable: list[UnreadableRow] | None = None
) -> AlpacaBroker:
    """A client with short timeouts and more budget than a test uses up."""
    return AlpacaBroker(
        AlpacaEndpoints(venue.rest_url, venue.rest_url),
        "key-1",
        "secret-1",
        account_name="large",
        budget=RequestBudget(100_000),
        data_budget=RequestBudget(100_000),
        timeouts=timeouts,
        on_unreadable=unreadable.append if unreadable is not None else None,
    )
