"""Runs cases, each once a session, and keeps what came of them."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.conformance.bench import Bench, Mode, Unsupported, settled
from tests.conformance.cases import Case
from tests.conformance.clients import Client
from tests.conformance.cog_world import cog_world
from tests.conformance.driver import Driver
from tests.conformance.environments import HOME
from tests.conformance.repertoire import OfTheApi, OnCog
from tests.conformance.world import Side, World, api_world

OUTCOMES = HOME / "outcomes.json"
"""What the last runs of the suite came to, for the page; git ignores it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a case.

    Attributes:
        seen: what the client saw, for comparison.
        reason: why the client cannot do it.
        error: what was wrong.
    """

    seen: Any = None
    reason: str | None = None
    error: BaseException | None = None


Place = Literal["addressed", "named", "coglet", "fastapi"]
"""A world: the API's, where clients go by address or by name, or Cog servers of one dialect."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Who is put to the test: a client at a place; ``name`` stands in the outcomes."""

    name: str
    client: Client
    place: Place

    @property
    def is_on_cog(self) -> bool:
        return self.place in ("coglet", "fastapi")


def at_the_api(client: Client) -> Subject:
    return Subject(client.name, client, "named" if client.is_aimed_by_name else "addressed")


class Suite:
    """The worlds and drivers of one test session, and its outcomes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._worlds: dict[Place, World] = {}
        self._drivers: dict[tuple[str, Place, Side], Driver] = {}
        self._outcomes: dict[tuple[str, str, Mode], Outcome] = {}

    def outcome(self, subject: Subject, case: Case, mode: Mode) -> Outcome:
        """Run the case, unless it was. A hit needs its miss first; and each is compared with the mode before it."""
        key = subject.name, case.name, mode
        if key not in self._outcomes:
            modes = modes_of(subject, case)
            earlier = [self.outcome(subject, case, each) for each in modes[: modes.index(mode)]]
            outcome = self._run(subject, case, mode)
            if outcome.error is None and outcome.reason is None and earlier:
                outcome = _compared(outcome, earlier[-1], mode)
            self._outcomes[key] = outcome
        return self._outcomes[key]

    def _run(self, subject: Subject, case: Case, mode: Mode) -> Outcome:
        world = self._world(subject.place)
        models = OnCog() if subject.is_on_cog else OfTheApi()
        driver = self._driver(subject, "direct" if mode == "direct" else "proxy", world)
        bench = Bench(subject.client, case.name, mode, world, driver, self._folder, models)
        before = world.runs()
        try:
            seen = case.do(bench)
            runs = world.runs() - before
            assert runs == case.runs[mode], f"{runs} runs of models were made, not {case.runs[mode]}"
        except Unsupported as reason:
            return Outcome(reason=str(reason))
        except Exception as error:
            return Outcome(error=error)
        return Outcome(seen=settled(seen))

    def _world(self, place: Place) -> World:
        if place not in self._worlds:
            folder = self._folder / place
            folder.mkdir()
            if place == "coglet" or place == "fastapi":
                self._worlds[place] = self._stack.enter_context(cog_world(folder, place))
            else:
                self._worlds[place] = self._stack.enter_context(api_world(folder, has_names=place == "named"))
        return self._worlds[place]

    def _driver(self, subject: Subject, side: Side, world: World) -> Driver:
        """One for each side: clients keep connections by the name of the host, which may be the same for both."""
        key = subject.client.name, subject.place, side
        if key not in self._drivers:
            scratch = self._folder / f"{subject.name}-{side}"
            scratch.mkdir()
            self._drivers[key] = Driver(subject.client.name, world.ca_bundle, scratch)
            self._stack.callback(self._drivers[key].stop)
        return self._drivers[key]

    def close(self) -> None:
        """End all processes and keep the outcomes, beside those of earlier sessions."""
        self._stack.close()
        if not self._outcomes:
            return
        kept = json.loads(OUTCOMES.read_text(encoding="utf-8")) if OUTCOMES.is_file() else {}
        for (client, case, mode), outcome in self._outcomes.items():
            kept.setdefault(client, {}).setdefault(case, {})[mode] = _rendered(outcome)
        HOME.mkdir(exist_ok=True)
        OUTCOMES.write_text(json.dumps(kept, indent=1, sort_keys=True), encoding="utf-8")


def modes_of(subject: Subject, case: Case) -> list[Mode]:
    """The modes in which a case makes sense, in order. Cog has another API: there is nothing direct to compare with."""
    modes: tuple[Mode, ...] = ("direct", "miss", "hit")
    return [each for each in modes if each in case.runs and not (subject.is_on_cog and each == "direct")]


def _compared(outcome: Outcome, earlier: Outcome, mode: Mode) -> Outcome:
    """A miss must look like the API itself, and a hit like the miss. What failed before is told there."""
    if earlier.error is not None or earlier.reason is not None or earlier.seen == outcome.seen:
        return outcome
    other = "the API itself" if mode == "miss" else "the miss"
    difference = f"seen: {json.dumps(outcome.seen)[:1500]}\nby {other}: {json.dumps(earlier.seen)[:1500]}"
    return Outcome(error=AssertionError(f"a {mode} differs from {other}\n{difference}"))


def _rendered(outcome: Outcome) -> dict[str, str]:
    if outcome.reason is not None:
        return {"outcome": "cannot", "reason": outcome.reason}
    if outcome.error is not None:
        return {"outcome": "fails", "reason": " ".join(str(outcome.error).split())[:300]}
    return {"outcome": "passes"}
