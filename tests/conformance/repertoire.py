"""The models that cases ask for, by what they do: those of the API's double, and those on the Cog servers.

Each method gives the arguments that name a model and an input: what a case needs of it, and what makes the input its
own (``given``: a prompt that no other case has, and a seed).
"""

from __future__ import annotations

from typing import Any, Protocol

from loadtests.fake_model.catalog import find_model

Asked = dict[str, Any]


class Repertoire(Protocol):
    """What a service offers."""

    def list_of(self, count: int, given: Asked) -> Asked:
        """A list of ``count`` files."""

    def file(self, given: Asked) -> Asked:
        """One file."""

    def nested(self, given: Asked) -> Asked:
        """An object with two files inside."""

    def film(self, size_bytes: int, given: Asked) -> Asked:
        """One file of that size."""

    def string(self, given: Asked) -> Asked:
        """One string, which holds the prompt."""

    def text(self, given: Asked, *, has_seeds: bool) -> Asked:
        """Text, piece by piece, of at least three words; always the same, with ``has_seeds`` for its seed."""

    def growing(self, count: int, given: Asked) -> Asked:
        """``count`` files, one after the other."""

    def slow(self, seconds: float, given: Asked) -> Asked:
        """A file, after that time."""

    def restyle(self, given: Asked) -> Asked:
        """One file that follows from the bytes of the input's ``image``."""

    def failing(self, given: Asked) -> Asked:
        """A failure of the model."""

    def bad(self, given: Asked, *, is_text: bool) -> Asked:
        """An input that the schema refuses."""


class OfTheApi:
    """The double's models."""

    def list_of(self, count: int, given: Asked) -> Asked:
        return {"model": "acme/pixel", "input": {**given, "num_outputs": count}}

    def file(self, given: Asked) -> Asked:
        return {"model": "acme/single", "input": given}

    def nested(self, given: Asked) -> Asked:
        return {"model": "acme/nested", "input": given}

    def film(self, size_bytes: int, given: Asked) -> Asked:
        return {"model": "acme/film", "input": {**given, "size_bytes": size_bytes}}

    def string(self, given: Asked) -> Asked:
        return {"model": "acme/caption", "input": {**given, "temperature": 0}}

    def text(self, given: Asked, *, has_seeds: bool) -> Asked:
        if has_seeds:
            return {"model": "acme/writer", "input": {**given, "temperature": 0}}
        return {"model": "acme/teller", "input": {"prompt": given["prompt"], "temperature": 0}}

    def growing(self, count: int, given: Asked) -> Asked:
        return {"model": "acme/gallery", "input": {**given, "num_outputs": count}}

    def slow(self, seconds: float, given: Asked) -> Asked:
        return {"model": "acme/slow", "input": {**given, "seconds": seconds}}

    def restyle(self, given: Asked) -> Asked:
        return {"model": "acme/restyle", "input": given}

    def failing(self, given: Asked) -> Asked:
        return {"model": "acme/failing", "input": given}

    def bad(self, given: Asked, *, is_text: bool) -> Asked:
        if is_text:
            return {"model": "acme/writer", "input": {**given, "interval": "much"}}
        return {"model": "acme/pixel", "input": {**given, "guidance": "much"}}


class OnCog:
    """The two models of ``cog/``."""

    def list_of(self, count: int, given: Asked) -> Asked:
        return {"model": "acme/shapes", "input": {**given, "num_outputs": count}}

    def file(self, given: Asked) -> Asked:
        return {"model": "acme/shapes", "input": {**given, "shape": "file"}}

    def nested(self, given: Asked) -> Asked:
        return {"model": "acme/shapes", "input": {**given, "shape": "nested"}}

    def film(self, size_bytes: int, given: Asked) -> Asked:
        return {"model": "acme/shapes", "input": {**given, "shape": "file", "size_bytes": size_bytes}}

    def string(self, given: Asked) -> Asked:
        return {"model": "acme/shapes", "input": {**given, "shape": "string"}}

    def text(self, given: Asked, *, has_seeds: bool) -> Asked:
        return {"model": "acme/teller", "input": {**given, "temperature": 0}}

    def growing(self, count: int, given: Asked) -> Asked:
        return self.list_of(count, given)

    def slow(self, seconds: float, given: Asked) -> Asked:
        return {"model": "acme/shapes", "input": {**given, "seconds": seconds}}

    def restyle(self, given: Asked) -> Asked:
        return self.file(given)

    def failing(self, given: Asked) -> Asked:
        return {"model": "acme/shapes", "input": {**given, "fails": True}}

    def bad(self, given: Asked, *, is_text: bool) -> Asked:
        return {"model": "acme/shapes", "input": {**given, "num_outputs": "many"}}


def version_of(model: str) -> str:
    """The version of one of the double's models."""
    found = find_model(model)
    assert found is not None
    return found.version
