from __future__ import annotations

import resource

import pytest

from proxy.descriptors import affordable_connections

ENDLESS = resource.RLIM_INFINITY


class Limits:
    """The system's limits of open files, in place of the real ones."""

    def __init__(self, soft: int, hard: int, *, may_raise: bool = True) -> None:
        self.soft, self.hard, self.may_raise = soft, hard, may_raise

    def get(self, kind: int) -> tuple[int, int]:
        return self.soft, self.hard

    def set(self, kind: int, limits: tuple[int, int]) -> None:
        if not self.may_raise or limits[1] != self.hard:
            raise ValueError("not allowed")
        self.soft = limits[0]


@pytest.mark.parametrize(
    ("soft", "hard", "connections", "then"),
    [
        (1024, 500_000, 10_000, 13_334),
        (1024, ENDLESS, 10_000, 13_334),
        (1024, 4096, 3072, 4096),
        (50_000, 500_000, 10_000, 50_000),
        (ENDLESS, ENDLESS, 10_000, ENDLESS),
        (1, 1, 1, 1),
    ],
)
def test_limit_is_raised_as_far_as_needed_and_allowed(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, connections: int, then: int
) -> None:
    limits = Limits(soft, hard)
    monkeypatch.setattr(resource, "getrlimit", limits.get)
    monkeypatch.setattr(resource, "setrlimit", limits.set)
    assert affordable_connections(10_000) == connections
    assert limits.soft == then


def test_limit_that_cannot_be_raised_bounds_the_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(1024, 500_000, may_raise=False)
    monkeypatch.setattr(resource, "getrlimit", limits.get)
    monkeypatch.setattr(resource, "setrlimit", limits.set)
    assert affordable_connections(10_000) == 768
