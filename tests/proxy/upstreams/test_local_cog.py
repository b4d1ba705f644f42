"""The demo model under real coglet, started and stopped by the upstream that is under test.

The model's environment is made once for each machine and kept (``HOTPLATE_TEST_ENVS``, default ``.hotplate/envs``).
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from proxy.core.errors import NotFound, UpstreamUnavailable
from proxy.upstreams import local_copy, settling
from proxy.upstreams.base import Credential, Job, ModelTarget, Outcome, Progress
from proxy.upstreams.environments import ensure_environment, python_of
from proxy.upstreams.local_cog import LocalCog
from proxy.upstreams.local_spec import CopyEvent, LocalCogSpec
from proxy.upstreams.run_folder import COGLET_SCRATCH
from tests.fakes.cog_server import until
from tests.fakes.stores import MemoryKeyValue

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

ROOT = Path(__file__).parents[3]
DEMO = ROOT / "deploy" / "demo-model"
TARGET = ModelTarget("hotplate", "painter")
SMALL = {"width": 32, "height": 32, "num_inference_steps": 1, "seed": 1}

_serials = itertools.count()


@pytest.fixture(scope="session")
def environments_dir() -> Path:
    return Path(os.environ.get("HOTPLATE_TEST_ENVS", ROOT / ".hotplate" / "envs"))


@pytest.fixture(scope="session")
def python(environments_dir: Path) -> Path:
    """Interpreter with the demo model's packages."""
    return python_of(asyncio.run(ensure_environment(DEMO / "requirements.lock", environments_dir)))


class Local:
    """A ``LocalCog`` with what it told."""

    def __init__(
        self, spec: LocalCogSpec, environments_dir: Path, run_dir: Path, memory: MemoryKeyValue | None
    ) -> None:
        self.events: list[CopyEvent] = []
        self.groups: set[int] = set()
        self.upstream = LocalCog(
            spec, environments_dir=environments_dir, run_dir=run_dir, memory=memory, on_event=self._note
        )

    def _note(self, event: CopyEvent) -> None:
        self.events.append(event)
        self.groups |= {copy.pid for copy in self.upstream.copies() if copy.pid}

    def phases(self, copy: str = "copy-1") -> list[str]:
        """The steps of a copy, repeats left out."""
        return [phase for phase, _ in itertools.groupby(event.phase for event in self.events if event.copy == copy)]

    def count(self, phase: str) -> int:
        return sum(event.phase == phase and not event.detail.startswith("Collecting") for event in self.events)

    def start(self, prompt: str, **given: Any) -> tuple[asyncio.Task[Outcome], list[Progress]]:
        news: list[Progress] = []
        return asyncio.create_task(self._run(prompt, news, given)), news

    async def run(self, prompt: str, **given: Any) -> Outcome:
        async with asyncio.timeout(60):
            return await self._run(prompt, [], given)

    async def _run(self, prompt: str, news: list[Progress], given: dict[str, Any]) -> Outcome:
        described = await self.upstream.describe(TARGET, None)
        given = {**given, "prompt": prompt, **(SMALL if described.schema else {})}
        job = Job(f"test{next(_serials)}x{os.getpid()}", TARGET, described.version, given, None)
        return await self.upstream.run(job, news.append)

    async def readiness(self) -> str:
        return (await self.upstream.readiness()).state


Opener = Callable[..., AbstractAsyncContextManager[Local]]


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def opened(tmp_path: Path, run_dir: Path) -> Opener:
    """Opens a ``LocalCog`` that has no environment to start with; afterwards nothing of it may be left."""
    return partial(open_local, tmp_path / "envs", run_dir)


@pytest.fixture
def demo(python: Path, environments_dir: Path, run_dir: Path) -> Opener:
    """Opens a ``LocalCog`` of the demo model, or of another one with the same packages."""

    def opener(**changes: Any) -> AbstractAsyncContextManager[Local]:
        if "model_dir" in changes:
            changes = {"python": python, "environment": (("MARK", "m1"),), **changes}
        return open_local(environments_dir, run_dir, **changes)

    return opener


