"""Faults that can be switched on: what they are, whom they hit, how often, and a log of what was injected.

Three kinds of side: `engine` faults act inside the venue, `wire` faults are asked for by the server around it (and by
the market for its quotes), `event` faults happen once, when they are switched on; with a probability or a count they
stay on and may happen every minute of market time.
"""

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from math import nan
from random import Random
from typing import Any

from exitguard.paper.engine.errors import ApiError, unprocessable
from exitguard.paper.engine.fields import body_of, decimal_field, text_field, whole_field

_ENGINE = {
    "accepted_then_rejected": "an accepted order is rejected by the market a moment later",
    "cancel_then_filled": "a cancel is acknowledged, then the order fills all the same",
    "cancel_slow": "an order stays pending_cancel for parameters.seconds (wall, 5)",
    "cancel_lost": "a cancel is acknowledged and never acted on",
    "partial_fill": "a fill takes parameters.fraction (0.5) of the quantity, the rest follows",
    "partial_fill_then_cancel": "a fill takes parameters.fraction (0.5), then the venue cancels the rest",
    "overfill": "the last fill of an order executes parameters.qty (1) more than ordered",
    "fill_withheld": "an order is taken and never filled, marketable or not",
    "expired_early": "the venue expires an order right after accepting it",
    "done_for_day": "the venue parks an order right after accepting it; a GTC order wakes at the next open",
    "replaced_by_venue": "the venue puts an order under a new id that nobody asked for",
    "replace_rejected": "a replacement is acknowledged, then rejected; the old order stays",
    "assignment_lock": "an order that would close all long contracts of an option is refused: assignment lock",
    "expiring_limit": "opening more than parameters.limit (0) contracts that expire today is refused",
    "halt_refused": "an order in a halted symbol is refused (403, code 40310010) instead of waiting",
    "day_trade_denied": "closing what was opened today is refused (403, code 40310100), as it was until June 2026",
    "positions_lag": "GET positions shows a fill only parameters.seconds (wall, 10) later",
    "lookup_lag": "a new order cannot be found by id or client id for parameters.seconds (wall, 1)",
}
_WIRE = {
    "http_504_before": "504 without the request having been carried out",
    "http_504_after": "504 after the request was carried out: the outcome is unknown to the client",
    "timeout_before": "no answer, and the request was not carried out",
    "timeout_after": "no answer, but the request was carried out",
    "reset_before": "connection reset, and the request was not carried out",
    "reset_after": "connection reset after the request was carried out",
    "http_500": "500 with a JSON body",
    "html_error": "502 with an HTML body",
    "rate_limit": "429 with rate limit headers",
    "slow_response": "the answer comes parameters.seconds (wall, 1) late",
    "empty_list": "a list is answered as []",
    "malformed_body": "the answer is cut in the middle",
    "stream_drop": "a trade update is lost",
    "stream_duplicate": "a trade update is sent twice",
    "stream_reorder": "a trade update is sent after its successor",
    "stream_delay": "a trade update is sent parameters.seconds (wall, 1) late",
    "stream_unknown": "an event of an unknown kind is sent before a trade update",
    "stream_null": "a frame with data null is sent before a trade update",
    "stream_mute": "the trade socket answers pings and sends nothing more",
    "stream_disconnect": "the trade socket is cut",
    "stream_half_dead": "after a cut the old session blocks reconnecting for parameters.seconds (wall, 90)",
    "data_mute": "the data socket answers pings and sends nothing more",
    "data_disconnect": "the data socket is cut",
    "data_half_dead": "after a cut the old data session blocks reconnecting with 406 for parameters.seconds (wall, 90)",
    "quote_drop": "a quote is not sent",
    "quote_stale": "a quote carries a timestamp parameters.seconds (300) old",
    "quote_one_sided": "a quote has no bid or no ask",
    "quote_zero": "a quote has neither bid nor ask",
    "quote_crossed": "a quote has its bid above its ask",
    "quote_nan": "a quote has prices that are not numbers",
    "quote_wild": "a quote is wrong by the factor parameters.factor (3)",
    "clock_skew": "GET clock is off by parameters.seconds (30)",
}
_EVENT = {
    "external_close": "somebody closes the position by hand",
    "external_add": "somebody adds parameters.qty (1) to the position by hand",
    "external_flip": "somebody closes the position and opens parameters.qty (the same) on the other side",
    "liquidation": "the broker sells the position out",
    "assignment": "a short option position is assigned",
    "exercise": "a long option position is exercised by the broker",
    "halt": "trading in the symbol stops",
    "resume": "trading in the symbol goes on",
    "split": "the stock splits parameters.ratio (2) for one",
    "symbol_change": "the symbol becomes parameters.new_symbol",
    "trade_correction": "a print is corrected: the newest but parameters.back (0), by parameters.factor (0.995)",
    "trade_cancel": "a print is cancelled: the newest but parameters.back (0)",
    "account_block": "trading is blocked for the account",
    "account_unblock": "trading is allowed again for the account",
}
FAULT_KINDS: dict[str, dict[str, str]] = {
    kind: {"side": side, "description": description}
    for side, kinds in (("engine", _ENGINE), ("wire", _WIRE), ("event", _EVENT))
    for kind, description in kinds.items()
}
FIELDS = frozenset({"kind", "probability", "count", "account", "symbol", "endpoint", "seed", "parameters"})
# Parameters that have to be numbers.
_NUMBERS = ("seconds", "fraction", "qty", "factor", "ratio", "limit", "every", "back")
_EVERY_SECONDS = 60.0
_LOG_LENGTH = 10_000
_MAX_FAULTS = 1_000
# An account and a symbol that an event fault can hit; None where the event is not about one.
EventTarget = tuple[str | None, str | None]


