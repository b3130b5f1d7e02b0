"""The exchange's state in a folder (`--state DIR`): one SQLite file, written before any client hears of a change.

`docs/exchange.md` describes the tables. Each flush is one transaction in SQLite's write-ahead log: a process that is
killed at any moment leaves the state of its last whole flush, and whatever was answered had been flushed before.
"""

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson

from exitguard.core.errors import ExitguardError
from exitguard.paper.engine import Account, Kept, KeptAccount
from exitguard.paper.engine.keeping import Keeping
from exitguard.paper.engine.model import Asset
from exitguard.paper.engine.records import account_record, asset_record, group_record, order_record, price_record
from exitguard.paper.engine.venue import Changes

FILE = "exchange.sqlite3"
# "EXGP": lets anybody, `file` included, tell this database from others.
APPLICATION = 0x45584750
VERSION = 1
_SCHEMA = """
CREATE TABLE exchange (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE accounts (name TEXT PRIMARY KEY, record TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE orders (
  account TEXT NOT NULL, id TEXT NOT NULL, sequence INTEGER NOT NULL, record TEXT NOT NULL, PRIMARY KEY (account, id)
) STRICT, WITHOUT ROWID;
CREATE TABLE order_groups (
  account TEXT NOT NULL, id TEXT NOT NULL, record TEXT NOT NULL, PRIMARY KEY (account, id)
) STRICT, WITHOUT ROWID;
CREATE TABLE client_order_ids (
  account TEXT NOT NULL, client_order_id TEXT NOT NULL, PRIMARY KEY (account, client_order_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE activities (
  account TEXT NOT NULL, position INTEGER NOT NULL, at INTEGER NOT NULL, record TEXT NOT NULL,
  PRIMARY KEY (account, position)
) STRICT, WITHOUT ROWID;
CREATE TABLE equity (
  account TEXT NOT NULL, at INTEGER NOT NULL, equity TEXT NOT NULL, PRIMARY KEY (account, at)
) STRICT, WITHOUT ROWID;
CREATE TABLE assets (id TEXT PRIMARY KEY, record TEXT NOT NULL, price TEXT NOT NULL) STRICT, WITHOUT ROWID;
"""


class StateError(ExitguardError):
    """The state folder cannot be used: broken, foreign, of another seed, or in use."""


