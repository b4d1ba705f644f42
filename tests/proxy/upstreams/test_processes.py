"""Children end with their parent, whoever is killed, and whatever they do about it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.upstreams import run_folder
from proxy.upstreams.processes import KEPT_LINES, KeptProcess, child_environment
from proxy.upstreams.run_folder import RunFolder, Scratch, sweep
from tests.fakes.cog_server import until

pytestmark = pytest.mark.anyio

STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.fork()
    time.sleep(600)
print("up", flush=True)
time.sleep(600)
"""
"""Three generations that ignore SIGTERM, the middle one orphaning the last when killed."""


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


async def start(code: str, *, grace_s: float = 0.2, pass_fds: tuple[int, ...] = ()) -> KeptProcess:
    return await KeptProcess.start(
        [sys.executable, "-c", code], label="test", grace_s=grace_s, environment=child_environment(), pass_fds=pass_fds
    )


async def start_stubborn() -> KeptProcess:
    process = await start(STUBBORN)
    await until(lambda: process.lines() == ["up"])
    await until(lambda: len(session_of(process.pid)) == 5)  # keeper, guard, three generations
    return process


async def test_output_and_exit_status_are_known_at_the_end() -> None:
    process = await start("import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)")
    assert await process.wait() == 7
    assert sorted(process.lines()) == ["err", "out"]
    assert process.has_ended
    await process.stop()


async def test_much_output_never_blocks_the_child_and_only_its_end_is_kept() -> None:
    process = await start("for n in range(30000): print(n)\nprint('x' * 100000)\nprint('last')")
    assert await process.wait() == 0
    assert len(process.lines()) == KEPT_LINES
    assert process.lines()[-1] == "last"
    assert max(map(len, process.lines())) <= 2000


async def test_a_command_that_cannot_be_run_says_so() -> None:
    process = await KeptProcess.start(["/no/such/thing"], label="test", grace_s=0.1, environment={})
    assert await process.wait() == 127
    assert process.lines() == ["cannot run /no/such/thing: No such file or directory"]


async def test_stop_ends_every_generation_even_against_its_will() -> None:
    process = await start_stubborn()
    await process.stop()
    assert session_of(process.pid) == set()


async def test_a_child_that_obeys_is_given_time_to() -> None:
    process = await start(
        # Not print: the signal may come while the other print still holds its buffer.
        "import os, signal, sys, time\n"
        "def end(*_):\n    time.sleep(0.2); os.write(1, b'bye\\n'); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end); print('up', flush=True); time.sleep(600)",
        grace_s=20.0,
    )
    await until(lambda: process.lines() == ["up"])
    await process.stop()
    assert process.lines() == ["up", "bye"]


async def test_what_a_command_leaves_behind_ends_with_it() -> None:
    process = await start("import os, time\nif os.fork() == 0:\n    os.setsid(); time.sleep(600)\nprint('done')")
    assert await process.wait() == 0
    assert session_of(process.pid) == set()


async def test_killing_the_keeper_ends_the_rest() -> None:
    process = await start_stubborn()
    os.kill(process.pid, signal.SIGKILL)
    await until(lambda: not session_of(process.pid))
    await process.stop()


async def test_killing_the_guard_alone_changes_nothing_but_stop_still_works() -> None:
    process = await start_stubborn()
    os.kill(guard_of(process.pid), signal.SIGKILL)
    await until(lambda: len(session_of(process.pid)) == 4)
    await process.stop()
    assert session_of(process.pid) == set()


def guard_of(keeper: int) -> int:
    """The first process that a keeper forks."""
    return int(Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()[0])


