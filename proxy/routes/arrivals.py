"""Uploads while they arrive: looked at on their way to an upstream, copied, or thrown away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from proxy.core.errors import HotplateError
from proxy.core.files import MAX_UPLOAD_BYTES
from proxy.core.multipart import UploadReader
from proxy.engine.uploads import Uploads
from proxy.routes.exchange import ClientGone, Exchange
from storage.errors import StorageError
from storage.records import BlobRef

MAX_DISCARDED_BYTES = MAX_UPLOAD_BYTES
DISCARD_TIMEOUT_S = 10.0
"""A client that is refused while it still sends would rather see its connection break than read the answer: so what it
has left is read first, if that is not too much."""

WAITING_PIECES = 4


class Copy:
    """A content that is stored here while it goes elsewhere. What goes wrong with it is no concern of the upload."""

    def __init__(self, uploads: Uploads) -> None:
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue(WAITING_PIECES)
        self._task = asyncio.create_task(uploads.store(self._arriving()))

    async def feed(self, piece: bytes | None) -> None:
        """Hand a piece over, ``None`` for the end; waits while the store is behind, unless it has given up."""
        putting = asyncio.ensure_future(self._pieces.put(piece))
        try:
            await asyncio.wait([putting, self._task], return_when=asyncio.FIRST_COMPLETED)
        finally:
            putting.cancel()

    async def finish(self) -> BlobRef | None:
        """The stored bytes, ``None`` if they are not."""
        await self.feed(None)
        try:
            return await self._task
        except (StorageError, HotplateError):
            return None

    async def aclose(self) -> None:
        """Give up what is not finished."""
        self._task.cancel()
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.exception()  # nobody is to be told

    async def _arriving(self) -> AsyncIterator[bytes]:
        while (piece := await self._pieces.get()) is not None:
            yield piece


class Tap:
    """A body on its way to the upstream, looked at.

    Attributes:
        has_ended: all of it has passed.
        is_client_gone: it broke off.
    """

    def __init__(self, exchange: Exchange, reader: UploadReader | None, copy: Copy | None) -> None:
        self._exchange = exchange
        self._reader = reader
        self._copy = copy
        self.has_ended = False
        self.is_client_gone = False

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body, byte for byte."""
        try:
            async for chunk in self._exchange.chunks():
                piece = self._reader.feed(chunk) if self._reader is not None else b""
                if piece and self._copy is not None:
                    await self._copy.feed(piece)
                yield chunk
        except ClientGone:
            self.is_client_gone = True
            raise
        self.has_ended = True


async def content_of(exchange: Exchange, reader: UploadReader) -> AsyncIterator[bytes]:
    """The content's bytes in a body; stops where nothing can be made of it any more."""
    async for chunk in exchange.chunks():
        piece = reader.feed(chunk)
        if reader.is_broken:
            return
        if piece:
            yield piece


async def discard(exchange: Exchange) -> None:
    """Read what is left of a body, within bounds."""
    left_bytes = MAX_DISCARDED_BYTES
    with contextlib.suppress(ClientGone, TimeoutError):
        async with asyncio.timeout(DISCARD_TIMEOUT_S):
            async for chunk in exchange.chunks():
                left_bytes -= len(chunk)
                if left_bytes < 0:
                    return
