"""Which quotes a data socket is to send, and how to get there message by message. No I/O.

One request is on its way at a time, so that an error can be told to the request that caused it.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

# Symbols in one subscribe message.
PORTION = 400

SYMBOL_LIMIT = 405
# Refusals of a subscribe request as a whole that one bad symbol can cause.
_MAY_BE_ONE_SYMBOL = frozenset({400, 410, 413})


@dataclass(frozen=True, slots=True)
class Request:
    """A message to send: subscribe to or unsubscribe from the quotes of `symbols`."""

    action: str
    symbols: tuple[str, ...]


class SubscriptionBook:
    """What is wanted, what the venue confirmed, and what it will not serve."""

    def __init__(self) -> None:
        self.wanted: frozenset[str] = frozenset()
        self.active: set[str] = set()
        self.refused: dict[str, str] = {}
        self.in_flight: Request | None = None
        # Portions of a refused request, to be tried one by one.
        self._retry: list[tuple[str, ...]] = []

    @property
    def settled(self) -> bool:
        """Whether nothing is left to ask for."""
        return self.in_flight is None and self._peek() is None

    def watch(self, symbols: Iterable[str]) -> None:
        """Set what is wanted; symbols refused before get a new chance."""
        self.wanted = frozenset(symbols)
        self.refused.clear()
        self._retry.clear()

    def reset(self) -> None:
        """Start on a new connection: nothing is subscribed."""
        self.active.clear()
        self.in_flight = None
        self.watch(self.wanted)

    def next_request(self) -> Request | None:
        """The next message to send, if one is due; it is then on its way."""
        if self.in_flight is not None:
            return None
        self.in_flight = self._peek()
        return self.in_flight

    def _peek(self) -> Request | None:
        # Leaving first makes room below the venue's limit.
        leaving = sorted(self.active - self.wanted)[:PORTION]
        if leaving:
            return Request("unsubscribe", tuple(leaving))
        while self._retry:
            portion = tuple(s for s in self._retry[-1] if s in self.wanted and s not in self.active)
            if portion:
                return Request("subscribe", portion)
            self._retry.pop()
        coming = sorted(self.wanted - self.active - self.refused.keys())[:PORTION]
        return Request("subscribe", tuple(coming)) if coming else None

    def confirm(self, quotes: Collection[str]) -> None:
        """Take the venue's full list of subscribed quotes."""
        self.active = set(quotes)
        asked, self.in_flight = self.in_flight, None
        if asked is None:
            return
        if self._retry and asked.action == "subscribe":
            self._retry.pop()
        if asked.action == "subscribe":
            self._refuse((s for s in asked.symbols if s not in self.active), "the venue left it out without a word")
        elif self.active & set(asked.symbols):
            # It keeps sending what we left: harmless, but asking again for ever is not.
            self.active -= set(asked.symbols)

    def fail(self, code: int, message: str) -> bool:
        """Take an error; tells whether it was an answer to the request on its way and is dealt with."""
        asked = self.in_flight
        if asked is None or asked.action != "subscribe" or code not in _MAY_BE_ONE_SYMBOL | {SYMBOL_LIMIT}:
            return False
        self.in_flight = None
        if self._retry:
            self._retry.pop()
        reason = f"{code} {message}"
        if len(asked.symbols) > 1:
            half = len(asked.symbols) // 2
            self._retry += [asked.symbols[half:], asked.symbols[:half]]
            return True
        self._refuse(asked.symbols, reason)
        if code == SYMBOL_LIMIT:
            # Not even one more: asking for the rest would only be noise.
            self._retry.clear()
            self._refuse(self.wanted, reason)
        return True

    def _refuse(self, symbols: Iterable[str], reason: str) -> None:
        for symbol in symbols:
            if symbol in self.wanted and symbol not in self.active:
                self.refused[symbol] = reason
