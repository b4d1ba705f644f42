"""Clients, each as its users have it."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.harness import ROOT, ProxyProcess, local_config, running_proxy

JAVASCRIPT = Path(__file__).parent / "javascript"


def readme_example(language: str) -> str:
    """The one example of the README in ``language``, as a reader would copy it."""
    blocks = re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (example,) = [block for block in blocks if "flux-schnell" in block]
    return str(example)


@pytest.fixture(scope="session", params=["http", "tls"])
def proxy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyProcess]:
    """A proxy in front of the demo model, over plain http and over TLS."""
    data_dir = tmp_path_factory.mktemp("clients") / f"data-{request.param}"
    with running_proxy(data_dir, local_config(max_copies=2), tls=request.param == "tls") as proxy:
        yield proxy


@pytest.fixture
def client_env(proxy: ProxyProcess) -> dict[str, str]:
    """What ``hotplate env`` gives for this proxy, on top of a bare environment."""
    bare = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    env = {**bare, "REPLICATE_BASE_URL": proxy.public_url, "REPLICATE_API_TOKEN": "any"}
    if proxy.public_url.startswith("https:"):
        certificates = proxy.data_dir / "tls"
        env["NODE_EXTRA_CA_CERTS"] = str(certificates / "ca.pem")
        for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            env[name] = str(certificates / "ca-bundle.pem")
    return env


@pytest.fixture(scope="session")
def javascript() -> Path:
    """A folder in which npm's ``replicate`` is installed by its lock."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        if os.environ.get("CI"):
            pytest.fail("node and npm are needed for the JavaScript client's tests")
        pytest.skip("node and npm are not installed")
    folder = ROOT / ".clients" / "javascript"
    folder.mkdir(parents=True, exist_ok=True)
    lock = (JAVASCRIPT / "package-lock.json").read_bytes()
    marker = folder / ".installed"
    with (folder.parent / "javascript.lock").open("w") as one_at_a_time:
        fcntl.flock(one_at_a_time, fcntl.LOCK_EX)  # processes that share the suite share the folder
        if not marker.is_file() or marker.read_bytes() != lock:
            for name in ("package.json", "package-lock.json"):
                shutil.copy(JAVASCRIPT / name, folder / name)
            subprocess.run(
                ["npm", "ci", "--no-audit", "--no-fund"], cwd=folder, check=True, capture_output=True, timeout=110
            )
            marker.write_bytes(lock)
    return folder
