"""What may be looked up, shared and stored. Every doubt ends in a miss, with the reason said.

A create request becomes one of two plans: ``Cached`` (look up, share a run, store) or ``Bypass`` (a run of its
own, nothing kept). A finished run becomes ``Store`` or ``Skip``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from proxy.core.outputs import OutputPlan


@dataclass(frozen=True, slots=True)
class Cached:
    """Look up, share and store.

    Attributes:
        may_look_up: whether a stored result may be the answer (``Cache-Control: no-cache`` says no).
    """

    may_look_up: bool = True


@dataclass(frozen=True, slots=True)
class Bypass:
    """A run of its own, nothing looked up, shared or kept; ``reason`` goes into ``Cache-Status``.

    ``"url-input"``: the input holds a URL, which is a name, and what it names may change. ``"unread-file"``: it names a
    file that could not be had in time to be keyed by its bytes.
    """

    reason: Literal["off", "request", "url-input", "unread-file"]


LookupPlan: TypeAlias = Cached | Bypass


@dataclass(frozen=True, slots=True)
class Store:
    """Keep the result."""


@dataclass(frozen=True, slots=True)
class Skip:
    """Hand the result out, but do not keep it."""

    reason: Literal["bypass", "status", "no-files", "foreign-url", "not-fetched"]


def plan_lookup(*, enabled: bool, cache_control: str | None) -> LookupPlan:
    """Decide how a create request uses the cache, as far as its input allows (see ``engine/file_inputs``).

    Args:
        enabled: the operator's switch.
        cache_control: the request's ``Cache-Control``; ``no-store`` bypasses, ``no-cache`` and ``max-age=0``
            demand a new run.

    Source: RFC 9111 sections 5.2.1.4 and 5.2.1.5.
    """
    directives = {part.strip().lower().replace(" ", "") for part in (cache_control or "").split(",")}
    if not enabled:
        return Bypass("off")
    if "no-store" in directives:
        return Bypass("request")
    return Cached(may_look_up=directives.isdisjoint({"no-cache", "max-age=0"}))


def plan_store(plan: LookupPlan, status: str, output: OutputPlan, fetched_files: int) -> Store | Skip:
    """Decide whether a finished run is kept: succeeded, with files, and every one of them fetched whole."""
    if isinstance(plan, Bypass):
        return Skip("bypass")
    if status != "succeeded":
        return Skip("status")
    if output.foreign:
        return Skip("foreign-url")
    if not output.files:
        return Skip("no-files")
    return Store() if fetched_files == len(output.files) else Skip("not-fetched")


UNPINNED_TTL_S = 7 * 86_400.0
"""How long a result of a model whose version is not told may be served: the model changes without notice."""


def is_fresh(completed_at: float, *, is_pinned: bool, now: float) -> bool:
    """Whether a stored result is young enough to be served; one of a pinned version always is."""
    return is_pinned or now - completed_at < UNPINNED_TTL_S
