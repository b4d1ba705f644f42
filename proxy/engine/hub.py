"""The stream of one run while it is on its way: read once, told to everybody who listens.

A hub is opened by the first listener of a flight and then goes on to the end, whether anybody listens or not; the run
itself knows nothing of it. It reads the upstream's own stream where there is one. Where there is none, it cannot be
opened, or it broke off for good, the rest is told from the flight's progress. The flight has the last word: when it
has landed, what the stream has not told yet is told from its result, and then the end.

Files are taken into the store before they are told, so no listener ever sees the upstream's address of a file that
could be fetched. Each listener reads from the hub's lines at its own pace; they are bounded in bytes, and a slow
listener costs nothing but its place in them.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, cast

import structlog

from proxy.core.errors import HotplateError, UpstreamUnavailable
from proxy.core.outputs import FileReference, file_name, plan_output
from proxy.core.sse import CONTENT_TYPE, Event, Parser, StreamUnreadable
from proxy.core.telling import (
    NAMES,
    EventName,
    Line,
    Said,
    ending,
    more_logs,
    more_output,
    number,
    output_leaves,
    read_output,
    result_leaves,
    tells_all,
)
from proxy.engine.coalescer import Flight
from proxy.engine.ingestor import Ingestor
from proxy.upstreams.base import Credential, RelayResponse, Upstream
from proxy.upstreams.relay import close
from storage.digest import Digest, hash_bytes
from storage.records import JsonValue, OutputFile, ResultRecord

MAX_LINES_BYTES = 8 * 1024**2
"""What one stream may hold in memory. Files are not in it, and the longest texts that models write are far below."""

MAX_TOTAL_BYTES = 64 * 1024**2
"""What all of them may."""

_LINE_BYTES = 300
"""What a line takes besides its text."""

REOPENINGS = 4
"""How often in a row a stream that broke off is opened again before it is given up."""

REOPEN_AFTER_S = 0.2
"""Before the first of them; doubled each time."""

DONE_GRACE_S = 2.0
"""How long after the end of the run its stream may take to say so itself."""

LOG_WAIT_S = 0.25
"""How long a result waits to be stored for the end of its stream. Usually that came before; a poller waits, too."""

_PASSING = frozenset({408, 425, 429})

_log = structlog.get_logger("hotplate.streams")


@dataclass(frozen=True, slots=True)
class Source:
    """Whose run it is, and from where it can be told.

    Attributes:
        keeps: files go into the store; else into the spool alone.
        makes_files: what its outputs are thought to be.
    """

    upstream: Upstream
    credential: Credential | None = field(repr=False)
    keeps: bool
    makes_files: bool


class Budget:
    """Bytes that all hubs share."""

    def __init__(self, max_bytes: int = MAX_TOTAL_BYTES, make_room: Callable[[], bool] = lambda: False) -> None:
        """``make_room`` gives something back, and says whether it could."""
        self.max_bytes = max_bytes
        self.make_room = make_room
        self.used_bytes = 0

    def take(self, size_bytes: int) -> bool:
        """Reserve; ``False`` when there is no room."""
        while self.used_bytes + size_bytes > self.max_bytes:
            if not self.make_room():
                return False
        self.used_bytes += size_bytes
        return True

    def give_back(self, size_bytes: int) -> None:
        self.used_bytes -= size_bytes


class _Overflow(Exception):
    """The stream is longer than there is room for."""


class _Refused(Exception):
    """There is no such stream, and opening it again mends nothing."""


class Hub:
    """The lines of one flight's stream, growing.

    Attributes:
        lines: what has been told so far.
        is_over: nothing more will come. Without a ``done`` as the last line the end is not the stream's own.
        listeners: how many read.
    """

    def __init__(
        self,
        flight: Flight,
        source: Source,
        ingestor: Ingestor,
        budget: Budget,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.lines: list[Line] = []
        self.is_over = False
        self.listeners = 0
        self._flight = flight
        self._source = source
        self._ingestor = ingestor
        self._budget = budget
        self._sleep = sleep
        self._bytes = 0
        self._changed = asyncio.Event()
        self._news = asyncio.Event()
        self._taken: dict[Digest, OutputFile | str] = {}
        self._file_count = 0
        self._is_relaying = False
        self._was_cut = False
        self._is_sealed = False
        flight.listen(lambda _: self._news.set())
        self._task = asyncio.create_task(self._tell())

    @property
    def changed(self) -> asyncio.Event:
        """Set once, at the next change; to be taken before ``lines`` is looked at."""
        return self._changed

    @property
    def is_whole(self) -> bool:
        """Whether the stream has come to its own end."""
        return self.is_over and bool(self.lines) and self.lines[-1].name == "done"

    def wake(self) -> None:
        """Let listeners look up: something that concerns one of them has changed."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def forget(self) -> None:
        """Give the room of an ended hub back; who comes now is told from the result."""
        self._budget.give_back(self._bytes)
        self._bytes = 0
        self.lines.clear()

    async def aclose(self) -> None:
        """End at once."""
        self._task.cancel()
        await asyncio.wait({self._task})

    async def seal(self, record: ResultRecord) -> tuple[Line, ...] | None:
        """The whole log of the run whose result is ``record``, or ``None``: of an aborted or cut stream, never one.

        What is still to be told is settled with this, so that listeners hear exactly what the log says.
        """
        if self._is_relaying and not self.is_over:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOG_WAIT_S):
                    while not self.is_over:
                        await self._changed.wait()
        if self._was_cut or (self._is_relaying and not self.is_over):
            return None
        rest = self._rest(record) or () if not self.is_over else ()
        self._is_sealed = True
        log = (*self.lines, *number(rest, self._flight.started_at, len(self.lines)))
        return log if tells_all(log, record) else None

    # -- telling ---------------------------------------------------------------------------------------

    async def _tell(self) -> None:
        try:
            url = await self._follow(until_url=True)
            if url is not None:
                if await self._relay_until_end(url):
                    return
                self._is_relaying = False
                await self._follow(until_url=False)
            self._conclude()
        except _Overflow:
            _log.warning("stream_too_long", bytes=self._bytes)
            self._was_cut = True
            self.forget()
        except Exception:
            _log.exception("stream_broke")
            self._was_cut = True
        finally:
            self.is_over = True
            self._taken.clear()
            self.wake()

    def _say(self, name: EventName, data: str | OutputFile) -> None:
        size_bytes = _LINE_BYTES + (len(data) if isinstance(data, str) else 0)
        if self._bytes + size_bytes > MAX_LINES_BYTES or not self._budget.take(size_bytes):
            raise _Overflow
        self._bytes += size_bytes
        self.lines += number([(name, data)], self._flight.started_at, len(self.lines))
        self.wake()

    # -- from the upstream's stream --------------------------------------------------------------------

    async def _relay_until_end(self, url: str) -> bool:
        """Relay the upstream's stream; whether it has come to its end. The run's own end is the limit."""
        self._is_relaying = True
        relaying = asyncio.create_task(self._relay(url))
        ends: set[asyncio.Future[Any]] = {relaying, self._flight.ending}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not relaying.done():
                await asyncio.wait({relaying}, timeout=DONE_GRACE_S)
            if relaying.done():
                return relaying.result()
            self._was_cut = True
            return False
        finally:
            relaying.cancel()
            await asyncio.wait({relaying})

    async def _relay(self, url: str) -> bool:
        """Read the stream to its ``done``, opened anew where it breaks off; ``False`` when it is given up."""
        seen: set[str] = set()
        last_id: str | None = None
        failures = 0
        while True:
            known, is_resumable = frozenset(seen), True
            try:
                async with self._opened(url, last_id) as events:
                    async for event in events:
                        failures = 0
                        is_resumable = bool(event.id)
                        # A stream that knows no Last-Event-ID begins at the start again.
                        if not event.id or event.id not in known:
                            await self._relay_event(event)
                        last_id = event.id or last_id
                        seen.add(event.id)
                        if event.name == "done":
                            return True
            except _Refused:
                is_resumable = False
            except (HotplateError, StreamUnreadable) as error:
                _log.info("stream_interrupted", reason=type(error).__name__, failures=failures)
            failures += 1
            self._was_cut = self._was_cut or bool(seen)
            if failures > REOPENINGS or not is_resumable:
                return False
            await self._sleep(REOPEN_AFTER_S * 2 ** (failures - 1))

    @asynccontextmanager
    async def _opened(self, url: str, last_id: str | None) -> AsyncIterator[AsyncIterator[Event]]:
        response = await self._source.upstream.open_stream(url, self._source.credential, last_id)
        try:
            async with aclosing(_events(response)) as events:
                yield events
        finally:
            await close(response)

    async def _relay_event(self, event: Event) -> None:
        # A name that clients do not know makes one of them raise.
        if event.name not in NAMES:
            return
        name = cast(EventName, event.name)
        if name != "output":
            self._say(name, event.data)
            return
        for leaf in await self._leaves(read_output(event.data), event.data):
            self._say(name, leaf)

    # -- from the flight's progress and its end --------------------------------------------------------

    async def _follow(self, *, until_url: bool) -> str | None:
        """Tell the run's progress until it has ended.

        ``until_url``: or until it says, before anything was told, where the upstream streams it; that place.
        """
        if not until_url:
            self._flight.watch(math.inf)
        while not self._flight.has_ended and not self._is_sealed:
            self._news.clear()
            progress = self._flight.progress
            if progress is not None:
                if until_url and progress.stream_url is not None and not self.lines:
                    return progress.stream_url
                for said in more_logs(self.lines, progress.logs):
                    self._say(*said)
                more = more_output(self.lines, await self._leaves(progress.output))
                # What is sealed is told at the end, in the order that the stored log has.
                for said in more if more is not None and not self._is_sealed else ():
                    self._say(*said)
            await self._next_news()
        await asyncio.wait({self._flight.ending})
        return None

    async def _next_news(self) -> None:
        news = asyncio.create_task(self._news.wait())
        ends: set[asyncio.Future[Any]] = {news, self._flight.ending}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()

    def _conclude(self) -> None:
        landed = self._flight.landed
        if landed is None:
            return  # the process stops, and the next one takes the run up
        rest: list[Said] | None
        if landed.record is None:
            has_error = any(line.name == "error" for line in self.lines)
            end = ending(landed.outcome.status, landed.outcome.error)
            rest = more_logs(self.lines, landed.outcome.logs)
            rest += [said for said in end if said[0] != "error" or not has_error]
        else:
            rest = self._rest(landed.record)
        if rest is None:
            _log.warning("stream_contradicts_result")
        for said in rest or ():
            self._say(*said)

    def _rest(self, record: ResultRecord) -> list[Said] | None:
        """What is still to be told of a result; ``None`` when the result is not what was told."""
        more = more_output(self.lines, result_leaves(record))
        return None if more is None else [*more_logs(self.lines, record.logs), *more, *ending("succeeded", None)]

    # -- files -----------------------------------------------------------------------------------------

    async def _leaves(self, output: JsonValue, text: str | None = None) -> list[str | OutputFile]:
        """What an output is told as, its files taken in; ``text`` is how it was told, if it was, and stays so without
        files."""
        plan = plan_output(output, self._source.upstream.output_access)
        if text is not None and not plan.files:
            return [text]
        leaves = output_leaves(output, {file.path: file for file in plan.files})
        return [await self._take(leaf) if isinstance(leaf, FileReference) else leaf for leaf in leaves]

    async def _take(self, file: FileReference) -> str | OutputFile:
        """The file once it is here, or its URL where it cannot be had."""
        name = hash_bytes(file.url.encode())  # it may be megabytes of base64
        if name in self._taken:
            return self._taken[name]
        place, self._file_count = self._file_count, self._file_count + 1
        partials = self._flight.partials
        if partials is not None:
            taken = await partials.take(place, file)
        else:
            access = self._source.upstream.output_access
            taken = await self._ingestor.take(place, file, access, keep=self._source.keeps)
        shown: str | OutputFile = file.url
        if taken is not None:
            # Named as the whole output's files are, so that a repeat tells the same address.
            shown = replace(taken.file, path=(place,), name=file_name(place, file.url, taken.file.content_type))
        self._taken[name] = shown
        return shown


async def _events(response: RelayResponse) -> AsyncGenerator[Event, None]:
    """The events of an opened stream.

    Raises:
        _Refused, UpstreamUnavailable: it is none.
        HotplateError: it breaks off.
        StreamUnreadable: see ``Parser.feed``.
    """
    if response.status >= 500 or response.status in _PASSING:
        raise UpstreamUnavailable(f"The run's stream was answered {response.status}.")
    content_type = next((value for name, value in response.headers if name.lower() == "content-type"), "")
    if response.status != 200 or content_type.partition(";")[0].strip().lower() != CONTENT_TYPE:
        raise _Refused
    parser = Parser()
    async for chunk in response.body:
        for event in parser.feed(chunk):
            yield event
