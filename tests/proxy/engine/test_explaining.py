from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.cache_control import parse_cache_control
from proxy.core.controls import Controls
from proxy.core.errors import NotCached, NotFound
from proxy.core.policy import Policy
from proxy.engine.predictor import Hit
from proxy.engine.recent import Running
from storage.records import JsonObject
from tests.fakes.engine import OTHER_TOKEN, TOKEN, Engine

pytestmark = pytest.mark.anyio


async def test_what_would_become_of_a_request_is_what_becomes_of_it() -> None:
    engine = Engine(policies=[Policy(models=("other/*",)), Policy(models=("acme/*", "x"), ttl_s=100.0)])
    engine.upstream.gate = asyncio.Event()
    told = await engine.explainer.explain(engine.request())
    assert (told["would"], told["answers"][0]["state"]) == ("miss", "empty")
    assert told["policy"]["number"] == 2
    assert "policy 2, of no profile, is the first that matches acme/pixel: acme/*" in told["policy"]["because"]
    running = await engine.create()
    assert isinstance(running, Running)
    assert (await engine.explainer.explain(engine.request()))["would"] == "share the run that is on its way"
    engine.upstream.gate.set()
    await running.flight.finished(10)
    told = await engine.explainer.explain(engine.request())
    assert told["would"] == "hit"
    assert told["key"] == running.flight.key.hex()  # type: ignore[union-attr]
    assert told["answers"][0]["grade"] == "fresh"
    assert told["answers"][0]["fresh_for_s"] == pytest.approx(100.0)
    other = await engine.explainer.explain(engine.request(token=OTHER_TOKEN))
    assert other["would"] == "miss", "another caller's"
    wanting = await engine.explainer.explain(engine.request(cache_control="no-cache"))
    assert (wanting["would"], wanting["why"]) == ("miss", "nothing is looked up: the request demands a new run")
    engine.clock.advance(101)
    assert (await engine.explainer.explain(engine.request()))["would"] == "miss"
    only = await engine.explainer.explain(engine.request(cache_control="only-if-cached"))
    assert only["would"].startswith("error")
    assert len(engine.runs) == 1, "explaining runs nothing"


async def test_pool_is_explained_place_by_place() -> None:
    engine = Engine(policies=[Policy(pool=3)])
    await engine.run()
    told = await engine.explainer.explain(engine.request())
    assert sorted(one["state"] for one in told["answers"]) == ["empty", "empty", "stored"]
    assert told["would"] == "miss"
    assert told["seed"] == "no seed: one of 3 answers"
    await engine.run()
    await engine.run()
    assert (await engine.explainer.explain(engine.request()))["would"] == "hit"


@pytest.mark.parametrize("scope", ["token", "shared"])
async def test_what_is_stored_is_seen_whoever_shares_it(scope: str) -> None:
    """It was looked for among the results of the caller's account alone, and every other hit was foretold as a miss."""
    engine = Engine(policies=[Policy(scope=scope)])
    await engine.run()
    told = await engine.explainer.explain(engine.request())
    assert (told["would"], told["is_stored"]) == ("hit", True)
    assert isinstance(await engine.create(), Hit)
    other = await engine.explainer.explain(engine.request(token=OTHER_TOKEN))
    assert other["would"] == ("hit" if scope == "shared" else "miss")


async def test_wishes_of_the_request_are_shown_as_they_are_understood() -> None:
    engine = Engine()
    told = await engine.explainer.explain(engine.request(cache_control="max-age=0, max-stale"))
    assert told["controls"] == {"max_age_s": 0.0, "max_stale_s": "any"}
    assert (await engine.explainer.explain(engine.request()))["controls"] == {}


async def test_kill_switch_is_named() -> None:
    engine = Engine()
    engine.desk.is_bypassed = True
    told = await engine.explainer.explain(engine.request())
    assert (told["would"], told["key"]) == ("bypass", None)
    assert "kill switch" in told["why"]
    engine.desk.is_bypassed = False
    assert told["key_if_used"] == (await engine.explainer.explain(engine.request()))["key"]