@asynccontextmanager
async def open_local(
    environments_dir: Path, run_dir: Path, *, memory: MemoryKeyValue | None = None, faults: str = "1", **changes: Any
) -> AsyncIterator[Local]:
    spec = LocalCogSpec("demo", DEMO, environment=(("HOTPLATE_DEMO_FAULTS", faults),))
    local = Local(replace(spec, **changes), environments_dir, run_dir, memory)
    try:
        yield local
    finally:
        await local.upstream.aclose()
    assert local.upstream.copies() == []
    for group in local.groups:
        assert session_of(group) == set()
    assert names_in(run_dir) == []


def names_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")) if folder.exists() else []


def session_of(leader: int) -> set[int]:
    """Pids of every process of a session that is not merely waiting to be reaped."""
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == leader and fields[0] not in "ZX":
                found.add(int(name))
    return found


# -- cold and warm -------------------------------------------------------------------------------------


async def test_the_first_run_starts_a_copy_and_the_next_finds_it(demo: Opener) -> None:
    async with demo() as local:
        assert await local.readiness() == "cold"
        described = await local.upstream.describe(TARGET, None)
        assert described.schema is not None
        assert described.is_pinned
        assert local.upstream.copies() == []  # a question starts nothing

        task, news = local.start("a cat")
        await until(lambda: any(progress.is_booting for progress in news))
        assert await local.readiness() == "booting"
        cold = await task
        assert cold.status == "succeeded"
        assert cold.output[0].startswith("data:image/webp;base64,")
        assert cold.metrics["image_count"] == 1
        assert cold.boot_s > 0.0
        assert cold.download_s == 0.0
        assert cold.boot_s <= cold.completed_at - news[0].at + 0.1
        assert [progress.status for progress in news][-1] == "processing"

        warm = await local.run("a dog")
        assert (warm.status, warm.boot_s, warm.attempts) == ("succeeded", 0.0, 1)
        assert (await local.run("a cat")).output == cold.output
        assert await local.readiness() == "warm"
        assert local.phases() == ["installing", "starting", "ready"]
        (copy,) = local.upstream.copies()
        assert copy.state == "ready"
        assert len(session_of(copy.pid)) == 4  # keeper, guard, server, worker
        assert os.getsid(0) != copy.pid
        await until(lambda: names_in(COGLET_SCRATCH / str(warm.upstream_id)) == [])


async def test_a_simulated_download_is_told_apart_from_the_boot(demo: Opener) -> None:
    async with demo(simulated_download_s=0.6) as local:
        cold = await local.run("a cat")
        warm = await local.run("a dog")
    assert cold.download_s == pytest.approx(0.6, abs=0.25)
    assert cold.boot_s > 0.0
    assert (warm.boot_s, warm.download_s) == (0.0, 0.0)
    assert local.phases()[:4] == ["installing", "downloading", "starting", "ready"]
    assert "simulated weight download" in next(event.detail for event in local.events if event.phase == "downloading")


async def test_runs_that_pile_up_start_a_second_copy_and_no_third(demo: Opener) -> None:
    async with demo(max_copies=2) as local:
        runs = [local.start(f"fault:slow:{0.3 + number / 100}") for number in range(6)]
        outcomes = [await task for task, _ in runs]
        assert {outcome.status for outcome in outcomes} == {"succeeded"}
        assert len(local.upstream.copies()) == 2
        starts = [outcome.started_at for outcome in outcomes]
        assert starts == sorted(starts)
    assert local.count("ready") == 2


async def test_an_idle_copy_is_stopped_and_the_next_run_starts_one_again(demo: Opener) -> None:
    async with demo(idle_timeout_s=0.3) as local:
        await local.run("a cat")
        (pid,) = local.groups
        await until(lambda: local.upstream.copies() == [])
        assert session_of(pid) == set()
        assert await local.readiness() == "cold"
        assert (await local.run("a cat")).boot_s > 0.0


