"""Fetches the file inputs of a run for a model server that would otherwise fetch them itself.

A Cog server stands inside the operator's network and follows any URL. So whoever may create a prediction could have
it ask private addresses. Hotplate therefore fetches what a URL names, by the rules of ``Egress``, and sends the bytes
along as a ``data:`` URL. An address of this proxy's own outputs is read from the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from proxy.core.addresses import OUTPUTS_PREFIX, AddressBook
from proxy.core.errors import InputInvalid, InvalidField
from proxy.core.inputs import remote_files
from proxy.core.outputs import SNIFF_BYTES, OutputAccess, encode_data_url, sniff_type, substitute
from proxy.core.schemas import InputSchema
from proxy.engine.spool import Spool
from proxy.upstreams.egress import Egress, EgressFailed, EgressRefused
from storage.ports import ContentStore
from storage.records import JsonObject, JsonPath, JsonValue

MAX_FILE_BYTES = 32 * 1024**2
"""A Cog server takes bodies of up to 100 MiB, and base64 makes a file a third larger."""

FETCH_TIMEOUT_S = 30.0
MAX_FILES = 16


class FileInputs:
    """Turns URLs in an input into ``data:`` URLs."""

    def __init__(
        self,
        egress: Egress,
        base_url: str,
        addresses: AddressBook,
        blobs: ContentStore,
        spool: Spool,
        named: Mapping[str, OutputAccess],
    ) -> None:
        """``named``: by upstream, the origins that its operator named for inputs, which may be private."""
        self._egress = egress
        self._own = base_url + OUTPUTS_PREFIX
        self._addresses = addresses
        self._blobs = blobs
        self._spool = spool
        self._named = named

    async def inline(self, upstream: str, given: JsonObject, schema: InputSchema | None) -> JsonObject:
        """``given`` with every file that a URL names as a ``data:`` URL.

        Raises:
            InputInvalid: one cannot be fetched, or may not be.
        """
        files = remote_files(given, schema)
        if not files:
            return given
        if len(files) > MAX_FILES:
            raise _refusal(files[MAX_FILES][0], f"at most {MAX_FILES} files may be given by URL")
        access = self._named.get(upstream, OutputAccess())
        values: list[tuple[JsonPath, JsonValue]] = []
        for path, url in files:
            data = await self._read_own(url) if url.startswith(self._own) else await self._fetch(path, url, access)
            if data is None:
                raise _refusal(path, "there is no such output any more")
            values.append((path, encode_data_url(sniff_type(data[:SNIFF_BYTES]), data)))
        inlined: JsonObject = substitute(given, values)
        return inlined

    async def _read_own(self, url: str) -> bytes | None:
        parts = url.removeprefix(self._own).split("/")
        digest = self._addresses.verify(*parts) if len(parts) == 3 else None
        if digest is None:
            return None
        info = await self._blobs.info(digest)
        if info is not None and info.ref.size_bytes <= MAX_FILE_BYTES:
            return await self._blobs.read(info.ref)
        spooled = self._spool.get(digest)
        return spooled.data if spooled is not None else None

    async def _fetch(self, path: JsonPath, url: str, access: OutputAccess) -> bytes:
        try:
            async with (
                asyncio.timeout(FETCH_TIMEOUT_S),
                self._egress.open(url, access, max_bytes=MAX_FILE_BYTES, require_listed=False) as response,
            ):
                if response.status != 200:
                    raise _refusal(path, f"its host answered {response.status}")
                return b"".join([chunk async for chunk in response.chunks])
        except EgressRefused as error:
            raise _refusal(path, f"it may not be fetched: {error}") from error
        except (EgressFailed, TimeoutError) as error:
            raise _refusal(path, f"it cannot be fetched: {error or 'it took too long'}") from error


def _refusal(path: JsonPath, reason: str) -> InputInvalid:
    place = ".".join(["input", *(str(part) for part in path)])
    return InputInvalid([InvalidField("file", place, f"The file cannot be used: {reason}")])
