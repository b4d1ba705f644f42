"""Every suite here runs against the memory stores and the local ones."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from storage.settings import StorageSettings
from tests.contracts.harness import Harness, disk_harness, memory_harness
from tests.storage.helpers import configured


@pytest.fixture(params=["memory", "disk", "disk behind memory", "fast disk"])
async def harness(request: pytest.FixtureRequest, tmp_path: Path, anyio_backend: str) -> AsyncIterator[Harness]:
    settings = {
        "disk": configured(memory_bytes=0),
        "disk behind memory": StorageSettings(),
        "fast disk": configured(memory_bytes=0, durability="fast"),
    }
    if request.param == "memory":
        yield memory_harness()
    else:
        async with disk_harness(tmp_path / "data", settings[request.param]) as made:
            yield made
