"""State of the venue (skeleton; filled in next)."""

from dataclasses import dataclass
from decimal import Decimal


@dataclass(slots=True, eq=False)
class Account:
    """One brokerage account; its credentials follow from the venue's seed and its name."""

    name: str
    id: str
    account_number: str
    key: str
    secret: str
    cash: Decimal
