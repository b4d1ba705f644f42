"""The bench's scenes, without its clocks: what is asked must be answered, however long it takes."""

from __future__ import annotations

import pytest

from loadtests.bench.inflight import run_in_flight


@pytest.mark.slow
def test_hundreds_of_runs_in_flight_end_well() -> None:
    found = run_in_flight(512, 12.0, measures=False)
    assert found.failures == []
    assert found.looks >= 512
    assert found.looks / 512 < 25, "each run is looked at by one follower, at the pace of its model"
