"""No room: requests go on, outputs are served from memory, the operator is told, and it ends by itself."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from loadtests.fake_model.process import ALICE, fake_model
from tests.flows.harness import README_MODEL, SMALL, ProxyProcess, local_config, running_proxy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

LOCAL = f"/v1/models/{README_MODEL}/predictions"
REMOTE = "/v1/models/acme/pixel/predictions"
URLS = '[cache]\noutput_urls = "url"\n'
PICTURE = {**SMALL, "output_format": "png", "width": 96, "height": 96}
"""Some 20 kB; noise hardly shrinks in a PNG."""

RECOVERY_S = 30.0


def create(proxy: ProxyProcess, prompt: str, path: str) -> httpx.Response:
    given = {"input": {"prompt": prompt, "seed": 1, **PICTURE}}
    headers = {"Prefer": "wait", "Authorization": f"Bearer {ALICE}"}
    return httpx.post(proxy.public_url + path, json=given, headers=headers, timeout=110, trust_env=False)


def draw(proxy: ProxyProcess, prompt: str, path: str = REMOTE) -> httpx.Response:
    """A create that must succeed, and whose output must be served, whatever the disk does."""
    answer = create(proxy, prompt, path)
    assert answer.status_code == 201, answer.text
    prediction = answer.json()
    assert prediction["status"] == "succeeded", answer.text
    url = prediction["output"][0]
    assert url.startswith(proxy.public_url + "/outputs/")
    for _ in range(2):
        output = httpx.get(url, trust_env=False)
        assert (output.status_code, output.headers["content-type"]) == (200, "image/png")
        assert len(output.content) == int(output.headers["content-length"]) > 0
    part = httpx.get(url, headers={"Range": "bytes=0-7"}, trust_env=False)
    assert (part.status_code, part.content) == (206, b"\x89PNG\r\n\x1a\n")
    found = httpx.get(
        f"{proxy.public_url}/v1/predictions/{prediction['id']}",
        headers={"Authorization": f"Bearer {ALICE}"},
        trust_env=False,
    )
    assert (found.status_code, found.json()["status"]) == (200, "succeeded")
    return answer


def is_stored(answer: httpx.Response) -> bool:
    return "; stored" in answer.headers["cache-status"]


def readiness(proxy: ProxyProcess) -> dict[str, Any]:
    answer = httpx.get(f"{proxy.admin_url}/readyz", trust_env=False)
    assert answer.status_code == 200
    document: dict[str, Any] = answer.json()
    return document


def assert_nothing_broke(proxy: ProxyProcess) -> None:
    lines = proxy.log()
    assert [line for line in lines if line.get("event") in ("handler_broke", "run_broke", "not_json")] == []
    assert [line for line in lines if line.get("status", 0) >= 500] == []


def assert_ready_again(proxy: ProxyProcess, deadline: float) -> None:
    while (told := readiness(proxy)) != {"status": "ok"}:
        assert time.monotonic() < deadline, f"still said to be in trouble: {told}"
        time.sleep(0.2)


def test_store_at_its_limit_goes_on_from_memory(tmp_path: Path) -> None:
    config = local_config() + URLS + "[storage]\nmax_bytes = 40000\n"
    with running_proxy(tmp_path / "data", config) as proxy:
        assert readiness(proxy) == {"status": "ok"}
        answers = [draw(proxy, f"number {number}", LOCAL) for number in range(6)]
        stored = [is_stored(answer) for answer in answers]
        assert stored[0], "the first one fits"
        assert not stored[-1]
        told = readiness(proxy)
        assert told["status"] == "degraded"
        assert "room" in told["storage"]
        # What was stored before is still there, and what was not is run again.
        assert "; hit" in draw(proxy, "number 0", LOCAL).headers["cache-status"]
        runs = proxy.runs()
        repeated = draw(proxy, "number 5", LOCAL)
        assert "hit" not in repeated.headers["cache-status"]
        assert not is_stored(repeated)
        assert proxy.runs() == runs + 1
        for answer in answers:
            assert httpx.get(answer.json()["output"][0], trust_env=False).status_code == 200
        blobs = [path.stat().st_size for path in (proxy.data_dir / "cas.v1").rglob("*") if path.is_file()]
        assert sum(-(-size // 4096) * 4096 for size in blobs) <= 40000
        assert_nothing_broke(proxy)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB, where the machine lets us have one."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2m,mode=0700", "tmpfs", str(disk)],
            capture_output=True,
            text=True,
            check=False,
        )
        refusal = mounted.stderr.strip() if mounted.returncode else ""
    except FileNotFoundError:
        refusal = "there is no mount command"
    if refusal:
        if os.environ.get("CI"):
            pytest.fail(f"a small file system is needed here and cannot be mounted: {refusal}")
        pytest.skip(f"no file system can be mounted: {refusal}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True, capture_output=True)


def fill(disk: Path) -> Path:
    """Leave no free byte on ``disk``; the file that takes them."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (4096, 512, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    assert os.statvfs(disk).f_bavail == 0
    return ballast


