"""What the core and its edges tell each other of hits, both sides of each topic together.

======== ============== ================================================================
topic    who tells      payload
======== ============== ================================================================
callers  core           ``[change, ...]`` of ``core/changes``: who is let in, and who no more
bypass   core           see ``announcements``, and so are ``policies`` and ``purged``
results  core           ``[key, ...]``: stored or removed just now
input    edge           ``[id, scope, input's JSON, at]``: what a hit was asked for
listed   edge           ``[scope, id, at, [model, version, deployment]]``
books    edge           ``[upstream, model, scope, seconds, outputs]``: a run that a hit has spared
request  edge           ``[outcome, seconds, error, saved seconds]``: an answer has ended
storage  edge           ``{counter: more}``
======== ============== ================================================================

Scopes and keys are hex digits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from proxy.core.changes import decode_change, encode_change
from proxy.core.ids import PredictionId
from proxy.core.prices import UNPRICED
from proxy.engine.announcements import Announcements, Topic
from proxy.engine.books import Books
from proxy.engine.channel import CoreChannel
from proxy.engine.credentials import Gatekeeper
from proxy.engine.edge_channel import EdgeChannel
from proxy.engine.history import History, Label
from proxy.engine.kill_switch import KillSwitch
from proxy.engine.recent import RecentPredictions
from proxy.engine.reload import Reload
from proxy.engine.rows import RowWriter
from proxy.metrics import Metrics
from proxy.upstreams.base import Upstream
from proxy.upstreams.silent import DESCRIBE, Describer
from storage.counters import StorageCounters
from storage.digest import PredictionKey, Scope
from storage.opening import Storage

ANNOUNCED: tuple[Topic, ...] = ("bypass", "policies", "purged")


def announce(channel: CoreChannel, gatekeeper: Gatekeeper, storage: Storage, upstreams: tuple[Upstream, ...]) -> None:
    """Have the edges told what they must know to vouch for a hit."""
    gatekeeper.on_change = lambda change: channel.publish("callers", [encode_change(change)])
    channel.snapshot("callers", lambda: [encode_change(change) for change in gatekeeper.snapshot()])
    storage.results.listen(lambda key: channel.publish("results", [key.hex()]))
    channel.answer(DESCRIBE, Describer(upstreams).answer)


def collect(
    channel: CoreChannel,
    recent: RecentPredictions,
    history: History,
    books: Books,
    metrics: Metrics,
    counters: StorageCounters,
) -> None:
    """Take in what the edges' hits leave behind."""

    def ended(payload: Any) -> None:
        outcome, seconds, error, saved_s = payload
        if outcome is not None:
            metrics.observe_request(outcome, seconds)
        if error is not None:
            metrics.observe_error(error)
        if saved_s:
            metrics.observe_saved(saved_s)

    def counted(payload: Any) -> None:
        # Reads alone are counted by an edge, and this is the thread that counts them here.
        for name, more in payload.items():
            setattr(counters, name, getattr(counters, name) + more)

    def asked(payload: Any) -> None:
        prediction_id, scope, given, at = payload
        recent.add_served(PredictionId(prediction_id), _scope(scope), given.encode(), at)

    def listed(payload: Any) -> None:
        scope, prediction_id, at, label = payload
        history.add(_scope(scope), PredictionId(prediction_id), at, Label(*label))

    def spared(payload: Any) -> None:
        upstream, model, scope, seconds, outputs = payload
        books.hit(upstream, model, _scope(scope), seconds, outputs)

    channel.hear("books", spared)
    channel.hear("input", asked)
    channel.hear("listed", listed)
    channel.hear("request", ended)
    channel.hear("storage", counted)


