"""Whatever happens in whatever order, nobody gets another caller's or another input's picture."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.errors import HotplateError, UpstreamRefused, UpstreamTimeout
from proxy.core.money import REQUESTS, Kind, Line, add_lines, earned, sum_of, total_saved
from proxy.core.outputs import decode_data_url
from proxy.core.predictions import TERMINAL, Prediction
from proxy.engine.predictor import Hit
from proxy.engine.recent import Running
from proxy.upstreams.base import Job, Verdict
from storage.errors import StorageUnavailable
from storage.records import BlobRef
from tests.fakes.engine import BASE, Engine

CALLERS = ("r8_first", "r8_second")

KINDS: dict[str, tuple[int, tuple[st.SearchStrategy[Any], ...]]] = {
    "create": (
        12,
        (st.sampled_from(CALLERS), st.integers(0, 1), st.sampled_from([None] * 4 + ["no-cache", "no-store"])),
    ),
    "turn": (5, (st.integers(1, 12),)),
    "let_go": (4, ()),
    "hold": (1, ()),
    "cancel": (2, (st.integers(0, 20),)),
    "leave": (1, (st.integers(0, 20),)),
    "wait": (1, (st.sampled_from([1.0, 200.0, 400.0, 86_400.0]),)),
    "runs": (1, (st.sampled_from(["succeeded", "succeeded", "failed", "refused", "late"]),)),
    "store": (1, (st.sampled_from(["there", "there", "away"]),)),
    "verdict": (1, (st.sampled_from([True, True, False, None]),)),
    "lose": (1, ()),
    "restart": (1, ()),
}
"""Steps of a story by name: how often each is taken, and what it is taken with."""

BAG = [kind for kind, (weight, _) in KINDS.items() for _ in range(weight)]


@st.composite
def steps(draw: st.DrawFn) -> tuple[Any, ...]:
    kind = draw(st.sampled_from(BAG))
    return (kind, *(draw(one) for one in KINDS[kind][1]))


@dataclass
class Made:
    """A create on its way or answered: who asked with what, and under which id it can be found."""

    token: str
    seed: int
    task: asyncio.Task[Hit | Running]
    prediction_id: str | None = None


@dataclass
class Story:
    """The engine and everything that has been asked of it so far.

    Attributes:
        counted: the ledger of the former processes.
        may_lack: whether the ledger may lack a run that was lost on its way.
    """

    output_urls: Literal["url", "data"]
    made: list[Made] = field(default_factory=list)
    runs: int = 0
    counted: dict[Kind, Line] = field(default_factory=dict)
    may_lack: bool = False

    def __post_init__(self) -> None:
        self.engine = Engine(base_url=BASE, output_urls=self.output_urls)
        self._prepare()

    def _prepare(self) -> None:
        self.engine.upstream.answer = self._draw
        self.engine.upstream.gate = asyncio.Event()

    def _draw(self, job: Job) -> list[str]:
        """A "picture" that says for whom it is and of what; every run draws another one."""
        self.runs += 1
        assert job.credential is not None
        text = f"{job.credential.token}|{job.input['seed']}|{self.runs}"
        return ["data:text/plain;base64," + base64.b64encode(text.encode()).decode()]

    async def play(self, step: tuple[Any, ...]) -> None:
        engine, upstream = self.engine, self.engine.upstream
        match step:
            case "create", token, seed, cache_control:
                asked = engine.create({"seed": seed}, token=token, cache_control=cache_control)
                self.made.append(Made(token, seed, asyncio.create_task(asked)))
            case "turn", times:
                for _ in range(times):
                    await asyncio.sleep(0)
            case ("let_go",):
                assert upstream.gate is not None
                upstream.gate.set()
            case ("hold",):
                if upstream.gate is None or upstream.gate.is_set():
                    upstream.gate = asyncio.Event()
            case "cancel", number:
                if (one := self._pick(number)) is not None and one.prediction_id is not None:
                    await engine.lives.cancel(one.prediction_id, engine.request(token=one.token).scope)
            case "leave", number:
                if (one := self._pick(number)) is not None:
                    one.task.cancel()
            case "wait", seconds:
                engine.clock.advance(seconds)
            case "runs", how:
                upstream.status = how if how in ("succeeded", "failed") else "succeeded"
                upstream.refusal = UpstreamRefused(401, [], b"{}") if how == "refused" else None
                upstream.breakdown = UpstreamTimeout("late") if how == "late" else None
            case "store", how:
                failure = StorageUnavailable("away") if how == "away" else None
                self.may_lack |= failure is not None
                engine.blobs.failure = engine.actions.failure = engine.ledger.failure = failure
            case "verdict", is_accepted:
                upstream.verdict = Verdict(is_accepted=is_accepted)
            case ("lose",):
                for digest in list(engine.blobs._blobs)[:1]:
                    engine.blobs.lose(digest)
            case ("restart",):
                await self._restart()
        await self._look()

    async def _restart(self) -> None:
        assert self.engine.upstream.gate is not None
        self.may_lack |= len(self.engine.coalescer) > 0  # nobody here takes up what is on its way
        await self.engine.coalescer.drain(0)
        self.engine.upstream.gate.set()
        await asyncio.gather(*(one.task for one in self.made), return_exceptions=True)
        await self.engine.coalescer.drain(5)
        await self._look()
        self._count()
        self.engine = await self.engine.restarted()
        self._prepare()

    def _count(self) -> None:
        for lines in self.engine.books.since_start().values():
            add_lines(self.counted, lines)

    def _pick(self, number: int) -> Made | None:
        return self.made[number % len(self.made)] if self.made else None

    async def _look(self) -> None:
        """Everything that can be seen now is of the one who sees it."""
        for one in self.made:
            if one.prediction_id is None and one.task.done() and not one.task.cancelled():
                await self._hear(one)
            if one.prediction_id is None:
                continue
            for token in CALLERS:
                found = await self._find(one.prediction_id, token)
                if token != one.token:
                    assert found is None
                elif found is not None:
                    await self._check(one, found.output)

    async def _find(self, prediction_id: str, token: str) -> Prediction | None:
        return await self.engine.views.find(prediction_id, self.engine.request(token=token).scope)

    async def _hear(self, one: Made) -> None:
        error = one.task.exception()
        if error is not None:
            assert isinstance(error, HotplateError)
            return
        answer = one.task.result()
        one.prediction_id = answer.id
        if isinstance(answer, Hit):
            filled = orjson.loads(answer.template.fill(answer.id, answer.input_json, answer.created_at))
            assert filled["input"] == {"seed": one.seed}
            assert filled["id"] == answer.id
            await self._check(one, filled["output"])

    async def _check(self, one: Made, output: Any) -> None:
        if output is None:
            return
        wanted = f"{one.token}|{one.seed}|".encode()
        (shown,) = output
        if shown.startswith("data:"):
            assert decode_data_url(shown).startswith(wanted)
            return
        digest_hex, seal, name = shown.removeprefix(f"{BASE}/outputs/").split("/")
        digest = self.engine.addresses.verify(digest_hex, seal, name)
        assert digest is not None
        for size_bytes in range(len(wanted), len(wanted) + 4):
            data = await self.engine.blobs.read(BlobRef(digest, size_bytes))
            if data is not None:
                assert data.startswith(wanted)
        spooled = self.engine.spool.get(digest)
        if spooled is not None:
            assert spooled.data.startswith(wanted)

    async def end(self) -> None:
        """Everybody is answered, nothing stays behind, and all ids differ."""
        assert self.engine.upstream.gate is not None
        self.engine.upstream.gate.set()
        await asyncio.gather(*(one.task for one in self.made), return_exceptions=True)
        await self.engine.coalescer.drain(5)
        await self._look()
        assert len(self.engine.coalescer) == 0
        ids = [one.prediction_id for one in self.made if one.prediction_id is not None]
        assert len(set(ids)) == len(ids)
        for one in self.made:
            found = await self._find(one.prediction_id, one.token) if one.prediction_id else None
            assert found is None or found.status in TERMINAL
        self._count()
        if not self.may_lack:
            requests = sum_of(self.counted, REQUESTS)
            assert len(ids) <= requests.number <= len(self.made)
            total = total_saved(self.counted)
            assert 0 <= earned(self.counted).number <= total.number
            assert 0 <= earned(self.counted).seconds <= total.seconds
        await self.engine.journal.drain()


async def tell(story_steps: list[tuple[Any, ...]], output_urls: Literal["url", "data"]) -> None:
    unheard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: unheard.append(context))
    story = Story(output_urls)
    for step in story_steps:
        await story.play(step)
    await story.end()
    assert unheard == []


@settings(max_examples=300, deadline=None)
@given(st.lists(steps(), min_size=4, max_size=40), st.sampled_from(["url", "data"]))
def test_nobody_ever_gets_a_picture_that_is_not_his_own(
    story_steps: list[tuple[Any, ...]], output_urls: Literal["url", "data"]
) -> None:
    with structlog.testing.capture_logs():
        asyncio.run(tell(story_steps, output_urls))
