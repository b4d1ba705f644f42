"""The built wheel, in a bare environment: what somebody has who installs from the package index."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.flows.harness import ROOT, SHARED_ENVS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def run(*command: str | Path, cwd: Path, **env: str) -> str:
    bare = {
        name: os.environ[name] for name in ("HOME", "LANG", "PIP_CONFIG_FILE", "PIP_INDEX_URL") if name in os.environ
    }
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={"PATH": os.environ["PATH"], **bare, **env},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_demo_of_the_installed_wheel_shows_its_table_and_finds_its_pictures_again(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT]
    run(*build, cwd=tmp_path)
    (wheel,) = tmp_path.glob("hotplate-*.whl")
    run(sys.executable, "-m", "venv", "bare", cwd=tmp_path)
    run(tmp_path / "bare" / "bin" / "pip", "install", "-q", wheel, cwd=tmp_path)
    data_dir = tmp_path / "data"
    data_dir.mkdir(mode=0o700)
    SHARED_ENVS.mkdir(parents=True, exist_ok=True)
    (data_dir / "envs").symlink_to(SHARED_ENVS)
    demo = [tmp_path / "bare" / "bin" / "hotplate", "demo", "--once", "--port", "0", "--admin-port", "0"]
    first = run(*demo, cwd=tmp_path, HOTPLATE_DATA_DIR=str(data_dir), COLUMNS="120")
    second = run(*demo, cwd=tmp_path, HOTPLATE_DATA_DIR=str(data_dir), COLUMNS="120")
    for said in (first, second):
        rows = {line.split("│")[1].strip().partition(":")[0]: line for line in said.splitlines() if line.count("│") > 2}
        assert "detail=cold" in rows["cold"]
        assert "detail=warm" in rows["warm"]
        assert "Hotplate; hit" in rows["hit"]
        assert "/outputs/" in said
    assert "kept from before" not in first
    assert "kept from before" in second
