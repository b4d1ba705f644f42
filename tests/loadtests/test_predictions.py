"""Creates and what becomes of them: waiting, deadlines, growing outputs, pages, retention."""

from __future__ import annotations

from datetime import UTC, datetime

import httpx
import pytest

from loadtests.fake_model.catalog import MODELS, File, Model, find_model
from loadtests.fake_model.process import FakeModel, fake_model
from loadtests.fake_model.world import Address, Options, World
from tests.loadtests.harness import FOX, WAIT, client_of, create, start, until

pytestmark = pytest.mark.slow

PIXEL = "/models/acme/pixel/predictions"


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.full_name)
def test_every_model_runs_and_says_its_schema(alice: httpx.Client, model: Model) -> None:
    given = {"image": "data:image/png;base64,AAAA"} if "image" in model.properties else FOX
    if "seconds" in model.properties:
        given = {**given, "seconds": 0}
    body = {"version": model.full_name if model.is_official else model.version, "input": given}
    prediction = alice.post("/predictions", json=body, headers=WAIT).json()
    assert prediction["status"] == ("failed" if model.name in ("failing", "clumsy") else "succeeded"), prediction
    assert prediction["model"] == model.full_name
    schema = alice.get(f"/models/{model.full_name}").json()["latest_version"]["openapi_schema"]
    assert set(schema["components"]["schemas"]["Input"]["properties"]) == set(model.properties)


@pytest.mark.parametrize("prefer", ["wait=0", "wait=61", "wait=100", "wait=x", "wait=-1", "respond-async, wait=0"])
def test_wait_out_of_range_is_422_and_no_run(alice: httpx.Client, fake: FakeModel, prefer: str) -> None:
    answer = alice.post(PIXEL, json={"input": FOX}, headers={"prefer": prefer})
    assert answer.status_code == 422
    assert fake.counters()["runs"] == {}


@pytest.mark.parametrize("prefer", ["wait", "wait=1", "wait=60", "respond-async, wait"])
def test_wait_in_range_answers_when_it_is_done(alice: httpx.Client, prefer: str) -> None:
    answer = alice.post(PIXEL, json={"input": FOX}, headers={"prefer": prefer})
    assert (answer.status_code, answer.json()["status"]) == (201, "succeeded")


def test_other_preferences_do_not_wait(alice: httpx.Client) -> None:
    answer = alice.post(PIXEL, json={"input": FOX}, headers={"prefer": "respond-async"})
    assert (answer.status_code, answer.json()["status"]) == (201, "starting")


def test_deadline_cancels_a_running_one(alice: httpx.Client, fake: FakeModel) -> None:
    fake.set_options(min_cancel_after_s=0)
    fake.hold()
    made = alice.post(PIXEL, json={"input": FOX}, headers={"cancel-after": "1s"}).json()
    created, deadline = (datetime.fromisoformat(made[name]) for name in ("created_at", "deadline"))
    assert (deadline - created).total_seconds() == pytest.approx(1.0)
    until(lambda: alice.get(f"/predictions/{made['id']}").json()["status"] == "canceled")
    ended = alice.get(f"/predictions/{made['id']}").json()
    assert ended["deadline"] == made["deadline"]
    assert ended["started_at"] < ended["completed_at"]


def test_deadline_before_the_start_aborts() -> None:
    with fake_model("--boot-s", "30", "--min-cancel-after-s", "0") as fake, client_of(fake) as client:
        brush = find_model("painters/brush")
        assert brush is not None
        body = {"version": brush.version, "input": FOX}
        ended = client.post("/predictions", json=body, headers={"cancel-after": "0s", **WAIT}).json()
        assert ended["status"] == "aborted"
        assert "started_at" not in ended


@pytest.mark.parametrize("text", ["4", "4s", "0m4s", "soon", "", "-5", "5 minutes"])
def test_cancel_after_that_is_too_short_or_none_is_422(alice: httpx.Client, fake: FakeModel, text: str) -> None:
    assert alice.post(PIXEL, json={"input": FOX}, headers={"cancel-after": text}).status_code == 422
    assert fake.counters()["runs"] == {}


@pytest.mark.parametrize(("text", "seconds"), [("5", 5), ("90s", 90), ("5m", 300), ("1h30m45s", 5445)])
def test_cancel_after_sets_the_deadline(alice: httpx.Client, text: str, seconds: int) -> None:
    made = alice.post(PIXEL, json={"input": FOX}, headers={"cancel-after": text, **WAIT}).json()
    created, deadline = (datetime.fromisoformat(made[name]) for name in ("created_at", "deadline"))
    assert (deadline - created).total_seconds() == pytest.approx(seconds)


