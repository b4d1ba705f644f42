"""A Cog model's folder: what it says of itself without being started.

``cog.yaml`` names the predictor, ``.cog/openapi_schema.json`` holds the schema (Cog's own tool writes it at build), and
``requirements.lock`` the environment. The build is told by every file of the folder: edited code or other weights make
another version, so no result of the old ones is served for them. Files are hashed again only when size or time changed.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import blake3
import orjson

from proxy.core.errors import InvalidJson, UpstreamUnavailable
from proxy.upstreams.cog_versions import Build, build_from_openapi
from storage.records import JsonObject

SCHEMA_FILE = Path(".cog") / "openapi_schema.json"
LOCK_FILE = "requirements.lock"

_PREDICTOR = re.compile(r"""^(?:predict|run):[ \t]*["']?([^\s"'#]+\.py:\w+)["']?[ \t]*(?:\#.*)?$""", re.MULTILINE)
_SKIPPED = {"__pycache__", "node_modules"}


@dataclass(frozen=True, slots=True)
class LocalModel:
    """What the folder says now.

    Attributes:
        predictor: as in ``cog.yaml``, e.g. ``"predict.py:Predictor"``.
        lock_file: its locked requirements, ``None`` when it has none.
    """

    predictor: str
    build: Build
    lock_file: Path | None


class ModelFolder:
    """Reads one folder, again and again. Blocking; not shared between threads."""

    def __init__(self, path: Path, revision: str) -> None:
        self._path = path
        self._revision = revision
        self._hashes: dict[str, tuple[tuple[int, int, int], bytes]] = {}
        self._fingerprint = b""
        self._model: LocalModel | None = None

    def read(self) -> LocalModel:
        """The model as it stands in the folder.

        Raises:
            UpstreamUnavailable: it is no Cog model's folder, or cannot be read.
        """
        try:
            fingerprint = self._hash_folder()
            if self._model is None or fingerprint != self._fingerprint:
                self._model = self._parse(fingerprint)
                self._fingerprint = fingerprint
            return self._model
        except OSError as error:
            name = Path(error.filename).name if isinstance(error.filename, str) else "the model's folder"
            raise UpstreamUnavailable(f"The model cannot be read: {name}: {error.strerror}.") from error

    def _parse(self, fingerprint: bytes) -> LocalModel:
        found = _PREDICTOR.search((self._path / "cog.yaml").read_text(encoding="utf-8", errors="replace"))
        if found is None:
            raise UpstreamUnavailable("The model's cog.yaml names no predictor (`predict: predict.py:Predictor`).")
        schema, lock_file = self._path / SCHEMA_FILE, self._path / LOCK_FILE
        openapi = None
        if schema.is_file():
            openapi = _read_object(schema)
        try:
            build = build_from_openapi(openapi, f"{self._revision}\n{fingerprint.hex()}")
        except InvalidJson as error:
            raise UpstreamUnavailable(f"The model's {SCHEMA_FILE} cannot be read: {error.detail}") from error
        return LocalModel(found.group(1), build, lock_file if lock_file.is_file() else None)

    def _hash_folder(self) -> bytes:
        hasher, seen = blake3.blake3(), {}
        for name in sorted(_files(self._path)):
            status = os.stat(self._path / name)
            mark = (status.st_size, status.st_mtime_ns, status.st_ino)
            known = self._hashes.get(name)
            digest = known[1] if known is not None and known[0] == mark else _hash_file(self._path / name)
            seen[name] = mark, digest
            hasher.update(len(name.encode()).to_bytes(8, "big") + name.encode() + digest)
        self._hashes = seen
        return hasher.digest()


def _files(root: Path) -> list[str]:
    """Every file below ``root`` by its relative path, less what tools leave behind."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _SKIPPED and (not name.startswith(".") or name == ".cog")]
        for name in names:
            path = Path(folder, name)
            if not name.startswith(".") and not name.endswith(".pyc") and path.is_file():
                found.append(path.relative_to(root).as_posix())
    return found


def _read_object(path: Path) -> JsonObject:
    try:
        document = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise UpstreamUnavailable(f"The model's {path.name} is not JSON.") from error
    if not isinstance(document, dict):
        raise UpstreamUnavailable(f"The model's {path.name} is not a JSON object.")
    return document


def _hash_file(path: Path) -> bytes:
    return blake3.blake3().update_mmap(path).digest()
