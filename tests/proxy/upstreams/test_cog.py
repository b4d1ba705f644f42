"""The upstream for the user's own Cog servers, against doubles of both dialects on loopback."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from proxy.core.errors import InputInvalid, NotFound, Overloaded, UpstreamUnavailable
from proxy.upstreams import dispatcher, settling
from proxy.upstreams.base import Credential, Job, ModelDescription, ModelTarget, Outcome, Progress
from proxy.upstreams.cog import CogSpec, CogUpstream
from proxy.upstreams.cog_wire import Busy, Declined, Finished, Lost, plain_error, read_answer, tail
from proxy.upstreams.news_desk import POSTS_PATH, NewsDesk
from tests.fakes.cog_server import OPENAPI, Dialect, FakeCog, cog_servers, until
from tests.fakes.stores import MemoryKeyValue

pytestmark = pytest.mark.anyio

TARGET = ModelTarget("me", "flux")
_serials = itertools.count()


@pytest.fixture(params=["coglet", "fastapi"])
def dialect(request: pytest.FixtureRequest) -> Dialect:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let go of a deaf server soon, so that tests do not wait for it."""
    monkeypatch.setattr(settling, "LET_GO_S", 0.3)


@asynccontextmanager
async def upstream_of(
    *servers: FakeCog, memory: MemoryKeyValue | None = None, desk: NewsDesk | None = None, **spec: Any
) -> AsyncIterator[CogUpstream]:
    async with cog_servers(*servers):
        upstream = CogUpstream(CogSpec("mine", tuple(server.url for server in servers), **spec), memory, desk=desk)
        try:
            yield upstream
        finally:
            await upstream.aclose()


class Caller:
    """One run of the engine: its task, its id, and what was reported."""

    def __init__(self, upstream: CogUpstream, prompt: str, version: str, **given: Any) -> None:
        self.id = f"run{next(_serials)}"
        self.news: list[Progress] = []
        job = Job(self.id, TARGET, version, {"prompt": prompt, **given}, Credential("secret-token"))
        self.task = asyncio.create_task(upstream.run(job, self.news.append))

    async def outcome(self) -> Outcome:
        async with asyncio.timeout(30):
            return await self.task

    async def refusal(self) -> Exception:
        async with asyncio.timeout(30):
            try:
                outcome = await self.task
            except Exception as error:
                return error
            raise AssertionError(f"no error but {outcome}")


async def call(upstream: CogUpstream, prompt: str, **given: Any) -> Caller:
    described = await upstream.describe(TARGET, None)
    return Caller(upstream, prompt, described.version, **given)


async def becomes(upstream: CogUpstream, state: str) -> None:
    async def is_so() -> bool:
        return (await upstream.readiness()).state == state

    await until(is_so)


async def described_otherwise(upstream: CogUpstream, openapi: object) -> ModelDescription:
    """Wait until the model is described by another document than ``openapi``."""

    async def is_so() -> bool:
        return (await upstream.describe(TARGET, None)).openapi != openapi

    await until(is_so)
    return await upstream.describe(TARGET, None)


# -- results -------------------------------------------------------------------------------------------


async def test_a_run_gives_output_logs_and_metrics(dialect: Dialect) -> None:
    server = FakeCog(dialect)
    async with upstream_of(server) as upstream:
        caller = await call(upstream, "cat")
        outcome = await caller.outcome()
    assert outcome.status == "succeeded"
    assert outcome.output == f"data:text/plain,cat%20{server.port}"
    assert outcome.logs == "a line\n"
    assert outcome.metrics == {"predict_time": 0.01}
    assert (outcome.boot_s, outcome.download_s, outcome.attempts) == (0.0, 0.0, 1)
    assert outcome.upstream_id == caller.id == server.taken[0]
    assert outcome.started_at <= outcome.completed_at
    assert [progress.status for progress in caller.news] == ["processing"]


async def test_a_failed_run_is_an_outcome_with_the_bare_error(dialect: Dialect) -> None:
    async with upstream_of(FakeCog(dialect)) as upstream:
        outcome = await (await call(upstream, "raise")).outcome()
    assert (outcome.status, outcome.error, outcome.output) == ("failed", "ValueError: boom", None)
    assert outcome.attempts == 1


