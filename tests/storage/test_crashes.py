"""What a folder holds after its proxy ended by SIGKILL."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from storage.errors import StorageRefused
from storage.opening import Storage, open_storage
from storage.settings import StorageSettings
from tests.fakes.stores import sample_record
from tests.storage.child import LARGE_BYTES, STEPS, content
from tests.storage.helpers import configured, files_below

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(data_dir: Path) -> Iterator[Start]:
    """Starts ``child`` on the data folder; what still runs at the end is ended."""
    started: list[subprocess.Popen[str]] = []

    def run(*words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.storage.child", str(data_dir), *words]
        started.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield run
    for child in started:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


def read_line(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


async def assert_hit(storage: Storage, name: str) -> None:
    record = await storage.results.get_complete(sample_record(name).key)
    assert record is not None
    assert await storage.blobs.read(record.files[0].blob) == content(name)


def assert_every_visible_blob_is_whole(data_dir: Path) -> None:
    names = files_below(data_dir / "cas.v1")
    for path in (data_dir / "cas.v1").rglob("*/*"):
        assert path.read_bytes() in [content("first"), content("second"), content("second", LARGE_BYTES)]
    assert len(names) in (1, 2)


@pytest.mark.parametrize("step", STEPS)
async def test_ended_in_the_middle_of_a_write(data_dir: Path, start: Start, step: str) -> None:
    child = start("die", step)
    output, _ = child.communicate(timeout=60)
    assert (output.split(), child.returncode) == (["first"], -signal.SIGKILL)
    assert_every_visible_blob_is_whole(data_dir)
    left = files_below(data_dir / "tmp")
    assert bool(left) == (step in ("writing", "syncing", "renaming"))

    storage = await open_storage(data_dir, configured(memory_bytes=0))
    assert storage.counters.temp_swept_total == len(left)
    assert files_below(data_dir / "tmp") == []
    await assert_hit(storage, "first")
    second = sample_record("second")
    assert await storage.results.get_complete(second.key) is None
    assert await storage.results.find_complete(second.record_id) is None
    assert storage.counters.record_read_errors_total == storage.counters.incomplete_records_total == 0
    await storage.aclose()


async def test_nothing_acknowledged_is_lost(data_dir: Path, start: Start) -> None:
    child = start("write")
    acknowledged = [read_line(child) for _ in range(15)]
    child.kill()
    rest, _ = child.communicate()
    acknowledged += rest.split()
    storage = await open_storage(data_dir, configured(memory_bytes=0))
    for name in acknowledged:
        await assert_hit(storage, name)
    assert storage.counters.blob_corrupt_total == 0
    assert files_below(data_dir / "tmp") == []
    await storage.aclose()


async def test_folder_is_refused_while_held_and_free_once_its_holder_was_killed(data_dir: Path, start: Start) -> None:
    child = start("hold")
    assert read_line(child) == "ready"
    with pytest.raises(StorageRefused, match=f"process {child.pid}"):
        await open_storage(data_dir, StorageSettings())
    child.kill()
    child.wait()
    storage = await open_storage(data_dir, StorageSettings())
    await storage.aclose()
