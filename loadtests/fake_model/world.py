"""Everything that the double knows while it runs."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
import string
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from loadtests.fake_model.catalog import MODELS, File, JsonObject, Model
from loadtests.fake_model.faults import Faults
from loadtests.fake_model.registry import Registry
from loadtests.fake_model.sites import Site

DEFAULT_ACCOUNTS = {
    "r8_alice0000000000000000000000000000000": "alice",
    "r8_bob000000000000000000000000000000000": "bob",
}
TERMINAL = frozenset({"succeeded", "failed", "canceled", "aborted"})

WebhookEvent = Literal["start", "output", "logs", "completed"]
StreamEventKind = Literal["output", "logs", "error", "done"]

_COUNTED = (
    "creates",
    "polls",
    "cancels",
    "accounts",
    "output_reads",
    "others",
    "cookies",
    "output_credentials",
    "uploads",
    "upload_bytes",
    "file_requests",
    "deletes",
    "secrets",
    "stream_opens",
    "stream_events",
    "stream_credentials",
    "input_fetches",
    "webhooks_sent",
    "webhooks_delivered",
    "webhooks_failed",
    "webhooks_withheld",
    "throttled",
    "refused",
)


@dataclass(frozen=True, slots=True)
class Options:
    """How the double behaves. ``POST /_options`` changes the numbers and switches while it runs.

    Attributes:
        accounts: account by token.
        output_ttl_s: life of output addresses and of a prediction's data.
        boot_s: what a cold community model takes to start; official ones are never cold.
        idle_s: how long a community model stays warm after work.
        page_size: predictions, trainings and files on a page.
        model_page_size: models on a page.
        file_ttl_s: life of uploaded files.
        max_file_bytes: largest upload.
        is_stream_inline: whether streams tell files as data URIs instead of URLs.
        min_cancel_after_s: shortest ``Cancel-After`` that is taken.
        rate_limit: creates that each account may make in ``rate_window_s``; ``None`` for any number.
        poor: accounts without credit: their creates get 402.
        webhook_addresses: whether a webhook may be plain http when it leads to loopback.
        webhook_attempts: how often a delivery is tried, the first time included.
        webhook_backoff_s: pause before the second attempt; each further one is twice as long.
        webhook_gap_s: least time between two ``output`` or ``logs`` webhooks of one prediction.
        webhook_ca: authorities (PEM) that receivers of webhooks are checked against, instead of the usual ones.
        fetch_ca: the same for hosts of file inputs.
        is_loopback_only: whether webhooks and file inputs beyond loopback are left alone.
    """

    accounts: dict[str, str] = field(default_factory=lambda: dict(DEFAULT_ACCOUNTS))
    output_ttl_s: float = 3600.0
    boot_s: float = 0.0
    idle_s: float = 300.0
    page_size: int = 100
    model_page_size: int = 25
    file_ttl_s: float = 86400.0
    max_file_bytes: int = 100 * 1024 * 1024
    is_stream_inline: bool = False
    min_cancel_after_s: float = 5.0
    rate_limit: int | None = None
    rate_window_s: float = 60.0
    poor: frozenset[str] = frozenset()
    webhook_addresses: bool = True
    webhook_attempts: int = 4
    webhook_backoff_s: float = 0.1
    webhook_gap_s: float = 0.5
    webhook_ca: Path | None = None
    fetch_ca: Path | None = None
    is_loopback_only: bool = True


@dataclass(frozen=True, slots=True)
class Address:
    """Where an output file lies; on which site, is decided when it is told.

    Predictions hold addresses alone, so that the bytes go when the outputs' life ends.
    """

    path: str


@dataclass(frozen=True, slots=True)
class Output:
    """A file at its address."""

    file: File
    created_at: float
    etag: str


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One event of a prediction's stream; ``data`` may hold ``Address``."""

    id: str
    kind: StreamEventKind
    data: Any


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where a prediction's webhooks go, and for which events."""

    url: str
    events: frozenset[WebhookEvent]


