"""Files in an output: where they stand, what they are, how they are named.

An output is any JSON document. A string in it is a file when it is a ``data:`` URL or an http(s) URL at a
place from which the upstream's files come. Any other http(s) URL is the model's own text: it is left as it is,
but a result that holds one is not kept, because nobody can say how long that address lives.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

import puremagic

from storage.records import JsonPath, JsonValue

SNIFF_BYTES = 4096
"""Enough of a file's head to tell its type."""

UNKNOWN_TYPE = "application/octet-stream"

_EXTENSIONS = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "image/gif": "gif",
    "image/avif": "avif",
    "image/bmp": "bmp",
    "image/tiff": "tiff",
    "video/mp4": "mp4",
    "video/webm": "webm",
    "video/quicktime": "mov",
    "audio/mpeg": "mp3",
    "audio/wav": "wav",
    "audio/ogg": "ogg",
    "audio/flac": "flac",
    "application/zip": "zip",
    "application/gzip": "gz",
    "application/pdf": "pdf",
    "application/json": "json",
    "text/plain": "txt",
}
"""Types that are stored under their own name; whatever is not here is ``UNKNOWN_TYPE`` and ``.bin``."""

_ALIASES = {
    "audio/wave": "audio/wav",
    "audio/x-wav": "audio/wav",
    "image/x-ms-bmp": "image/bmp",
    "audio/mp3": "audio/mpeg",
    "application/x-gzip": "application/gzip",
}

_UNSAFE_NAME = re.compile(r"[^a-z0-9._-]+")

_DATA_URL = re.compile(r"data:(?=[^,]*[/;])(?:[\w.+-]+/[\w.+-]+)?(?:;[\w.+-]+=[^\s;,]*)*(?:;base64)?,", re.ASCII)
"""Names a type or an encoding: a text that merely begins with ``data:`` is the model's own words."""


@dataclass(frozen=True, slots=True)
class OutputAccess:
    """From where an upstream's output files may be fetched.

    Attributes:
        hosts: exact host names or ``*.suffix`` patterns, reached over https.
        origins: ``(scheme, host, port)`` that the operator named himself and that may be private addresses.
    """

    hosts: tuple[str, ...] = ()
    origins: tuple[tuple[str, str, int], ...] = ()

    def covers(self, url: str) -> bool:
        """Whether ``url`` is at one of these places. A URL that cannot be read is not."""
        try:
            parts = urlsplit(url)
            host = (parts.hostname or "").lower()
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            return False
        if (parts.scheme, host, port) in self.origins:
            return True
        return parts.scheme == "https" and is_listed(host, self.hosts)


def is_listed(host: str, patterns: Collection[str]) -> bool:
    """Whether ``host`` (lower case) is one of ``patterns``: exact host names or ``*.suffix``."""
    return any(host.endswith(one[1:]) if one.startswith("*.") else host == one for one in patterns)


@dataclass(frozen=True, slots=True)
class FileReference:
    """A file that stands in an output: its place and its ``data:`` or http(s) URL."""

    path: JsonPath
    url: str


@dataclass(frozen=True, slots=True)
class OutputPlan:
    """What an output holds.

    Attributes:
        files: its files, in the order in which they stand.
        foreign: places of http(s) URLs that are not the upstream's files.
    """

    files: tuple[FileReference, ...]
    foreign: tuple[JsonPath, ...]


def plan_output(output: JsonValue, access: OutputAccess) -> OutputPlan:
    """Find the files of ``output``."""
    files: list[FileReference] = []
    foreign: list[JsonPath] = []
    for path, text in _strings(output):
        if _DATA_URL.match(text):
            files.append(FileReference(path, text))
        elif text[:8].lower().startswith(("http://", "https://")) and not any(mark in text for mark in " \n\t"):
            if access.covers(text):
                files.append(FileReference(path, text))
            else:
                foreign.append(path)
    return OutputPlan(tuple(files), tuple(foreign))


def _strings(root: JsonValue) -> Iterator[tuple[JsonPath, str]]:
    """Every string with its place, in document order, without recursion."""
    stack: list[tuple[JsonPath, JsonValue]] = [((), root)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, str):
            yield path, value
        elif isinstance(value, list):
            stack.extend(((*path, index), value[index]) for index in reversed(range(len(value))))
        elif isinstance(value, dict):
            stack.extend(((*path, name), value[name]) for name in reversed(value))