@pytest.mark.parametrize(("prompt", "output"), [("null", None), ("empty", [])])
async def test_an_output_of_nothing_is_an_output(dialect: Dialect, prompt: str, output: object) -> None:
    async with upstream_of(FakeCog(dialect)) as upstream:
        outcome = await (await call(upstream, prompt)).outcome()
    assert (outcome.status, outcome.output) == ("succeeded", output)


async def test_refused_inputs_are_told_field_by_field_and_never_repeated() -> None:
    server = FakeCog()
    async with upstream_of(server) as upstream:
        refused = await (await call(upstream, "invalid")).refusal()
    assert isinstance(refused, InputInvalid)
    assert [(field.type, field.field, field.description) for field in refused.fields] == [
        ("value_error", "input.seed", "5 is less than the minimum of 16.0"),
        ("required", "input", "prompt is required"),
    ]
    assert len(server.asked) == 1


async def test_what_does_not_speak_cog_is_an_error_and_not_a_result() -> None:
    async with upstream_of(FakeCog()) as upstream:
        assert isinstance(await (await call(upstream, "nonsense")).refusal(), UpstreamUnavailable)


async def test_no_credential_and_no_kept_connection_reach_the_server() -> None:
    server = FakeCog()
    async with upstream_of(server) as upstream:
        await (await call(upstream, "cat")).outcome()
    head = server.headers[0].lower()
    assert b"secret-token" not in head
    assert b"authorization" not in head
    assert b"connection: close" in head


async def test_questions_that_cog_does_not_know() -> None:
    server = FakeCog()
    async with upstream_of(server) as upstream:
        assert (await upstream.check(Credential("x"))).is_accepted is None
        with pytest.raises(NotFound):
            await upstream.relay(None, None)  # type: ignore[arg-type]
        assert upstream.output_access.origins == (("http", "127.0.0.1", server.port),)


# -- the line and its servers --------------------------------------------------------------------------


async def test_runs_wait_in_line_and_keep_their_order(dialect: Dialect) -> None:
    server = FakeCog(dialect)
    async with upstream_of(server) as upstream:
        callers = [await call(upstream, prompt) for prompt in ("hold", "a", "b", "c")]
        await until(lambda: server.running == 1)
        await until(lambda: len(callers[3].news) == 1)
        assert callers[3].news[0].status == "starting"
        assert not callers[3].news[0].is_booting
        server.release("hold")
        for caller in callers:
            assert (await caller.outcome()).status == "succeeded"
    assert server.prompts == ["hold", "a", "b", "c"]
    assert [progress.status for progress in callers[3].news] == ["starting", "processing"]


async def test_slots_of_a_server_are_used_and_not_exceeded() -> None:
    server = FakeCog(slots=2)
    async with upstream_of(server, slots=2) as upstream:
        callers = [await call(upstream, f"hold{number}") for number in range(3)]
        await until(lambda: server.running == 2)
        await asyncio.sleep(0.05)
        assert server.running == 2
        for number in range(3):
            server.release(f"hold{number}")
        for caller in callers:
            assert (await caller.outcome()).status == "succeeded"
    assert 409 not in server.answers


async def test_a_full_line_is_overloaded() -> None:
    server = FakeCog()
    async with upstream_of(server, queue_limit=1) as upstream:
        callers = [await call(upstream, "hold"), await call(upstream, "next")]
        await until(lambda: server.running == 1)
        await until(lambda: bool(callers[1].news))
        assert isinstance(await (await call(upstream, "too many")).refusal(), Overloaded)
        server.release("hold")
        for caller in callers:
            assert (await caller.outcome()).status == "succeeded"


async def test_a_409_just_after_a_run_is_waited_out(dialect: Dialect) -> None:
    server = FakeCog(dialect)
    async with upstream_of(server) as upstream:
        for passing in (1, 2, 4):
            server.passing_409s = passing
            assert (await (await call(upstream, "cat")).outcome()).status == "succeeded"
    assert server.answers.count(409) == 7
    assert len(server.taken) == 3


