"""What may be looked up, shared and stored. Every doubt ends in a miss, with the reason said.

A create request becomes one of two plans: ``Cached`` (look up, share a run, store) or ``Bypass`` (a run of its
own, nothing kept). A finished run becomes ``Store`` or ``Skip``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from proxy.core.canonical import strings_in
from proxy.core.outputs import OutputPlan
from storage.records import JsonObject, JsonValue


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


def plan_store(
    plan: LookupPlan, status: str, output: OutputPlan, fetched_files: int, *, is_text_kept: bool = False
) -> Store | Skip:
    """Decide whether a finished run is kept: succeeded, and every file fetched whole; without files, text that may be
    kept (``may_keep_text``)."""
    if isinstance(plan, Bypass):
        return Skip("bypass")
    if status != "succeeded":
        return Skip("status")
    if output.foreign:
        return Skip("foreign-url")
    if not output.files:
        return Store() if is_text_kept else Skip("no-files")
    return Store() if fetched_files == len(output.files) else Skip("not-fetched")


KeepsText = Literal["deterministic", "on", "off"]

MAX_TEXT_BYTES = 1024**2
"""A longer output without files is handed out and not kept: it would lie in the index as one row."""


def may_keep_text(keeps_text: KeepsText, given: JsonObject, output: JsonValue) -> bool:
    """Whether an output without files is a result to be kept.

    Where a model writes, a repeat usually shall differ. By default text is kept only if the input asks for the same
    again: a seed that is given (and not -1), or a temperature of 0.
    """
    if output is None or keeps_text == "off" or sum(map(len, strings_in(output))) > MAX_TEXT_BYTES:
        return False
    seed, temperature = given.get("seed"), given.get("temperature")
    has_seed = type(seed) is int and seed != -1
    is_greedy = type(temperature) in (int, float) and temperature == 0
    return keeps_text == "on" or has_seed or is_greedy


UNPINNED_TTL_S = 7 * 86_400.0
"""How long a result of a model whose version is not told may be served: the model changes without notice."""


def is_fresh(completed_at: float, *, is_pinned: bool, now: float) -> bool:
    """Whether a stored result is young enough to be served; one of a pinned version always is."""
    return is_pinned or now - completed_at < UNPINNED_TTL_S