async def test_secrets_and_tokens_are_not_shown() -> None:
    engine = Engine()
    made = await engine.run({"prompt": "x", "api_key": "sk-very-secret"})
    told = await engine.explainer.explain(engine.request({"prompt": "x", "api_key": "sk-very-secret"}))
    other = engine.request({"prompt": "x", "api_key": "sk-another-secret"})
    difference = await engine.explainer.compare(made_request := engine.request({"api_key": "sk-very-secret"}), other)
    for document in (told, difference, await engine.past.explain(made.id)):
        text = repr(document)
        assert "secret" not in text
        assert TOKEN not in text
    assert made_request.scope.hex() not in repr(told), "a scope is shown by its beginning"


async def test_past_prediction_hides_what_its_model_calls_secret() -> None:
    """Its name did not give it away, and the model's document was not asked."""
    engine = Engine()
    fields = {"cookie": {"type": "string", "x-cog-secret": True}}
    document: JsonObject = {"components": {"schemas": {"Input": {"properties": fields}}}}
    engine.upstream.description = replace(engine.upstream.description, openapi=document)
    made = await engine.run({"prompt": "x", "cookie": "crumbs"})
    for process in (engine, await engine.restarted()):
        process.upstream.description = engine.upstream.description
        told = await process.past.explain(made.id)
        assert told["input"]["prompt"] == "x"
        assert "crumbs" not in repr(told)


async def test_past_prediction_says_its_place_in_the_pool_and_which_policy_holds_now() -> None:
    engine = Engine(policies=[Policy(models=("acme/*",), pool=2)])
    places = {(await engine.past.explain((await engine.run()).id))["pool"] for _ in range(2)}
    assert places == {"1/2", "2/2"}
    hit = await engine.create()
    assert isinstance(hit, Hit)
    told = await engine.past.explain(hit.id)
    assert told["policy_now"] == "policy 1, of no profile, is the first that matches acme/pixel: acme/*"


async def test_past_result_says_by_which_policy_and_wishes_it_was_made_also_after_a_restart() -> None:
    policy = Policy(name="blue", models=("acme/*",), ignore=frozenset({"request_id"}))
    engine = Engine(policies=[policy])
    made = await engine.run(controls=Controls(profile="blue", namespace="team", key="variant B"))
    expected = {
        "policy": ["acme/*"],
        "profile": "blue",
        "mode": "on",
        "scope": "account",
        "ignore": ["request_id"],
        "namespace": "team",
        "extra": "variant B",
    }
    assert (await engine.past.explain(made.id))["made_by"] == expected
    again = await engine.restarted(policies=[])
    assert (await again.past.explain(made.id))["made_by"] == expected


async def test_only_if_cached_under_observe_is_refused_where_nothing_is_passed_on() -> None:
    engine = Engine(policies=[Policy(mode="observe")])
    wants_no_run = engine.request(cache_control="only-if-cached")
    assert (await engine.explainer.explain(wants_no_run))["would"] == "bypass"
    engine.upstream.kind = "cog"
    assert (await engine.explainer.explain(wants_no_run))["would"].startswith("error")


async def test_two_requests_differ_by_their_inputs_and_wishes_or_have_one_key() -> None:
    engine = Engine()
    same = await engine.explainer.compare(engine.request({"a": 1, "b": 2}), engine.request({"b": 2, "a": 1}))
    assert (same["same_key"], same["differences"]) == (True, [])
    blue = engine.request({"a": 2}, controls=Controls(namespace="blue"))
    told = await engine.explainer.compare(engine.request({"a": 1}), blue)
    assert told["same_key"] is False
    assert {one["what"]: (one["a"], one["b"]) for one in told["differences"]} == {
        "namespace": ("", "blue"),
        "input.a": (1, 2),
    }
    files = [engine.request({"image": f"data:image/png;base64,{body}"}) for body in ("AAAA", "BBBB")]
    (difference,) = (await engine.explainer.compare(*files))["differences"]
    assert difference["what"] == "bytes of input.image"


