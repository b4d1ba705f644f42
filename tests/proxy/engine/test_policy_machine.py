"""The engine against a model of what policies promise: any order of requests, time, ends, faults and restarts.

``tests/fakes/policy_model.py`` is the model. Each step is done to both; what a caller gets, what is run, and what is
told of it must be what the model allows. No two outputs are alike, so that every answer says which run it comes from.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Coroutine
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from proxy.core.cache_control import parse_cache_control
from proxy.core.controls import Controls
from proxy.core.entitlement import Visitor
from proxy.core.errors import Forbidden, HotplateError, NotCached, UpstreamRefused
from proxy.core.policy import Policy, PolicyBook
from proxy.core.predictions import Prediction
from proxy.engine.coalescer import Flight
from proxy.engine.predictor import Hit
from proxy.engine.recent import Running
from proxy.policy_settings import PolicySettings
from proxy.routes.predictions import _cache_status, _hit_status
from proxy.upstreams.base import Credential, ModelDescription, ModelTarget
from storage.digest import PredictionKey
from tests.fakes.engine import OTHER_TOKEN, TOKEN, Engine
from tests.fakes.held_upstream import Ending, HeldUpstream, Service
from tests.fakes.policy_model import Doc, Place, Rules

T = TypeVar("T")

FIRST, SECOND = "1" * 64, "2" * 64
TARGETS = {
    "acme/pixel": (ModelTarget("acme", "pixel"), ("acme/pixel", FIRST, True)),
    "acme/chat": (ModelTarget("acme", "chat"), ("acme/chat", SECOND, True)),
    "acme/hidden": (ModelTarget("acme", "hidden"), ("acme/hidden", "hidden", False)),
    "deployments/acme/pixel": (ModelTarget("acme", "pixel", is_deployment=True), ("acme/pixel", "hidden", False)),
    "": (ModelTarget("", "", FIRST), ("", FIRST, True)),
}
MODELS = {
    target: ModelDescription(model, version, is_pinned=is_pinned, schema=None)
    for target, (model, version, is_pinned) in TARGETS.values()
}
TOKENS = {"mine": TOKEN, "other": OTHER_TOKEN}

_FIELDS: dict[str, list[Any]] = {
    "name": [None, None, None, "fresh", "cheap"],
    "models": [None, None, None, None, None, ["acme/pixel"], ["acme/*"], ["deployments/*", "acme/chat"]],
    "mode": [None] * 12 + ["off", "read_only", "write_only", "refresh", "observe"],
    "ttl_s": [None, 0, 50, 50, 50, 50, 100],
    "stale_while_revalidate_s": [None, 30, 100, 100],
    "stale_if_error_s": [None, 30, 300, 300],
    "ignore": [None, None, None, ["trace"]],
    "only": [None] * 5 + [["prompt"], ["prompt", "seed"]],
    "seedless": [None] * 5 + ["bypass", "pool:2", "pool:2", "pool:3"],
    "random_seeds": [None, None, [0, -1], []],
    "cache_text": [None, "on", "off"],
    "scope": [None] * 4 + ["shared", "shared", "token"],
    "forbid": [None] * 10
    + [["no-cache", "max-age"], ["no-store"], ["only-if-cached", "pool"], ["namespace", "key"], ["max-stale"]],
}
"""Values of each setting of a policy, ``None`` for leaving it out; those that a cache is seldom without come often."""

POLICIES = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in _FIELDS.items()}).map(
    lambda policy: {name: value for name, value in policy.items() if value is not None}
)
BOOKS = st.lists(POLICIES, max_size=3)

_VALUES: dict[str, list[Any]] = {
    "no-cache": ["-", None],
    "no-store": ["-", None],
    "only-if-cached": ["-", None],
    "max-age": ["-", 0, 40, 120, 10_000],
    "min-fresh": ["-", 0, 60],
    "max-stale": ["-", None, 0, 20, 500],
}
ALL_WISHES: list[Doc] = [
    {word: value for word, value in zip(_VALUES, values, strict=True) if value != "-"}
    for values in itertools.product(*_VALUES.values())
]
"""Every combination of the directives of a request."""

_SINGLE = [one for one in ALL_WISHES if len(one) == 1]
WISHES = st.sampled_from([{}] * 1500 + _SINGLE * 40 + ALL_WISHES)
EDGE_WISHES = st.sampled_from([{}] * 600 + _SINGLE * 120 + ALL_WISHES)
INPUTS: list[Doc] = [
    {"prompt": prompt, **more}
    for prompt in ("a fox", "a hare")
    for more in (
        *[{}] * 6,
        {"trace": 1},
        {"trace": 2},
        {"seed": 0},
        {"seed": 7},
        {"seed": -1},
        {"seed": 7, "trace": 1},
        {"seed": 7, "trace": 2},
        {"temperature": 0},
    )
]
REQUESTS = st.fixed_dictionaries(
    {
        "token": st.sampled_from(["mine", "mine", "mine", "other"]),
        "profile": st.sampled_from([None, None, None, None, "fresh", "cheap"]),
        "model": st.sampled_from(["acme/pixel"] * 5 + [*TARGETS]),
        "input": st.sampled_from(INPUTS),
        "namespace": st.sampled_from([""] * 8 + ["team"]),
        "key": st.sampled_from([""] * 8 + ["v2"]),
        "pool": st.sampled_from([None] * 9 + [1, 2, 4]),
        "cc": WISHES,
    }
)
STEPS_S = [0.0, 0.5, 20.0, 30.0, 40.0, 50.0, 50.5, 60.0, 75.0, 100.0, 200.0]


def edges(ttl_s: float) -> list[tuple[str, int, float]]:
    """By directive, the age at which it begins to exclude a result: sign of its seconds, and what they count from."""
    return [("max-stale", 1, ttl_s), ("min-fresh", -1, ttl_s), ("max-age", 1, 0)]


ENDINGS: list[Ending] = ["files"] * 8 + ["text", "text", "nothing", "lost file", "failed"]


def refused(status: int) -> UpstreamRefused:
    return UpstreamRefused(status, [], b"{}")


class PolicyMachine(RuleBasedStateMachine):
    """Does every step to the engine and to the model, and compares."""

    steps: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.rules = Rules([])
        self.keys: dict[bytes, Place] = {}
        self.places: dict[Place, bytes] = {}
        self.asked_before: list[Doc] = []
        self.told: dict[str, tuple[int, str]] = {}
        self.canceled: set[str] = set()
        self.former: list[Engine] = []
        self.engine = self.do(self._first())

    async def _first(self) -> Engine:
        engine = Engine()
        self.service = Service(engine.clock)
        self.attach(engine)
        self.rules.now = engine.clock.now
        return engine

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(work, 20))

    def attach(self, engine: Engine) -> None:
        """Have an engine ask the service that goes on."""
        engine.upstream = HeldUpstream(engine.clock, service=self.service, models=MODELS)
        engine.resumption._upstreams = {engine.upstream.name: engine.upstream}

    async def settle(self) -> None:
        """Let everything happen that can, and nothing more may have been run than the model says."""
        for _ in range(5000):
            if len(self.engine.coalescer) <= len(self.rules.flights) and self.service.asked >= self.rules.asked:
                break
            await asyncio.sleep(0)
        for _ in range(4):
            await asyncio.sleep(0)
        assert self.service.asked == self.rules.asked
        assert len(self.engine.coalescer) == len(self.rules.flights)
        self.name_refreshes()

    def teardown(self) -> None:
        async def stop() -> None:
            left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

        self.loop.run_until_complete(stop())
        self.loop.close()

    # -- requests -----------------------------------------------------------------------------------------

    @initialize(book=BOOKS)
    def start(self, book: list[Doc]) -> None:
        self.swap(book)

    @rule(request=REQUESTS, how=st.sampled_from([None, None, *ENDINGS]))
    def create(self, request: Doc, how: Ending | None) -> None:
        self.asked_before.append(request)
        self.ask(request)
        self.end_latest(how)

    @precondition(lambda self: self.asked_before)
    @rule(which=st.integers(0, 3), wishes=WISHES, how=st.sampled_from([None, None, *ENDINGS]))
    def ask_again(self, which: int, wishes: Doc, how: Ending | None) -> None:
        """The same as one of the last four, perhaps with other wishes: what repeats is what a cache is about."""
        self.ask({**self.asked_before[-1 - which % len(self.asked_before)], "cc": wishes})
        self.end_latest(how)

    @precondition(lambda self: self.asked_before)
    @rule(which=st.integers(0, 3), seconds=st.sampled_from(STEPS_S), wishes=WISHES)
    def ask_later(self, which: int, seconds: float, wishes: Doc) -> None:
        self.pass_time(seconds)
        self.ask({**self.asked_before[-1 - which % len(self.asked_before)], "cc": wishes})

    def end_latest(self, how: Ending | None) -> None:
        """End what was begun last, if it is to end at once."""
        if how is not None and self.rules.flights:
            self.end(max(self.rules.flights), how)

    @precondition(lambda self: self.asked_before and self.rules.refusal is None)
    @rule(which=st.integers(0, 3), count=st.integers(2, 5))
    def ask_at_once(self, which: int, count: int) -> None:
        """Several equal requests at one moment."""
        request = self.asked_before[-1 - which % len(self.asked_before)]
        PolicyMachine.steps += 1

        async def all_at_once() -> list[Hit | Running | BaseException]:
            return await asyncio.gather(*(self.send(request) for _ in range(count)), return_exceptions=True)

        answers = self.do(all_at_once())
        # Runs are begun while a place of a pool is empty; only then are some joined and results served.
        answers.sort(key=lambda one: not isinstance(one, Running) or one.is_follower)
        for answer in answers:
            self.judge(request, answer)
        self.do(self.settle())

    def ask(self, request: Doc) -> None:
        PolicyMachine.steps += 1
        try:
            answer: Hit | Running | BaseException = self.do(self.send(request))
        except HotplateError as error:
            answer = error
        self.judge(request, answer)
        self.do(self.settle())

    async def send(self, request: Doc) -> Hit | Running:
        said = ", ".join(word if value is None else f"{word}={value}" for word, value in request["cc"].items())
        controls = Controls(
            parse_cache_control(said), request["profile"], request["namespace"], request["pool"], request["key"]
        )
        target = TARGETS[request["model"]][0]
        return await self.engine.create(
            dict(request["input"]), token=TOKENS[request["token"]], controls=controls, target=target
        )

    @staticmethod
    def number_of(flight: Flight) -> int:
        assert flight.progress is not None
        assert flight.progress.upstream_id is not None
        return int(flight.progress.upstream_id.removeprefix("up-"))

    def run_of(self, entry: Running) -> int:
        return self.number_of(entry.flight)

    def judge(self, request: Doc, answer: Hit | Running | BaseException) -> None:
        plan = self.rules.plan(request)
        if "error" in plan:
            assert isinstance(answer, Forbidden)
            return
        expected = self.rules.expect(plan)
        kind = expected["kind"]
        if kind == "not cached":
            assert isinstance(answer, NotCached), (expected, answer)
        elif isinstance(answer, Hit):
            assert kind in ("hit", "hit or join", "stale"), (expected, answer)
            self.check_hit(plan, answer, expected["places"], is_stand_in=kind == "stale")
            if kind == "stale":
                self.rules.asked += 1
        elif isinstance(answer, Running):
            assert kind in ("lead", "hit or join"), (expected, answer)
            if kind == "lead":
                self.check_lead(plan, answer, expected["places"])
            else:
                self.check_join(plan, answer, expected["running"])
            self.told[answer.id] = (self.run_of(answer), request["token"])
        else:
            is_refused = kind == "error" or (kind == "lead" and self.rules.refusal is not None)
            assert isinstance(answer, UpstreamRefused), (expected, answer)
            assert is_refused, (expected, answer)
            assert answer.status == self.rules.refusal
            self.rules.asked += 1

    def place_of(self, plan: Doc, member: tuple[int, int] | None) -> Place:
        number, size = member or (0, 1)
        assert size == len(plan["places"])
        place: Place = plan["places"][number]
        return place

    def check_key(self, key: bytes, place: Place) -> None:
        """A key is a place and a place is a key: nothing ever crosses."""
        assert self.keys.setdefault(key, place) == place
        assert self.places.setdefault(place, key) == key

    def check_hit(self, plan: Doc, hit: Hit, places: list[Place], *, is_stand_in: bool) -> None:
        place = self.place_of(plan, hit.member)
        assert place in places
        self.check_key(hit.record.key, place)
        stored = self.rules.stored[place]
        run = self.service.runs[stored["run"]]
        assert hit.record.upstream_id == run.upstream_id
        assert [file.blob.digest for file in hit.record.files] in ([run.digest], [])
        if not hit.record.files:
            assert hit.record.output == run.words
        body = hit.template.fill(hit.id, hit.input_json, hit.created_at).decode()
        assert (run.digest.hex() in body) is bool(hit.record.files)
        age_s = self.rules.now - stored["at"]
        assert hit.age_s == age_s
        assert hit.ttl_s == self.rules.lifetime_s(plan) - age_s
        assert hit.grade == ("if-error" if is_stand_in else self.rules.good_for(place, plan))
        status = "Hotplate; hit" + (f"; ttl={math.floor(hit.ttl_s)}" if hit.ttl_s < math.inf else "")
        stale = {"fresh": "", "revalidate": "revalidating", "if-error": "stale-if-error"}[hit.grade]
        if len(plan["places"]) > 1:
            status += f'; detail="pool {place[1] + 1}/{len(plan["places"])}{stale and ", "}{stale}"'
        elif stale:
            status += f"; detail={stale}"
        assert _hit_status(hit).decode() == status
        if not is_stand_in and self.rules.refreshes(place, plan):
            self.rules.asked += 1
            if self.rules.refusal is None:
                self.rules.began(-1 - len(self.rules.flights), plan, place, behind=True)

    def name_refreshes(self) -> None:
        """A run that was begun behind an answer gets its number from the service when it arrives there."""
        for provisional in [number for number in self.rules.flights if number < 0]:
            flight = self.rules.flights.pop(provisional)
            key = PredictionKey(self.places[flight["place"]])
            found = self.engine.coalescer.find(key, is_refresh=True)
            assert found is not None
            number = self.number_of(found)
            assert number not in self.rules.flights
            self.rules.flights[number] = flight

    def check_lead(self, plan: Doc, entry: Running, places: list[Place | None]) -> None:
        run = self.run_of(entry)
        assert run not in self.rules.flights
        assert not entry.is_follower
        self.rules.asked += 1
        place = None
        if plan["bypass"] is None:
            place = self.place_of(plan, entry.member)
            if entry.flight.key is not None:
                self.check_key(entry.flight.key, place)
        assert place in places
        flight = self.rules.began(run, plan, place)
        assert (entry.flight.key is not None) is flight["joins"]
        flight["waits"].add(entry.id)
        assert _cache_status(entry, None, wants_new=wants_new(plan)) == self.miss_status(plan, place, "")

    def check_join(self, plan: Doc, entry: Running, places: list[Place]) -> None:
        place = self.place_of(plan, entry.member)
        assert place in places
        run = self.rules.joinable(place, is_refresh=not plan["looks"])
        assert entry.is_follower
        assert run == self.run_of(entry)
        self.rules.flights[run]["waits"].add(entry.id)
        assert _cache_status(entry, None, wants_new=wants_new(plan)) == self.miss_status(plan, place, "; collapsed")

    @staticmethod
    def miss_status(plan: Doc, place: Place | None, collapsed: str) -> str:
        if plan["bypass"] is not None:
            return f"Hotplate; fwd={'request' if plan['bypass'] == 'request' else 'bypass'}; detail={plan['bypass']}"
        assert place is not None
        size = len(plan["places"])
        where = f'; detail="pool {place[1] + 1}/{size}"' if size > 1 else ""
        why = "miss" if plan["looks"] else "request" if wants_new(plan) else "bypass"
        return f"Hotplate; fwd={why}{collapsed}{where}"

    # -- time, ends, faults -------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from(STEPS_S))
    def let_time_pass(self, seconds: float) -> None:
        self.pass_time(seconds)

    @precondition(lambda self: not self.rules.flights)
    @rule(seconds=st.sampled_from([3_700.0, 8 * 86_400.0]))
    def let_much_time_pass(self, seconds: float) -> None:
        self.told.clear()  # rows of predictions have an end of life
        self.pass_time(seconds)

    def pass_time(self, seconds: float) -> None:
        PolicyMachine.steps += 1
        self.engine.clock.advance(seconds)
        self.rules.now = self.engine.clock.now

    @precondition(lambda self: self.rules.flights)
    @rule(which=st.integers(0, 5), how=st.sampled_from(ENDINGS))
    def end_run(self, which: int, how: Ending) -> None:
        PolicyMachine.steps += 1
        self.end(self.flight(which), how)

    def end(self, number: int, how: Ending) -> None:
        waits, run = self.rules.flights[number]["waits"], self.service.runs[number]
        self.service.end(run, how, self.engine.egress)
        self.rules.ended(number, how)
        self.do(self.settle())
        for prediction_id in waits:
            self.check_end(prediction_id, number, how)

    def flight(self, which: int) -> int:
        return sorted(self.rules.flights)[which % len(self.rules.flights)]

    def visitor(self, token: str) -> Visitor:
        return self.do(self.engine.gatekeeper.recognise(self.engine.upstream, Credential(TOKENS[token])))

    def find(self, prediction_id: str, token: str) -> Prediction | None:
        visitor = self.visitor(token)
        return self.do(self.engine.views.find(prediction_id, visitor.owner, visitor.entitled))

    def check_end(self, prediction_id: str, number: int, how: Ending) -> None:
        run, token = self.service.runs[number], self.told[prediction_id][1]
        prediction = self.find(prediction_id, token)
        assert prediction is not None
        assert prediction.status == ("failed" if how == "failed" else "succeeded")
        if how == "files":
            assert run.digest.hex() in str(prediction.output)
        elif how == "text":
            assert prediction.output == run.words

    @precondition(lambda self: self.told)
    @rule(which=st.integers(0, 20))
    def look(self, which: int) -> None:
        """A prediction is its own caller's, and says what has become of it."""
        PolicyMachine.steps += 1
        prediction_id = list(self.told)[-1 - which % len(self.told)]
        number, token = self.told[prediction_id]
        assert self.find(prediction_id, "other" if token == "mine" else "mine") is None
        prediction = self.find(prediction_id, token)
        if prediction_id in self.canceled:
            assert prediction is not None
            assert prediction.status == "canceled"
        elif number in self.rules.flights:
            assert prediction is not None
            assert prediction.status in ("starting", "processing")

    @precondition(lambda self: self.rules.flights)
    @rule(which=st.integers(0, 5), who=st.integers(0, 5))
    def cancel(self, which: int, who: int) -> None:
        PolicyMachine.steps += 1
        number = self.flight(which)
        flight = self.rules.flights[number]
        if not flight["waits"]:
            return
        prediction_id = sorted(flight["waits"])[who % len(flight["waits"])]
        token = self.told[prediction_id][1]
        stranger, visitor = self.visitor("other" if token == "mine" else "mine"), self.visitor(token)
        cancel = self.engine.lives.cancel
        assert self.do(cancel(prediction_id, stranger.owner, stranger.entitled)) is None
        prediction = self.do(cancel(prediction_id, visitor.owner, visitor.entitled))
        assert prediction is not None
        assert prediction.status == "canceled"
        self.canceled.add(prediction_id)
        flight["waits"].discard(prediction_id)
        if not flight["waits"] and not flight["behind"]:
            del self.rules.flights[number]
        self.do(self.settle())
        assert self.service.runs[number].is_canceled is (number not in self.rules.flights)

    def swap(self, book: list[Doc]) -> None:
        self.rules.book = book
        self.engine.desk.book = PolicyBook(policies(book))

    def switch(self, is_bypassed: bool) -> None:
        self.rules.is_bypassed = self.engine.desk.is_bypassed = is_bypassed

    def refuse(self, status: int | None) -> None:
        self.rules.refusal = status
        self.engine.upstream.refusal = refused(status) if status is not None else None

    @rule(book=BOOKS, is_bypassed=st.sampled_from([True] + [False] * 9), status=st.sampled_from([503] + [None] * 9))
    def operate(self, book: list[Doc], is_bypassed: bool, status: int | None) -> None:
        """Other policies hold from now on, and perhaps none, and perhaps the upstream is away."""
        PolicyMachine.steps += 1
        self.swap(book)
        self.switch(is_bypassed)
        self.refuse(status)

    @precondition(lambda self: self.rules.stored)
    @rule(
        which=st.integers(0, 3),
        edge=st.sampled_from(["ttl_s", "stale_while_revalidate_s", "stale_if_error_s", *["wish"] * 3]),
        beside_s=st.sampled_from([-0.5, 0.0, 0.5]),
        wishes=EDGE_WISHES,
        status=st.sampled_from([None, None, 400, 402, 422, 429, 500, 502, 503, 504]),
    )
    def ask_at_an_edge(self, which: int, edge: str, beside_s: float, wishes: Doc, status: int | None) -> None:
        """Ask again for a stored result when a time of its policy or of the request is just over, or just not, perhaps
        while the upstream refuses."""
        stored = list(self.rules.stored.values())[-1 - which % len(self.rules.stored)]
        policy = self.rules.policy(stored["request"]) or {}
        ttl_s = policy.get("ttl_s", 0)
        ages_s = [ttl_s + (policy.get(edge, 0) if edge != "ttl_s" else 0)]
        if edge == "wish":
            ages_s += [sign * (wishes.get(word) or 0) + base_s for word, sign, base_s in edges(ttl_s) if word in wishes]
        age_s = ages_s[-1] + beside_s
        self.pass_time(max(stored["at"] + age_s - self.rules.now, 0.0))
        refusal = self.rules.refusal
        self.refuse(status)
        self.ask({**stored["request"], "cc": wishes})
        self.refuse(refusal)

    @precondition(lambda self: self.rules.flights)
    @rule(which=st.integers(0, 5), how=st.sampled_from([None, None, *ENDINGS]))
    def restart(self, which: int, how: Ending | None) -> None:
        """The process is killed, and another takes up what it left; meanwhile a run may have ended."""
        PolicyMachine.steps += 1
        ended = self.flight(which)

        async def again() -> Engine:
            engine = await self.engine.restarted(policies=policies(self.rules.book))
            for run in self.service.runs:
                run.waiter = None
            self.attach(engine)
            engine.egress.answers = self.engine.egress.answers
            if how is not None:
                self.service.end(self.service.runs[ended], how, engine.egress)
            await engine.resumption.resume()
            return engine

        self.former.append(self.engine)  # what it still waits for never comes
        self.engine = self.do(again())
        self.engine.desk.is_bypassed = self.rules.is_bypassed
        self.engine.upstream.refusal = refused(self.rules.refusal) if self.rules.refusal is not None else None
        for flight in self.rules.flights.values():
            # How words are judged is not written down with a run: the rules of the process that ends it hold.
            request = flight["plan"]["request"]
            flight["plan"] = {**flight["plan"], "policy": self.rules.policy(request) or {}}
        if how is not None:
            waits = self.rules.flights[ended]["waits"]
            self.rules.ended(ended, how)
            self.do(self.settle())
            for prediction_id in waits:
                self.check_end(prediction_id, ended, how)
        self.do(self.settle())

    @precondition(lambda self: self.rules.stored)
    @rule(which=st.integers(0, 20), how=st.sampled_from(["record", "blob"]))
    def lose(self, which: int, how: str) -> None:
        """A result is purged, or a file of it is lost: from then on it is none."""
        PolicyMachine.steps += 1
        known = [place for place in self.rules.stored if place in self.places]
        if not known:  # the key of a run that nobody may join is first seen with a hit
            return
        place = known[which % len(known)]
        run = self.service.runs[self.rules.stored[place]["run"]]
        if how == "record" or self.do(self.engine.blobs.info(run.digest)) is None:
            self.do(self.engine.storage.results.remove(PredictionKey(self.places[place])))
        else:
            self.engine.blobs.lose(run.digest)
        del self.rules.stored[place]


def wants_new(plan: Doc) -> bool:
    """Whether the request itself demands a new run."""
    return "no-cache" in plan["request"]["cc"] or plan["request"]["cc"].get("max-age") == 0


def policies(book: list[Doc]) -> list[Policy]:
    """A book as the settings read it."""
    return [PolicySettings.model_validate(one).policy() for one in book]


QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


def test_engine_agrees_with_the_model_of_policies() -> None:
    PolicyMachine.steps = 0
    run_state_machine_as_test(
        PolicyMachine,
        settings=settings(
            max_examples=60,
            stateful_step_count=60,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=QUIET,
        ),
    )
    assert PolicyMachine.steps > 1000


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_hundred_thousand_steps_find_no_disagreement() -> None:
    PolicyMachine.steps = 0
    while PolicyMachine.steps < 100_000:
        run_state_machine_as_test(
            PolicyMachine,
            settings=settings(
                max_examples=200,
                stateful_step_count=100,
                deadline=None,
                database=None,
                print_blob=True,
                suppress_health_check=QUIET,
            ),
        )
    print(f"{PolicyMachine.steps} steps, no disagreement")
