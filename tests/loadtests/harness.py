"""What the tests of the double share: clients, creates, certificates."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx
import trustme

from loadtests.fake_model.process import ALICE, FakeModel
from loadtests.fake_model.sites import NAMES

WAIT = {"prefer": "wait=30"}
FOX = {"prompt": "a red fox"}


@dataclass(frozen=True, slots=True)
class Authority:
    """A local authority, and a certificate of it for this machine and the real service's names."""

    ca: Path
    certificate: Path

    @property
    def arguments(self) -> tuple[str, ...]:
        """Command line of a double with a TLS site."""
        return ("--tls-cert", str(self.certificate), "--tls-key", str(self.certificate))

    @property
    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.ca))


def make_authority(folder: Path) -> Authority:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    ca.issue_cert("127.0.0.1", "localhost", *NAMES.values()).private_key_and_cert_chain_pem.write_to_path(
        str(folder / "server.pem")
    )
    return Authority(folder / "ca.pem", folder / "server.pem")


def client_of(fake: FakeModel, token: str | None = ALICE) -> httpx.Client:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return httpx.Client(base_url=fake.base_url, headers=headers, trust_env=False, verify=False)


def create(client: httpx.Client, model: str = "acme/pixel", **given: Any) -> dict[str, Any]:
    """A waited create on an official model, which must succeed as a request."""
    answer = client.post(f"/models/{model}/predictions", json={"input": {**FOX, **given}}, headers=WAIT)
    assert answer.status_code == 201, answer.text
    prediction: dict[str, Any] = answer.json()
    return prediction


def start(client: httpx.Client, model: str = "acme/pixel", **given: Any) -> dict[str, Any]:
    """A create that nobody waits for."""
    answer = client.post(f"/models/{model}/predictions", json={"input": {**FOX, **given}})
    assert answer.status_code == 201, answer.text
    prediction: dict[str, Any] = answer.json()
    return prediction


def until(is_true: Callable[[], object], within_s: float = 5.0) -> None:
    """Wait until it holds, or fail."""
    end = monotonic() + within_s
    while not is_true():
        assert monotonic() < end, "it did not come about"
        sleep(0.01)
