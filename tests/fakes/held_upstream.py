"""A model service whose runs wait, each for itself, until a test ends it; it goes on while proxies come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from proxy.upstreams.base import Credential, Job, ModelDescription, ModelTarget, Outcome, Progress
from storage.digest import Digest, hash_bytes
from storage.records import JsonValue
from tests.fakes.upstreams import DELIVERY, FakeEgress, ScriptedUpstream

Ending = Literal["files", "text", "nothing", "lost file", "failed"]
"""How a run ends: with a file, with words, succeeded without any output, with a file that is not there, badly."""


@dataclass
class HeldRun:
    """One run at the service; ``waiter`` is where the proxy that follows it now waits."""

    number: int
    job: Job
    began_at: float
    outcome: Outcome | None = None
    is_canceled: bool = False
    waiter: asyncio.Future[None] | None = None

    @property
    def upstream_id(self) -> str:
        return f"up-{self.number}"

    @property
    def url(self) -> str:
        return f"{DELIVERY}/{self.number}/out-0.txt"

    @property
    def content(self) -> bytes:
        return b"the file of run %d" % self.number

    @property
    def digest(self) -> Digest:
        return hash_bytes(self.content)

    @property
    def words(self) -> str:
        return f"the words of run {self.number}"


@dataclass
class Service:
    """What happens upstream, whoever asks for it; ``asked`` counts all creates, those that were refused included."""

    clock: Callable[[], float]
    runs: list[HeldRun] = field(default_factory=list)
    asked: int = 0

    def end(self, run: HeldRun, how: Ending, egress: FakeEgress) -> None:
        """The run is over; its output names the run, so that no two outputs are alike."""
        output: JsonValue = {"files": [run.url], "lost file": [run.url], "text": run.words}.get(how)
        if how == "files":
            egress.serve(run.url, run.content)
        run.outcome = Outcome(
            status="failed" if how == "failed" else "succeeded",
            output=output,
            error="the model says no" if how == "failed" else None,
            logs="",
            metrics={"predict_time": 1.0},
            started_at=run.began_at,
            completed_at=self.clock(),
            upstream_id=run.upstream_id,
        )
        if run.waiter is not None and not run.waiter.done():
            run.waiter.set_result(None)


@dataclass
class HeldUpstream(ScriptedUpstream):
    """One proxy's connection to a ``Service``; ``models`` says what its targets are."""

    service: Service | None = None
    models: dict[ModelTarget, ModelDescription] = field(default_factory=dict)

    async def describe(self, target: ModelTarget, credential: Credential | None) -> ModelDescription:
        return self.models[target]

    async def run(self, job: Job, report: Callable[[Progress], None]) -> Outcome:
        assert self.service is not None
        self.service.asked += 1
        await asyncio.sleep(0)
        if self.refusal is not None:
            raise self.refusal
        run = HeldRun(len(self.service.runs), job, self.clock())
        self.service.runs.append(run)
        return await self._follow(run, job, report)

    async def adopt(self, job: Job, upstream_id: str, report: Callable[[Progress], None]) -> Outcome:
        assert self.service is not None
        run = self.service.runs[int(upstream_id.removeprefix("up-"))]
        return await self._follow(run, job, report)

    async def _follow(self, run: HeldRun, job: Job, report: Callable[[Progress], None]) -> Outcome:
        report(Progress("processing", run.began_at, upstream_id=run.upstream_id))
        run.waiter = asyncio.get_running_loop().create_future()
        try:
            if run.outcome is None:
                await run.waiter
        except asyncio.CancelledError:
            run.is_canceled = run.is_canceled or not job.is_detached()
            raise
        assert run.outcome is not None
        return run.outcome