async def test_prepare_makes_the_environment_and_starts_nothing(demo: Opener) -> None:
    async with demo() as local:
        await local.upstream.prepare()
        assert local.upstream.copies() == []


# -- faults --------------------------------------------------------------------------------------------


async def test_a_model_that_raises_is_a_failed_run_and_keeps_its_copy(demo: Opener) -> None:
    async with demo() as local:
        outcome = await local.run("fault:raise")
        assert (outcome.status, outcome.error, outcome.attempts) == (
            "failed",
            "ValueError: the model failed on purpose",
            1,
        )
        assert (await local.run("a cat")).boot_s == 0.0


async def test_a_crash_replaces_the_copy_asks_once_more_and_then_fails(demo: Opener) -> None:
    async with demo(max_copies=1) as local:
        outcome = await local.run("fault:crash")
        assert (outcome.status, outcome.attempts) == ("failed", 2)
        assert outcome.boot_s > 0.0
        assert (await local.run("a cat")).status == "succeeded"
    assert local.count("ready") == 3


async def test_a_hang_ends_at_its_deadline_and_the_model_works_on(demo: Opener) -> None:
    async with demo(deadline_s=0.5, max_copies=1) as local:
        outcome = await local.run("fault:hang")
        assert (outcome.status, outcome.error) == ("failed", "The run exceeded its deadline of 0.5 s.")
        assert (await local.run("a cat")).status == "succeeded"
    assert local.count("ready") == 1  # it let go of the run, so it was kept


async def test_cancelling_a_run_frees_the_copy(demo: Opener) -> None:
    async with demo(max_copies=1) as local:
        task, news = local.start("fault:hang")
        await until(lambda: any(progress.status == "processing" for progress in news))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await local.run("a cat")).status == "succeeded"
    assert local.count("ready") == 1


async def test_a_model_that_cannot_start_fails_runs_with_what_it_said_and_is_not_started_for_each(demo: Opener) -> None:
    async with demo(faults="setup", max_copies=1) as local:
        first = await local.run("a cat")
        assert first.status == "failed"
        assert "setup failed on purpose" in (first.error or "")
        assert first.boot_s > 0.0
        assert await local.readiness() == "down"
        for _ in range(5):
            assert (await local.run("a cat")).error == first.error
        assert local.count("starting") == 1
        await asyncio.sleep(2.1)
        assert (await local.run("a cat")).status == "failed"
        assert local.count("starting") == 2


async def test_a_boot_past_its_deadline_fails(demo: Opener) -> None:
    async with demo(boot_deadline_s=0.05) as local:
        outcome = await local.run("a cat")
    assert outcome.status == "failed"
    assert "not ready within 0.05 s" in (outcome.error or "")


async def test_closing_during_a_boot_and_during_a_run_leaves_nothing(demo: Opener) -> None:
    async with demo(max_copies=2) as local:
        running, news = local.start("fault:hang")
        await until(lambda: any(progress.status == "processing" for progress in news))
        waiting = [local.start("fault:hang")[0] for _ in range(3)]
        await until(lambda: local.count("starting") == 2)
        tasks = [running, *waiting]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# -- processes -----------------------------------------------------------------------------------------


async def test_a_killed_keeper_takes_its_copy_along_and_the_run_is_asked_again(demo: Opener) -> None:
    async with demo(max_copies=1) as local:
        task, news = local.start("fault:slow:1")
        await until(lambda: any(progress.status == "processing" for progress in news))
        (copy,) = local.upstream.copies()
        os.kill(copy.pid, signal.SIGKILL)
        outcome = await task
        assert (outcome.status, outcome.attempts) == ("succeeded", 2)
        await until(lambda: not session_of(copy.pid))


async def test_a_killed_server_process_is_replaced(demo: Opener) -> None:
    async with demo(max_copies=1) as local:
        await local.run("a cat")
        (copy,) = local.upstream.copies()
        os.kill(server_of(copy.pid), signal.SIGKILL)
        await until(lambda: copy.id not in [other.id for other in local.upstream.copies()])
        outcome = await local.run("a dog")
        assert (outcome.status, outcome.attempts) == ("succeeded", 1)