@dataclass(slots=True)
class Prediction:
    """One prediction or, with a ``destination``, one training.

    ``answerable`` is set when a waiting create may answer, ``ended`` with the final state.
    """

    id: str
    account: str
    model: Model
    input: JsonObject
    created_at: float
    site: Site
    deployment: str | None = None
    destination: str | None = None
    webhook: Webhook | None = None
    deadline: float | None = None
    stream_id: str = ""
    status: str = "starting"
    output: Any = None
    error: str | None = None
    logs: str = ""
    metrics: JsonObject = field(default_factory=dict)
    source: str = "api"
    is_kept: bool = False
    started_at: float | None = None
    completed_at: float | None = None
    events: list[StreamEvent] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    answerable: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_terminal(self) -> bool:
        return self.status in TERMINAL

    def tell(self, kind: StreamEventKind, data: Any) -> None:
        """Append to the stream, and wake whoever reads it."""
        self.events.append(StreamEvent(f"{int(time.time())}:{len(self.events)}", kind, data))
        self._changed.set()
        self._changed = asyncio.Event()

    async def changed(self) -> None:
        """Until the next event is told."""
        await self._changed.wait()


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that a client uploaded."""

    id: str
    account: str
    name: str
    content_type: str
    content: bytes
    metadata: JsonObject
    created_at: float
    expires_at: float
    md5: str
    sha256: str


class World:
    """Accounts, models, predictions, files, outputs, counters and faults."""

    def __init__(self, options: Options) -> None:
        self.usual = self.options = options
        self.sites: list[Site] = []
        self.registry = Registry(MODELS)
        self.predictions: dict[str, Prediction] = {}
        self.trainings: dict[str, Prediction] = {}
        self.examples: dict[str, Prediction] = {}
        self.streams: dict[str, Prediction] = {}
        self.uploads: dict[str, Upload] = {}
        self.outputs: dict[str, Output] = {}
        self.kept: dict[str, Output] = {}
        self.faults = Faults()
        self.revoked: set[str] = set()
        self.counts: Counter[str] = Counter()
        self.runs: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()
        self.run_seconds: dict[str, float] = {}
        self.last_create: JsonObject = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.windows: dict[str, tuple[float, int]] = {}
        self._expired_until = 0.0

    def reset_counters(self) -> None:
        self.counts.clear()
        self.runs.clear()
        self.ends.clear()
        self.run_seconds.clear()
        self.last_create = {}

    def counters(self) -> JsonObject:
        """Requests by place, runs by model, ends and seconds by status, and what should not have come."""
        return {
            **{name: self.counts[name] for name in _COUNTED},
            "runs": dict(self.runs),
            "ends": dict(self.ends),
            "run_seconds": dict(self.run_seconds),
            "last_create": self.last_create,
        }

    def change_options(self, document: JsonObject) -> None:
        """Change numbers and switches.

        Raises:
            TypeError: there is no such option, or its value is of another type.
        """
        for name, value in document.items():
            usual = getattr(self.options, name, None)
            is_number = isinstance(value, int | float) and (name == "rate_limit" or isinstance(usual, int | float))
            if not (is_number or (name == "rate_limit" and value is None) or name == "poor"):
                raise TypeError(f"{name} cannot be changed to {value!r}")
        if "poor" in document:
            document = {**document, "poor": frozenset(document["poor"])}
        self.options = replace(self.options, **document)

    def publish(self, document: Any, *, is_kept: bool = False) -> Any:
        """``document`` with an ``Address`` for each of its files."""
        if isinstance(document, File):
            self._forget_expired()
            path = f"xezq/{secrets.token_urlsafe(24)}/{document.name}"
            etag = f'"{hashlib.md5(document.content, usedforsecurity=False).hexdigest()}"'
            (self.kept if is_kept else self.outputs)[path] = Output(document, time.time(), etag)
            return Address(path)
        return _map(document, lambda each: self.publish(each, is_kept=is_kept))

    def find_output(self, path: str) -> Output | None:
        """The output at that path, while it lives."""
        if path in self.kept:
            return self.kept[path]
        output = self.outputs.get(path)
        return None if output is None or self.is_expired(output.created_at) else output

    def find_upload(self, file_id: str) -> Upload | None:
        upload = self.uploads.get(file_id)
        return upload if upload is not None and upload.expires_at > time.time() else None

    def keep_upload(self, upload: Upload) -> None:
        """Take it up, and forget those whose life has ended."""
        now = time.time()
        for each in [each for each in self.uploads.values() if each.expires_at <= now]:
            del self.uploads[each.id]
        self.uploads[upload.id] = upload

    def is_expired(self, at: float) -> bool:
        return at <= self._expired_until or time.time() - at > self.options.output_ttl_s

    def expire(self, *, has_files: bool) -> None:
        """End the life of all outputs and data that exist now, and of the uploaded files if told so."""
        self._expired_until = time.time()
        if has_files:
            self.uploads.clear()

    def _forget_expired(self) -> None:
        """Outputs stand in the order of their time, so those past their life are the first ones."""
        while self.outputs:
            path, output = next(iter(self.outputs.items()))
            if not self.is_expired(output.created_at):
                return
            del self.outputs[path]

    def is_removed(self, prediction: Prediction) -> bool:
        """Whether a prediction's data are gone."""
        ended_at = prediction.completed_at
        return ended_at is not None and not prediction.is_kept and self.is_expired(ended_at)

    def account_of(self, token: str) -> str | None:
        return self.options.accounts.get(token) if token not in self.revoked else None


def _map(document: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(document, list):
        return [change(each) for each in document]
    if isinstance(document, dict):
        return {name: change(value) for name, value in document.items()}
    return document


def locate(document: Any, site: Site) -> Any:
    """``document`` with that site's URL for each ``Address``."""
    if isinstance(document, Address):
        return f"{site.delivery_url}/{document.path}"
    return _map(document, lambda each: locate(each, site))


def new_id() -> str:
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(26))


def new_stream_id() -> str:
    """Four letters, a dash, 52 letters and digits: unguessable, and unlike the id of an uploaded file."""
    letters = base64.b32encode(secrets.token_bytes(35)).decode().lower()
    return f"{letters[:4]}-{letters[4:]}"


def format_time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "Z"
