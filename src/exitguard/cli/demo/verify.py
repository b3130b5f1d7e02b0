"""Checks the day against the exchange's own books: nothing that the managers say of themselves is believed.

From the exchange come every execution, the positions and the cash; from the ledger what the managers recorded. Both
must tell the same story, to the cent.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from exitguard.core.instrument import parse_instrument

ZERO = Decimal(0)
# Averages are exact quotients in the ledger; cash at the exchange is in cents.
CENT = Decimal("0.01")
# A fill that differs this much from the price that triggered it: the trigger was a wrong print on the feed.
_WRONG_PRINT = Decimal("0.6")
_ENTRY = re.compile(r"^xg-(?P<account>.+)-r(?P<number>[0-9]+)-[0-9a-f]{8}$")


@dataclass(frozen=True, slots=True)
class VenueFill:
    """One execution as the exchange booked it."""

    account: str
    symbol: str
    signed_qty: Decimal
    price: Decimal
    at: datetime
    client_order_id: str

    @property
    def cash(self) -> Decimal:
        """What it did to the account's cash, dollars."""
        return -parse_instrument(self.symbol).notional(self.signed_qty, self.price)

    @property
    def signal_number(self) -> int | None:
        """The signal whose entry it is, None for every other order."""
        match = _ENTRY.match(self.client_order_id)
        return int(match["number"]) if match is not None and match["account"] == self.account else None


@dataclass(frozen=True, slots=True)
class VenueAccount:
    """One account at the exchange."""

    cash: Decimal
    positions: dict[str, Decimal]
    open_orders: int


@dataclass(slots=True)
class Slippage:
    """Between the price that triggered an exit and the price at which it was filled; negative is worse than asked.

    `wrong_prints` counts exits that a wildly wrong quote triggered; they are left out of the other numbers.
    """

    closes: int = 0
    wrong_prints: int = 0
    dollars: Decimal = ZERO
    basis_points: list[Decimal] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        points = sorted(self.basis_points)
        return {
            "closes": self.closes,
            "wrong_prints": self.wrong_prints,
            "dollars": str(self.dollars.quantize(CENT)),
            "mean_bp": str((sum(points, ZERO) / len(points)).quantize(CENT)) if points else None,
            "worst_bp": str(points[0].quantize(CENT)) if points else None,
            "median_seconds": round(sorted(self.seconds)[len(self.seconds) // 2], 1) if self.seconds else None,
            "longest_seconds": round(max(self.seconds), 1) if self.seconds else None,
        }


@dataclass(slots=True)
class AccountReport:
    """One account's day."""

    opened: int = 0
    closed: int = 0
    left_open: int = 0
    exit_reasons: Counter[str] = field(default_factory=Counter)
    realised_pnl: Decimal = ZERO
    cash_change: Decimal = ZERO
    wins: int = 0
    slippage: Slippage = field(default_factory=Slippage)
    signals: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "opened": self.opened,
            "closed": self.closed,
            "left_open": self.left_open,
            "exit_reasons": dict(sorted(self.exit_reasons.items(), key=lambda item: (-item[1], item[0]))),
            "realised_pnl": str(self.realised_pnl.quantize(CENT)),
            "cash_change": str(self.cash_change.quantize(CENT)),
            "wins": self.wins,
            "slippage": self.slippage.to_json(),
            "signals": self.signals,
        }


@dataclass(slots=True)
class Verdict:
    """What the comparison found. `problems` are sentences for people; the counts go into the summary."""

    accounts: dict[str, AccountReport]
    missed_exits: int = 0
    duplicates: int = 0
    rows_left_open: int = 0
    mismatches: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.missed_exits or self.duplicates or self.rows_left_open or self.mismatches or self.problems)


def read_fills(body: Sequence[Mapping[str, Any]]) -> list[VenueFill]:
    """Read `GET /admin/fills`."""
    found = []
    for row in body:
        qty = Decimal(row["qty"])
        found.append(
            VenueFill(
                row["account"],
                row["symbol"],
                qty if row["side"] == "buy" else -qty,
                Decimal(row["price"]),
                datetime.fromisoformat(row["at"]),
                row.get("client_order_id") or "",
            )
        )
    return found


def read_state(body: Mapping[str, Any]) -> dict[str, VenueAccount]:
    """Read `GET /admin/state`."""
    return {
        name: VenueAccount(
            Decimal(each["cash"]),
            {symbol: Decimal(row["qty"]) for symbol, row in each["positions"].items() if Decimal(row["qty"])},
            len(each["open_orders"]),
        )
        for name, each in body.items()
    }


