"""What a host of the paper exchange can choose."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path

from exitguard.core.session import SessionCalendar
from exitguard.paper.engine import ExchangeSettings
from exitguard.paper.market.generated import GeneratorSettings, StockProfile
from exitguard.paper.market.option_model import OptionModelSettings
from exitguard.paper.market.recorded import DEFAULT_SPREAD_FRACTION, RecordedBar

DEFAULT_SYMBOLS = ("AAPL", "AMD", "AMZN", "F", "IBM", "META", "MSFT", "NVDA", "SPY", "TSLA")


@dataclass(frozen=True, slots=True)
class SocketLimits:
    """Limits of connections; None means no limit.

    `backlog_bytes` is what may wait for one slow client before it is dropped. `stale_session_seconds` keeps the place
    of a connection that has ended (90 on the real service after a drop). A request's head is at
    most `head_bytes` long and arrives within `head_seconds`, its body within `body_seconds`. Wall seconds throughout.
    """

    one_trade_stream_per_account: bool = True
    data_connections_per_account: int | None = 1
    stock_symbols: int | None = None
    option_quotes: int | None = 1000
    backlog_bytes: int = 4 << 20
    auth_seconds: float = 10.0
    stale_session_seconds: float = 0.0
    largest_message: int = 1 << 20
    head_bytes: int = 64 << 10
    head_seconds: float = 60.0
    body_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class DataPlan:
    """What a subscription of Alpaca's gives: requests a minute on each host, sockets' limits, feeds that it lacks."""

    requests_per_minute: int
    limits: SocketLimits
    feeds_withheld: frozenset[str] = frozenset()


# Alpaca's two plans (reference: rate limits and market data); without a plan there is no rate limit, and every feed.
PLANS = {
    "basic": DataPlan(200, SocketLimits(stock_symbols=30, option_quotes=200), frozenset({"sip", "opra"})),
    "plus": DataPlan(10_000, SocketLimits()),
}


@dataclass(frozen=True, slots=True)
class PaperSettings:
    """One exchange.

    Stocks come from `replay` (file or folder of minute bars or recorded quotes), `bars` (bars in memory), from the
    generator for every other symbol of `symbols` (with `replay` only when `generate_missing`), and from `manual`:
    stocks that keep their price until somebody sets another one through the admin API. Without `replay`, `bars`,
    `manual` and `symbols` the default symbols are generated. `moods` names what generated stocks are made to do
    (`market.moods`), by symbol, "*" for every other one.

    `start` None: the recorded data's first session, else the newest session of the calendar that is not in the future,
    each at its open. `speed` is market seconds a wall second. When the market is stepped as fast as it goes, clients
    that were just told something get `reaction_seconds` of wall time to act before the next round of quotes. `port` 0
    takes a free one. `state` is the folder in which accounts, orders, positions and the rest are kept over a restart,
    `faults` a file of faults to switch on (`fault_file`).
    `requests_per_minute` None means that no rate limit is kept; trading and data requests are counted apart, as on two
    hosts. `feeds_withheld` names feeds to which nobody is subscribed.
    """

    accounts: Mapping[str, Decimal]
    host: str = "127.0.0.1"
    port: int = 0
    seed: int = 1
    start: datetime | None = None
    speed: float = 1.0
    paused: bool = False
    symbols: Sequence[str] | None = None
    replay: Path | None = None
    generate_missing: bool = False
    bars: Mapping[str, Sequence[RecordedBar]] | None = None
    spread_fraction: float = DEFAULT_SPREAD_FRACTION
    manual: Mapping[str, Decimal] = field(default_factory=dict)
    moods: Mapping[str, str] = field(default_factory=dict)
    generator: GeneratorSettings = field(default_factory=GeneratorSettings)
    profiles: Mapping[str, StockProfile] = field(default_factory=dict)
    options: OptionModelSettings = field(default_factory=OptionModelSettings)
    exchange: ExchangeSettings = field(default_factory=ExchangeSettings)
    calendar: SessionCalendar | None = None
    state: Path | None = None
    faults: Path | None = None
    requests_per_minute: int | None = None
    feeds_withheld: frozenset[str] = frozenset()
    reaction_seconds: float = 0.001
    limits: SocketLimits = field(default_factory=SocketLimits)
