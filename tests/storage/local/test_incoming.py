from __future__ import annotations

import os
from pathlib import Path

import pytest

from storage.digest import hash_bytes
from storage.errors import StorageFull
from storage.local import incoming as incoming_module
from storage.local.incoming import Incoming
from storage.local.space import Space
from storage.records import BlobRef

DATA = [b"0123", b"", b"456789"]


def publish(tmp_path: Path, space: Space, *, durable: bool = True) -> Path:
    (tmp_path / "tmp").mkdir(exist_ok=True)
    (tmp_path / "cas").mkdir(exist_ok=True)
    incoming = Incoming(tmp_path / "tmp", space)
    incoming.count(DATA)
    incoming.write(DATA)
    path = tmp_path / "cas" / "ab" / "blob"
    incoming.publish(path, durable=durable)
    incoming.discard()
    return path


def test_published_blob_has_its_bytes_and_counts_whole_blocks(tmp_path: Path) -> None:
    space = Space(4096)
    path = publish(tmp_path, space)
    assert path.read_bytes() == b"0123456789"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert space.used_bytes == 4096
    assert list((tmp_path / "tmp").iterdir()) == []


def test_name_grows_with_the_bytes(tmp_path: Path) -> None:
    incoming = Incoming(tmp_path, Space(10_000))
    assert incoming.ref == BlobRef(hash_bytes(b""), 0)
    incoming.count(DATA[:1])
    incoming.count(DATA[1:])
    assert incoming.ref == BlobRef(hash_bytes(b"0123456789"), 10)


def test_taking_the_place_of_a_file_counts_the_difference(tmp_path: Path) -> None:
    space = Space(100_000)
    path = publish(tmp_path, space)
    path.write_bytes(bytes(9000))
    space.add(8192)
    assert publish(tmp_path, space) == path
    assert path.read_bytes() == b"0123456789"
    assert space.used_bytes == 4096


def test_discarded_blob_leaves_no_file_and_no_promise(tmp_path: Path) -> None:
    space = Space(4096)
    incoming = Incoming(tmp_path, space)
    incoming.count(DATA)
    incoming.write(DATA)
    assert len(list(tmp_path.iterdir())) == 1
    incoming.discard()
    incoming.discard()
    assert list(tmp_path.iterdir()) == []
    assert space.used_bytes == 0
    space.reserve(4096)


def test_room_is_reserved_before_anything_is_written(tmp_path: Path) -> None:
    incoming = Incoming(tmp_path, Space(8192))
    incoming.reserve(5000)
    with pytest.raises(StorageFull):
        incoming.count([bytes(8193)])
    incoming.count([bytes(8192)])
    incoming.discard()


def test_everything_is_synced_in_order_and_nothing_when_fast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    replace = os.replace

    def rename(old: Path, new: Path) -> None:
        replace(old, new)
        steps.append("rename")

    monkeypatch.setattr(os, "fsync", lambda descriptor: steps.append("sync file"))
    monkeypatch.setattr(incoming_module, "sync_folder", lambda path: steps.append(f"sync {path.name}"))
    monkeypatch.setattr(os, "replace", rename)
    publish(tmp_path, Space(4096))
    assert steps == ["sync file", "sync cas", "rename", "sync ab"]
    steps.clear()
    publish(tmp_path, Space(4096), durable=False)
    assert steps == ["rename"]


def test_file_that_kept_fewer_bytes_than_it_took_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incoming_module, "write_all", lambda descriptor, chunks: None)
    with pytest.raises(OSError, match="fewer"):
        publish(tmp_path, Space(4096))
    assert not (tmp_path / "cas" / "ab").exists()