def follow(channel: EdgeChannel, gatekeeper: Gatekeeper, storage: Storage) -> None:
    """Know on an edge what the core announces."""

    def learned(payload: Any) -> None:
        for change in payload:
            gatekeeper.apply(decode_change(change))

    def changed(payload: Any) -> None:
        for key in payload:
            storage.results.forget(PredictionKey(bytes.fromhex(key)))

    channel.on_connect(gatekeeper.forget)
    channel.on_connect(storage.renew)
    channel.subscribe("callers", learned)
    channel.subscribe("results", changed)


def share(channel: CoreChannel, announcements: Announcements, kill_switch: KillSwitch, reload: Reload) -> None:
    """Have the edges hear what the operator changes."""
    for topic in ANNOUNCED:
        announcements.subscribe(topic, partial(channel.publish, topic))
    channel.snapshot("bypass", lambda: {"since": kill_switch.since})
    channel.snapshot("policies", lambda: {"policies": [one.to_json() for one in reload.tables]})


def heed(channel: EdgeChannel, announcements: Announcements) -> None:
    """Act on an edge by what the operator changes."""
    for topic in ANNOUNCED:
        channel.subscribe(topic, partial(announcements.announce, topic))


class ToldRecent(RecentPredictions):
    """Inputs of hits, remembered by the core."""

    def __init__(self, channel: EdgeChannel, now: Callable[[], float]) -> None:
        super().__init__(now)
        self._channel = channel

    def add_served(self, prediction_id: PredictionId, scope: Scope, input_json: bytes, at: float) -> None:
        """See ``RecentPredictions.add_served``."""
        self._channel.tell("input", [prediction_id, scope.hex(), input_json.decode(), at])


class ToldHistory(History):
    """Lists, kept by the core."""

    def __init__(self, channel: EdgeChannel, storage: Storage, now: Callable[[], float]) -> None:
        super().__init__(storage.ledger, now)
        self._channel = channel

    def add(
        self, scope: Scope, prediction_id: PredictionId, created_at: float, label: Label, upstream_id: str | None = None
    ) -> None:
        """See ``History.add``. A hit stands for no prediction of the upstream's."""
        self._channel.tell("listed", [scope.hex(), prediction_id, created_at, list(label)])


class ToldBooks(Books):
    """The ledger, kept by the core."""

    def __init__(self, channel: EdgeChannel, storage: Storage, now: Callable[[], float]) -> None:
        super().__init__(RowWriter(storage.ledger), lambda upstream, model: UNPRICED, now)
        self._channel = channel

    def hit(self, upstream: str, model: str, scope: Scope, seconds: float, outputs: int, times: int = 1) -> None:
        """See ``Books.hit``."""
        for _ in range(times):
            self._channel.tell("books", [upstream, model, scope.hex(), seconds, outputs])


class ToldMetrics(Metrics):
    """Requests, counted by the core."""

    def __init__(self, channel: EdgeChannel, upstreams: tuple[str, ...]) -> None:
        super().__init__(upstreams)
        self._channel = channel

    def observe_request(self, outcome: str, seconds: float) -> None:
        """See ``Metrics.observe_request``."""
        self._channel.tell("request", [outcome, seconds, None, 0.0])

    def observe_error(self, code: str) -> None:
        """See ``Metrics.observe_error``."""
        self._channel.tell("request", [None, 0.0, code, 0.0])

    def observe_saved(self, seconds: float) -> None:
        """See ``Metrics.observe_saved``."""
        self._channel.tell("request", [None, 0.0, None, seconds])


class ToldCounters:
    """What the store of an edge counts, told now and then."""

    def __init__(self, channel: EdgeChannel, counters: StorageCounters) -> None:
        self._channel = channel
        self._counters = counters
        self._told = counters.snapshot()

    def tell(self) -> None:
        """Tell what has been counted since the last time."""
        now = self._counters.snapshot()
        more = {name: value - self._told[name] for name, value in now.items() if value != self._told[name]}
        if more:
            self._told = now
            self._channel.tell("storage", dict(more))


def _scope(text: str) -> Scope:
    return Scope(bytes.fromhex(text))
