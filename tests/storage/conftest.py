"""Fixtures of the store's own tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from storage.opening import Storage, open_storage
from tests.storage.helpers import configured


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
async def storage(data_dir: Path, anyio_backend: str) -> AsyncIterator[Storage]:
    """A store on the disk that keeps nothing in memory, so that every read is a read."""
    opened = await open_storage(data_dir, configured(memory_bytes=0))
    yield opened
    await opened.aclose()
