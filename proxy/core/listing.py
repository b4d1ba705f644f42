"""One list out of two: predictions made here, and the upstream's own page by page.

Both lists are sorted newest first. The upstream's can be read only in its own pages, each with a way to the next and to
the previous one; ours is known whole. A page for a client is cut out of their merger at a ``Boundary``, which divides
each list for itself: everything on its newer side was shown, everything on its older side was not. So no entry is shown
twice and none is left out, whatever is added at the top between two reads, and also where several have one time (save
for APIs that number their pages: those move under the reader, and entries of one time look alike then).

``Descent`` gathers the entries below a boundary, ``Ascent`` those above it. Each says which page of the upstream it
``wanted``, is fed it, and has its items and the boundary at its other end once nothing is wanted any more.

Own entries go between two upstream entries of a page, and first where the time is one. Where the upstream has more
pages, own entries beyond the last one of a page must wait for the next page. A run of ours is left out of the
upstream's list: its own entry stands for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeAlias

END_OF_TIME = 2**62
"""Later than any time in microseconds."""

MAX_FETCHES = 3
"""Upstream pages read for one page of ours, once it has something to show."""

MAX_EMPTY_FETCHES = 10
"""Upstream pages read for one page of ours while there is nothing: all of them runs of ours, or a list that moved."""

AFTER_ALL = "~"
"""Sorts behind every character of an id."""


class Own(NamedTuple):
    """A prediction made here, sorted by both."""

    created_us: int
    id: str


_TOP = Own(END_OF_TIME, "")


class Theirs(NamedTuple):
    """A prediction of the upstream's; ``is_ours`` when an own entry stands for it."""

    created_us: int
    id: str
    is_ours: bool = False
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class UpstreamPage:
    """One page of the upstream's list, newest first.

    Attributes:
        query: the query string that gave it.
        next, previous: those of the pages with older and newer entries, ``None`` where there are none.
    """

    query: str
    items: tuple[Theirs, ...] = ()
    next: str | None = None
    previous: str | None = None


Side: TypeAlias = Literal["shown", "shown-before", "left"]
"""Where the entry stands that marks a boundary in the upstream's list: on its newer side, on its newer side and on an
earlier page than the boundary's, or on its older side."""


@dataclass(frozen=True, slots=True)
class Boundary:
    """A cut through both lists.

    Attributes:
        query: query of the upstream's page in which it lies.
        at_us: time at the cut in the upstream's list, for where the mark is not found.
        mark: id of the upstream's entry next to the cut, ``""`` when none was looked at yet.
        own: own entries from this one on upwards are on the newer side.
    """

    query: str
    at_us: int = END_OF_TIME
    mark: str = ""
    side: Side = "shown"
    own: Own = _TOP

    @property
    def is_top(self) -> bool:
        """Nothing is above it."""
        return self.at_us >= END_OF_TIME


Listed: TypeAlias = Own | Theirs


class Descent:
    """Gathers the newest entries below ``start``.

    Attributes:
        wanted: query of the upstream's page that must be fed next; ``None`` at the end.
        items: newest first.
        end: the boundary below them, ``None`` when nothing is below.
    """

    def __init__(self, start: Boundary, own: Sequence[Own], size: int) -> None:
        """Args: ``own`` newest first; ``size`` how many entries are to be gathered."""
        self._own = deque(entry for entry in own if entry < start.own)
        self._size = size
        self._cut = start
        self._is_strict = start.mark != "" and start.side != "shown-before"
        self._fetches = 0
        self.wanted: str | None = start.query
        self.items: list[Listed] = []
        self.end: Boundary | None = None

    def feed(self, page: UpstreamPage) -> None:
        """Take from a page what belongs to this one."""
        self._fetches += 1
        left = deque(page.items[self._first(page) :])
        floor_us = -END_OF_TIME
        if page.next is not None:
            floor_us = min((item.created_us for item in page.items), default=END_OF_TIME)
        self._merge(left, floor_us, page.query)
        is_full = len(self.items) >= self._size
        self.wanted = None
        if left or (page.next is None and self._own):
            self.end = self._boundary(page.query)
        elif page.next is None:
            self.end = None
        elif is_full:
            self.end = self._boundary(page.next)
        else:
            self._pass(floor_us, Own(floor_us, ""))
            if self._fetches < (MAX_FETCHES if self.items else MAX_EMPTY_FETCHES):
                self.wanted = page.next
            else:
                self.end = self._boundary(page.next)

    def _first(self, page: UpstreamPage) -> int:
        """Index of the first entry of a page that is below the boundary.

        The list may have moved by what was added at its top: the mark, and what was shown, then stand on a later page.
        """
        cut = self._cut
        for index, item in enumerate(page.items):
            if item.id == cut.mark:
                self._is_strict = False
                return index + (cut.side != "left")
        for index, item in enumerate(page.items):
            if item.created_us < cut.at_us or (item.created_us == cut.at_us and not self._is_strict):
                self._is_strict = False
                return index
        return len(page.items)

    def _merge(self, left: deque[Theirs], floor_us: int, query: str) -> None:
        while True:
            while left and left[0].is_ours:
                self._mark(left.popleft(), query)
            if len(self.items) >= self._size:
                return
            own = self._own[0] if self._own and self._own[0].created_us >= floor_us else None
            if own is not None and (not left or own.created_us >= left[0].created_us):
                self.items.append(self._own.popleft())
                self._pass(own.created_us, own)
            elif left:
                item = left.popleft()
                self.items.append(item)
                self._mark(item, query)
                self._pass(item.created_us, Own(item.created_us, ""))
            else:
                return

    def _mark(self, item: Theirs, query: str) -> None:
        self._cut = Boundary(query, min(self._cut.at_us, item.created_us), item.id, "shown", self._cut.own)

    def _pass(self, at_us: int, own: Own) -> None:
        cut = self._cut
        self._cut = Boundary(cut.query, min(cut.at_us, at_us), cut.mark, cut.side, min(cut.own, own))

    def _boundary(self, query: str) -> Boundary:
        cut = self._cut
        has_moved_on = query != cut.query and cut.side == "shown"
        return Boundary(query, cut.at_us, cut.mark, "shown-before" if has_moved_on else cut.side, cut.own)


