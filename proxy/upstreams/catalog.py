"""Which upstream serves which model: the first whose globs match, in the order of the settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from proxy.core.errors import HotplateError, NotFound, UpstreamTimeout, UpstreamUnavailable
from proxy.upstreams.base import DEPLOYMENTS, ModelTarget, Upstream


@dataclass(frozen=True, slots=True)
class Entry:
    """An upstream with the globs that it serves: over ``owner/name``, or ``deployments/owner/name`` for deployments."""

    upstream: Upstream
    models: tuple[str, ...]


class Catalog:
    """Looks up upstreams by model and by version."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = tuple(entries)
        self.upstreams = tuple(entry.upstream for entry in entries)

    def serving(self, model: str) -> Upstream:
        """The upstream for ``owner/name``.

        Raises:
            NotFound: no glob matches.
        """
        for entry in self._entries:
            if any(fnmatchcase(model, glob) for glob in entry.models):
                return entry.upstream
        raise NotFound("The requested resource could not be found.")

    async def resolve(self, model: tuple[str, str] | None, version: str | None) -> tuple[Upstream, ModelTarget]:
        """The upstream and the target of a create request.

        A bare version belongs to the model without accounts that has it, else to the first Replicate API.

        Raises:
            NotFound: nobody serves it.
            UpstreamUnavailable, UpstreamTimeout: it may be that of an upstream that cannot be asked now.
        """
        if model is not None:
            owner, name = model
            return self.serving(f"{owner}/{name}"), ModelTarget(owner, name, version)
        unknown: HotplateError | None = None
        for entry in self._entries:
            if entry.upstream.kind == "replicate":
                continue
            # The version alone is asked for as well, since globs may name no model at all.
            for glob in ("/", *(glob for glob in entry.models if _is_literal(glob))):
                owner, _, name = glob.partition("/")
                target = ModelTarget(owner, name, version)
                try:
                    described = await entry.upstream.describe(target, None)
                except NotFound:
                    continue
                except (UpstreamUnavailable, UpstreamTimeout) as error:
                    unknown = error
                    continue
                if described.version == version:
                    owner, _, name = described.model.partition("/")
                    return entry.upstream, ModelTarget(owner, name, version)
        try:
            return self.relay(), ModelTarget("", "", version)
        except NotFound:
            raise (unknown or NotFound("The requested resource could not be found.")) from None

    def deployment(self, owner: str, name: str) -> tuple[Upstream, ModelTarget]:
        """The upstream and the target of a create request for a deployment.

        Globs over models say nothing of deployments, so an upstream must name it with a glob that begins with
        ``deployments/``; every other one is the first Replicate API's.

        Raises:
            NotFound: nobody serves it.
        """
        target = ModelTarget(owner, name, is_deployment=True)
        for entry in self._entries:
            for glob in entry.models:
                if glob.startswith(DEPLOYMENTS) and fnmatchcase(f"{DEPLOYMENTS}{target.model}", glob):
                    return entry.upstream, target
        return self.relay(), target

    def named(self, *, deployments: bool = False) -> list[tuple[Upstream, ModelTarget]]:
        """The models (or deployments) that upstreams without accounts serve and that a glob names outright."""
        found: dict[str, tuple[Upstream, ModelTarget]] = {}
        for entry in self._entries:
            for glob in entry.models:
                name = glob.removeprefix(DEPLOYMENTS) if deployments else glob
                is_meant = glob.startswith(DEPLOYMENTS) if deployments else True
                if entry.upstream.kind == "replicate" or not is_meant or not _is_literal(name):
                    continue
                owner, _, short = name.partition("/")
                target = ModelTarget(owner, short, is_deployment=deployments)
                serving = self.deployment(owner, short)[0] if deployments else self.serving(name)
                if serving is entry.upstream:
                    found.setdefault(name, (entry.upstream, target))
        return list(found.values())

    def relay(self) -> Upstream:
        """The upstream to which everything goes that Hotplate does not handle.

        Raises:
            NotFound: there is none.
        """
        for upstream in self.upstreams:
            if upstream.kind == "replicate":
                return upstream
        raise NotFound("The requested resource could not be found.")


def _is_literal(glob: str) -> bool:
    return not any(mark in glob for mark in "*?[") and glob.count("/") == 1
