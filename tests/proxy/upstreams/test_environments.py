"""Environments from locked requirements; the packages are made here, so no index is asked."""

from __future__ import annotations

import asyncio
import base64
import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proxy.upstreams.environments import (
    MARKER,
    EnvironmentFailed,
    ensure_environment,
    environment_path,
    python_of,
    sweep_environments,
)
from tests.fakes.cog_server import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def lock_file(tmp_path: Path) -> Path:
    """Locked requirements for a package ``tiny`` that lies beside them."""
    wheel = make_wheel(tmp_path, "1.0")
    return write_lock(tmp_path, wheel)


def make_wheel(folder: Path, version: str) -> Path:
    info = f"tiny-{version}.dist-info"
    files = {
        "tiny.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: tiny\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    path = folder / f"tiny-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in files.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            record += f"{name},sha256={digest},{len(text)}\n"
            wheel.writestr(name, text)
        wheel.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")
    return path


def write_lock(folder: Path, wheel: Path, *, digest: str = "") -> Path:
    digest = digest or hashlib.sha256(wheel.read_bytes()).hexdigest()
    version = wheel.name.split("-")[1]
    path = folder / "requirements.lock"
    pinned = f"tiny=={version}" + (f" --hash=sha256:{digest}" if digest != "none" else "")
    path.write_text(f"--no-index\n--find-links {folder}\n{pinned}\n")
    return path


def write_lock_for(index_port: int, folder: Path) -> Path:
    """Locked requirements that are to come from an index on loopback."""
    path = folder / "requirements.lock"
    path.write_text(f"--index-url http://127.0.0.1:{index_port}/\ntiny==1.0 --hash=sha256:{'0' * 64}\n")
    return path


def left_in(root: Path) -> list[str]:
    """What kinds of things lie in the folder for environments; an environment has no suffix."""
    return sorted(path.suffix for path in root.iterdir())


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


def has_package(environment: Path) -> str:
    told = subprocess.run(
        [python_of(environment), "-I", "-c", "import tiny; print(tiny.VERSION)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return told.stdout.strip()


async def test_an_environment_is_made_once_and_found_after_that(lock_file: Path, tmp_path: Path) -> None:
    told: list[str] = []
    made = await ensure_environment(lock_file, tmp_path / "envs", told.append)
    assert has_package(made) == "1.0"
    assert told
    told.clear()
    assert await ensure_environment(lock_file, tmp_path / "envs", told.append) == made
    assert told == []


async def test_what_is_made_is_closed_to_other_users_and_nothing_temporary_stays(
    lock_file: Path, tmp_path: Path
) -> None:
    made = await ensure_environment(lock_file, tmp_path / "deep" / "envs")
    folders = [made, made.parent, made.parent.parent]
    assert [mode_of(path) for path in folders] == [0o700] * 3
    assert [mode_of(path) for path in (made / MARKER, made.with_suffix(".lock"))] == [0o600] * 2
    assert left_in(made.parent) == ["", ".lock"]


async def test_other_requirements_make_another_environment(lock_file: Path, tmp_path: Path) -> None:
    first = await ensure_environment(lock_file, tmp_path / "envs")
    write_lock(tmp_path, make_wheel(tmp_path, "2.0"))
    second = await ensure_environment(lock_file, tmp_path / "envs")
    assert (has_package(first), has_package(second)) == ("1.0", "2.0")


async def test_a_build_that_broke_off_is_made_anew(lock_file: Path, tmp_path: Path) -> None:
    path = environment_path(lock_file, tmp_path / "envs")
    path.mkdir(parents=True)
    (path / "left").write_text("from the build that broke off")
    made = await ensure_environment(lock_file, tmp_path / "envs")
    assert made == path
    assert not (made / "left").exists()
    assert has_package(made) == "1.0"


async def test_an_environment_whose_interpreter_is_gone_is_made_anew(lock_file: Path, tmp_path: Path) -> None:
    made = await ensure_environment(lock_file, tmp_path / "envs")
    python_of(made).unlink()
    python_of(made).symlink_to(tmp_path / "gone")
    assert has_package(await ensure_environment(lock_file, tmp_path / "envs")) == "1.0"


async def test_a_wrong_hash_fails_with_what_pip_said_and_leaves_nothing_usable(lock_file: Path, tmp_path: Path) -> None:
    write_lock(tmp_path, make_wheel(tmp_path, "1.0"), digest="0" * 64)
    for _ in range(2):
        with pytest.raises(EnvironmentFailed, match="HASHES"):
            await ensure_environment(lock_file, tmp_path / "envs")
    assert left_in(tmp_path / "envs") == [".lock"]


async def test_requirements_without_hashes_are_refused(lock_file: Path, tmp_path: Path) -> None:
    write_lock(tmp_path, make_wheel(tmp_path, "1.0"), digest="none")
    with pytest.raises(EnvironmentFailed, match="hash"):
        await ensure_environment(lock_file, tmp_path / "envs")


async def test_a_missing_lock_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailed, match="lock file"):
        await ensure_environment(tmp_path / "no.lock", tmp_path / "envs")


async def test_two_at_once_make_one_environment(lock_file: Path, tmp_path: Path) -> None:
    told: list[str] = []
    first, second = await asyncio.gather(
        ensure_environment(lock_file, tmp_path / "envs", told.append),
        ensure_environment(lock_file, tmp_path / "envs", told.append),
    )
    assert first == second
    assert told.count("making a virtual environment") == 1
    assert any("another process" in line for line in told)


@asynccontextmanager
async def silent_index() -> AsyncIterator[tuple[int, list[object]]]:
    """A package index that takes requests and never answers."""
    asked: list[object] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        try:
            await reader.read()
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], asked
    finally:
        server.close()


def is_free(lock: Path) -> bool:
    held = os.open(lock, os.O_RDWR)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(held)


async def test_a_build_ends_with_the_process_that_wants_it_and_holds_its_lock_until_then(tmp_path: Path) -> None:
    async with silent_index() as (port, asked):
        lock_file = write_lock_for(port, tmp_path)
        script = (
            "import asyncio, pathlib, sys\n"
            "from proxy.upstreams.environments import ensure_environment\n"
            "asyncio.run(ensure_environment(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])))\n"
        )
        parent = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, lock_file, tmp_path / "envs", stdout=asyncio.subprocess.DEVNULL
        )
        await until(lambda: bool(asked))
        path = environment_path(lock_file, tmp_path / "envs")
        lock = path.with_suffix(".lock")
        assert not is_free(lock)
        builders = processes_of(path)
        assert builders
        parent.send_signal(signal.SIGKILL)
        await parent.wait()
        assert any(path.with_suffix(".tmp").iterdir())  # pip's, which would else be in the machine's folder
        sweep_environments(tmp_path / "envs")
        await until(lambda: is_free(lock))
        assert processes_of(path) == set()
        sweep_environments(tmp_path / "envs")
        assert left_in(tmp_path / "envs") == [".lock"]


