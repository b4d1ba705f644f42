"""The files API: uploads that become inputs.

A caller with an account at an upstream has its files there: what it uploads is passed on as it arrives, and on its way
the content is hashed. Any other caller has its files here, in the same shapes.

Source: Replicate's OpenAPI document, ``/files``.
"""

from __future__ import annotations

import contextlib
from contextlib import aclosing
from dataclasses import dataclass
from urllib.parse import parse_qs

import orjson
import structlog

from proxy.core.errors import FileTooLarge, HotplateError, NotFound, Overloaded, UnsupportedMedia
from proxy.core.files import (
    MAX_UPLOAD_BYTES,
    OwnFile,
    is_same_file,
    render_file,
    render_page,
)
from proxy.core.multipart import UploadReader, parse_boundary
from proxy.core.rewriting import Links
from proxy.engine.handover import read_file_object
from proxy.engine.uploads import DEFAULT_TYPE, blob_of
from proxy.routes.arrivals import Copy, Tap, content_of, discard
from proxy.routes.exchange import PRIVATE, ClientGone, Exchange
from proxy.routes.passthrough import Passthrough, bypass_status, forward, rewritten
from proxy.services import Services
from proxy.upstreams.base import Credential, RelayResponse, Upstream
from proxy.upstreams.http import TOLD_HEADERS, allow
from proxy.upstreams.relay import read_whole
from storage.digest import Scope
from storage.errors import Corrupt, StorageError

FRAMING_BYTES = 1024**2
"""What a body may have beyond its content: fields, headers, boundaries."""

MAX_ANSWER_BYTES = 4 * 1024**2
"""A page of a hundred file objects has some 100 kB."""

