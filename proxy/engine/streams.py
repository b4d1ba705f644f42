"""Streams of predictions: found by their address alone, told live, or replayed.

A stream's address names its prediction and proves itself (``StreamBook``), so it is read without a credential, and
the scope comes with what the prediction's id leads to: the run on its way, the stored result with the log of its
stream, or the row that says how it ended otherwise. It must be the scope that the address was made for.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import structlog

from proxy.core.addresses import FILE_STREAMS_PREFIX, StreamBook, StreamName
from proxy.core.errors import Overloaded
from proxy.core.ids import IdMint, PredictionId
from proxy.core.predictions import Status
from proxy.core.sse import HEARTBEAT, Event, encode, place_after, replay_after
from proxy.core.telling import Line, decode_log, encode_log, ending, more_logs, number, tell_result
from proxy.engine.coalescer import Flight, Landed
from proxy.engine.hub import Budget, Hub, Source
from proxy.engine.ingestor import Ingestor
from proxy.engine.journal import Journal
from proxy.engine.recent import RecentPredictions, Running
from proxy.engine.remains import Remains
from proxy.engine.renderer import OutputGone, Renderer
from proxy.upstreams.bodies import only
from storage.digest import Scope
from storage.errors import Corrupt, StorageError
from storage.ports import ContentStore
from storage.records import BlobRef, ResultRecord
from storage.results import ResultStore

HEARTBEAT_S = 15.0
"""Longest silence: proxies and clients give a connection up after some 30 to 60 s without a byte."""

BATCH_BYTES = 64 * 1024
"""How much of what is there already goes out as one piece."""

MAX_LISTENERS_EACH = 32
"""Of one prediction. Its address works without a credential, so it may have gone to many."""

MAX_ENDED_HUBS = 500

_log = structlog.get_logger("hotplate.streams")


@dataclass(frozen=True, slots=True)
class Finished:
    """A stream of which everything is known."""

    id: PredictionId
    scope: Scope
    lines: Sequence[Line]


@dataclass(frozen=True, slots=True)
class Live:
    """The stream of a run on its way, for one of those who share it."""

    entry: Running
    hub: Hub

    @property
    def id(self) -> PredictionId:
        return self.entry.id


Telling = Finished | Live


class Streams:
    """Finds and tells the streams of predictions.

    Args:
        max_listeners: how many may listen at once, in all.
        heartbeat_s: longest silence of a stream.
    """

    def __init__(
        self,
        *,
        recent: RecentPredictions,
        mint: IdMint,
        book: StreamBook,
        journal: Journal,
        results: ResultStore,
        remains: Remains,
        blobs: ContentStore,
        ingestor: Ingestor,
        renderer: Renderer,
        max_listeners: int,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        self._recent = recent
        self._mint = mint
        self._book = book
        self._journal = journal
        self._results = results
        self._remains = remains
        self._blobs = blobs
        self._ingestor = ingestor
        self._renderer = renderer
        self._max_listeners = max_listeners
        self._heartbeat_s = heartbeat_s
        self._sources: WeakKeyDictionary[Flight, Source] = WeakKeyDictionary()
        self._hubs: dict[Flight, Hub] = {}
        self._budget = Budget(make_room=self._drop_oldest)
        self._listening: Counter[PredictionId] = Counter()

    # -- what runs and predictions ask -----------------------------------------------------------------

    def expect(self, flight: Flight, source: Source) -> None:
        """A flight begins: from where it can be told, should somebody listen."""
        self._sources[flight] = source
        flight.listen(lambda flight: self._ended(flight) if flight.has_ended else None)

    def is_streamable(self, flight: Flight) -> bool:
        """Whether predictions of this run say where they are streamed."""
        return self._makes_files(flight) is not None

    def url(self, entry: Running) -> str | None:
        """Where a prediction that made or shares a run is streamed."""
        landed, flight = entry.flight.landed, entry.flight
        if landed is not None and landed.record is not None and flight.progress is None:
            return self._renderer.record_stream_url(entry.id, landed.record)  # it was found stored
        makes_files = self._makes_files(flight)
        if makes_files is None:
            return None
        return self._renderer.stream_url(entry.id, entry.results_scope, makes_files=makes_files)

    async def keep_log(self, flight: Flight, record: ResultRecord) -> BlobRef | None:
        """Store the log of a run's stream, if somebody listened and it is whole; ``record`` is about to be stored."""
        hub = self._hubs.get(flight)
        log = await hub.seal(record) if hub is not None else None
        if log is None:
            return None
        data = encode_log(log, record)
        try:
            return await self._blobs.put(only(data), content_type="application/json", max_bytes=len(data))
        except StorageError as error:
            _log.warning("stream_log_not_stored", reason=type(error).__name__)
            return None

    # -- what readers ask ------------------------------------------------------------------------------

    async def find(self, name: StreamName) -> Telling | None:
        """The stream that a verified address names; ``None`` when nothing is known of it any more."""
        prediction_id = name.id
        entry = self._recent.any_running(prediction_id)
        if entry is not None:
            return await self._of_entry(entry)
        opened = self._mint.open(prediction_id)
        if opened is None:
            return None
        canceled = await self._journal.canceled(prediction_id)
        if canceled is not None:
            return _ended_without_result(prediction_id, canceled.created_at, canceled.logs, "canceled", None)
        record_id = opened.parts.record_id
        record = await self._results.find_complete(record_id) or await self._remains.find(record_id)
        if record is not None and self._book.fits(name, record.scope) and opened.parts.may_name(record.created_at):
            return Finished(prediction_id, record.scope, await self._log_of(record))
        scope = await self._journal.scope_of(opened.parts.record_id)
        if scope is None or not self._book.fits(name, scope):
            return None
        ended = await self._journal.find(prediction_id, opened.parts, {scope})
        if ended is None or ended.is_data_removed:
            return None
        return _ended_without_result(prediction_id, ended.created_at, ended.logs, ended.status, ended.error)

    def is_spent(self, telling: Telling, last_event_id: str | None) -> bool:
        """Whether a reader that has seen ``last_event_id`` has seen the end."""
        if isinstance(telling, Live) and not telling.hub.is_whole:
            return False
        lines = telling.lines if isinstance(telling, Finished) else telling.hub.lines
        return bool(lines) and place_after(lines, last_event_id) == len(lines)

    @asynccontextmanager
    async def listening(self, telling: Telling, last_event_id: str | None) -> AsyncIterator[AsyncIterator[bytes]]:
        """The bytes of a stream, from after ``last_event_id``, as they come to be; heartbeats among them.

        Raises:
            Overloaded: too many listen already.
        """
        mine = self._listening.get(telling.id, 0)
        if mine >= MAX_LISTENERS_EACH or self._listening.total() >= self._max_listeners:
            raise Overloaded("too many streams are open", retry_after_s=5.0)
        self._listening[telling.id] += 1
        hub = telling.hub if isinstance(telling, Live) else None
        if hub is not None:
            hub.listeners += 1  # at once: what has ended and nobody listens to may be forgotten at any time
        try:
            if isinstance(telling, Finished):
                chunks = self._finished(telling, last_event_id)
            else:
                chunks = self._live(telling.entry, telling.hub, last_event_id)
            async with aclosing(chunks):
                yield chunks
        finally:
            if hub is not None:
                hub.listeners -= 1
            self._listening[telling.id] -= 1
            self._listening += Counter()  # drops what is at zero

    async def aclose(self) -> None:
        """End every stream."""
        for hub in list(self._hubs.values()):
            await hub.aclose()

    # -- finding ---------------------------------------------------------------------------------------

    async def _of_entry(self, entry: Running) -> Telling | None:
        flight = entry.flight
        if entry.canceled_at is not None:
            logs = flight.progress.logs if flight.progress is not None else ""
            return _ended_without_result(entry.id, entry.created_at, logs, "canceled", None)
        hub = self._hubs.get(flight)
        if flight.landed is None:
            hub = hub or self._open(flight)
            return Live(entry, hub) if hub is not None else None
        if hub is not None and (hub.is_whole or not hub.is_over):
            return Live(entry, hub)
        return await self._of_landed(entry, flight.landed)

    async def _of_landed(self, entry: Running, landed: Landed) -> Finished:
        if landed.record is not None:
            return Finished(entry.id, entry.results_scope, await self._log_of(landed.record))
        outcome = landed.outcome
        began_at = entry.flight.started_at
        return _ended_without_result(entry.id, began_at, outcome.logs, outcome.status, outcome.error)

    async def _log_of(self, record: ResultRecord) -> Sequence[Line]:
        """The stored log of a result, or what its output and logs say."""
        if record.stream_log is not None:
            data = await self._blobs.read(record.stream_log)
            if data is not None:
                try:
                    return decode_log(data, record)
                except Corrupt as error:
                    _log.warning("stream_log_unreadable", reason=str(error))
        return tell_result(record)

    def _open(self, flight: Flight) -> Hub | None:
        source = self._sources.get(flight)
        if source is None:
            return None
        hub = self._hubs[flight] = Hub(flight, source, self._ingestor, self._budget)
        while sum(hub.is_over for hub in self._hubs.values()) > MAX_ENDED_HUBS and self._drop_oldest():
            pass
        return hub

    def _drop_oldest(self) -> bool:
        """Forget the ended stream that was opened first; the next reader is told from the result."""
        for flight, hub in self._hubs.items():
            if hub.is_over and not hub.listeners:
                del self._hubs[flight]
                hub.forget()
                return True
        return False

    def _ended(self, flight: Flight) -> None:
        # A flight is remembered for an hour, and nothing is asked of its upstream any more.
        source = self._sources.get(flight)
        if source is not None:
            self._sources[flight] = Source(source.upstream, None, source.keeps, source.makes_files)

    def _makes_files(self, flight: Flight) -> bool | None:
        """What a run's outputs are thought to be; ``None`` where its stream is not offered."""
        source = self._sources.get(flight)
        if source is None:
            return None
        if source.upstream.kind != "replicate":
            return source.makes_files
        url = flight.progress.stream_url if flight.progress is not None else None
        return None if url is None else _path_of(url).startswith(FILE_STREAMS_PREFIX)

    # -- telling ---------------------------------------------------------------------------------------

    async def _finished(self, telling: Finished, last_event_id: str | None) -> AsyncGenerator[bytes, None]:
        lines = replay_after(telling.lines, last_event_id)
        async with aclosing(self._encoded(lines, telling.scope)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _live(self, entry: Running, hub: Hub, last_event_id: str | None) -> AsyncGenerator[bytes, None]:
        place = place_after(hub.lines, last_event_id)

        def wake(_: object) -> None:
            hub.wake()

        entry.own_end.add_done_callback(wake)
        try:
            while True:
                changed, due = hub.changed, hub.lines[place:]
                is_canceled = entry.canceled_at is not None and not (hub.is_whole and not due)
                if is_canceled:
                    due = list(number(ending("canceled", None), entry.flight.started_at, place))
                place += len(due)
                async with aclosing(self._encoded(due, entry.results_scope)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                if is_canceled or (hub.is_over and not due):
                    return
                if not due and not await _happens(changed, self._heartbeat_s):
                    yield HEARTBEAT
        finally:
            entry.own_end.remove_done_callback(wake)

    async def _encoded(self, lines: Sequence[Line], scope: Scope) -> AsyncGenerator[bytes, None]:
        """Lines on the wire, files as their reader shall see them.

        Raises:
            OutputGone: a file is in neither store nor spool any more; what came before it has been given.
        """
        batch = bytearray()
        for line in lines:
            if isinstance(line.data, str):
                data = line.data
            else:
                try:
                    data = await self._renderer.shown(line.data, scope)
                except OutputGone:
                    if batch:
                        yield bytes(batch)
                    raise
            batch += encode(Event(line.id, line.name, data))
            if len(batch) >= BATCH_BYTES:
                yield bytes(batch)
                batch.clear()
        if batch:
            yield bytes(batch)


def _ended_without_result(
    prediction_id: PredictionId, began_at: float, logs: str, status: Status, error: str | None
) -> Finished:
    """The stream of a prediction that gave no result: it holds no file, so no scope is needed to tell it."""
    lines = number([*more_logs((), logs), *ending(status, error)], began_at)
    return Finished(prediction_id, Scope(bytes(32)), lines)


def _path_of(url: str) -> str:
    try:
        return urlsplit(url).path
    except ValueError:
        return ""


async def _happens(event: asyncio.Event, timeout_s: float) -> bool:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return False
    return True
