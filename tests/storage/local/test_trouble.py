from __future__ import annotations

import errno

import pytest

from storage.counters import StorageCounters
from storage.errors import BlobRejected, StorageFull, StorageUnavailable
from storage.local.trouble import PROBE_EVERY_S, Trouble


def fail(trouble: Trouble) -> None:
    with pytest.raises(StorageUnavailable), trouble.watching("blobs"):
        raise OSError(errno.EIO, "x")


def test_failure_is_noted_counted_and_cleared_by_the_next_success() -> None:
    counters = StorageCounters()
    trouble = Trouble(counters)
    assert trouble.reason() is None
    fail(trouble)
    assert trouble.reason() == "blobs: Input/output error (EIO)"
    assert counters.write_failures_total == 1
    with trouble.watching("blobs"):
        pass
    assert trouble.reason() is None


def test_success_of_one_part_does_not_hide_another() -> None:
    trouble = Trouble(StorageCounters())
    fail(trouble)
    with trouble.watching("index"):
        pass
    assert trouble.reason() == "blobs: Input/output error (EIO)"


def test_no_room_is_full_and_says_so() -> None:
    trouble = Trouble(StorageCounters())
    with pytest.raises(StorageFull), trouble.watching("blobs"):
        raise OSError(errno.ENOSPC, "x")
    assert trouble.reason() == "blobs: No space left on device (ENOSPC)"


def test_bytes_that_are_refused_are_no_trouble() -> None:
    trouble = Trouble(StorageCounters())
    with pytest.raises(BlobRejected), trouble.watching("blobs"):
        raise BlobRejected("too long")
    assert trouble.reason() is None


def test_probe_is_due_now_and_then_while_in_trouble() -> None:
    now = 100.0
    trouble = Trouble(StorageCounters(), monotonic=lambda: now)
    assert not trouble.is_probe_due()
    fail(trouble)
    assert trouble.is_probe_due()
    assert not trouble.is_probe_due()
    now += PROBE_EVERY_S
    assert trouble.is_probe_due()


def test_removal_that_succeeds_does_not_say_that_storing_works() -> None:
    """On a full disk rows can be removed; each removal once hid that none could be written."""
    trouble = Trouble(StorageCounters())
    with pytest.raises(StorageUnavailable), trouble.watching("index"):
        raise StorageUnavailable("no room")
    with trouble.watching("index", proves=False):
        pass
    assert trouble.reason() is not None
    with trouble.watching("index"):
        pass
    assert trouble.reason() is None
