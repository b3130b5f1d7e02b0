"""What a host can choose about the venue's behaviour."""

from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class ExchangeSettings:
    """Behaviour of the venue.

    Delays are wall seconds, handed to the host's `schedule`: they open the race windows that a real broker has between
    the answer to a request and its effect. `partial_fill_probability` is 0.10 on Alpaca's own paper venue and 0 here,
    so that a run is repeatable without thinking about it. With `respect_sizes` a fill takes no more than the size that
    the quote shows, and the rest waits for the next quote. `orders_kept` and `activities_kept` bound the memory of each
    account: beyond them the oldest ended orders and activities are forgotten at the start of a day. `executions_kept`
    bounds what the admin API tells of fills, all accounts together.
    """

    accept_delay: float = 0.001
    cancel_delay: float = 0.001
    replace_delay: float = 0.001
    refill_delay: float = 0.001
    partial_fill_probability: float = 0.0
    respect_sizes: bool = False
    options_trading_level: int = 3
    maximum_orders_listed: int = 500
    maximum_open_orders: int = 20_000
    orders_kept: int = 50_000
    activities_kept: int = 100_000
    executions_kept: int = 200_000
    gtc_days: int = 90
    market_collar_below_50: Decimal = Decimal("1.04")
    market_collar: Decimal = Decimal("1.025")
    short_margin: Decimal = Decimal("1.03")
