"""One suite for the session: its worlds and drivers live as long as it does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.register_assert_rewrite("tests.conformance.cases")

from tests.conformance.suite import Suite  # noqa: E402 - after the registration, so that failed cases say why


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    suite = Suite(tmp_path_factory.mktemp("conformance"))
    try:
        yield suite
    finally:
        suite.close()
