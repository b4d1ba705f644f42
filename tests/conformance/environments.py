"""Each client in an environment of its own, made once from its lock.

An environment is a folder ``.clients/<client>-<hash of its lock and runtime>`` of the repository, which git ignores. It
is built in place, and its marker is written last: a folder without one is a build that broke off, and is made anew. A
changed lock makes another folder, so that nobody runs a client that the lock does not name.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DRIVERS = Path(__file__).parent / "drivers"
HOME = ROOT / ".clients"

INSTALL_TIMEOUT_S = 240.0
"""The largest lock downloads some 100 MB; it is done once for each lock."""

_MARKER = ".complete"
_PYTHON_LOCK = "requirements.lock"
_NODE_LOCK = "package-lock.json"


class ClientMissing(Exception):
    """The client's runtime is not on this machine; the text names it."""


@dataclass(frozen=True, slots=True)
class Environment:
    """A client that can be started.

    Attributes:
        command: what starts its driver.
        folder: where the driver runs.
    """

    command: tuple[str, ...]
    folder: Path


def ensure_environment(client: str) -> Environment:
    """Make the environment of ``client``, or find it made.

    Raises:
        ClientMissing: node or npm are needed and not here.
        subprocess.CalledProcessError: the tool could not install what the lock names.
    """
    source = DRIVERS / client
    is_python = (source / _PYTHON_LOCK).is_file()
    if not is_python and (shutil.which("node") is None or shutil.which("npm") is None):
        raise ClientMissing("node and npm are not installed")
    folder = environment_path(client)
    with _held(HOME / f"{folder.name}.lock"):
        if not (folder / _MARKER).is_file():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            (_install_python if is_python else _install_node)(source, folder)
            (folder / _MARKER).touch()
        if is_python:
            return Environment((str(folder / "bin" / "python"), "-W", "ignore", str(source / "driver.py")), folder)
        # Node looks for packages beside and above the importing file, so the driver's files go where they are.
        for file in source.glob("*.mjs"):
            shutil.copy(file, folder / file.name)
    return Environment(("node", str(folder / "driver.mjs")), folder)


def environment_path(client: str) -> Path:
    """Where the environment of ``client`` is, or will be."""
    source = DRIVERS / client
    lock = source / _PYTHON_LOCK
    runtime = sys.version if lock.is_file() else "node"
    content = lock if lock.is_file() else source / _NODE_LOCK
    return HOME / f"{client}-{hashlib.sha256(content.read_bytes() + runtime.encode()).hexdigest()[:12]}"


def _install_python(source: Path, folder: Path) -> None:
    _run(sys.executable, "-m", "venv", "--without-pip", str(folder))
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "--python", str(folder / "bin" / "python"))
    _run(*pip, "install", "--require-hashes", "-r", str(source / _PYTHON_LOCK))


def _install_node(source: Path, folder: Path) -> None:
    for name in ("package.json", _NODE_LOCK):
        shutil.copy(source / name, folder / name)
    _run("npm", "ci", "--no-audit", "--no-fund", cwd=folder)


def _run(*command: str, cwd: Path | None = None) -> None:
    done = subprocess.run(
        command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S
    )
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed: {(done.stderr or done.stdout)[-2000:]}")


@contextmanager
def _held(lock: Path) -> Iterator[None]:
    """Keep other test runs from building the same environment."""
    HOME.mkdir(exist_ok=True)
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(handle, fcntl.LOCK_UN)
