"""Reading and writing the store's plain files.

Blocking calls on descriptors and paths, and nothing else: whoever calls decides in which thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

import blake3

from storage.digest import Digest, hash_bytes
from storage.errors import Corrupt
from storage.records import BlobRef

FILE_MODE = 0o600
FOLDER_MODE = 0o700

HASH_PIECE_BYTES = 1024 * 1024

WHOLE_HASH_BYTES = 2 * 1024 * 1024
"""A blob up to this size is read whole when it is verified, so that the bytes checked are the bytes served."""

Stamp: TypeAlias = tuple[int, int]
"""Inode and change time (nanoseconds) of a file whose bytes were verified; another stamp is another file."""


def clip(size_bytes: int, first: int, last: int | None) -> tuple[int, int]:
    """Start and length of the part of a blob that ``data[first : last + 1]`` would give.

    Args:
        size_bytes: length of the blob.
        first: first byte, at least 0.
        last: last byte, inclusive; ``None`` for the end.

    Raises:
        ValueError: ``first`` is negative.
    """
    if first < 0:
        raise ValueError("a range starts at 0 or later")
    end = size_bytes if last is None else min(last + 1, size_bytes)
    return min(first, size_bytes), max(0, end - first)


def open_for_reading(path: str | Path) -> int:
    """Descriptor of a blob's file; a symbolic link is refused."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)


def read_exactly(descriptor: int, start: int, count: int) -> bytes:
    """``count`` bytes from ``start``.

    Raises:
        Corrupt: the file ends before.
        OSError: the medium failed.
    """
    data = os.pread(descriptor, count, start)
    if len(data) == count:
        return data
    pieces = [data]
    missing = count - len(data)
    while missing:  # one call reads at most 2 GB, and a signal may cut it short
        piece = os.pread(descriptor, missing, start + count - missing)
        if not piece:
            raise Corrupt("file cut short")
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)


def hash_file(descriptor: int, size_bytes: int) -> Digest:
    """Digest of the first ``size_bytes`` of a file.

    Raises:
        Corrupt: the file ends before.
        OSError: the medium failed.
    """
    hasher = blake3.blake3()
    for start in range(0, size_bytes, HASH_PIECE_BYTES):
        hasher.update(read_exactly(descriptor, start, min(HASH_PIECE_BYTES, size_bytes - start)))
    return Digest(hasher.digest())


def verify_file(descriptor: int, ref: BlobRef, known: Stamp | None) -> Stamp:
    """Check length, and digest unless the file's stamp is ``known``; the stamp to know it by from now on.

    Raises:
        Corrupt: the bytes are not the blob's.
        OSError: the medium failed.
    """
    stamp = _check_length(descriptor, ref)
    if stamp != known and hash_file(descriptor, ref.size_bytes) != ref.digest:
        raise Corrupt("digest differs")
    return stamp


def read_known(path: str | Path, ref: BlobRef, start: int, count: int, known: Stamp) -> bytes | None:
    """Part of a blob whose file was verified under the stamp ``known``; ``None`` if it has another stamp by now.

    Raises:
        Corrupt: its length is not the blob's.
        OSError: there is no such file, or the medium failed.
    """
    descriptor = open_for_reading(path)
    try:
        if _check_length(descriptor, ref) != known:
            return None
        return read_exactly(descriptor, start, count)
    finally:
        os.close(descriptor)


def read_verified(path: str | Path, ref: BlobRef, start: int, count: int) -> tuple[bytes, Stamp]:
    """Part of a blob, all of which is read and verified; and the stamp to know its file by from now on.

    Args:
        start, count: a part inside the blob, see ``clip``.

    Raises:
        Corrupt: the bytes are not the blob's.
        OSError: there is no such file, or the medium failed.
    """
    descriptor = open_for_reading(path)
    try:
        if ref.size_bytes > WHOLE_HASH_BYTES:
            stamp = verify_file(descriptor, ref, None)
            return read_exactly(descriptor, start, count), stamp
        stamp = _check_length(descriptor, ref)
        data = read_exactly(descriptor, 0, ref.size_bytes)
        if hash_bytes(data) != ref.digest:
            raise Corrupt("digest differs")
        return data[start : start + count], stamp
    finally:
        os.close(descriptor)


def create_file(path: Path) -> int:
    """Descriptor of a new empty file that its owner alone can read."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)


def write_all(descriptor: int, chunks: Iterable[bytes]) -> None:
    """Append ``chunks`` whole."""
    for chunk in chunks:
        rest = memoryview(chunk)
        while rest:
            rest = rest[os.write(descriptor, rest) :]


def sync_folder(path: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_length(descriptor: int, ref: BlobRef) -> Stamp:
    status = os.fstat(descriptor)
    if status.st_size != ref.size_bytes:
        raise Corrupt(f"{status.st_size} bytes instead of {ref.size_bytes}")
    return status.st_ino, status.st_ctime_ns
