"""The payloads of the vendor's own SDK tests through our decoders."""

import json
from pathlib import Path
from typing import Any

import pytest

from exitguard.broker import decoding
from exitguard.broker.decoding import Unreadable
from exitguard.core.orders import OrderSide

FOLDER = Path(__file__).resolve().parents[4] / "shared" / "data" / "alpaca"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"recorded payloads are not here: no folder {FOLDER.name}")


def payloads() -> list[Any]:
    found = []
    for path in sorted(FOLDER.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            found.append((f"{row['file']}:{row['line']}", decoding.parse_json(row["raw"].encode())))
    return found


def rows(parsed: Any) -> list[dict[str, Any]]:
    candidates = parsed if isinstance(parsed, list) else [parsed]
    return [row for row in candidates if isinstance(row, dict)]


def test_every_order_is_read() -> None:
    orders = [
        row
        for _, parsed in payloads()
        for candidate in rows(parsed)
        for row in (candidate, candidate.get("body"))
        if isinstance(row, dict) and {"client_order_id", "filled_qty"} <= row.keys()
    ]
    assert len(orders) >= 10
    for raw in orders:
        order = decoding.decode_order(raw)
        assert order.id == raw["id"]
        assert order.side in OrderSide
        assert order.submitted_at is not None


def test_every_account_position_fill_clock_and_day_is_read() -> None:
    counts = dict.fromkeys(("account", "position", "fill", "clock", "day", "asset", "contract", "activity"), 0)
    for _, parsed in payloads():
        for row in [*rows(parsed), *(parsed.get("option_contracts", []) if isinstance(parsed, dict) else [])]:
            if "buying_power" in row and "equity" in row:
                assert decoding.decode_account(row).account_number
                counts["account"] += 1
            elif "avg_entry_price" in row and "qty" in row:
                assert decoding.decode_position(row).qty > 0
                counts["position"] += 1
            elif row.get("activity_type") == "FILL":
                fill = decoding.decode_fill(row)
                assert "::" not in fill.execution_id
                counts["fill"] += 1
            elif "activity_type" in row:
                assert decoding.decode_activity(row).type
                counts["activity"] += 1
            elif "next_open" in row:
                assert decoding.decode_clock(row).next_open > decoding.decode_clock(row).now
                counts["clock"] += 1
            elif "session_open" in row:
                decoding.decode_session(row)
                counts["day"] += 1
            elif "easy_to_borrow" in row and "symbol" in row:
                assert decoding.decode_asset(row).tradable
                counts["asset"] += 1
            elif "strike_price" in row and "expiration_date" in row:
                assert decoding.decode_contract(row).multiplier == 100
                counts["contract"] += 1
    assert all(counts.values()), counts


def test_every_latest_quote_is_read() -> None:
    read = 0
    for _, parsed in payloads():
        found = parsed.get("quotes") if isinstance(parsed, dict) else None
        for symbol, raw in (found or {}).items():
            for quote in raw if isinstance(raw, list) else [raw]:
                decoded = decoding.decode_quote(symbol, quote)
                assert decoded.bid.is_finite()
                assert decoded.ask > 0
                read += 1
    assert read >= 10


def test_no_payload_crashes_any_decoder() -> None:
    decoders = [
        decoding.decode_order,
        decoding.decode_position,
        decoding.decode_account,
        decoding.decode_fill,
        decoding.decode_activity,
        decoding.decode_clock,
        decoding.decode_session,
        decoding.decode_asset,
        decoding.decode_contract,
    ]
    for _, parsed in payloads():
        for row in [*rows(parsed), parsed]:
            for decode in decoders:
                try:
                    decode(row)
                except Unreadable:
                    continue