def verify(
    *,
    start_cash: Mapping[str, Decimal],
    state: Mapping[str, VenueAccount],
    fills: Sequence[VenueFill],
    history: Sequence[Mapping[str, Any]],
    open_rows: Sequence[Mapping[str, Any]],
    opened: Mapping[str, int],
    signals: Mapping[str, dict[str, int]],
) -> Verdict:
    """Compare ledger and exchange at the end of the day."""
    verdict = Verdict({name: AccountReport(signals=dict(signals.get(name, {}))) for name in start_cash})
    for name, report in verdict.accounts.items():
        mine = [row for row in history if row["account_name"] == name]
        report.opened = opened.get(name, 0)
        report.closed = len(mine)
        report.exit_reasons.update(row["close_reason"] for row in mine)
        report.realised_pnl = sum((row["realised_pnl"] for row in mine), ZERO)
        report.wins = sum(row["realised_pnl"] > 0 for row in mine)
        report.slippage = slippage(mine)
        rows = [row for row in open_rows if row["account_name"] == name]
        report.left_open = len(rows)
        report.cash_change = state[name].cash - start_cash[name]
        own = [fill for fill in fills if fill.account == name]
        _compare_positions(name, rows, state[name], verdict)
        _compare_cash(name, report, rows, own, state[name].cash - start_cash[name], verdict)
        _find_duplicates(name, own, verdict)
        if report.opened != report.closed + report.left_open:
            _mismatch(
                verdict, f"{name}: {report.opened} opened is not {report.closed} closed + {report.left_open} open"
            )
    return verdict


def _mismatch(verdict: Verdict, sentence: str) -> None:
    verdict.mismatches += 1
    verdict.problems.append(sentence)


def _compare_positions(name: str, rows: Iterable[Mapping[str, Any]], venue: VenueAccount, verdict: Verdict) -> None:
    recorded: dict[str, Decimal] = {}
    for row in rows:
        sign = 1 if row["side"] == "long" else -1
        recorded[row["symbol"]] = recorded.get(row["symbol"], ZERO) + sign * row["quantity"]
    for symbol in sorted(set(recorded) | set(venue.positions)):
        ours, theirs = recorded.get(symbol, ZERO), venue.positions.get(symbol, ZERO)
        if ours and not theirs:
            verdict.rows_left_open += 1
            verdict.problems.append(f"{name}: the ledger still holds {ours} {symbol}, the exchange holds none")
        elif theirs and not ours:
            verdict.missed_exits += 1
            verdict.problems.append(f"{name}: the exchange holds {theirs} {symbol} that no open row knows")
        elif ours != theirs:
            _mismatch(verdict, f"{name}: the ledger holds {ours} {symbol}, the exchange {theirs}")
        else:
            verdict.missed_exits += 1
            verdict.problems.append(f"{name}: {ours} {symbol} should have been closed and is still held on both sides")


def _compare_cash(
    name: str,
    report: AccountReport,
    rows: Sequence[Mapping[str, Any]],
    fills: Sequence[VenueFill],
    change: Decimal,
    verdict: Verdict,
) -> None:
    booked = sum((fill.cash for fill in fills), ZERO)
    if abs(booked - change) > CENT:
        _mismatch(verdict, f"{name}: cash changed by {change} but the executions add up to {booked}")
    tied = ZERO
    for row in rows:
        sign = 1 if row["side"] == "long" else -1
        tied += sign * row["quantity"] * row["entry_price"] * row["multiplier"] - row["realised_pnl"]
    tolerance = CENT * (1 + report.closed)
    if abs(report.realised_pnl - tied - change) > tolerance:
        _mismatch(
            verdict, f"{name}: realised P&L {report.realised_pnl} is not the cash change {change} (tied up {tied})"
        )


def _find_duplicates(name: str, fills: Sequence[VenueFill], verdict: Verdict) -> None:
    """Each signal opens once, and nothing but a signal's entry ever opens anything (I1)."""
    held: dict[str, Decimal] = {}
    orders: dict[int, set[str]] = {}
    for fill in fills:
        before = held.get(fill.symbol, ZERO)
        after = before + fill.signed_qty
        held[fill.symbol] = after
        if fill.signal_number is not None:
            orders.setdefault(fill.signal_number, set()).add(fill.client_order_id)
        crosses = before * after < 0
        opens = abs(after) > abs(before)
        if crosses or (opens and fill.signal_number is None):
            verdict.duplicates += 1
            verdict.problems.append(
                f"{name}: order {fill.client_order_id} took {fill.symbol} from {before} to {after}: closed twice"
            )
    for number, ids in orders.items():
        if len(ids) > 1:
            verdict.duplicates += 1
            verdict.problems.append(f"{name}: signal {number} became {len(ids)} orders")


def slippage(history: Iterable[Mapping[str, Any]]) -> Slippage:
    """Between trigger and fill, for exits that a price or a clock of ours triggered."""
    found = Slippage()
    for row in history:
        trigger, at = row["trigger_price"], row["trigger_at"]
        if trigger is None or at is None or not trigger:
            continue
        sign = 1 if row["side"] == "long" else -1
        difference = (row["exit_price"] - trigger) * sign
        if abs(difference) > trigger * _WRONG_PRINT:
            # The feed showed a price at which nobody traded; it says nothing about the speed of an exit.
            found.wrong_prints += 1
            continue
        found.closes += 1
        found.dollars += difference * row["quantity"] * row["multiplier"]
        found.basis_points.append(difference / trigger * 10_000)
        found.seconds.append((row["closed_at"] - at).total_seconds())
    return found
