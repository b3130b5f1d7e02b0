"""The faults: what may go wrong, how often, and how often it did. Each has random numbers of its own from the seed.

Own numbers for each fault mean that leaving one out does not change when the others strike: that is what makes a
failure shrink.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

from exitguard.sim.numbers import numbers


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault. `low` and `high` bound how often it strikes: a chance for each occasion, or seconds between.

    A happening comes by itself at random times; everything else waits for its occasion.
    """

    name: str
    about: str
    low: float
    high: float
    happening: bool = False


_ALL = (
    Fault("submit_answer_lost", "the broker accepts an order and its answer is lost", 0.05, 0.5),
    Fault("submit_lost", "an order is lost on its way", 0.05, 0.5),
    Fault("submit_late", "the answer is a timeout and the order arrives seconds later", 0.05, 0.4),
    Fault("submit_refused", "the broker refuses an order: busy, or an error of its own", 0.05, 0.4),
    Fault("reject_after_accept", "the broker accepts an order and then rejects it", 0.05, 0.3),
    Fault("partial_fill", "an order fills in parts, seconds apart", 0.2, 0.9),
    Fault("overfill", "the venue fills more than was ordered", 0.02, 0.2),
    Fault("done_for_day", "the venue is done with an order for the day, and it stays open", 0.02, 0.2),
    Fault("venue_cancel", "the venue cancels an order of ours, perhaps after a part was filled", 0.05, 0.4),
    Fault("replaced_order", "somebody replaces an order of ours: it goes on under another id", 0.02, 0.2),
    Fault("cancel_slow", "a cancellation takes seconds, and the order may fill meanwhile", 0.1, 0.7),
    Fault("cancel_lost", "a cancellation is lost, or its answer is", 0.1, 0.5),
    Fault("cancel_filled", "a cancellation is accepted and the order fills all the same", 0.05, 0.4),
    Fault("lookup_lag", "an order just sent is not found by its client order id for seconds", 0.1, 0.6),
    Fault("stream_drop", "a trade update is lost", 0.05, 0.6),
    Fault("stream_duplicate", "a trade update comes twice", 0.05, 0.6),
    Fault("stream_late", "a trade update comes late, after newer ones", 0.05, 0.5),
    Fault("stream_unknown", "trade updates that nobody can read or knows", 120, 600, happening=True),
    Fault("stream_mute", "the trade stream goes silent without saying so", 200, 900, happening=True),
    Fault("stream_break", "the trade stream breaks and comes back", 120, 600, happening=True),
    Fault("stream_blocked", "a half-dead session keeps the trade stream away for 90 s", 300, 1200, happening=True),
    Fault("market_mute", "quotes stop for a while", 200, 900, happening=True),
    Fault("read_fails", "a question to the broker fails", 0.02, 0.3),
    Fault("slow_answers", "the broker answers after seconds", 0.01, 0.15),
    Fault("broker_down", "the broker answers nothing for a while", 300, 1200, happening=True),
    Fault("rate_limited", "the broker answers everything with 429 for a while", 300, 1200, happening=True),
    Fault("many_orders", "more orders are open than one page of the list shows", 1200, 4000, happening=True),
    Fault("empty_positions", "the broker says that it holds nothing", 0.02, 0.4),
    Fault("lagging_positions", "positions lag fills by up to ten seconds", 0.1, 0.7),
    Fault("external_close", "somebody closes a position, or a part of it, by hand", 200, 900, happening=True),
    Fault("external_add", "somebody adds to a position by hand", 300, 1200, happening=True),
    Fault("external_flip", "somebody turns a position around by hand", 400, 1500, happening=True),
    Fault("external_open", "somebody opens a position that nobody told us of", 300, 1200, happening=True),
    Fault("leg_cancelled", "a bracket's leg is cancelled behind our back", 100, 600, happening=True),
    Fault("liquidation", "the broker sells an option by itself", 400, 1500, happening=True),
    Fault("assignment", "an option is assigned or exercised: gone without an order", 400, 1500, happening=True),
    Fault("split", "a stock is split over night", 60, 900, happening=True),
    Fault("halt", "a stock is halted: no quotes, no fills", 300, 1200, happening=True),
    Fault("quote_stale", "a quote that is minutes old comes again", 0.02, 0.3),
    Fault("quote_one_sided", "a quote without bid or without ask", 0.02, 0.3),
    Fault("quote_zero", "a quote of nothing", 0.02, 0.3),
    Fault("quote_crossed", "a quote whose bid is above its ask", 0.02, 0.3),
    Fault("quote_nan", "a quote that is not a number", 0.02, 0.3),
    Fault("quote_wild", "a quote far from the market, and very wide", 0.02, 0.3),
    Fault("store_before", "the database fails before it commits", 0.01, 0.2),
    Fault("store_after", "the database commits and its answer is lost", 0.01, 0.2),
    Fault("store_slow", "the database takes seconds", 0.01, 0.1),
    Fault("store_outage", "the database is away for a while", 200, 1200, happening=True),
    Fault("journal_full", "the disk with the journal is full for a while", 200, 900, happening=True),
    Fault("clock_skew", "a machine's clock is wrong by up to a minute when a process starts", 0.2, 0.8),
    Fault("clock_jump", "a machine's clock stands still for up to a minute", 200, 900, happening=True),
    Fault("crash", "kill -9 at any step", 60, 600, happening=True),
    Fault("crash_at_commit", "kill -9 right before or right after a commit", 0.001, 0.02),
    Fault("crash_at_send", "kill -9 right before or right after an order or a cancellation is sent", 0.02, 0.2),
    Fault("pause", "the process is stopped for seconds to minutes and goes on", 200, 900, happening=True),
    Fault("twin", "a second manager is started for the same account on another machine", 0.5, 1.0),
)  # fmt: skip

FAULTS = {fault.name: fault for fault in _ALL}


class Faults:
    """The faults of one run: drawn from the seed, switchable by name, and over at the end of the stormy part."""

    def __init__(self, seed: int, enabled: Iterable[str]) -> None:
        self._rngs: dict[str, Random] = {}
        self._seed = seed
        share = numbers(seed, "share of faults").choice((0.1, 0.3, 0.6, 1.0))
        self.strength: dict[str, float] = {}
        for name in sorted(enabled):
            rng = self.rng(name)
            low, high = FAULTS[name].low, FAULTS[name].high
            chosen, strength = rng.random() < share, rng.uniform(low, high)
            if chosen:
                self.strength[name] = strength
        self.injected: Counter[str] = Counter()
        self.over = False

    def rng(self, name: str) -> Random:
        """The random numbers of one fault, which no other uses."""
        if name not in self._rngs:
            self._rngs[name] = numbers(self._seed, f"fault {name}")
        return self._rngs[name]

    def hit(self, name: str, weight: float = 1.0) -> bool:
        """Whether the fault strikes on this occasion; counts it if so."""
        strength = self.strength.get(name)
        if strength is None or self.over or self.rng(name).random() >= strength * weight:
            return False
        self.count(name)
        return True

    def skew(self) -> float:
        """How wrong a machine's clock is when a process starts, in seconds."""
        return self.rng("clock_skew").uniform(-60, 60) if self.hit("clock_skew") else 0.0

    def count(self, name: str) -> None:
        """Note that a fault was injected."""
        self.injected[name] += 1

    def happenings(self) -> list[str]:
        """The active faults that come by themselves."""
        return [name for name in self.strength if FAULTS[name].happening]
