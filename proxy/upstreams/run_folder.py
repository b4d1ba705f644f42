"""A folder for temporary files that lasts as long as this process, and not longer.

Every process has one of its own below a shared root, and holds a lock beside it. What lies there without a held lock
was left behind by a process that was killed, and is removed by the next one to come.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
from pathlib import Path


class RunFolder:
    """One process's folder. Blocking.

    Attributes:
        path: the folder.
        held: descriptor of its lock. A child that is given it keeps the folder from being swept until it has ended.
    """

    def __init__(self, path: Path, lock_path: Path, held: int) -> None:
        self.path = path
        self.held = held
        self._lock_path = lock_path

    @classmethod
    def open(cls, root: Path) -> RunFolder:
        """Sweep ``root``, and make a new folder in it.

        Raises:
            OSError: ``root`` cannot be written to.
        """
        make_private(root)
        sweep(root)
        while True:
            path = root / secrets.token_hex(6)
            lock_path = path.with_suffix(".lock")
            lock_path.touch(mode=0o600)
            held = _lock(lock_path)
            if held is not None:
                path.mkdir(mode=0o700)
                return cls(path, lock_path, held)

    def close(self) -> None:
        """Remove it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock_path.unlink(missing_ok=True)
        os.close(self.held)


COGLET_SCRATCH = Path("/tmp/coglet/predictions")  # noqa: S108
"""Where coglet makes a folder for each run, whatever ``TMPDIR`` says, and leaves it."""

_PLAIN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Scratch:
    """Remembers on disk whose scratch folders are to be removed, so that a killed process's are, too. Blocking."""

    def __init__(self, root: Path) -> None:
        self._notes = root / "runs"

    def note(self, run_id: str) -> None:
        """A run is about to begin. Failing to note it costs at most a left-over folder."""
        with contextlib.suppress(OSError):
            if _PLAIN_ID.fullmatch(run_id):
                make_private(self._notes)
                (self._notes / run_id).touch(mode=0o600)

    def remove(self, run_id: str) -> None:
        """It has ended: remove what coglet made for it."""
        if _PLAIN_ID.fullmatch(run_id):
            shutil.rmtree(COGLET_SCRATCH / run_id, ignore_errors=True)
            (self._notes / run_id).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what runs left that are no more; to be called by the one process that owns the folder."""
        for note in self._notes.glob("*"):
            self.remove(note.name)
        with contextlib.suppress(OSError):
            self._notes.rmdir()


def make_private(folder: Path) -> None:
    """Make a folder, and those above it that are missing, closed to other users; ``parents=True`` closes one only.

    Raises:
        OSError: it cannot be made.
    """
    if not folder.is_dir():
        make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def sweep(root: Path) -> None:
    """Remove what processes that were killed left in ``root``; nothing happens if there is no such folder."""
    for lock_path in root.glob("*.lock"):
        held = _lock(lock_path)
        if held is not None:
            RunFolder(lock_path.with_suffix(""), lock_path, held).close()


def _lock(path: Path) -> int | None:
    """A descriptor that holds the lock on the file that ``path`` names now; ``None`` when somebody else has it."""
    try:
        held = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Another process may have swept it between the two calls above.
        if os.fstat(held).st_ino == path.stat().st_ino:
            return held
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(held)
    return None
