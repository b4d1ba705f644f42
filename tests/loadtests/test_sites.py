"""One world, two sites: plain http, and TLS."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from loadtests.fake_model.process import ALICE, FakeModel, fake_model
from loadtests.fake_model.sites import NAMES
from tests.loadtests.harness import FOX, WAIT, Authority, client_of, create

pytestmark = pytest.mark.slow


@pytest.fixture
def secure(fake: FakeModel, authority: Authority) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {ALICE}"}
    with httpx.Client(base_url=fake.tls_base_url, headers=headers, verify=authority.context, trust_env=False) as client:
        yield client


def test_urls_belong_to_the_site_that_is_asked(alice: httpx.Client, secure: httpx.Client, fake: FakeModel) -> None:
    made = create(secure)
    assert made["urls"]["get"].startswith(f"{fake.tls_base_url}/predictions/")
    assert made["urls"]["cancel"].startswith(f"{fake.tls_base_url}/predictions/")
    assert made["urls"]["stream"].startswith(f"{fake.tls_stream_origin}/v1/files/")
    assert made["output"][0].startswith(f"{fake.tls_delivery_origin}/")
    plain = alice.get(f"/predictions/{made['id']}").json()
    assert plain["urls"]["get"].startswith(f"{fake.base_url}/predictions/")
    assert plain["urls"]["stream"].startswith(f"{fake.stream_origin}/v1/files/")
    assert plain["output"][0].startswith(f"{fake.delivery_origin}/")
    assert secure.get(f"/predictions/{made['id']}").json() == made


def test_outputs_and_streams_of_both_sites_are_the_same(
    alice: httpx.Client, secure: httpx.Client, nobody: httpx.Client, authority: Authority
) -> None:
    made = create(secure)
    plain = alice.get(f"/predictions/{made['id']}").json()
    with httpx.Client(verify=authority.context, trust_env=False) as trusting:
        assert trusting.get(made["output"][0]).content == nobody.get(plain["output"][0]).content
        told = trusting.get(made["urls"]["stream"]).text
    assert made["output"][0] in told
    assert plain["output"][0] in nobody.get(plain["urls"]["stream"]).text


def test_pages_lead_on_where_they_were_asked_for(alice: httpx.Client, secure: httpx.Client, fake: FakeModel) -> None:
    fake.set_options(page_size=1)
    for _ in range(2):
        create(alice)
    assert secure.get("/predictions").json()["next"].startswith(f"{fake.tls_base_url}/predictions?cursor=")
    assert alice.get("/predictions").json()["next"].startswith(f"{fake.base_url}/predictions?cursor=")


def test_faults_befall_both_sites(secure: httpx.Client, fake: FakeModel, authority: Authority) -> None:
    for kind in ("drop-fin", "drop-rst"):
        fake.fault(kind, "account")
        with pytest.raises(httpx.TransportError):
            secure.get("/account")
    url = create(secure)["output"][0]
    fake.fault("truncated", "output")
    with httpx.Client(verify=authority.context, trust_env=False) as trusting:
        with pytest.raises(httpx.RemoteProtocolError):
            trusting.get(url)
        assert trusting.get(url).status_code == 200


def test_named_site_advertises_the_real_service_s_names_and_follows_them(authority: Authority) -> None:
    """The client's one address leads to all three hosts, as with an overridden resolver."""
    with fake_model(*authority.arguments, "--names") as fake:
        origin = f"https://127.0.0.1:{fake.tls_port}"

        def ask(method: str, url: str, **more: object) -> httpx.Response:
            there = httpx.URL(url)
            with httpx.Client(verify=authority.context, trust_env=False) as client:
                request = client.build_request(method, f"{origin}{there.raw_path.decode()}", **more)  # type: ignore[arg-type]
                request.headers["host"] = there.host
                request.extensions["sni_hostname"] = there.host
                return client.send(request)

        made = ask(
            "POST",
            "https://api.replicate.com/v1/models/acme/pixel/predictions",
            json={"input": FOX},
            headers={"authorization": f"Bearer {ALICE}", **WAIT},
        ).json()
        assert made["urls"]["get"] == f"https://api.replicate.com/v1/predictions/{made['id']}"
        assert made["urls"]["stream"].startswith("https://stream.replicate.com/v1/files/")
        assert made["output"][0].startswith("https://replicate.delivery/")
        assert ask("GET", made["output"][0]).content.startswith(b"\x89PNG")
        assert made["output"][0] in ask("GET", made["urls"]["stream"]).text
        with client_of(fake) as plain:
            assert plain.get(f"/predictions/{made['id']}").json()["output"][0].startswith(fake.delivery_origin)
    assert set(NAMES.values()) == {"api.replicate.com", "replicate.delivery", "stream.replicate.com"}


@pytest.mark.parametrize("arguments", [("--names",), ("--tls-cert", "x.pem")])
def test_half_a_tls_site_is_refused(arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "loadtests.fake_model", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 2
    assert "--tls-cert and --tls-key" in ended.stderr


def test_help_names_every_group() -> None:
    command = [sys.executable, "-m", "loadtests.fake_model", "--help"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    for group in ("sites:", "accounts and limits:", "predictions:", "files:", "webhooks:"):
        assert group in told
