"""How many bytes the blobs take, and whether one more fits.

Counted from the files themselves at open (so that left-overs count too) and kept up to date by the writer
thread of the one process that writes, which alone changes it. Sizes are rounded up to whole blocks, as the file
system does.
"""

from __future__ import annotations

import os
from pathlib import Path

from storage.errors import StorageFull

BLOCK_BYTES = 4096


def whole_blocks(size_bytes: int) -> int:
    """``size_bytes`` rounded up to whole blocks."""
    return -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES


def measure_tree(root: Path) -> int:
    """Bytes in whole blocks of all files below ``root``, which has one level of folders."""
    total_bytes = 0
    with os.scandir(root) as folders:
        for folder in folders:
            if not folder.is_dir(follow_symlinks=False):
                continue
            with os.scandir(folder) as files:
                total_bytes += sum(whole_blocks(file.stat(follow_symlinks=False).st_size) for file in files)
    return total_bytes


class Space:
    """Bytes used and bytes promised, within ``max_bytes``.

    A blob first reserves what it will take; when it is in place its reservation becomes use, else it is
    given back.
    """

    def __init__(self, max_bytes: int, used_bytes: int = 0) -> None:
        self._max_bytes = max_bytes
        self._used_bytes = used_bytes
        self._reserved_bytes = 0

    @property
    def used_bytes(self) -> int:
        """Bytes taken by the blobs in place."""
        return self._used_bytes

    def reserve(self, count: int) -> None:
        """Promise ``count`` more bytes.

        Raises:
            StorageFull: they would pass the limit; nothing is promised.
        """
        if self._used_bytes + self._reserved_bytes + count > self._max_bytes:
            raise StorageFull(f"{count} more bytes do not fit, {self._used_bytes} of {self._max_bytes} are used")
        self._reserved_bytes += count

    def release(self, count: int) -> None:
        """Give a promise of ``count`` bytes back."""
        self._reserved_bytes -= count

    def add(self, count: int) -> None:
        """Count a file of ``count`` bytes that came into place (negative for one that left)."""
        self._used_bytes = max(0, self._used_bytes + count)
