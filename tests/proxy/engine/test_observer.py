from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.errors import NotCached
from proxy.core.observing import SILENT_S, Doubt, Verdict
from proxy.core.policy import Cached, Policy
from proxy.core.predictions import Status
from proxy.engine.observer import Observer
from proxy.engine.policies import price_of
from proxy.engine.predictor import Hit
from proxy.engine.recent import Running
from proxy.engine.runs import Create
from storage.digest import Scope
from tests.fakes.engine import OTHER_TOKEN, Engine
from tests.fakes.upstreams import DELIVERY

pytestmark = pytest.mark.anyio

SEEDED = {"prompt": "a red fox", "seed": 1}


class Stand:
    """An observer over an engine, and what it tells."""

    def __init__(self, **policy: Any) -> None:
        self.engine = Engine(policies=[Policy(mode="observe", **policy)])
        self.verdicts: list[tuple[Verdict, tuple[Doubt, ...]]] = []
        self.savings: list[tuple[float, float]] = []
        self.books: list[tuple[str, str, Scope, float, int]] = []
        self.observer = Observer(
            self.engine.preparation,
            lambda verdict, doubts: self.verdicts.append((verdict, doubts)),
            lambda seconds, money: self.savings.append((seconds, money)),
            lambda upstream, model: price_of(self.engine.desk.book, model),
            self.engine.clock,
            lambda *told: self.books.append(told),
        )
        self._number = 0

    def request(self, given: Any = None, **how: Any) -> Create:
        return self.engine.request(SEEDED if given is None else given, **how)

    def prediction(self, status: Status, seconds: float = 2.0, output: Any = None, upstream_id: str = "") -> bytes:
        self._number += 1
        return orjson.dumps(
            {
                "id": upstream_id or f"run{self._number}",
                "status": status,
                "output": [f"{DELIVERY}/out-0.png"] if output is None else output,
                "metrics": {"predict_time": seconds} if status == "succeeded" else {},
            }
        )

    async def ask(self, given: Any = None, *, answer: bytes | None = None, status: int = 201, **how: Any) -> str:
        """A request that is passed on and answered; its verdict."""
        watch = self.observer.watch(self.request(given, **how))
        watch.heard(status, self.prediction("succeeded") if answer is None else answer)
        await self.observer.drain()
        return watch.detail()


async def test_second_request_would_have_hit_and_its_own_run_is_what_it_would_have_saved() -> None:
    stand = Stand(price_per_second=0.5, price_per_output=0.25)
    assert await stand.ask() == "observe would-miss"
    hit = stand.prediction("succeeded", seconds=3.0)
    assert await stand.ask(answer=hit) == "observe would-hit"
    assert stand.savings == [(3.0, 1.75)]
    upstream, model, scope, seconds, outputs = stand.books[0]
    assert (upstream, model, scope, seconds, outputs) == ("replicate", "acme/pixel", stand.request().scope, 3.0, 1)
    told = stand.observer.report()
    assert told["requests"] == 2
    assert told["would_save"]["runs"] == told["would_save"]["ends_seen"] == 1
    assert told["runs"]["seconds"] == 5.0
    assert told["models"]["acme/pixel"]["verdicts"]["would-hit"] == 1


async def test_end_is_learned_when_a_later_look_passes_by() -> None:
    stand = Stand()
    await stand.ask(answer=stand.prediction("starting", upstream_id="first"))
    assert await stand.ask(answer=stand.prediction("starting", upstream_id="second")) == "observe would-share"
    assert stand.observer.listener("unknown") is None
    for upstream_id, seconds in (("second", 4.0), ("first", 9.0)):
        heard = stand.observer.listener(upstream_id)
        assert heard is not None
        heard(404, b"{}")
        heard(200, b"nonsense")
        heard(200, stand.prediction("processing", upstream_id=upstream_id))
        heard(200, stand.prediction("succeeded", seconds, upstream_id="somebody else's"))
        await stand.observer.drain()
        assert stand.observer.listener(upstream_id) is not None
        stand.engine.clock.advance(SILENT_S - 1)
        heard(200, stand.prediction("processing", upstream_id=upstream_id))
        heard(200, stand.prediction("succeeded", seconds, upstream_id=upstream_id))
        heard(200, stand.prediction("succeeded", seconds, upstream_id=upstream_id))
        await stand.observer.drain()
        assert stand.observer.listener(upstream_id) is None
    assert stand.savings == [(4.0, 0.0)], "the first would have been made anyway"
    assert await stand.ask() == "observe would-hit"


@pytest.mark.parametrize("answer", ["failed", "canceled", "text", "refused", "unanswered"])
async def test_what_would_not_have_been_stored_is_no_hit_for_the_next(answer: str) -> None:
    stand = Stand()
    if answer == "unanswered":
        watch = stand.observer.watch(stand.request({"prompt": "x"}))
        watch.close()
        await stand.observer.drain()
        assert stand.verdicts == [("unknown", ())]
    elif answer == "refused":
        await stand.ask({"prompt": "x"}, status=422, answer=b"{}")
        assert stand.verdicts == [("refused", ())]
    elif answer == "text":
        await stand.ask({"prompt": "x"}, answer=stand.prediction("succeeded", output="words"))
    else:
        await stand.ask({"prompt": "x"}, answer=stand.prediction(answer))  # type: ignore[arg-type]
    assert await stand.ask({"prompt": "x"}) == "observe would-miss"


