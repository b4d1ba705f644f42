from __future__ import annotations

import errno
import sqlite3

import pytest

from storage.errors import StorageFull, StorageUnavailable
from storage.local.faults import as_unavailable, is_damage, may_pass
from storage.local.strict_disk import CacheTimeout


def sqlite_error(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("what it says")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize("code", [sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, 522, 267])
def test_damage_is_told_from_the_code(code: int) -> None:
    assert is_damage(sqlite_error(code))
    assert not may_pass(sqlite_error(code))


def test_other_tables_than_ours_do_not_pass_and_are_no_damage_later() -> None:
    assert not may_pass(sqlite_error(sqlite3.SQLITE_ERROR))
    assert not is_damage(sqlite_error(sqlite3.SQLITE_ERROR))


@pytest.mark.parametrize("code", [sqlite3.SQLITE_BUSY, sqlite3.SQLITE_IOERR, 266, sqlite3.SQLITE_FULL, 14, 8, 6, 773])
def test_what_may_pass_is_no_damage(code: int) -> None:
    assert not is_damage(sqlite_error(code))
    assert may_pass(sqlite_error(code))


@pytest.mark.parametrize("error", [OSError(errno.EIO, "x"), sqlite3.ProgrammingError("closed"), KeyError("x")])
def test_other_errors_are_no_damage(error: Exception) -> None:
    assert not is_damage(error)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_room_is_full(number: int) -> None:
    assert type(as_unavailable(OSError(number, "x"))) is StorageFull
    assert type(as_unavailable(sqlite_error(sqlite3.SQLITE_FULL))) is StorageFull


def test_words_name_the_cause() -> None:
    assert str(as_unavailable(OSError(errno.EROFS, "x"))) == "Read-only file system (EROFS)"
    assert str(as_unavailable(sqlite_error(sqlite3.SQLITE_BUSY))) == "what it says"


@pytest.mark.parametrize("second", [CacheTimeout(), sqlite_error(sqlite3.SQLITE_ERROR)])
def test_first_error_is_the_cause(second: Exception) -> None:
    """A full disk makes SQLite roll back by itself; the ROLLBACK that follows must not look like damage."""

    def fail() -> None:
        try:
            raise sqlite_error(sqlite3.SQLITE_FULL)
        except sqlite3.Error:
            raise second from None

    with pytest.raises(type(second)) as caught:
        fail()
    assert type(as_unavailable(caught.value)) is StorageFull
    assert not is_damage(caught.value)
    assert may_pass(caught.value)


def test_error_while_another_was_handled_is_itself_the_cause() -> None:
    try:
        raise FileNotFoundError(errno.ENOENT, "x")
    except FileNotFoundError as first:
        second = OSError(errno.EIO, "x")
        second.__context__ = first
    assert str(as_unavailable(second)) == "Input/output error (EIO)"


def test_own_errors_pass_through() -> None:
    error = StorageUnavailable("x")
    assert as_unavailable(error) is error
