"""A model service that does what a test says, and an egress without a network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from proxy.core.errors import HotplateError, NotFound
from proxy.core.outputs import OutputAccess
from proxy.core.schemas import InputSchema
from proxy.upstreams.base import (
    Credential,
    Job,
    ModelDescription,
    ModelTarget,
    Outcome,
    Progress,
    Readiness,
    RelayRequest,
    RelayResponse,
    UpstreamKind,
    Verdict,
)
from proxy.upstreams.egress import EgressFailed, EgressRefused, Fetched
from storage.records import JsonValue

VERSION = "5c7d5dc6dd8bf75c1acaa8565735e7986bc5b66206b55cca93cb72c9bf15ccaa"
DELIVERY = "https://replicate.delivery"
FILES = "https://api.replicate.com/v1/files/"


async def _one(content: bytes) -> AsyncIterator[bytes]:
    yield content


@dataclass
class ScriptedUpstream:
    """``Upstream`` whose runs are accepted at once and wait at ``gate``, if there is one, before they end.

    Attributes:
        description: what ``describe`` says of any model.
        answer: makes the output of a job.
        status: how runs end.
        told_model: the model that runs say they are of.
        refusal: raised instead of accepting a run.
        breakdown: raised after a run was accepted and passed the gate.
        starts: whether a run that waits at the gate is ``processing``.
        door: a run waits here before it is accepted.
        verdict: what ``check`` says; ``check_gate`` holds it up.
        takes: what ``input_schema`` says.
        relaying: answers what is passed on, given with its whole body.
        jobs, checks, canceled, adopted, schemas_asked, relayed: what was asked so far, in order.
        reporters: by run, where its news is told: a test may tell more while the run waits at the gate.
    """

    clock: Callable[[], float]
    name: str = "replicate"
    kind: UpstreamKind = "replicate"
    has_accounts: bool = True
    output_access: OutputAccess = field(default_factory=lambda: OutputAccess(("replicate.delivery",)))
    api_roots: tuple[str, ...] = ("https://api.replicate.com/v1",)
    description: ModelDescription = field(
        default_factory=lambda: ModelDescription("acme/pixel", VERSION, is_pinned=True, schema=None)
    )
    answer: Callable[[Job], JsonValue] = lambda job: [f"{DELIVERY}/out-0.png"]
    status: str = "succeeded"
    told_model: str | None = None
    refusal: HotplateError | None = None
    breakdown: Exception | None = None
    door: asyncio.Event | None = None
    gate: asyncio.Event | None = None
    starts: bool = True
    verdict: Verdict = field(default_factory=lambda: Verdict(is_accepted=True))
    check_gate: asyncio.Event | None = None
    takes: InputSchema | None = None
    relaying: Callable[[RelayRequest, bytes], tuple[int, bytes]] | None = None
    jobs: list[Job] = field(default_factory=list)
    checks: list[Credential] = field(default_factory=list)
    canceled: list[str] = field(default_factory=list)
    schemas_asked: list[ModelTarget] = field(default_factory=list)
    relayed: list[tuple[str, str, bytes]] = field(default_factory=list)
    adopted: list[str] = field(default_factory=list)
    reporters: list[Callable[[Progress], None]] = field(default_factory=list)

    def successor(self) -> ScriptedUpstream:
        """The same service as the next process meets it; nothing was asked of it yet."""
        return replace(self, gate=None, door=None, jobs=[], checks=[], canceled=[], adopted=[], reporters=[])

    async def describe(self, target: ModelTarget, credential: Credential | None) -> ModelDescription:
        return self.description

    @property
    def files_url(self) -> str | None:
        return FILES if self.kind == "replicate" else None

    async def input_schema(self, target: ModelTarget, credential: Credential | None) -> InputSchema | None:
        self.schemas_asked.append(target)
        return self.takes

    async def run(self, job: Job, report: Callable[[Progress], None]) -> Outcome:
        self.jobs.append(job)
        self.reporters.append(report)
        began_at = self.clock()
        try:
            if self.door is not None:
                await self.door.wait()
            await asyncio.sleep(0)
            if self.refusal is not None:
                raise self.refusal
            said = {"upstream_id": f"up-{len(self.jobs)}", "model": self.told_model}
            report(Progress("starting", began_at, **said))  # type: ignore[arg-type]
            if self.gate is not None:
                if self.starts:
                    report(Progress("processing", began_at, logs="step 1\n", **said))  # type: ignore[arg-type]
                await self.gate.wait()
            if self.breakdown is not None:
                raise self.breakdown
        except asyncio.CancelledError:
            if not job.is_detached():
                self.canceled.append(job.id)
            raise
        return self._outcome(job, began_at, f"up-{len(self.jobs)}")

    def _outcome(self, job: Job, began_at: float, upstream_id: str) -> Outcome:
        return Outcome(
            status=self.status,  # type: ignore[arg-type]
            output=self.answer(job),
            error=None if self.status == "succeeded" else "the model says no",
            logs="step 1\nstep 2\n",
            metrics={"predict_time": 2.5},
            started_at=began_at,
            completed_at=self.clock(),
            upstream_id=upstream_id,
            model=self.told_model,
        )

    @property
    def outlives_us(self) -> bool:
        return self.kind == "replicate"

    async def adopt(self, job: Job, upstream_id: str, report: Callable[[Progress], None]) -> Outcome:
        self.adopted.append(upstream_id)
        self.reporters.append(report)
        began_at = self.clock()
        try:
            report(Progress("starting", began_at, upstream_id=upstream_id))
            if self.gate is not None:
                if self.starts:
                    report(Progress("processing", began_at, logs="step 1\n", upstream_id=upstream_id))
                await self.gate.wait()
            if self.breakdown is not None:
                raise self.breakdown
        except asyncio.CancelledError:
            if not job.is_detached():
                self.canceled.append(job.id)
            raise
        return self._outcome(job, began_at, upstream_id)

    async def check(self, credential: Credential) -> Verdict:
        self.checks.append(credential)
        if self.check_gate is not None:
            await self.check_gate.wait()
        return self.verdict

    async def relay(self, request: RelayRequest, credential: Credential | None) -> RelayResponse:
        if self.relaying is None:
            raise NotFound("nothing is passed on here")
        body = b"".join([chunk async for chunk in request.body])
        self.relayed.append((request.method, request.path, body))
        status, content = self.relaying(request, body)
        return RelayResponse(status, [("content-type", "application/json")], _one(content))

    async def open_stream(self, url: str, credential: Credential | None, last_event_id: str | None) -> RelayResponse:
        raise NotFound("nothing is streamed here")

    async def readiness(self) -> Readiness:
        return Readiness("warm", "scripted")

    async def aclose(self) -> None:
        return None


@dataclass
class Served:
    """One answer of ``FakeEgress``.

    Attributes:
        chunk_bytes: how large the pieces are in which it arrives.
        breaks_after: the connection ends after so many bytes, though more were announced.
        is_length_known: whether a cut would be noticed.
        etag: its ETag; who names it gets 304.
        address: where it came from in the end, behind redirects.
    """

    data: bytes
    status: int = 200
    chunk_bytes: int = 1000
    breaks_after: int | None = None
    is_length_known: bool = True
    etag: str | None = None
    address: str | None = None


class FakeEgress:
    """``Egress`` over a dict from URL to its answers, one for each fetch; the last one is repeated."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Served | Exception]] = {}
        self.asked: list[str] = []
        self.conditions: list[str | None] = []
        self.open_now = self.most_open = self.sent_bytes = 0

    def serve(self, url: str, *answers: Served | Exception | bytes) -> None:
        self.answers[url] = [Served(one) if isinstance(one, bytes) else one for one in answers]

    @asynccontextmanager
    async def open(
        self,
        url: str,
        access: OutputAccess,
        *,
        max_bytes: int,
        require_listed: bool = True,
        if_none_match: str | None = None,
    ) -> AsyncIterator[Fetched]:
        self.asked.append(url)
        self.conditions.append(if_none_match)
        if require_listed and not access.covers(url):
            raise EgressRefused("unlisted", "a host that is not listed")
        await asyncio.sleep(0)
        answers = self.answers.get(url) or [EgressFailed("nothing there")]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        if if_none_match is not None and if_none_match == answer.etag:
            answer = replace(answer, status=304, data=b"")
        self.open_now += 1
        self.most_open = max(self.most_open, self.open_now)
        try:
            yield Fetched(
                status=answer.status,
                url=answer.address or url,
                headers={} if answer.etag is None else {"etag": answer.etag},
                expected_bytes=len(answer.data) if answer.is_length_known else None,
                is_length_known=answer.is_length_known,
                chunks=self._chunks(answer, max_bytes),
            )
        finally:
            self.open_now -= 1

    async def _chunks(self, answer: Served, max_bytes: int) -> AsyncIterator[bytes]:
        sent = 0
        for start in range(0, len(answer.data), answer.chunk_bytes):
            if answer.breaks_after is not None and sent >= answer.breaks_after:
                if answer.is_length_known:
                    raise EgressFailed("the body was cut short")
                return
            await asyncio.sleep(0)
            chunk = answer.data[start : start + answer.chunk_bytes]
            sent += len(chunk)
            self.sent_bytes += len(chunk)
            if sent > max_bytes:
                raise EgressRefused("size", "too large")
            yield chunk