class StateFile:
    """The open state of one exchange. One process at a time; the lock ends with it, however it ends."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.path = folder / FILE
        self._seed = seed
        self._lock = _locked(folder)
        try:
            self._db = self._open()
        except BaseException:
            os.close(self._lock)
            raise
        self._keeping: Keeping | None = None
        self._now: Callable[[], datetime] | None = None
        self._market_terms: Callable[[], Any] | None = None
        self._written: dict[tuple[str, str], str] = {}
        self._activities: dict[str, int] = {}
        self._equity: dict[str, int] = {}

    # Opening ----------------------------------------------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        new = not self.path.exists() or self.path.stat().st_size == 0
        database = sqlite3.connect(self.path, isolation_level=None)
        try:
            with _complaints(self.path):
                database.execute("PRAGMA busy_timeout = 2000")
                if new:
                    _create(database, self._seed)
                else:
                    self._check(database)
                database.execute("PRAGMA journal_mode = WAL")
                # A crash of the process loses nothing; a power cut may lose the last moments, never the file.
                database.execute("PRAGMA synchronous = NORMAL")
        except BaseException:
            database.close()
            raise
        return database

    def _check(self, database: sqlite3.Connection) -> None:
        application = database.execute("PRAGMA application_id").fetchone()[0]
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if application != APPLICATION:
            raise StateError(f"{self.path} is not the state of a paper exchange: choose another --state folder")
        if version != VERSION:
            raise StateError(
                f"{self.path} has format {version}, this version of exitguard reads format {VERSION}: "
                "use the version that wrote it, or another --state folder"
            )
        verdict = database.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise StateError(
                f"{self.path} is broken ({verdict}): restore a copy of it, or choose another --state folder"
            )
        seed = _meta(database).get("seed")
        if seed != self._seed:
            raise StateError(
                f"{self.path} was made with seed {seed}, this exchange has seed {self._seed}: "
                f"start it with --generate {seed}, or choose another --state folder"
            )

    # Reading ----------------------------------------------------------------------------------------------------------

    def market_time(self) -> datetime | None:
        """Where the market's time had got to; None for a state that has just been created."""
        with _sensible(self.path):
            at = _meta(self._db).get("market_time")
            return None if at is None else datetime.fromisoformat(at)

    def market_terms(self) -> dict[str, Any]:
        """What the market had written with the state: splits and new names of stocks."""
        with _sensible(self.path):
            return _meta(self._db).get("market_terms") or {}

    def prices(self) -> dict[str, Decimal]:
        """The kept price of each stock by its present symbol."""
        prices = {}
        with _sensible(self.path):
            for text, price in self._db.execute("SELECT record, price FROM assets"):
                record = orjson.loads(text)
                if not record["is_option"]:
                    prices[record["symbol"]] = Decimal(orjson.loads(price)["price"])
        return prices

    def restore(self, keeping: Keeping) -> None:
        """Fill a new exchange with what was kept. Raises StateError for records that make no sense."""
        with _sensible(self.path):
            meta = _meta(self._db)
            starts = int(meta.get("starts", 0)) + 1
            self._db.execute("INSERT OR REPLACE INTO exchange VALUES ('starts', ?)", (str(starts),))
            if "market_time" not in meta:
                return
            keeping.restore(self._kept(meta, starts), datetime.fromisoformat(meta["boundary"]))

    def _kept(self, meta: dict[str, Any], starts: int) -> Kept:
        kept = Kept(starts, meta["stamp"], meta["sequence"], announcements=meta["announcements"])
        for identifier, record, price in self._db.execute("SELECT id, record, price FROM assets"):
            self._written["asset", identifier] = record + price
            kept.assets.append(orjson.loads(record))
            kept.prices[identifier] = orjson.loads(price)
        for name, record in self._db.execute(_ACCOUNTS):
            one = KeptAccount(orjson.loads(record))
            own = (name,)
            one.orders = [orjson.loads(text) for (text,) in self._db.execute(_ORDERS, own)]
            one.groups = [orjson.loads(text) for (text,) in self._db.execute(_GROUPS, own)]
            one.client_order_ids = [text for (text,) in self._db.execute(_CLIENT_IDS, own)]
            rows = self._db.execute(_ACTIVITIES, own).fetchall()
            one.activities = [(at, orjson.loads(text)) for at, text in rows]
            one.equity = [(at, Decimal(value)) for at, value in self._db.execute(_EQUITY, own)]
            self._activities[name] = one.record["activities_dropped"] + len(rows)
            self._equity[name] = one.equity[-1][0] if one.equity else 0
            kept.accounts.append(one)
        return kept

    # Writing ----------------------------------------------------------------------------------------------------------

    def keep(self, keeping: Keeping, now: Callable[[], datetime], market_terms: Callable[[], Any]) -> None:
        """Write the exchange down now, and from now on at each flush. `now` tells the market's time."""
        self._keeping, self._now, self._market_terms = keeping, now, market_terms
        keeping.begin()
        self.flush()

    def flush(self) -> None:
        """Write what has changed; nothing, and at once, when nothing has. Raises StateError when it cannot be."""
        keeping = self._keeping
        if keeping is None or not keeping.changed:
            return
        changes = keeping.take()
        try:
            self._write(changes)
        except BaseException:
            keeping.put_back(changes)
            raise

    def save_prices(self) -> None:
        """Write everything small too: prices and the market's time."""
        if self._keeping is not None:
            self._keeping.note_everything()
            self.flush()

    def close(self, *, write: bool = True) -> None:
        """Let go of the folder, after a last write unless it is known to be of no use."""
        try:
            if write:
                self.save_prices()
        finally:
            self._keeping = None
            self._db.close()
            os.close(self._lock)

    def _write(self, changes: Changes) -> None:
        keeping, now = self._keeping, self._now
        assert keeping is not None
        assert now is not None
        with _complaints(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                accounts = list(keeping.accounts()) if changes.everything else list(changes.accounts.values())
                self._write_orders(changes)
                for account in accounts:
                    self._write_account(account)
                if changes.everything:
                    self._write_small(keeping)
                stamp, sequence = keeping.counters()
                self._set("stamp", stamp)
                self._set("sequence", sequence)
                self._set("boundary", keeping.boundary.astimezone(UTC).isoformat())
                self._set("market_time", now().astimezone(UTC).isoformat())
                self._db.execute("COMMIT")
            except BaseException:
                # The cache no longer tells what is in the file.
                self._written.clear()
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _write_orders(self, changes: Changes) -> None:
        for order in changes.orders.values():
            account = order.account
            if order.id not in account.orders:
                continue
            if order.asset is not None and order.asset.is_option:
                self._write_asset(order.asset)
            text = _text(order_record(order))
            row = (account.name, order.id, order.sequence, text)
            self._db.execute("INSERT OR REPLACE INTO orders VALUES (?, ?, ?, ?)", row)
            taken = (account.name, order.client_order_id)
            self._db.execute("INSERT OR IGNORE INTO client_order_ids VALUES (?, ?)", taken)
            if order.group is not None:
                group = (account.name, order.group.id, _text(group_record(order.group)))
                self._db.execute("INSERT OR REPLACE INTO order_groups VALUES (?, ?, ?)", group)
        if changes.forgotten:
            self._db.executemany("DELETE FROM orders WHERE account = ? AND id = ?", changes.forgotten)

    def _write_account(self, account: Account) -> None:
        name = account.name
        text = _text(account_record(account))
        if self._is_new("account", name, text):
            self._db.execute("INSERT OR REPLACE INTO accounts VALUES (?, ?)", (name, text))
        for position in account.positions.values():
            if position.asset.is_option:
                self._write_asset(position.asset)
        dropped = account.activities_dropped
        begin = max(self._activities.get(name, 0), dropped)
        rows = [
            (name, begin + offset, at, _text(activity))
            for offset, (at, activity) in enumerate(account.activities[begin - dropped :])
        ]
        if rows:
            self._db.executemany("INSERT OR REPLACE INTO activities VALUES (?, ?, ?, ?)", rows)
            self._activities[name] = begin + len(rows)
        if dropped:
            self._db.execute("DELETE FROM activities WHERE account = ? AND position < ?", (name, dropped))
        self._write_equity(account)

    def _write_equity(self, account: Account) -> None:
        name = account.name
        # The newest entry may have changed since it was written.
        rows = [(name, at, str(value)) for at, value in account.equity.since(self._equity.get(name, 0))]
        if rows and self._is_new("equity", name, f"{rows[-1]}"):
            self._db.executemany("INSERT OR REPLACE INTO equity VALUES (?, ?, ?)", rows)
            self._equity[name] = rows[-1][1]
        limit = account.equity_thinned
        if limit and self._is_new("thinned", name, str(limit)):
            self._db.execute("DELETE FROM equity WHERE account = ? AND at < ?", (name, limit))
            kept = [(name, at, str(value)) for at, value in account.equity.since(0) if at < limit]
            self._db.executemany("INSERT INTO equity VALUES (?, ?, ?)", kept)

    def _write_small(self, keeping: Keeping) -> None:
        for asset in keeping.stocks():
            self._write_asset(asset)
        known = [identifier for kind, identifier in self._written if kind == "asset"]
        for asset in [*keeping.needed_options(), *keeping.assets(known)]:
            self._write_asset(asset)
        self._set("announcements", keeping.announcements())
        if self._market_terms is not None:
            self._set("market_terms", self._market_terms())

    def _write_asset(self, asset: Asset) -> None:
        record, price = _text(asset_record(asset)), _text(price_record(asset))
        if self._is_new("asset", asset.id, record + price):
            self._db.execute("INSERT OR REPLACE INTO assets VALUES (?, ?, ?)", (asset.id, record, price))
            if asset.underlying is not None:
                self._write_asset(asset.underlying)

    def _set(self, name: str, value: Any) -> None:
        text = _text(value)
        if self._is_new("exchange", name, text):
            self._db.execute("INSERT OR REPLACE INTO exchange VALUES (?, ?)", (name, text))

    def _is_new(self, kind: str, name: str, text: str) -> bool:
        if self._written.get((kind, name)) == text:
            return False
        self._written[kind, name] = text
        return True


_ACCOUNTS = "SELECT name, record FROM accounts ORDER BY json_extract(record, '$.created'), name"
_ORDERS = "SELECT record FROM orders WHERE account = ? ORDER BY sequence"
_GROUPS = "SELECT record FROM order_groups WHERE account = ?"
_CLIENT_IDS = "SELECT client_order_id FROM client_order_ids WHERE account = ?"
_ACTIVITIES = "SELECT at, record FROM activities WHERE account = ? ORDER BY position"
_EQUITY = "SELECT at, equity FROM equity WHERE account = ? ORDER BY at"


def _create(database: sqlite3.Connection, seed: int) -> None:
    database.execute("BEGIN IMMEDIATE")
    for statement in _SCHEMA.split(";"):
        if statement.strip():
            database.execute(statement)
    database.execute("INSERT INTO exchange VALUES ('seed', ?)", (str(seed),))
    database.execute(f"PRAGMA application_id = {APPLICATION}")
    database.execute(f"PRAGMA user_version = {VERSION}")
    database.execute("COMMIT")


def _meta(database: sqlite3.Connection) -> dict[str, Any]:
    rows: Iterable[tuple[str, str]] = database.execute("SELECT name, value FROM exchange")
    return {name: orjson.loads(value) for name, value in rows}


def _text(value: Any) -> str:
    return orjson.dumps(value).decode()


def _locked(folder: Path) -> int:
    """Take the folder for this process; the kernel gives it back when the process ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateError(f"cannot use the state folder {folder}: {error.strerror or error}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise StateInUse(
            f"another exchange uses the state folder {folder}: stop it or choose another folder"
        ) from error
    return lock


class StateInUse(StateError):
    """Another process holds the folder."""


@contextmanager
def _sensible(path: Path) -> Iterator[None]:
    """The same, and for records that are not what we wrote."""
    with _complaints(path):
        try:
            yield
        except orjson.JSONDecodeError:
            raise
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
            raise StateError(
                f"{path} holds records that make no sense ({type(error).__name__}: {error}): "
                "restore a copy of it, or choose another --state folder"
            ) from error


@contextmanager
def _complaints(path: Path) -> Iterator[None]:
    """Turn what SQLite and JSON say into one clear sentence."""
    try:
        yield
    except (sqlite3.Error, orjson.JSONDecodeError) as error:
        raise StateError(
            f"{path} cannot be used as an exchange's state ({error}): restore a copy of it, or choose another folder"
        ) from error
