"""One suite for the session: its worlds and drivers live as long as it does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.suite import Suite


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    suite = Suite(tmp_path_factory.mktemp("conformance"))
    try:
        yield suite
    finally:
        suite.close()
