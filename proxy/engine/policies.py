"""The rules that hold now. They may change while requests are on their way: each goes by those that it met first."""

from __future__ import annotations

from proxy.core.policy import PolicyBook
from proxy.core.prices import UNPRICED, Price


class PolicyDesk:
    """Holds the operator's policies and the kill switch. Used from the event loop alone."""

    def __init__(self, book: PolicyBook, *, is_enabled: bool = True) -> None:
        """``is_enabled``: whether the settings let the cache be used at all."""
        self.is_enabled = is_enabled
        self.book = book
        self.is_bypassed = False

    def has_profile(self, name: str) -> bool:
        """Whether a policy has that name."""
        return self.book.has_profile(name)

    @property
    def uses_cache(self) -> bool:
        """Whether anything may be looked up, shared or kept now."""
        return self.is_enabled and not self.is_bypassed


def price_of(book: PolicyBook, model: str) -> Price:
    """What a model's runs cost: what its policy says, whatever profile it was asked by."""
    policy = book.find(None, model)
    return Price(policy.price_per_second, policy.price_per_output) if policy is not None else UNPRICED
