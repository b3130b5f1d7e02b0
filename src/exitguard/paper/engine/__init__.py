"""The venue: accounts, orders, matching, positions, options, activities and faults.

Synchronous and deterministic: time comes from the host's `now()`, everything that happens "a moment later" goes
through the host's `schedule(delay, function)`, and one seed decides every identifier and every chance. No asyncio, no
files, no network here; money and prices are Decimal. `Exchange` is the only entry point.
"""

from exitguard.paper.engine.errors import ApiError
from exitguard.paper.engine.exchange import Exchange
from exitguard.paper.engine.faults import FAULT_KINDS, Fault, Faults
from exitguard.paper.engine.model import Account
from exitguard.paper.engine.revival import Kept, KeptAccount
from exitguard.paper.engine.settings import ExchangeSettings

__all__ = [
    "FAULT_KINDS",
    "Account",
    "ApiError",
    "Exchange",
    "ExchangeSettings",
    "Fault",
    "Faults",
    "Kept",
    "KeptAccount",
]
