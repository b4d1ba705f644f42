"""The data folder and its secret."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from proxy.data_dir import load_secret, make_data_dir
from proxy.settings import SettingsError


def test_folder_and_secret_are_closed_to_others_and_stay(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    make_data_dir(folder)
    first = load_secret(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "secret.key").stat().st_mode) == 0o600
    make_data_dir(folder)
    assert load_secret(folder) == first
    assert [file.name for file in folder.iterdir() if file.is_file()] == ["secret.key"], "nothing is left lying about"


def test_two_folders_have_two_secrets(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_data_dir(tmp_path / name)
    assert load_secret(tmp_path / "a") != load_secret(tmp_path / "b")


def test_file_that_is_no_secret_is_told_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "secret.key").write_bytes(b"short")
    with pytest.raises(SettingsError, match=r"secret\.key.*remove the file"):
        load_secret(tmp_path)


def test_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(SettingsError, match="taken"):
        make_data_dir(tmp_path / "taken")