async def test_a_server_that_others_fill_is_waited_for(dialect: Dialect) -> None:
    server = FakeCog(dialect, foreign_runs=1)
    async with upstream_of(server) as upstream:
        caller = await call(upstream, "cat")
        await until(lambda: bool(caller.news))
        assert (await upstream.readiness()).servers == {f"127.0.0.1:{server.port}": "occupied by others"}
        server.foreign_runs = 0
        outcome = await caller.outcome()
    assert (outcome.status, outcome.attempts, outcome.boot_s) == ("succeeded", 1, 0.0)


async def test_a_dead_409_is_told_from_a_busy_one_by_health() -> None:
    dead, well = FakeCog(), FakeCog()
    async with upstream_of(dead, well) as upstream:
        await upstream.describe(TARGET, None)
        dead.status = "UNHEALTHY"
        callers = [await call(upstream, f"picture {number}") for number in range(4)]
        outcomes = [await caller.outcome() for caller in callers]
        assert {outcome.status for outcome in outcomes} == {"succeeded"}
        assert {outcome.attempts for outcome in outcomes} == {1}
        readiness = await upstream.readiness()
    assert readiness.state == "degraded"
    assert dead.taken == []
    assert len(dead.asked) <= 8  # never in a loop


# -- losing servers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["crash", "reset", "short"])
async def test_a_run_whose_server_dies_is_asked_once_elsewhere_and_then_fails(dialect: Dialect, prompt: str) -> None:
    servers = [FakeCog(dialect), FakeCog(dialect), FakeCog(dialect)]
    async with upstream_of(*servers) as upstream:
        outcome = await (await call(upstream, prompt)).outcome()
    assert (outcome.status, outcome.attempts) == ("failed", 2)
    assert outcome.error is not None
    assert "twice" in outcome.error
    assert sorted(len(server.taken) for server in servers) == [0, 1, 1]


async def test_one_of_three_servers_killed_in_mid_run_costs_no_result_and_no_order(dialect: Dialect) -> None:
    servers = [FakeCog(dialect), FakeCog(dialect), FakeCog(dialect)]
    async with upstream_of(*servers) as upstream:
        held = [await call(upstream, f"hold{number}") for number in range(3)]
        await until(lambda: sum(server.running for server in servers) == 3)
        waiting = [await call(upstream, f"wait{number}") for number in range(4)]
        await until(lambda: all(caller.news for caller in waiting))
        victim = next(server for server in servers if server.prompts == ["hold1"])
        others = [server for server in servers if server is not victim]
        victim.kill()

        await becomes(upstream, "degraded")

        # The first server that gets free takes the run that was lost, before any that waited.
        for server in servers:
            server.release("hold1")
        others[0].release(others[0].prompts[0])
        lost = await held[1].outcome()
        assert (lost.status, lost.attempts) == ("succeeded", 2)
        assert others[0].prompts[1] == "hold1"
        others[1].release(others[1].prompts[0])
        outcomes = [await caller.outcome() for caller in (*held, *waiting)]
        assert {outcome.status for outcome in outcomes} == {"succeeded"}
        assert [outcome.attempts for outcome in outcomes] == [1, 2, 1, 1, 1, 1, 1]
        starts = [outcome.started_at for outcome in outcomes[3:]]
        assert starts == sorted(starts)

        await victim.start()
        again = await call(upstream, "again")
        await again.outcome()
        await becomes(upstream, "warm")
        callers = [await call(upstream, f"hold{number}") for number in range(3)]
        for server in servers:
            for number in range(3):
                server.release(f"hold{number}")
        for caller in callers:
            await caller.outcome()
    assert 409 not in [status for server in servers for status in server.answers]


async def test_a_server_that_refuses_connections_does_not_count_as_asked() -> None:
    first, second = FakeCog(), FakeCog()
    async with upstream_of(first, second) as upstream:
        await upstream.describe(TARGET, None)
        first.kill()
        outcomes = [await (await call(upstream, f"p{number}")).outcome() for number in range(3)]
    assert [(outcome.status, outcome.attempts) for outcome in outcomes] == [("succeeded", 1)] * 3
    assert len(second.taken) == 3


