"""Bodies that come in pieces: made, looked at from the front, put together again."""

from __future__ import annotations

from collections.abc import AsyncIterator


async def nothing() -> AsyncIterator[bytes]:
    """No body."""
    return
    yield b""


async def only(data: bytes) -> AsyncIterator[bytes]:
    """A body that is here already."""
    yield data


async def read_head(chunks: AsyncIterator[bytes], max_bytes: int) -> tuple[bytes, bool]:
    """What has come of a body, and whether that is all of it; stops reading beyond ``max_bytes``."""
    head = bytearray()
    async for chunk in chunks:
        head += chunk
        if len(head) > max_bytes:
            return bytes(head), False
    return bytes(head), True


async def joined(head: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """A body whose ``head`` was read."""
    if head:
        yield head
    async for chunk in rest:
        yield chunk
