"""The parts of one open data folder, opened together in the writer thread."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from storage.counters import StorageCounters
from storage.errors import StorageUnavailable
from storage.local.faults import as_unavailable
from storage.local.files import create_file, write_all
from storage.local.folder import Folder, claim_folder, sweep_temp
from storage.local.index import Index, open_index
from storage.local.shelf import Shelf
from storage.local.space import BLOCK_BYTES, Space, measure_tree
from storage.local.trouble import Trouble
from storage.settings import StorageSettings


@dataclass(frozen=True, slots=True)
class House:
    """An open data folder; ``durable`` says whether writes are synced to the disk."""

    folder: Folder
    index: Index
    space: Space
    shelf: Shelf
    trouble: Trouble
    durable: bool

    def probe(self) -> None:
        """Try a small write of each kind, in the writer thread; ``trouble`` notes how it went."""
        with self.trouble.watching("blobs"):
            path = self.folder.temp / "probe"
            path.unlink(missing_ok=True)
            descriptor = create_file(path)
            try:
                write_all(descriptor, [bytes(BLOCK_BYTES)])
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
                path.unlink()
        with self.trouble.watching("index"), self.index.transaction(durable=self.durable) as rows:
            rows.set(b"probe", b"")


def open_house(
    root: Path,
    settings: StorageSettings,
    counters: StorageCounters,
    clock: Callable[[], float],
    opened: ExitStack,
) -> House:
    """Claim the folder, sweep it and open what is in it. For the writer thread.

    Args:
        opened: gets what is to be closed again, in the writer thread, whether or not this succeeds.

    Raises:
        StorageRefused: the folder has a newer format, or another proxy holds it.
        StorageUnavailable: it cannot be made, read or written.
    """
    try:
        folder, lock = claim_folder(root)
        opened.callback(os.close, lock)
        counters.temp_swept_total += sweep_temp(folder)
        index, was_reset = open_index(folder.index)
        opened.callback(index.close_writing)
        counters.index_reset_total += was_reset
        space = Space(settings.max_bytes, measure_tree(folder.blobs))
    except (OSError, StorageUnavailable) as error:
        raise StorageUnavailable(f"{root} cannot be used as a data folder: {as_unavailable(error)}") from error
    trouble = Trouble(counters)
    durable = settings.durability == "safe"
    shelf = Shelf(folder, index, space, trouble, counters, durable=durable, clock=clock)
    opened.callback(shelf.abandon_all)
    return House(folder, index, space, shelf, trouble, durable)