async def test_a_lost_run_waits_for_the_only_server_to_come_back() -> None:
    server = FakeCog()
    async with upstream_of(server) as upstream:
        caller = await call(upstream, "hold")
        await until(lambda: server.running == 1)
        server.kill()
        await asyncio.sleep(0.05)
        server.release("hold")
        await server.start()
        outcome = await caller.outcome()
    assert (outcome.status, outcome.attempts) == ("succeeded", 2)


async def test_a_lost_run_fails_at_its_deadline_when_no_server_comes_back() -> None:
    server = FakeCog()
    async with upstream_of(server, deadline_s=0.8) as upstream:
        caller = await call(upstream, "hold")
        await until(lambda: server.running == 1)
        server.kill()
        outcome = await caller.outcome()
    assert outcome.status == "failed"
    assert outcome.error is not None
    assert "was lost during the run (connection lost)" in outcome.error


async def test_a_run_that_no_server_ever_took_is_no_outcome() -> None:
    server = FakeCog()
    async with upstream_of(server, deadline_s=0.5) as upstream:
        await upstream.describe(TARGET, None)
        server.kill()
        refused = await (await call(upstream, "cat")).refusal()
    assert isinstance(refused, UpstreamUnavailable)
    assert "cannot connect" in refused.detail
    assert str(server.port) not in refused.detail


