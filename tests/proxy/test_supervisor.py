"""What the supervisor leaves, and what it sweeps after one that was killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from proxy.supervisor import TEMPORARY_PREFIX, _socket_folder, _sweep


@pytest.mark.parametrize("depth", [1, 12], ids=["beside the data", "elsewhere"])
def test_sockets_of_a_killed_proxy_are_swept_and_those_of_a_living_one_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, depth: int
) -> None:
    temporary, data_dir = tmp_path / "temp", tmp_path.joinpath(*["a-folder-of-a-long-path"] * depth)
    temporary.mkdir()
    data_dir.mkdir(parents=True)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    if depth == 1:
        monkeypatch.setattr("proxy.supervisor.MAX_SOCKET_PATH", 4096)
    own = _socket_folder(data_dir)
    assert (own.parent == data_dir) == (depth == 1)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = temporary / f"{TEMPORARY_PREFIX}left"
    left.mkdir()
    (left / "core").touch()
    (data_dir / f"workers.{dead.pid}.x").symlink_to(left)
    (data_dir / f"workers.{dead.pid}.y").mkdir()
    foreign = tmp_path / "not ours"
    foreign.mkdir()
    (data_dir / f"workers.{dead.pid}.z").symlink_to(foreign)
    _sweep(data_dir)
    assert own.is_dir()
    assert not left.exists()
    assert foreign.is_dir()
    assert len(list(data_dir.iterdir())) == 1, "its folder, or a link to it"
    own.rmdir()
    _sweep(data_dir)
    assert list(data_dir.iterdir()) == []
