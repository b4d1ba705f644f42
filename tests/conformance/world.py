"""Where clients are let loose: the double of the API over TLS, Hotplate over TLS in front of it, a webhook receiver.

Clients make file objects of ``https:`` addresses alone, so both ends speak TLS to them, each with an authority of its
own; one bundle holds both. Hotplate itself reaches the double by its plain site. Some clients cannot be aimed but by
name resolution: for them there is a second world in which both ends go by the real service's names.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import certifi
import httpx
import trustme

from loadtests.fake_model.process import ALICE, BOB, FakeModel, fake_model
from tests.conformance.clients import CLIENTS
from tests.conformance.receiver import Receiver, receiving
from tests.conformance.repertoire import version_of
from tests.flows.harness import ProxyProcess, running_proxy

Side = Literal["direct", "proxy"]
"""Whom a client talks to: the API itself, or Hotplate in front of it."""

NAMES = ("api.replicate.com", "replicate.delivery", "stream.replicate.com")
POOR = "r8_poor00000000000000000000000000000000"
WRONG = "r8_wrong0000000000000000000000000000000"
PAGE_SIZE = 3
"""Small, so that a few predictions make several pages."""


def lister(client: str, side: Side) -> str:
    """The token of an account that only lists: what others do must not be on its pages."""
    return f"r8_lists_{client.replace('-', '_')}_{side}".ljust(40, "0")


class World(Protocol):
    """What a case knows of the two ends.

    Attributes:
        has_accounts: whether tokens are told apart.
    """

    receiver: Receiver
    ca_bundle: Path
    has_accounts: bool

    def base_url(self, side: Side) -> str:
        """Where a client asks, without ``/v1``."""

    def dns(self, side: Side) -> dict[str, list[str | int]]:
        """Where host names lead, for clients that go by them."""

    def http(self, side: Side, token: str = ALICE) -> httpx.Client:
        """An HTTP client of our own."""

    def a_version(self) -> str:
        """A version that can be run by itself."""

    def runs(self) -> int:
        """How many runs of models there have been so far, by those who made them."""

    def cancels(self) -> int:
        """A number that grows when a run is cancelled."""

    def expire(self) -> None:
        """End the life of everything that the API has made so far."""

    def throttled(self) -> AbstractContextManager[None]:
        """While the API refuses every create with 429."""


@dataclass(frozen=True)
class ApiWorld:
    """The double of the API, and Hotplate in front of it."""

    double: FakeModel
    proxy: ProxyProcess
    receiver: Receiver
    ca_bundle: Path
    has_names: bool
    has_accounts: bool = True

    def base_url(self, side: Side) -> str:
        """Where a client asks, without ``/v1``."""
        if self.has_names:
            return f"https://{NAMES[0]}"
        return f"https://127.0.0.1:{self.double.tls_port}" if side == "direct" else self.proxy.public_url

    def dns(self, side: Side) -> dict[str, list[str | int]]:
        """Where host names lead, for clients that go by them."""
        if not self.has_names:
            return {}
        return {name: ["127.0.0.1", self.port(side)] for name in NAMES}

    def port(self, side: Side) -> int:
        if side == "direct":
            return self.double.tls_port
        return int(self.proxy.public_url.rpartition(":")[2])

    def http(self, side: Side, token: str = ALICE) -> httpx.Client:
        """An HTTP client of our own; the names of a named world are reached by address."""
        context = ssl.create_default_context(cafile=str(self.ca_bundle))
        context.check_hostname = not self.has_names
        return httpx.Client(
            base_url=f"https://127.0.0.1:{self.port(side)}",
            headers={"Authorization": f"Bearer {token}"},
            verify=context,
            timeout=60,
            trust_env=False,
        )

    def a_version(self) -> str:
        """A version that can be run by itself."""
        return version_of("painters/brush")

    def expire(self) -> None:
        """End the life of everything that the API has made so far."""
        self.double.expire()

    @contextmanager
    def throttled(self) -> Iterator[None]:
        """While the API refuses every create with 429. Counters go on, as ``reset`` would not let them."""
        self.double.fault("throttle", "create", times=0, retry_after_s=1)
        try:
            yield
        finally:
            httpx.delete(f"http://127.0.0.1:{self.double.port}/_fault", trust_env=False).raise_for_status()

    def cancels(self) -> int:
        """How many runs have been cancelled at the API so far."""
        return int(self.double.counters()["cancels"])

    def runs(self) -> int:
        """How many runs of models the API has made so far."""
        counted: dict[str, int] = self.double.counters()["runs"]
        return sum(counted.values())


@contextmanager
def api_world(folder: Path, *, has_names: bool) -> Iterator[ApiWorld]:
    """The API's world in ``folder`` until the block is left."""
    authority = trustme.CA()
    names = ("127.0.0.1", "localhost", *(NAMES if has_names else ()))
    issued = authority.issue_cert(*names)
    cert, key = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    authority.cert_pem.write_to_path(folder / "authority.pem")
    arguments = ["--tls-cert", str(cert), "--tls-key", str(key), *(["--names"] if has_names else [])]
    arguments += ["--webhook-ca", str(folder / "authority.pem"), "--page-size", str(PAGE_SIZE), "--poor", "poor"]
    arguments += ["--fetch-ca", str(folder / "authority.pem")]
    arguments += [f"--account={name}={token}" for name, token in accounts().items()]
    with (
        receiving(cert, key) as receiver,
        fake_model(*arguments) as double,
        running_proxy(folder / "data", config(double, receiver, has_names=has_names), tls=True) as proxy,
    ):
        bundle = bundle_of(folder / "bundle.pem", folder / "authority.pem", proxy.data_dir / "tls" / "ca.pem")
        yield ApiWorld(double, proxy, receiver, bundle, has_names)


def bundle_of(bundle: Path, *authorities: Path) -> Path:
    """The usual roots and these authorities in one file, for settings that replace what a client trusts."""
    texts = [each.read_text(encoding="utf-8") for each in (Path(certifi.where()), *authorities)]
    bundle.write_text("\n".join(texts), encoding="utf-8")
    return bundle


def accounts() -> dict[str, str]:
    """Tokens by account."""
    sides: tuple[Side, ...] = ("direct", "proxy")
    listers = {f"lists-{client.name}-{side}": lister(client.name, side) for client in CLIENTS for side in sides}
    return {"alice": ALICE, "bob": BOB, "poor": POOR, **listers}


def config(double: FakeModel, receiver: Receiver, *, has_names: bool) -> str:
    """Hotplate's settings in front of the double's plain site."""
    lines = [
        '[[upstream]]\nkind = "replicate"\nname = "replicate"',
        f'base_url = "{double.base_url}"',
        f'output_origins = ["{double.delivery_origin}"]',
    ]
    lines.append(f'[webhooks]\norigins = ["{receiver.plain_origin}"]')
    if has_names:
        lines += [f'[public]\nbase_url = "https://{NAMES[0]}"', f'[tls]\nnames = ["{NAMES[0]}"]']
    return "\n".join(lines) + "\n"
