"""A model service whose run and stream go on as a test says, and a reader of streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from proxy.core.addresses import StreamName
from proxy.core.errors import UpstreamUnavailable
from proxy.core.sse import Event, Parser, encode
from proxy.engine.streams import Streams
from proxy.upstreams.base import Credential, Job, Outcome, Progress, RelayResponse
from storage.records import JsonValue
from tests.fakes.upstreams import ScriptedUpstream

TEXT_STREAM = "https://stream.replicate.com/v1/streams/opaque"
FILE_STREAM = "https://stream.replicate.com/v1/files/opaque"


@dataclass
class Connection:
    """One opening of the upstream's stream."""

    url: str
    credential: Credential | None
    last_event_id: str | None
    status: int = 200
    content_type: str = "text/event-stream; charset=utf-8"
    is_closed: bool = False
    _parts: asyncio.Queue[bytes | Exception | None] = field(default_factory=asyncio.Queue)

    def say(self, *events: tuple[str, str, str]) -> None:
        """Send events: id, name, data."""
        for event in events:
            self._parts.put_nowait(encode(Event(*event)))

    def write(self, data: bytes) -> None:
        self._parts.put_nowait(data)

    def end(self) -> None:
        """End the body as if it were whole."""
        self._parts.put_nowait(None)

    def cut(self) -> None:
        """Break off."""
        self._parts.put_nowait(UpstreamUnavailable("the stream was cut"))

    async def body(self) -> AsyncIterator[bytes]:
        while (part := await self._parts.get()) is not None:
            if isinstance(part, Exception):
                raise part
            yield part

    async def aclose(self) -> None:
        self.is_closed = True


@dataclass
class StreamingUpstream(ScriptedUpstream):
    """``Upstream`` whose one run is told by the test.

    Attributes:
        stream_url: where it says that the run is streamed.
        openings: how streams are opened, in order (the last one again and again): ``None`` well, else a status, or an
            exception.
        connections: the streams that were opened.
    """

    stream_url: str | None = None
    openings: list[int | Exception | None] = field(default_factory=lambda: [None])
    connections: list[Connection] = field(default_factory=list)
    _report: Callable[[Progress], None] | None = None
    _end: asyncio.Future[Outcome] | None = None

    async def run(self, job: Job, report: Callable[[Progress], None]) -> Outcome:
        self.jobs.append(job)
        self._report, self._end = report, asyncio.get_running_loop().create_future()
        report(Progress("starting", self.clock(), upstream_id="up-1", stream_url=self.stream_url))
        try:
            return await self._end
        except asyncio.CancelledError:
            self.canceled.append(job.id)
            raise

    def progress(self, output: JsonValue = None, logs: str = "") -> None:
        """News of the run."""
        assert self._report is not None
        self._report(
            Progress(
                "processing",
                self.clock(),
                logs=logs,
                upstream_id="up-1",
                output=output,
                stream_url=self.stream_url,
            )
        )

    def succeed(self, output: JsonValue, logs: str = "") -> None:
        self._finish("succeeded", output, logs)

    def fail(self, error: str | None, logs: str = "") -> None:
        self._finish("failed", None, logs, error)

    def _finish(self, status: Any, output: JsonValue, logs: str, error: str | None = None) -> None:
        assert self._end is not None
        now = self.clock()
        self._end.set_result(Outcome(status, output, error, logs, {"predict_time": 2.5}, now, now, upstream_id="up-1"))

    async def open_stream(self, url: str, credential: Credential | None, last_event_id: str | None) -> RelayResponse:
        how = self.openings.pop(0) if len(self.openings) > 1 else self.openings[0]
        if isinstance(how, Exception):
            raise how
        connection = Connection(url, credential, last_event_id, status=how or 200)
        self.connections.append(connection)
        headers = [("Content-Type", connection.content_type)]
        return RelayResponse(connection.status, headers, connection.body(), connection.aclose)


class Reader:
    """Reads a stream in the background."""

    def __init__(self, streams: Streams, name: StreamName, last_event_id: str | None = None) -> None:
        self.events: list[Event] = []
        self.heartbeats = 0
        self.is_missing = False
        self._streams = streams
        self._task = asyncio.create_task(self._read(name, last_event_id))

    async def _read(self, name: StreamName, last_event_id: str | None) -> None:
        telling = await self._streams.find(name)
        if telling is None:
            self.is_missing = True
            return
        parser = Parser()
        async with self._streams.listening(telling, last_event_id) as chunks:
            async for chunk in chunks:
                self.heartbeats += chunk == b":\n\n"
                self.events += parser.feed(chunk)

    @property
    def said(self) -> list[tuple[str, str]]:
        """Names and data so far."""
        return [(event.name, event.data) for event in self.events]

    @property
    def ids(self) -> list[str]:
        return [event.id for event in self.events]

    @property
    def has_ended(self) -> bool:
        return self._task.done()

    async def end(self) -> Reader:
        """Wait for the end of the stream."""
        async with asyncio.timeout(10):
            await self._task
        return self

    async def leave(self) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})
