"""Files that clients name by a URL of somebody else: fetched, hashed, and asked about again by their ETag.

A URL is a name, and what it names may change. So each time a request names one its host is asked: with the ETag of the
last time, where that was a strong one, and then usually answers that nothing has changed; else for the bytes. What was
fetched stays in memory for as long as somebody needs it, and a little longer while there is room. The total is bounded:
a fetch for which there is no room fails, and its request then merely goes past the cache.

Only a strong ETag of the very address that gave the bytes is believed. ``Last-Modified`` counts in whole seconds, and
where a redirect now leads elsewhere, an equal ETag says nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import blake3
import orjson
import structlog

from proxy.core.canonical import framed
from proxy.core.outputs import OutputAccess, looks_whole, sniff_type
from proxy.upstreams.egress import Egress, EgressFailed, EgressRefused, Fetched, is_strong_etag
from proxy.upstreams.once import AskedOnce
from storage.digest import Digest, Scope, parse_digest
from storage.errors import StorageError
from storage.ports import KeyValue

MAX_FILE_BYTES = 32 * 1024**2
"""A Cog server takes bodies of up to 100 MiB, and base64 makes a file a third larger."""

IDENTIFY_TIMEOUT_S = 5.0
"""A client waits for this before anything of its prediction is known."""

FETCH_TIMEOUT_S = 30.0
"""For a model that cannot run without the file."""

MAX_HELD_BYTES = 96 * 1024**2
MAX_RECENT_BYTES = 32 * 1024**2
"""Of these, what nobody needs any more but the next request may: it is often the same picture with another prompt."""

PARALLEL_QUESTIONS = 32
PARALLEL_FETCHES = 8
"""Of those for models that wait for them: slow hosts are not to hold up the questions that a hit depends on."""

REMEMBER_S = 7 * 86_400.0

_log = structlog.get_logger("hotplate.remote_files")


class NoRoom(Exception):
    """Too many bytes are held already."""


class Body:
    """A fetched file in memory."""

    __slots__ = ("__weakref__", "data", "digest")

    def __init__(self, data: bytearray, digest: Digest) -> None:
        self.data = data
        self.digest = digest


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """What a URL names now; ``body`` is ``None`` where the host only said that it is what it was."""

    digest: Digest
    body: Body | None


@dataclass(frozen=True, slots=True)
class _Known:
    """``etag`` and digest of the last time, and a hash of the address that gave them, behind all redirects."""

    etag: str
    digest: Digest
    address: str


class RemoteFiles:
    """Asks hosts of other people's files."""

    def __init__(
        self,
        egress: Egress,
        notes: KeyValue,
        named: Mapping[str, OutputAccess],
        *,
        max_held_bytes: int = MAX_HELD_BYTES,
    ) -> None:
        """``named``: by upstream, the origins that its operator named for inputs, which may be private."""
        self._egress = egress
        self._notes = notes
        self._named = named
        self._questions = asyncio.Semaphore(PARALLEL_QUESTIONS)
        self._fetches = asyncio.Semaphore(PARALLEL_FETCHES)
        self._room = _Room(max_held_bytes)
        self._asking: AskedOnce[str, RemoteFile | None] = AskedOnce()

    @property
    def held_bytes(self) -> int:
        """What the fetched files that somebody holds take now."""
        return self._room.used_bytes

    def drop_recent(self) -> None:
        """Let go of what nobody needs any more but the next request may."""
        self._room.clear()

    async def identify(self, upstream: str, scope: Scope, url: str) -> RemoteFile | None:
        """What ``url`` names now; ``None`` when that cannot be told in time. Asked once for all who ask meanwhile."""
        name = _row_name(upstream, scope, url)
        return await self._asking.ask(name, lambda: self._identify(name, upstream, url))

    async def fetch(self, upstream: str, url: str) -> Body:
        """The bytes of ``url``, whatever they are now.

        Raises:
            EgressRefused, EgressFailed, TimeoutError, NoRoom: they cannot be had.
        """
        async with asyncio.timeout(FETCH_TIMEOUT_S), self._fetches:
            found, _ = await self._ask(upstream, url, None)
            assert isinstance(found, Body)
            return found

    async def _identify(self, name: str, upstream: str, url: str) -> RemoteFile | None:
        try:
            async with asyncio.timeout(IDENTIFY_TIMEOUT_S), self._questions:
                known = await self._recall(name)
                found, news = await self._ask(upstream, url, known)
                if found is None:  # unchanged, but at another address: then the ETag was not about these bytes
                    found, news = await self._ask(upstream, url, None)
                assert found is not None
        except (EgressRefused, EgressFailed, TimeoutError, NoRoom) as error:
            _log.info("input_not_identified", reason=type(error).__name__, rule=getattr(error, "rule", None))
            return None
        if isinstance(found, Body):
            await self._remember(name, news)
            return RemoteFile(found.digest, found)
        return RemoteFile(found, self._room.find(found))

    async def _ask(self, upstream: str, url: str, known: _Known | None) -> tuple[Body | Digest | None, _Known | None]:
        """One exchange: the bytes, or the digest that still holds, or ``None`` if ``known`` proved to be about another
        address; and what is to be remembered."""
        async with self._egress.open(
            url,
            self._named.get(upstream, OutputAccess()),
            max_bytes=MAX_FILE_BYTES,
            require_listed=False,
            if_none_match=known.etag if known is not None else None,
        ) as response:
            if response.status == 304 and known is not None:
                return (known.digest if _hash(response.url) == known.address else None), known
            if response.status != 200:
                raise EgressFailed(f"its host answered {response.status}")
            body = await self._read(response)
            etag = response.headers.get("etag", "")
            return body, _Known(etag, body.digest, _hash(response.url)) if is_strong_etag(etag) else None

    async def _read(self, response: Fetched) -> Body:
        """The whole body, counted as it comes."""
        data, hasher = bytearray(), blake3.blake3()
        try:
            async for chunk in response.chunks:
                self._room.take(len(chunk))
                data += chunk
                hasher.update(chunk)
            if not response.is_length_known and not looks_whole(
                sniff_type(bytes(data[:16])), len(data), bytes(data[:16]), bytes(data[-16:])
            ):
                raise EgressFailed("nobody announced the body's length, and its format does not show its end")
        except BaseException:
            self._room.give_back(len(data))
            raise
        return self._room.keep(Body(data, Digest(hasher.digest())))

    async def _recall(self, name: str) -> _Known | None:
        row = await self._notes.get(name)
        if row is None:
            return None
        with contextlib.suppress(ValueError, KeyError, TypeError):
            document = orjson.loads(row)
            digest = parse_digest(document["digest"])
            if digest is not None and is_strong_etag(document["etag"]):
                return _Known(document["etag"], digest, document["address"])
        return None

    async def _remember(self, name: str, known: _Known | None) -> None:
        with contextlib.suppress(StorageError):  # then the bytes are asked for the next time
            if known is None:
                await self._notes.remove(name)
            else:
                row = {"etag": known.etag, "digest": known.digest.hex(), "address": known.address}
                await self._notes.put(name, orjson.dumps(row), REMEMBER_S)