@pytest.fixture
def behind_an_api(small_disk: Path) -> Iterator[ProxyProcess]:
    """A proxy on the small disk whose models live elsewhere, so that nobody but the proxy needs room there."""
    with fake_model() as api:
        config = (
            f'[[upstream]]\nkind = "replicate"\nname = "replicate"\nbase_url = "{api.base_url}"\n'
            f'output_origins = ["{api.delivery_origin}"]\n'
        )
        with running_proxy(small_disk, config + URLS) as proxy:
            yield proxy


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_full_disk_goes_on_from_memory_and_recovers(behind_an_api: ProxyProcess) -> None:
    proxy = behind_an_api
    assert is_stored(draw(proxy, "while there is room"))
    ballast = fill(proxy.data_dir)
    answers = [draw(proxy, f"number {number}") for number in range(4)]
    assert not any(is_stored(answer) for answer in answers)
    assert readiness(proxy)["status"] == "degraded"
    assert "; hit" in draw(proxy, "while there is room").headers["cache-status"]
    ballast.unlink()
    deadline = time.monotonic() + RECOVERY_S
    number = 0
    while not is_stored(draw(proxy, f"after it {number}")):
        assert time.monotonic() < deadline, f"nothing is stored again: {readiness(proxy)}"
        number += 1
        time.sleep(0.2)
    assert "; hit" in draw(proxy, f"after it {number}").headers["cache-status"]
    assert_ready_again(proxy, deadline)
    assert_nothing_broke(proxy)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_recovery_is_told_without_any_request_to_store(behind_an_api: ProxyProcess) -> None:
    proxy = behind_an_api
    ballast = fill(proxy.data_dir)
    for number in range(3):
        draw(proxy, f"number {number}")
    assert readiness(proxy)["status"] == "degraded"
    ballast.unlink()
    assert_ready_again(proxy, time.monotonic() + RECOVERY_S)
    assert is_stored(draw(proxy, "after it"))


def test_local_model_on_a_full_disk_says_so_and_recovers(small_disk: Path) -> None:
    """The model's own temporary files are on the same disk, so its runs may fail; no request breaks, and it ends."""
    with running_proxy(small_disk, local_config() + URLS) as proxy:
        assert is_stored(draw(proxy, "while there is room", LOCAL))
        ballast = fill(proxy.data_dir)
        for number in range(4):
            answer = create(proxy, f"number {number}", LOCAL)
            assert answer.status_code == 201
            prediction = answer.json()
            assert prediction["status"] in ("succeeded", "failed")
            if prediction["status"] == "failed":
                assert "No space left" in prediction["error"]
            assert not is_stored(answer)
        assert readiness(proxy)["status"] == "degraded"
        assert "; hit" in draw(proxy, "while there is room", LOCAL).headers["cache-status"]
        ballast.unlink()
        assert is_stored(draw(proxy, "after it", LOCAL))
        assert_ready_again(proxy, time.monotonic() + RECOVERY_S)
        assert_nothing_broke(proxy)