async def test_a_sweep_leaves_alone_what_is_built_now_what_is_complete_and_what_is_not_ours(
    lock_file: Path, tmp_path: Path
) -> None:
    root = tmp_path / "envs"
    made = await ensure_environment(lock_file, root)
    made.with_suffix(".tmp").mkdir()
    (root / "mine").mkdir()
    (root / "mine.tmp").mkdir()
    built, held = root / ("a" * 32), os.open(root / f"{'a' * 32}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    built.mkdir()
    built.with_suffix(".tmp").mkdir()
    fcntl.flock(held, fcntl.LOCK_EX)
    sweep_environments(root)
    assert left_in(root) == ["", "", "", ".lock", ".lock", ".tmp", ".tmp"]
    os.close(held)
    sweep_environments(root)
    assert {path.name for path in root.iterdir() if path.suffix != ".lock"} == {made.name, "mine", "mine.tmp"}
    assert has_package(made) == "1.0"


def test_a_sweep_of_no_folder_does_nothing(tmp_path: Path) -> None:
    sweep_environments(tmp_path / "envs")
    assert list(tmp_path.iterdir()) == []


def processes_of(environment: Path) -> set[int]:
    """Pids of processes with the environment in their command line."""
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                command = Path("/proc", name, "cmdline").read_bytes()
            except OSError:
                continue
            if str(environment).encode() in command:
                found.add(int(name))
    return found


async def test_cancelling_ends_the_build(tmp_path: Path) -> None:
    async with silent_index() as (port, asked):
        lock_file = write_lock_for(port, tmp_path)
        task = asyncio.create_task(ensure_environment(lock_file, tmp_path / "envs"))
        await until(lambda: bool(asked))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        path = environment_path(lock_file, tmp_path / "envs")
        assert processes_of(path) == set()
        assert is_free(path.with_suffix(".lock"))
        assert left_in(tmp_path / "envs") == [".lock"]
