"""With ``hotplate env`` applied, clients trust the proxy and go on trusting everybody else."""

from __future__ import annotations

import re
import ssl
import subprocess
import sys
from pathlib import Path

import certifi
import pytest

from proxy.tls import LocalAuthority, server_context
from tests.clients.conftest import readme_example
from tests.flows.harness import ROOT, ProxyProcess
from tests.proxy.test_tls import output_of, serving

FETCH = "import sys, httpx; print([httpx.get(url).text for url in sys.argv[1:]])"


def certificates(path: Path) -> set[bytes]:
    """The certificates of a PEM file, each as its DER bytes."""
    blocks = re.findall(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", path.read_text("utf-8"), re.DOTALL)
    return {ssl.PEM_cert_to_DER_cert(block) for block in blocks}


@pytest.mark.anyio
async def test_another_https_host_still_verifies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other host's authority stands among certifi's roots, as a public one does; ours comes beside it."""
    other = LocalAuthority(tmp_path / "other").ensure()
    assert other.ca_file is not None
    roots = certifi.contents() + "\n" + other.ca_file.read_text(encoding="utf-8")
    monkeypatch.setattr(certifi, "contents", lambda: roots)
    ours = LocalAuthority(tmp_path / "ours").ensure()
    async with serving(server_context(other)) as other_port, serving(server_context(ours)) as our_port:
        urls = [f"https://localhost:{port}/" for port in (other_port, our_port)]
        status, text = await output_of(sys.executable, "-c", FETCH, *urls, SSL_CERT_FILE=str(ours.ca_bundle_file))
        assert (status, text.strip()) == (0, "['warm', 'warm']")
        # Our authority alone, which a naive SSL_CERT_FILE would be, breaks the other host.
        status, text = await output_of(sys.executable, "-c", FETCH, *urls, SSL_CERT_FILE=str(ours.ca_file))
        assert status != 0
        assert "CERTIFICATE_VERIFY_FAILED" in text


def test_bundle_that_env_names_holds_every_usual_root_and_ours(proxy: ProxyProcess) -> None:
    if not proxy.public_url.startswith("https:"):
        return  # nothing to trust
    bundle = certificates(proxy.data_dir / "tls" / "ca-bundle.pem")
    (ours,) = certificates(proxy.data_dir / "tls" / "ca.pem")
    assert bundle == {*certificates(Path(certifi.where())), ours}


def test_run_command_gives_a_program_all_that_it_needs(proxy: ProxyProcess, tmp_path: Path) -> None:
    """``hotplate run -- python example.py`` with the proxy's own settings."""
    is_tls = proxy.public_url.startswith("https:")
    port = proxy.public_url.rpartition(":")[2]
    example = tmp_path / "example.py"
    example.write_text(readme_example("python"), encoding="utf-8")
    hotplate_run = [sys.executable, "-m", "proxy", "run", *(["--tls"] if is_tls else []), "--"]
    done = subprocess.run(
        [*hotplate_run, sys.executable, "-W", "ignore", str(example)],
        cwd=tmp_path,
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(ROOT),
            "HOTPLATE_DATA_DIR": str(proxy.data_dir),
            "HOTPLATE_PUBLIC__PORT": port,
            "REPLICATE_API_TOKEN": "any",
        },
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "output.png").stat().st_size > 1000
