"""Thousands of hostile requests against a whole proxy: no 500, no hang, no growth, and hits are right throughout.

An attack is made from its number: ``attacks.make(target, number)`` is the one that a failure names.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from loadtests.fake_model.process import ALICE, BOB, FakeModel, fake_model
from tests.faults.attacks import Attack, Target, make
from tests.faults.wire import Hung, complaints, strike
from tests.flows.harness import ProxyProcess, local_config, running_proxy

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore::ResourceWarning")]

OWN_TOKEN = "own-token-of-a-hostile-caller"
AT_ONCE = 32
SETTLED_WITHIN_S = 60.0


@dataclass
class Siege:
    """A proxy under attack, the API behind it, and the one honest request between."""

    api: FakeModel
    proxy: ProxyProcess
    target: Target
    picture: bytes = b""

    @property
    def port(self) -> int:
        port = urlsplit(self.proxy.public_url).port
        assert port is not None
        return port

    def honest(self) -> httpx.Response:
        return httpx.post(
            self.proxy.public_url + self.target.create,
            json={"input": {"prompt": "an honest fox", "seed": 7}},
            headers={"Authorization": f"Bearer {ALICE}", "Prefer": "wait"},
            timeout=60,
            trust_env=False,
        )

    def prepare(self) -> None:
        """Make what exists, so that attacks can be aimed at it too."""
        first = self.honest().json()
        assert first["status"] == "succeeded"
        output = first["output"][0]
        self.picture = httpx.get(output, trust_env=False).content
        self.target.paths += [urlsplit(output).path, f"/v1/predictions/{first['id']}", "/v1/predictions"]
        if "stream" in first["urls"]:
            self.target.paths.append(urlsplit(first["urls"]["stream"]).path)

    def assert_hit_is_right(self) -> None:
        answer = self.honest()
        assert answer.headers["cache-status"].startswith("Hotplate; hit"), answer.headers
        assert httpx.get(answer.json()["output"][0], trust_env=False).content == self.picture

    def metric(self, name: str) -> float:
        text = httpx.get(f"{self.proxy.admin_url}/metrics", trust_env=False, timeout=30).text
        return sum(float(each) for each in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE))

    def memory_bytes(self) -> int:
        status = Path(f"/proc/{self.proxy.pid}/status").read_text()
        (kilobytes,) = re.findall(r"VmRSS:\s+(\d+)", status)
        return int(kilobytes) * 1024

    def open_files(self) -> int:
        return len(list(Path(f"/proc/{self.proxy.pid}/fd").iterdir()))

    async def settle(self, files: int) -> None:
        """Wait until runs have ended and what was opened is closed."""
        deadline = time.monotonic() + SETTLED_WITHIN_S
        while self.metric("hotplate_runs_in_flight") > 0 or self.open_files() > files:
            assert time.monotonic() < deadline, (self.metric("hotplate_runs_in_flight"), self.open_files(), files)
            await asyncio.sleep(0.1)

    async def attack(self, numbers: range, port: int | None = None) -> tuple[list[str], Counter[int]]:
        """Carry the attacks out, many at once; what was wrong, and how often each status came."""
        found: list[str] = []
        statuses: Counter[int] = Counter()
        waiting = iter(numbers)

        async def assail() -> None:
            for number in waiting:
                attack = make(self.target, number)
                try:
                    answers = await strike(port or self.port, attack)
                except Hung:
                    found.append(f"{attack.name} hangs: {attack.pieces[0][:200]!r}")
                    continue
                statuses.update(answer.status for answer in answers)
                # The statuses that an attack calls for are the public listener's.
                found.extend(complaints(attack if port is None else replace(attack, statuses=frozenset()), answers))

        await asyncio.gather(*(assail() for _ in range(AT_ONCE)))
        return found, statuses

    def assert_log_is_quiet(self) -> None:
        for line in self.proxy.log():
            assert line.get("level") not in ("error", "critical"), line
            assert line["event"] != "not_json", line


@pytest.fixture(scope="module")
def siege(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Siege]:
    with fake_model() as api:
        config = local_config(models=["hotplate/*"]) + (
            f'[[upstream]]\nkind = "replicate"\nname = "replicate"\nbase_url = "{api.base_url}"\n'
            f'output_origins = ["{api.delivery_origin}"]\n'
            f'[cache]\noutput_urls = "url"\n[auth]\ntokens = ["{OWN_TOKEN}"]\n'
            '[storage]\nmemory_bytes = "8MB"\n'
            "[limits]\nhead_timeout_s = 2\nbody_timeout_s = 4\nsend_timeout_s = 4\n"
        )
        with running_proxy(tmp_path_factory.mktemp("hostile") / "data", config) as proxy:
            host = urlsplit(proxy.public_url).netloc
            target = Target(host, (ALICE, BOB, "r8_" + "n" * 37), own_token=OWN_TOKEN)
            siege = Siege(api, proxy, target)
            siege.prepare()
            yield siege


async def test_three_hundred_hostile_requests_leave_no_mark(siege: Siege) -> None:
    files = siege.open_files()
    found, statuses = await siege.attack(range(300))
    assert found == []
    assert sum(statuses.values()) > 200
    await siege.settle(files + 8)
    siege.assert_log_is_quiet()
    siege.assert_hit_is_right()


async def test_admin_listener_is_as_hard_to_upset(siege: Siege) -> None:
    port = urlsplit(siege.proxy.admin_url).port
    assert port is not None
    found, statuses = await siege.attack(range(30_000, 30_200), port)
    assert found == []
    assert sum(statuses.values()) > 100
    siege.assert_log_is_quiet()


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_twenty_thousand_hostile_requests_leave_no_mark(siege: Siege) -> None:
    found, _ = await siege.attack(range(1000, 5000))
    assert found == []
    await siege.settle(10**6)
    memory_bytes, files = siege.memory_bytes(), siege.open_files()
    for start in range(5000, 21_000, 4000):
        found, statuses = await siege.attack(range(start, start + 4000))
        assert found == []
        assert len(statuses) > 10
        assert statuses[408] < 200  # the answer to a client that is too slow, as this one is when others need its core
        siege.assert_hit_is_right()
    await siege.settle(files + 8)
    assert siege.memory_bytes() - memory_bytes < 64 * 1024**2
    siege.assert_log_is_quiet()
    siege.assert_hit_is_right()


def test_attack_can_be_made_again_from_its_number() -> None:
    target = Target("h", ("t",), own_token="o")
    made = [make(target, number) for number in range(200)]
    assert made == [make(target, number) for number in range(200)]
    assert len({attack.name.partition("#")[0] for attack in made}) == 7
    assert all(isinstance(attack, Attack) and attack.pieces for attack in made)
