"""A journal on disk for the time when the database is gone.

One file for one account and component, allocated in advance, so that a full disk does not block an exit. A record is
durable when `append` returns. A torn tail (power lost in the middle of a write) ends the journal there: that record was
never reported as written.

Layout, little endian: a page of 4096 bytes (magic, generation, length and bytes of the owner's name, CRC), then
records (generation u32, length u32, CRC of the payload u32, payload). Emptying raises the generation: whatever an
older generation left behind the tail is not read again.
"""

import errno
import hashlib
import os
import re
import struct
import zlib
from pathlib import Path
from typing import Self

from exitguard.store.files import sync_folder, try_lock
from exitguard.store.port import StoreError

_MAGIC = b"XGJRNL01"
_HEAD = struct.Struct("<8sII")
_RECORD = struct.Struct("<III")
_CHECKSUM = struct.Struct("<I")
_PAGE = 4096
DEFAULT_SIZE = 16 * 1024 * 1024
_GROWTH = 16 * 1024 * 1024
_MOST_JOURNALS = 4


class JournalError(StoreError):
    """The journal cannot be opened, belongs to another account, or is full."""


class JournalInUse(JournalError):
    """Another process has the journal open."""


class Journal:
    """An append-only file of byte strings; see the module for its promises. Not safe for use by several threads."""

    def __init__(self, path: Path, handle: int, generation: int, size: int) -> None:
        self.path = path
        self._handle = handle
        self._generation = generation
        self._size = size
        self._end = _PAGE
        self._sync_from = _PAGE

    @classmethod
    def open(cls, folder: Path, account_name: str, component: str = "manager", *, size: int = DEFAULT_SIZE) -> Self:
        """Open the journal of an account, or create and allocate it.

        Args:
            folder: where journals live; created when absent.
            account_name: owner; it is in the file's name and inside the file.
            component: each component of an account has a journal of its own.
            size: bytes to allocate in advance.

        Raises:
            JournalInUse: another process has it open.
            JournalError: not writable, disk full, or a journal of another account.
        """
        owner = f"{account_name}/{component}"
        path = folder / journal_name(account_name, component)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _explained(path, error) from error
        try:
            journal = cls._opened(path, handle, owner, size)
        except OSError as error:
            os.close(handle)
            raise _explained(path, error) from error
        except BaseException:
            os.close(handle)
            raise
        return journal

    @classmethod
    def open_any(cls, folder: Path, account_name: str, component: str = "manager", *, size: int = DEFAULT_SIZE) -> Self:
        """Open the journal of an account although a process that hangs may hold it: then the next one of a few.

        What processes that are gone left in the others is moved into this one. Raises what `open` raises;
        JournalInUse only when all are in use.
        """
        opened: list[Self] = []
        in_use: JournalInUse | None = None
        for number in range(1, _MOST_JOURNALS + 1):
            name = component if number == 1 else f"{component}.{number}"
            if opened and not (folder / journal_name(account_name, name)).exists():
                continue
            try:
                opened.append(cls.open(folder, account_name, name, size=size))
            except JournalInUse as error:
                in_use = error
        if not opened:
            assert in_use is not None
            raise in_use
        chosen, *others = opened
        for other in others:
            # Twice is harmless, because the database knows a batch by its id; lost would not be.
            for record in other.records():
                chosen.append(record)
            other.clear()
            other.close()
        return chosen

    @classmethod
    def _opened(cls, path: Path, handle: int, owner: str, size: int) -> Self:
        if not try_lock(handle):
            raise JournalInUse(f"another process writes the journal {path}")
        head = os.pread(handle, _PAGE, 0)
        if head.strip(b"\0"):
            generation = _read_head(path, head, owner)
            length = os.fstat(handle).st_size
        else:
            generation, length = 1, max(size, 2 * _PAGE)
            os.posix_fallocate(handle, 0, length)
            _write_all(handle, _head(generation, owner), 0)
            os.fsync(handle)
            sync_folder(path.parent)
        journal = cls(path, handle, generation, length)
        journal._owner = owner
        journal._end += sum(_RECORD.size + len(record) for record in journal.records())
        return journal

    _owner: str

    @property
    def is_empty(self) -> bool:
        """Whether nothing is waiting."""
        return self._end == _PAGE

    def records(self) -> list[bytes]:
        """Everything that was appended since the journal was last emptied, in order."""
        found: list[bytes] = []
        position = _PAGE
        while (record := self._record_at(position)) is not None:
            found.append(record)
            position += _RECORD.size + len(record)
        return found

    def _record_at(self, position: int) -> bytes | None:
        head = os.pread(self._handle, _RECORD.size, position)
        if len(head) < _RECORD.size:
            return None
        generation, length, checksum = _RECORD.unpack(head)
        if generation != self._generation or length == 0 or position + _RECORD.size + length > self._size:
            return None
        payload = os.pread(self._handle, length, position + _RECORD.size)
        return payload if len(payload) == length and zlib.crc32(payload) == checksum else None

    def append(self, payload: bytes) -> None:
        """Append one record; it is on the disk when this returns. Raises JournalError when it cannot be."""
        if not payload:
            raise ValueError("an empty record cannot be told from the end of the journal")
        record = _RECORD.pack(self._generation, len(payload), zlib.crc32(payload)) + payload
        try:
            while self._end + len(record) > self._size:
                os.posix_fallocate(self._handle, self._size, _GROWTH)
                os.fsync(self._handle)
                self._size += _GROWTH
            _write_all(self._handle, record, self._end)
            os.fdatasync(self._handle)
        except OSError as error:
            raise _explained(self.path, error) from error
        self._end += len(record)

    def clear(self) -> None:
        """Forget all records: the database has them."""
        if self.is_empty:
            return
        try:
            _write_all(self._handle, _head(self._generation + 1, self._owner), 0)
            os.fdatasync(self._handle)
        except OSError as error:
            raise _explained(self.path, error) from error
        self._generation += 1
        self._end = _PAGE

    def close(self) -> None:
        """Close the file; the records stay."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def journal_name(account_name: str, component: str) -> str:
    """File name of a journal: readable, safe, and different for different owners."""
    readable = re.sub(r"[^A-Za-z0-9_.-]", "_", f"{account_name}.{component}")[:80]
    mark = hashlib.sha256(f"{account_name}/{component}".encode()).hexdigest()[:8]
    return f"journal.{readable}.{mark}.bin"


def _head(generation: int, owner: str) -> bytes:
    name = owner.encode()
    body = _HEAD.pack(_MAGIC, generation, len(name)) + name
    return (body + _CHECKSUM.pack(zlib.crc32(body))).ljust(512, b"\0")


def _read_head(path: Path, head: bytes, owner: str) -> int:
    remedy = "move the file away; what it holds has not been written to the database"
    if len(head) < _HEAD.size or head[:8] != _MAGIC:
        raise JournalError(f"{path} is not a journal: {remedy}")
    _, generation, length = _HEAD.unpack(head[: _HEAD.size])
    end = _HEAD.size + length
    if length > _PAGE - _HEAD.size - _CHECKSUM.size:
        raise JournalError(f"the head of the journal {path} is damaged: {remedy}")
    (checksum,) = _CHECKSUM.unpack(head[end : end + _CHECKSUM.size])
    if zlib.crc32(head[:end]) != checksum:
        raise JournalError(f"the head of the journal {path} is damaged: {remedy}")
    found = head[_HEAD.size : end].decode(errors="replace")
    if found != owner:
        raise JournalError(f"{path} is the journal of {found}, not of {owner}: {remedy}")
    return int(generation)


def _write_all(handle: int, content: bytes, position: int) -> None:
    done = 0
    while done < len(content):
        done += os.pwrite(handle, content[done:], position + done)


def _explained(path: Path, error: OSError) -> JournalError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return JournalError(f"no space is left for the journal {path}: free some disk space")
    return JournalError(f"the journal {path} cannot be used: {error.strerror}: make its folder writable")