@dataclass(slots=True)
class Fault:
    """One fault that is switched on. None as account, symbol or endpoint means any; `count` None means no end."""

    id: int
    kind: str
    chance: Random
    probability: float = 1.0
    count: int | None = None
    account: str | None = None
    symbol: str | None = None
    endpoint: str | None = None
    seed: int = 0
    injected: int = 0
    parameters: dict[str, Any] = field(default_factory=dict)
    # When an event that stays on is tried next; None before its first time.
    due: datetime | None = None

    def seconds(self, default: float) -> float:
        """The parameter `seconds`."""
        return self.number("seconds", default)

    def number(self, name: str, default: float) -> float:
        """A numeric parameter."""
        return float(self.parameters.get(name, default))

    def to_json(self) -> dict[str, Any]:
        """As the admin API shows it."""
        return {
            "id": self.id,
            "kind": self.kind,
            "probability": self.probability,
            "count": self.count,
            "account": self.account,
            "symbol": self.symbol,
            "endpoint": self.endpoint,
            "seed": self.seed,
            "injected": self.injected,
            "parameters": self.parameters,
        }


class Faults:
    """The faults of one venue and the log of what was injected."""

    def __init__(self, seed: int, now: Callable[[], str], on_event: Callable[[Fault], None]) -> None:
        self._seed = seed
        self._now = now
        self._on_event = on_event
        self._faults: dict[int, Fault] = {}
        self._by_kind: dict[str, list[Fault]] = {}
        # Events that stay on.
        self._events: dict[int, Fault] = {}
        self._next_id = 1
        self.log: deque[dict[str, Any]] = deque(maxlen=_LOG_LENGTH)
        self.injected: Counter[str] = Counter()

    def add(self, specification: Mapping[str, Any]) -> Fault:
        """Switch a fault on. Raises ApiError 422 when it makes no sense.

        Fields: kind; probability (0 to 1, default 1), count (default no end), account, symbol, endpoint (matches when
        it is contained in "METHOD /path"), seed, parameters. An `event` fault happens at once, to what it names; one
        with a probability below 1 or a count above 1 is tried every parameters.every (60) seconds of market time
        instead, on anything that it can hit, until it has happened `count` times.
        """
        body = body_of(specification)
        kind = text_field(body, "kind")
        if kind not in FAULT_KINDS:
            raise unprocessable(f"unknown fault kind {kind!r}", kinds=sorted(FAULT_KINDS))
        unknown = sorted(set(body) - FIELDS)
        if unknown:
            raise unprocessable(f"unknown {', '.join(map(str, unknown))}; known are {', '.join(sorted(FIELDS))}")
        probability = decimal_field(body, "probability")
        if probability is not None and not 0 <= probability <= 1:
            raise unprocessable(f"probability must lie between 0 and 1, was {probability}")
        parameters = body.get("parameters")
        if parameters is not None and not isinstance(parameters, Mapping):
            raise unprocessable("parameters must be an object")
        _check_numbers(kind, parameters or {})
        if len(self._faults) >= _MAX_FAULTS:
            raise unprocessable(f"at most {_MAX_FAULTS} faults can be on at once")
        count = whole_field(body, "count", 0, 0, 10**9)
        seed = whole_field(body, "seed", self._seed, -(10**11), 10**11)
        fault = Fault(
            id=self._next_id,
            kind=kind,
            chance=Random(f"{seed}:{kind}:{self._next_id}"),  # noqa: S311 - repeatability is the point
            probability=1.0 if probability is None else float(probability),
            count=count or None,
            account=text_field(body, "account"),
            symbol=text_field(body, "symbol"),
            endpoint=text_field(body, "endpoint"),
            seed=seed,
            parameters=dict(parameters or {}),
        )
        self._next_id += 1
        is_event = FAULT_KINDS[kind]["side"] == "event"
        if is_event and fault.probability == 1.0 and (fault.count or 1) == 1:
            self._on_event(fault)
            self._record(fault, fault.account, fault.symbol, None)
            return fault
        self._faults[fault.id] = fault
        self._by_kind.setdefault(kind, []).append(fault)
        if is_event:
            self._events[fault.id] = fault
        return fault

    def try_events(
        self,
        now: datetime,
        targets: Callable[[Fault], Sequence[EventTarget]],
        happen: Callable[[Fault], None],
    ) -> None:
        """Try the events that stay on and are due by the market's time `now`; `targets` tells what one can hit."""
        for fault in list(self._events.values()):
            every = timedelta(seconds=fault.number("every", _EVERY_SECONDS))
            while fault.id in self._events and (fault.due is None or fault.due <= now):
                fault.due = (fault.due or now) + every
                if fault.chance.random() >= fault.probability:
                    continue
                found = targets(fault)
                if found:
                    self._try_event(fault, *fault.chance.choice(found), happen)

    def _try_event(
        self, fault: Fault, account: str | None, symbol: str | None, happen: Callable[[Fault], None]
    ) -> None:
        try:
            happen(replace(fault, account=account, symbol=symbol))
        except ApiError as refusal:
            specification = {"kind": fault.kind, "account": account, "symbol": symbol}
            self.note_failure(specification, str(refusal.body.get("message")))
            return
        self._record(fault, account, symbol, None)
        if fault.count is not None and fault.injected >= fault.count:
            self.remove(fault.id)

    def remove(self, fault_id: int) -> bool:
        """Switch one fault off; False when it was not on."""
        fault = self._faults.pop(fault_id, None)
        if fault is None:
            return False
        same = self._by_kind[fault.kind]
        same.remove(fault)
        if not same:
            del self._by_kind[fault.kind]
        self._events.pop(fault_id, None)
        return True

    def clear(self) -> None:
        """Switch every fault off; the log stays."""
        self._faults.clear()
        self._by_kind.clear()
        self._events.clear()

    @property
    def has_events(self) -> bool:
        """Whether any event fault stays on."""
        return bool(self._events)

    def is_on(self, kind: str) -> bool:
        """Whether any fault of this kind is on: lets a hot path skip the question for each item."""
        return kind in self._by_kind

    def strike(
        self,
        kind: str,
        *,
        account: str | None = None,
        symbol: str | None = None,
        endpoint: str | None = None,
        applies: Callable[[Fault], bool] | None = None,
    ) -> Fault | None:
        """Decide whether a fault of this kind hits now; a hit is counted and logged. None almost always, and cheap.

        `applies` says whether a fault with its parameters is about what happens here.
        """
        candidates = self._by_kind.get(kind)
        if not candidates:
            return None
        for fault in candidates:
            if fault.account is not None and fault.account != account:
                continue
            if fault.symbol is not None and fault.symbol != symbol:
                continue
            if fault.endpoint is not None and (endpoint is None or fault.endpoint not in endpoint):
                continue
            if applies is not None and not applies(fault):
                continue
            if fault.probability < 1.0 and fault.chance.random() >= fault.probability:
                continue
            self._record(fault, account, symbol, endpoint)
            if fault.count is not None and fault.injected >= fault.count:
                self.remove(fault.id)
            return fault
        return None

    def _record(self, fault: Fault, account: str | None, symbol: str | None, endpoint: str | None) -> None:
        fault.injected += 1
        self.injected[fault.kind] += 1
        self.log.append(
            {
                "at": self._now(),
                "fault": fault.id,
                "kind": fault.kind,
                "account": account,
                "symbol": symbol,
                "endpoint": endpoint,
            }
        )

    def note_failure(self, specification: Mapping[str, Any], why: str) -> None:
        """Log a planned fault that could not happen when its time had come."""
        place = {name: specification.get(name) for name in ("kind", "account", "symbol", "endpoint")}
        self.log.append({"at": self._now(), "fault": None, **place, "failed": why})

    def to_json(self) -> dict[str, Any]:
        """The faults that are on, the kinds known, counts and the log of what was injected."""
        return {
            "faults": [fault.to_json() for fault in self._faults.values()],
            "kinds": FAULT_KINDS,
            "injected": dict(self.injected),
            "log": list(self.log),
        }


def _check_numbers(kind: str, parameters: Mapping[str, Any]) -> None:
    for name in _NUMBERS:
        given = parameters.get(name, 1)
        # A clock can be slow as well as fast.
        least = 1.0 if name == "every" else -1e9 if kind == "clock_skew" else 0.0
        try:
            number = nan if isinstance(given, bool) else float(given)
        except (TypeError, ValueError):
            number = nan
        if not least <= number <= 1e9:
            raise unprocessable(f"parameters.{name} must be a number from {least:g} to 1e+09, was {str(given)[:40]!r}")
