"""The cases that apply to Cog servers, and the servers they run against."""

from __future__ import annotations

import re

from tests.conformance.cases import CASES, Case
from tests.conformance.clients import CLIENTS
from tests.conformance.cog_world import MODELS, Dialect
from tests.conformance.suite import Subject

_NOT_ON_COG = frozenset(
    {
        # Deployments and community models are the API's.
        *("run-version", "run-pieces", "poll-deployment", "error-422-version", "error-404-prediction"),
        # Cog knows no accounts, no credit and no rate limits.
        *("error-401", "error-402", "error-429"),
        # Its outputs come as bytes, and its server has none of the API's other endpoints.
        *("outputs-outlive-the-upstreams", "predictions-outlive-the-upstreams", "files"),
        # Others than Python's client make these.
        *("file-as-buffer", "file-as-blob"),
    }
)

COG_CASES: dict[str, Case] = {
    name: case for name, case in CASES.items() if name not in _NOT_ON_COG and not name.startswith("lookup-")
}

_PYTHON = next(client for client in CLIENTS if client.name == "replicate-1")


def _version(dialect: Dialect) -> str:
    lock = (MODELS / dialect / "requirements.lock").read_text(encoding="utf-8")
    found = re.search(r"(?m)^cog==(\S+)", lock)
    assert found is not None
    return found[1]


SERVERS: dict[str, str] = {"cog-coglet": _version("coglet"), "cog-fastapi": _version("fastapi")}
"""Versions by the name in the outcomes."""

COG_SUBJECTS: tuple[Subject, ...] = (
    Subject("cog-coglet", _PYTHON, "coglet"),
    Subject("cog-fastapi", _PYTHON, "fastapi"),
)
