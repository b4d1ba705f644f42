"""Where cases are kept: a case is a function of a ``Bench``, made one by a decorator.

It asserts what it can know by itself and returns what it saw; the suite compares that between the API itself, a miss
and a hit. The decorator names the modes in which a case makes sense, each with the runs that the API may have counted:
for a hit that is none, unless the case says why.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.conformance.bench import Bench, Mode


@dataclass(frozen=True, slots=True)
class Case:
    """One case.

    Attributes:
        title: for the page, after "A client can …".
        runs: how many runs each mode may cost; a mode that is missing makes no sense.
    """

    name: str
    title: str
    do: Callable[[Bench], Any]
    runs: dict[Mode, int]


CASES: dict[str, Case] = {}


def case(title: str, **runs: int) -> Callable[[Callable[[Bench], Any]], Callable[[Bench], Any]]:
    """Make a function a case; the keywords are modes and their runs."""

    def register(do: Callable[[Bench], Any]) -> Callable[[Bench], Any]:
        name = do.__name__.replace("_", "-")
        CASES[name] = Case(name, title, do, dict(runs))  # type: ignore[arg-type]
        return do

    return register


def eventually(is_so: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    """Whether something becomes true in time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if is_so():
            return True
        time.sleep(0.05)
    return is_so()