def server_of(keeper: int) -> int:
    """The Cog server: the second process that a keeper forks, after its guard."""
    return int(Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()[1])


async def test_killing_the_process_itself_leaves_none_of_its_copies(
    demo: Opener, environments_dir: Path, run_dir: Path
) -> None:
    script = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from proxy.upstreams.base import Job, ModelTarget\n"
        "from proxy.upstreams.local_cog import LocalCog, LocalCogSpec\n"
        "async def main():\n"
        "    spec = LocalCogSpec('demo', Path(sys.argv[1]), environment=(('HOTPLATE_DEMO_FAULTS', '1'),))\n"
        "    upstream = LocalCog(spec, environments_dir=Path(sys.argv[2]), run_dir=Path(sys.argv[3]))\n"
        "    target = ModelTarget('hotplate', 'painter')\n"
        "    version = (await upstream.describe(target, None)).version\n"
        "    def report(progress):\n"
        "        if progress.status == 'processing':\n"
        "            print(*['pid', *(copy.pid for copy in upstream.copies())], flush=True)\n"
        "    runs = [upstream.run(Job(f'kill{n}', target, version, {'prompt': 'fault:hang'}, None), report)\n"
        "        for n in range(2)]\n"
        "    await asyncio.gather(*runs)\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, DEMO, environments_dir, run_dir, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    groups: set[int] = set()
    while len(groups) < 2:
        line = (await parent.stdout.readline()).decode()
        assert line, "it ended"
        if line.startswith("pid "):
            groups = {int(number) for number in line.split()[1:]} - {0}
    assert all(len(session_of(group)) == 4 for group in groups)
    parent.kill()
    await parent.wait()
    for group in groups:
        await until(lambda group=group: not session_of(group))  # type: ignore[misc]
    assert names_in(run_dir)
    async with demo() as local:
        await local.run("a cat")  # sweeps what the killed process left; checked at the end


# -- models made up for a test -------------------------------------------------------------------------

PREDICT = """
import os, tempfile
from cog import BasePredictor
class Predictor(BasePredictor):
    def predict(self, prompt: str) -> str:
        open(os.path.join(tempfile.gettempdir(), "left"), "w").close()
        return "EDITION " + prompt + " " + tempfile.gettempdir() + " " + os.environ.get("MARK", "")
"""


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "cog.yaml").write_text("build:\n  gpu: false\npredict: 'predict.py:Predictor'  # here\n")
    (folder / "predict.py").write_text(PREDICT)
    return folder


