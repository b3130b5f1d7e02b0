"""Prints that are corrected or cancelled: what the tape says afterwards, in trades, minutes and days."""

from datetime import UTC, datetime, timedelta

from exitguard.paper.market.tape import Bar, Tape

OPEN = datetime(2026, 10, 8, 13, 30, tzinfo=UTC)
DAY = (OPEN - timedelta(hours=9), OPEN + timedelta(hours=9))


def tape_of(*prints: tuple[int, float]) -> Tape:
    """A tape with prints of a hundred shares, seconds after the open."""
    tape = Tape()
    for seconds, price in prints:
        at = OPEN + timedelta(seconds=seconds)
        tape.roll(at)
        tape.add_trade("KO", price, 100, at)
    return tape


def shape(bar: Bar) -> tuple[float, float, float, float, int, int]:
    return bar.open, bar.high, bar.low, bar.close, bar.volume, bar.trades


def test_a_correction_in_a_finished_minute_changes_its_bar_and_the_days() -> None:
    tape = tape_of((1, 50.0), (2, 60.0), (3, 51.0), (70, 52.0))
    found = tape.revise("KO", 2, 50.5)
    assert found is not None
    assert (found.original.price, found.original.update) == (60.0, "incorrect")
    assert found.corrected is not None
    assert (found.corrected.price, found.corrected.update, found.corrected.at) == (50.5, "corrected", found.original.at)
    assert found.corrected.id != found.original.id
    assert found.bar is not None
    assert shape(found.bar) == (50.0, 51.0, 50.0, 51.0, 300, 3)
    assert tape.minutes("KO", *DAY) == [found.bar] == [tape.minute_bars["KO"]]
    assert shape(tape.daily_bars["KO"]) == (50.0, 52.0, 50.0, 52.0, 400, 4)
    assert [(trade.price, trade.update) for trade in tape.prints("KO", *DAY)] == [
        (50.0, ""),
        (60.0, "incorrect"),
        (50.5, "corrected"),
        (51.0, ""),
        (52.0, ""),
    ]


def test_cancelling_the_newest_print_brings_the_one_before_back() -> None:
    tape = tape_of((1, 50.0), (2, 60.0))
    found = tape.revise("KO", 0, None)
    assert found is not None
    assert (found.corrected, found.bar) == (None, None), "the minute is not over: no bar was shown"
    assert tape.trades["KO"].price == 50.0
    assert shape(tape.daily_bars["KO"]) == (50.0, 50.0, 50.0, 50.0, 100, 1)
    (bar,) = tape.roll(OPEN + timedelta(minutes=1))
    assert shape(bar) == (50.0, 50.0, 50.0, 50.0, 100, 1)


def test_a_minute_without_any_print_left_has_no_bar() -> None:
    tape = tape_of((1, 50.0), (70, 51.0), (130, 52.0))
    found = tape.revise("KO", 1, None)
    assert found is not None
    assert found.bar is None
    assert [bar.close for bar in tape.minutes("KO", *DAY)] == [50.0]
    tape.revise("KO", 0, None)
    assert tape.roll(OPEN + timedelta(minutes=5)) == []
    tape.revise("KO", 2, None)
    assert "KO" not in tape.daily_bars


def test_what_is_not_there_or_was_taken_back_already_stays_as_it_is() -> None:
    tape = tape_of((1, 50.0), (2, 60.0))
    assert tape.revise("PEP", 0, None) is None
    assert tape.revise("KO", 2, None) is None
    assert tape.revise("KO", 0, None) is not None
    assert tape.revise("KO", 0, 55.0) is None


def test_the_number_of_prints_kept_stays_bounded() -> None:
    tape = tape_of(*((second, 50.0) for second in range(1000)))
    assert tape.revise("KO", 0, 51.0) is not None
    prints = tape.prints("KO", *DAY)
    assert (len(prints), prints[-1].price, prints[-2].update) == (1000, 51.0, "incorrect")
