"""Broker adapters from settings: one account, one credential, one adapter (I4)."""

from urllib.parse import urlsplit

from exitguard.broker.budget import RequestBudget
from exitguard.broker.market_data import AlpacaMarketData
from exitguard.broker.rest import AlpacaBroker, AlpacaEndpoints
from exitguard.broker.trade_stream import AlpacaTradeStream
from exitguard.config.secrets import Credentials
from exitguard.config.settings import AccountSettings

_STOCK_FEEDS = frozenset({"iex", "sip", "delayed_sip", "boats", "otc"})
_OPTION_FEEDS = frozenset({"indicative", "opra"})
# Looking at a clock that is moved from outside: often, and beside the budget of the account's own requests.
CLOCK_REQUESTS_PER_MINUTE = 100_000


def make_broker(
    account: AccountSettings, found: Credentials, *, requests_per_minute: int | None = None
) -> AlpacaBroker:
    """The REST side of an account."""
    endpoints = AlpacaEndpoints(
        found.rest_url,
        account.data_url,
        stock_feed=feed_of(account.stock_stream_url, _STOCK_FEEDS),
        option_feed=feed_of(account.option_stream_url, _OPTION_FEEDS),
    )
    budget = RequestBudget(requests_per_minute or account.requests_per_minute)
    return AlpacaBroker(endpoints, found.key, found.secret, account_name=account.name, budget=budget)


def make_trade_stream(account: AccountSettings, found: Credentials) -> AlpacaTradeStream:
    """The account's `trade_updates` socket."""
    return AlpacaTradeStream(account.trade_stream_url, found.key, found.secret)


def make_market_data(account: AccountSettings, found: Credentials) -> AlpacaMarketData:
    """The account's quote sockets."""
    return AlpacaMarketData(account.stock_stream_url, account.option_stream_url, found.key, found.secret)


def feed_of(stream_url: str, known: frozenset[str]) -> str | None:
    """The feed that a stream URL names, so that REST quotes come from the same one; None leaves it to the venue."""
    last = urlsplit(stream_url).path.rstrip("/").rpartition("/")[2]
    return last if last in known else None
