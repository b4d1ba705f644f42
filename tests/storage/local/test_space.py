from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import StorageFull
from storage.local.space import BLOCK_BYTES, Space, measure_tree, whole_blocks


@given(st.integers(0, 2**50))
def test_whole_blocks_hold_the_bytes_and_less_than_one_more(size_bytes: int) -> None:
    rounded = whole_blocks(size_bytes)
    assert rounded % BLOCK_BYTES == 0
    assert 0 <= rounded - size_bytes < BLOCK_BYTES


def test_promises_count_until_they_are_given_back() -> None:
    space = Space(100, used_bytes=50)
    space.reserve(30)
    with pytest.raises(StorageFull, match="21 more bytes do not fit, 50 of 100 are used"):
        space.reserve(21)
    space.reserve(20)
    space.release(50)
    space.add(50)
    assert space.used_bytes == 100
    space.add(-60)
    assert space.used_bytes == 40


def test_tree_is_measured_in_blocks(tmp_path: Path) -> None:
    for folder, name, size_bytes in [("ab", "1", 1), ("ab", "2", 4096), ("cd", "3", 4097), ("cd", "4", 0)]:
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / name).write_bytes(bytes(size_bytes))
    assert measure_tree(tmp_path) == 4 * 4096
