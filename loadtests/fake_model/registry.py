"""Models and deployments: those of the catalog, and those that accounts make."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from loadtests.fake_model.catalog import DEPLOYMENTS, Model

MODELS_SINCE = 1767225600.0
"""Midnight of 1 January 2026 UTC: when the catalog's models were made."""


@dataclass(slots=True)
class Entry:
    """A model's page: what is said of it, and its versions, newest first.

    Attributes:
        account: who made it; ``None`` for the catalog's, which nobody may change.
        about: ``description``, ``github_url`` and so on, as the API takes and tells them.
    """

    owner: str
    name: str
    is_official: bool
    versions: list[Model]
    account: str | None = None
    visibility: str = "public"
    readme: str | None = None
    about: dict[str, str | None] = field(default_factory=dict)
    created_at: float = MODELS_SINCE
    run_count: int = 0

    @property
    def full_name(self) -> str:
        return f"{self.owner}/{self.name}"

    def is_visible_to(self, account: str) -> bool:
        return self.visibility == "public" or self.account == account


@dataclass(slots=True)
class Deployment:
    """A deployment's current release."""

    owner: str
    name: str
    model: Model
    account: str | None = None
    number: int = 1
    hardware: str = "cpu"
    min_instances: int = 0
    max_instances: int = 1
    created_at: float = MODELS_SINCE

    @property
    def full_name(self) -> str:
        return f"{self.owner}/{self.name}"


class Registry:
    """Finds models and deployments by name, and models by version."""

    def __init__(self, models: Iterable[Model]) -> None:
        self.entries = {
            each.full_name: Entry(
                each.owner,
                each.name,
                each.is_official,
                [each],
                readme=f"# {each.name}\n\n{each.description}\n",
                about={"description": each.description},
            )
            for each in models
        }
        self.deployments = {}
        for full_name, model_name in DEPLOYMENTS.items():
            owner, _, name = full_name.partition("/")
            model = self.latest(model_name)
            assert model is not None
            self.deployments[full_name] = Deployment(owner, name, model)

    def latest(self, full_name: str) -> Model | None:
        entry = self.entries.get(full_name)
        return entry.versions[0] if entry is not None and entry.versions else None

    def find_version(self, version: str) -> Model | None:
        """The community model with that version; an official model's is not to be had."""
        found = (each for entry in self.entries.values() for each in entry.versions if each.version == version)
        return next((each for each in found if not each.is_official), None)

    def release(self, full_name: str) -> Model:
        """Give a model a new version that makes other outputs; an official one is changed with no word to anybody.

        Raises:
            KeyError: there is no such model.
        """
        entry = self.entries[full_name]
        newest = entry.versions[0]
        entry.versions.insert(0, replace(newest, revision=newest.revision + 1, created_at=time.time()))
        return entry.versions[0]

    def add_version(self, full_name: str, base: Model) -> Model:
        """What a training leaves behind: a version of ``full_name`` that works as its base does.

        Raises:
            KeyError: there is no such model.
        """
        entry = self.entries[full_name]
        revision = 1 + max((each.revision for each in entry.versions), default=0)
        made = replace(
            base, owner=entry.owner, name=entry.name, is_official=False, revision=revision, created_at=time.time()
        )
        entry.versions.insert(0, made)
        return made
