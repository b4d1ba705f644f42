"""diskcache runs code from its folder (CVE-2025-69872); the proxy's index does not."""

from __future__ import annotations

import contextlib
import pickle
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import diskcache
import pytest
from diskcache.core import DEFAULT_SETTINGS

from storage.errors import Corrupt
from storage.local import strict_disk
from storage.local.strict_disk import CacheHandle, database_path, open_cache, vet_settings


class Payload:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[CacheHandle]:
    (tmp_path / "index").mkdir()
    opened = open_cache(tmp_path / "index", timeout_s=1.0)
    yield opened
    opened.close()


def execute(directory: Path, statement: str, *values: object) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(database_path(directory), isolation_level=None)) as connection:
        return connection.execute(statement, values).fetchall()


def plant(directory: Path, mode: int, filename: str | None, value: object) -> None:
    execute(directory, "UPDATE Cache SET mode = ?, filename = ?, value = ? WHERE key = ?", mode, filename, value, b"k")


def test_plain_values_come_back(cache: CacheHandle) -> None:
    values: list[bytes | str | int | float] = [
        b"",
        b"x" * 3_000_000,
        "text",
        "ü" * 100_000,
        0,
        -(2**63),
        2**63 - 1,
        1.5,
    ]
    for value in values:
        cache.set(b"k", value)
        got = cache.get(b"k")
        assert got == value
        assert type(got) is type(value)


def test_no_value_has_a_file(cache: CacheHandle, tmp_path: Path) -> None:
    cache.set(b"k", b"x" * 3_000_000)
    assert {path.name.split("-")[0] for path in (tmp_path / "index").iterdir()} == {"cache.db"}


@pytest.mark.parametrize("value", [None, True, [1], {"a": 1}, (1,), 2**63, bytearray(b"x"), Path("x"), object()])
def test_anything_else_is_refused_as_value_and_as_key(cache: CacheHandle, value: object) -> None:
    with pytest.raises(TypeError):
        cache.set(b"k", value)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        cache.set(value, b"x")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        cache.get(value)  # type: ignore[arg-type]


def test_pickled_row_runs_code_in_plain_diskcache_and_is_refused_here(cache: CacheHandle, tmp_path: Path) -> None:
    proof = tmp_path / "executed"
    cache.set(b"k", b"innocent")
    plant(tmp_path / "index", 4, None, pickle.dumps(Payload(proof)))
    with pytest.raises(Corrupt):
        cache.get(b"k")
    assert not proof.exists()
    with diskcache.Cache(str(tmp_path / "index")) as plain:
        plain.get(b"k")
    assert proof.exists()


def test_pickled_file_is_refused(cache: CacheHandle, tmp_path: Path) -> None:
    proof = tmp_path / "executed"
    (tmp_path / "index" / "evil.val").write_bytes(pickle.dumps(Payload(proof)))
    cache.set(b"k", b"innocent")
    plant(tmp_path / "index", 4, "evil.val", None)
    with pytest.raises(Corrupt):
        cache.get(b"k")
    assert not proof.exists()


def test_pickled_key_is_refused(tmp_path: Path) -> None:
    proof = tmp_path / "executed"
    disk = strict_disk.StrictDisk(str(tmp_path))
    with pytest.raises(Corrupt):
        disk.get(pickle.dumps(Payload(proof)), False)
    assert not proof.exists()


@pytest.mark.parametrize("mode", [2, 3, 1])
@pytest.mark.parametrize("name", ["../secret", "inside.val", "/etc/hostname"])
def test_file_named_by_a_row_is_neither_read_nor_deleted(
    cache: CacheHandle, tmp_path: Path, mode: int, name: str
) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "index" / "inside.val").write_bytes(b"secret")
    cache.set(b"k", b"innocent")
    plant(tmp_path / "index", mode, name, None)
    with pytest.raises(Corrupt):
        cache.get(b"k")
    cache.set(b"k", b"new")
    plant(tmp_path / "index", mode, name, None)
    cache.delete(b"k")
    assert (tmp_path / "secret").exists()
    assert (tmp_path / "index" / "inside.val").exists()


@pytest.mark.parametrize("mode", [0, 5, 4.0, "4", None])
def test_unknown_mode_is_refused(cache: CacheHandle, tmp_path: Path, mode: int) -> None:
    cache.set(b"k", b"innocent")
    plant(tmp_path / "index", mode, None, b"x")
    with pytest.raises(Corrupt):
        cache.get(b"k")


def test_every_setting_is_given() -> None:
    """A setting that diskcache has and we leave out would come from the database."""
    assert strict_disk._SETTINGS.keys() == DEFAULT_SETTINGS.keys()


@pytest.fixture
def reopen(tmp_path: Path) -> Callable[[], CacheHandle]:
    directory = tmp_path / "index"
    directory.mkdir()
    open_cache(directory, timeout_s=1.0).close()

    def open_again() -> CacheHandle:
        vet_settings(directory)
        return open_cache(directory, timeout_s=1.0)

    return open_again


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("_directory", "/elsewhere"),
        ("_disk", "diskcache.core.Disk"),
        ("disk", "diskcache.core.Disk"),
        ("disk_evil", 1),
        ("get", "x"),
        ("sqlite_query_only", 1),
        ("statistics", 1),
        ("cull_limit", 10),
        ("size_limit", 1),
        ("eviction_policy", "least-recently-used"),
        ("disk_min_file_size", 0),
        ("sqlite_mmap_size", 2**40),
    ],
)
def test_settings_in_the_database_do_not_count(
    reopen: Callable[[], CacheHandle], tmp_path: Path, key: str, value: object
) -> None:
    execute(tmp_path / "index", "INSERT OR REPLACE INTO Settings VALUES (?, ?)", key, value)
    cache = reopen()
    try:
        for number in range(30):
            cache.set(b"%d" % number, b"x" * 100)
        before = execute(tmp_path / "index", "SELECT * FROM Cache ORDER BY rowid")
        assert cache.get(b"0") == b"x" * 100
        assert execute(tmp_path / "index", "SELECT * FROM Cache ORDER BY rowid") == before
        assert len(before) == 30
        rows = {row[0]: row[1] for row in execute(tmp_path / "index", "SELECT key, value FROM Settings")}
        assert {name: rows[name] for name in strict_disk._SETTINGS} == strict_disk._SETTINGS
        assert rows.keys() - strict_disk._SETTINGS.keys() == {"count", "size", "hits", "misses"}
    finally:
        cache.close()
