"""PyPI ``replicate`` 1.0.7, unmodified, over plain http and over TLS."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.clients.conftest import readme_example
from tests.flows.harness import README_MODEL, SMALL, ProxyProcess, local_config, running_proxy

ASK = """
import asyncio, hashlib, json, sys
import replicate

model, given, way = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
if way == "sync":
    output = replicate.run(model, input=given)
    data = output[0].read()
else:
    async def ask():
        output = await replicate.async_run(model, input=given)
        return await output[0].aread()
    data = asyncio.run(ask())
print(json.dumps({"type": type(data).__name__, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}))
"""


def python(code: str, env: dict[str, str], *arguments: str, cwd: Path | None = None) -> str:
    """What a Python program prints, in an environment of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *arguments],
        env=env,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def ask(env: dict[str, str], given: dict[str, Any], way: str = "sync") -> dict[str, Any]:
    """Run the README's model as a user does; what was read."""
    answer: dict[str, Any] = json.loads(python(ASK, env, README_MODEL, json.dumps(given), way))
    return answer


def test_readme_example_saves_a_picture(client_env: dict[str, str], tmp_path: Path) -> None:
    python(readme_example("python"), client_env, cwd=tmp_path)
    with Image.open(tmp_path / "output.png") as picture:
        picture.load()
        assert picture.size == (512, 512)


@pytest.mark.parametrize("way", ["sync", "async"])
def test_repeat_gives_the_same_bytes_without_a_run(proxy: ProxyProcess, client_env: dict[str, str], way: str) -> None:
    given = {"prompt": f"a lighthouse, {way}", **SMALL}
    first = ask(client_env, given, way)
    runs = proxy.runs()
    assert ask(client_env, given, way) == first
    assert ask(client_env, given, "sync" if way == "async" else "async") == first
    assert first["type"] == "bytes"
    assert proxy.runs() == runs


def test_repeat_survives_kill_and_restart(tmp_path: Path, client_env: dict[str, str], proxy: ProxyProcess) -> None:
    tls = proxy.public_url.startswith("https:")
    given = {"prompt": "a harbour in the rain", **SMALL}
    answers = []
    for ending in (signal.SIGKILL, signal.SIGTERM):
        with running_proxy(tmp_path / "data", local_config(), tls=tls) as own:
            env = {**client_env, "REPLICATE_BASE_URL": own.public_url}
            if tls:
                env["SSL_CERT_FILE"] = str(own.data_dir / "tls" / "ca-bundle.pem")
            answers.append(ask(env, given))
            assert own.runs() == (1 if ending is signal.SIGKILL else 0)
            own.stop(ending)
    assert answers[0] == answers[1]


def test_the_client_s_own_errors_are_raised(client_env: dict[str, str]) -> None:
    code = """
import replicate
from replicate.exceptions import ModelError, ReplicateError
try:
    replicate.run("black-forest-labs/flux-schnell", input={"prompt": "x", "width": 5})
except ReplicateError as error:
    print(error.status, error.title, "width" in error.detail)
try:
    replicate.run("nobody/nothing", input={"prompt": "x"})
except ReplicateError as error:
    print(error.status)
"""
    assert python(code, client_env).split() == ["422", "Input", "validation", "failed", "True", "404"]


def test_version_and_model_can_be_looked_up_and_run(client_env: dict[str, str]) -> None:
    code = """
import json, sys, replicate
model = replicate.models.get("black-forest-labs/flux-schnell")
version = model.latest_version
assert version.openapi_schema["components"]["schemas"]["Input"]["properties"]["prompt"]
given = json.loads(sys.argv[1])
by_name = replicate.run("black-forest-labs/flux-schnell", input=given)[0].read()
by_both = replicate.run(f"black-forest-labs/flux-schnell:{version.id}", input=given)[0].read()
prediction = replicate.predictions.create(version=version.id, input=given)
prediction.wait()
print(by_name == by_both, prediction.status, prediction.version == version.id)
"""
    given = json.dumps({"prompt": "three spellings of one model", **SMALL})
    assert python(code, client_env, given).split() == ["True", "succeeded", "True"]
