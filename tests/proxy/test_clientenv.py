from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from proxy.clientenv import client_environment, listening_url, render_environment
from proxy.settings import load_settings

BUNDLE = Path("/data/it's here/ca-bundle.pem")


def test_plain_http_needs_no_trust() -> None:
    assert client_environment("http://127.0.0.1:8484", None, None) == {"REPLICATE_BASE_URL": "http://127.0.0.1:8484"}


def test_with_an_authority_every_client_is_told_where_it_is() -> None:
    variables = client_environment("https://localhost:8484", Path("/data/ca.pem"), BUNDLE)
    assert variables["NODE_EXTRA_CA_CERTS"] == "/data/ca.pem"
    assert {variables[name] for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")} == {str(BUNDLE)}


def test_shell_reads_back_what_was_printed() -> None:
    variables = client_environment("https://localhost:8484", Path("/data/ca.pem"), BUNDLE)
    script = render_environment(variables, "sh") + '\nprintf "%s" "$SSL_CERT_FILE"'
    sh = shutil.which("sh")
    assert sh is not None
    assert subprocess.run([sh, "-c", script], capture_output=True, text=True, check=True).stdout == str(BUNDLE)


def test_json_is_the_variables() -> None:
    variables = client_environment("http://x", None, None)
    assert json.loads(render_environment(variables, "json")) == variables


def test_fish_has_its_own_words() -> None:
    text = render_environment(client_environment("http://x", None, None), "fish")
    assert text.startswith("set -gx REPLICATE_BASE_URL http://x\n")


@pytest.mark.parametrize(
    ("public", "tls", "url"),
    [
        ({}, "off", "http://127.0.0.1:8484"),
        ({"port": 9000}, "local-ca", "https://127.0.0.1:9000"),
        ({"host": "::1"}, "off", "http://[::1]:8484"),
        ({"host": "0.0.0.0"}, "off", "http://localhost:8484"),
        ({"base_url": "https://images.example.com/v1/"}, "off", "https://images.example.com"),
    ],
)
def test_address_is_what_clients_can_use(public: dict[str, object], tls: str, url: str) -> None:
    assert listening_url(load_settings(overrides={"public": public, "tls": {"mode": tls}})) == url
