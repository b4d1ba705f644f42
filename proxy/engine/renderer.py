"""Turns stored files into what stands in an answer: addresses here, or ``data:`` URLs.

Templates of stored results are kept in memory, bounded in bytes, so that a repeated hit costs no rendering.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from proxy.core.addresses import AddressBook, StreamBook, streams_prefix
from proxy.core.ids import PredictionId
from proxy.core.outputs import encode_data_url, substitute
from proxy.core.predictions import HitTemplate
from proxy.engine.spool import Spool
from storage.digest import PredictionKey, RecordId, Scope
from storage.memory import ByteLru
from storage.ports import ContentStore
from storage.records import JsonPath, JsonValue, OutputFile, ResultRecord


class OutputGone(Exception):
    """A file of the result is in neither store nor spool any more."""


class Renderer:
    """Renders outputs of records for their scope."""

    def __init__(
        self,
        base_url: str,
        output_urls: Literal["auto", "url", "data"],
        data_url_max_bytes: int,
        addresses: AddressBook,
        blobs: ContentStore,
        spool: Spool,
        memory_bytes: int,
        streams: StreamBook,
    ) -> None:
        self.base_url = base_url
        self._streams = streams
        self._addresses = addresses
        self._blobs = blobs
        self._spool = spool
        wants_data = output_urls == "data" or (output_urls == "auto" and base_url.startswith("http://"))
        self._data_max_bytes = data_url_max_bytes if wants_data else -1
        # The random id alone could in time be drawn again, for another result.
        self._templates: ByteLru[tuple[RecordId, PredictionKey], HitTemplate] = ByteLru(memory_bytes)

    def address(self, file: OutputFile, scope: Scope) -> str:
        """The lasting URL of an output file."""
        return self.base_url + self._addresses.path(file.blob.digest, scope, file.name)

    def links(self, record: ResultRecord) -> str:
        """The ``Link`` header that names the lasting address of each output file, whatever the body shows.

        Source: RFC 8288; relation ``item`` of RFC 6573.
        """
        return ", ".join(f'<{self.address(file, record.scope)}>; rel="item"' for file in record.files)

    async def output(
        self, record: ResultRecord, left: tuple[tuple[JsonPath, str], ...] = (), *, as_addresses: bool = False
    ) -> JsonValue:
        """The output document as a client sees it; ``as_addresses`` shows no file as ``data:``.

        Raises:
            OutputGone: a file that was to be shown as ``data:`` cannot be read.
        """
        return await self.fill(record.output, record.files, record.scope, left, as_addresses=as_addresses)

    async def fill(
        self,
        output: JsonValue,
        files: Sequence[OutputFile],
        scope: Scope,
        left: Sequence[tuple[JsonPath, str]] = (),
        *,
        as_addresses: bool = False,
    ) -> JsonValue:
        """``output`` with ``files`` at their places, as a client of ``scope`` sees them.

        Raises:
            OutputGone: see ``output``.
        """
        values: list[tuple[JsonPath, JsonValue]] = [
            (path, url) for path, url in left if not (as_addresses and url.startswith("data:"))
        ]
        for file in files:
            values.append((file.path, await self.shown(file, scope, as_address=as_addresses)))
        return substitute(output, values)

    async def shown(self, file: OutputFile, scope: Scope, *, as_address: bool = False) -> str:
        """What stands for a file in an answer: its address, or all of it unless ``as_address``.

        Raises:
            OutputGone: it was to be shown as ``data:`` and cannot be read.
        """
        if file.blob.size_bytes <= self._data_max_bytes and not as_address:
            return encode_data_url(file.content_type, await self._read(file))
        return self.address(file, scope)

    def stream_url(self, prediction_id: PredictionId, scope: Scope, *, makes_files: bool) -> str:
        """Where a prediction is streamed that a result of ``scope`` answers."""
        return self.base_url + self._streams.path(prediction_id, scope, makes_files=makes_files)

    def record_stream_url(self, prediction_id: PredictionId, record: ResultRecord) -> str | None:
        """Where a prediction that this record answers is streamed, if it is."""
        if not record.is_streamable:
            return None
        return self.stream_url(prediction_id, record.scope, makes_files=bool(record.files))

    async def are_here(self, files: Sequence[OutputFile]) -> bool:
        """Whether the addresses of all ``files`` lead to something."""
        for file in files:
            if not await self._blobs.has(file.blob) and self._spool.get(file.blob.digest) is None:
                return False
        return True

    def ready(self, record: ResultRecord) -> HitTemplate | None:
        """The template of a record if it is in memory."""
        return self._templates.get((record.record_id, record.key))

    async def template(self, record: ResultRecord) -> HitTemplate:
        """The template of a record.

        Raises:
            OutputGone: see ``output``.
        """
        template = self.ready(record)
        if template is None:
            stream = (self.base_url + streams_prefix(bool(record.files)), self._streams.sealer(record.scope))
            template = HitTemplate(
                record,
                await self.output(record),
                self.links(record),
                self.base_url,
                stream if record.is_streamable else None,
            )
            self._templates.put((record.record_id, record.key), template, template.size_bytes)
        return template

    async def _read(self, file: OutputFile) -> bytes:
        data = await self._blobs.read(file.blob)
        if data is None:
            spooled = self._spool.get(file.blob.digest)
            data = spooled.data if spooled is not None else None
        if data is None:
            raise OutputGone(file.name)
        return data
