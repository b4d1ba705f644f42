"""Runs cases, each once a session, and keeps what came of them."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conformance.bench import Bench, Mode, Unsupported, settled
from tests.conformance.cases import Case
from tests.conformance.clients import Client
from tests.conformance.driver import Driver
from tests.conformance.environments import HOME
from tests.conformance.world import World, living

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


class Suite:
    """The worlds and drivers of one test session, and its outcomes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._worlds: dict[bool, World] = {}
        self._drivers: dict[str, Driver] = {}
        self._outcomes: dict[tuple[str, str, Mode], Outcome] = {}

    def outcome(self, client: Client, case: Case, mode: Mode) -> Outcome:
        """Run the case, unless it was. A hit needs its miss first; and each is compared with the mode before it."""
        key = client.name, case.name, mode
        if key not in self._outcomes:
            earlier = [self.outcome(client, case, each) for each in _before(case, mode)]
            outcome = self._run(client, case, mode)
            if outcome.error is None and outcome.reason is None and earlier:
                outcome = _compared(outcome, earlier[-1], mode)
            self._outcomes[key] = outcome
        return self._outcomes[key]

    def _run(self, client: Client, case: Case, mode: Mode) -> Outcome:
        world = self._world(client.is_aimed_by_name)
        bench = Bench(client, case.name, mode, world, self._driver(client, world), self._folder)
        before = world.runs()
        try:
            seen = case.do(bench)
            runs = world.runs() - before
            assert runs == case.runs[mode], f"{runs} runs of models were made, not {case.runs[mode]}"
        except Unsupported as reason:
            return Outcome(reason=str(reason))
        except Exception as error:
            return Outcome(error=error)
        return Outcome(seen=settled(seen, world))

    def _world(self, has_names: bool) -> World:
        if has_names not in self._worlds:
            folder = self._folder / ("named" if has_names else "addressed")
            folder.mkdir()
            self._worlds[has_names] = self._stack.enter_context(living(folder, has_names=has_names))
        return self._worlds[has_names]

    def _driver(self, client: Client, world: World) -> Driver:
        if client.name not in self._drivers:
            scratch = self._folder / client.name
            scratch.mkdir()
            self._drivers[client.name] = Driver(client.name, world.ca_bundle, scratch)
            self._stack.callback(self._drivers[client.name].stop)
        return self._drivers[client.name]

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


def _before(case: Case, mode: Mode) -> list[Mode]:
    modes: tuple[Mode, ...] = ("direct", "miss", "hit")
    return [each for each in modes[: modes.index(mode)] if each in case.runs]


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
