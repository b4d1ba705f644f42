"""The data folder: what lies where, which format it has, and who owns it.

::

    <data_dir>/
      format        "1"; a newer number is refused, so that an older proxy never misreads a newer folder
      lock          held with flock while a proxy runs; the lock ends with its holder, however it ends
      index.v1/     the index database
      cas.v1/ab/    blobs by digest
      tmp/          blobs being written; swept at open
      quarantine/   blobs whose bytes were not what their name says

Folders are 0700 and files 0600. The owner of the lock is the only one to sweep and to set things aside.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from storage.errors import StorageRefused
from storage.local.files import FILE_MODE, FOLDER_MODE, create_file, sync_folder, write_all

FOLDER_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Folder:
    """Paths inside a data folder; ``root`` is absolute."""

    root: Path

    @property
    def index(self) -> Path:
        return self.root / "index.v1"

    @property
    def blobs(self) -> Path:
        return self.root / "cas.v1"

    @property
    def temp(self) -> Path:
        return self.root / "tmp"

    @property
    def quarantine(self) -> Path:
        return self.root / "quarantine"


def claim_folder(root: Path) -> tuple[Folder, int]:
    """Make the folder if need be and take it for this process.

    Returns:
        The folder, and the descriptor whose closing gives it up.

    Raises:
        StorageRefused: a newer format, another proxy holds it, or a name that diskcache would expand.
        OSError: it cannot be made or written.
    """
    root = Path(os.path.abspath(root))
    if os.path.expandvars(root) != str(root):
        raise StorageRefused(f"{root}: the name of a data folder may not hold the name of a variable")
    root.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    _check_format(root)
    descriptor = _lock(root)
    try:
        folder = Folder(root)
        for path in (folder.blobs, folder.temp, folder.quarantine):
            path.mkdir(mode=FOLDER_MODE, exist_ok=True)
        _write_format(folder)
    except BaseException:
        os.close(descriptor)
        raise
    return folder, descriptor


def sweep_temp(folder: Folder) -> int:
    """Remove what ended writers left in ``tmp/``; how many files that were."""
    swept = 0
    with os.scandir(folder.temp) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                os.unlink(entry.path)
                swept += 1
    return swept


def _check_format(root: Path) -> bool:
    try:
        text = (root / "format").read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        return False
    if text == str(FOLDER_FORMAT):
        return True
    if text.isdecimal() and int(text) > FOLDER_FORMAT:
        raise StorageRefused(
            f"{root} was written by a newer version (folder format {text}, this one reads {FOLDER_FORMAT}); "
            "use that version or another folder"
        )
    raise StorageRefused(f"{root}/format holds {text[:20]!r} instead of {FOLDER_FORMAT}; is this the right folder?")


def _lock(root: Path) -> int:
    descriptor = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
        os.close(descriptor)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise StorageRefused(f"{root} is in use by another proxy (process {holder or 'unknown'})") from None
        raise
    with contextlib.suppress(OSError):  # the number only helps the reader of the message above
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode("ascii"), 0)
    return descriptor


def _write_format(folder: Folder) -> None:
    if _check_format(folder.root):
        return
    temp = folder.temp / "format"
    temp.unlink(missing_ok=True)
    descriptor = create_file(temp)
    try:
        write_all(descriptor, [str(FOLDER_FORMAT).encode("ascii")])
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temp.rename(folder.root / "format")
    sync_folder(folder.root)
