"""One double for most tests; each begins with its counters at zero, an open gate and no faults."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from loadtests.fake_model.process import BOB, FakeModel, fake_model
from tests.loadtests.harness import Authority, client_of, make_authority


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def double(authority: Authority) -> Iterator[FakeModel]:
    """With a TLS site; webhooks and file inputs over TLS are checked against the same authority."""
    ca = str(authority.ca)
    with fake_model(
        *authority.arguments, "--webhook-ca", ca, "--fetch-ca", ca, "--webhook-backoff-s", "0.02"
    ) as running:
        yield running


@pytest.fixture
def fake(double: FakeModel) -> FakeModel:
    double.reset()
    return double


@pytest.fixture
def alice(fake: FakeModel) -> Iterator[httpx.Client]:
    with client_of(fake) as client:
        yield client


@pytest.fixture
def bob(fake: FakeModel) -> Iterator[httpx.Client]:
    with client_of(fake, BOB) as client:
        yield client


@pytest.fixture(scope="session")
def nobody() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, verify=False) as client:
        yield client
