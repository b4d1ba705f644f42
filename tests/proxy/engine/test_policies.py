"""Each mode, window and control of ``docs/policies.md``, one at a time; ``test_policy_machine`` takes them together."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections import Counter
from dataclasses import replace
from itertools import count
from random import Random
from typing import Any

import pytest

from proxy.core.cache_control import parse_cache_control
from proxy.core.controls import Controls
from proxy.core.errors import (
    Forbidden,
    HotplateError,
    NotCached,
    Overloaded,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from proxy.core.policy import Bypass, Control, Policy, PolicyBook
from proxy.core.schemas import parse_schema
from proxy.engine.predictor import Hit
from proxy.engine.recent import Running
from proxy.upstreams.base import Job, ModelDescription, ModelTarget, Verdict
from storage.records import JsonValue
from tests.fakes.engine import Engine, png
from tests.fakes.upstreams import DELIVERY, VERSION

pytestmark = pytest.mark.anyio

FOX = {"prompt": "a red fox"}
SEEDED = {"prompt": "a red fox", "seed": 7}
OPENAPI = {
    "components": {
        "schemas": {
            "Input": {
                "type": "object",
                "properties": {"prompt": {"type": "string"}, "steps": {"type": "integer", "default": 4}},
            }
        }
    }
}
WINDOWS = Policy(ttl_s=100, stale_while_revalidate_s=50, stale_if_error_s=200)


def engine_with(*policies: Policy, **options: Any) -> Engine:
    """An engine whose runs draw a picture each that no other run draws."""
    engine = Engine(policies=policies, **options)
    draw_anew(engine)
    return engine


_DRAWN = count(1)
"""Of all engines: one that follows another must not draw the pictures of the former again."""


def draw_anew(engine: Engine) -> None:
    def answer(job: Job) -> JsonValue:
        number = next(_DRAWN)
        url = f"{DELIVERY}/{number}.png"
        engine.egress.serve(url, png(f"#{number:06x}"))
        return [url]

    engine.upstream.answer = answer


async def settled(engine: Engine) -> None:
    """Runs behind answers have ended."""
    while len(engine.coalescer):  # noqa: ASYNC110 - nothing announces it
        await asyncio.sleep(0)


async def made(engine: Engine, given: dict[str, Any] | None = None, **how: Any) -> str:
    """The picture of a request that must be a run of its own."""
    entry = await engine.run(given or FOX, **how)
    assert entry.flight.landed is not None
    assert entry.flight.landed.record is not None
    return entry.flight.landed.record.files[0].blob.digest.hex()


async def served(engine: Engine, given: dict[str, Any] | None = None, **how: Any) -> str:
    """The picture of a request that must be a hit."""
    return picture(await engine.create(given or FOX, **how))


def picture(answer: Hit | Running) -> str:
    assert isinstance(answer, Hit)
    return answer.record.files[0].blob.digest.hex()


# -- modes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "reason"), [("off", "off"), ("observe", "observe")])
async def test_mode_that_uses_no_cache_serves_shares_and_keeps_nothing(mode: Any, reason: str) -> None:
    engine = engine_with()
    await made(engine)
    engine.desk.book = PolicyBook([Policy(mode=mode)])
    engine.upstream.gate = asyncio.Event()
    entries = [await engine.create(FOX) for _ in range(2)]
    assert all(isinstance(entry, Running) and entry.plan == Bypass(reason) for entry in entries)  # type: ignore[arg-type]
    assert len(engine.upstream.jobs) == 3
    engine.upstream.gate.set()
    await settled(engine)
    engine.desk.book = PolicyBook()
    assert await served(engine) == await served(engine)
    assert len(engine.upstream.jobs) == 3


async def test_read_only_serves_and_shares_and_adds_nothing() -> None:
    engine = engine_with()
    first = await made(engine)
    engine.desk.book = PolicyBook([Policy(mode="read_only")])
    assert await served(engine) == first
    engine.upstream.gate = asyncio.Event()
    leader, follower = [await engine.create(SEEDED) for _ in range(2)]
    assert isinstance(leader, Running)
    assert isinstance(follower, Running)
    assert follower.flight is leader.flight
    engine.upstream.gate.set()
    await settled(engine)
    engine.upstream.gate = None
    await made(engine, SEEDED)
    assert len(engine.upstream.jobs) == 3


async def test_read_only_serves_a_stale_result_and_makes_no_run_behind_it() -> None:
    engine = engine_with()
    first = await made(engine)
    engine.desk.book = PolicyBook([Policy(mode="read_only", ttl_s=100, stale_while_revalidate_s=50)])
    engine.clock.advance(120)
    assert await served(engine) == first
    await settled(engine)
    assert len(engine.upstream.jobs) == 1


async def test_write_only_makes_a_run_for_each_request_and_the_last_one_is_kept() -> None:
    engine = engine_with(Policy(mode="write_only"))
    engine.upstream.gate = asyncio.Event()
    entries = [await engine.create(FOX) for _ in range(2)]
    assert len({id(entry.flight) for entry in entries if isinstance(entry, Running)}) == 2
    engine.upstream.gate.set()
    await settled(engine)
    last = await made(engine)
    engine.desk.book = PolicyBook()
    assert await served(engine) == last
    assert len(engine.upstream.jobs) == 3


async def test_refreshes_at_one_time_share_a_run_and_replace_the_result() -> None:
    engine = engine_with()
    first = await made(engine)
    refresh = PolicyBook([Policy(mode="refresh")])
    engine.desk.book = refresh
    engine.upstream.gate = asyncio.Event()
    one, two = [await engine.create(FOX) for _ in range(2)]
    assert isinstance(one, Running)
    assert isinstance(two, Running)
    assert one.flight is two.flight
    engine.desk.book = PolicyBook()
    assert await served(engine) == first, "while the new one is made the old one is served to others"
    engine.upstream.gate.set()
    await settled(engine)
    assert await served(engine) != first
    assert len(engine.upstream.jobs) == 2


async def test_ordinary_request_does_not_join_a_refresh_nor_a_refresh_an_ordinary_run() -> None:
    engine = engine_with(Policy(name="new", mode="refresh"))
    engine.upstream.gate = asyncio.Event()
    ordinary = await engine.create(FOX)
    refresh = await engine.create(FOX, controls=Controls(profile="new"))
    assert isinstance(ordinary, Running)
    assert isinstance(refresh, Running)
    assert ordinary.flight is not refresh.flight
    engine.upstream.gate.set()
    await settled(engine)


async def test_kill_switch_holds_from_the_next_request_on_and_what_is_stored_stays() -> None:
    engine = engine_with()
    first = await made(engine)
    engine.desk.is_bypassed = True
    assert await made(engine) != first
    engine.desk.is_bypassed = False
    assert await served(engine) == first


# -- profiles ------------------------------------------------------------------------------------------


async def test_profile_selects_its_policy_and_what_it_has_none_for_goes_by_the_others() -> None:
    engine = engine_with(Policy(name="never", models=("acme/pixel",), mode="off"), Policy(ttl_s=100))
    never = Controls(profile="never")
    first = await made(engine)
    assert await made(engine, controls=never) != first
    assert await served(engine) == first
    engine.upstream.description = ModelDescription("acme/other", "1" * 64, is_pinned=True, schema=None)
    other = await made(engine, controls=never)
    assert await served(engine, controls=never) == other
    engine.clock.advance(101)
    await made(engine, controls=never)


async def test_version_alone_is_not_cached_where_policies_differ_by_model() -> None:
    engine = engine_with(Policy(models=("acme/*",), ttl_s=5))
    first = await made(engine)
    engine.upstream.description = ModelDescription("", VERSION, is_pinned=True, schema=None)
    bare = ModelTarget("", "", VERSION)
    entry = await engine.run(FOX, target=bare)
    assert entry.plan == Bypass("unknown-model")
    engine.desk.book = PolicyBook([Policy(ttl_s=500)])
    assert await served(engine, target=bare) == first


# -- stale while a new one is made ----------------------------------------------------------------------


async def test_stale_result_is_served_at_once_and_one_run_replaces_it_however_many_ask() -> None:
    engine = engine_with(WINDOWS)
    first = await made(engine)
    engine.clock.advance(120)
    engine.upstream.gate = asyncio.Event()
    hits = await asyncio.gather(*(engine.create(FOX) for _ in range(50)))
    assert {picture(hit) for hit in hits} == {first}
    assert {hit.grade for hit in hits if isinstance(hit, Hit)} == {"revalidate"}
    assert {hit.ttl_s for hit in hits if isinstance(hit, Hit)} == {-20.0}
    await asyncio.sleep(0.01)
    assert len(engine.upstream.jobs) == 2
    engine.upstream.gate.set()
    await settled(engine)
    assert await served(engine) != first
    assert len(engine.upstream.jobs) == 2


@pytest.mark.parametrize("trouble", ["failed", "refused", "broke"])
async def test_refresh_that_goes_wrong_leaves_the_stale_result_until_its_window_is_over(trouble: str) -> None:
    engine = engine_with(Policy(ttl_s=100, stale_while_revalidate_s=50))
    first = await made(engine)
    if trouble == "failed":
        engine.upstream.status = "failed"
    elif trouble == "refused":
        engine.upstream.refusal = UpstreamRefused(402, [], b"{}")
    else:
        engine.upstream.breakdown = UpstreamUnavailable("gone")
    engine.clock.advance(120)
    assert await served(engine) == first
    await settled(engine)
    engine.clock.advance(29)
    assert await served(engine) == first
    await settled(engine)
    engine.clock.advance(2)
    engine.upstream.status, engine.upstream.refusal, engine.upstream.breakdown = "succeeded", None, None
    assert await made(engine) != first


async def test_refresh_is_taken_up_after_a_restart_and_replaces_the_result() -> None:
    engine = engine_with(WINDOWS)
    first = await made(engine)
    engine.clock.advance(120)
    engine.upstream.gate = asyncio.Event()
    assert await served(engine) == first
    await asyncio.sleep(0.01)
    again = await engine.restarted()
    again.upstream = engine.upstream.successor()
    draw_anew(again)
    again.upstream.gate = asyncio.Event()
    again.resumption._upstreams = {"replicate": again.upstream}
    await again.resumption.resume()
    assert await served(again) == first, "and no second refresh is made"
    again.upstream.gate.set()
    await settled(again)
    assert await served(again) != first
    assert again.upstream.jobs == []
    assert again.upstream.adopted == ["up-2"]


@pytest.mark.parametrize("status", [401, 403])
async def test_credential_that_is_refused_behind_an_answer_gets_no_further_hit_unasked(status: int) -> None:
    engine = engine_with(WINDOWS)
    await made(engine)
    engine.clock.advance(120)
    engine.upstream.refusal = UpstreamRefused(status, [], b"{}")
    await served(engine)
    await settled(engine)
    engine.upstream.verdict = Verdict(is_accepted=False)
    with pytest.raises(UpstreamRefused):
        await engine.create(FOX)


@pytest.mark.parametrize("is_restarted", [False, True])
async def test_refresh_is_cancelled_by_nobody(is_restarted: bool) -> None:
    """One who asks for a refresh himself joins the run, and may leave it again."""
    engine = engine_with(Policy(name="new", mode="refresh"), WINDOWS)
    first = await made(engine)
    engine.clock.advance(120)
    engine.upstream.gate = asyncio.Event()
    assert await served(engine) == first
    await asyncio.sleep(0.01)
    joined = await engine.create(FOX, controls=Controls(profile="new"))
    assert isinstance(joined, Running)
    assert joined.is_follower
    if is_restarted:
        former, engine = engine, await engine.restarted()
        engine.upstream = former.upstream.successor()
        draw_anew(engine)
        engine.upstream.gate = asyncio.Event()
        engine.resumption._upstreams = {"replicate": engine.upstream}
        await engine.resumption.resume()
    await engine.lives.cancel(joined.id, joined.scope)
    await asyncio.sleep(0.01)
    assert engine.upstream.canceled == []
    assert engine.upstream.gate is not None
    engine.upstream.gate.set()
    await settled(engine)
    assert await served(engine) != first


# -- stale if no run can be made ------------------------------------------------------------------------

PASSING = [
    UpstreamRefused(429, [], b"{}"),
    UpstreamRefused(500, [], b"{}"),
    UpstreamRefused(502, [], b"{}"),
    UpstreamRefused(503, [], b"{}"),
    UpstreamRefused(504, [], b"{}"),
    UpstreamUnavailable("nobody answers"),
    UpstreamTimeout("nor in time"),
    Overloaded("its queue is full"),
]


@pytest.mark.parametrize("error", PASSING, ids=lambda error: f"{type(error).__name__}-{error.status}")
async def test_stale_result_stands_in_where_no_run_can_be_made(error: HotplateError) -> None:
    engine = engine_with(WINDOWS)
    first = await made(engine)
    engine.clock.advance(299)
    engine.upstream.refusal = error
    hit = await engine.create(FOX)
    assert picture(hit) == first
    assert isinstance(hit, Hit)
    assert (hit.grade, hit.ttl_s) == ("if-error", -199.0)
    engine.clock.advance(2)
    with pytest.raises(type(error)):
        await engine.create(FOX)


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 422])
async def test_error_that_speaks_of_the_request_is_told(status: int) -> None:
    engine = engine_with(WINDOWS)
    await made(engine)
    engine.clock.advance(200)
    engine.upstream.refusal = UpstreamRefused(status, [], b"{}")
    with pytest.raises(UpstreamRefused):
        await engine.create(FOX)


@pytest.mark.parametrize("said", ["max-age=1000", "min-fresh=0", "max-stale=50", "no-cache"])
async def test_who_says_how_old_an_answer_may_be_hears_of_the_error(said: str) -> None:
    engine = engine_with(WINDOWS)
    await made(engine)
    engine.clock.advance(200)
    engine.upstream.refusal = UpstreamUnavailable("nobody answers")
    with pytest.raises(UpstreamUnavailable):
        await engine.create(FOX, cache_control=said)


async def test_any_answer_of_a_pool_stands_in_for_the_place_that_cannot_be_filled() -> None:
    """Which place a request was to fill is chance; whether it got an answer or an error was, too."""
    engine = engine_with(Policy(pool=3, stale_if_error_s=60))
    first = await made(engine)
    engine.upstream.refusal = UpstreamUnavailable("nobody answers")
    for _ in range(20):
        hit = await engine.create(FOX)
        assert picture(hit) == first
        assert isinstance(hit, Hit)
        assert hit.member is not None
        assert hit.member[1] == 3
    engine.desk.book = PolicyBook([Policy(pool=3)])
    with pytest.raises(UpstreamUnavailable):
        await engine.create(FOX)


# -- only if cached ------------------------------------------------------------------------------------


async def test_only_if_cached_is_a_result_or_an_error_and_never_a_run() -> None:
    engine = engine_with(WINDOWS)
    with pytest.raises(NotCached):
        await engine.create(FOX, cache_control="only-if-cached")
    first = await made(engine)
    assert await served(engine, cache_control="only-if-cached") == first
    engine.clock.advance(120)
    assert await served(engine, cache_control="only-if-cached") == first
    await asyncio.sleep(0.01)
    assert len(engine.upstream.jobs) == 1, "nor is one made behind the answer"
    for said in ("only-if-cached, no-cache", "only-if-cached, max-age=10", "only-if-cached, no-store"):
        with pytest.raises(NotCached):
            await engine.create(FOX, cache_control=said)
    engine.clock.advance(50)
    with pytest.raises(NotCached):
        await engine.create(FOX, cache_control="only-if-cached")
    assert len(engine.upstream.jobs) == 1


async def test_look_for_a_hit_alone_makes_no_run() -> None:
    engine = engine_with(WINDOWS)
    assert await engine.predictor.find_hit(engine.request(FOX)) is None
    first = await made(engine)
    engine.clock.advance(50)
    hit = await engine.predictor.find_hit(engine.request(FOX))
    assert hit is not None
    assert picture(hit) == first
    engine.clock.advance(70)
    assert await engine.predictor.find_hit(engine.request(FOX)) is None, "what needs a run behind it is no hit alone"
    await asyncio.sleep(0.01)
    assert len(engine.upstream.jobs) == 1


async def test_only_if_cached_takes_what_a_pool_has_and_does_not_wait_for_a_run() -> None:
    engine = engine_with(Policy(pool=3))
    first = await made(engine)
    engine.upstream.gate = asyncio.Event()
    await engine.create(FOX)
    assert {await served(engine, cache_control="only-if-cached") for _ in range(10)} == {first}
    engine.upstream.gate.set()
    await settled(engine)


# -- what a repeat is ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rule",
    [
        Policy(ignore=frozenset({"request_id"})),
        Policy(only=frozenset({"prompt", "seed"})),
    ],
)
async def test_field_that_does_not_matter_is_left_out_and_others_are_not(rule: Policy) -> None:
    engine = engine_with(rule)
    first = await made(engine, {**FOX, "request_id": 1})
    assert await served(engine, {**FOX, "request_id": 2}) == first
    assert await served(engine, FOX) == first
    assert await made(engine, {"prompt": "a hare", "request_id": 1}) != first
    assert engine.upstream.jobs[0].input == {**FOX, "request_id": 1}, "the model is sent all of it"


async def test_profiles_that_leave_out_other_fields_share_nothing() -> None:
    """What one of them ignores may be what tells the answers of the other apart."""
    engine = engine_with(
        Policy(name="a", ignore=frozenset({"x"})),
        Policy(name="b", ignore=frozenset({"y"})),
        Policy(name="c", only=frozenset({"prompt"})),
        Policy(name="d", ignore=frozenset({"x", "y"})),
    )
    given = {**FOX, "x": 1, "y": 2}
    pictures = [await made(engine, given, controls=Controls(profile=name)) for name in (*"abcd", None)]
    assert len(set(pictures)) == 5
    assert [await served(engine, given, controls=Controls(profile=name)) for name in (*"abcd", None)] == pictures


async def test_file_in_a_field_that_is_left_out_does_not_count_and_in_another_does() -> None:
    engine = engine_with(Policy(ignore=frozenset({"mask"})))
    red, blue = (f"data:image/png;base64,{b64encode(png(color)).decode()}" for color in ("red", "blue"))
    first = await made(engine, {**FOX, "image": red, "mask": red})
    assert await served(engine, {**FOX, "image": red, "mask": blue}) == first
    assert await made(engine, {**FOX, "image": blue, "mask": red}) != first


async def test_namespace_and_key_tell_requests_apart() -> None:
    engine = engine_with()
    both = Controls(namespace="a", key="a")
    wishes = [Controls(), Controls(namespace="a"), Controls(key="a"), both, Controls(key="b")]
    pictures = [await made(engine, controls=one) for one in wishes]
    assert len(set(pictures)) == len(wishes)
    assert [await served(engine, controls=one) for one in wishes] == pictures


async def test_tags_are_of_the_request_that_makes_the_result() -> None:
    engine = engine_with()
    await made(engine, controls=Controls(tags=("a", "b")))
    hit = await engine.create(FOX, controls=Controls(tags=("c",)))
    assert isinstance(hit, Hit)
    assert hit.record.tags == ("a", "b")


# -- what is forbidden ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "controls"),
    [
        ("no-store", Controls(parse_cache_control("no-store"))),
        ("only-if-cached", Controls(parse_cache_control("only-if-cached"))),
        ("namespace", Controls(namespace="a")),
        ("pool", Controls(pool=2)),
        ("key", Controls(key="a")),
        ("tags", Controls(tags=("a",))),
    ],
)
async def test_what_the_operator_forbids_is_refused_and_nothing_is_run(word: Control, controls: Controls) -> None:
    engine = engine_with(Policy(forbid=frozenset({word})))
    with pytest.raises(Forbidden):
        await engine.create(FOX, controls=controls)
    assert engine.upstream.jobs == []


@pytest.mark.parametrize("said", ["no-cache", "max-age=1", "min-fresh=10000"])
async def test_forbidden_wish_for_a_newer_answer_is_not_heard(said: str) -> None:
    engine = engine_with(Policy(ttl_s=100, forbid=frozenset({"no-cache", "max-age", "min-fresh"})))
    first = await made(engine)
    engine.clock.advance(50)
    assert await served(engine, cache_control=said) == first


async def test_forbidden_wish_for_a_stale_answer_is_not_heard() -> None:
    engine = engine_with(Policy(ttl_s=100, forbid=frozenset({"max-stale"})))
    first = await made(engine)
    engine.clock.advance(150)
    assert await made(engine, cache_control="max-stale") != first


# -- seeds and words -----------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [FOX, {**FOX, "seed": None}, {**FOX, "seed": -1}, {**FOX, "seed": -1.0}])
async def test_request_without_a_seed_makes_a_run_each_time_where_the_policy_says_so(given: dict[str, Any]) -> None:
    engine = engine_with(Policy(pool=0))
    assert await made(engine, given) != await made(engine, given)
    entry = await engine.run(given)
    assert entry.plan == Bypass("seedless")


@pytest.mark.parametrize("seed", [0, 7])
async def test_request_with_a_seed_is_cached_whatever_the_policy_says_of_those_without(seed: int) -> None:
    engine = engine_with(Policy(pool=0))
    assert await made(engine, {**FOX, "seed": seed}) == await served(engine, {**FOX, "seed": seed})


@pytest.mark.parametrize(
    ("cache_text", "given", "is_kept"),
    [
        ("off", SEEDED, False),
        ("on", FOX, True),
        ("deterministic", FOX, False),
        ("deterministic", SEEDED, True),
        ("deterministic", {**FOX, "seed": -1}, False),
        ("deterministic", {**FOX, "temperature": 0}, True),
        ("deterministic", {**FOX, "temperature": 0.7}, False),
    ],
)
async def test_words_are_kept_as_the_policy_says(cache_text: Any, given: dict[str, Any], is_kept: bool) -> None:
    engine = engine_with(Policy(cache_text=cache_text))
    engine.upstream.answer = lambda job: ["once ", "upon ", "a time"]
    await engine.run(given)
    assert isinstance(await engine.create(given), Hit) is is_kept


# -- pools ---------------------------------------------------------------------------------------------

CHI_SQUARED_4 = 33.38
"""With four degrees of freedom an even choice exceeds this once in a million times."""


def evenness(counts: Counter[str]) -> float:
    """Pearson's chi-squared of counts that should be equal."""
    expected = sum(counts.values()) / len(counts)
    return sum((count - expected) ** 2 / expected for count in counts.values())