class Ascent:
    """Gathers the oldest entries above ``start``.

    Attributes:
        wanted: see ``Descent``.
        end: the boundary above them, ``None`` when nothing is above.
    """

    def __init__(self, start: Boundary, own: Sequence[Own], size: int) -> None:
        self._own = deque(entry for entry in reversed(own) if entry >= start.own)
        self._size = size
        self._cut = start
        self._is_found = False
        self._fetches = 0
        self._items: list[Listed] = []
        self.wanted: str | None = start.query
        self.end: Boundary | None = None

    @property
    def items(self) -> list[Listed]:
        """Newest first."""
        return self._items[::-1]

    def feed(self, page: UpstreamPage) -> None:
        """Take from a page what belongs to this one."""
        self._fetches += 1
        above = self._above(page)
        if above is None:
            assert page.next is not None
            # The list has moved so far that the search goes on with the client's next request.
            is_too_far = self._fetches >= MAX_EMPTY_FETCHES
            self.wanted = None if is_too_far else page.next
            self.end = replace(self._cut, query=page.next) if is_too_far else None
            return
        if not self._is_found:
            self._is_found, self._cut = True, replace(self._cut, query=page.query)
        left = deque(reversed(page.items[:above]))
        ceiling_us = END_OF_TIME
        if page.previous is not None:
            ceiling_us = max((item.created_us for item in page.items), default=-END_OF_TIME)
        self._merge(left, ceiling_us, page.query)
        self.wanted = None
        if len(self._items) >= self._size:
            has_more = bool(left or self._own) or page.previous is not None
            self.end = self._cut if has_more else None
        elif page.previous is not None:
            self._pass(ceiling_us, Own(ceiling_us, ""))
            if self._fetches < (MAX_FETCHES if self._items else MAX_EMPTY_FETCHES):
                self.wanted = page.previous
            else:
                self.end = self._cut

    def _above(self, page: UpstreamPage) -> int | None:
        """How many entries of a page are above the boundary; ``None`` while it lies below the page."""
        cut = self._cut
        for index, item in enumerate(page.items):
            if item.id == cut.mark:
                return index + (cut.side != "left")
        if self._is_found:
            return len(page.items)
        is_strict = cut.mark != "" and cut.side != "shown-before"
        oldest_us = min((item.created_us for item in page.items), default=-END_OF_TIME)
        is_below = oldest_us > cut.at_us or (oldest_us == cut.at_us and is_strict)
        if is_below and page.next is not None:
            return None
        for index, item in enumerate(page.items):
            if item.created_us < cut.at_us or (item.created_us == cut.at_us and not is_strict):
                return index
        return len(page.items)

    def _merge(self, left: deque[Theirs], ceiling_us: int, query: str) -> None:
        while True:
            while left and left[0].is_ours:
                self._mark(left.popleft(), query)
            if len(self._items) >= self._size:
                return
            own = self._own[0] if self._own and self._own[0].created_us < ceiling_us else None
            if left and (own is None or left[0].created_us <= own.created_us):
                item = left.popleft()
                self._items.append(item)
                self._mark(item, query)
                self._pass(item.created_us, Own(item.created_us, ""))
            elif own is not None:
                self._items.append(self._own.popleft())
                self._pass(own.created_us, Own(own.created_us, own.id + AFTER_ALL))
            else:
                return

    def _mark(self, item: Theirs, query: str) -> None:
        self._cut = Boundary(query, max(self._cut.at_us, item.created_us), item.id, "left", self._cut.own)

    def _pass(self, at_us: int, own: Own) -> None:
        cut = self._cut
        self._cut = Boundary(cut.query, max(cut.at_us, at_us), cut.mark, cut.side, max(cut.own, own))
