"""What becomes of rows that people and other programs insert."""

from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.dispatch.rows import CALL, NOW, PUT, row

from exitguard.core.instrument import InstrumentType
from exitguard.core.position import PositionSide
from exitguard.dispatch.signal import Flaw, FlawKind, Signal, level_problem, read_signal


@pytest.mark.parametrize(
    ("fields", "kind", "says"),
    [
        ({"action": "CALL"}, FlawKind.SET_ASIDE, "unknown action 'CALL'"),  # F119
        ({"action": "buy_stock"}, FlawKind.SET_ASIDE, "unknown action"),
        ({"action": ""}, FlawKind.SET_ASIDE, "unknown action"),
        ({"action": "X" * 5000}, FlawKind.SET_ASIDE, "unknown action"),
        ({"action": "SELL_CALL", "option_symbol": CALL}, FlawKind.SET_ASIDE, "open an option short"),  # F4
        ({"action": "SELL_PUT", "option_symbol": PUT}, FlawKind.SET_ASIDE, "open an option short"),  # F4
        ({"action": "SELL_STOCK", "option_symbol": CALL}, FlawKind.SET_ASIDE, "is for stocks"),  # F4
        ({"action": "BUY_STOCK", "ticker": CALL}, FlawKind.SET_ASIDE, "asks for a STOCK"),  # F1
        ({"action": "HOLD"}, FlawKind.SKIPPED, "HOLD"),  # F63, F119
        ({"action": "BUY_CALL"}, FlawKind.SET_ASIDE, "needs an option_symbol"),
        ({"action": "BUY_PUT", "option_symbol": ""}, FlawKind.SET_ASIDE, "needs an option_symbol"),
        ({"action": "BUY_PUT", "option_symbol": CALL}, FlawKind.SET_ASIDE, "asks for a PUT"),
        ({"action": "BUY_CALL", "option_symbol": PUT}, FlawKind.SET_ASIDE, "asks for a CALL"),
        ({"action": "BUY_CALL", "option_symbol": "AAPL"}, FlawKind.SET_ASIDE, "asks for a CALL"),
        ({"action": "BUY_CALL", "option_symbol": CALL, "ticker": "MSFT"}, FlawKind.SET_ASIDE, "not the underlying"),
        ({"action": "BUY_CALL", "option_symbol": "AAPL250399C00100000"}, FlawKind.SET_ASIDE, "no calendar day"),
        ({"ticker": "aapl; DROP TABLE"}, FlawKind.SET_ASIDE, "neither a US stock"),
        ({"ticker": ""}, FlawKind.SET_ASIDE, "1 to 32 characters"),
        ({"qty": Decimal("NaN")}, FlawKind.SET_ASIDE, "qty must be a number"),
        ({"qty": Decimal("Infinity")}, FlawKind.SET_ASIDE, "qty must be a number"),
        ({"qty": Decimal(-3)}, FlawKind.SET_ASIDE, "qty must be positive"),
        ({"qty": Decimal("0.5")}, FlawKind.SET_ASIDE, "at least one whole unit"),
        ({"qty": Decimal("1E+40")}, FlawKind.SET_ASIDE, "must lie in"),
        ({"stop_loss": Decimal("NaN")}, FlawKind.SET_ASIDE, "stop_loss must be a number"),
        ({"stop_loss": Decimal(-2)}, FlawKind.SET_ASIDE, "stop_loss must be positive"),
        ({"take_profit": Decimal(0)}, FlawKind.SET_ASIDE, "take_profit must be positive"),
        ({"confidence": Decimal("NaN")}, FlawKind.SET_ASIDE, "confidence must be a number"),
        ({"max_hold_minutes": 0}, FlawKind.SET_ASIDE, "max_hold_minutes"),
        ({"strategy_type": ""}, FlawKind.SET_ASIDE, "strategy_type"),
        ({"strategy_type": "a\nb"}, FlawKind.SET_ASIDE, "strategy_type"),
        ({"expires_at": NOW}, FlawKind.EXPIRED, "expired at"),
        ({"expires_at": NOW - timedelta(days=1), "action": "nonsense"}, FlawKind.EXPIRED, "expired at"),
    ],
)
def test_f4_f70_f119_a_bad_row_is_put_aside_with_its_reason(fields: dict, kind: FlawKind, says: str) -> None:
    flaw = read_signal(row(**fields), NOW)
    assert isinstance(flaw, Flaw)
    assert flaw.kind is kind
    assert says in flaw.reason
    assert len(flaw.reason) < 300