_log = structlog.get_logger("hotplate.files")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a caller's files are.

    Attributes:
        upstream: the upstream that has them, under ``scope``; ``None`` when they are here, under ``owner``.
        keeps_here: an upload is to be kept here as well, for models that know nothing of the upstream's files.
    """

    owner: Scope
    upstream: Upstream | None = None
    scope: Scope | None = None
    keeps_here: bool = True


class Files:
    """Handlers of ``/files`` and below."""

    def __init__(self, services: Services, passthrough: Passthrough) -> None:
        self._services = services
        self._passthrough = passthrough

    async def _place(self, credential: Credential | None) -> _Place:
        """Where this caller's files are.

        Raises:
            Unauthenticated: it has none anywhere.
        """
        owner = self._services.gatekeeper.files_scope(credential)
        places = await self._services.visits(credential)
        home = await self._services.home(credential)
        keeps_here = any(not _keeps_files(upstream) for upstream, _ in places)
        for upstream, visitor in places:
            if upstream is home and _keeps_files(upstream):
                return _Place(owner, upstream, visitor.owner, keeps_here)
        return _Place(owner)

    async def create(self, exchange: Exchange) -> None:
        """``POST /files``."""
        credential = exchange.credential()
        place = await self._place(credential)
        exchange.note.outcome = "relay" if place.upstream is not None else "own"
        boundary = parse_boundary(exchange.headers.get("content-type"))
        if place.upstream is not None and place.scope is not None:
            exchange.note.upstream = place.upstream.name
            await self._pass_upload(exchange, place, place.upstream, place.scope, credential, boundary)
            return
        if boundary is None or exchange.headers.get("content-encoding", "identity").lower() != "identity":
            raise UnsupportedMedia("an upload is multipart/form-data, not compressed")
        await self._keep_upload(exchange, place.owner, UploadReader(boundary))

    async def list(self, exchange: Exchange) -> None:
        """``GET /files``, newest first."""
        credential = exchange.credential()
        place = await self._place(credential)
        if place.upstream is not None:
            await self._pass_on(exchange, place.upstream, credential)
            return
        exchange.note.outcome = "own"
        query = parse_qs(exchange.query)
        files = await self._services.uploads.all_of(place.owner)
        page = render_page(files, query.get("cursor", [None])[0], self._services.base_url)
        await exchange.respond_json(200, page)

    async def get(self, exchange: Exchange) -> None:
        """``GET /files/{id}``: the file object, not the bytes."""
        credential = exchange.credential()
        place = await self._place(credential)
        if place.upstream is not None:
            await self._pass_on(exchange, place.upstream, credential)
            return
        exchange.note.outcome = "own"
        file = await self._own(exchange, place.owner)
        await exchange.respond_json(200, render_file(file, self._services.base_url))

    async def delete(self, exchange: Exchange) -> None:
        """``DELETE /files/{id}``."""
        credential = exchange.credential()
        place = await self._place(credential)
        uploads, file_id = self._services.uploads, exchange.params["id"]
        if place.upstream is not None and place.scope is not None:
            response, content = await self._asked(exchange, place.upstream, credential)
            if 200 <= response.status < 300 or response.status == 404:
                # Before the answer: whoever has heard that the file is gone gets no hit for it, and whoever leaves
                # without hearing it has it gone all the same.
                await uploads.forget(place.upstream.name, place.scope, file_id)
                with contextlib.suppress(StorageError):
                    await uploads.remove(place.owner, file_id)
            await self._answer(exchange, place.upstream, response, content)
            return
        exchange.note.outcome = "own"
        try:
            if not await uploads.remove(place.owner, file_id):
                raise NotFound("File not found")
        except StorageError as error:
            raise Overloaded("the store cannot be written now", retry_after_s=5.0) from error
        await exchange.start(204, [PRIVATE])
        await exchange.write(b"")

    async def download(self, exchange: Exchange) -> None:
        """``GET /files/{id}/download``: the bytes; of an upstream's file for whoever has its signature."""
        query = parse_qs(exchange.query)
        credential = exchange.credential()
        if "signature" in query and (credential is None or not self._services.gatekeeper.is_own(credential)):
            await self._passthrough.handle(exchange)
            return
        place = await self._place(credential)
        if place.upstream is not None:
            await self._passthrough.relay(exchange, place.upstream, None, detail="uncached")
            return
        exchange.note.outcome = "own"
        await self._send(exchange, await self._own(exchange, place.owner))

    # -- files that are here -----------------------------------------------------------------------------

    async def _own(self, exchange: Exchange, owner: Scope) -> OwnFile:
        file = await self._services.uploads.find(owner, exchange.params["id"])
        if file is None:
            raise NotFound("File not found")
        return file

    async def _keep_upload(self, exchange: Exchange, owner: Scope, reader: UploadReader) -> None:
        if exchange.announced_bytes > MAX_UPLOAD_BYTES + FRAMING_BYTES:
            await discard(exchange)
            raise FileTooLarge
        try:
            file = await self._services.uploads.keep(owner, content_of(exchange, reader), reader)
        except StorageError as error:
            _log.warning("upload_not_stored", reason=type(error).__name__, detail=str(error))
            raise Overloaded("the store cannot take the file now", retry_after_s=5.0) from error
        except HotplateError:
            await discard(exchange)
            raise
        await exchange.respond_json(201, render_file(file, self._services.base_url))

    async def _send(self, exchange: Exchange, file: OwnFile) -> None:
        """The bytes, as something that no browser opens."""
        headers = [
            (b"content-type", DEFAULT_TYPE.encode()),
            (b"content-disposition", b"attachment"),
            (b"x-content-type-options", b"nosniff"),
            (b"content-length", b"%d" % file.size_bytes),
            PRIVATE,
        ]
        try:
            async with aclosing(self._services.storage.blobs.stream(blob_of(file))) as chunks:
                async for chunk in chunks:
                    if not exchange.has_started:
                        await exchange.start(200, headers)
                    await exchange.write(chunk, more=True)
        except Corrupt as error:
            if exchange.has_started:
                raise
            raise NotFound("File not found") from error
        if not exchange.has_started:
            await exchange.start(200, headers)
        await exchange.write(b"")

    # -- files at an upstream ----------------------------------------------------------------------------

    async def _pass_upload(
        self,
        exchange: Exchange,
        place: _Place,
        upstream: Upstream,
        scope: Scope,
        credential: Credential | None,
        boundary: bytes | None,
    ) -> None:
        """Pass an upload on as it arrives. What its content was is remembered once the upstream has taken it whole."""
        reader = UploadReader(boundary) if boundary is not None else None
        copy = Copy(self._services.uploads) if place.keeps_here and reader is not None else None
        tap = Tap(exchange, reader, copy)
        try:
            response = await upstream.relay(
                forward(exchange, tap.chunks(), exchange.announced_bytes or None), credential
            )
            content = await read_whole(response, MAX_ANSWER_BYTES)
            if not tap.has_ended:  # answered early: that is a refusal
                await discard(exchange)
            document = _document(content)
            if response.status == 201 and reader is not None and reader.is_sound:
                await self._remember(upstream, scope, place, reader, content, document, copy)
        except HotplateError:
            if tap.is_client_gone:
                raise ClientGone from None
            raise
        finally:
            if copy is not None:
                await copy.aclose()
        await self._answer(exchange, upstream, response, content)

    async def _remember(
        self,
        upstream: Upstream,
        scope: Scope,
        place: _Place,
        reader: UploadReader,
        content: bytes,
        document: object,
        copy: Copy | None,
    ) -> None:
        tally, now = reader.tally, self._services.now()
        file = read_file_object(content, tally.digest, tally.size_bytes, now)
        if file is None or not is_same_file(document, tally.size_bytes, tally.sha256, tally.md5):
            _log.warning("upload_not_understood", upstream=upstream.name)
            return
        await self._services.uploads.remember(upstream.name, scope, file)
        ref = await copy.finish() if copy is not None else None
        if ref is None or ref.digest != tally.digest:
            return
        own = OwnFile(
            id=file.id,
            digest=ref.digest,
            size_bytes=ref.size_bytes,
            name=reader.filename,
            content_type=reader.content_type or DEFAULT_TYPE,
            metadata={},
            md5=tally.md5,
            sha256=tally.sha256,
            created_at=now,
            expires_at=file.expires_at,
        )
        with contextlib.suppress(StorageError):
            await self._services.uploads.adopt(place.owner, own)

    async def _pass_on(self, exchange: Exchange, upstream: Upstream, credential: Credential | None) -> None:
        """Pass a request about files on, and the answer back with addresses here."""
        response, content = await self._asked(exchange, upstream, credential)
        await self._answer(exchange, upstream, response, content)

    async def _asked(
        self, exchange: Exchange, upstream: Upstream, credential: Credential | None
    ) -> tuple[RelayResponse, bytes]:
        """What the upstream says to a request about files, and the whole body of that."""
        exchange.note.outcome, exchange.note.upstream = "relay", upstream.name
        response = await upstream.relay(forward(exchange, None), credential)
        return response, await read_whole(response, MAX_ANSWER_BYTES)

    async def _answer(self, exchange: Exchange, upstream: Upstream, response: RelayResponse, content: bytes) -> None:
        told = allow(response.headers, TOLD_HEADERS)
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in told]
        headers += [PRIVATE, bypass_status(response, "uncached")]
        if response.status == 204:
            await exchange.start(204, headers)
            await exchange.write(b"")
            return
        links = Links(self._services.base_url, upstream.api_roots)
        await exchange.respond(response.status, headers, await rewritten(content, links.localised))


def _keeps_files(upstream: Upstream) -> bool:
    """Whether callers have files of their own there; at an API whose token Hotplate holds they have none."""
    return upstream.has_accounts and upstream.files_url is not None


def _document(content: bytes) -> object:
    """The JSON object that an answer is, ``None`` for anything else."""
    try:
        document = orjson.loads(content)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None
