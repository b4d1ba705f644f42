"""Fixtures that every test may use."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import settings

# How long an example takes says more of the machine than of the code.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Coroutine tests run on asyncio alone: uvicorn and diskcache know no other loop."""
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def roots_read_once() -> Iterator[None]:
    """The tests' own clients share the usual roots: each call of ``httpx.get`` would spend 15 ms on reading them."""
    usual = httpx.create_ssl_context(trust_env=False)

    def context(verify: Any = True, cert: Any = None, trust_env: bool = True) -> ssl.SSLContext:
        if verify is True and cert is None and not trust_env:
            return usual
        return httpx.create_ssl_context(verify=verify, cert=cert, trust_env=trust_env)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("httpx._transports.default.create_ssl_context", context)
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse names of tests that are others in each process: processes that share the suite would disagree about it."""
    for item in items:
        if re.search(r" at 0x[0-9a-f]{6,}", item.nodeid):
            raise pytest.UsageError(f"{item.nodeid}: give its parameters ids, this one names an address in memory")
