"""Prediction keys: who asks which service for which model with which input. And ids for versions that have none.

A key is BLAKE3 in derive-key mode over ``key_material``: every ingredient behind its length, in a fixed
order. Nothing is concatenated bare, nothing is left out when it is empty, and there is no default for any
ingredient that tells callers or models apart. Two requests share a key only if all of it is equal.

``docs/keys.md`` says the same for users. A key is changed on purpose by changing ``KEY_VERSION``, the vectors
in ``tests/vectors/keys.json`` and the CHANGELOG together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import blake3

from proxy.core.canonical import canonical_bytes, framed
from storage.digest import Digest, PredictionKey, Scope
from storage.records import JsonObject, JsonPath, JsonValue

KEY_VERSION = 1
"""Number of the rules by which keys are made; part of every key."""

_VARIANT_CONTEXT = "hotplate 2026-11 prediction key variant v1"

SCOPE_BYTES = 32
DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class KeyIngredients:
    """Everything that decides which stored result may answer a request.

    Attributes:
        scope: who may see the result, exactly 32 bytes; never a token, never empty.
        upstream: name of the upstream in the settings: two services may run different models of one name.
        model: ``"owner/name"`` as the upstream resolves it; ``""`` when only a version is known.
        version: 64 hex digits of the resolved version, or ``"hidden"`` where the upstream does not tell.
        input: the input after ``normalise_input``, or as it was given where there is no schema.
        files: content digests of file inputs with the place of each in ``input``; ``input`` holds
            ``None`` there. The order does not matter. To be set after ``input`` was normalised.
    """

    scope: Scope
    upstream: str
    model: str
    version: str
    input: JsonObject
    files: tuple[tuple[JsonPath, Digest], ...] = ()


def derive_key(ingredients: KeyIngredients) -> PredictionKey:
    """The prediction key, 32 bytes.

    Raises:
        ValueError: see ``key_material``.
        InvalidJson: ``input`` is no JSON object that ``parse_json`` could have given.

    Source: the BLAKE3 paper, section 6.2, for the context string.
    """
    material = key_material(ingredients)
    return PredictionKey(blake3.blake3(material, derive_key_context=key_context(KEY_VERSION)).digest())


def key_context(version: int) -> str:
    """BLAKE3's context string: the project, the purpose and the version of the rules."""
    return f"hotplate 2026-11 prediction key v{version}"


def key_material(ingredients: KeyIngredients) -> bytes:
    """The exact bytes that are hashed: each field of ``KeyIngredients`` in its order behind its length.

    Raises:
        ValueError: ``scope`` or a digest is not 32 bytes long, a path occurs twice, leads nowhere in
            ``input`` or to something else than ``None``, or a name cannot be written as UTF-8.
        InvalidJson: ``input`` is no JSON object that ``parse_json`` could have given.
    """
    return framed([encode(ingredients) for _, encode in _ENCODERS])


def model_version(model: str, openapi: JsonObject, revision: str) -> str:
    """A version id for a Cog server, which has none of its own.

    Args:
        openapi: its document; ``components`` alone enters, so that a new server address or title does not.
        revision: the operator's name for the weights. The schema stays when weights change, this must not.

    Returns:
        64 lower-case hex digits, like Replicate's version ids.

    Raises:
        InvalidJson: ``components`` is no JSON value.
    """
    material = framed([model.encode(), canonical_bytes(openapi.get("components")), revision.encode()])
    return blake3.blake3(material, derive_key_context="hotplate 2026-11 model version v1").hexdigest()


def _scope(ingredients: KeyIngredients) -> bytes:
    # A missing scope must not become one that everybody shares.
    if len(ingredients.scope) != SCOPE_BYTES:
        raise ValueError(f"scope must be {SCOPE_BYTES} bytes, not {len(ingredients.scope)}")
    return ingredients.scope


def _files(ingredients: KeyIngredients) -> bytes:
    if not ingredients.files:
        return b""
    entries: dict[bytes, Digest] = {}
    for path, digest in ingredients.files:
        if len(digest) != DIGEST_BYTES:
            raise ValueError(f"a file's digest must be {DIGEST_BYTES} bytes, not {len(digest)}")
        if not _is_hole(ingredients.input, path):
            raise ValueError(f"input does not hold null at {path!r}, where a file is said to stand")
        entries[canonical_bytes(list(path))] = digest
    if len(entries) != len(ingredients.files):
        raise ValueError("two files are said to stand at one place")
    return framed([part for entry in sorted(entries.items()) for part in entry])


def _is_hole(document: JsonObject, path: JsonPath) -> bool:
    """Whether ``path`` leads through ``document`` to a ``None``."""
    node: JsonValue = document
    for step in path:
        is_member = type(node) is dict and type(step) is str and step in node
        is_item = type(node) is list and type(step) is int and 0 <= step < len(node)
        if not (is_member or is_item):
            return False
        node = node[step]
    return node is None


_ENCODERS: tuple[tuple[str, Callable[[KeyIngredients], bytes]], ...] = (
    ("scope", _scope),
    ("upstream", lambda ingredients: ingredients.upstream.encode()),
    ("model", lambda ingredients: ingredients.model.encode()),
    ("version", lambda ingredients: ingredients.version.encode()),
    ("input", lambda ingredients: canonical_bytes(ingredients.input)),
    ("files", _files),
)
"""How each field enters the material, in this order."""


def variant_key(
    key: PredictionKey, *, namespace: str = "", extra: str = "", rule: str = "", member: int = 0
) -> PredictionKey:
    """The key of one of several answers to what ``key`` says; without any difference, ``key`` itself.

    Args:
        namespace, extra: what the request names besides its input, of characters below 256.
        rule: by which fields of the input were left out of ``key``.
        member: which answer of a pool; the first is that of no pool.
    """
    if not (namespace or extra or rule or member):
        return key
    material = framed([key, namespace.encode(), extra.encode(), rule.encode(), member.to_bytes(4, "big")])
    return PredictionKey(blake3.blake3(material, derive_key_context=_VARIANT_CONTEXT).digest())
