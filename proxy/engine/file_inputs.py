"""File inputs: keyed by their bytes, and sent in a form that the upstream can read.

``identify`` says, before a key is derived, which bytes the strings of an input stand for. ``materialise`` makes, on a
miss and inside its flight, the input that is sent. In between may lie minutes, and somebody else's server: so the bytes
that are sent are compared with those of the key, and a run that got others is not stored.

An upstream with accounts (Replicate's API) fetches URLs itself and has uploads of its own; what it cannot read is a
private address of this proxy. A Cog server stands inside the operator's network and follows any URL, so whoever may
create a prediction could have it ask private addresses: it gets every file as a ``data:`` URL, fetched here by the
rules of ``Egress``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

from proxy.core.addresses import AddressBook
from proxy.core.errors import InputInvalid, InvalidField, Overloaded
from proxy.core.inputs import HostNames, InputFile, KnownPlaces, find_files, holds_url
from proxy.core.outputs import SNIFF_BYTES, decode_data_url, encode_data_url, sniff_type, substitute
from proxy.core.schemas import InputSchema
from proxy.engine.credentials import Gatekeeper
from proxy.engine.handover import Caller, Handover, HeldFile
from proxy.engine.remote_files import MAX_FILE_BYTES, Body, NoRoom, RemoteFiles
from proxy.engine.spool import Spool
from proxy.engine.uploads import Uploads, UpstreamFile, blob_of
from proxy.upstreams.base import Upstream
from proxy.upstreams.egress import EgressFailed, EgressRefused
from storage.digest import Digest, hash_bytes
from storage.ports import ContentStore
from storage.records import BlobRef, JsonObject, JsonPath, JsonValue

MAX_FILES = 16
"""Files of one input that are given by URL."""

MAX_TOTAL_BYTES = 72 * 1024**2
"""Of all files that are sent as data: a third more in base64 is what a Cog server takes in one body."""

LOOP_DECODE_CHARS = 256 * 1024
"""Longest ``data:`` URL that is decoded in the event loop, in about a millisecond."""

Reason = Literal["url-input", "unread-file"]


@dataclass(frozen=True, slots=True)
class Source:
    """A file of an input, and where its bytes are to be had.

    Attributes:
        digest: ``None`` where nobody here knows its bytes: an upload that was not made through this proxy.
        upload: where it is at the upstream.
        blob: its bytes in the content store.
        body: its bytes in memory.
    """

    file: InputFile
    digest: Digest | None
    upload: UpstreamFile | None = None
    blob: BlobRef | None = None
    body: Body | None = None


@dataclass(slots=True)
class Identified:
    """What an input is keyed by.

    Attributes:
        key_input: the normalised input, with ``None`` where a file stands that is keyed by its bytes.
        shown: likewise, with the URL of a file that was given by one; this is what is stored and shown later.
        files: places and digests of the files that are keyed by their bytes.
        sources: what ``materialise`` needs; it lets go of them.
        bypass: why there can be no key.
        reads_urls: it is keyed by the names of files that would have had to be read, since nobody might be asked.
    """

    key_input: JsonObject = field(default_factory=dict)
    shown: JsonObject = field(default_factory=dict)
    files: tuple[tuple[JsonPath, Digest], ...] = ()
    sources: tuple[Source, ...] = ()
    bypass: Reason | None = None
    reads_urls: bool = False


@dataclass(frozen=True, slots=True)
class Material:
    """What is sent; ``is_faithful`` when every file in it has the bytes that are in the key."""

    input: JsonObject
    is_faithful: bool


class FileInputs:
    """Files of inputs, for all kinds of upstreams."""

    def __init__(
        self,
        *,
        base_url: str,
        addresses: AddressBook,
        blobs: ContentStore,
        spool: Spool,
        uploads: Uploads,
        remote: RemoteFiles,
        handover: Handover,
        gatekeeper: Gatekeeper,
        by_url: HostNames,
        hashes_remote: bool,
    ) -> None:
        self._base_url = base_url
        self._addresses = addresses
        self._blobs = blobs
        self._spool = spool
        self._uploads = uploads
        self._remote = remote
        self._handover = handover
        self._gatekeeper = gatekeeper
        self._by_url = by_url
        self._hashes_remote = hashes_remote

    # -- before the key ----------------------------------------------------------------------------------

    async def identify(
        self,
        caller: Caller,
        given: JsonObject,
        key_input: JsonObject,
        schema: InputSchema | None,
        *,
        wants_key: bool,
        left_out: Collection[str] = (),
        may_ask: bool = True,
    ) -> Identified:
        """Which bytes the files of ``given`` are.

        Args:
            given: the fields that the client gave, as they will be sent.
            key_input: the normalised input; where a file stands in ``given`` it holds the same string.
            schema: of the version that will run, where it is known.
            wants_key: otherwise nothing is hashed or fetched.
            left_out: fields that do not enter the key, so that it does not matter what a URL in them names.
            may_ask: somebody else may be asked for a file.

        Raises:
            UpstreamRefused: the upstream refuses the credential; asked before anything is fetched for it.
        """
        found = find_files(given, schema, self._places(caller.upstream))
        if not found and not (wants_key and holds_url(given, self._by_url)):
            return Identified(key_input, key_input)
        local = [await self._local(caller, file) for file in found if file.kind in ("output", "upload")]
        sources = [source for source in local if source is not None]
        if not wants_key:
            return Identified(key_input, key_input, sources=tuple(sources))
        keyed = [source for source in sources if source.digest is not None]
        keyed += [source for file in found if file.kind == "data" and (source := await _decoded(file))]
        bypass: Reason | None = None
        if left_out:
            given = {name: value for name, value in given.items() if name not in left_out}
            found = [file for file in found if file.path[0] in given]
        remote = await self._hashable(caller, given, found, schema) if may_ask else []
        files = (*(source.file for source in keyed), *remote)
        holes = [(file.path, None) for file in files if file.path[0] in given]
        reads_urls = holds_url(substitute(given, holes), self._by_url)
        if reads_urls and may_ask:
            bypass, remote = "url-input", []
        fetched = await self._fetched(caller, remote)
        if fetched is None:
            bypass, fetched = "unread-file", []
        keyed += fetched
        sources += fetched
        if bypass is not None:
            return Identified(key_input, key_input, sources=tuple(sources), bypass=bypass)
        return Identified(
            key_input=substitute(key_input, [(source.file.path, None) for source in keyed]),
            shown=substitute(key_input, [(source.file.path, None) for source in keyed if source.file.kind == "data"]),
            files=tuple((source.file.path, source.digest) for source in keyed if source.digest is not None),
            sources=tuple(sources),
            reads_urls=reads_urls,
        )

    async def _local(self, caller: Caller, file: InputFile) -> Source | None:
        """A file that is known here by its name; ``None`` for a name that is none of ours."""
        if file.kind == "output":
            parts = file.name.split("/")
            digest = self._addresses.verify(*parts) if len(parts) == 3 else None
            return Source(file, digest) if digest is not None else None
        if caller.upstream.files_url is not None and caller.upstream.has_accounts:
            upload = await self._uploads.recall(caller.upstream.name, caller.scope, file.name)
            if upload is not None:
                return Source(file, upload.digest, upload=upload)
            return Source(file, None) if file.is_own else None
        own = await self._uploads.find(self._gatekeeper.files_scope(caller.credential), file.name)
        if own is None and caller.upstream.files_url is not None:
            # At an API whose token Hotplate holds it may be what another caller's run was given.
            raise _refusal(file.path, "there is no such file")
        return Source(file, own.digest, blob=blob_of(own)) if own is not None else None

    async def learn(self, caller: Caller, given: JsonObject) -> bool:
        """Have the upstream asked what a model takes, if that decides about a file of ``given``; whether it told.

        Raises:
            UpstreamRefused: it refuses the credential.
        """
        upstream = caller.upstream
        if not self._hashes_remote or upstream.files_url is None:
            return False
        if not self._remote_in(find_files(given, None, self._places(upstream))):
            return False
        if not await self._gatekeeper.is_accepted(upstream, caller.credential):
            return False
        return await upstream.input_schema(caller.target, caller.credential) is not None

    def _remote_in(self, found: list[InputFile]) -> list[InputFile]:
        return [file for file in found if file.kind == "url" and not self._by_url.covers(file.text)]

    async def _hashable(
        self, caller: Caller, given: JsonObject, found: list[InputFile], schema: InputSchema | None
    ) -> list[InputFile]:
        """The files of somebody else that may be replaced by their bytes.

        For Cog that is every URL at which it might look. For an upstream that looks for itself, only where the schema
        says that a file stands: in any other place the text may be what counts.
        """
        urls = self._remote_in(found)
        if not urls or not self._hashes_remote:
            return []
        if caller.upstream.files_url is None:
            return urls
        if schema is None:
            if not await self._gatekeeper.is_accepted(caller.upstream, caller.credential):
                return []
            schema = await caller.upstream.input_schema(caller.target, caller.credential)
            found = find_files(given, schema, self._places(caller.upstream)) if schema is not None else []
        return [file for file in self._remote_in(found) if file.is_declared and file.is_exact]

    async def _fetched(self, caller: Caller, files: list[InputFile]) -> list[Source] | None:
        """What somebody else's files are now, ``None`` if one of them cannot be told."""
        if not files:
            return []
        if len(files) > MAX_FILES:
            return None
        # Nobody is to have addresses asked through this proxy with a credential that is no good.
        upstream, credential, scope = caller.upstream, caller.credential, caller.scope
        if upstream.has_accounts and not await self._gatekeeper.is_accepted(upstream, credential):
            return None
        found = await asyncio.gather(*(self._remote.identify(upstream.name, scope, file.text) for file in files))
        sources = [
            Source(file, remote.digest, body=remote.body)
            for file, remote in zip(files, found, strict=True)
            if remote is not None
        ]
        return sources if len(sources) == len(files) else None

    # -- inside the flight -------------------------------------------------------------------------------

    async def materialise(
        self, caller: Caller, sent: JsonObject, identified: Identified, schema: InputSchema | None, now: float
    ) -> Material:
        """``sent`` with every file in a form that the upstream can read.

        Raises:
            InputInvalid: a file is gone, cannot be fetched, or may not be.
            Overloaded: too many files are on their way.
            UpstreamRefused, UpstreamUnavailable, UpstreamTimeout: an upload to the upstream failed.
        """
        sources = {source.file.path: source for source in identified.sources}
        identified.sources = ()
        if caller.upstream.files_url is not None:
            return await self._for_replicate(caller, sent, sources, now)
        return await self._for_cog(caller, sent, sources, schema)

    async def _for_replicate(
        self, caller: Caller, sent: JsonObject, sources: dict[JsonPath, Source], now: float
    ) -> Material:
        _check_count([source.file for source in sources.values() if source.file.kind == "output"])
        values: list[tuple[JsonPath, JsonValue]] = []
        is_faithful = True
        for path, source in sources.items():
            text: str | None = source.file.text
            if source.file.kind == "upload" and source.blob is None:
                if source.file.is_own:
                    text = source.upload.url if source.upload else source.file.at(caller.upstream.files_url or "")
            elif source.file.kind in ("output", "upload"):
                held = await self._output(source)
                text = await self._handover.give(caller, held, now) if held is not None else None
            else:
                body = await self._body_again(caller, source)
                is_faithful &= body is not None and body.digest == source.digest
                if body is not None:
                    text = await self._handover.give(caller, _held(body), now)
            if text is None:
                raise _refusal(path, "there is no such output any more")
            values.append((path, text))
        return Material(substitute(sent, values), is_faithful)

    async def _for_cog(
        self, caller: Caller, sent: JsonObject, sources: dict[JsonPath, Source], schema: InputSchema | None
    ) -> Material:
        files = [file for file in find_files(sent, schema, self._places(caller.upstream)) if file.kind != "data"]
        _check_count(files)
        values: list[tuple[JsonPath, JsonValue]] = []
        is_faithful, left_bytes = True, MAX_TOTAL_BYTES
        for file in files:
            source = sources.pop(file.path, None)
            if file.kind == "url":
                body = source.body if source is not None else None
                body = body or await self._fetch(caller.upstream, file)
                is_faithful &= source is None or body.digest == source.digest
                data: bytes | bytearray | None = body.data
            else:
                data = await self._read(source)
            if data is None:
                noun = "output" if file.kind == "output" else "file"
                raise _refusal(file.path, f"there is no such {noun} any more")
            left_bytes -= len(data)
            if left_bytes < 0 or len(data) > MAX_FILE_BYTES:
                raise _refusal(file.path, "the files of an input may not be that large")
            values.append((file.path, encode_data_url(sniff_type(bytes(data[:SNIFF_BYTES])), bytes(data))))
        return Material(substitute(sent, values), is_faithful)

    async def _body_again(self, caller: Caller, source: Source) -> Body | None:
        """The bytes of a remote file; asked for once more where its host only said that they had not changed."""
        if source.body is not None:
            return source.body
        try:
            return await self._remote.fetch(caller.upstream.name, source.file.text)
        except (EgressRefused, EgressFailed, TimeoutError, NoRoom):
            return None

    async def _fetch(self, upstream: Upstream, file: InputFile) -> Body:
        try:
            return await self._remote.fetch(upstream.name, file.text)
        except EgressRefused as error:
            raise _refusal(file.path, f"it may not be fetched: {error}") from error
        except (EgressFailed, TimeoutError) as error:
            raise _refusal(file.path, f"it cannot be fetched: {error or 'it took too long'}") from error
        except NoRoom as error:
            raise Overloaded("too many files are being fetched", retry_after_s=2.0) from error

    async def _output(self, source: Source) -> HeldFile | None:
        """An output of this proxy's, or an upload that is kept here."""
        assert source.digest is not None
        info = await self._blobs.info(source.digest)
        if info is not None:
            return HeldFile(source.digest, info.ref.size_bytes, info.content_type)
        spooled = self._spool.get(source.digest)
        if spooled is None:
            return None
        return HeldFile(source.digest, len(spooled.data), spooled.content_type, spooled.data)

    async def _read(self, source: Source | None) -> bytes | None:
        """The bytes of an output or an upload that is here."""
        if source is None or source.digest is None:
            return None
        info = await self._blobs.info(source.digest)
        if info is not None and info.ref.size_bytes > MAX_FILE_BYTES:
            raise _refusal(source.file.path, f"it has more than {MAX_FILE_BYTES} bytes")
        data = await self._blobs.read(info.ref) if info is not None else None
        if data is not None:
            return data
        spooled = self._spool.get(source.digest)
        return spooled.data if spooled is not None else None

    def _places(self, upstream: Upstream) -> KnownPlaces:
        return KnownPlaces(self._base_url, upstream.files_url)


async def _decoded(file: InputFile) -> Source | None:
    """A file that stands in the input itself; ``None`` for what only looks like one, which then is text."""
    try:
        if len(file.text) <= LOOP_DECODE_CHARS:
            digest = _hash_data(file.text)
        else:
            digest = await asyncio.to_thread(_hash_data, file.text)
    except ValueError:
        return None
    return Source(file, digest)


def _hash_data(url: str) -> Digest:
    data = decode_data_url(url)
    if not data:
        raise ValueError("an empty file")
    return hash_bytes(data)


def _held(body: Body) -> HeldFile:
    return HeldFile(body.digest, len(body.data), sniff_type(bytes(body.data[:SNIFF_BYTES])), body.data)


def _check_count(files: Sequence[InputFile]) -> None:
    if len(files) > MAX_FILES:
        raise _refusal(files[MAX_FILES].path, f"at most {MAX_FILES} files may be given by URL")


def _refusal(path: JsonPath, reason: str) -> InputInvalid:
    place = ".".join(["input", *(str(part) for part in path)])
    return InputInvalid([InvalidField("file", place, f"The file cannot be used: {reason}")])
