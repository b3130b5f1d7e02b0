"""The journal on disk: what was reported as written is there, and nothing else."""

import contextlib
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exitguard.store.journal import Journal, JournalError, JournalInUse, journal_name

SMALL = 64 * 1024
HEAD = 4096


def opened(folder: Path, account: str = "large", size: int = SMALL) -> Journal:
    return Journal.open(folder, account, size=size)


def test_records_come_back_in_order_after_a_restart(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    assert journal.is_empty
    for number in range(5):
        journal.append(f"record {number}".encode())
    journal.close()
    journal = opened(tmp_path)
    assert journal.records() == [f"record {number}".encode() for number in range(5)]
    journal.append(b"later")
    assert journal.records()[-1] == b"later"
    journal.close()


def test_an_emptied_journal_forgets_and_can_be_used_again(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    for _ in range(3):
        journal.append(b"a long old record " * 10)
    journal.clear()
    assert (journal.is_empty, journal.records()) == (True, [])
    journal.append(b"new")
    journal.close()
    journal = opened(tmp_path)
    assert journal.records() == [b"new"], "old records behind the new tail belong to another generation"
    journal.close()


def test_the_space_is_allocated_in_advance(tmp_path: Path) -> None:
    journal = opened(tmp_path, size=256 * 1024)
    assert journal.path.stat().st_size == 256 * 1024
    assert journal.path.stat().st_blocks * 512 >= 256 * 1024
    journal.close()


def test_a_full_disk_does_not_block_an_exit_until_the_space_is_used_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = opened(tmp_path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    written = (SMALL - HEAD) // 1012
    for _ in range(written):
        journal.append(b"x" * 1000)
    with pytest.raises(JournalError, match="no space is left for the journal"):
        journal.append(b"x" * 1000)
    assert len(journal.records()) == written
    monkeypatch.undo()
    journal.append(b"y" * 1000)  # space again: the file grows
    assert len(journal.records()) == written + 1
    journal.close()


def test_the_file_names_its_account_and_is_private(tmp_path: Path) -> None:
    journal = opened(tmp_path, "large")
    assert "large.manager" in journal.path.name
    assert journal.path.stat().st_mode & 0o777 == 0o600
    journal.close()
    assert journal_name("a/b", "manager") != journal_name("a_b", "manager")
    assert "/" not in journal_name("../../etc", "manager")


def test_a_journal_of_another_account_is_refused(tmp_path: Path) -> None:
    journal = opened(tmp_path, "large")
    journal.append(b"an intent of large")
    journal.close()
    (tmp_path / journal_name("large", "manager")).rename(tmp_path / journal_name("tiny", "manager"))
    with pytest.raises(JournalError, match="is the journal of large/manager, not of tiny/manager"):
        opened(tmp_path, "tiny")


def test_two_processes_cannot_write_one_journal(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    with pytest.raises(JournalInUse):
        opened(tmp_path)
    journal.close()
    opened(tmp_path).close()


@pytest.mark.parametrize(
    ("content", "complaint"), [(b"#!/bin/sh\n", "is not a journal"), (b"XGJRNL01" + b"\xff" * 600, "is damaged")]
)
def test_a_foreign_or_damaged_file_is_refused_and_left_alone(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / journal_name("large", "manager")
    path.write_bytes(content)
    with pytest.raises(JournalError, match=complaint):
        opened(tmp_path)
    assert path.read_bytes() == content


def test_a_folder_that_cannot_be_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="cannot be used") as caught:
        opened(tmp_path / "file" / "journals")
    assert "\n" not in str(caught.value)


def test_an_empty_record_is_refused(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    with pytest.raises(ValueError, match="empty record"):
        journal.append(b"")
    journal.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    records=st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=6),
    damage=st.data(),
)
def test_a_torn_tail_loses_only_what_was_not_reported(
    tmp_path_factory: pytest.TempPathFactory, records: list[bytes], damage: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    journal = opened(folder)
    ends = [HEAD]
    for record in records:
        journal.append(record)
        ends.append(ends[-1] + 12 + len(record))
    journal.close()
    last_begin, last_end = ends[-2], ends[-1]
    torn_at = damage.draw(st.integers(last_begin, last_end - 1))
    with journal.path.open("r+b") as file:  # the last write reached the disk in part
        file.seek(torn_at)
        file.write(b"\0" * (last_end - torn_at))
    journal = opened(folder)
    found = journal.records()
    assert found[: len(records) - 1] == records[:-1]
    assert found[len(records) - 1 :] in ([], [records[-1]])
    journal.append(b"next")
    assert journal.records()[-1] == b"next"
    journal.close()


def test_what_was_reported_as_written_survives_kill_9(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from exitguard.store.journal import Journal\n"
        "journal = Journal.open(Path(sys.argv[1]), 'large', size=1 << 20)\n"
        "for number in range(10**6):\n"
        "    journal.append(b'record %d' % number); print(number, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    reported = [int(process.stdout.readline()) for _ in range(20)]
    process.kill()
    reported += [int(line) for line in process.stdout.read().split()]
    process.wait()
    process.stdout.close()
    journal = opened(tmp_path)
    found = journal.records()
    assert len(found) in (len(reported), len(reported) + 1)
    assert found == [b"record %d" % number for number in range(len(found))]
    journal.close()


def test_i12_a_journal_that_a_hung_process_holds_keeps_nobody_out(tmp_path: Path) -> None:
    with contextlib.closing(Journal.open_any(tmp_path, "large")) as hung:
        hung.append(b"of the hung process")
        with contextlib.closing(Journal.open_any(tmp_path, "large")) as successor:
            assert successor.records() == []
            successor.append(b"of its successor")
    with contextlib.closing(Journal.open_any(tmp_path, "large")) as third:
        assert third.records() == [b"of the hung process", b"of its successor"]
    with contextlib.closing(Journal.open_any(tmp_path, "large")) as fourth:
        assert fourth.records() == [b"of the hung process", b"of its successor"]


def test_too_many_journals_in_use_are_an_error(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(contextlib.closing(Journal.open_any(tmp_path, "large")))
        with pytest.raises(JournalInUse):
            Journal.open_any(tmp_path, "large")
