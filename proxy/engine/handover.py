"""Hands a file that is here to an upstream that cannot read it here: small ones inside the input, others as an upload.

An upload goes to the caller's own account, by the caller's own credential, streamed. Where the same bytes were sent
before and the upstream still has them, that file is named again.
"""

from __future__ import annotations

import secrets as entropy
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

import orjson

from proxy.core.errors import UpstreamRefused, UpstreamUnavailable
from proxy.core.files import LIFE_S
from proxy.core.inputs import FILES_PREFIX
from proxy.core.multipart import frame_upload
from proxy.core.outputs import encode_data_url, file_name
from proxy.core.predictions import parse_time
from proxy.engine.uploads import Uploads, UpstreamFile
from proxy.upstreams.base import Credential, ModelTarget, RelayRequest, Upstream
from proxy.upstreams.bodies import nothing
from proxy.upstreams.http import TOLD_HEADERS, allow
from proxy.upstreams.relay import read_whole
from storage.digest import Digest, Scope
from storage.ports import ContentStore
from storage.records import BlobRef, JsonObject

INLINE_BYTES = 256 * 1024
"""Up to this size a file goes inside the input. Replicate asks for uploads from there on."""

MAX_ANSWER_BYTES = 1024**2

CHUNK_BYTES = 256 * 1024

REUSE_MARGIN_S = 3600.0
"""A file that ends sooner than this is not named in a run, which may wait that long."""


class Caller(Protocol):
    """Who asks whom for what."""

    @property
    def upstream(self) -> Upstream: ...

    @property
    def target(self) -> ModelTarget: ...

    @property
    def scope(self) -> Scope: ...

    @property
    def credential(self) -> Credential | None: ...


@dataclass(frozen=True, slots=True)
class HeldFile:
    """A file that is here: in memory (``data``), or in the content store."""

    digest: Digest
    size_bytes: int
    content_type: str
    data: bytes | bytearray | None = None


class Handover:
    """Gives files to upstreams that have a files API."""

    def __init__(self, blobs: ContentStore, uploads: Uploads) -> None:
        self._blobs = blobs
        self._uploads = uploads

    async def give(self, caller: Caller, held: HeldFile, now: float) -> str | None:
        """A URL that ``caller.upstream`` can read, ``None`` when the file is not here any more.

        Raises:
            UpstreamRefused: the upstream does not take it; its own answer.
            UpstreamUnavailable, UpstreamTimeout: nobody knows.
        """
        if held.size_bytes <= INLINE_BYTES:
            data = held.data if held.data is not None else await self._blobs.read(_ref(held))
            return encode_data_url(held.content_type, bytes(data)) if data is not None else None
        upstream, scope = caller.upstream, caller.scope
        copy = await self._uploads.find_copy(upstream.name, scope, held.digest)
        if copy is not None and copy.expires_at - now > REUSE_MARGIN_S and await self._is_there(caller, copy):
            return copy.url
        file = await self._upload(caller, held, now)
        await self._uploads.remember_copy(upstream.name, scope, file)
        return file.url

    async def _is_there(self, caller: Caller, file: UpstreamFile) -> bool:
        request = RelayRequest("GET", FILES_PREFIX + file.id, "", (), nothing(), has_body=False)
        response = await caller.upstream.relay(request, caller.credential)
        await read_whole(response, MAX_ANSWER_BYTES)
        return response.status == 200

    async def _upload(self, caller: Caller, held: HeldFile, now: float) -> UpstreamFile:
        boundary = entropy.token_hex(16)
        head, tail = frame_upload(boundary, file_name(0, "data:", held.content_type), held.content_type)
        request = RelayRequest(
            method="POST",
            path=FILES_PREFIX.rstrip("/"),
            query="",
            headers=[("content-type", f"multipart/form-data; boundary={boundary}"), ("accept", "application/json")],
            body=self._body(head, held, tail),
            has_body=True,
            body_bytes=len(head) + held.size_bytes + len(tail),
        )
        response = await caller.upstream.relay(request, caller.credential)
        content = await read_whole(response, MAX_ANSWER_BYTES)
        if response.status >= 400:
            raise UpstreamRefused(response.status, allow(response.headers, TOLD_HEADERS), content)
        file = read_file_object(content, held.digest, held.size_bytes, now)
        if file is None:
            raise UpstreamUnavailable("The model service answered an upload with no file.")
        return file

    async def _body(self, head: bytes, held: HeldFile, tail: bytes) -> AsyncIterator[bytes]:
        yield head
        if held.data is not None:
            for start in range(0, held.size_bytes, CHUNK_BYTES):
                yield bytes(memoryview(held.data)[start : start + CHUNK_BYTES])
        else:
            async with aclosing(self._blobs.stream(_ref(held))) as chunks:
                async for chunk in chunks:
                    yield chunk
        yield tail


def read_file_object(content: bytes, digest: Digest, size_bytes: int, now: float) -> UpstreamFile | None:
    """The file that an upstream says it has taken, ``None`` if that is not to be read or is of another length."""
    try:
        document = orjson.loads(content)
    except ValueError:
        return None
    match document:
        case {"id": str(file_id), "urls": {"get": str(url)}} if document.get("size", size_bytes) == size_bytes:
            return UpstreamFile(file_id, digest, size_bytes, url, _expiry(document, now))
    return None


def _expiry(document: JsonObject, now: float) -> float:
    at = parse_time(document.get("expires_at"))
    return now + LIFE_S if at is None else min(max(at, now + 1.0), now + 7 * LIFE_S)


def _ref(held: HeldFile) -> BlobRef:
    return BlobRef(held.digest, held.size_bytes)
