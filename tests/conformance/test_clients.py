"""Every client, unmodified, in every case: at the API itself, through Hotplate, and through it once more."""

from __future__ import annotations

import os

import pytest

from tests.conformance.bench import Mode
from tests.conformance.cases import CASES, Case
from tests.conformance.clients import CLIENTS, Client
from tests.conformance.environments import ClientMissing, ensure_environment
from tests.conformance.suite import Suite, at_the_api, modes_of

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]

ALL = [
    pytest.param(client, case, mode, id=f"{client.name}-{case.name}-{mode}")
    for client in CLIENTS
    for case in CASES.values()
    for mode in modes_of(at_the_api(client), case)
]


@pytest.fixture(scope="session")
def installed() -> dict[str, str | None]:
    """Why a client is not on this machine; ``None`` for those that are."""
    return {}


@pytest.mark.parametrize(("client", "case", "mode"), ALL)
@pytest.mark.timeout(300)
def test_client_finds_what_the_api_gives(
    suite: Suite, installed: dict[str, str | None], client: Client, case: Case, mode: Mode
) -> None:
    _install(client, installed)
    outcome = suite.outcome(at_the_api(client), case, mode)
    if outcome.reason is not None:
        assert not client.is_able(case.name), f"it says that it cannot: {outcome.reason}"
        return
    assert client.is_able(case.name), "it can, although the suite says that it cannot"
    if outcome.error is not None:
        raise outcome.error


def _install(client: Client, installed: dict[str, str | None]) -> None:
    if client.name not in installed:
        try:
            ensure_environment(client.name)
            installed[client.name] = None
        except ClientMissing as missing:
            installed[client.name] = str(missing)
    reason = installed[client.name]
    if reason is not None:
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