def substitute(output: JsonValue, values: Sequence[tuple[JsonPath, JsonValue]]) -> JsonValue:
    """``output`` with ``values`` at their places; shares what is unchanged, changes nothing that was given."""
    for path, value in values:
        output = _replaced(output, path, value)
    return output


def _replaced(node: JsonValue, path: JsonPath, value: JsonValue) -> JsonValue:
    if not path:
        return value
    copy: Any = list(node) if isinstance(node, list) else dict(node)
    copy[path[0]] = _replaced(node[path[0]], path[1:], value)
    return copy


def whole_part(output: JsonValue, missing: Collection[JsonPath]) -> JsonValue:
    """What of an output so far can be shown while the files at ``missing`` cannot.

    A list goes as far as everything in its items is there: clients take what stands in it as its beginning. Any other
    shape is shown whole or not at all (``None``), and so is a list whose first item is missing.
    """
    if not missing:
        return output
    if not isinstance(output, list):
        return None
    first = min(int(path[0]) for path in missing)
    return output[:first] or None


def decode_data_url(url: str) -> bytes:
    """The bytes of a ``data:`` URL; its own media type is not believed, so it is not returned.

    Raises:
        ValueError: it is not a well-formed one.

    Source: RFC 2397.
    """
    head, comma, payload = url.partition(",")
    if not comma:
        raise ValueError("a data URL without a comma")
    if not head.endswith(";base64"):
        return unquote_to_bytes(payload)
    try:
        return base64.b64decode(payload, validate=True)
    except binascii.Error as error:
        raise ValueError("a data URL with broken base64") from error


def encode_data_url(content_type: str, data: bytes) -> str:
    """``data`` as a base64 ``data:`` URL."""
    return f"data:{content_type};base64,{base64.b64encode(data).decode()}"


def sniff_type(head: bytes) -> str:
    """Media type of a file, from its first ``SNIFF_BYTES``; never from anybody's word.

    Text that a browser would run (SVG, HTML, XML) is not told apart here: it is plain text or unknown.
    """
    if head[4:12] in (b"ftypavif", b"ftypavis"):
        return "image/avif"
    if head.startswith(b"PK\x03\x04"):
        return "application/zip"  # one of many things, and to tell them apart takes more than a head
    try:
        found = puremagic.from_string(head, mime=True)
    except (puremagic.PureError, ValueError):
        found = ""
    found = _ALIASES.get(found, found)
    if found in _EXTENSIONS and not found.startswith("text/"):
        return found
    return "text/plain" if _is_text(head) else UNKNOWN_TYPE


def _is_text(head: bytes) -> bool:
    if not head or head.lstrip()[:1] == b"<" or b"\x00" in head:
        return False
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return len(head) >= SNIFF_BYTES and error.start > len(head) - 4  # a character cut at the end of the sample
    return True


def looks_whole(content_type: str, size_bytes: int, head: bytes, tail: bytes) -> bool | None:
    """Whether a picture ends as its format says, ``None`` for a type that has no end to look at.

    ``head`` and ``tail`` are the first and last 16 bytes or more. A body may be cut by whoever announced its length,
    so the announced length alone proves nothing.
    """
    if content_type == "image/png":
        return tail.endswith(b"IEND\xaeB`\x82")
    if content_type == "image/jpeg":
        return tail.endswith(b"\xff\xd9")
    if content_type == "image/webp":
        return int.from_bytes(head[4:8], "little") + 8 == size_bytes
    if content_type == "image/gif":
        return tail.endswith(b";")
    return None


def file_name(index: int, url: str, content_type: str) -> str:
    """Name of output file ``index`` for its address: the upstream's own stem, with the ending of its real type."""
    stem = ""
    if not url.startswith("data:"):
        last = urlsplit(url).path.rpartition("/")[2].lower()
        stem = _UNSAFE_NAME.sub("-", last.rpartition(".")[0] or last).strip("-._")[:40]
    return f"{stem or f'out-{index}'}.{_EXTENSIONS.get(content_type, 'bin')}"
