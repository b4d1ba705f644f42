from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.digest import hash_bytes
from storage.errors import Corrupt
from storage.local.files import (
    clip,
    create_file,
    hash_file,
    open_for_reading,
    read_exactly,
    read_known,
    read_verified,
    verify_file,
    write_all,
)
from storage.records import BlobRef


@given(data=st.binary(max_size=50), first=st.integers(0, 60), last=st.none() | st.integers(-1, 60))
def test_clip_gives_what_a_slice_would(data: bytes, first: int, last: int | None) -> None:
    start, count = clip(len(data), first, last)
    assert 0 <= start <= start + count <= len(data)
    assert data[start : start + count] == data[first : None if last is None else last + 1]


def test_file_is_created_for_its_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        os.close(create_file(tmp_path / "x"))
    finally:
        os.umask(old)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        create_file(tmp_path / "x")


def test_short_writes_are_carried_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, bytes(data[:3])))
    descriptor = create_file(tmp_path / "x")
    write_all(descriptor, [b"0123456789", b"", b"ab"])
    os.close(descriptor)
    assert (tmp_path / "x").read_bytes() == b"0123456789ab"


def test_short_reads_are_carried_on_and_an_early_end_is_corrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x").write_bytes(b"0123456789")
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda descriptor, count, start: pread(descriptor, min(count, 3), start))
    descriptor = open_for_reading(tmp_path / "x")
    try:
        assert read_exactly(descriptor, 1, 8) == b"12345678"
        assert hash_file(descriptor, 10) == hash_bytes(b"0123456789")
        with pytest.raises(Corrupt):
            read_exactly(descriptor, 5, 6)
    finally:
        os.close(descriptor)


def test_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="symbolic"):
        open_for_reading(tmp_path / "link")


def test_known_file_is_read_without_hashing_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, ref = tmp_path / "x", BlobRef(hash_bytes(b"0123456789"), 10)
    path.write_bytes(b"0123456789")
    data, stamp = read_verified(path, ref, 2, 3)
    assert data == b"234"
    with monkeypatch.context() as patch:
        patch.setattr("storage.local.files.hash_bytes", None)
        patch.setattr("storage.local.files.hash_file", None)
        assert read_known(path, ref, 2, 3, stamp) == b"234"
        descriptor = open_for_reading(path)
        assert verify_file(descriptor, ref, stamp) == stamp
        os.close(descriptor)
    (tmp_path / "y").write_bytes(b"9876543210")
    (tmp_path / "y").rename(path)
    assert read_known(path, ref, 2, 3, stamp) is None
    with pytest.raises(Corrupt):
        read_verified(path, ref, 2, 3)
