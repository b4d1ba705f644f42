"""The data folder and the secret in it, made at the first start."""

from __future__ import annotations

import contextlib
import os
import secrets as entropy
from pathlib import Path

from proxy.core.secrets import SECRET_BYTES, Secrets
from proxy.settings import SettingsError


def make_data_dir(data_dir: Path) -> None:
    """Make the data folder, closed to other users, before anything makes a folder in it.

    Raises:
        SettingsError: it cannot be made.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ("envs", "run"):
            (data_dir / name).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"data_dir: {data_dir}: {error.strerror}") from error


def load_secret(data_dir: Path) -> Secrets:
    """The server's secret, made at the first start; the file is 0600 from its creation.

    Raises:
        SettingsError: the file is there but is no secret, or cannot be read or written.
    """
    path = data_dir / "secret.key"
    try:
        if not path.exists():
            fresh = data_dir / f".secret.{os.getpid()}.{entropy.token_hex(4)}"
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(entropy.token_bytes(SECRET_BYTES))
                file.flush()
                os.fsync(file.fileno())
            # A link, not a rename: of two processes that start at once, one wins and both read its secret.
            with contextlib.suppress(FileExistsError):
                os.link(fresh, path)
            fresh.unlink()
        return Secrets.derive(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"data_dir: {path}: {error.strerror}") from error
    except ValueError as error:
        raise SettingsError(f"data_dir: {path}: {error}; remove the file to start with an empty cache") from error
