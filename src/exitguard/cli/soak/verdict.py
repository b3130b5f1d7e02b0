"""Compares ledger and exchange at the end of a soak: nothing lost, nothing done twice, nothing crossed."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from exitguard.cli.demo.verify import VenueAccount, VenueFill

ZERO = Decimal(0)
# More of one kind says nothing new.
_NAMED = 10
Key = tuple[str, str]


def compare(
    *,
    state: Mapping[str, VenueAccount],
    fills: Iterable[VenueFill],
    open_rows: Sequence[Mapping[str, Any]],
    history: Sequence[Mapping[str, Any]],
    unfinished: Sequence[Mapping[str, Any]],
) -> dict[str, list[str]]:
    """What is wrong, by kind: `lost`, `twice`, `unfinished`; an empty list where nothing is."""
    ours: dict[Key, Decimal] = defaultdict(Decimal)
    # What the ledger knows to have been opened: of an open position also the part that is closed again.
    opened: dict[Key, Decimal] = defaultdict(Decimal)
    for row in open_rows:
        key, sign = (row["account_name"], row["symbol"]), 1 if row["side"] == "long" else -1
        ours[key] += sign * row["quantity"]
        opened[key] += row["original_quantity"]
    for row in history:
        opened[row["account_name"], row["symbol"]] += row["quantity"]
    theirs = {(name, symbol): qty for name, account in state.items() for symbol, qty in account.positions.items()}
    fills = list(fills)
    bought, crossed = _run(fills)
    lost, twice = [], list(crossed)
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key, ZERO) != theirs.get(key, ZERO):
            lost.append(f"{_name(key)}: the ledger holds {ours.get(key, ZERO)}, the exchange {theirs.get(key, ZERO)}")
    for key in sorted(bought.keys() | opened.keys()):
        known, truly = opened.get(key, ZERO), bought.get(key, ZERO)
        if known != truly:
            (lost if known < truly else twice).append(
                f"{_name(key)}: {truly} bought, {known} in the ledger, open and closed;"
                f" {_both_sides(key, fills, history)}"
            )
    numbers = [(row["account_name"], row["position_id"]) for row in history]
    if len(set(numbers)) != len(numbers):
        twice.append(f"{len(numbers) - len(set(numbers))} positions have more than one row of history")
    left = [f"{row['account_name']}: {row['kind']} {row['name']} is still {row['status']}" for row in unfinished]
    return {"lost": lost, "twice": twice, "unfinished": left}


def _run(fills: Iterable[VenueFill]) -> tuple[dict[Key, Decimal], list[str]]:
    """What was bought of each contract in each account, and the orders that sold more than was held."""
    held: dict[Key, Decimal] = defaultdict(Decimal)
    bought: dict[Key, Decimal] = defaultdict(Decimal)
    crossed = []
    for fill in fills:
        key = (fill.account, fill.symbol)
        held[key] += fill.signed_qty
        if fill.signed_qty > 0:
            bought[key] += fill.signed_qty
        if held[key] < 0:
            crossed.append(f"{_name(key)}: order {fill.client_order_id} sold more than was held, to {held[key]}")
    return bought, crossed


def _both_sides(key: Key, fills: Iterable[VenueFill], history: Iterable[Mapping[str, Any]]) -> str:
    """What the exchange executed and what the ledger closed of one contract, for whoever looks for the reason."""
    executed = [
        f"{each.signed_qty:+} at {each.at:%H:%M:%S} by {each.client_order_id or 'hand'}"
        for each in fills
        if (each.account, each.symbol) == key
    ]
    closed = [
        f"position {row['position_id']} of {row['quantity']}"
        for row in history
        if (row["account_name"], row["symbol"]) == key
    ]
    return f"executed: {', '.join(executed)}; closed: {', '.join(closed) or 'none'}"


def _name(key: Key) -> str:
    return f"{key[0]} {key[1]}"


def sentences(found: Mapping[str, Sequence[str]]) -> list[str]:
    """The findings for a person: the first of each kind, and how many more there are."""
    lines = []
    for kind, problems in found.items():
        lines += [f"{kind}: {problem}" for problem in problems[:_NAMED]]
        if len(problems) > _NAMED:
            lines.append(f"{kind}: and {len(problems) - _NAMED} more")
    return lines
