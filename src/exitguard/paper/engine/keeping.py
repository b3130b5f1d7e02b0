"""What a host needs to keep a venue over a restart: which records have changed, and the way back in."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from exitguard.paper.engine.daily import TradingDay
from exitguard.paper.engine.extras import Extras
from exitguard.paper.engine.model import Account, Asset
from exitguard.paper.engine.revival import Kept, Revival
from exitguard.paper.engine.venue import Changes, Venue


class Keeping:
    """The keeper's door into a venue. Until `begin` nothing is collected, and nothing is spent on it."""

    def __init__(self, venue: Venue, day: TradingDay, extras: Extras, revival: Revival) -> None:
        self._venue = venue
        self._day = day
        self._extras = extras
        self._revival = revival

    def restore(self, kept: Kept, boundary: datetime) -> None:
        """Fill a venue that is still empty; session boundaries after `boundary` are still to come.

        Raises KeyError, TypeError, ValueError or ArithmeticError for records that are not ours.
        """
        self._day.resume(boundary)
        self._revival.restore(kept)

    def begin(self) -> None:
        """Collect changes from now on; everything counts as changed."""
        self._venue.changes = Changes(everything=True)

    @property
    def changed(self) -> bool:
        """Whether anything is not written down yet."""
        return bool(self._venue.changes)

    def take(self) -> Changes:
        """What has changed since the last call."""
        changes = self._venue.changes
        assert changes is not None, "keeping has not begun"
        self._venue.changes = Changes()
        return changes

    def put_back(self, changes: Changes) -> None:
        """Changes that could not be written: they stay changes."""
        newer = self.take()
        self._venue.changes = Changes(
            {**changes.orders, **newer.orders},
            {**changes.accounts, **newer.accounts},
            [*changes.forgotten, *newer.forgotten],
            everything=True,
        )

    def note_everything(self) -> None:
        """Somebody intervened: write everything small down at the next occasion."""
        self._venue.note_everything()

    def note_account(self, account: Account) -> None:
        """An account's own record has changed: its configurations, watchlists, instructions."""
        self._venue.note_account(account)

    @property
    def boundary(self) -> datetime:
        """The newest session boundary that is done."""
        return self._day.done_at

    def counters(self) -> tuple[int, int]:
        """The newest stamp and the newest sequence number."""
        return self._venue.counters()

    def announcements(self) -> dict[str, Any]:
        """All corporate actions announced, by id."""
        return self._extras.kept_announcements()

    def accounts(self) -> Iterable[Account]:
        """All accounts."""
        return self._venue.accounts.values()

    def stocks(self) -> list[Asset]:
        """Every stock listed."""
        return [asset for asset in self._venue.assets.values() if not asset.is_option]

    def assets(self, identifiers: Iterable[str]) -> list[Asset]:
        """Assets by their identifiers, as far as they are still listed."""
        listed = self._venue.assets_by_id
        return [listed[identifier] for identifier in identifiers if identifier in listed]

    def needed_options(self) -> list[Asset]:
        """Every option contract held."""
        return [
            position.asset
            for account in self._venue.accounts.values()
            for position in account.positions.values()
            if position.asset.is_option
        ]
