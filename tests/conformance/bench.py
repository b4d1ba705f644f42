"""A client at work on one case, in one mode; and what was seen of it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from loadtests.fake_model.pictures import draw_png
from loadtests.fake_model.process import ALICE
from tests.conformance.clients import WHY_NOT, Client, Kind
from tests.conformance.driver import Driver
from tests.conformance.repertoire import Repertoire
from tests.conformance.world import NAMES, Side, World

Mode = Literal["direct", "miss", "hit"]
"""Straight at the API; through Hotplate for the first time; through it with the same input once more."""

_VOLATILE = frozenset({"created_at", "started_at", "completed_at", "expires_at", "run_count"})


class Unsupported(Exception):
    """The client has no way to do the case; the text is its driver's reason."""


class ClientError(AssertionError):
    """The client raised where nothing should have gone wrong."""


@dataclass(frozen=True)
class Bench:
    """What a case works with.

    Attributes:
        case: the case's name; inputs hold it, so that no case hits what another has stored.
    """

    client: Client
    case: str
    mode: Mode
    world: World
    driver: Driver
    scratch: Path
    models: Repertoire
    token: str = field(default=ALICE)

    @property
    def side(self) -> Side:
        return "direct" if self.mode == "direct" else "proxy"

    def ask(self, what: str, token: str | None = None, **args: Any) -> dict[str, Any]:
        """What the client returns.

        Raises:
            Unsupported: it cannot do this at all.
            ClientError: it raised.
        """
        answer = self._answer(what, token, args)
        if answer.error is not None:
            raise ClientError(f"{what}: {json.dumps(answer.error)}")
        assert answer.result is not None
        return answer.result

    def ask_error(self, what: str, token: str | None = None, **args: Any) -> dict[str, Any]:
        """The error that the client raises, which it must: type, status and, where it tells them, ``Retry-After``."""
        answer = self._answer(what, token, args)
        assert answer.error is not None, f"{what} should have failed, but gave {answer.result}"
        return {name: answer.error[name] for name in ("type", "status", "retry_after")}

    def _answer(self, what: str, token: str | None, args: dict[str, Any]) -> Any:
        names = self.world.dns(self.side)
        given = {**args, "dns": names} if names else args
        answer = self.driver.ask(what, self.world.base_url(self.side), token or self.token, given)
        if answer.unsupported is not None:
            raise Unsupported(answer.unsupported)
        return answer

    def needs(self, *kinds: Kind) -> None:
        """Say that the case is about such outputs.

        Raises:
            Unsupported: the client cannot give them.
        """
        for kind in kinds:
            if kind not in self.client.gives:
                raise Unsupported(WHY_NOT[kind])

    def given(self, what: str = "") -> dict[str, Any]:
        """What makes an input this client's in this case: the same in all modes, and nobody else's."""
        return {"prompt": f"{self.case} by {self.client.name} {what}".rstrip(), "seed": 1}

    def text(self) -> dict[str, Any]:
        """A model that writes, and its input."""
        return self.models.text(self.given(), has_seeds=self.client.has_seeds)

    def plain(self) -> dict[str, Any]:
        """The simplest that the client is made for."""
        return self.text() if self.client.writes_only else self.models.list_of(1, self.given())

    def file(self, name: str = "picture") -> str:
        """The path of a picture that only this client uses in this case."""
        path = self.scratch / f"{self.case}-{self.client.name}-{name}.png"
        if not path.is_file():
            path.write_bytes(draw_png(f"{self.case} {self.client.name} {name}", 16, 16))
        return str(path)


def files_in(value: Any) -> list[dict[str, Any]]:
    """All file descriptions in a client's output."""
    if isinstance(value, dict):
        if value.keys() == {"sha256", "size", "kind"}:
            return [value]
        return [each for inner in value.values() for each in files_in(inner)]
    if isinstance(value, list):
        return [each for inner in value for each in files_in(inner)]
    return []


def digests(value: Any) -> list[str]:
    return [each["sha256"] for each in files_in(value)]


def settled(value: Any) -> Any:
    """``value`` without what may differ from one answer to the next: times, counts, and whose addresses they are."""
    if isinstance(value, dict):
        return {name: settled(inner) for name, inner in value.items() if name not in _VOLATILE}
    if isinstance(value, list):
        return [settled(inner) for inner in value]
    if isinstance(value, str):
        return re.sub(rf"https?://(127\.0\.0\.1:\d+|localhost:\d+|{'|'.join(map(re.escape, NAMES))})", "", value)
    return value