async def test_a_server_started_anew_behind_our_back_ends_what_ran_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that went away without a word: no reset comes, only its health shows another start."""
    monkeypatch.setattr("proxy.upstreams.pool.WATCH_S", 0.1)
    first, second = FakeCog(), FakeCog()
    async with upstream_of(first, second) as upstream:
        caller = await call(upstream, "deaf")
        await until(lambda: first.running + second.running == 1)
        victim, other = (first, second) if first.running else (second, first)
        victim.starts += 1
        other.release("deaf")
        outcome = await caller.outcome()
        victim.release("deaf")
    assert (outcome.status, outcome.attempts) == ("succeeded", 2)


# -- starting servers ----------------------------------------------------------------------------------


async def test_a_starting_server_is_waited_for_and_the_wait_is_told_as_boot(dialect: Dialect) -> None:
    server = FakeCog(dialect, status="STARTING")
    async with upstream_of(server) as upstream:
        caller = await call(upstream, "cat")
        await until(lambda: any(progress.is_booting for progress in caller.news))
        assert (await upstream.readiness()).state == "booting"
        await asyncio.sleep(0.1)
        server.status = "READY"
        outcome = await caller.outcome()
        warm = await (await call(upstream, "dog")).outcome()
    assert outcome.status == "succeeded"
    assert 0.05 < outcome.boot_s < 20
    assert warm.boot_s == 0.0


async def test_a_server_that_begins_to_restart_under_a_request_is_waited_for() -> None:
    server = FakeCog()
    async with upstream_of(server) as upstream:
        await (await call(upstream, "cat")).outcome()
        server.status = "STARTING"  # the last look is fresh, so the run meets a 503
        caller = await call(upstream, "dog")
        await until(lambda: any(progress.is_booting for progress in caller.news))
        server.status = "READY"
        outcome = await caller.outcome()
    assert (outcome.status, outcome.attempts) == ("succeeded", 1)
    assert server.answers == [200, 503, 200]


async def test_failed_setup_everywhere_fails_the_run_with_its_logs(dialect: Dialect) -> None:
    servers = [FakeCog(dialect, status="SETUP_FAILED", setup_logs="RuntimeError: no weights here") for _ in range(2)]
    async with upstream_of(*servers) as upstream:
        outcome = await (await call(upstream, "cat")).outcome()
        assert outcome.status == "failed"
        assert outcome.error is not None
        assert "no weights here" in outcome.error
        assert (await upstream.readiness()).state == "down"
        servers[0].status = "READY"
        await asyncio.sleep(1.0)
        assert (await (await call(upstream, "cat")).outcome()).status == "succeeded"


async def test_failed_setup_at_one_server_leaves_the_others_to_work() -> None:
    broken, well = FakeCog(status="SETUP_FAILED"), FakeCog()
    async with upstream_of(broken, well) as upstream:
        for number in range(3):
            assert (await (await call(upstream, f"p{number}")).outcome()).status == "succeeded"
    assert broken.asked == []


# -- deadline and cancelling ---------------------------------------------------------------------------


async def test_the_deadline_cancels_the_run_and_frees_the_server(dialect: Dialect) -> None:
    server = FakeCog(dialect)
    async with upstream_of(server, deadline_s=0.2) as upstream:
        caller = await call(upstream, "hold")
        outcome = await caller.outcome()
        assert (outcome.status, outcome.error) == ("failed", "The run exceeded its deadline of 0.2 s.")
        assert (await (await call(upstream, "next")).outcome()).status == "succeeded"
    assert server.canceled == [caller.id]


async def test_a_server_that_does_not_let_go_is_ejected_and_comes_back_when_it_does() -> None:
    server = FakeCog("fastapi")  # goes on when the caller leaves, too
    async with upstream_of(server, deadline_s=0.2) as upstream:
        assert (await (await call(upstream, "deaf")).outcome()).status == "failed"
        await becomes(upstream, "down")
        assert "did not let go" in (await upstream.readiness()).detail
        server.release("deaf")
        await becomes(upstream, "warm")
        assert (await (await call(upstream, "next")).outcome()).status == "succeeded"


async def test_cancelling_a_running_run_cancels_it_at_the_server(dialect: Dialect) -> None:
    server = FakeCog(dialect)
    async with upstream_of(server) as upstream:
        caller = await call(upstream, "hold")
        await until(lambda: server.running == 1)
        caller.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller.task
        await until(lambda: server.running == 0)
        assert (await (await call(upstream, "next")).outcome()).status == "succeeded"
    assert server.canceled == [caller.id]


async def test_cancelling_a_run_in_line_drops_it() -> None:
    server = FakeCog()
    async with upstream_of(server) as upstream:
        first, dropped, last = [await call(upstream, prompt) for prompt in ("hold", "dropped", "last")]
        await until(lambda: bool(last.news))
        dropped.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dropped.task
        server.release("hold")
        await first.outcome()
        await last.outcome()
    assert server.prompts == ["hold", "last"]
    assert server.canceled == []


async def test_closing_fails_who_waits_and_who_runs_instead_of_leaving_them_hanging() -> None:
    server = FakeCog()
    async with upstream_of(server) as upstream:
        running, waiting = await call(upstream, "deaf"), await call(upstream, "next")
        await until(lambda: bool(waiting.news) and server.running == 1)
        await upstream.aclose()
        for caller in (running, waiting):
            outcome = await caller.outcome()
            assert (outcome.status, outcome.error) == ("failed", "The proxy is shutting down.")
        server.release("deaf")


async def test_an_answer_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.upstreams.cog_client.MAX_ANSWER_BYTES", 20)
    async with upstream_of(FakeCog()) as upstream:
        refused = await (await call(upstream, "cat")).refusal()
    assert isinstance(refused, UpstreamUnavailable)
    assert "larger than" in refused.detail


# -- news while a run goes on --------------------------------------------------------------------------

ADMIN = "http://127.0.0.1:8485"


def with_output(output: dict[str, Any]) -> dict[str, Any]:
    """The servers' document, with another kind of output."""
    return {**OPENAPI, "components": {"schemas": {**OPENAPI["components"]["schemas"], "Output": output}}}


GROWING = with_output({"type": "array", "items": {"type": "string"}, "x-cog-array-type": "iterator"})


def post(desk: NewsDesk, server: FakeCog, prompt: str, **document: Any) -> None:
    """What the server would post of the run of ``prompt``."""
    url, _ = server.wishes[prompt]
    assert url is not None
    with desk.reading(url.removeprefix(ADMIN + POSTS_PATH)) as hearing:
        hearing.take(orjson.dumps({"status": "processing", "logs": "", **document}))