def test_files_appear_one_by_one(alice: httpx.Client, fake: FakeModel) -> None:
    made = start(alice, "acme/gallery", num_outputs=4, interval=0.1)
    seen = set()

    def is_done() -> bool:
        now = alice.get(f"/predictions/{made['id']}").json()
        seen.add((now["status"], len(now["output"] or [])))
        return bool(now["status"] == "succeeded")

    until(is_done)
    assert ("succeeded", 4) in seen
    assert len(seen & {("processing", 1), ("processing", 2), ("processing", 3)}) >= 2


def test_create_may_answer_processing_with_all_files(alice: httpx.Client) -> None:
    early = create(alice, "acme/gallery", answers_early=True, linger=0.2)
    assert early["status"] == "processing"
    assert len(early["output"]) == 3
    assert "completed_at" not in early
    assert "metrics" not in early
    until(lambda: alice.get(f"/predictions/{early['id']}").json()["status"] == "succeeded")
    later = alice.get(f"/predictions/{early['id']}").json()
    assert later["output"] == early["output"]
    assert later["metrics"]["predict_time"] >= 0.2


def test_create_that_lingers_waits_for_the_end_unless_told_otherwise(alice: httpx.Client) -> None:
    assert create(alice, "acme/gallery", linger=0.1)["status"] == "succeeded"


def test_text_grows_in_polls_and_is_one_string_where_the_model_says_so(alice: httpx.Client, fake: FakeModel) -> None:
    fake.hold()
    made = start(alice, "acme/writer", seed=1, max_tokens=3)
    fake.release()
    until(lambda: alice.get(f"/predictions/{made['id']}").json()["status"] == "succeeded")
    output = alice.get(f"/predictions/{made['id']}").json()["output"]
    assert len(output) == 3
    assert all(isinstance(part, str) for part in output)
    whole = create(alice, "acme/caption", seed=1)
    assert whole["output"].startswith("a red fox: ")
    assert whole["metrics"]["output_token_count"] == len(whole["output"].split())


def test_failure_in_the_middle_keeps_what_was_there(alice: httpx.Client) -> None:
    failed = create(alice, "acme/gallery", fail_at=2)
    assert (failed["status"], failed["error"], len(failed["output"])) == ("failed", "CUDA out of memory", 2)


def test_null_is_422_where_the_schema_has_none(alice: httpx.Client) -> None:
    answer = alice.post("/models/acme/writer/predictions", json={"input": {**FOX, "interval": None}}, headers=WAIT)
    assert answer.status_code == 422


def test_large_file_has_the_size_that_was_asked_for(alice: httpx.Client, nobody: httpx.Client) -> None:
    url = create(alice, "acme/film", size_bytes=3_000_001)["output"]
    whole = nobody.get(url)
    assert whole.headers["content-type"] == "video/mp4"
    assert whole.headers["content-length"] == "3000001"
    assert len(whole.content) == 3_000_001
    assert whole.content[4:12] == b"ftypmp42"


@pytest.mark.parametrize(
    ("asked", "status", "first", "end"),
    [
        ("bytes=0-9", 206, 0, 10),
        ("bytes=10-", 206, 10, None),
        ("bytes=-7", 206, -7, None),
        ("bytes=0-999999999", 206, 0, None),
        ("bytes=999999999-", 416, 0, 0),
        ("bytes=-0", 416, 0, 0),
        ("bytes=0-1,3-4", 200, 0, None),
        ("lines=1-2", 200, 0, None),
    ],
)
def test_outputs_are_told_in_ranges(
    alice: httpx.Client, nobody: httpx.Client, asked: str, status: int, first: int, end: int | None
) -> None:
    url = create(alice, seed=1)["output"][0]
    whole = nobody.get(url)
    assert whole.headers["accept-ranges"] == "bytes"
    part = nobody.get(url, headers={"range": asked})
    assert part.status_code == status
    assert part.content == whole.content[first:end]
    changed = nobody.get(url, headers={"range": "bytes=0-9", "if-range": '"other"'})
    assert (changed.status_code, changed.content) == (200, whole.content)


def test_head_of_an_output_has_its_length(alice: httpx.Client, nobody: httpx.Client) -> None:
    url = create(alice)["output"][0]
    head = nobody.head(url)
    assert head.headers["content-length"] == str(len(nobody.get(url).content))
    assert head.content == b""


