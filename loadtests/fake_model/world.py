"""Everything that the double knows while it runs."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import string
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from loadtests.fake_model.catalog import File, JsonObject, Model
from loadtests.fake_model.faults import Faults

DEFAULT_ACCOUNTS = {
    "r8_alice0000000000000000000000000000000": "alice",
    "r8_bob000000000000000000000000000000000": "bob",
}
TERMINAL = frozenset({"succeeded", "failed", "canceled", "aborted"})


@dataclass(frozen=True, slots=True)
class Options:
    """How the double behaves.

    Attributes:
        accounts: account by token.
        output_ttl_s: life of output addresses and of a prediction's data.
        boot_s: what a cold community model takes to start; official ones are never cold.
        idle_s: how long a community model stays warm after work.
        page_size: predictions on a page.
    """

    accounts: dict[str, str] = field(default_factory=lambda: dict(DEFAULT_ACCOUNTS))
    output_ttl_s: float = 3600.0
    boot_s: float = 0.0
    idle_s: float = 300.0
    page_size: int = 100


@dataclass(frozen=True, slots=True)
class Output:
    """A file with an address."""

    file: File
    created_at: float
    etag: str


@dataclass(slots=True)
class Prediction:
    """One prediction; ``ended`` is set with its final state."""

    id: str
    account: str
    model: Model
    input: JsonObject
    created_at: float
    deployment: str | None = None
    status: str = "starting"
    output: Any = None
    error: str | None = None
    logs: str = ""
    metrics: JsonObject = field(default_factory=dict)
    started_at: float | None = None
    completed_at: float | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    @property
    def is_terminal(self) -> bool:
        return self.status in TERMINAL


class World:
    """Accounts, predictions, outputs, counters and faults."""

    def __init__(self, options: Options, api_url: str, delivery_url: str) -> None:
        self.options = options
        self.api_url = api_url
        self.delivery_url = delivery_url
        self.predictions: dict[str, Prediction] = {}
        self.outputs: dict[str, Output] = {}
        self.faults = Faults()
        self.counts: Counter[str] = Counter()
        self.runs: Counter[str] = Counter()
        self.last_create: JsonObject = {}
        self.gate = asyncio.Event()
        self.gate.set()

    def reset_counters(self) -> None:
        self.counts.clear()
        self.runs.clear()
        self.last_create = {}

    def counters(self) -> JsonObject:
        """Requests by place, runs by model, and what should not have come."""
        names = ("creates", "polls", "cancels", "accounts", "output_reads", "others", "cookies", "output_credentials")
        return {**{name: self.counts[name] for name in names}, "runs": dict(self.runs), "last_create": self.last_create}

    def publish(self, document: Any) -> Any:
        """``document`` with an address for each of its files."""
        if isinstance(document, File):
            path = f"xezq/{secrets.token_urlsafe(24)}/{document.name}"
            etag = f'"{hashlib.md5(document.content, usedforsecurity=False).hexdigest()}"'
            self.outputs[path] = Output(document, time.time(), etag)
            return f"{self.delivery_url}/{path}"
        if isinstance(document, list):
            return [self.publish(each) for each in document]
        if isinstance(document, dict):
            return {name: self.publish(value) for name, value in document.items()}
        return document

    def is_expired(self, at: float) -> bool:
        return time.time() - at > self.options.output_ttl_s

    def render(self, prediction: Prediction) -> JsonObject:
        """The prediction as the API shows it."""
        url = f"{self.api_url}/predictions/{prediction.id}"
        is_removed = prediction.completed_at is not None and self.is_expired(prediction.completed_at)
        document: JsonObject = {
            "id": prediction.id,
            "model": prediction.model.full_name,
            "version": "hidden" if prediction.model.is_official else prediction.model.version,
            "input": {} if is_removed else prediction.input,
            "logs": "" if is_removed else prediction.logs,
            "output": None if is_removed else prediction.output,
            "data_removed": is_removed,
            "error": prediction.error,
            "source": "api",
            "status": prediction.status,
            "created_at": format_time(prediction.created_at),
            "urls": {"get": url, "cancel": f"{url}/cancel", "web": f"https://replicate.com/p/{prediction.id}"},
        }
        if prediction.deployment is not None:
            document["deployment"] = prediction.deployment
        if prediction.started_at is not None:
            document["started_at"] = format_time(prediction.started_at)
        if prediction.completed_at is not None:
            document["completed_at"] = format_time(prediction.completed_at)
            document["metrics"] = prediction.metrics
        return document


def new_id() -> str:
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(26))


def format_time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "Z"