async def test_edited_code_makes_another_version_and_replaces_the_copy(
    demo: Opener, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.upstreams.local_cog.REREAD_S", 0.0)
    async with demo(model_dir=model_dir) as local:
        before = await local.upstream.describe(TARGET, None)
        assert before.schema is None
        first = await local.run("x")
        assert first.output.startswith("EDITION x")
        assert first.output.endswith(" m1")
        (model_dir / "predict.py").write_text(PREDICT.replace("EDITION", "SECOND"))
        after = await local.upstream.describe(TARGET, None)
        assert after.version != before.version
        second = await local.run("x")
        assert second.output.startswith("SECOND x")
        assert second.boot_s > 0.0
        await until(lambda: [copy.id for copy in local.upstream.copies()] == ["copy-2"])


async def test_a_broken_model_works_as_soon_as_it_is_mended(
    demo: Opener, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.upstreams.local_cog.REREAD_S", 0.0)
    (model_dir / "predict.py").write_text("this is no python")
    async with demo(model_dir=model_dir) as local:
        broken = await local.run("x")
        assert broken.status == "failed"
        assert "SyntaxError" in (broken.error or "")
        (model_dir / "predict.py").write_text(PREDICT)
        assert (await local.run("x")).status == "succeeded"


async def test_each_copy_has_a_temporary_folder_that_ends_with_it(demo: Opener, model_dir: Path, run_dir: Path) -> None:
    async with demo(model_dir=model_dir) as local:
        folder = Path((await local.run("x")).output.split()[2])
        assert names_in(folder) == ["left"]
        assert folder.name in " ".join(names_in(run_dir))


async def test_nothing_is_written_into_the_models_folder(demo: Opener, model_dir: Path) -> None:
    before = names_in(model_dir)
    async with demo(model_dir=model_dir) as local:
        assert (await local.run("x")).status == "succeeded"
    assert names_in(model_dir) == before


async def test_a_taken_port_is_left_for_another(demo: Opener, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free_port = local_copy._free_port
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = itertools.chain([taken.getsockname()[1]], iter(free_port, None))
        monkeypatch.setattr(local_copy, "_free_port", lambda: next(ports))
        async with demo(model_dir=model_dir) as local:
            assert (await local.run("x")).status == "succeeded"


STUBBORN = """
import time
from cog import BasePredictor
class Predictor(BasePredictor):
    def predict(self, prompt: str) -> str:
        while prompt == "hang":
            try:
                time.sleep(600)
            except BaseException:
                pass
        return prompt
"""


async def test_a_copy_that_does_not_let_go_of_a_run_is_replaced(
    demo: Opener, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "LET_GO_S", 0.3)
    (model_dir / "predict.py").write_text(STUBBORN)
    async with demo(model_dir=model_dir, deadline_s=0.3, max_copies=1) as local:
        assert (await local.run("hang")).status == "failed"
        outcome = await local.run("x")
        assert (outcome.status, outcome.output) == ("succeeded", "x")
    assert local.count("ready") == 2


# -- folders that are no model -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "cog.yaml"),
        ({"cog.yaml": "build: {}"}, "names no predictor"),
        ({"cog.yaml": "predict: predict.py:P", ".cog/openapi_schema.json": "{"}, "not JSON"),
        ({"cog.yaml": "predict: predict.py:P", ".cog/openapi_schema.json": "[]"}, "not a JSON object"),
    ],
)
async def test_a_folder_that_is_no_model_is_told(
    opened: Opener, tmp_path: Path, files: dict[str, str], said: str
) -> None:
    for name, text in files.items():
        path = tmp_path / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    async with opened(model_dir=tmp_path / "model") as local:
        with pytest.raises(UpstreamUnavailable, match=said):
            await local.upstream.describe(TARGET, None)


async def test_a_model_without_locked_requirements_fails_its_runs_with_the_reason(
    opened: Opener, model_dir: Path
) -> None:
    async with opened(model_dir=model_dir) as local:
        outcome = await local.run("x")
        assert "requirements.lock" in (outcome.error or "")
        with pytest.raises(UpstreamUnavailable, match=r"requirements\.lock"):
            await local.upstream.prepare()


async def test_versions_come_from_files_revision_and_name_and_outlast_a_restart(opened: Opener, tmp_path: Path) -> None:
    copied = tmp_path / "copy"
    shutil.copytree(DEMO, copied, ignore=shutil.ignore_patterns("__pycache__"))
    memory, versions = MemoryKeyValue(), []
    for spec in ({}, {"model_dir": copied}, {"revision": "w2"}, {"version": "e" * 64}):
        async with opened(memory=memory, **spec) as local:
            described = await local.upstream.describe(TARGET, None)
            versions.append(described.version)
            assert await local.upstream.describe(replace(TARGET, version=described.version), None) == described
            assert await local.upstream.describe(ModelTarget("", "", described.version), None) == described
            with pytest.raises(NotFound):
                await local.upstream.describe(replace(TARGET, version="0" * 64), None)
    assert versions[0] == versions[1]
    assert len(set(versions)) == 3
    assert versions[3] == "e" * 64


async def test_questions_that_cog_does_not_know(opened: Opener) -> None:
    async with opened() as local:
        assert (await local.upstream.check(Credential("x"))).is_accepted is None
        with pytest.raises(NotFound):
            await local.upstream.relay(None, None)  # type: ignore[arg-type]
        assert local.upstream.output_access.origins == ()
