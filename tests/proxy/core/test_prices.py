from __future__ import annotations

import pytest

from proxy.core.prices import UNPRICED, Price, cost, storage_cost


@pytest.mark.parametrize(
    ("price", "seconds", "outputs", "costs"),
    [
        (Price(per_second=0.001525), 10.0, 4, 0.01525),
        (Price(per_output=0.003), 10.0, 4, 0.012),
        (Price(0.001, 0.003), 10.0, 1, 0.013),
        (Price(per_output=0.003), 10.0, 0, 0.0),
        (UNPRICED, 10.0, 4, 0.0),
    ],
)
def test_run_costs_its_seconds_and_its_outputs(price: Price, seconds: float, outputs: int, costs: float) -> None:
    assert cost(price, seconds, outputs) == pytest.approx(costs)


def test_gigabyte_kept_for_a_month_costs_the_monthly_price() -> None:
    assert storage_cost(0.1, 730.0) == pytest.approx(0.1)
    assert storage_cost(0.1, 2 * 365.0) == pytest.approx(0.1)
    assert storage_cost(0.0, 1e9) == 0.0