async def test_doubts_say_why() -> None:
    stand = Stand()
    given = {"prompt": "x", "image": "https://elsewhere.example.com/a.png"}
    for _ in range(2):
        await stand.ask(given)
    assert stand.verdicts[1] == ("would-hit-doubtful", ("seedless", "url-input"))
    assert stand.engine.egress.asked == [], "nobody is asked for the file"
    report = stand.observer.report()
    assert report["doubts"] == {"seedless": 1, "hidden-version": 0, "url-input": 1}
    assert report["would_save"]["of_these_doubtful"]["seconds"] == 2.0


async def test_policy_and_request_decide_as_they_would_with_the_cache_on() -> None:
    stand = Stand(ttl_s=10.0, pool=0)
    assert await stand.ask({"prompt": "seedless"}) == "observe would-bypass"
    assert await stand.ask(cache_control="no-store") == "observe would-bypass"
    assert await stand.ask() == "observe would-miss"
    assert await stand.ask(token=OTHER_TOKEN) == "observe would-miss", "another caller's"
    stand.engine.clock.advance(11)
    assert await stand.ask() == "observe would-miss"
    assert await stand.ask(cache_control="no-cache") == "observe would-miss"
    assert await stand.ask() == "observe would-hit"


async def test_verdict_is_not_waited_for() -> None:
    stand = Stand()
    watch = stand.observer.watch(stand.request())
    assert watch.detail() == "observe"
    watch.close()
    await stand.observer.drain()


async def test_runs_of_this_proxys_own_are_observed_by_their_flights() -> None:
    stand = Stand(price_per_second=1.0)
    for _ in range(2):
        create = stand.request()
        watch = stand.observer.watch(create)
        entry = await stand.engine.predictor.create(create)
        assert isinstance(entry, Running)
        watch.follow(entry.flight)
        watch.close()
        await entry.flight.finished(10)
        await stand.observer.drain()
    assert [verdict for verdict, _ in stand.verdicts] == ["would-miss", "would-hit"]
    assert len(stand.savings) == 1
    assert len(stand.engine.runs) == 2, "both runs were made"


async def test_simultaneous_requests_would_have_shared_one_run() -> None:
    stand = Stand()
    watches = [stand.observer.watch(stand.request()) for _ in range(5)]
    await asyncio.sleep(0)
    for watch in watches:
        watch.heard(201, stand.prediction("starting"))
    await stand.observer.drain()
    assert sorted(verdict for verdict, _ in stand.verdicts) == ["would-miss", *["would-share"] * 4]


async def test_only_the_policy_that_observes_has_requests_passed_on() -> None:
    engine = Engine(policies=[Policy(models=("other/*",), mode="observe")])
    assert not await engine.preparation.is_observed(engine.request())
    stand = Stand()
    assert await stand.engine.preparation.is_observed(stand.request())
    assert not await Engine().preparation.is_observed(Engine().request())


STEP = st.tuples(
    st.sampled_from(
        [{"prompt": "a", "seed": 1}, {"prompt": "a"}, {"prompt": "b", "seed": 1}, {"prompt": "b", "seed": -1}]
    ),
    st.sampled_from(
        [
            None,
            None,
            None,
            "no-store",
            "no-cache",
            "max-age=5",
            "min-fresh=20",
            "max-stale",
            "max-stale=3",
            "only-if-cached",
        ]
    ),
    st.sampled_from([0.0, 1.0, 4.0, 9.0, 31.0]),
    st.sampled_from(["succeeded", "succeeded", "failed"]),
)


@pytest.mark.parametrize("seedless", [1, 0])
@settings(max_examples=40, deadline=None)
@given(steps=st.lists(STEP, max_size=25))
async def test_what_is_foreseen_is_what_happens_when_the_policy_is_switched_on(seedless: int, steps: list[Any]) -> None:
    rules: dict[str, Any] = {"ttl_s": 30.0, "stale_while_revalidate_s": 0.0, "pool": seedless}
    stand, real = Stand(**rules), Engine(policies=[Policy(**rules)])
    for given_input, cache_control, pause_s, status in steps:
        stand.engine.clock.advance(pause_s)
        real.clock.advance(pause_s)
        real.upstream.status = status
        answer = stand.prediction(status)
        foreseen = await stand.ask(given_input, cache_control=cache_control, answer=answer)
        try:
            happened = await real.create(given_input, cache_control=cache_control)
        except NotCached:
            assert foreseen in ("observe would-miss", "observe would-bypass")
            continue
        if isinstance(happened, Running):
            await happened.flight.finished(10)
        assert isinstance(happened, Hit) == foreseen.startswith("observe would-hit"), (foreseen, given_input)
        if isinstance(happened, Running):
            is_bypass = not isinstance(happened.plan, Cached)
            assert foreseen == ("observe would-bypass" if is_bypass else "observe would-miss")
