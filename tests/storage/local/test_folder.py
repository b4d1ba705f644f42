from __future__ import annotations

import os
from pathlib import Path

import pytest

from storage.errors import StorageRefused
from storage.local.folder import claim_folder, sweep_temp


def claim(root: Path) -> None:
    _, lock = claim_folder(root)
    os.close(lock)


def test_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        claim(tmp_path / "a" / "data")
    finally:
        os.umask(old)
    root = tmp_path / "a" / "data"
    assert {path.name for path in root.iterdir()} == {"cas.v1", "tmp", "quarantine", "format", "lock"}
    for path in [root, *root.iterdir()]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)
    assert (root / "format").read_text() == "1"


def test_folder_can_be_claimed_again_once_given_up(tmp_path: Path) -> None:
    _, lock = claim_folder(tmp_path)
    with pytest.raises(StorageRefused, match=rf"in use by another proxy \(process {os.getpid()}\)"):
        claim_folder(tmp_path)
    os.close(lock)
    claim(tmp_path)


@pytest.mark.parametrize("text", ["2", "17"])
def test_newer_format_is_refused_and_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / "format").write_text(text)
    with pytest.raises(StorageRefused, match=f"newer version .folder format {text}, this one reads 1"):
        claim_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["format"]


@pytest.mark.parametrize("text", ["", "0", "one", "1.0", "\xff"])
def test_other_format_text_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "format").write_text(text)
    with pytest.raises(StorageRefused, match="is this the right folder"):
        claim_folder(tmp_path)


def test_format_followed_by_a_newline_is_fine(tmp_path: Path) -> None:
    (tmp_path / "format").write_text("1\n")
    claim(tmp_path)


def test_name_that_diskcache_would_expand_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELSEWHERE", "/elsewhere")
    with pytest.raises(StorageRefused):
        claim_folder(tmp_path / "$ELSEWHERE")


def test_relative_name_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder, lock = claim_folder(Path("~data"))
    os.close(lock)
    assert folder.root == tmp_path / "~data"
    assert folder.root.is_dir()


def test_sweep_removes_what_is_left_in_tmp(tmp_path: Path) -> None:
    folder, lock = claim_folder(tmp_path)
    (folder.temp / "a").write_bytes(b"x")
    (folder.temp / "b").write_bytes(b"y")
    assert sweep_temp(folder) == 2
    assert list(folder.temp.iterdir()) == []
    os.close(lock)