async def test_differences_are_those_that_the_key_is_made_of() -> None:
    engine = Engine(policies=[Policy(ignore=frozenset({"request_id"}))])
    a, b = engine.request({"p": 1, "request_id": "x"}), engine.request({"p": 1, "request_id": "y"})
    assert (await engine.explainer.explain(a))["keyed"] == {"p": 1}
    told = await engine.explainer.compare(a, b)
    assert (told["same_key"], told["differences"]) == (True, [])


async def test_past_predictions_say_how_they_were_answered_now_and_after_a_restart() -> None:
    engine = Engine()
    engine.upstream.gate = asyncio.Event()
    led = await engine.create(controls=Controls(tags=("t",)))
    engine.clock.advance(1)
    shared = await engine.create()
    own = await engine.create(cache_control="no-store")
    assert isinstance(led, Running)
    assert isinstance(shared, Running)
    assert isinstance(own, Running)
    assert (await engine.past.explain(led.id))["status"] == "on its way"
    engine.clock.advance(1)
    engine.upstream.gate.set()
    await asyncio.gather(*(one.flight.finished(10) for one in (led, shared, own)))
    engine.clock.advance(50)
    hit = await engine.create()
    assert isinstance(hit, Hit)
    assert (await engine.past.explain(own.id))["answered"] == "bypass: request"
    for process in (engine, await engine.restarted()):
        told = {one.id: await process.past.explain(one.id) for one in (led, shared, hit)}
        assert told[led.id]["answered"].startswith("miss")
        assert told[led.id]["tags"] == ["t"]
        assert told[shared.id]["answered"].startswith("shared")
        assert told[hit.id]["answered"] == "hit"
        assert told[hit.id]["age_then_s"] == pytest.approx(50, abs=2)
        assert told[hit.id]["key"] == led.flight.key.hex()  # type: ignore[union-attr]
    engine.clock.advance(1)
    await engine.purging.purge("all", [])
    assert "removed or replaced" in (await engine.past.explain(hit.id))["answered"]


async def test_failed_run_and_foreign_ids_are_told_apart() -> None:
    engine = Engine()
    engine.upstream.status = "failed"
    failed = await engine.run()
    again = await engine.restarted()
    told = await again.past.explain(failed.id)
    assert (told["status"], told["answered"]) == ("failed", "its run has given no result")
    for foreign in ("a" * 26, "short"):
        with pytest.raises(NotFound):
            await again.past.explain(foreign)


async def test_forbidden_wish_is_refused_as_the_create_would_be() -> None:
    engine = Engine(policies=[Policy(forbid=frozenset({"no-cache"}))])
    await engine.run()
    controls = Controls(parse_cache_control("no-cache"))
    assert (await engine.explainer.explain(engine.request(controls=controls)))["would"] == "hit"


STEP = st.tuples(
    st.sampled_from([{"prompt": "a", "seed": 1}, {"prompt": "a"}, {"prompt": "b", "seed": -1}]),
    st.sampled_from([None, None, "no-store", "no-cache", "max-age=5", "min-fresh=20", "max-stale=3", "only-if-cached"]),
    st.sampled_from([0.0, 1.0, 9.0, 31.0]),
)


@pytest.mark.parametrize("pool", [0, 1, 3])
@settings(max_examples=40, deadline=None)
@given(steps=st.lists(STEP, max_size=20))
async def test_explanation_foretells_every_request(
    pool: int, steps: list[tuple[JsonObject, str | None, float]]
) -> None:
    engine = Engine(policies=[Policy(ttl_s=30.0, stale_while_revalidate_s=5.0, pool=pool)])
    for given_input, cache_control, pause_s in steps:
        engine.clock.advance(pause_s)
        told = await engine.explainer.explain(engine.request(given_input, cache_control=cache_control))
        try:
            happened = await engine.create(given_input, cache_control=cache_control)
        except NotCached:
            assert told["would"].startswith("error")
            continue
        if isinstance(happened, Hit):
            assert told["would"].startswith("hit")
            assert happened.record.key.hex() in [one["key"] for one in told["answers"]]
            await engine.coalescer.drain(10)
            continue
        await happened.flight.finished(10)
        assert told["would"] == ("bypass" if happened.flight.key is None and told["key"] is None else "miss")