@pytest.mark.parametrize(
    ("fields", "symbol", "kind", "side"),
    [
        ({}, "AAPL", InstrumentType.STOCK, PositionSide.LONG),
        ({"ticker": "BRK.B"}, "BRK.B", InstrumentType.STOCK, PositionSide.LONG),
        ({"action": "SELL_STOCK"}, "AAPL", InstrumentType.STOCK, PositionSide.SHORT),
        ({"action": "BUY_CALL", "option_symbol": CALL}, CALL, InstrumentType.CALL, PositionSide.LONG),
        # F6: a long put is long; the view is bearish, the instrument is not.
        ({"action": "BUY_PUT", "option_symbol": PUT}, PUT, InstrumentType.PUT, PositionSide.LONG),
    ],
)
def test_f37_the_instrument_follows_from_the_contract(
    fields: dict, symbol: str, kind: InstrumentType, side: PositionSide
) -> None:
    signal = read_signal(row(**fields), NOW)
    assert isinstance(signal, Signal)
    assert (signal.instrument.symbol, signal.instrument.type, signal.side) == (symbol, kind, side)


@pytest.mark.parametrize(
    ("fields", "price", "says"),
    [
        ({"stop_loss": Decimal(98), "take_profit": Decimal(103)}, "100", None),
        ({"stop_loss": Decimal(100)}, "100", "must lie below"),
        ({"stop_loss": Decimal(101)}, "100", "must lie below"),
        ({"take_profit": Decimal(99)}, "100", "must lie above"),
        ({"stop_loss": Decimal(2)}, "100", "another unit"),
        ({"take_profit": Decimal(1000)}, "100", "another unit"),
        ({"action": "SELL_STOCK", "stop_loss": Decimal(102), "take_profit": Decimal(97)}, "100", None),
        ({"action": "SELL_STOCK", "stop_loss": Decimal(98)}, "100", "must lie above"),
        ({"action": "SELL_STOCK", "take_profit": Decimal(103)}, "100", "must lie below"),
        # F5: premium 7.30 with the levels of the underlying.
        ({"action": "BUY_CALL", "option_symbol": CALL, "stop_loss": Decimal("150.71")}, "7.30", "must lie below"),
        ({"action": "BUY_CALL", "option_symbol": CALL, "take_profit": Decimal("155.10")}, "7.30", "another unit"),
        ({"action": "BUY_CALL", "option_symbol": CALL, "stop_loss": Decimal("4.40")}, "7.30", None),
        # F6: a put's stop lies below its premium too.
        ({"action": "BUY_PUT", "option_symbol": PUT, "stop_loss": Decimal("8.00")}, "7.30", "must lie below"),
        (
            {"action": "BUY_PUT", "option_symbol": PUT, "stop_loss": Decimal("4"), "take_profit": Decimal(9)},
            "7.30",
            None,
        ),
    ],
)
def test_f5_f6_levels_on_the_wrong_side_or_in_the_wrong_unit(fields: dict, price: str, says: str | None) -> None:
    signal = read_signal(row(**fields), NOW)
    assert isinstance(signal, Signal)
    problem = level_problem(signal, Decimal(price))
    assert problem is None if says is None else problem is not None and says in problem


@given(
    st.builds(
        row,
        ticker=st.text(max_size=40),
        option_symbol=st.none() | st.text(max_size=40) | st.just(CALL),
        action=st.sampled_from(["BUY_STOCK", "SELL_STOCK", "BUY_CALL", "BUY_PUT", "HOLD"]) | st.text(max_size=20),
        qty=st.none() | st.decimals(),
        stop_loss=st.none() | st.decimals(),
        take_profit=st.none() | st.decimals(),
        strategy_type=st.text(max_size=80),
    )
)
def test_f60_no_row_makes_reading_fail(any_row: object) -> None:
    assert isinstance(read_signal(any_row, NOW), Signal | Flaw)  # type: ignore[arg-type]
