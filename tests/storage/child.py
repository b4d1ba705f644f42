"""A process of its own that uses a store and ends badly.

``python -m tests.storage.child <folder> hold`` opens the store, says so and waits. ``... write`` stores results one
after another and names each on a line once it was acknowledged. ``... die <step>`` acknowledges one result, then ends
by SIGKILL in the middle of storing a second one, at the step named.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from storage.local import incoming, shelf
from storage.local.index import Rows
from storage.opening import Storage, open_storage
from storage.settings import StorageSettings
from tests.fakes.stores import sample_record
from tests.storage.helpers import put_blob

LARGE_BYTES = 3_000_000


def content(name: str, size_bytes: int = 50_000) -> bytes:
    """The bytes of the blob of the record ``name``."""
    return (name.encode() + b"-") * (size_bytes // (len(name) + 1))


def die(*args: object, **kwargs: object) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def write_half(descriptor: int, chunks: Iterable[bytes]) -> None:
    data = b"".join(chunks)
    os.write(descriptor, data[: len(data) // 2])
    die()


set_row = Rows.set


def set_until_id(rows: Rows, key: bytes, value: bytes, ttl_s: float | None = None) -> None:
    if key.startswith(b"rec:"):  # the record's row is set, its id's row is not
        die()
    set_row(rows, key, value, ttl_s)


def after(module: Any, name: str) -> Callable[..., Any]:
    original = getattr(module, name)

    def call(*args: object, **kwargs: object) -> None:
        original(*args, **kwargs)
        die()

    return call


STEPS: dict[str, tuple[Any, str, Callable[[], Callable[..., Any]]]] = {
    "writing": (incoming, "write_all", lambda: write_half),
    "syncing": (os, "fsync", lambda: die),
    "renaming": (os, "replace", lambda: die),
    "renamed": (os, "replace", lambda: after(os, "replace")),
    "naming": (shelf.Shelf, "_name", lambda: die),
    "row": (Rows, "set", lambda: after(Rows, "set")),
    "recording": (Rows, "set", lambda: set_until_id),
}


async def store(storage: Storage, name: str, size_bytes: int = 50_000) -> None:
    ref = await put_blob(storage, content(name, size_bytes))
    await storage.results.put(sample_record(name, [ref]))
    print(name, flush=True)


async def main(folder: str, mode: str, step: str = "") -> None:
    storage = await open_storage(Path(folder), StorageSettings())
    if mode == "hold":
        print("ready", flush=True)
        await asyncio.Event().wait()
    elif mode == "write":
        for number in itertools.count():
            await store(storage, f"{number}")
    else:
        await store(storage, "first")
        module, name, make = STEPS[step]
        setattr(module, name, make())
        await store(storage, "second", LARGE_BYTES if step == "writing" else 50_000)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
