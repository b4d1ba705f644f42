"""Bodies of uploads, ``multipart/form-data``: read while they pass by, and written.

The reader finds the bytes of the one part ``content`` in a body that arrives in pieces, hashes them and keeps none.
What it says of the file counts only if the body left nothing to doubt (``is_sound``): two readers that disagree about
a body would have the cache key one file and the model read another.

Source: RFC 7578.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass

import blake3
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from storage.digest import Digest

MAX_FIELD_BYTES = 64 * 1024
"""Of the fields beside the content, together: a name, a type and some metadata."""

MAX_PARTS = 16

_TRANSPARENT = frozenset({b"", b"binary", b"8bit", b"7bit"})
"""Transfer encodings that leave bytes as they are."""

# What a body has wrong is told to whoever sent it; the parser would say each of it on standard error, too.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)


class Tally:
    """Length and digests of bytes that pass by."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._blake3 = blake3.blake3()
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False)

    def add(self, data: bytes | memoryview) -> None:
        self.size_bytes += len(data)
        for hasher in (self._blake3, self._sha256, self._md5):
            hasher.update(data)

    @property
    def digest(self) -> Digest:
        return Digest(self._blake3.digest())

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    @property
    def md5(self) -> str:
        return self._md5.hexdigest()


@dataclass(slots=True)
class _Part:
    """The part that is being read; ``name`` and ``filename`` once its headers are over."""

    headers: dict[bytes, bytes]
    name: str = ""
    is_content: bool = False


def parse_boundary(content_type: str | None) -> bytes | None:
    """The boundary that a ``Content-Type`` of ``multipart/form-data`` names, ``None`` for any other."""
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    return boundary if kind == b"multipart/form-data" and 0 < len(boundary) <= 70 else None


class UploadReader:
    """Reads one upload.

    Attributes:
        tally: of the content so far.
        has_content: its part has begun.
        filename, content_type: what the content's own headers say, ``""`` for nothing.
        fields: the text of the other parts by name.
    """

    def __init__(self, boundary: bytes) -> None:
        self.tally = Tally()
        self.has_content = False
        self.filename = ""
        self.content_type = ""
        self.fields: dict[str, str] = {}
        self._is_broken = False
        self._is_complete = False
        self._raw_fields: dict[str, bytearray] = {}
        self._field_bytes = self._parts = 0
        self._part = _Part({})
        self._header_name, self._header_value = b"", b""
        self._found: list[bytes] = []
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_part_data": self._read_part,
                "on_part_end": self._end_part,
                "on_header_field": self._read_header_name,
                "on_header_value": self._read_header_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_end": self._end,
            },
        )

    @property
    def is_sound(self) -> bool:
        """Whether the whole body was read and held exactly one content."""
        return self._is_complete and not self._is_broken and self.has_content

    @property
    def is_broken(self) -> bool:
        """Whether something was found that another reader might take otherwise."""
        return self._is_broken

    def feed(self, data: bytes) -> bytes:
        """The bytes of the content that ``data``, the next piece of the body, holds."""
        if self._is_broken:
            return b""
        try:
            self._parser.write(data)
        except FormParserError:
            self._is_broken = True
        found, self._found = self._found, []
        return found[0] if len(found) == 1 else b"".join(found)

    def _begin_part(self) -> None:
        self._part = _Part({})
        self._parts += 1
        self._is_broken |= self._parts > MAX_PARTS or self._is_complete

    def _read_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _read_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        name = self._header_name.lower()
        self._is_broken |= name in self._part.headers
        self._part.headers[name] = self._header_value
        self._header_name, self._header_value = b"", b""

    def _end_headers(self) -> None:
        part = self._part
        _, options = parse_options_header(part.headers.get(b"content-disposition", b"").decode("latin-1"))
        part.name = options.get(b"name", b"").decode("utf-8", "replace")
        part.is_content = part.name == "content"
        self._is_broken |= not part.name or part.name in self._raw_fields
        self._is_broken |= part.headers.get(b"content-transfer-encoding", b"").strip().lower() not in _TRANSPARENT
        if part.is_content:
            self._is_broken |= self.has_content
            self.has_content = True
            self.filename = options.get(b"filename", b"").decode("utf-8", "replace")
            self.content_type = part.headers.get(b"content-type", b"").decode("latin-1").strip()
        else:
            self._raw_fields[part.name] = bytearray()

    def _read_part(self, data: bytes, start: int, end: int) -> None:
        if self._part.is_content:
            if not self._is_broken:
                piece = data[start:end]
                self.tally.add(piece)
                self._found.append(piece)
            return
        self._field_bytes += end - start
        self._is_broken |= self._field_bytes > MAX_FIELD_BYTES
        if not self._is_broken:
            self._raw_fields[self._part.name] += data[start:end]

    def _end_part(self) -> None:
        if not self._part.is_content and self._part.name in self._raw_fields:
            self.fields[self._part.name] = self._raw_fields[self._part.name].decode("utf-8", "replace")

    def _end(self) -> None:
        self._is_complete = True


def frame_upload(boundary: str, name: str, content_type: str) -> tuple[bytes, bytes]:
    """What stands before and behind the bytes of a file in the body of an upload; ``name`` is a plain file name."""
    head = (
        f"--{boundary}\r\n"
        f'Content-Disposition: form-data; name="content"; filename="{name}"\r\n'
        f"Content-Type: {content_type}\r\n\r\n"
    )
    return head.encode("ascii"), f"\r\n--{boundary}--\r\n".encode("ascii")