async def test_a_keeper_that_hangs_is_killed_and_the_rest_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.upstreams.processes.STOP_S", 0.1)
    process = await start_stubborn()
    os.kill(process.pid, signal.SIGSTOP)
    await process.stop()
    await until(lambda: not session_of(process.pid))
    await process.wait()  # until this process has noticed, too


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_the_parents_end_by_a_signal_ends_everything(number: signal.Signals, tmp_path: Path) -> None:
    script = (
        "import asyncio, sys\n"
        "from proxy.upstreams.processes import KeptProcess\n"
        "async def main():\n"
        f"    process = await KeptProcess.start([sys.executable, '-c', {STUBBORN!r}], label='test', grace_s=0.2,\n"
        "        environment={})\n"
        "    while process.lines() != ['up']: await asyncio.sleep(0.01)\n"
        "    print(process.pid, flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    keeper = await read_number(parent.stdout)
    await until(lambda: len(session_of(keeper)) == 5)
    parent.send_signal(number)
    await parent.wait()
    await until(lambda: not session_of(keeper))


async def read_number(stream: asyncio.StreamReader) -> int:
    """The next number that is a line of its own; other lines are log."""
    while True:
        line = await stream.readline()
        assert line, "it ended"
        if line.strip().isdigit():
            return int(line)


async def test_secrets_and_settings_are_not_passed_to_children(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REPLICATE_API_TOKEN", "HOTPLATE_AUTH__TOKENS", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    given = child_environment(PORT="1")
    assert "secret" not in given.values()
    assert (given["CUDA_VISIBLE_DEVICES"], given["PORT"]) == ("1", "1")
    assert "PATH" in given


def test_a_run_folder_lasts_until_closed_and_sweeps_what_the_dead_left(tmp_path: Path) -> None:
    script = (
        "import pathlib, os, signal\n"
        "from proxy.upstreams.run_folder import RunFolder\n"
        f"folder = RunFolder.open(pathlib.Path({str(tmp_path)!r}))\n"
        "(folder.path / 'left').write_text('x'); print(folder.path, flush=True); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    dead = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=False)
    left = Path(dead.stdout.strip())
    assert (left / "left").exists()
    first = RunFolder.open(tmp_path)
    assert not left.exists()
    second = RunFolder.open(tmp_path)
    assert first.path.is_dir()
    assert second.path != first.path
    first.close()
    second.close()
    assert list(tmp_path.iterdir()) == []


def test_run_folders_are_closed_to_other_users(tmp_path: Path) -> None:
    folder = RunFolder.open(tmp_path / "run" / "demo")
    Scratch(tmp_path / "run" / "other").note("abcdefgh")
    made = list((tmp_path / "run").rglob("*"))
    assert len(made) == 6
    assert [path for path in made if path.stat().st_mode & 0o077] == []
    folder.close()


async def test_a_run_folder_is_not_swept_before_the_last_child_has_ended(tmp_path: Path) -> None:
    """A start right after a kill swept folders of copies that were still ending; what they wrote then stayed."""
    folder = RunFolder.open(tmp_path)
    child = await start("import time; time.sleep(600)", pass_fds=(folder.held,))
    os.close(folder.held)  # as when this process is killed
    sweep(tmp_path)
    assert folder.path.is_dir()
    await child.stop()
    sweep(tmp_path)
    assert os.listdir(tmp_path) == []


def test_scratch_of_noted_runs_is_removed_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "predictions"
    monkeypatch.setattr(run_folder, "COGLET_SCRATCH", scratch)
    for name in ("ended", "killed", "anothers", "anothers/outputs"):
        (scratch / name).mkdir(parents=True)
    before = Scratch(tmp_path / "run" / "demo")
    for run_id in ("ended", "killed", "..", ".", "../predictions", "anothers/outputs", ""):
        before.note(run_id)
    before.remove("ended")
    assert sorted(path.name for path in scratch.iterdir()) == ["anothers", "killed"]
    Scratch(tmp_path / "run" / "demo").sweep()
    assert [path.name for path in scratch.iterdir()] == ["anothers"]
    assert (scratch / "anothers" / "outputs").is_dir()
    assert list((tmp_path / "run" / "demo").iterdir()) == []
