"""Bodies in pieces."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from proxy.upstreams.bodies import joined, nothing, only, read_head

pytestmark = pytest.mark.anyio


async def pieces(*given: bytes) -> AsyncIterator[bytes]:
    for piece in given:
        yield piece


async def whole(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


async def test_head_of_a_small_body_is_all_of_it() -> None:
    assert await read_head(pieces(b"ab", b"cd"), 4) == (b"abcd", True)
    assert await read_head(nothing(), 0) == (b"", True)
    assert await read_head(only(b"ab"), 4) == (b"ab", True)


async def test_reading_stops_beyond_the_bound_and_what_is_left_can_be_joined() -> None:
    chunks = pieces(b"ab", b"cd", b"ef", b"gh")
    head, is_whole = await read_head(chunks, 3)
    assert (head, is_whole) == (b"abcd", False)
    assert await whole(joined(head, chunks)) == b"abcdefgh"


async def test_an_empty_head_is_no_piece() -> None:
    assert [chunk async for chunk in joined(b"", pieces(b"ab"))] == [b"ab"]
