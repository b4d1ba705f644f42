"""Mode ``observe``: requests are passed on as they came, and what the cache would have made of them is counted.

The request is on its way before anything else is done for it: its key is made meanwhile, from what memory and the notes
know, without asking anybody. The seconds of its run are known when its end passes by, in the answer to the create or to
a later look at the prediction; of runs whose end nobody asks for they stay unknown, and the report says how many.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog

from proxy.core.errors import HotplateError
from proxy.core.observing import DOUBTS, SAVED, VERDICTS, Doubt, SeenKeys, SeenRun, Verdict
from proxy.core.outputs import plan_output
from proxy.core.policy import Cached, Store, may_keep_text, plan_store
from proxy.core.prices import PriceOf, cost
from proxy.engine.coalescer import Flight
from proxy.engine.preparation import Preparation
from proxy.engine.runs import Create
from proxy.upstreams.base import Outcome, Upstream
from proxy.upstreams.replicate_documents import is_terminal, outcome_of, parse_prediction
from storage.digest import PredictionKey, Scope
from storage.records import JsonObject, compute_s

MAX_AWAITED = 100_000
"""Predictions of the upstream whose end is awaited at once."""

MAX_MODELS = 500
"""Models that are counted by name; all others are counted together."""

LARGE_BYTES = 256 * 1024
"""An answer above this is read in a thread."""

OTHERS = "other"

WouldHit = Callable[[str, str, Scope, float, int], None]
"""Told upstream, model, scope, seconds and output files of a run that would not have been made."""

ObserveVerdict = Callable[[Verdict, tuple[Doubt, ...]], None]
ObserveSaving = Callable[[float, float], None]
"""Told seconds and money."""

Heard = Callable[[int, bytes], None]
"""Takes the status and the whole body of an upstream's answer; returns at once."""

_log = structlog.get_logger("hotplate.observer")


@dataclass(slots=True)
class Tally:
    """What was counted of one model, or of all."""

    requests: int = 0
    verdicts: dict[Verdict, int] = field(default_factory=lambda: dict.fromkeys(VERDICTS, 0))
    doubts: dict[Doubt, int] = field(default_factory=lambda: dict.fromkeys(DOUBTS, 0))
    ends_seen: int = 0
    saved_ends_seen: int = 0
    spent_seconds: float = 0.0
    spent_money: float = 0.0
    saved_seconds: float = 0.0
    saved_money: float = 0.0
    doubtful_seconds: float = 0.0
    doubtful_money: float = 0.0

    def to_json(self) -> JsonObject:
        """For the report."""
        would_save = sum(count for verdict, count in self.verdicts.items() if verdict in SAVED)
        return {
            "requests": self.requests,
            "verdicts": dict(self.verdicts),
            "doubts": dict(self.doubts),
            "runs": {"ends_seen": self.ends_seen, "seconds": self.spent_seconds, "money": self.spent_money},
            "would_save": {
                "runs": would_save,
                "ends_seen": self.saved_ends_seen,
                "seconds": self.saved_seconds,
                "money": self.saved_money,
                "of_these_doubtful": {"seconds": self.doubtful_seconds, "money": self.doubtful_money},
            },
        }


@dataclass(slots=True)
class Observation:
    """What is known of one request that is passed on; its input is not kept."""

    upstream: Upstream
    scope: Scope
    began_at: float
    verdict: Verdict = "unknown"
    doubts: tuple[Doubt, ...] = ()
    model: str = ""
    keeps_text: bool = False
    key: PredictionKey | None = None
    pool: int = 1
    run: SeenRun | None = None
    is_judged: bool = False


class Watch:
    """One request on its way; a handler tells it what comes back."""

    def __init__(self, observer: Observer, seen: Observation, judging: asyncio.Task[None]) -> None:
        self._observer = observer
        self._seen = seen
        self._judging = judging
        self._is_told = False

    def detail(self) -> str:
        """For ``Cache-Status``: the verdict, if it is known by now."""
        return f"observe {self._seen.verdict}" if self._seen.is_judged else "observe"

    def heard(self, status: int, body: bytes) -> None:
        """The upstream has answered the create."""
        self._is_told = True
        self._observer.behind(self._observer.answered(self._seen, self._judging, status, body))

    def follow(self, flight: Flight) -> None:
        """The request has become a run of its own."""
        self._is_told = True
        self._observer.behind(self._observer.taken(self._seen, self._judging, flight))

    def close(self) -> None:
        """Whoever passed it on is done; without a word from the upstream nobody knows whether there was a run."""
        if not self._is_told:
            self._observer.behind(self._observer.answered(self._seen, self._judging, 0, b""))


