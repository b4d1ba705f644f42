"""Files in an input: which of its strings stand for one, and what each of those is.

A file reaches a model under many names: a ``data:`` URL, the address of an earlier output, the URL of an upload, any
other URL. Which of them may be taken for its bytes is decided here, from the text and from what the schema says of its
place. Nothing is read and nothing is fetched.

Source: ``docs/adr/0005-files-are-keyed-by-their-bytes.md`` for the rules and their reasons.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from proxy.core.addresses import OUTPUTS_PREFIX
from proxy.core.canonical import strings_in
from proxy.core.outputs import is_listed
from proxy.core.schemas import InputField, InputSchema
from storage.records import JsonObject, JsonPath, JsonValue

FILES_PREFIX = "/files/"
"""Where uploads are named, below an API's root."""

FileKind = Literal["data", "output", "upload", "url"]

_TEXT_TYPES = frozenset({"string", "integer", "number", "boolean"})
"""Types whose values a model server hands on as they are."""

_MAY_HOLD_URLS = (str, list, dict)

_DATA_URL = re.compile(r"data:(?:[\w.+-]+/[\w.+-]+)?(?:;[\w.+-]+=[^\s;,]*)*;base64,", re.ASCII)
_UPLOAD_ID = re.compile(r"[A-Za-z0-9_=-][A-Za-z0-9._=-]{0,127}")
_DOWNLOAD = re.compile(rf"({_UPLOAD_ID.pattern})/download(\?[!-~]*)?")
_URL_INSIDE = re.compile(r"https?://", re.IGNORECASE)
_WHOLE_URL = re.compile(r"https?://([a-z0-9.-]+)(?::[0-9]{1,5})?(?:[/?#][!-\[\]-~]*)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class InputFile:
    """A string that stands for a file, or may.

    Attributes:
        path: its place in the input.
        text: the string, without the white space around a URL.
        kind: ``"data"``: the shape of a base64 ``data:`` URL; ``"output"``: an address of outputs here, genuine or not;
            ``"upload"``: the URL of an uploaded file, here or at the upstream, or of its bytes; ``"url"``: any other
            http(s) URL.
        name: of an output what stands below ``/outputs/``; of an upload its id.
        is_own: it is an address of this proxy, so that an upstream elsewhere cannot read it.
        is_declared: the schema says that files stand here; else it merely does not say that they do not.
        is_exact: there was no white space.
    """

    path: JsonPath
    text: str
    kind: FileKind
    name: str = ""
    is_own: bool = False
    is_declared: bool = False
    is_exact: bool = True

    def at(self, files_url: str) -> str:
        """An upload as it is named below ``files_url``, which ends in ``/files/``."""
        return files_url + self.text[self.text.index(FILES_PREFIX) + len(FILES_PREFIX) :]


@dataclass(frozen=True, slots=True)
class KnownPlaces:
    """Roots of addresses that mean something here.

    Attributes:
        base_url: this proxy's public address, without ``/v1``.
        upstream_files: where the upstream names its uploads, ending in ``/files/``; ``None`` where it has none.
    """

    base_url: str
    upstream_files: str | None = None


@dataclass(frozen=True, slots=True)
class HostNames:
    """Hosts whose URLs the operator takes for what they name: exact, or ``*.suffix``."""

    patterns: tuple[str, ...] = ()

    def covers(self, text: str) -> bool:
        """Whether ``text`` as a whole is one http(s) URL at one of these hosts, and holds no other URL."""
        found = _WHOLE_URL.fullmatch(text) if self.patterns else None
        if found is None or len(_URL_INSIDE.findall(text)) != 1:
            return False
        return is_listed(found[1].lower(), self.patterns)


def find_files(given: JsonObject, schema: InputSchema | None, places: KnownPlaces) -> list[InputFile]:
    """Every string in ``given`` that stands for a file or may, in no particular order.

    Where the schema says that a field is text, its value is text. Where nothing is known of a field, any string that is
    a URL may be a file.
    """
    found: list[InputFile] = []
    for name, value in given.items():
        if not isinstance(value, _MAY_HOLD_URLS):
            continue  # most fields of most inputs are numbers, and every hit comes through here
        declared = schema.fields.get(name) if schema is not None else None
        if _may_be_file(declared):
            is_declared = _is_file(declared)
            found += [_classify(path, text, places, is_declared) for path, text in _urls((name,), value)]
    return found


def holds_url(value: JsonValue, by_url: HostNames) -> bool:
    """Whether an http(s) URL stands anywhere in ``value``, but for those that stand for what they name.

    Whether the model follows a URL, nobody here can know.
    """
    for text in strings_in(value):
        # Looking for three characters is much quicker than for an expression.
        if "://" in text and not text.startswith("data:") and _URL_INSIDE.search(text) and not by_url.covers(text):
            return True
    return False


def _may_be_file(declared: InputField | None) -> bool:
    if declared is None or declared.may_hold_files:
        return True
    if declared.type == "array" and declared.items is not None:
        return _may_be_file(declared.items)
    return declared.type not in _TEXT_TYPES


def _is_file(declared: InputField | None) -> bool:
    return declared is not None and declared.may_hold_files


def _urls(path: JsonPath, value: JsonValue) -> Iterator[tuple[JsonPath, str]]:
    stack: list[tuple[JsonPath, JsonValue]] = [(path, value)]
    while stack:
        place, node = stack.pop()
        if isinstance(node, str):
            if _is_url(node):
                yield place, node
        elif isinstance(node, list):
            stack.extend(((*place, index), item) for index, item in enumerate(node))
        elif isinstance(node, dict):
            stack.extend(((*place, name), item) for name, item in node.items())


def _is_url(text: str) -> bool:
    if text.startswith("data:"):
        return _DATA_URL.match(text) is not None
    return text.lstrip()[:8].lower().startswith(("http://", "https://"))


def _classify(path: JsonPath, given: str, places: KnownPlaces, is_declared: bool) -> InputFile:
    if given.startswith("data:"):
        return InputFile(path, given, "data", is_declared=is_declared)
    text = given.strip()
    kind, name, is_own = _kind_of(text, places)
    return InputFile(path, text, kind, name, is_own, is_declared, is_exact=text == given)


def _kind_of(text: str, places: KnownPlaces) -> tuple[FileKind, str, bool]:
    """Kind, name and whether it is this proxy's own."""
    if text.startswith(places.base_url + "/"):
        below = text[len(places.base_url) :]
        while below.startswith("/v1/"):  # one client's base URL ends with it and another's does not
            below = below[3:]
        if below.startswith(OUTPUTS_PREFIX):
            return "output", below.removeprefix(OUTPUTS_PREFIX), True
        if below.startswith(FILES_PREFIX):
            name = below.removeprefix(FILES_PREFIX)
            if _UPLOAD_ID.fullmatch(name):
                return "upload", name, True
            download = _DOWNLOAD.fullmatch(name)
            # A signature is the upstream's affair: where there is none that could judge it, it is a URL like any other.
            if download is not None and (download[2] is None or places.upstream_files is not None):
                return "upload", download[1], True
    elif places.upstream_files is not None and text.startswith(places.upstream_files):
        name = text.removeprefix(places.upstream_files)
        if _UPLOAD_ID.fullmatch(name):
            return "upload", name, False
    return "url", "", False
