"""The subscription book against a venue with a limit and bad symbols: it always comes to rest, and fully used."""

from hypothesis import given
from hypothesis import strategies as st

from exitguard.broker.subscriptions import SubscriptionBook

_symbols = st.frozensets(st.sampled_from([f"S{i}" for i in range(40)]))


def drive(book: SubscriptionBook, active: set[str], limit: int, bad: frozenset[str]) -> int:
    """Play the venue until the book has nothing left to ask; tells how many messages that took."""
    for messages in range(1000):
        request = book.next_request()
        if request is None:
            return messages
        assert book.next_request() is None, "one request at a time"
        assert request.symbols
        wanted = active - set(request.symbols) if request.action == "unsubscribe" else active | set(request.symbols)
        if request.action == "subscribe" and wanted & bad:
            assert book.fail(400, "invalid syntax")
        elif request.action == "subscribe" and len(wanted) > limit:
            assert book.fail(405, "symbol limit exceeded")
        else:
            active.clear()
            active.update(wanted)
            book.confirm(active)
    raise AssertionError("the book never came to rest")


@given(watches=st.lists(_symbols, min_size=1, max_size=6), limit=st.integers(min_value=0, max_value=45), bad=_symbols)
def test_every_watch_ends_served_or_refused_with_a_reason(
    watches: list[frozenset[str]], limit: int, bad: frozenset[str]
) -> None:
    book, active = SubscriptionBook(), set[str]()
    for wanted in watches:
        book.watch(wanted)
        drive(book, active, limit, bad)
        assert book.settled
        assert active == book.active <= wanted
        assert wanted - active == book.refused.keys()
        assert wanted & bad <= book.refused.keys()
        if not wanted & bad:
            assert len(active) == min(limit, len(wanted)), "the venue's limit is used in full"


@given(_symbols, _symbols)
def test_a_watch_that_changes_while_a_request_is_on_its_way_wins(first: frozenset[str], second: frozenset[str]) -> None:
    book, active = SubscriptionBook(), set[str]()
    book.watch(first)
    request = book.next_request()
    book.watch(second)
    if request is not None:
        active.update(request.symbols)
        book.confirm(active)
    drive(book, active, 100, frozenset())
    assert active == second


def test_errors_that_answer_nothing_are_not_swallowed() -> None:
    book = SubscriptionBook()
    assert not book.fail(405, "symbol limit exceeded")
    book.watch({"AAPL"})
    book.next_request()
    assert not book.fail(407, "slow client")
    assert book.in_flight is not None


def test_symbols_that_the_venue_leaves_out_are_named() -> None:
    book = SubscriptionBook()
    book.watch({"AAPL", "GONE"})
    book.next_request()
    book.confirm(["AAPL"])
    assert book.settled
    assert book.refused.keys() == {"GONE"}
    book.reset()
    request = book.next_request()
    assert request is not None
    assert request.symbols == ("AAPL", "GONE"), "a new connection tries everything again"
