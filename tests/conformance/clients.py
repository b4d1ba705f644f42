"""The clients: what each is, how it is aimed, and what it has no way to do."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from tests.conformance.environments import DRIVERS


@dataclass(frozen=True, slots=True)
class Client:
    """One client.

    Attributes:
        name: its folder below ``drivers``.
        package: its name in its registry, and in its lock.
        language: for the page.
        is_aimed_by_name: it takes no address; ``api.replicate.com`` must lead to the proxy.
        writes_only: it is made for text and joins whatever it gets.
        has_seeds: whether a seed in a text input reaches the model; else a model is asked that needs none.
        cannot: cases that it has no way to do. Its driver gives the reasons.
    """

    name: str
    package: str
    language: str
    is_aimed_by_name: bool = False
    writes_only: bool = False
    has_seeds: bool = True
    cannot: frozenset[str] = frozenset()

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


CLIENTS: tuple[Client, ...] = (
    Client("replicate-1", "replicate", "Python"),
    Client("replicate-2", "replicate", "Python"),
    Client("javascript", "replicate", "JavaScript"),
    Client("ai-sdk", "@ai-sdk/replicate", "JavaScript"),
    Client("langchain-community", "langchain-community", "Python", writes_only=True),
    Client("litellm", "litellm", "Python", is_aimed_by_name=True, writes_only=True, has_seeds=False),
    Client("huggingface_hub", "huggingface_hub", "Python", is_aimed_by_name=True),
)
