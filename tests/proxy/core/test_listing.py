"""Pages out of two lists, against one plain sorted list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.listing import Ascent, Boundary, Descent, Listed, Own, Theirs, UpstreamPage


@dataclass
class Api:
    """An upstream's list, newest first; its pages are found by an entry's id, or by a number as older APIs do."""

    size: int
    by_number: bool
    items: list[Theirs] = field(default_factory=list)
    reads: int = 0

    def read(self, query: str) -> UpstreamPage:
        self.reads += 1
        way, _, name = query.partition("=")
        ids = [item.id for item in self.items]
        if not query:
            first = 0
        elif way == "number":
            first = int(name)
        elif way == "after":
            first = ids.index(name) + 1
        else:
            first = max(ids.index(name) - self.size, 0)
        last = min(ids.index(name), first + self.size) if way == "before" else first + self.size
        page = tuple(self.items[first:last])
        older = (f"number={last}" if self.by_number else f"after={page[-1].id}") if last < len(ids) and page else None
        newer = (f"number={max(first - self.size, 0)}" if self.by_number else f"before={page[0].id}") if first else None
        return UpstreamPage(query, page, older, newer)


@dataclass
class Lists:
    """Both lists, and a clock that only goes on."""

    api: Api
    own: list[Own] = field(default_factory=list)
    now: int = 1000
    serial: int = 0

    def add(self, kind: str, pause: int) -> None:
        """One more prediction at the top: ``theirs``, ``own``, or a ``run`` that is in both lists."""
        self.now += max(pause, 1) if self.api.by_number else pause
        self.serial += 1
        # Ids say nothing of the order.
        name = f"{self.serial * 7919 % 1000:03d}{self.serial}"
        if kind != "theirs":
            self.own.append(Own(self.now, f"o{name}"))
            self.own.sort(reverse=True)
        if kind != "own":
            self.now += pause // 2
            self.api.items.insert(0, Theirs(self.now, f"t{name}", is_ours=kind == "run"))

    def visible(self) -> list[str]:
        shown: list[Listed] = [*self.own, *(item for item in self.api.items if not item.is_ours)]
        return [item.id for item in sorted(shown, key=lambda item: -item.created_us)]

    def down(self, start: Boundary, size: int) -> Descent:
        walk = Descent(start, self.own, size)
        while walk.wanted is not None:
            walk.feed(self.api.read(walk.wanted))
        return walk

    def everything(self, start: Boundary | None, size: int) -> list[Listed]:
        found: list[Listed] = []
        while start is not None:
            walk = self.down(start, size)
            found += walk.items
            start = walk.end
        return found

    def up(self, start: Boundary, size: int) -> Ascent:
        walk = Ascent(start, self.own, size)
        while walk.wanted is not None:
            walk.feed(self.api.read(walk.wanted))
        return walk


KIND = st.sampled_from(["theirs", "own", "run"])
PAUSE = st.sampled_from([0, 0, 1, 2, 5])
ADDED = st.lists(st.tuples(KIND, PAUSE), max_size=30)
NONE: list[tuple[str, int]] = []


def names(items: Sequence[Listed]) -> list[str]:
    return [item.id for item in items]


def is_sorted(lists: Lists, shown: list[str]) -> bool:
    times = {item.id: item.created_us for item in (*lists.own, *lists.api.items)}
    at = [times[name] for name in shown]
    return at == sorted(at, reverse=True)


@settings(max_examples=600)
@given(
    begun=ADDED,
    between=st.lists(st.lists(st.tuples(KIND, PAUSE), max_size=12), max_size=6),
    api_size=st.integers(1, 7),
    size=st.integers(1, 7),
    by_number=st.booleans(),
)
def test_every_entry_is_shown_once_whatever_is_added_between_two_reads(
    begun: list[tuple[str, int]],
    between: list[list[tuple[str, int]]],
    api_size: int,
    size: int,
    by_number: bool,
) -> None:
    lists = Lists(Api(api_size, by_number))
    for kind, pause in begun:
        lists.add(kind, pause)
    # What is added later is not of the same time: nobody could tell whether it belongs before or after.
    lists.now += 1
    expected = lists.visible()
    shown: list[str] = []
    visited: list[Boundary] = []
    start: Boundary | None = Boundary("")
    while start is not None:
        walk = lists.down(start, size)
        assert len(walk.items) <= size
        shown += names(walk.items)
        visited.append(start)
        start = walk.end
        for kind, pause in between.pop() if between else NONE:
            lists.add(kind, pause)
        assert len(visited) < 300
    assert sorted(shown) == sorted(expected)
    assert is_sorted(lists, shown)
    # And back up from where the last page began: all that was above it, and what is new.
    end: Boundary | None = visited[-1]
    climbed = names(lists.everything(visited[-1], size))
    pages = 0
    while end is not None and not end.is_top:
        back = lists.up(end, size)
        assert len(back.items) <= size
        climbed = names(back.items) + climbed
        end = back.end
        pages += 1
        assert pages < 300
    if visited[-1].is_top:
        return
    assert sorted(climbed) == sorted(lists.visible())
    assert is_sorted(lists, climbed)


@settings(max_examples=200)
@given(
    begun=ADDED,
    steps=st.lists(st.sampled_from(["down", "up", "down"]), max_size=12),
    api_size=st.integers(1, 5),
    size=st.integers(1, 5),
    by_number=st.booleans(),
)
def test_to_and_fro_each_page_follows_on_the_one_before(
    begun: list[tuple[str, int]], steps: list[str], api_size: int, size: int, by_number: bool
) -> None:
    lists = Lists(Api(api_size, by_number))
    for kind, pause in begun:
        lists.add(kind, pause)
    order = names(lists.everything(Boundary(""), 10_000))
    assert sorted(order) == sorted(lists.visible())
    above, walk = Boundary(""), lists.down(Boundary(""), size)
    first, last, below = 0, len(walk.items), walk.end
    for step in steps:
        if step == "down" and below is not None:
            above, walk = below, lists.down(below, size)
            first, last, below = last, last + len(walk.items), walk.end
        elif step == "up" and not above.is_top:
            below, climb = above, lists.up(above, size)
            first, last = first - len(climb.items), first
            if climb.end is None:
                assert first == 0
                break
            above, walk = climb.end, Descent(climb.end, (), 0)
            assert names(climb.items) == order[first:last]
            continue
        assert names(walk.items) == order[first:last] or step == "up" or below is None


def test_page_that_is_filled_by_one_upstream_page_costs_one_read() -> None:
    lists = Lists(Api(100, by_number=False))
    for _ in range(250):
        lists.add("run", 5)
    walk = lists.down(Boundary(""), 100)
    # The last own entry is a little older than the upstream's entry for the same run.
    assert len(walk.items) >= 99
    lists.api.reads = 0
    lists.down(Boundary(""), 99)
    assert lists.api.reads == 1


def test_without_an_upstream_the_own_entries_are_the_list() -> None:
    own = [Own(number // 2, f"{number:02d}") for number in reversed(range(10))]
    shown: list[str] = []
    start: Boundary | None = Boundary("")
    while start is not None:
        walk = Descent(start, own, 3)
        walk.feed(UpstreamPage(""))
        shown += names(walk.items)
        start = walk.end
    assert shown == names(own)


@pytest.mark.parametrize("is_full", [False, True])
def test_pages_of_runs_of_ours_alone_are_not_searched_for_ever(is_full: bool) -> None:
    lists = Lists(Api(1, by_number=False))
    for _ in range(40):
        lists.add("run", 5)
    lists.own = lists.own[-1:] if is_full else []
    walk = lists.down(Boundary(""), 5)
    assert lists.api.reads == 10
    assert walk.items == []
    assert walk.end is not None