class _Room:
    """The memory that fetched files may take. A file counts for as long as anybody holds it."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.used_bytes = 0
        self._recent: OrderedDict[Digest, Body] = OrderedDict()

    def take(self, size_bytes: int) -> None:
        """Raises ``NoRoom`` unless letting go of files that nobody asked for lately makes room."""
        while self.used_bytes + size_bytes > self._max_bytes and self._recent:
            self._recent.popitem(last=False)
        if self.used_bytes + size_bytes > self._max_bytes:
            raise NoRoom(f"{self.used_bytes} bytes are held")
        self.used_bytes += size_bytes

    def give_back(self, size_bytes: int) -> None:
        self.used_bytes -= size_bytes

    def keep(self, body: Body) -> Body:
        """``body``, whose bytes were taken, or the equal one that is here already."""
        here = self._recent.pop(body.digest, None)
        if here is not None:
            self.give_back(len(body.data))
            body = here
        else:
            weakref.finalize(body, self.give_back, len(body.data)).atexit = False
        self._recent[body.digest] = body
        while sum(len(each.data) for each in self._recent.values()) > MAX_RECENT_BYTES and len(self._recent) > 1:
            self._recent.popitem(last=False)
        return body

    def clear(self) -> None:
        self._recent.clear()

    def find(self, digest: Digest) -> Body | None:
        """The file, if its bytes are still here."""
        return self._recent.get(digest)


def _row_name(upstream: str, scope: Scope, url: str) -> str:
    return f"remote:{upstream}:{blake3.blake3(framed([scope, url.encode()])).hexdigest()}"


def _hash(url: str) -> str:
    return blake3.blake3(url.encode()).hexdigest()
