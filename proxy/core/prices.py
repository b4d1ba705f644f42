"""What a run costs. Prices are the operator's own, in the operator's currency: no API tells them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

GB_HOURS_PER_MONTH = 730.0
"""Hours of an average month: what clouds divide a monthly price of storage by."""


@dataclass(frozen=True, slots=True)
class Price:
    """Price of one model's runs; a model has one of the two, or both.

    Attributes:
        per_second: for each second of compute.
        per_output: for each output of a run that succeeded, as Replicate's official models are priced.
    """

    per_second: float = 0.0
    per_output: float = 0.0


UNPRICED = Price()
"""Of a model whose price nobody gave: its seconds are counted, its money is not."""

PriceOf = Callable[[str, str], Price]
"""The price of runs at an upstream (by name) of a model (``"owner/name"``)."""


def cost(price: Price, seconds: float, outputs: int) -> float:
    """What a run of ``seconds`` that gave ``outputs`` costs."""
    return price.per_second * seconds + price.per_output * outputs


def storage_cost(per_gb_month: float, gb_hours: float) -> float:
    """What it costs to keep bytes: decimal gigabytes times hours, at a price for a gigabyte and a month."""
    return per_gb_month * gb_hours / GB_HOURS_PER_MONTH
