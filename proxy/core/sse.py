"""Server-sent events: bytes into events, events into bytes. Pure.

``Parser`` takes the bytes of a stream in whatever pieces they come and gives the same events for any split;
``encode`` is its counterpart. Where the two differ from the standard it is to be stricter: lines and events are
bounded, for the other side is not ours.

Source: the HTML standard, section 9.2 "Server-sent events".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

CONTENT_TYPE = "text/event-stream"

HEARTBEAT = b":\n\n"
"""A comment: every client skips it, and whoever counts silence hears that the connection lives."""

MAX_LINE_BYTES = 64 * 1024**2
"""A file may stand in one line, as a ``data:`` URL."""

MAX_EVENT_BYTES = 64 * 1024**2

_BREAK = re.compile(rb"\r\n|\n|\r")
_TEXT_BREAK = re.compile(r"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


class StreamUnreadable(ValueError):
    """A line or an event is longer than anything that makes sense."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event.

    Attributes:
        id: the last id that the stream gave, ``""`` before the first.
        name: ``"message"`` where the stream names none.
        data: its text, lines joined with ``"\\n"``.
    """

    id: str
    name: str
    data: str


class Parser:
    """Reads one connection's bytes. Incomplete events at the end of the bytes are none, as the standard says."""

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_line_bytes = max_line_bytes
        self._max_event_bytes = max_event_bytes
        self._line = bytearray()
        self._skips_lf = False  # the bytes so far end in CR, and an LF right after it belongs to it
        self._is_first_line = True
        self._id = ""
        self._name = ""
        self._data: list[str] = []
        self._data_bytes = 0

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events that ``chunk`` completes; to be read to its end before the next call.

        Raises:
            StreamUnreadable: a line or an event is too long; the events before it have been given.
        """
        if not chunk:
            return
        if self._skips_lf and chunk[:1] == b"\n":
            chunk = chunk[1:]
            self._skips_lf = False
            if not chunk:
                return
        self._skips_lf = chunk.endswith(b"\r")
        *ended, begun = _BREAK.split(chunk)
        for part in ended:
            self._extend(part)
            line = bytes(self._line)
            self._line.clear()
            event = self._take(line)
            if event is not None:
                yield event
        self._extend(begun)

    def _extend(self, part: bytes) -> None:
        if len(self._line) + len(part) > self._max_line_bytes:
            raise StreamUnreadable("a line of the stream is too long")
        self._line += part

    def _take(self, line: bytes) -> Event | None:
        """One whole line; the event if it ends one."""
        if self._is_first_line:
            self._is_first_line = False
            line = line.removeprefix(_BOM)
        if not line:
            return self._dispatch()
        field, _, raw = line.partition(b":")
        value = raw.removeprefix(b" ").decode("utf-8", "replace")
        if field == b"data":
            self._data_bytes += len(raw) + 1
            if self._data_bytes > self._max_event_bytes:
                raise StreamUnreadable("an event of the stream is too long")
            self._data.append(value)
        elif field == b"event":
            self._name = value
        elif field == b"id" and "\0" not in value:
            self._id = value
        return None  # anything else is a comment, a field that nobody knows, or ``retry``: when to come again is ours

    def _dispatch(self) -> Event | None:
        event = Event(self._id, self._name or "message", "\n".join(self._data)) if self._data else None
        self._name, self._data, self._data_bytes = "", [], 0
        return event


def encode(event: Event) -> bytes:
    """``event`` on the wire. A line break in its data, of whatever kind, is read back as ``"\\n"``.

    ``id`` and ``name`` must hold no line break.
    """
    data = "".join(f"data: {line}\n" for line in _TEXT_BREAK.split(event.data))
    return f"event: {event.name}\nid: {event.id}\n{data}\n".encode("utf-8", "replace")


class _Identified(Protocol):
    @property
    def id(self) -> str: ...


_AnyEvent = TypeVar("_AnyEvent", bound=_Identified)


def replay_after(log: Sequence[_AnyEvent], last_event_id: str | None) -> Sequence[_AnyEvent]:
    """What a reader that has seen ``last_event_id`` still has to be told.

    An id that is not in ``log`` gives all of it: a reader may hear something twice, but never misses anything.
    """
    return log[place_after(log, last_event_id) :]


def place_after(log: Sequence[_AnyEvent], last_event_id: str | None) -> int:
    """Where in ``log`` the events after ``last_event_id`` begin; see ``replay_after``."""
    if last_event_id:
        for place in range(len(log) - 1, -1, -1):
            if log[place].id == last_event_id:
                return place + 1
    return 0
