"""What goes wrong on demand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Kind = Literal[
    "drop-fin",
    "drop-rst",
    "status",
    "throttle",
    "malformed",
    "truncated",
    "wrong-length",
    "close-delimited",
    "encoded",
    "stall",
    "cut",
    "hang",
]
"""
- ``drop-fin``, ``drop-rst``: the connection ends after the body was read, without an answer
- ``status``: an answer with ``status``, nothing done; ``throttle``: 429 with ``Retry-After``
- ``malformed``: the answer's body is cut in the middle, well framed
- ``truncated``: half of the body, then the end; ``wrong-length``: a Content-Length of half of it
- ``close-delimited``: half of the body without any length; ``encoded``: gzip that nobody asked for
- ``stall``: no answer until the client leaves
- ``cut``: the connection ends after ``after`` parts of the body, of a stream after as many events
- ``hang``: silence after ``after`` parts, until the client leaves
"""

Listener = Literal["api", "delivery", "stream"]

Place = Literal["create", "poll", "cancel", "account", "upload", "file", "secret", "output", "stream", "other", "any"]
"""``upload``: POST /files; ``file``: all else below /files; ``secret``: the webhook secret; ``output`` and ``stream``:
everything on those listeners; ``other``: what remains of the API."""


@dataclass(slots=True)
class Fault:
    """One fault.

    Attributes:
        on: which requests it befalls.
        times: how many of them; 0 for all until cleared.
        is_handled: whether the request is carried out all the same, only its answer suffers.
        status: of a ``status``.
        retry_after_s: of a ``throttle``.
        after: how many parts a ``cut`` or a ``hang`` lets pass.
    """

    kind: Kind
    on: Place = "any"
    times: int = 1
    is_handled: bool = True
    status: int = 500
    retry_after_s: int = 1
    after: int = 1


@dataclass(slots=True)
class Faults:
    """Faults that wait for their requests, in order."""

    waiting: list[Fault] = field(default_factory=list)

    def add(self, document: Any) -> None:
        """Read a fault from JSON.

        Raises:
            ValueError: it is none.
        """
        try:
            fault = Fault(**document)
        except TypeError as error:
            raise ValueError(str(error)) from error
        if fault.kind not in get_args(Kind) or fault.on not in get_args(Place):
            raise ValueError("no such kind or place")
        self.waiting.append(fault)

    def take(self, place: Place) -> Fault | None:
        """The fault for a request that arrived."""
        for fault in self.waiting:
            if fault.on in (place, "any"):
                if fault.times:
                    fault.times -= 1
                    if not fault.times:
                        self.waiting.remove(fault)
                return fault
        return None