async def test_logs_and_output_are_told_while_the_run_goes_on(dialect: Dialect) -> None:
    server, desk = FakeCog(dialect, openapi=GROWING), NewsDesk(ADMIN)
    async with upstream_of(server, desk=desk) as upstream:
        caller = await call(upstream, "hold")
        await until(lambda: len(caller.news) == 1)
        post(desk, server, "hold", logs="1/2\n", output=["a "])
        await until(lambda: len(caller.news) == 2)
        post(desk, server, "hold", logs="1/2\n2/2\n", output=["a ", "fox"])
        await until(lambda: len(caller.news) == 3)
        server.release("hold")
        outcome = await caller.outcome()
    assert [(each.status, each.logs, each.output) for each in caller.news] == [
        ("processing", "", None),
        ("processing", "1/2\n", ["a "]),
        ("processing", "1/2\n2/2\n", ["a ", "fox"]),
    ]
    assert len({(each.at, each.upstream_id) for each in caller.news}) == 1
    assert outcome.output != ["a ", "fox"], "the run's own answer decides"
    assert outcome.logs == "a line\n"
    assert len(desk) == 0


async def test_events_are_asked_for_as_the_dialect_and_the_schema_want_it(dialect: Dialect) -> None:
    growing, whole, desk = FakeCog(dialect, openapi=GROWING), FakeCog(dialect), NewsDesk(ADMIN)
    last = ["completed"] if dialect == "coglet" else []
    for server, events in ((growing, ["logs", "output", *last]), (whole, ["logs", *last])):
        async with upstream_of(server, desk=desk) as upstream:
            await (await call(upstream, "cat")).outcome()
        assert server.wishes["cat"][1] == events


@pytest.mark.parametrize(
    "how",
    [{}, {"desk": NewsDesk(ADMIN), "tells_progress": False}, {"desk": NewsDesk(None)}],
    ids=["no desk", "switched off", "no address"],
)
async def test_nothing_is_asked_for_without_a_desk_or_where_it_is_switched_off(how: dict[str, Any]) -> None:
    server = FakeCog()
    async with upstream_of(server, **how) as upstream:
        await (await call(upstream, "cat")).outcome()
    assert server.wishes["cat"] == (None, [])


async def test_each_asking_has_an_address_of_its_own(dialect: Dialect) -> None:
    first, second, desk = FakeCog(dialect), FakeCog(dialect), NewsDesk(ADMIN)
    async with upstream_of(first, second, desk=desk) as upstream:
        caller = await call(upstream, "hold")
        await until(lambda: len(caller.news) == 1)
        broken, other = (first, second) if first.running else (second, first)
        post(desk, broken, "hold", logs="of the first\n")
        await until(lambda: len(caller.news) == 2)
        broken.kill()
        await until(lambda: other.running == 1)
        assert other.wishes["hold"][0] != broken.wishes["hold"][0]
        with pytest.raises(NotFound):
            post(desk, broken, "hold", logs="of the first, and late\n")
        post(desk, other, "hold", logs="again\n")
        await until(lambda: caller.news[-1].logs == "again\n")
        other.release("hold")
        assert (await caller.outcome()).status == "succeeded"


async def test_logs_that_coglet_tells_beside_the_answer_of_a_failed_run_are_kept() -> None:
    server, desk = FakeCog(), NewsDesk(ADMIN)
    async with upstream_of(server, desk=desk) as upstream:
        caller = await call(upstream, "raise")
        await until(lambda: server.answers == [200])
        post(desk, server, "raise", logs="step 1\n")
        await asyncio.sleep(0.02)
        assert not caller.task.done(), "the last lines are still on their way"
        post(desk, server, "raise", logs="step 1\nstep 2\n", status="failed")
        outcome = await caller.outcome()
    assert (outcome.status, outcome.logs) == ("failed", "step 1\nstep 2\n")


async def test_failed_run_whose_webhooks_do_not_arrive_is_told_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "LAST_NEWS_S", 0.05)
    async with upstream_of(FakeCog(), desk=NewsDesk(ADMIN)) as upstream:
        outcome = await (await call(upstream, "raise")).outcome()
    assert (outcome.status, outcome.error, outcome.logs) == ("failed", "ValueError: boom", "")


