"""The clients: what each is, how it is aimed, and what it has no way to do."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from tests.conformance.environments import DRIVERS

Kind = Literal["files", "videos", "text", "objects"]

ALL_KINDS: frozenset[Kind] = frozenset({"files", "videos", "text", "objects"})

WHY_NOT: dict[Kind, str] = {
    "files": "it is made for text, and joins whatever a model gives",
    "videos": "it gives no videos",
    "text": "it is made for pictures, and takes every output for the address of a file",
    "objects": "it takes no output but a file or a list",
}


@dataclass(frozen=True, slots=True)
class Client:
    """One client.

    Attributes:
        name: its folder below ``drivers``.
        package: its name in its registry, and in its lock.
        language: for the page.
        is_aimed_by_name: it takes no address; ``api.replicate.com`` must lead to the proxy.
        gives: what kinds of output it can give its user.
        has_seeds: whether a seed in a text input reaches the model; else a model is asked that needs none.
        renames: statuses that its errors tell as others.
        cannot: cases that it has no way to do; its driver gives the reasons. ``can`` instead, where these are fewer.
    """

    name: str
    package: str
    language: str
    is_aimed_by_name: bool = False
    gives: frozenset[Kind] = ALL_KINDS
    has_seeds: bool = True
    renames: Mapping[int, int] = field(default_factory=dict)
    cannot: frozenset[str] = frozenset()
    can: frozenset[str] | None = None

    @property
    def writes_only(self) -> bool:
        return "files" not in self.gives

    def is_able(self, case: str) -> bool:
        """Whether it is expected to do a case."""
        return case not in self.cannot and (self.can is None or case in self.can)

    @property
    def version(self) -> str:
        """The version that its lock names."""
        folder = DRIVERS / self.name
        if (folder / "package.json").is_file():
            lock = json.loads((folder / "package-lock.json").read_text(encoding="utf-8"))
            return str(lock["packages"][f"node_modules/{self.package}"]["version"])
        lock_text = (folder / "requirements.lock").read_text(encoding="utf-8")
        found = re.search(rf"(?mi)^{re.escape(self.package).replace('_', '[-_]')}==(\S+)", lock_text)
        assert found is not None, f"{self.package} is not in the lock of {self.name}"
        return found[1]


_TEXT: frozenset[Kind] = frozenset({"text"})
_PICTURES: frozenset[Kind] = frozenset({"files"})

_ERRORS = ("error-401", "error-402", "error-404-model", "error-422-input", "error-429", "model-fails")
_RUNS = (*_ERRORS, "outputs-outlive-the-upstreams")
_DRAWS = (*_RUNS, "run-file", "run-files", "run-slow", "run-version", "file-as-data-uri")
_WRITES = (*_RUNS, "run-text", "run-async", "run-polling", "stream-text")

_NO_BLOBS = frozenset({"file-as-blob", "file-as-buffer"})

CLIENTS: tuple[Client, ...] = (
    Client("replicate-1", "replicate", "Python", cannot=_NO_BLOBS),
    Client("replicate-2", "replicate", "Python", cannot=_NO_BLOBS),
    Client("javascript", "replicate", "JavaScript", cannot=frozenset({"run-async"})),
    Client(
        "ai-sdk",
        "@ai-sdk/replicate",
        "JavaScript",
        gives=_PICTURES | {"videos"},
        can=frozenset({*_DRAWS, "file-as-buffer", "output-as-input", "run-film"}),
    ),
    Client(
        "langchain-community",
        "langchain-community",
        "Python",
        gives=_TEXT,
        can=frozenset({*_WRITES, "run-string", "run-pieces"}),
    ),
    Client(
        "litellm",
        "litellm",
        "Python",
        is_aimed_by_name=True,
        gives=_TEXT,
        has_seeds=False,
        renames={402: 500, 404: 500},
        can=frozenset(_WRITES),
    ),
    Client(
        "huggingface_hub",
        "huggingface_hub",
        "Python",
        is_aimed_by_name=True,
        gives=_PICTURES,
        can=frozenset({*_DRAWS, "run-async"}),
    ),
)
