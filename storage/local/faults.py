"""What the operating system and SQLite say went wrong, in the store's own errors.

Two questions decide everything: may it pass (then nothing is deleted), or is what is on the disk damaged
(then it is set aside)?
"""

from __future__ import annotations

import errno
import os
import sqlite3

from storage.errors import StorageFull, StorageUnavailable

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})

_PASSING = frozenset(
    {
        sqlite3.SQLITE_AUTH,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOLFS,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)
"""Primary result codes that speak of the medium or of other processes, not of the file's content."""


_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_NOTADB})


def may_pass(error: BaseException) -> bool:
    """Whether a failure to open the index speaks of the medium or of another process, not of the file's content."""
    code = _sqlite_code(error)
    if code is None:
        return isinstance(error, OSError)
    # A file that ends too early is reported as an I/O error, yet reading it again will not help.
    return code != sqlite3.SQLITE_IOERR_SHORT_READ and (code & 0xFF) in _PASSING


def is_damage(error: BaseException) -> bool:
    """Whether SQLite says outright that the index's file is not what was written."""
    code = _sqlite_code(error)
    return code is not None and (code & 0xFF in _DAMAGE or code == sqlite3.SQLITE_IOERR_SHORT_READ)


def as_unavailable(error: BaseException) -> StorageUnavailable:
    """The error to raise for a failed read or write, in words for the operator.

    ``StorageFull`` when the disk or a quota has no room left, else ``StorageUnavailable``.
    """
    if isinstance(error, StorageUnavailable):
        return error
    root = _root(error)
    if isinstance(root, OSError) and root.errno is not None:
        kind = StorageFull if root.errno in _NO_ROOM else StorageUnavailable
        return kind(f"{os.strerror(root.errno)} ({errno.errorcode.get(root.errno, root.errno)})")
    code = _sqlite_code(root)
    kind = StorageFull if code is not None and code & 0xFF == sqlite3.SQLITE_FULL else StorageUnavailable
    return kind(str(root))


def _root(error: BaseException) -> BaseException:
    # diskcache raises its Timeout "from None" for whatever SQLite said at BEGIN, and the ROLLBACK after a failed
    # statement may itself fail because SQLite has rolled back already; the context holds what came first.
    while not isinstance(error, OSError) and isinstance(error.__context__, sqlite3.Error):
        error = error.__context__
    return error


def _sqlite_code(error: BaseException) -> int | None:
    code = getattr(_root(error), "sqlite_errorcode", None)
    return code if isinstance(code, int) else None
