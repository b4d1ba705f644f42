"""Virtual environments of models, made from locked requirements.

One environment for each lock file and interpreter, in a folder named by a hash over both. It is built in place, since
an environment cannot be moved, and its marker is written last: a folder without marker is a build that broke off. A
build that fails or is cancelled removes it; what a killed one left is removed by the next build or start. A file lock
keeps other processes from building the same one; the keeper of a build holds that lock too, so it is free only when
nothing of a build is left, even after this process was killed.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import blake3

from proxy.upstreams.cog_wire import tail
from proxy.upstreams.processes import KeptProcess, child_environment
from proxy.upstreams.run_folder import make_private

SCRATCH_SUFFIX = ".tmp"
"""Beside the environment while it is made: pip's own temporary files, which it leaves when it is killed."""

MARKER = ".complete"

_NAME = re.compile(r"[0-9a-f]{32}")
_LOCK_POLL_S = 0.2
_GRACE_S = 1.0
_TOLD = ("Collecting ", "Downloading ", "Installing collected packages")


class EnvironmentFailed(Exception):
    """The environment cannot be made; the text ends with what the tool said."""


def environment_path(lock_file: Path, root: Path) -> Path:
    """Where the environment for ``lock_file`` is, or will be."""
    interpreter = (sys.implementation.cache_tag or "", platform.python_version(), sys.platform, platform.machine())
    return root / blake3.blake3(lock_file.read_bytes() + " ".join(interpreter).encode()).hexdigest()[:32]


def python_of(environment: Path) -> Path:
    """The environment's interpreter."""
    return environment / "bin" / "python"


async def ensure_environment(lock_file: Path, root: Path, report: Callable[[str], None] = lambda line: None) -> Path:
    """Make the environment for ``lock_file`` below ``root``, or find it made.

    Args:
        lock_file: pip requirements with a hash for each file.
        report: told what is being done, a line at a time.

    Returns:
        Its folder.

    Raises:
        EnvironmentFailed: it cannot be made.
    """
    try:
        path = environment_path(lock_file, root)
    except OSError as error:
        raise EnvironmentFailed(f"the lock file cannot be read: {error.strerror}") from error
    if _is_complete(path):
        return path
    held = _open_lock(path.with_suffix(".lock"))
    try:
        await _take_lock(held, report)
    except BaseException:
        os.close(held)
        raise
    try:
        if not _is_complete(path):
            await _build(path, lock_file, held, report)
    finally:
        # In one thread, to its end even if this task is cancelled: nobody else may build while it removes.
        await asyncio.shield(asyncio.to_thread(_tidy_and_let_go, path, held))
    return path


async def _build(path: Path, lock_file: Path, held: int, report: Callable[[str], None]) -> None:
    scratch = path.with_suffix(SCRATCH_SUFFIX)
    try:
        await asyncio.to_thread(_begin, path, scratch)
    except OSError as error:
        raise EnvironmentFailed(f"the folder for environments cannot be used: {error.strerror}") from error
    report("making a virtual environment")
    await _do([sys.executable, "-m", "venv", "--without-pip", str(path)], scratch, held, report)
    report("installing the model's packages")
    await _do(_pip(path, lock_file), scratch, held, report)
    (path / MARKER).touch(mode=0o600)
    report("the model's environment is complete")


def _begin(path: Path, scratch: Path) -> None:
    _tidy(path)
    scratch.mkdir(mode=0o700)
    path.mkdir(mode=0o700)


def sweep_environments(root: Path) -> None:
    """Remove what builds of a killed process left in ``root``, unless somebody builds there now. Blocking.

    Only what bears a name of ours is touched, and nothing is raised: what cannot be removed does not keep anybody from
    starting.
    """
    for scratch in root.glob(f"*{SCRATCH_SUFFIX}"):
        path = scratch.with_suffix("")
        if not _NAME.fullmatch(path.name):
            continue
        try:
            held = _open_lock(path.with_suffix(".lock"))
        except EnvironmentFailed:
            continue
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _tidy(path)
        except OSError:
            pass  # somebody builds it
        finally:
            os.close(held)


def _tidy(path: Path) -> None:
    """Leave a complete environment or none; the lock is held.

    The scratch folder goes last: for as long as it is there, the next sweep comes by.
    """
    if not _is_complete(path):
        shutil.rmtree(path, ignore_errors=True)
    shutil.rmtree(path.with_suffix(SCRATCH_SUFFIX), ignore_errors=True)


def _tidy_and_let_go(path: Path, held: int) -> None:
    try:
        _tidy(path)
    finally:
        os.close(held)


def _pip(path: Path, lock_file: Path) -> list[str]:
    """Our own pip, working on the environment from outside: it needs none of its own."""
    return [
        *(sys.executable, "-m", "pip", "--python", str(path), "install", "--require-hashes", "-r", str(lock_file)),
        *("--disable-pip-version-check", "--no-input", "--progress-bar", "off"),
    ]


def _is_complete(path: Path) -> bool:
    """Made to the end, and the interpreter behind it still there."""
    return (path / MARKER).is_file() and python_of(path).exists()


def _open_lock(path: Path) -> int:
    try:
        make_private(path.parent)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise EnvironmentFailed(f"the folder for environments cannot be used: {error.strerror}") from error


async def _take_lock(held: int, report: Callable[[str], None]) -> None:
    is_told = False
    while True:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not is_told:
                report("waiting for another process that makes the same environment")
                is_told = True
            await asyncio.sleep(_LOCK_POLL_S)


async def _do(command: list[str], scratch: Path, held: int, report: Callable[[str], None]) -> None:
    def on_line(line: str) -> None:
        if line.startswith(_TOLD):
            report(line)

    process = await KeptProcess.start(
        command,
        label="environment",
        grace_s=_GRACE_S,
        environment=child_environment(PYTHONUNBUFFERED="1", TMPDIR=str(scratch)),
        pass_fds=(held,),
        on_line=on_line,
    )
    try:
        status = await process.wait()
    finally:
        await process.stop()
    if status != 0:
        raise EnvironmentFailed(f"making the model's environment failed:\n{tail(chr(10).join(process.lines()))}")