@pytest.mark.parametrize("at_a_time", [1, 100])
async def test_thousand_requests_make_five_pictures_and_get_each_equally_often(at_a_time: int) -> None:
    """The seed makes the test the same each time; with any other it would fail less than once in a million times."""
    engine = engine_with(Policy(pool=5))
    engine.predictor._pick = Random(20261125).randrange
    got: Counter[str] = Counter()
    for _ in range(1000 // at_a_time):
        for answer in await asyncio.gather(*(engine.create(FOX) for _ in range(at_a_time))):
            if isinstance(answer, Running):
                landed = await answer.flight.finished(10)
                assert landed is not None
                assert landed.record is not None
                got[landed.record.files[0].blob.digest.hex()] += 1
            else:
                got[picture(answer)] += 1
    assert len(engine.upstream.jobs) == 5
    assert len(got) == 5
    assert sum(got.values()) == 1000
    assert evenness(got) < CHI_SQUARED_4


async def test_chi_squared_of_an_uneven_choice_is_noticed() -> None:
    assert evenness(Counter(dict(zip("abcde", (200, 200, 200, 200, 200), strict=True)))) == 0
    assert evenness(Counter(dict(zip("abcde", (280, 180, 180, 180, 180), strict=True)))) > CHI_SQUARED_4


@pytest.mark.parametrize("how", [{"controls": Controls(pool=3)}, {}])
async def test_three_equal_requests_at_once_get_three_pictures(how: dict[str, Any]) -> None:
    engine = engine_with(*([] if how else [Policy(pool=3)]))
    entries = await asyncio.gather(*(engine.create(FOX, **how) for _ in range(3)))
    assert {entry.member for entry in entries} == {(0, 3), (1, 3), (2, 3)}
    await settled(engine)
    assert len(engine.upstream.jobs) == 3
    assert len({await served(engine, **how) for _ in range(60)}) == 3


async def test_schema_that_is_learned_while_a_pool_fills_costs_no_run() -> None:
    """Clients ask for a version's schema after the first run; the pool was then collected once more."""
    engine = engine_with(Policy(pool=3))
    kept = {await made(engine) for _ in range(2)}
    engine.upstream.gate = asyncio.Event()
    await engine.create(FOX)
    engine.upstream.description = replace(engine.upstream.description, schema=parse_schema(OPENAPI))
    for _ in range(20):
        answer = await engine.create(FOX)
        assert picture(answer) in kept if isinstance(answer, Hit) else answer.is_follower
    engine.upstream.gate.set()
    await settled(engine)
    assert len({await served(engine) for _ in range(60)}) == 3
    assert len(engine.upstream.jobs) == 3


async def test_pool_is_filled_after_a_restart_by_the_runs_that_were_on_their_way() -> None:
    engine = engine_with(Policy(pool=5))
    kept = {await made(engine) for _ in range(2)}
    engine.upstream.gate = asyncio.Event()
    for _ in range(2):
        await engine.create(FOX)
    again = await engine.restarted()
    again.upstream = engine.upstream.successor()
    draw_anew(again)
    again.resumption._upstreams = {"replicate": again.upstream}
    await again.resumption.resume()
    await settled(again)
    await made(again)
    assert len(again.upstream.jobs) == 1
    pictures = {await served(again) for _ in range(200)}
    assert len(pictures) == 5
    assert kept < pictures


async def test_url_in_a_field_that_does_not_matter_names_nothing_that_does() -> None:
    """It bypassed the cache, though what it names could change nothing of the key."""
    engine = engine_with(Policy(ignore=frozenset({"callback"})))
    made = await engine.run({**FOX, "callback": "https://client.example/a"})
    repeat = await engine.create({**FOX, "callback": "https://client.example/b"})
    assert isinstance(repeat, Hit)
    assert repeat.record.record_id == made.flight.record_id
    assert engine.upstream.jobs[0].input["callback"] == "https://client.example/a"
    elsewhere = await engine.run({"prompt": "https://client.example/a"})
    assert elsewhere.plan == Bypass("url-input")
