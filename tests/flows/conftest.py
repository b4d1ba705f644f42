"""Whole proxies for the flow tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.flows.harness import ProxyProcess, local_config, running_proxy


@pytest.fixture(scope="session")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyProcess]:
    """A proxy in front of the demo model, whose prompts may ask for faults."""
    config = local_config(environment={"HOTPLATE_DEMO_FAULTS": "1"})
    with running_proxy(tmp_path_factory.mktemp("flows") / "data", config) as proxy:
        yield proxy
