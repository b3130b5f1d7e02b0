"""Opening accounts and finding them by their keys."""

import hmac
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from exitguard.core.errors import InvalidInput
from exitguard.paper.engine.model import Account
from exitguard.paper.engine.venue import Venue
from exitguard.paper.engine.wire import Identifiers

_KNOWN = frozenset({"multiplier", "shorting_enabled", "options_trading_level"})
_MULTIPLIERS = ("1", "2", "4")


class Accounts:
    """The accounts of one venue."""

    def __init__(self, venue: Venue) -> None:
        self._venue = venue
        self._by_key: dict[str, Account] = {}

    def create(self, name: str, cash: Decimal, configuration: Mapping[str, Any]) -> Account:
        """Open an account. Raises InvalidInput for a taken name, bad cash or an unknown setting.

        Small accounts may short and borrow here as large ones do, so that every account can do everything; pass
        multiplier "1" and shorting_enabled False for what Alpaca gives an account below 2,000 dollars.
        """
        venue = self._venue
        if not name or len(name) > 64:
            raise InvalidInput("an account needs a name of 1 to 64 characters")
        if name in venue.accounts:
            raise InvalidInput(f"account {name!r} exists already")
        if not cash.is_finite() or cash < 0:
            raise InvalidInput(f"account {name!r} needs cash of zero or more, was given {cash}")
        unknown = set(configuration) - _KNOWN
        if unknown:
            raise InvalidInput(f"unknown account settings {sorted(unknown)}, known are {sorted(_KNOWN)}")
        multiplier = str(configuration.get("multiplier", "4"))
        level = configuration.get("options_trading_level", venue.settings.options_trading_level)
        if multiplier not in _MULTIPLIERS or level not in (0, 1, 2, 3):
            raise InvalidInput(f"account {name!r}: multiplier must be 1, 2 or 4 and options_trading_level 0 to 3")
        identifiers = Identifiers(venue.seed, name)
        account = Account(
            name=name,
            id=identifiers.uuid(),
            account_number="PA3" + identifiers.letters(9),
            key="PK" + identifiers.letters(18),
            secret=identifiers.letters(40),
            cash=cash,
            created=venue.stamp(),
            identifiers=identifiers,
            configurations={
                "disable_overnight_trading": False,
                "fractional_trading": True,
                "max_margin_multiplier": multiplier,
                "max_options_trading_level": level,
                "options_approved_level": level,
                "shorting_enabled": bool(configuration.get("shorting_enabled", True)),
                "no_shorting": False,
                "ptp_no_exception_entry": False,
                "suspend_trade": False,
                "trade_confirm_email": "all",
            },
            last_equity=cash,
            balance_date=venue.today(),
        )
        account.equity.add(account.created, cash)
        self.take_over(account)
        return account

    def take_over(self, account: Account) -> None:
        """Make an account known."""
        self._venue.accounts[account.name] = account
        self._by_key[account.key] = account
        self._venue.note_account(account)

    def by_key(self, key: str, secret: str) -> Account | None:
        """The account of a key pair; None for an unknown key or a wrong secret."""
        account = self._by_key.get(key)
        if account is None or not hmac.compare_digest(account.secret.encode(), secret.encode()):
            return None
        return account
