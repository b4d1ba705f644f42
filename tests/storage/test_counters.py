from __future__ import annotations

import re
from dataclasses import fields

from storage.counters import StorageCounters


def test_snapshot_holds_every_counter() -> None:
    counters = StorageCounters(blob_reads_total=3)
    assert counters.snapshot() == {
        field.name: 3 if field.name == "blob_reads_total" else 0 for field in fields(StorageCounters)
    }


def test_every_counter_ends_in_total_and_says_what_it_counts() -> None:
    names = [field.name for field in fields(StorageCounters)]
    assert all(name.endswith("_total") for name in names)
    assert re.findall(r"^ {8}(\w+_total): \S", StorageCounters.__doc__ or "", re.MULTILINE) == names
