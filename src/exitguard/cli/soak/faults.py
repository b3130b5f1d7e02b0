"""What strikes during a soak: faults that are on all the time, and events that come minute by minute."""

from collections.abc import Sequence
from random import Random

from exitguard.cli.demo.venue import Venue

# Share of the requests, updates and quotes that each of these spoils. Those that cost a client wall time (a timeout, a
# rate limit, a half-dead session) are left to the simulator and the tests: they would only stretch the hour.
STANDING: tuple[tuple[str, float, str | None], ...] = (
    ("http_504_after", 0.01, "POST /v2/orders"),
    ("http_504_before", 0.01, "POST /v2/orders"),
    ("reset_after", 0.01, "POST /v2/orders"),
    ("reset_before", 0.01, "POST /v2/orders"),
    ("http_504_after", 0.01, "DELETE /v2/orders"),
    ("http_500", 0.002, None),
    ("html_error", 0.001, None),
    ("malformed_body", 0.001, None),
    ("empty_list", 0.005, "GET /v2/positions"),
    ("accepted_then_rejected", 0.01, None),
    ("partial_fill_then_cancel", 0.02, None),
    ("cancel_lost", 0.01, None),
    ("stream_drop", 0.02, None),
    ("stream_duplicate", 0.02, None),
    ("stream_reorder", 0.02, None),
    ("stream_unknown", 0.01, None),
    ("quote_drop", 0.01, None),
    ("quote_stale", 0.002, None),
    ("quote_one_sided", 0.002, None),
    ("quote_zero", 0.001, None),
    ("quote_crossed", 0.002, None),
    ("quote_nan", 0.001, None),
)
# Each minute one account loses each of these, and one position in this many is closed by hand behind our back.
_CUT = ("stream_disconnect", "data_disconnect")
_CLOSED_BY_HAND = 2_000


async def switch_on(venue: Venue, seed: int) -> list[int]:
    """Switch the standing faults on; returns their numbers."""
    numbers = []
    for kind, probability, endpoint in STANDING:
        fields = {} if endpoint is None else {"endpoint": endpoint}
        numbers.append(await venue.fault(kind, probability=probability, seed=seed, **fields))
    return numbers


async def strike(venue: Venue, chance: Random, held: Sequence[tuple[str, str]]) -> None:
    """The events of one minute; `held` are account and symbol of every open position."""
    accounts = sorted({account for account, _ in held})
    for kind in _CUT:
        await venue.fault(kind, account=chance.choice(accounts), count=1)
    for account, symbol in chance.sample(held, max(1, len(held) // _CLOSED_BY_HAND)):
        await venue.fault("external_close", account=account, symbol=symbol)