def test_pages_can_be_bounded_in_time_and_keep_the_bounds(alice: httpx.Client, fake: FakeModel) -> None:
    fake.set_options(page_size=1)
    create(alice)
    after = datetime.now(UTC).isoformat()
    made = [create(alice)["id"] for _ in range(2)]
    before = datetime.now(UTC).isoformat()
    create(alice)
    page = alice.get("/predictions", params={"created_after": after, "created_before": before}).json()
    assert [each["id"] for each in page["results"]] == [made[1]]
    following = alice.get(page["next"]).json()
    assert [each["id"] for each in following["results"]] == [made[0]]
    assert following["next"] is None
    assert alice.get(following["previous"]).json()["results"] == page["results"]
    assert alice.get("/predictions", params={"source": "web"}).json()["results"] == []
    assert alice.get("/predictions", params={"created_after": "yesterday"}).status_code == 422
    assert alice.get("/predictions", params={"source": "moon"}).status_code == 422
    assert alice.get("/predictions", params={"cursor": "nonsense"}).status_code == 400


def test_pages_stay_whole_while_predictions_are_made(alice: httpx.Client, fake: FakeModel) -> None:
    fake.set_options(page_size=2)
    made = [create(alice)["id"] for _ in range(4)]
    page = alice.get("/predictions").json()
    create(alice)
    assert [each["id"] for each in alice.get(page["next"]).json()["results"]] == made[1::-1]


def test_expiring_ends_outputs_data_and_streams_at_once(
    alice: httpx.Client, fake: FakeModel, nobody: httpx.Client
) -> None:
    old = create(alice)
    fake.expire()
    new = create(alice)
    gone = alice.get(f"/predictions/{old['id']}").json()
    assert (gone["data_removed"], gone["input"], gone["output"], gone["logs"]) == (True, {}, None, "")
    assert gone["status"] == "succeeded"
    assert nobody.get(old["output"][0]).status_code == 404
    assert nobody.get(old["urls"]["stream"]).status_code == 404
    assert alice.get(f"/predictions/{new['id']}").json() == new
    assert nobody.get(new["output"][0]).status_code == 200


def test_new_version_makes_another_picture(alice: httpx.Client, fake: FakeModel, nobody: httpx.Client) -> None:
    def drawn() -> bytes:
        return nobody.get(create(alice, "acme/single", seed=1)["output"]).content

    before = drawn()
    assert drawn() == before
    latest = alice.get("/models/acme/single").json()["latest_version"]["id"]
    assert fake.publish_version("acme/single") != latest
    assert drawn() != before
    with pytest.raises(httpx.HTTPStatusError):
        fake.publish_version("nobody/nothing")


def test_creates_beyond_the_rate_limit_are_429_until_the_window_ends(
    alice: httpx.Client, bob: httpx.Client, fake: FakeModel
) -> None:
    fake.set_options(rate_limit=2, rate_window_s=2.0)
    answers = [alice.post(PIXEL, json={"input": FOX}) for _ in range(3)]
    assert [each.status_code for each in answers] == [201, 201, 429]
    assert [each.headers["ratelimit-remaining"] for each in answers] == ["1", "0", "0"]
    refused = answers[2]
    seconds = refused.headers["retry-after"]
    assert seconds == refused.headers["ratelimit-reset"]
    assert 1 <= int(seconds) <= 2
    detail = f"Request was throttled. Your rate limit resets in ~{seconds}s."
    assert refused.json() == {"detail": detail, "status": 429}
    assert bob.post(PIXEL, json={"input": FOX}).status_code == 201
    assert fake.counters()["runs"] == {"acme/pixel": 3}
    assert fake.counters()["throttled"] == 1
    until(lambda: alice.post(PIXEL, json={"input": FOX}).status_code == 201)


def test_account_without_credit_gets_402_and_no_run(alice: httpx.Client, bob: httpx.Client, fake: FakeModel) -> None:
    fake.set_options(poor=["alice"])
    answer = alice.post(PIXEL, json={"input": FOX})
    assert (answer.status_code, answer.json()["title"]) == (402, "Insufficient credit")
    assert bob.post(PIXEL, json={"input": FOX}).status_code == 201
    assert fake.counters()["runs"] == {"acme/pixel": 1}


@pytest.mark.parametrize("options", [{"no_such": 1}, {"accounts": {}}, {"page_size": "many"}, {"fetch_ca": "x"}])
def test_options_that_cannot_be_changed_are_refused(fake: FakeModel, options: dict[str, object]) -> None:
    with pytest.raises(httpx.HTTPStatusError):
        fake.set_options(**options)


def test_expired_bytes_are_let_go() -> None:
    """A long load would else hold every file that was ever made."""
    world = World(Options(output_ttl_s=0.0))
    held = [world.publish([File("a.png", b"a")]) for _ in range(3)]
    assert len(world.outputs) == 1
    assert held[0] == [Address(held[0][0].path)]
    kept = world.publish(File("b.png", b"b"), is_kept=True)
    assert world.find_output(kept.path) is not None