class Observer:
    """Watches requests and keeps count; everything is in memory and begins anew with the process."""

    def __init__(
        self,
        preparation: Preparation,
        observe_verdict: ObserveVerdict,
        observe_saving: ObserveSaving,
        price_of: PriceOf,
        now: Callable[[], float],
        would_hit: WouldHit = lambda upstream, model, scope, seconds, outputs: None,
    ) -> None:
        self._preparation = preparation
        self._observe_verdict = observe_verdict
        self._observe_saving = observe_saving
        self._price_of = price_of
        self._now = now
        self._would_hit = would_hit
        self._keys = SeenKeys()
        self._awaited: OrderedDict[str, Observation] = OrderedDict()
        self._behind: set[asyncio.Task[None]] = set()
        self._since = now()
        self._all = Tally()
        self._models: dict[str, Tally] = {}

    # -- requests --------------------------------------------------------------------------------------

    def watch(self, create: Create) -> Watch:
        """Begin to watch a request; returns at once."""
        seen = Observation(create.upstream, create.scope, self._now(), model=create.target.version or OTHERS)
        return Watch(self, seen, self.behind(self._judge(seen, create)))

    def listener(self, upstream_id: str) -> Heard | None:
        """Who wants to hear what the upstream says of a prediction of its own."""
        return partial(self._looked_at, upstream_id) if upstream_id in self._awaited else None

    def behind(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do ``work`` beside the answers; what goes wrong in it is told to the log alone."""
        task = asyncio.create_task(work)
        self._behind.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._behind.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("observation_broke", reason=type(error).__name__)

    async def drain(self) -> None:
        """Wait until everything that was heard is counted."""
        while self._behind:
            await asyncio.wait(self._behind)

    async def _judge(self, seen: Observation, create: Create) -> None:
        try:
            prepared = await self._preparation.foresee(create)
        except HotplateError:
            seen.model = create.target.model or seen.model
            seen.is_judged = True
            return
        described, policy = prepared.described, prepared.policy
        seen.model = described.policy_name or seen.model
        if isinstance(prepared.plan, Cached) and prepared.key is not None:
            given = prepared.identified.key_input
            seen.keeps_text = may_keep_text(policy, given, "text")
            doubts: dict[Doubt, bool] = {
                "seedless": prepared.plan.pool == 1 and not policy.has_seed(given),
                "hidden-version": not described.is_pinned,
                "url-input": prepared.identified.reads_urls,
            }
            seen.doubts = tuple(doubt for doubt, holds in doubts.items() if holds)
            seen.key, seen.pool = prepared.key, prepared.plan.pool
            seen.verdict, seen.run = self._keys.judge(
                prepared.key,
                prepared.plan,
                policy,
                prepared.controls.directives,
                seen.began_at,
                is_pinned=described.is_pinned,
                is_doubtful=bool(seen.doubts),
            )
        else:
            seen.verdict = "would-bypass"
        seen.is_judged = True

    # -- what comes back -------------------------------------------------------------------------------

    async def answered(self, seen: Observation, judging: asyncio.Task[None], status: int, body: bytes) -> None:
        """The create of a request was answered by the upstream, ``status`` 0 if it was not."""
        await asyncio.wait({judging})
        if not 200 <= status < 300:
            self._forget(seen)
            seen.verdict, seen.doubts = "refused" if status else "unknown", ()
            self._count(seen)
            return
        self._count(seen)
        try:
            prediction = await _read(body)
        except ValueError:
            return
        if is_terminal(prediction):
            self._end(seen, prediction)
            return
        self._awaited[prediction["id"]] = seen
        if len(self._awaited) > MAX_AWAITED:
            self._awaited.popitem(last=False)

    async def taken(self, seen: Observation, judging: asyncio.Task[None], flight: Flight) -> None:
        """A request has become a run of this proxy's own."""
        await asyncio.wait({judging})
        self._count(seen)
        await asyncio.wait({flight.ending})
        landed = flight.landed
        if landed is None:
            self._forget(seen)
            return
        files = len(landed.record.files) if landed.record is not None else 0
        is_kept = landed.outcome.status == "succeeded" and (files > 0 or seen.keeps_text)
        self._ended(seen, landed.outcome, files, is_kept=is_kept)

    def _looked_at(self, upstream_id: str, status: int, body: bytes) -> None:
        if status == 200 and upstream_id in self._awaited:
            self.behind(self._look(upstream_id, body))

    async def _look(self, upstream_id: str, body: bytes) -> None:
        try:
            prediction = await _read(body)
        except ValueError:
            return
        seen = self._awaited.get(upstream_id)
        if seen is None or prediction["id"] != upstream_id:
            return
        if is_terminal(prediction):
            del self._awaited[upstream_id]
            self._end(seen, prediction)
        elif seen.run is not None:
            seen.run.heard_at = self._now()

    def _end(self, seen: Observation, prediction: JsonObject) -> None:
        try:
            outcome = outcome_of(prediction, now=self._now())
        except ValueError:
            self._forget(seen)
            return
        files = plan_output(outcome.output, seen.upstream.output_access)
        count = len(files.files)
        decision = plan_store(Cached(), outcome.status, files, count, is_text_kept=seen.keeps_text)
        self._ended(seen, outcome, count, is_kept=isinstance(decision, Store))

    def _ended(self, seen: Observation, outcome: Outcome, files: int, *, is_kept: bool) -> None:
        if is_kept and seen.run is not None and seen.key is not None:
            self._keys.end(seen.key, seen.run, min(outcome.completed_at, self._now()), seen.pool)
            seen.run = None
        else:
            self._forget(seen)
        seconds = compute_s(outcome.metrics, outcome.started_at, outcome.completed_at)
        outputs = files or int(outcome.status == "succeeded")  # text is one output, too
        money = cost(self._price_of(seen.upstream.name, seen.model), seconds, outputs)
        is_saved = seen.verdict in SAVED
        for tally in (self._all, self._of(seen.model)):
            tally.ends_seen += 1
            tally.spent_seconds += seconds
            tally.spent_money += money
            if is_saved:
                tally.saved_ends_seen += 1
                tally.saved_seconds += seconds
                tally.saved_money += money
                if seen.doubts:
                    tally.doubtful_seconds += seconds
                    tally.doubtful_money += money
        if is_saved:
            self._observe_saving(seconds, money)
            self._would_hit(seen.upstream.name, seen.model, seen.scope, seconds, outputs)

    def _forget(self, seen: Observation) -> None:
        """Its run gave nothing that would have been stored."""
        if seen.run is not None and seen.key is not None:
            self._keys.drop(seen.key, seen.run)
            seen.run = None

    # -- counting --------------------------------------------------------------------------------------

    def _count(self, seen: Observation) -> None:
        doubts = seen.doubts if seen.verdict in SAVED else ()
        for tally in (self._all, self._of(seen.model)):
            tally.requests += 1
            tally.verdicts[seen.verdict] += 1
            for doubt in doubts:
                tally.doubts[doubt] += 1
        self._observe_verdict(seen.verdict, doubts)

    def _of(self, model: str) -> Tally:
        name = model
        if name not in self._models and len(self._models) >= MAX_MODELS:
            name = OTHERS
        return self._models.setdefault(name, Tally())

    def report(self) -> JsonObject:
        """Everything counted since the process began."""
        return {
            "since": self._since,
            "keys": len(self._keys),
            **self._all.to_json(),
            "models": {name: tally.to_json() for name, tally in sorted(self._models.items())},
        }


async def _read(body: bytes) -> JsonObject:
    """The prediction in an answer.

    Raises:
        ValueError: there is none.
    """
    return parse_prediction(body) if len(body) <= LARGE_BYTES else await asyncio.to_thread(parse_prediction, body)