async def test_logs_of_a_run_that_never_answers_are_kept(dialect: Dialect) -> None:
    server, desk = FakeCog(dialect), NewsDesk(ADMIN)
    async with upstream_of(server, desk=desk, deadline_s=0.3) as upstream:
        caller = await call(upstream, "hold")
        await until(lambda: server.taken != [])
        post(desk, server, "hold", logs="step 1\n")
        outcome = await caller.outcome()
    assert outcome.status == "failed"
    assert "deadline" in (outcome.error or "")
    assert outcome.logs == "step 1\n"


async def test_cancelled_run_has_told_everything_that_came_before(dialect: Dialect) -> None:
    server, desk = FakeCog(dialect), NewsDesk(ADMIN)
    async with upstream_of(server, desk=desk) as upstream:
        caller = await call(upstream, "hold")
        await until(lambda: server.taken != [])
        for logs in ("1\n", "1\n2\n"):
            post(desk, server, "hold", logs=logs)
            await asyncio.sleep(0.01)
        caller.task.cancel()
        await asyncio.wait({caller.task})
    assert caller.news[-1].logs == "1\n2\n"
    assert len(desk) == 0


async def test_server_that_does_not_reach_us_is_not_asked_to_tell_again(
    dialect: Dialect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """cog 0.16 sends webhooks one after another, and a run waits for each."""
    monkeypatch.setattr(dispatcher, "SURELY_HEARD_S", 0.0)
    server = FakeCog(dialect)
    async with upstream_of(server, desk=NewsDesk(ADMIN)) as upstream:
        for prompt in ("one", "two"):
            assert (await (await call(upstream, prompt)).outcome()).status == "succeeded"
    assert server.wishes["one"][0] is not None
    assert server.wishes["two"] == (None, [])


async def test_path_of_a_file_in_the_model_s_container_is_never_shown() -> None:
    """cog 0.16 tells files of an output so far by their paths."""
    uri = {"type": "array", "items": {"type": "string", "format": "uri"}, "x-cog-array-type": "iterator"}
    server, desk = FakeCog("fastapi", openapi=with_output(uri)), NewsDesk(ADMIN)
    async with upstream_of(server, desk=desk) as upstream:
        caller = await call(upstream, "hold")
        await until(lambda: len(caller.news) == 1)
        post(desk, server, "hold", logs="1\n", output=["/tmp/tmpw14fef2f/out-0.txt"])
        await until(lambda: caller.news[-1].logs == "1\n")
        assert caller.news[-1].output == []
        server.release("hold")
        await caller.outcome()


# -- what the model is ---------------------------------------------------------------------------------


async def test_describe_gives_a_pinned_version_with_schema_and_name() -> None:
    async with upstream_of(FakeCog()) as upstream:
        described = await upstream.describe(TARGET, None)
        assert described.model == "me/flux"
        assert len(described.version) == 64
        assert described.is_pinned
        assert described.schema is not None
        assert described.openapi == OPENAPI
        pinned = ModelTarget("me", "flux", described.version)
        assert await upstream.describe(pinned, None) == described
        assert (await upstream.describe(ModelTarget("me", "other"), None)).version != described.version
        with pytest.raises(NotFound):
            await upstream.describe(ModelTarget("me", "flux", "0" * 64), None)


async def test_revision_and_pinned_version_decide_the_version() -> None:
    versions = []
    for spec in ({}, {"revision": "weights-2"}, {"version": "f" * 64}):
        async with upstream_of(FakeCog(), **spec) as upstream:
            versions.append((await upstream.describe(TARGET, None)).version)
            if "version" in spec:
                assert (await (await call(upstream, "cat")).outcome()).status == "succeeded"
    assert len(set(versions)) == 3
    assert versions[2] == "f" * 64


async def test_a_server_without_a_schema_still_runs_and_is_not_pinned() -> None:
    async with upstream_of(FakeCog(openapi=None)) as upstream:
        described = await upstream.describe(TARGET, None)
        assert (described.schema, described.openapi, described.is_pinned) == (None, None, False)
        assert (await (await call(upstream, "cat")).outcome()).status == "succeeded"
    async with upstream_of(FakeCog(openapi=None), revision="r1") as upstream:
        assert (await upstream.describe(TARGET, None)).is_pinned


async def test_schema_and_names_are_known_after_a_restart_with_every_server_down() -> None:
    memory, server = MemoryKeyValue(), FakeCog()
    async with upstream_of(server, memory=memory) as upstream:
        described = await upstream.describe(TARGET, None)
        await (await call(upstream, "cat")).outcome()
    upstream = CogUpstream(CogSpec("mine", (server.url,)), memory)
    try:
        assert await upstream.describe(TARGET, None) == described
        assert await upstream.describe(ModelTarget("", "", described.version), None) == described
        with pytest.raises(NotFound):
            await upstream.describe(ModelTarget("", "", "0" * 64), None)
    finally:
        await upstream.aclose()


async def test_nothing_known_and_nobody_there_is_unavailable() -> None:
    upstream = CogUpstream(CogSpec("mine", ("http://127.0.0.1:9",)), MemoryKeyValue())
    try:
        with pytest.raises(UpstreamUnavailable):
            await upstream.describe(TARGET, None)
        assert (await upstream.readiness()).state == "down"
    finally:
        await upstream.aclose()


async def test_a_broken_memory_is_no_memory() -> None:
    memory = MemoryKeyValue()
    await memory.put("schema:mine", b"{")
    await memory.put("models:mine", b"[1")
    async with upstream_of(FakeCog(), memory=memory) as upstream:
        assert (await upstream.describe(TARGET, None)).schema is not None


def other_openapi() -> dict[str, Any]:
    changed: dict[str, Any] = orjson.loads(orjson.dumps(OPENAPI))
    changed["components"]["schemas"]["Input"]["properties"]["steps"] = {"type": "integer", "default": 4, "x-order": 2}
    return changed


async def test_a_new_start_with_another_schema_changes_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.upstreams.pool.WATCH_S", 0.05)
    server = FakeCog()
    async with upstream_of(server) as upstream:
        before = await upstream.describe(TARGET, None)
        server.openapi = other_openapi()
        await asyncio.sleep(0.2)
        assert await upstream.describe(TARGET, None) == before  # the same start, the same model
        server.starts += 1
        after = await described_otherwise(upstream, before.openapi)
        assert after.openapi == server.openapi
        assert after.version != before.version
        with pytest.raises(UpstreamUnavailable, match="replaced"):
            await Caller(upstream, "cat", before.version).outcome()
        assert (await Caller(upstream, "cat", after.version).outcome()).status == "succeeded"
    assert len(server.taken) == 1


async def test_in_a_rolling_update_runs_go_to_servers_of_their_own_build() -> None:
    old, new = FakeCog(), FakeCog(openapi=other_openapi())
    new.starts = 5
    async with upstream_of(old, new) as upstream:
        described = await described_otherwise(upstream, old.openapi)
        for number in range(3):
            assert (await Caller(upstream, f"p{number}", described.version).outcome()).status == "succeeded"
    assert (len(old.taken), len(new.taken)) == (0, 3)


# -- reading -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (409, b"", Busy),
        (500, b"Internal Server Error", Lost),
        (502, b"", Lost),
        (404, b"", Declined),
        (413, b"length limit exceeded", Declined),
        (422, b"bad webhook_events_filter", Declined),
        (200, b'{"error":"Worker crashed","status":"failed"}', Lost),
        (200, b'{"error":"Prediction failed: Worker crashed","status":"failed"}', Finished),
        (200, b'{"status":"processing"}', Declined),
        (200, b"[]", Declined),
        (200, b'{"status":"canceled","metrics":null,"logs":null,"error":null}', Finished),
    ],
)
async def test_answers_are_read_by_their_content(status: int, body: bytes, kind: type) -> None:
    assert isinstance(read_answer(status, body), kind)


async def test_error_texts_lose_prefixes_colours_and_all_but_their_end() -> None:
    assert plain_error("Prediction failed: Prediction failed: ValueError: boom") == "ValueError: boom"
    assert tail("\x1b[2mgrey\x1b[0m\n") == "grey"
    assert tail("first\n" + "x" * 50 + "\nlast", limit=20) == "…last"
